-- What is wrong with shares, for people to look at.
-- Objects that no row names and that cannot be read or used: shares of type corrupted. Found anew by each reconcile run.
CREATE TABLE damaged_objects (
  si BLOB NOT NULL,
  shnum INTEGER NOT NULL,
  object TEXT NOT NULL,     -- its name
  reason TEXT NOT NULL,
  seen_at INTEGER NOT NULL, -- last
  PRIMARY KEY (si, object)
) STRICT, WITHOUT ROWID;
CREATE INDEX shares_lost ON shares (si, shnum) WHERE state = 3;  -- lists of lost shares
