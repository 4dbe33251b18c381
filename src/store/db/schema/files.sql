-- System tables of default.db and of every tenant: the files of records.
-- Released: never change, append a step instead.

-- A file exists if it has a row here: the row is written and deleted together with the record
-- that names it. What lies in the storage without a row is left over.
CREATE TABLE _files (
    -- Id of the collection.
    collection TEXT NOT NULL,
    record TEXT NOT NULL,
    name TEXT NOT NULL,
    size INTEGER NOT NULL,
    -- In hexadecimal.
    sha256 TEXT NOT NULL,
    -- Media type, judged by name and content.
    type TEXT NOT NULL,
    created TEXT NOT NULL,
    PRIMARY KEY (collection, record, name)
) STRICT, WITHOUT ROWID;

-- What is still to be done about files that came or went, in order: to delete them from the
-- storage, and to note both in the journal.
CREATE TABLE _file_outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    op TEXT NOT NULL CHECK (op IN ('add', 'delete')),
    collection TEXT NOT NULL,
    record TEXT NOT NULL,
    name TEXT NOT NULL,
    size INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    created TEXT NOT NULL
) STRICT;
