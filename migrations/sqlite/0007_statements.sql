-- What a plan costs from a moment on, in nanodollars a month and in thousandths.
CREATE TABLE plan_terms (
    plan_id BLOB NOT NULL REFERENCES plan (id),
    valid_from INTEGER NOT NULL,
    subscription INTEGER NOT NULL,
    endpoints_included INTEGER NOT NULL,
    endpoint_fee INTEGER NOT NULL,
    byok_permille INTEGER NOT NULL,
    PRIMARY KEY (plan_id, valid_from)
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
