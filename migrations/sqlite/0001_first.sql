-- The first schema. Ids are UUIDs, times are microseconds since the Unix epoch, money is in nanodollars.

CREATE TABLE plan (
    id BLOB PRIMARY KEY,
    slug TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL
) STRICT;

CREATE TABLE feature (
    slug TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    covered INTEGER NOT NULL,
    default_model TEXT,
    position INTEGER NOT NULL
) STRICT;

CREATE TABLE plan_feature (
    plan_id BLOB NOT NULL REFERENCES plan (id),
    feature_slug TEXT NOT NULL REFERENCES feature (slug),
    PRIMARY KEY (plan_id, feature_slug)
) STRICT;

CREATE TABLE tenant (
    id BLOB PRIMARY KEY,
    slug TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    plan_id BLOB NOT NULL REFERENCES plan (id),
    state TEXT NOT NULL,
    key_changers TEXT NOT NULL,
    time_zone TEXT NOT NULL,
    mode TEXT NOT NULL,
    funding TEXT NOT NULL,
    no_key_policy TEXT NOT NULL,
    limit_policy TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- Dated entries: usage before a change keeps the mode in which it ran.
CREATE TABLE mode_change (
    id BLOB PRIMARY KEY,
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    mode TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT;
CREATE INDEX mode_change_by_tenant ON mode_change (tenant_id, at);

-- A row means that the tenant's master switch for the feature is off.
CREATE TABLE feature_switched_off (
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    feature_slug TEXT NOT NULL REFERENCES feature (slug),
    PRIMARY KEY (tenant_id, feature_slug)
) STRICT;

CREATE TABLE app_user (
    id BLOB PRIMARY KEY,
    email TEXT NOT NULL UNIQUE,
    platform_role TEXT,
    password_hash TEXT NOT NULL,
    disabled_at INTEGER,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE membership (
    user_id BLOB NOT NULL REFERENCES app_user (id),
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    role TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (user_id, tenant_id)
) STRICT;
CREATE INDEX membership_by_tenant ON membership (tenant_id);

-- The cookie holds the key; only its hash is kept here.
CREATE TABLE session (
    id BLOB PRIMARY KEY,
    key_hash BLOB NOT NULL UNIQUE,
    user_id BLOB REFERENCES app_user (id),
    state TEXT NOT NULL,
    address TEXT,
    agent TEXT,
    created_at INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX session_by_user ON session (user_id);
CREATE INDEX session_by_expiry ON session (expires_at);

-- Browsers that an account has signed in from before, by blinded name.
CREATE TABLE known_device (
    user_id BLOB NOT NULL REFERENCES app_user (id),
    device TEXT NOT NULL,
    seen_at INTEGER NOT NULL,
    PRIMARY KEY (user_id, device)
) STRICT;

CREATE TABLE sign_in_failure (
    bucket TEXT PRIMARY KEY,
    failures INTEGER NOT NULL,
    last_at INTEGER NOT NULL
) STRICT;

-- One-time links: first set-up and password resets.
CREATE TABLE one_time_link (
    token_hash BLOB PRIMARY KEY,
    purpose TEXT NOT NULL,
    user_id BLOB REFERENCES app_user (id),
    expires_at INTEGER NOT NULL
) STRICT;

-- tenant_id is NULL for service tokens.
CREATE TABLE access_token (
    id BLOB PRIMARY KEY,
    tenant_id BLOB REFERENCES tenant (id),
    name TEXT NOT NULL,
    token_hash BLOB NOT NULL UNIQUE,
    hint TEXT NOT NULL,
    scopes TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    last_used_at INTEGER,
    revoked_at INTEGER
) STRICT;
CREATE INDEX access_token_by_tenant ON access_token (tenant_id);

-- One row: the root secret, which also shows whether the keyring is the right one.
CREATE TABLE root_secret (
    id INTEGER PRIMARY KEY,
    sealed BLOB NOT NULL
) STRICT;

-- owner_id is a tenant, or the nil UUID for the platform's shared keys.
CREATE TABLE owner_key (
    owner_id BLOB PRIMARY KEY,
    sealed BLOB NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE provider_key (
    id BLOB PRIMARY KEY,
    owner_id BLOB NOT NULL,
    provider TEXT NOT NULL,
    name TEXT NOT NULL,
    label TEXT,
    is_default INTEGER NOT NULL,
    current_version INTEGER NOT NULL,
    disabled_at INTEGER,
    disabled_by TEXT,
    removed_at INTEGER,
    created_at INTEGER NOT NULL,
    created_by BLOB,
    created_by_name TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX provider_key_by_name ON provider_key (owner_id, name) WHERE removed_at IS NULL;

CREATE TABLE key_version (
    key_id BLOB NOT NULL REFERENCES provider_key (id),
    version INTEGER NOT NULL,
    custom_url TEXT,
    sealed BLOB,
    hint TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    state TEXT NOT NULL,
    state_since INTEGER NOT NULL,
    state_until INTEGER,
    rejections INTEGER NOT NULL,
    probe_at INTEGER,
    created_at INTEGER NOT NULL,
    created_by_name TEXT NOT NULL,
    checked_at INTEGER,
    replaced_at INTEGER,
    destroy_at INTEGER,
    PRIMARY KEY (key_id, version)
) STRICT;
CREATE INDEX key_version_to_probe ON key_version (probe_at) WHERE probe_at IS NOT NULL;
CREATE INDEX key_version_to_destroy ON key_version (destroy_at) WHERE destroy_at IS NOT NULL;

CREATE TABLE key_use (
    key_id BLOB PRIMARY KEY REFERENCES provider_key (id),
    last_used_at INTEGER NOT NULL
) STRICT;

-- Rates in picodollars per token, and per search for web_search.
CREATE TABLE price (
    id BLOB PRIMARY KEY,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    service_tier TEXT NOT NULL,
    valid_from INTEGER NOT NULL,
    above_prompt_tokens INTEGER NOT NULL,
    input INTEGER NOT NULL,
    cache_read INTEGER NOT NULL,
    cache_write_5m INTEGER NOT NULL,
    cache_write_1h INTEGER NOT NULL,
    output INTEGER NOT NULL,
    web_search INTEGER NOT NULL,
    us_permille INTEGER NOT NULL,
    fast_permille INTEGER NOT NULL,
    UNIQUE (provider, model, service_tier, valid_from, above_prompt_tokens)
) STRICT;

-- One row for each request sent upstream: written pending, then settled.
CREATE TABLE usage (
    id BLOB PRIMARY KEY,
    tenant_id BLOB NOT NULL,
    instance BLOB NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at INTEGER,
    feature TEXT NOT NULL,
    provider TEXT NOT NULL,
    dialect TEXT NOT NULL,
    key_id BLOB NOT NULL,
    key_name TEXT NOT NULL,
    key_version INTEGER NOT NULL,
    mode TEXT NOT NULL,
    funding TEXT NOT NULL,
    fallback TEXT,
    model_asked TEXT NOT NULL,
    model_served TEXT,
    endpoint TEXT,
    session TEXT,
    prompt TEXT,
    input_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    cache_write_5m_tokens INTEGER NOT NULL,
    cache_write_1h_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    web_searches INTEGER NOT NULL,
    service_tier TEXT NOT NULL,
    speed TEXT NOT NULL,
    us_only INTEGER NOT NULL,
    raw_usage TEXT,
    price_id BLOB,
    cost INTEGER NOT NULL,
    billed INTEGER NOT NULL,
    unpriced INTEGER NOT NULL,
    state TEXT NOT NULL,
    status INTEGER,
    error_code TEXT,
    first_byte_us INTEGER,
    total_us INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_by_tenant ON usage (tenant_id, started_at);
CREATE INDEX usage_pending ON usage (instance) WHERE state = 'pending';

-- Sums by UTC quarter-hour. Text that is absent is '' here, since it is part of the key.
CREATE TABLE usage_rollup (
    tenant_id BLOB NOT NULL,
    bucket INTEGER NOT NULL,
    mode TEXT NOT NULL,
    fallback TEXT NOT NULL,
    feature TEXT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    key_id BLOB NOT NULL,
    endpoint TEXT NOT NULL,
    requests INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    estimated INTEGER NOT NULL,
    unpriced INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    web_searches INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    estimated_cost INTEGER NOT NULL,
    billed INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, bucket, mode, fallback, feature, provider, model, key_id, endpoint)
) STRICT, WITHOUT ROWID;

-- Runs of the process, so that pending rows of one that died can be told from those of one that lives.
CREATE TABLE instance (
    id BLOB PRIMARY KEY,
    beat_at INTEGER NOT NULL
) STRICT;

-- What every process caches, by tenant (nil UUID: the platform), and when it last changed.
CREATE TABLE config_version (
    owner_id BLOB PRIMARY KEY,
    version INTEGER NOT NULL,
    changed_at INTEGER NOT NULL
) STRICT;
CREATE INDEX config_version_by_change ON config_version (changed_at);

-- Append-only; each chain is linked by a keyed hash. chain is a tenant, or the nil UUID.
CREATE TABLE audit_log (
    chain BLOB NOT NULL,
    seq INTEGER NOT NULL,
    at INTEGER NOT NULL,
    actor_id BLOB,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    detail TEXT NOT NULL,
    address TEXT,
    request_id BLOB,
    link BLOB NOT NULL,
    PRIMARY KEY (chain, seq)
) STRICT;

CREATE TABLE chain_head (
    chain BLOB PRIMARY KEY,
    seq INTEGER NOT NULL,
    link BLOB NOT NULL
) STRICT;
