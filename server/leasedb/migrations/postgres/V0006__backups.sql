-- What makes deletion wait for backups.
-- When the newest complete backup began; NULL: there never was one.
ALTER TABLE deployment ADD COLUMN backed_up_until bigint;
-- When a row was made. Of rows from before it is not known: as late as can be, so that they wait for the next backup.
-- Processes that do not know the column yet leave it to the default.
ALTER TABLE garbage ADD COLUMN created_at bigint NOT NULL DEFAULT extract(epoch FROM now())::bigint;
