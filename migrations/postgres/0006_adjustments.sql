-- What a request cost after all, where its model had no price when it ran. The row itself stays as it was.
CREATE TABLE usage_adjustment (
    usage_id UUID PRIMARY KEY,
    tenant_id UUID NOT NULL,
    at BIGINT NOT NULL,
    price_id UUID NOT NULL,
    cost BIGINT NOT NULL,
    billed BIGINT NOT NULL
);
CREATE INDEX usage_unpriced ON usage (tenant_id, started_at) WHERE unpriced IS TRUE;
