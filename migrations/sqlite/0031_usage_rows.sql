-- Usage gets row numbers. Kept by id alone, its long rows filled the inner pages of their own tree, and every commit
-- wrote some of those. PostgreSQL keeps rows so anyway.
CREATE TABLE usage_row (
    id BLOB PRIMARY KEY NOT NULL,
    tenant_id BLOB NOT NULL,
    instance BLOB NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at INTEGER,
    feature TEXT NOT NULL,
    provider TEXT NOT NULL,
    dialect TEXT NOT NULL,
    key_id BLOB NOT NULL,
    key_name TEXT NOT NULL,
    key_version INTEGER NOT NULL,
    mode TEXT NOT NULL,
    funding TEXT NOT NULL,
    fallback TEXT,
    model_asked TEXT NOT NULL,
    model_served TEXT,
    endpoint TEXT,
    session TEXT,
    prompt TEXT,
    input_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    cache_write_5m_tokens INTEGER NOT NULL,
    cache_write_1h_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    web_searches INTEGER NOT NULL,
    service_tier TEXT NOT NULL,
    speed TEXT NOT NULL,
    us_only INTEGER NOT NULL,
    raw_usage TEXT,
    price_id BLOB,
    cost INTEGER NOT NULL,
    billed INTEGER NOT NULL,
    unpriced INTEGER NOT NULL,
    state TEXT NOT NULL,
    status INTEGER,
    error_code TEXT,
    first_byte_us INTEGER,
    total_us INTEGER,
    audio_input_tokens INTEGER NOT NULL DEFAULT 0,
    audio_output_tokens INTEGER NOT NULL DEFAULT 0,
    tool_tokens INTEGER NOT NULL DEFAULT 0,
    held INTEGER NOT NULL DEFAULT 0,
    rate_permille INTEGER NOT NULL DEFAULT 1000
) STRICT;
INSERT INTO usage_row SELECT * FROM usage;
DROP TABLE usage;
ALTER TABLE usage_row RENAME TO usage;
CREATE INDEX usage_by_tenant ON usage (tenant_id, started_at);
CREATE INDEX usage_pending ON usage (instance) WHERE state = 'pending';
CREATE INDEX usage_pending_by_tenant ON usage (tenant_id) WHERE state = 'pending';
CREATE INDEX usage_unpriced ON usage (tenant_id, started_at) WHERE unpriced IS TRUE;
