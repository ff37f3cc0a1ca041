-- Credits that somebody set out to buy, and what became of it.
CREATE TABLE credit_order (
    id UUID PRIMARY KEY,
    tenant_id UUID NOT NULL REFERENCES tenant (id),
    method TEXT NOT NULL,
    amount BIGINT NOT NULL,
    state TEXT NOT NULL,
    checkout TEXT,
    url TEXT,
    payment TEXT,
    refunded BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    settled_at BIGINT,
    settled_by TEXT
);
CREATE INDEX credit_order_by_tenant ON credit_order (tenant_id, id);
CREATE INDEX credit_order_open ON credit_order (created_at) WHERE state = 'open';
CREATE INDEX credit_order_by_payment ON credit_order (payment);

-- Messages of payment providers that were taken, so that each counts once. What was refunded of a
-- payment is kept for the case that the word of the payment itself comes later.
CREATE TABLE payment_event (
    method TEXT NOT NULL,
    id TEXT NOT NULL,
    at BIGINT NOT NULL,
    payment TEXT,
    refunded_cents BIGINT,
    PRIMARY KEY (method, id)
);
CREATE INDEX payment_event_by_payment ON payment_event (payment);
