-- What a request cost after all, where its model had no price when it ran. The row itself stays as it was.
CREATE TABLE usage_adjustment (
    usage_id BLOB PRIMARY KEY,
    tenant_id BLOB NOT NULL,
    at INTEGER NOT NULL,
    price_id BLOB NOT NULL,
    cost INTEGER NOT NULL,
    billed INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_unpriced ON usage (tenant_id, started_at) WHERE unpriced IS TRUE;
