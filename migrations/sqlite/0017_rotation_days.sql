-- After how many days a tenant's keys are due for rotation; 0: never.
ALTER TABLE tenant ADD COLUMN rotation_days INTEGER NOT NULL DEFAULT 90;
