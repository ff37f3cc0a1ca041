-- The models that a provider lists, as it last told a shared key; and when it is asked next.
CREATE TABLE model_list (
    provider TEXT PRIMARY KEY,
    -- A JSON list of ids; empty until it has told.
    models TEXT NOT NULL,
    fetched_at INTEGER,
    next_at INTEGER NOT NULL
) STRICT;
