-- System tables of default.db: jobs that run by the clock.
-- Released: never change, append a step instead.

CREATE TABLE _cron (
    id TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL UNIQUE,
    -- 'sql', 'http', 'workflow'.
    type TEXT NOT NULL,
    -- Five fields, and the time zone that they are in; '' is UTC.
    schedule TEXT NOT NULL,
    time_zone TEXT NOT NULL,
    active INTEGER NOT NULL,
    -- JSON: what to do.
    spec TEXT NOT NULL,
    created TEXT NOT NULL,
    updated TEXT NOT NULL
) STRICT;
