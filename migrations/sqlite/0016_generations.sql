-- What the community manager is to write: posts to greet, threads to sum up, replies to draft.
CREATE TABLE generation (
    id BLOB PRIMARY KEY,
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    -- The product's own name for it: sent twice, it is one.
    reference TEXT,
    title TEXT NOT NULL,
    source TEXT NOT NULL,
    -- What the model wrote, and what is to be posted, which a person may have changed.
    draft TEXT NOT NULL,
    final TEXT NOT NULL,
    -- Why it waits or has failed.
    reason TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    next_at INTEGER NOT NULL,
    -- The run of the process that is at it, the request that it sends, and the key that it ran on.
    instance BLOB,
    request_id BLOB,
    key_name TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    decided_at INTEGER,
    decided_by TEXT NOT NULL,
    UNIQUE (tenant_id, reference)
) STRICT;
CREATE INDEX generation_due ON generation (state, next_at);
CREATE INDEX generation_listed ON generation (tenant_id, state, id);
