-- System tables of a tenant, version 1. Released: never change, append a step instead.

-- The last change of each collection that its table has followed. The definition lies in
-- default.db; this says whether a change that was being made there has happened.
CREATE TABLE _applied (
    collection TEXT PRIMARY KEY NOT NULL,
    updated TEXT NOT NULL
) STRICT;
