-- Runs of jobs. Ended ones are kept for a while.
CREATE TABLE runs (
  run_id INTEGER PRIMARY KEY AUTOINCREMENT,               -- newest last
  kind INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 4),     -- 0 expire, 1 collect, 2 reconcile, 3 audit, 4 backup
  state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 4),   -- 0 running, 1 done, 2 braked, 3 failed, 4 abandoned
  -- 0 no; 1 the next of this kind may pass the brakes; 2 this one may
  permission INTEGER NOT NULL CHECK (permission BETWEEN 0 AND 2),
  dry_run INTEGER NOT NULL CHECK (dry_run IN (0, 1)),
  policy TEXT NOT NULL,
  started_at INTEGER NOT NULL,
  alive_at INTEGER NOT NULL,
  finished_at INTEGER,
  totals TEXT NOT NULL,                                   -- a line NAME NUMBER each
  reason TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX runs_one_running ON runs (kind) WHERE state = 0;
CREATE INDEX runs_by_kind ON runs (kind, run_id);         -- the last one, and what is kept
