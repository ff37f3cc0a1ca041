-- What each process says of itself when its heart beats, for the status page.
ALTER TABLE instance ADD COLUMN version TEXT NOT NULL DEFAULT '';
ALTER TABLE instance ADD COLUMN started_at INTEGER NOT NULL DEFAULT 0;
-- Through when it has followed what other processes changed.
ALTER TABLE instance ADD COLUMN followed_at INTEGER;
ALTER TABLE instance ADD COLUMN under_way INTEGER NOT NULL DEFAULT 0;
-- The last run of each of its jobs, as JSON.
ALTER TABLE instance ADD COLUMN jobs TEXT NOT NULL DEFAULT '[]';
