-- Staff who look at a tenant's console as one of its people see it, read-only, for a while.
CREATE TABLE viewing (
    id UUID PRIMARY KEY,
    tenant_id UUID NOT NULL REFERENCES tenant (id),
    viewer_id UUID NOT NULL REFERENCES app_user (id),
    viewer TEXT NOT NULL,
    viewed_id UUID NOT NULL REFERENCES app_user (id),
    viewed TEXT NOT NULL,
    reason TEXT NOT NULL,
    ticket TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    ends_at BIGINT NOT NULL,
    ended_at BIGINT,
    ended_by TEXT
);
CREATE INDEX viewing_by_tenant ON viewing (tenant_id, started_at);
CREATE INDEX viewing_by_start ON viewing (started_at);
-- What the tenant allows: always, in the window that it has granted, or never.
ALTER TABLE tenant ADD COLUMN viewing_consent TEXT NOT NULL DEFAULT 'always';
ALTER TABLE tenant ADD COLUMN viewing_until BIGINT NOT NULL DEFAULT 0;
-- On whose behalf something was done, or seen.
ALTER TABLE audit_log ADD COLUMN behalf_id UUID;
