-- What makes deletion wait for backups.
-- When the newest complete backup began; NULL: there never was one.
ALTER TABLE deployment ADD COLUMN backed_up_until INTEGER;
-- When a row was made. Of rows from before it is not known: as late as can be, so that they wait for the next backup.
ALTER TABLE garbage ADD COLUMN created_at INTEGER NOT NULL DEFAULT 0;
UPDATE garbage SET created_at = CAST(strftime('%s', 'now') AS INTEGER);
