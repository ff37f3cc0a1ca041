-- What is paid of a list price, in thousandths: of a key by whoever owns it, of managed use by the
-- tenant. A request keeps the one that it was rated by.
ALTER TABLE provider_key ADD COLUMN rate_permille INTEGER NOT NULL DEFAULT 1000;
ALTER TABLE tenant ADD COLUMN rate_permille INTEGER NOT NULL DEFAULT 1000;
ALTER TABLE usage ADD COLUMN rate_permille INTEGER NOT NULL DEFAULT 1000;
ALTER TABLE usage_rollup ADD COLUMN list_cost INTEGER NOT NULL DEFAULT 0;
UPDATE usage_rollup SET list_cost = cost;
