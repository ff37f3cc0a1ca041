-- Sums of whole days of the tenant's calendar, made from the rollups of their quarter-hours.
CREATE TABLE usage_day (
    tenant_id UUID NOT NULL,
    bucket BIGINT NOT NULL,
    mode TEXT NOT NULL,
    fallback TEXT NOT NULL,
    feature TEXT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    key_id UUID NOT NULL,
    endpoint TEXT NOT NULL,
    day_end BIGINT NOT NULL,
    requests BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    estimated BIGINT NOT NULL,
    unpriced BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    cache_read_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    web_searches BIGINT NOT NULL,
    cost BIGINT NOT NULL,
    estimated_cost BIGINT NOT NULL,
    billed BIGINT NOT NULL,
    list_cost BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, bucket, mode, fallback, feature, provider, model, key_id, endpoint)
);

-- Days that end by then are in usage_day as they are in usage_rollup.
ALTER TABLE tenant ADD COLUMN summed_through BIGINT NOT NULL DEFAULT 0;

-- Days that end by then may be summed soon. Said a while before, so that whoever writes usage knows.
CREATE TABLE summing (
    announced BIGINT NOT NULL
);
INSERT INTO summing VALUES (0);
