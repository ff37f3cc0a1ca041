-- What was decided long ago is found without a look at every row.
CREATE INDEX question_decided ON question (decided_at) WHERE decided_at IS NOT NULL;
CREATE INDEX generation_decided ON generation (decided_at) WHERE decided_at IS NOT NULL;
