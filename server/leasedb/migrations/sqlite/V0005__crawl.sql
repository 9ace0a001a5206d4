-- What comparing rows with the backend needs.
ALTER TABLE deployment ADD COLUMN surveyed_epoch INTEGER NOT NULL DEFAULT 0;  -- the last in which all was compared
ALTER TABLE deployment ADD COLUMN settled_epoch INTEGER NOT NULL DEFAULT 0;   -- the last whose recovery has ended
ALTER TABLE deployment ADD COLUMN complete_since INTEGER;                     -- since when all leases granted are known
ALTER TABLE shares ADD COLUMN lost_at INTEGER;                                -- of lost shares
ALTER TABLE garbage ADD COLUMN upload_id BLOB;                                -- the upload that was given up with it

-- Storage indexes that were settled in an epoch. Of older ones until the next reconcile in normal mode.
CREATE TABLE recovered (
  si BLOB PRIMARY KEY CHECK (length(si) = 16),
  epoch INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Parts of a reconcile run.
CREATE TABLE crawl_units (
  run_id INTEGER NOT NULL,
  prefix TEXT NOT NULL,                   -- base32: all storage indexes that begin with it
  state INTEGER NOT NULL DEFAULT 0 CHECK (state BETWEEN 0 AND 2),  -- 0 to be done, 1 done, 2 failed
  claimed_until INTEGER NOT NULL DEFAULT 0,
  worker BLOB,
  reason TEXT NOT NULL DEFAULT '',        -- why it failed
  PRIMARY KEY (run_id, prefix)
) STRICT, WITHOUT ROWID;
