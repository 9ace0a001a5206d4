-- Times are whole seconds since 1970, UTC. Sizes are bytes. Storage indexes, ids, tokens and hashes are raw bytes.

-- One row: what the database as a whole is.
CREATE TABLE deployment (
  singleton INTEGER PRIMARY KEY CHECK (singleton = 1),
  deployment_id BLOB NOT NULL CHECK (length(deployment_id) = 16),  -- random, for ever
  accounts_version INTEGER NOT NULL                                -- +1 with every change of accounts or credentials
) STRICT;
INSERT INTO deployment VALUES (1, randomblob(16), 1);

CREATE TABLE accounts (
  account_id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never reused: object names carry it
  name TEXT NOT NULL,
  state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 3),  -- 0 active, 1 read-only, 2 suspended, 3 closed
  quota_bytes INTEGER CHECK (quota_bytes >= 0),          -- NULL: no limit
  lease_days INTEGER NOT NULL,                           -- granted by a renewal where more than 31
  message TEXT NOT NULL,                                 -- shown to the account's owner
  created_at INTEGER NOT NULL,
  leased_bytes INTEGER NOT NULL DEFAULT 0 CHECK (leased_bytes >= 0),     -- container lengths of stable shares leased
  leased_shares INTEGER NOT NULL DEFAULT 0 CHECK (leased_shares >= 0),
  reserved_bytes INTEGER NOT NULL DEFAULT 0 CHECK (reserved_bytes >= 0)  -- container lengths of uploads in progress
) STRICT;
-- A closed account leaves its name to others.
CREATE UNIQUE INDEX accounts_by_name ON accounts (name) WHERE state <> 3;
-- Space that open uploads have reserved, summed up by each allocation.
CREATE INDEX accounts_reserving ON accounts (reserved_bytes) WHERE reserved_bytes > 0;
INSERT INTO accounts (account_id, name, state, lease_days, message, created_at) VALUES
  (0, 'anonymous', 0, 31, '', 0), (1, 'starter', 0, 60, '', 0);
UPDATE sqlite_sequence SET seq = 15 WHERE name = 'accounts';

-- What opens an account. Two are valid at most: the newest, and the one before while it lapses.
CREATE TABLE account_credentials (
  credential_id INTEGER PRIMARY KEY AUTOINCREMENT,  -- newest last
  secret_hash BLOB NOT NULL UNIQUE CHECK (length(secret_hash) = 32),
  account_id INTEGER NOT NULL REFERENCES accounts,
  not_after INTEGER,                                -- NULL: does not lapse
  created_at INTEGER NOT NULL,
  last_used_at INTEGER
) STRICT;
CREATE INDEX account_credentials_by_account ON account_credentials (account_id);  -- rotation, closing, listing

-- Shares that are stable or lost. What is coming is in uploads, what is going is in garbage.
CREATE TABLE shares (
  si BLOB NOT NULL CHECK (length(si) = 16),
  shnum INTEGER NOT NULL CHECK (shnum BETWEEN 0 AND 255),
  kind INTEGER NOT NULL CHECK (kind IN (0, 1)),    -- 0 immutable, 1 mutable
  state INTEGER NOT NULL CHECK (state IN (1, 3)),  -- 1 stable, 3 lost
  size_bytes INTEGER NOT NULL CHECK (size_bytes >= 0),  -- share data, what clients see
  locator BLOB NOT NULL,
  created_at INTEGER NOT NULL,
  PRIMARY KEY (si, shnum)
) STRICT, WITHOUT ROWID;

-- One lease for each account and share. No secondary index: a renewal is one in-place update.
CREATE TABLE leases (
  si BLOB NOT NULL,
  shnum INTEGER NOT NULL,
  account_id INTEGER NOT NULL REFERENCES accounts,
  renewed_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  PRIMARY KEY (si, shnum, account_id),
  FOREIGN KEY (si, shnum) REFERENCES shares (si, shnum)
) STRICT, WITHOUT ROWID;

-- One row for each mutable storage index that has shares: the commit point.
CREATE TABLE slots (
  si BLOB PRIMARY KEY CHECK (length(si) = 16),
  token BLOB NOT NULL CHECK (length(token) = 16),              -- random, replaced by every change
  write_enabler_hash BLOB NOT NULL CHECK (length(write_enabler_hash) = 32),
  marker TEXT                                                  -- object that holds only the manifest, if there is one
) STRICT, WITHOUT ROWID;

-- Shares that are coming.
CREATE TABLE uploads (
  si BLOB NOT NULL CHECK (length(si) = 16),
  shnum INTEGER NOT NULL CHECK (shnum BETWEEN 0 AND 255),
  upload_id BLOB NOT NULL CHECK (length(upload_id) = 16),
  account_id INTEGER NOT NULL REFERENCES accounts,
  size_bytes INTEGER NOT NULL CHECK (size_bytes >= 0),
  received_bytes INTEGER NOT NULL DEFAULT 0 CHECK (received_bytes BETWEEN 0 AND size_bytes),
  secret_hash BLOB NOT NULL CHECK (length(secret_hash) = 32),
  created_at INTEGER NOT NULL,
  deadline INTEGER NOT NULL,
  PRIMARY KEY (si, shnum)
) STRICT, WITHOUT ROWID;
CREATE INDEX uploads_by_deadline ON uploads (deadline);  -- the sweep

-- Ranges that an upload has received, each with the object that holds them.
CREATE TABLE upload_chunks (
  si BLOB NOT NULL,
  shnum INTEGER NOT NULL,
  begin_off INTEGER NOT NULL,
  end_off INTEGER NOT NULL CHECK (end_off > begin_off),
  object BLOB NOT NULL,  -- a locator of this one extent
  digest BLOB CHECK (digest IS NULL OR length(digest) = 32),  -- BLAKE3 where the row covers its whole object
  PRIMARY KEY (si, shnum, begin_off),
  FOREIGN KEY (si, shnum) REFERENCES uploads (si, shnum)
) STRICT, WITHOUT ROWID;

-- Going: objects to delete. Rows outlive their objects, so that a stale listing adopts nothing.
CREATE TABLE garbage (
  garbage_id INTEGER PRIMARY KEY AUTOINCREMENT,
  si BLOB NOT NULL,
  shnum INTEGER NOT NULL,
  reason INTEGER NOT NULL,  -- 1 unleased 2 removed 3 superseded 4 aborted 5 orphan
  not_before INTEGER NOT NULL,
  claimed_until INTEGER NOT NULL DEFAULT 0,
  attempts INTEGER NOT NULL DEFAULT 0,
  done_at INTEGER,          -- NULL: objects not deleted yet
  objects TEXT NOT NULL     -- names, one a line; may be empty
) STRICT;
CREATE INDEX garbage_due ON garbage (not_before) WHERE done_at IS NULL;  -- claims
CREATE INDEX garbage_done ON garbage (done_at) WHERE done_at IS NOT NULL;  -- purge
CREATE INDEX garbage_by_share ON garbage (si, shnum);  -- adoption must look here

-- Reports of damaged shares. Written by clients, so bounded for each share.
CREATE TABLE corruption_advisories (
  advisory_id INTEGER PRIMARY KEY AUTOINCREMENT,
  si BLOB NOT NULL,
  shnum INTEGER NOT NULL,
  kind INTEGER NOT NULL,
  account_id INTEGER NOT NULL,
  reason TEXT NOT NULL,
  verdict INTEGER NOT NULL DEFAULT 0,  -- 0 open
  received_at INTEGER NOT NULL
) STRICT;
CREATE INDEX corruption_advisories_by_share ON corruption_advisories (si, shnum);  -- the bound
