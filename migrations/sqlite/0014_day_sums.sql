-- Sums of whole days of the tenant's calendar, made from the rollups of their quarter-hours.
CREATE TABLE usage_day (
    tenant_id BLOB NOT NULL,
    bucket INTEGER NOT NULL,
    mode TEXT NOT NULL,
    fallback TEXT NOT NULL,
    feature TEXT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    key_id BLOB NOT NULL,
    endpoint TEXT NOT NULL,
    day_end INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    estimated INTEGER NOT NULL,
    unpriced INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    web_searches INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    estimated_cost INTEGER NOT NULL,
    billed INTEGER NOT NULL,
    list_cost INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, bucket, mode, fallback, feature, provider, model, key_id, endpoint)
) STRICT, WITHOUT ROWID;

-- Days that end by then are in usage_day as they are in usage_rollup.
ALTER TABLE tenant ADD COLUMN summed_through INTEGER NOT NULL DEFAULT 0;

-- Days that end by then may be summed soon. Said a while before, so that whoever writes usage knows.
CREATE TABLE summing (
    announced INTEGER NOT NULL
) STRICT;
INSERT INTO summing VALUES (0);
