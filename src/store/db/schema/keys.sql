-- System tables of default.db, version 2: API keys (AUTH-1).
-- Released: never change, append a step instead.

CREATE TABLE _api_keys (
    id TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    -- SHA-256 of the key, in hexadecimal; the key itself is kept nowhere.
    hash TEXT NOT NULL UNIQUE,
    -- JSON list of scope names.
    scopes TEXT NOT NULL,
    -- JSON lists of names; null means all.
    databases TEXT,
    collections TEXT,
    -- Times; null means never.
    expires TEXT,
    last_used TEXT,
    created TEXT NOT NULL
) STRICT;
