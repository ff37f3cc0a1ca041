-- After how many days a tenant's keys are due for rotation; 0: never.
ALTER TABLE tenant ADD COLUMN rotation_days BIGINT NOT NULL DEFAULT 90;
