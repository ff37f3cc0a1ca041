-- Who was invited into a tenant and has not come yet. The link is kept as its hash.
CREATE TABLE invitation (
    id UUID PRIMARY KEY,
    tenant_id UUID NOT NULL REFERENCES tenant (id),
    token_hash BYTEA NOT NULL UNIQUE,
    email TEXT NOT NULL,
    role TEXT NOT NULL,
    invited_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    UNIQUE (tenant_id, email)
);
-- Who left a tenant: what they knew is to be changed.
CREATE TABLE former_member (
    tenant_id UUID NOT NULL REFERENCES tenant (id),
    email TEXT NOT NULL,
    left_at BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, email)
);
