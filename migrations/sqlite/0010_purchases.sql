-- Credits that somebody set out to buy, and what became of it.
CREATE TABLE credit_order (
    id BLOB PRIMARY KEY,
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    method TEXT NOT NULL,
    amount INTEGER NOT NULL,
    state TEXT NOT NULL,
    checkout TEXT,
    url TEXT,
    payment TEXT,
    refunded INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    settled_at INTEGER,
    settled_by TEXT
) STRICT;
CREATE INDEX credit_order_by_tenant ON credit_order (tenant_id, id);
CREATE INDEX credit_order_open ON credit_order (created_at) WHERE state = 'open';
CREATE INDEX credit_order_by_payment ON credit_order (payment);

-- Messages of payment providers that were taken, so that each counts once. What was refunded of a
-- payment is kept for the case that the word of the payment itself comes later.
CREATE TABLE payment_event (
    method TEXT NOT NULL,
    id TEXT NOT NULL,
    at INTEGER NOT NULL,
    payment TEXT,
    refunded_cents INTEGER,
    PRIMARY KEY (method, id)
) STRICT;
CREATE INDEX payment_event_by_payment ON payment_event (payment);
