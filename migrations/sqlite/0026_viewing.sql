-- Staff who look at a tenant's console as one of its people see it, read-only, for a while.
CREATE TABLE viewing (
    id BLOB PRIMARY KEY,
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    viewer_id BLOB NOT NULL REFERENCES app_user (id),
    viewer TEXT NOT NULL,
    viewed_id BLOB NOT NULL REFERENCES app_user (id),
    viewed TEXT NOT NULL,
    reason TEXT NOT NULL,
    ticket TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    ends_at INTEGER NOT NULL,
    ended_at INTEGER,
    ended_by TEXT
) STRICT;
CREATE INDEX viewing_by_tenant ON viewing (tenant_id, started_at);
CREATE INDEX viewing_by_start ON viewing (started_at);
-- What the tenant allows: always, in the window that it has granted, or never.
ALTER TABLE tenant ADD COLUMN viewing_consent TEXT NOT NULL DEFAULT 'always';
ALTER TABLE tenant ADD COLUMN viewing_until INTEGER NOT NULL DEFAULT 0;
-- On whose behalf something was done, or seen.
ALTER TABLE audit_log ADD COLUMN behalf_id BLOB;
