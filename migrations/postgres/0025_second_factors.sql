-- The secret of a person's authenticator app, sealed. It counts once a code of it was entered;
-- last_step is the newest step of time whose code was used.
CREATE TABLE authenticator (
    user_id UUID PRIMARY KEY REFERENCES app_user (id),
    sealed BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    confirmed_at BIGINT,
    last_step BIGINT NOT NULL
);
-- Codes for who has lost the app or the passkey, each for one time, kept under a keyed hash.
CREATE TABLE recovery_code (
    user_id UUID NOT NULL REFERENCES app_user (id),
    code TEXT NOT NULL,
    used_at BIGINT,
    PRIMARY KEY (user_id, code)
);
-- credential is the public key with its counter, as the library that checks it writes it.
CREATE TABLE passkey (
    id UUID PRIMARY KEY,
    user_id UUID NOT NULL REFERENCES app_user (id),
    credential_id BYTEA NOT NULL UNIQUE,
    credential TEXT NOT NULL,
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    last_used_at BIGINT
);
CREATE INDEX passkey_by_user ON passkey (user_id);
ALTER TABLE tenant ADD COLUMN second_factor TEXT NOT NULL DEFAULT 'optional';
