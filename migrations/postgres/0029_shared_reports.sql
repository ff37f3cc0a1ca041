-- The platform reads reports too, of its shared keys. It is stored as the nil id, which is no tenant's.
CREATE TABLE report_key_of_owner (
    tenant_id UUID NOT NULL,
    provider TEXT NOT NULL,
    sealed BYTEA NOT NULL,
    hint TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    next_at BIGINT NOT NULL,
    fetched_at BIGINT,
    failure TEXT NOT NULL,
    PRIMARY KEY (tenant_id, provider)
);
-- Read again at once, and from the beginning: what was recorded is from now on kept beside the report.
INSERT INTO report_key_of_owner SELECT tenant_id, provider, sealed, hint, created_at, created_by, 0, NULL, failure FROM report_key;
DROP TABLE report_key;
ALTER TABLE report_key_of_owner RENAME TO report_key;
CREATE INDEX report_key_due ON report_key (next_at);

CREATE TABLE provider_report_of_owner (
    tenant_id UUID NOT NULL,
    provider TEXT NOT NULL,
    day BIGINT NOT NULL,
    api_key TEXT NOT NULL,
    model TEXT NOT NULL,
    key_name TEXT NOT NULL,
    key_hint TEXT NOT NULL,
    requests BIGINT,
    tokens BIGINT NOT NULL,
    cost BIGINT,
    fetched_at BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, provider, day, api_key, model)
);
INSERT INTO provider_report_of_owner SELECT tenant_id, provider, day, api_key, model, key_name, key_hint, requests, tokens, cost, fetched_at FROM provider_report;
DROP TABLE provider_report;
ALTER TABLE provider_report_of_owner RENAME TO provider_report;
CREATE INDEX provider_report_by_day ON provider_report (day);

-- What Keyward had recorded when the report was read: by UTC day, key version and model.
CREATE TABLE recorded_use (
    tenant_id UUID NOT NULL,
    provider TEXT NOT NULL,
    day BIGINT NOT NULL,
    key_name TEXT NOT NULL,
    key_version INTEGER NOT NULL,
    model TEXT NOT NULL,
    requests BIGINT NOT NULL,
    tokens BIGINT NOT NULL,
    cost BIGINT NOT NULL,
    estimated BIGINT NOT NULL,
    unpriced BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, provider, day, key_name, key_version, model)
);
CREATE INDEX recorded_use_by_day ON recorded_use (day);

-- What the operator should know without having asked. A reference is told of once.
CREATE TABLE platform_notice (
    id UUID PRIMARY KEY,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    text TEXT NOT NULL,
    page TEXT NOT NULL,
    reference TEXT UNIQUE
);
CREATE INDEX platform_notice_by_time ON platform_notice (at);
