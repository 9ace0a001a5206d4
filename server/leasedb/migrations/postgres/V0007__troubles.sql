-- What is wrong with shares, for people to look at.
-- Objects that no row names and that cannot be read or used: shares of type corrupted. Found anew by each reconcile run.
CREATE TABLE damaged_objects (
  si uuid NOT NULL,
  seen_at bigint NOT NULL,  -- last
  shnum smallint NOT NULL,
  object text NOT NULL,     -- its name
  reason text NOT NULL,
  PRIMARY KEY (si, object)
);
CREATE INDEX shares_lost ON shares (si, shnum) WHERE state = 3;  -- lists of lost shares
