-- System tables of local.db: the replicas that were here (VB-2). Not in default.db, which would
-- change with each visit and be replicated for that.
-- Released: never change, append a step instead.

CREATE TABLE _known_replicas (
    id TEXT PRIMARY KEY NOT NULL,
    -- Where its clients reach it, if it says so.
    public_url TEXT,
    first_seen TEXT NOT NULL,
    last_seen TEXT NOT NULL,
    -- It has every file up to this entry of the journal.
    files_acked INTEGER NOT NULL DEFAULT 0
) STRICT;
