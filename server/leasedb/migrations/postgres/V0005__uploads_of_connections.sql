-- Uploads that end with a connection of their client; NULL: with none.
ALTER TABLE uploads
  ADD COLUMN tub_id bytea CHECK (octet_length(tub_id) = 20),  -- whose certificate was proven
  ADD COLUMN connection_id uuid,
  ADD COLUMN incarnation text;                                -- which run of the client, for people
CREATE INDEX uploads_by_tub ON uploads (tub_id) WHERE tub_id IS NOT NULL;  -- what a dead connection left
