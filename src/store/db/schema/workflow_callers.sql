-- Who started a run by the rule of a collection: an account, or the network of a caller without one.
ALTER TABLE runs ADD COLUMN caller TEXT;
CREATE INDEX runs_caller ON runs (caller) WHERE caller IS NOT NULL AND ended IS NULL;
