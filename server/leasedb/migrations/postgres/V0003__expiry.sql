-- Leases that end, shares that nobody leases, and what is needed to put both back.
ALTER TABLE accounts
  ADD COLUMN keep_days int CHECK (keep_days >= -1),  -- no lease ends for so many days after a use; -1: never; NULL: as granted
  ADD COLUMN thawed_at bigint,                       -- last resumed
  ADD COLUMN release_at bigint;                      -- of a closed account: its leases end then at the latest

-- Leases that were removed, for as long as that can be undone.
CREATE TABLE expired_leases (
  si uuid NOT NULL,
  run_id bigint NOT NULL,      -- the run that removed it, which may be forgotten by now
  removed_at bigint NOT NULL,
  renewed_at bigint NOT NULL,
  expires_at bigint NOT NULL,
  account_id int NOT NULL,
  shnum smallint NOT NULL,
  PRIMARY KEY (run_id, si, shnum, account_id)
);
CREATE INDEX expired_leases_by_time ON expired_leases (removed_at);  -- purge

-- Shares that lost their last lease. Those that have one again are found out when their turn comes.
CREATE TABLE unleased (
  si uuid NOT NULL,
  since bigint NOT NULL,
  shnum smallint NOT NULL,
  PRIMARY KEY (si, shnum)
);

ALTER TABLE garbage
  ADD COLUMN bytes bigint NOT NULL DEFAULT 0,  -- container length of the share that was removed
  ADD COLUMN undo bytea;                       -- the share, its slot and its leases
CREATE INDEX garbage_retired ON garbage (not_before) WHERE reason = 1;  -- what went lately
