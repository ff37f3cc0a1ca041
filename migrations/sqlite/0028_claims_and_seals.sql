-- A link by which whoever opens it becomes the first admin of a tenant that has none.
CREATE TABLE claim_link (
    tenant_id BLOB PRIMARY KEY REFERENCES tenant (id),
    token_hash BLOB NOT NULL UNIQUE,
    made_by TEXT NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;
-- Through which entry a chain was sealed and its entries dropped, and the link that the next one builds on.
ALTER TABLE chain_head ADD COLUMN sealed_seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE chain_head ADD COLUMN sealed_link BLOB;
-- When another token took its place; expires_at is then how long it works besides.
ALTER TABLE access_token ADD COLUMN rotated_at INTEGER;
