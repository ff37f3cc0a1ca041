-- A key that may read an organisation's usage at a provider, and nothing else.
CREATE TABLE report_key (
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    provider TEXT NOT NULL,
    sealed BLOB NOT NULL,
    hint TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    next_at INTEGER NOT NULL,
    fetched_at INTEGER,
    failure TEXT NOT NULL,
    PRIMARY KEY (tenant_id, provider)
) STRICT;
CREATE INDEX report_key_due ON report_key (next_at);

-- What the provider says was used: by UTC day, its own id of the key, and model.
CREATE TABLE provider_report (
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    provider TEXT NOT NULL,
    day INTEGER NOT NULL,
    api_key TEXT NOT NULL,
    model TEXT NOT NULL,
    key_name TEXT NOT NULL,
    key_hint TEXT NOT NULL,
    requests INTEGER,
    tokens INTEGER NOT NULL,
    cost INTEGER,
    fetched_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, provider, day, api_key, model)
) STRICT;
CREATE INDEX provider_report_by_day ON provider_report (day);
