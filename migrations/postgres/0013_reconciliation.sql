-- A key that may read an organisation's usage at a provider, and nothing else.
CREATE TABLE report_key (
    tenant_id UUID NOT NULL REFERENCES tenant (id),
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
CREATE INDEX report_key_due ON report_key (next_at);

-- What the provider says was used: by UTC day, its own id of the key, and model.
CREATE TABLE provider_report (
    tenant_id UUID NOT NULL REFERENCES tenant (id),
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
CREATE INDEX provider_report_by_day ON provider_report (day);
