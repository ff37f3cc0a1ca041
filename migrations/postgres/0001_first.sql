-- The first schema. Ids are UUIDs, times are microseconds since the Unix epoch, money is in nanodollars.

CREATE TABLE plan (
    id UUID PRIMARY KEY,
    slug TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL
);

CREATE TABLE feature (
    slug TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    covered BOOLEAN NOT NULL,
    default_model TEXT,
    position INTEGER NOT NULL
);

CREATE TABLE plan_feature (
    plan_id UUID NOT NULL REFERENCES plan (id),
    feature_slug TEXT NOT NULL REFERENCES feature (slug),
    PRIMARY KEY (plan_id, feature_slug)
);

CREATE TABLE tenant (
    id UUID PRIMARY KEY,
    slug TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    plan_id UUID NOT NULL REFERENCES plan (id),
    state TEXT NOT NULL,
    key_changers TEXT NOT NULL,
    time_zone TEXT NOT NULL,
    mode TEXT NOT NULL,
    funding TEXT NOT NULL,
    no_key_policy TEXT NOT NULL,
    limit_policy TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

-- Dated entries: usage before a change keeps the mode in which it ran.
CREATE TABLE mode_change (
    id UUID PRIMARY KEY,
    tenant_id UUID NOT NULL REFERENCES tenant (id),
    mode TEXT NOT NULL,
    at BIGINT NOT NULL
);
CREATE INDEX mode_change_by_tenant ON mode_change (tenant_id, at);

-- A row means that the tenant's master switch for the feature is off.
CREATE TABLE feature_switched_off (
    tenant_id UUID NOT NULL REFERENCES tenant (id),
    feature_slug TEXT NOT NULL REFERENCES feature (slug),
    PRIMARY KEY (tenant_id, feature_slug)
);

CREATE TABLE app_user (
    id UUID PRIMARY KEY,
    email TEXT NOT NULL UNIQUE,
    platform_role TEXT,
    password_hash TEXT NOT NULL,
    disabled_at BIGINT,
    created_at BIGINT NOT NULL
);

CREATE TABLE membership (
    user_id UUID NOT NULL REFERENCES app_user (id),
    tenant_id UUID NOT NULL REFERENCES tenant (id),
    role TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (user_id, tenant_id)
);
CREATE INDEX membership_by_tenant ON membership (tenant_id);

-- The cookie holds the key; only its hash is kept here.
CREATE TABLE session (
    id UUID PRIMARY KEY,
    key_hash BYTEA NOT NULL UNIQUE,
    user_id UUID REFERENCES app_user (id),
    state TEXT NOT NULL,
    address TEXT,
    agent TEXT,
    created_at BIGINT NOT NULL,
    seen_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX session_by_user ON session (user_id);
CREATE INDEX session_by_expiry ON session (expires_at);

-- Browsers that an account has signed in from before, by blinded name.
CREATE TABLE known_device (
    user_id UUID NOT NULL REFERENCES app_user (id),
    device TEXT NOT NULL,
    seen_at BIGINT NOT NULL,
    PRIMARY KEY (user_id, device)
);

CREATE TABLE sign_in_failure (
    bucket TEXT PRIMARY KEY,
    failures INTEGER NOT NULL,
    last_at BIGINT NOT NULL
);

-- One-time links: first set-up and password resets.
CREATE TABLE one_time_link (
    token_hash BYTEA PRIMARY KEY,
    purpose TEXT NOT NULL,
    user_id UUID REFERENCES app_user (id),
    expires_at BIGINT NOT NULL
);

-- tenant_id is NULL for service tokens.
CREATE TABLE access_token (
    id UUID PRIMARY KEY,
    tenant_id UUID REFERENCES tenant (id),
    name TEXT NOT NULL,
    token_hash BYTEA NOT NULL UNIQUE,
    hint TEXT NOT NULL,
    scopes TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    last_used_at BIGINT,
    revoked_at BIGINT
);
CREATE INDEX access_token_by_tenant ON access_token (tenant_id);

-- One row: the root secret, which also shows whether the keyring is the right one.
CREATE TABLE root_secret (
    id INTEGER PRIMARY KEY,
    sealed BYTEA NOT NULL
);

-- owner_id is a tenant, or the nil UUID for the platform's shared keys.
CREATE TABLE owner_key (
    owner_id UUID PRIMARY KEY,
    sealed BYTEA NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE provider_key (
    id UUID PRIMARY KEY,
    owner_id UUID NOT NULL,
    provider TEXT NOT NULL,
    name TEXT NOT NULL,
    label TEXT,
    is_default BOOLEAN NOT NULL,
    current_version INTEGER NOT NULL,
    disabled_at BIGINT,
    disabled_by TEXT,
    removed_at BIGINT,
    created_at BIGINT NOT NULL,
    created_by UUID,
    created_by_name TEXT NOT NULL
);
CREATE UNIQUE INDEX provider_key_by_name ON provider_key (owner_id, name) WHERE removed_at IS NULL;

CREATE TABLE key_version (
    key_id UUID NOT NULL REFERENCES provider_key (id),
    version INTEGER NOT NULL,
    custom_url TEXT,
    sealed BYTEA,
    hint TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    state TEXT NOT NULL,
    state_since BIGINT NOT NULL,
    state_until BIGINT,
    rejections INTEGER NOT NULL,
    probe_at BIGINT,
    created_at BIGINT NOT NULL,
    created_by_name TEXT NOT NULL,
    checked_at BIGINT,
    replaced_at BIGINT,
    destroy_at BIGINT,
    PRIMARY KEY (key_id, version)
);
CREATE INDEX key_version_to_probe ON key_version (probe_at) WHERE probe_at IS NOT NULL;
CREATE INDEX key_version_to_destroy ON key_version (destroy_at) WHERE destroy_at IS NOT NULL;

CREATE TABLE key_use (
    key_id UUID PRIMARY KEY REFERENCES provider_key (id),
    last_used_at BIGINT NOT NULL
);

-- Rates in picodollars per token, and per search for web_search.
CREATE TABLE price (
    id UUID PRIMARY KEY,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    service_tier TEXT NOT NULL,
    valid_from BIGINT NOT NULL,
    above_prompt_tokens BIGINT NOT NULL,
    input BIGINT NOT NULL,
    cache_read BIGINT NOT NULL,
    cache_write_5m BIGINT NOT NULL,
    cache_write_1h BIGINT NOT NULL,
    output BIGINT NOT NULL,
    web_search BIGINT NOT NULL,
    us_permille BIGINT NOT NULL,
    fast_permille BIGINT NOT NULL,
    UNIQUE (provider, model, service_tier, valid_from, above_prompt_tokens)
);

-- One row for each request sent upstream: written pending, then settled.
CREATE TABLE usage (
    id UUID PRIMARY KEY,
    tenant_id UUID NOT NULL,
    instance UUID NOT NULL,
    started_at BIGINT NOT NULL,
    ended_at BIGINT,
    feature TEXT NOT NULL,
    provider TEXT NOT NULL,
    dialect TEXT NOT NULL,
    key_id UUID NOT NULL,
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
    input_tokens BIGINT NOT NULL,
    cache_read_tokens BIGINT NOT NULL,
    cache_write_5m_tokens BIGINT NOT NULL,
    cache_write_1h_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    reasoning_tokens BIGINT NOT NULL,
    web_searches BIGINT NOT NULL,
    service_tier TEXT NOT NULL,
    speed TEXT NOT NULL,
    us_only BOOLEAN NOT NULL,
    raw_usage TEXT,
    price_id UUID,
    cost BIGINT NOT NULL,
    billed BIGINT NOT NULL,
    unpriced BOOLEAN NOT NULL,
    state TEXT NOT NULL,
    status INTEGER,
    error_code TEXT,
    first_byte_us BIGINT,
    total_us BIGINT
);
CREATE INDEX usage_by_tenant ON usage (tenant_id, started_at);
CREATE INDEX usage_pending ON usage (instance) WHERE state = 'pending';

-- Sums by UTC quarter-hour. Text that is absent is '' here, since it is part of the key.
CREATE TABLE usage_rollup (
    tenant_id UUID NOT NULL,
    bucket BIGINT NOT NULL,
    mode TEXT NOT NULL,
    fallback TEXT NOT NULL,
    feature TEXT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    key_id UUID NOT NULL,
    endpoint TEXT NOT NULL,
    requests BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    estimated BIGINT NOT NULL,
    unpriced BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    cache_read_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    web_searches BIGINT NOT NULL,
    cost BIGINT NOT NULL,
    estimated_cost BIGINT NOT NULL,
    billed BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, bucket, mode, fallback, feature, provider, model, key_id, endpoint)
);

-- Runs of the process, so that pending rows of one that died can be told from those of one that lives.
CREATE TABLE instance (
    id UUID PRIMARY KEY,
    beat_at BIGINT NOT NULL
);

-- What every process caches, by tenant (nil UUID: the platform), and when it last changed.
CREATE TABLE config_version (
    owner_id UUID PRIMARY KEY,
    version BIGINT NOT NULL,
    changed_at BIGINT NOT NULL
);
CREATE INDEX config_version_by_change ON config_version (changed_at);

-- Append-only; each chain is linked by a keyed hash. chain is a tenant, or the nil UUID.
CREATE TABLE audit_log (
    chain UUID NOT NULL,
    seq BIGINT NOT NULL,
    at BIGINT NOT NULL,
    actor_id UUID,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    detail TEXT NOT NULL,
    address TEXT,
    request_id UUID,
    link BYTEA NOT NULL,
    PRIMARY KEY (chain, seq)
);

CREATE TABLE chain_head (
    chain UUID PRIMARY KEY,
    seq BIGINT NOT NULL,
    link BYTEA NOT NULL
);
