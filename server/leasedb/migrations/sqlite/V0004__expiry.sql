-- Leases that end, shares that nobody leases, and what is needed to put both back.
-- No lease ends for so many days after a use; -1: never; NULL: as granted.
ALTER TABLE accounts ADD COLUMN keep_days INTEGER CHECK (keep_days >= -1);
ALTER TABLE accounts ADD COLUMN thawed_at INTEGER;   -- last resumed
ALTER TABLE accounts ADD COLUMN release_at INTEGER;  -- of a closed account: its leases end then at the latest

-- Leases that were removed, for as long as that can be undone.
CREATE TABLE expired_leases (
  run_id INTEGER NOT NULL,     -- the run that removed it, which may be forgotten by now
  si BLOB NOT NULL CHECK (length(si) = 16),
  shnum INTEGER NOT NULL,
  account_id INTEGER NOT NULL,
  renewed_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  removed_at INTEGER NOT NULL,
  PRIMARY KEY (run_id, si, shnum, account_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX expired_leases_by_time ON expired_leases (removed_at);  -- purge

-- Shares that lost their last lease. Those that have one again are found out when their turn comes.
CREATE TABLE unleased (
  si BLOB NOT NULL CHECK (length(si) = 16),
  shnum INTEGER NOT NULL,
  since INTEGER NOT NULL,
  PRIMARY KEY (si, shnum)
) STRICT, WITHOUT ROWID;

ALTER TABLE garbage ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;  -- container length of the share that was removed
ALTER TABLE garbage ADD COLUMN undo BLOB;                         -- the share, its slot and its leases
CREATE INDEX garbage_retired ON garbage (not_before) WHERE reason = 1;  -- what went lately
