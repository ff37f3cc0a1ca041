-- A master switch opens and closes a group of features: for one tenant, or for all of them.
ALTER TABLE feature ADD COLUMN switch TEXT NOT NULL DEFAULT '';
UPDATE feature SET switch = 'ai_' || REPLACE(slug, '-', '_') || '_enabled';

-- The most tokens that one request of it may take in and give out; both or none.
ALTER TABLE feature ADD COLUMN budget_input BIGINT;
ALTER TABLE feature ADD COLUMN budget_output BIGINT;

-- Switches that are off; the nil UUID is the platform, whose switches are everybody's.
CREATE TABLE switch_off (
    owner_id UUID NOT NULL,
    switch TEXT NOT NULL,
    PRIMARY KEY (owner_id, switch)
);
INSERT INTO switch_off SELECT tenant_id, 'ai_' || REPLACE(feature_slug, '-', '_') || '_enabled' FROM feature_switched_off;

-- What one tenant may do although its plan or the platform's switch says otherwise, or may not, for a while.
CREATE TABLE feature_exception (
    tenant_id UUID NOT NULL REFERENCES tenant (id),
    feature_slug TEXT NOT NULL REFERENCES feature (slug),
    opens BOOLEAN NOT NULL,
    until BIGINT NOT NULL,
    reason TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    PRIMARY KEY (tenant_id, feature_slug)
);

-- The model that a tenant has chosen for a feature, in place of the feature's own.
CREATE TABLE feature_model (
    tenant_id UUID NOT NULL REFERENCES tenant (id),
    feature_slug TEXT NOT NULL REFERENCES feature (slug),
    model TEXT NOT NULL,
    PRIMARY KEY (tenant_id, feature_slug)
);

-- Models that tenants of a plan may choose from; a plan with none leaves all current ones to them.
CREATE TABLE plan_model (
    plan_id UUID NOT NULL REFERENCES plan (id),
    model TEXT NOT NULL,
    PRIMARY KEY (plan_id, model)
);

CREATE INDEX tenant_name ON tenant (name, id);
