-- Sessions made by the API: what they pin holds for every request that names them.
CREATE TABLE pinned_session (
    id TEXT PRIMARY KEY,
    tenant_id UUID NOT NULL REFERENCES tenant (id),
    key_name TEXT,
    provider TEXT,
    model TEXT,
    feature TEXT,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    ended_at BIGINT
);
CREATE INDEX pinned_session_by_tenant ON pinned_session (tenant_id, created_at);
CREATE INDEX pinned_session_by_expiry ON pinned_session (expires_at);

-- Answers to requests of the API that carried an Idempotency-Key, by the token that sent them.
CREATE TABLE idempotency (
    token_id UUID NOT NULL,
    idempotency_key TEXT NOT NULL,
    request_hash BYTEA NOT NULL,
    status BIGINT,
    body TEXT,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (token_id, idempotency_key)
);
CREATE INDEX idempotency_by_age ON idempotency (created_at);
