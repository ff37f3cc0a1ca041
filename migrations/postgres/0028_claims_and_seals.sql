-- A link by which whoever opens it becomes the first admin of a tenant that has none.
CREATE TABLE claim_link (
    tenant_id UUID PRIMARY KEY REFERENCES tenant (id),
    token_hash BYTEA NOT NULL UNIQUE,
    made_by TEXT NOT NULL,
    expires_at BIGINT NOT NULL
);
-- Through which entry a chain was sealed and its entries dropped, and the link that the next one builds on.
ALTER TABLE chain_head ADD COLUMN sealed_seq BIGINT NOT NULL DEFAULT 0;
ALTER TABLE chain_head ADD COLUMN sealed_link BYTEA;
-- When another token took its place; expires_at is then how long it works besides.
ALTER TABLE access_token ADD COLUMN rotated_at BIGINT;
