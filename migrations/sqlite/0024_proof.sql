-- Since when it is known that whoever has the account has the address; sessions that began before
-- sessions_from are over, also those that were being made when they were ended.
ALTER TABLE app_user ADD COLUMN proved_at INTEGER;
ALTER TABLE app_user ADD COLUMN sessions_from INTEGER NOT NULL DEFAULT 0;
UPDATE app_user SET proved_at = created_at;
-- Whether the link went to the address by e-mail, and to nobody else.
ALTER TABLE invitation ADD COLUMN mailed INTEGER NOT NULL DEFAULT 0;
