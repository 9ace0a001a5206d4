-- What comparing rows with the backend needs.
ALTER TABLE deployment ADD COLUMN surveyed_epoch bigint NOT NULL DEFAULT 0;  -- the last in which all was compared
ALTER TABLE deployment ADD COLUMN settled_epoch bigint NOT NULL DEFAULT 0;   -- the last whose recovery has ended
ALTER TABLE deployment ADD COLUMN complete_since bigint;                     -- since when all leases granted are known
ALTER TABLE shares ADD COLUMN lost_at bigint;                                -- of lost shares
ALTER TABLE garbage ADD COLUMN upload_id uuid;                               -- the upload that was given up with it

-- Storage indexes that were settled in an epoch. Of older ones until the next reconcile in normal mode.
CREATE TABLE recovered (
  si uuid PRIMARY KEY,
  epoch bigint NOT NULL
);

-- Parts of a reconcile run.
CREATE TABLE crawl_units (
  run_id bigint NOT NULL,
  prefix text NOT NULL,                   -- base32: all storage indexes that begin with it
  state smallint NOT NULL DEFAULT 0 CHECK (state BETWEEN 0 AND 2),  -- 0 to be done, 1 done, 2 failed
  claimed_until bigint NOT NULL DEFAULT 0,
  worker uuid,
  reason text NOT NULL DEFAULT '',        -- why it failed
  PRIMARY KEY (run_id, prefix)
);
