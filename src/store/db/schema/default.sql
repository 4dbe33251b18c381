-- System tables of default.db, version 1. Released: never change, append a step instead.

-- Definitions of all collections of all databases (DB-12).
CREATE TABLE _collections (
    id TEXT PRIMARY KEY NOT NULL,
    database TEXT NOT NULL,
    name TEXT NOT NULL,
    type TEXT NOT NULL,
    -- JSON: {fields, indexes, rules, options}, as the API shows them.
    definition TEXT NOT NULL,
    -- What it is being changed to, while its table in another file follows.
    pending TEXT,
    created TEXT NOT NULL,
    updated TEXT NOT NULL,
    -- When it was deleted; its table is kept (DB-14).
    deleted TEXT
) STRICT;

CREATE UNIQUE INDEX _collections_name
    ON _collections (database, name) WHERE deleted IS NULL;

-- Accounts that bypass all rules (AUTH-7).
CREATE TABLE _admins (
    id TEXT PRIMARY KEY NOT NULL,
    email TEXT NOT NULL UNIQUE COLLATE NOCASE,
    password_hash TEXT NOT NULL,
    -- Part of every token of this admin; a new value ends them all.
    token_key TEXT NOT NULL,
    created TEXT NOT NULL,
    updated TEXT NOT NULL
) STRICT;
