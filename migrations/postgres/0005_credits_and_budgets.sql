-- What a pending row holds back from credits and budgets, in nanodollars.
ALTER TABLE usage ADD COLUMN held BIGINT NOT NULL DEFAULT 0;

CREATE INDEX usage_pending_by_tenant ON usage (tenant_id) WHERE state = 'pending';

-- How managed use was paid, by date.
CREATE TABLE funding_change (
    id UUID PRIMARY KEY,
    tenant_id UUID NOT NULL REFERENCES tenant (id),
    funding TEXT NOT NULL,
    at BIGINT NOT NULL
);
CREATE INDEX funding_change_by_tenant ON funding_change (tenant_id, at);

-- Prepaid credits in nanodollars. The balance is the sum of the tenant's ledger; what is held belongs
-- to requests that are under way. refused_at: when something last did not fit, since it last grew.
CREATE TABLE credit_account (
    tenant_id UUID PRIMARY KEY REFERENCES tenant (id),
    balance BIGINT NOT NULL,
    held BIGINT NOT NULL,
    last_seq BIGINT NOT NULL,
    notify_below BIGINT NOT NULL,
    refused_at BIGINT
);

-- Append-only. A reference is entered once, whoever sends it how often.
CREATE TABLE ledger_entry (
    tenant_id UUID NOT NULL,
    seq BIGINT NOT NULL,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    amount BIGINT NOT NULL,
    requests BIGINT NOT NULL,
    reference TEXT,
    note TEXT NOT NULL,
    entered_by TEXT NOT NULL,
    PRIMARY KEY (tenant_id, seq)
);
CREATE UNIQUE INDEX ledger_entry_by_reference ON ledger_entry (reference) WHERE reference IS NOT NULL;
CREATE INDEX ledger_entry_by_time ON ledger_entry (tenant_id, at);

-- A month's limit on spend at list price: of all a tenant's use, or of one key's. What was spent and is
-- held in the period that began last is kept beside it.
CREATE TABLE budget (
    id UUID PRIMARY KEY,
    tenant_id UUID NOT NULL REFERENCES tenant (id),
    key_id UUID REFERENCES provider_key (id),
    amount BIGINT NOT NULL,
    on_reach TEXT NOT NULL,
    warn_at TEXT NOT NULL,
    priced_only BOOLEAN NOT NULL,
    period_start BIGINT NOT NULL,
    period_end BIGINT NOT NULL,
    next_end BIGINT NOT NULL,
    spent BIGINT NOT NULL,
    held BIGINT NOT NULL,
    warned BIGINT NOT NULL,
    refused_at BIGINT
);
CREATE UNIQUE INDEX budget_of_tenant ON budget (tenant_id) WHERE key_id IS NULL;
CREATE UNIQUE INDEX budget_of_key ON budget (tenant_id, key_id) WHERE key_id IS NOT NULL;
