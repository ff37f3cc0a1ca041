-- The secret of a person's authenticator app, sealed. It counts once a code of it was entered;
-- last_step is the newest step of time whose code was used.
CREATE TABLE authenticator (
    user_id BLOB PRIMARY KEY REFERENCES app_user (id),
    sealed BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    confirmed_at INTEGER,
    last_step INTEGER NOT NULL
) STRICT;
-- Codes for who has lost the app or the passkey, each for one time, kept under a keyed hash.
CREATE TABLE recovery_code (
    user_id BLOB NOT NULL REFERENCES app_user (id),
    code TEXT NOT NULL,
    used_at INTEGER,
    PRIMARY KEY (user_id, code)
) STRICT;
-- credential is the public key with its counter, as the library that checks it writes it.
CREATE TABLE passkey (
    id BLOB PRIMARY KEY,
    user_id BLOB NOT NULL REFERENCES app_user (id),
    credential_id BLOB NOT NULL UNIQUE,
    credential TEXT NOT NULL,
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    last_used_at INTEGER
) STRICT;
CREATE INDEX passkey_by_user ON passkey (user_id);
ALTER TABLE tenant ADD COLUMN second_factor TEXT NOT NULL DEFAULT 'optional';
