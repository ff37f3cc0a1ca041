-- A repeated POST is told again where the thing that it made is found.
ALTER TABLE idempotency ADD COLUMN location TEXT;
