-- What people should know without having asked, newest last.
CREATE TABLE notification (
    id UUID PRIMARY KEY,
    tenant_id UUID NOT NULL REFERENCES tenant (id),
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    text TEXT NOT NULL,
    page TEXT NOT NULL
);
CREATE INDEX notification_by_tenant ON notification (tenant_id, at);

-- What was told of the balance last: '', 'low' or 'gone'.
ALTER TABLE credit_account ADD COLUMN told TEXT NOT NULL DEFAULT '';
