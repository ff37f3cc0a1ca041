-- Which plan a tenant was on since when, so that a month is charged by the plans of that month.
CREATE TABLE plan_change (
    tenant_id BLOB NOT NULL REFERENCES tenant (id),
    at INTEGER NOT NULL,
    plan_id BLOB NOT NULL REFERENCES plan (id),
    PRIMARY KEY (tenant_id, at)
) STRICT;
INSERT INTO plan_change (tenant_id, at, plan_id) SELECT id, created_at, plan_id FROM tenant;
-- A plan that is removed keeps its name and its price for the months in which somebody was on it.
ALTER TABLE plan ADD COLUMN removed_at INTEGER;
