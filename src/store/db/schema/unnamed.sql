-- System tables of local.db: stored files that no record names, until they go.
-- Released: never change, append a step instead.

CREATE TABLE _unnamed (
    path TEXT PRIMARY KEY NOT NULL,
    -- When it was first found without a row, in milliseconds since 1970.
    found_ms INTEGER NOT NULL
) STRICT;
