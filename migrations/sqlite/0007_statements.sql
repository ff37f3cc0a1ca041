-- What a plan costs, in nanodollars a month and in thousandths.
CREATE TABLE plan_terms (
    plan_id BLOB PRIMARY KEY REFERENCES plan (id),
    subscription INTEGER NOT NULL,
    endpoints_included INTEGER NOT NULL,
    endpoint_fee INTEGER NOT NULL,
    byok_permille INTEGER NOT NULL
) STRICT;

-- Closed months. A row is written once and never changed; lines are JSON.
CREATE TABLE statement (
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    month TEXT NOT NULL,
    period_start INTEGER NOT NULL,
    period_end INTEGER NOT NULL,
    closed_at INTEGER NOT NULL,
    plan TEXT NOT NULL,
    due INTEGER NOT NULL,
    lines TEXT NOT NULL,
    PRIMARY KEY (tenant_id, month)
) STRICT, WITHOUT ROWID;

CREATE INDEX usage_adjustment_by_time ON usage_adjustment (tenant_id, at);
