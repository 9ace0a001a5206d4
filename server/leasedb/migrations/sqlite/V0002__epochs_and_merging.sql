-- What a lease database needs to notice that it is older than its backend, and to merge pieces.
ALTER TABLE deployment ADD COLUMN epoch INTEGER NOT NULL DEFAULT 1;  -- +1 with every restore and every loss of commits
ALTER TABLE deployment ADD COLUMN mode INTEGER NOT NULL DEFAULT 0 CHECK (mode IN (0, 1));  -- 0 normal, 1 recovery

CREATE TABLE beats (
  singleton INTEGER PRIMARY KEY CHECK (singleton = 1),
  beat INTEGER NOT NULL,
  nonces BLOB NOT NULL,      -- of the last beats, 16 bytes each, oldest first
  beat_at INTEGER NOT NULL
) STRICT;
INSERT INTO beats VALUES (1, 0, x'', 0);

-- Times within which acknowledged commits may be missing.
CREATE TABLE losses (
  epoch INTEGER PRIMARY KEY,  -- that began with it
  from_at INTEGER NOT NULL,   -- the last beat that survived
  to_at INTEGER NOT NULL      -- when the loss was noticed
) STRICT;

-- Finished shares in several objects, to be merged when they have rested.
CREATE TABLE scattered (
  si BLOB NOT NULL,
  shnum INTEGER NOT NULL,
  due_at INTEGER NOT NULL,
  claimed_until INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (si, shnum)
) STRICT, WITHOUT ROWID;
CREATE INDEX scattered_due ON scattered (due_at);  -- claims
