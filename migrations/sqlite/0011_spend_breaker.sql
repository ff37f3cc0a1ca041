-- Stops AI when an hour costs several times what is usual. No row means off.
CREATE TABLE spend_breaker (
    tenant_id BLOB PRIMARY KEY REFERENCES tenant (id),
    factor INTEGER NOT NULL,
    least INTEGER NOT NULL,
    on_trip TEXT NOT NULL,
    since INTEGER NOT NULL,
    tripped_at INTEGER,
    spent INTEGER NOT NULL,
    usual INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
