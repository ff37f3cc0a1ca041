-- Questions that the product's bot could not answer, and what was written about them.
CREATE TABLE question (
    id UUID PRIMARY KEY,
    tenant_id UUID NOT NULL REFERENCES tenant (id),
    state TEXT NOT NULL,
    -- The product's own name for it: sent again, it is the same question, asked more often.
    reference TEXT,
    text TEXT NOT NULL,
    context TEXT NOT NULL,
    asked BIGINT NOT NULL,
    suggestion TEXT NOT NULL,
    suggestion_key TEXT NOT NULL,
    suggested_at BIGINT,
    article TEXT NOT NULL,
    article_key TEXT NOT NULL,
    article_at BIGINT,
    -- What is being written, since when, and by which request.
    writing TEXT,
    writing_since BIGINT,
    writing_request UUID,
    -- Why the last attempt wrote nothing, and where something can be done about it.
    reason TEXT NOT NULL,
    reason_link TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    decided_at BIGINT,
    decided_by TEXT NOT NULL,
    UNIQUE (tenant_id, reference)
);
CREATE INDEX question_listed ON question (tenant_id, state, asked, id);
