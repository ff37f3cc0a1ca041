-- Where a tenant's notifications are sent beside the console.
CREATE TABLE webhook (
    id UUID PRIMARY KEY,
    tenant_id UUID NOT NULL REFERENCES tenant (id),
    url TEXT NOT NULL,
    sealed BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL
);
CREATE INDEX webhook_by_tenant ON webhook (tenant_id);

-- Whether this member is told by e-mail too.
ALTER TABLE membership ADD COLUMN mail BOOLEAN NOT NULL DEFAULT TRUE;

-- One notification on its way to one webhook or one person, with what became of it. Rows of one
-- notification share its message id.
CREATE TABLE delivery (
    id UUID PRIMARY KEY,
    tenant_id UUID NOT NULL REFERENCES tenant (id),
    webhook_id UUID REFERENCES webhook (id) ON DELETE CASCADE,
    user_id UUID REFERENCES app_user (id),
    message_id UUID NOT NULL,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    text TEXT NOT NULL,
    page TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts BIGINT NOT NULL,
    next_at BIGINT NOT NULL,
    outcome TEXT NOT NULL,
    tried_at BIGINT
);
CREATE INDEX delivery_due ON delivery (next_at) WHERE state = 'waiting';
CREATE INDEX delivery_by_tenant ON delivery (tenant_id, id);
CREATE INDEX delivery_by_time ON delivery (at);
CREATE INDEX delivery_by_webhook ON delivery (webhook_id);

-- What is told once for ever, such as that a key version is old, carries a reference.
ALTER TABLE notification ADD COLUMN reference TEXT;
CREATE UNIQUE INDEX notification_once ON notification (tenant_id, reference);
