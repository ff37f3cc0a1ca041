-- How a tenant's people sign in with their own identity provider (OpenID Connect). The provider may vouch
-- only for addresses of the domain, and only once the domain has shown that it is theirs.
CREATE TABLE sso_connection (
    tenant_id BLOB PRIMARY KEY REFERENCES tenant (id),
    issuer TEXT NOT NULL,
    client_id TEXT NOT NULL,
    sealed BLOB NOT NULL,
    domain TEXT NOT NULL,
    domain_proof TEXT NOT NULL,
    verified_at INTEGER,
    default_role TEXT NOT NULL,
    updated_at INTEGER NOT NULL,
    updated_by TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX sso_connection_by_domain ON sso_connection (domain) WHERE verified_at IS NOT NULL;
-- Whom a provider means by its subject.
CREATE TABLE sso_identity (
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    user_id BLOB NOT NULL REFERENCES app_user (id),
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, issuer, subject),
    UNIQUE (tenant_id, issuer, user_id)
) STRICT;
ALTER TABLE tenant ADD COLUMN sso_required INTEGER NOT NULL DEFAULT 0;
-- Sessions that came by it before are over: it was removed, or is another provider's or domain's since.
ALTER TABLE tenant ADD COLUMN sso_sessions_from INTEGER NOT NULL DEFAULT 0;
