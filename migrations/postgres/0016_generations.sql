-- What the community manager is to write: posts to greet, threads to sum up, replies to draft.
CREATE TABLE generation (
    id UUID PRIMARY KEY,
    tenant_id UUID NOT NULL REFERENCES tenant (id),
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
    attempts BIGINT NOT NULL,
    next_at BIGINT NOT NULL,
    -- The run of the process that is at it, the request that it sends, and the key that it ran on.
    instance UUID,
    request_id UUID,
    key_name TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    decided_at BIGINT,
    decided_by TEXT NOT NULL,
    UNIQUE (tenant_id, reference)
);
CREATE INDEX generation_due ON generation (state, next_at);
CREATE INDEX generation_listed ON generation (tenant_id, state, id);
