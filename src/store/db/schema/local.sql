-- System tables of local.db, version 1: what concerns this node alone and is never replicated.
-- Released: never change, append a step instead.

-- Facts about this node, by name.
CREATE TABLE _node (
    name TEXT PRIMARY KEY NOT NULL,
    value TEXT NOT NULL
) STRICT;
