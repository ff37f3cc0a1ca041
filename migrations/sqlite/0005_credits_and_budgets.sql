-- What a pending row holds back from credits and budgets, in nanodollars.
ALTER TABLE usage ADD COLUMN held INTEGER NOT NULL DEFAULT 0;

CREATE INDEX usage_pending_by_tenant ON usage (tenant_id) WHERE state = 'pending';

-- How managed use was paid, by date.
CREATE TABLE funding_change (
    id BLOB PRIMARY KEY,
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    funding TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT;
CREATE INDEX funding_change_by_tenant ON funding_change (tenant_id, at);

-- Prepaid credits in nanodollars. The balance is the sum of the tenant's ledger; what is held belongs
-- to requests that are under way. refused_at: when something last did not fit, since it last grew.
CREATE TABLE credit_account (
    tenant_id BLOB PRIMARY KEY REFERENCES tenant (id),
    balance INTEGER NOT NULL,
    held INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    notify_below INTEGER NOT NULL,
    refused_at INTEGER
) STRICT;

-- Append-only. A reference is entered once, whoever sends it how often.
CREATE TABLE ledger_entry (
    tenant_id BLOB NOT NULL,
    seq INTEGER NOT NULL,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    amount INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    reference TEXT,
    note TEXT NOT NULL,
    entered_by TEXT NOT NULL,
    PRIMARY KEY (tenant_id, seq)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX ledger_entry_by_reference ON ledger_entry (reference) WHERE reference IS NOT NULL;
CREATE INDEX ledger_entry_by_time ON ledger_entry (tenant_id, at);

-- A month's limit on spend at list price: of all a tenant's use, or of one key's. What was spent and is
-- held in the period that began last is kept beside it.
CREATE TABLE budget (
    id BLOB PRIMARY KEY,
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    key_id BLOB REFERENCES provider_key (id),
    amount INTEGER NOT NULL,
    on_reach TEXT NOT NULL,
    warn_at TEXT NOT NULL,
    priced_only INTEGER NOT NULL,
    period_start INTEGER NOT NULL,
    period_end INTEGER NOT NULL,
    next_end INTEGER NOT NULL,
    spent INTEGER NOT NULL,
    held INTEGER NOT NULL,
    warned INTEGER NOT NULL,
    refused_at INTEGER
) STRICT;
CREATE UNIQUE INDEX budget_of_tenant ON budget (tenant_id) WHERE key_id IS NULL;
CREATE UNIQUE INDEX budget_of_key ON budget (tenant_id, key_id) WHERE key_id IS NOT NULL;
