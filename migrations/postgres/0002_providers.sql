-- More providers: what a key version needs beside its secret and URL (JSON), and what a key is for
-- (JSON lists; absent means everything).
ALTER TABLE key_version ADD COLUMN settings TEXT;
ALTER TABLE provider_key ADD COLUMN for_features TEXT;
ALTER TABLE provider_key ADD COLUMN for_models TEXT;

-- Token kinds that other providers report. Their prices are those of text where they are absent.
ALTER TABLE usage ADD COLUMN audio_input_tokens BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage ADD COLUMN audio_output_tokens BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage ADD COLUMN tool_tokens BIGINT NOT NULL DEFAULT 0;
ALTER TABLE price ADD COLUMN audio_input BIGINT;
ALTER TABLE price ADD COLUMN audio_output BIGINT;
