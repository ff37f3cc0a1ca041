-- Who was invited into a tenant and has not come yet. The link is kept as its hash.
CREATE TABLE invitation (
    id BLOB PRIMARY KEY,
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    token_hash BLOB NOT NULL UNIQUE,
    email TEXT NOT NULL,
    role TEXT NOT NULL,
    invited_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    UNIQUE (tenant_id, email)
) STRICT;
-- Who left a tenant: what they knew is to be changed.
CREATE TABLE former_member (
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    email TEXT NOT NULL,
    left_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, email)
) STRICT;
