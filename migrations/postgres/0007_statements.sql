-- What a plan costs from a moment on, in nanodollars a month and in thousandths.
CREATE TABLE plan_terms (
    plan_id UUID NOT NULL REFERENCES plan (id),
    valid_from BIGINT NOT NULL,
    subscription BIGINT NOT NULL,
    endpoints_included BIGINT NOT NULL,
    endpoint_fee BIGINT NOT NULL,
    byok_permille BIGINT NOT NULL,
    PRIMARY KEY (plan_id, valid_from)
);

-- Closed months. A row is written once and never changed; lines are JSON.
CREATE TABLE statement (
    tenant_id UUID NOT NULL REFERENCES tenant (id),
    month TEXT NOT NULL,
    period_start BIGINT NOT NULL,
    period_end BIGINT NOT NULL,
    closed_at BIGINT NOT NULL,
    plan TEXT NOT NULL,
    due BIGINT NOT NULL,
    lines TEXT NOT NULL,
    PRIMARY KEY (tenant_id, month)
);

CREATE INDEX usage_adjustment_by_time ON usage_adjustment (tenant_id, at);
