-- System tables of default.db: the journal of files that replicas follow (FR-2). Only a master with
-- local storage writes it (FR-3).
-- Released: never change, append a step instead.

CREATE TABLE _file_journal (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- database/collection/record/name
    path TEXT NOT NULL,
    op TEXT NOT NULL CHECK (op IN ('add', 'delete')),
    size INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    created TEXT NOT NULL
) STRICT;

CREATE INDEX _file_journal_created ON _file_journal (created);
