-- Stops AI when an hour costs several times what is usual. No row means off.
CREATE TABLE spend_breaker (
    tenant_id UUID PRIMARY KEY REFERENCES tenant (id),
    factor BIGINT NOT NULL,
    least BIGINT NOT NULL,
    on_trip TEXT NOT NULL,
    since BIGINT NOT NULL,
    tripped_at BIGINT,
    spent BIGINT NOT NULL,
    usual BIGINT NOT NULL
);
