-- Uploads that end with a connection of their client; NULL: with none.
ALTER TABLE uploads ADD COLUMN tub_id BLOB CHECK (length(tub_id) = 20);            -- whose certificate was proven
ALTER TABLE uploads ADD COLUMN connection_id BLOB CHECK (length(connection_id) = 16);
ALTER TABLE uploads ADD COLUMN incarnation TEXT;                                   -- which run of the client, for people
CREATE INDEX uploads_by_tub ON uploads (tub_id) WHERE tub_id IS NOT NULL;  -- what a dead connection left
