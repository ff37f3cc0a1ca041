-- How a tenant's people sign in with their own identity provider (OpenID Connect). The provider may vouch
-- only for addresses of the domain, and only once the domain has shown that it is theirs.
CREATE TABLE sso_connection (
    tenant_id UUID PRIMARY KEY REFERENCES tenant (id),
    issuer TEXT NOT NULL,
    client_id TEXT NOT NULL,
    sealed BYTEA NOT NULL,
    domain TEXT NOT NULL,
    domain_proof TEXT NOT NULL,
    verified_at BIGINT,
    default_role TEXT NOT NULL,
    updated_at BIGINT NOT NULL,
    updated_by TEXT NOT NULL
);
CREATE UNIQUE INDEX sso_connection_by_domain ON sso_connection (domain) WHERE verified_at IS NOT NULL;
-- Whom a provider means by its subject.
CREATE TABLE sso_identity (
    tenant_id UUID NOT NULL REFERENCES tenant (id),
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    user_id UUID NOT NULL REFERENCES app_user (id),
    created_at BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, issuer, subject),
    UNIQUE (tenant_id, issuer, user_id)
);
ALTER TABLE tenant ADD COLUMN sso_required BIGINT NOT NULL DEFAULT 0;
-- Sessions that came by it before are over: it was removed, or is another provider's or domain's since.
ALTER TABLE tenant ADD COLUMN sso_sessions_from BIGINT NOT NULL DEFAULT 0;
