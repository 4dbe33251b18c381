-- System tables of stats.db: what this node alone has counted, by the minute; never replicated.
-- Released: never change, append a step instead.

-- Requests that were answered.
CREATE TABLE _requests (
    -- Minutes since 1970, UTC.
    minute INTEGER NOT NULL,
    -- Method and pattern of the path.
    route TEXT NOT NULL,
    count INTEGER NOT NULL,
    errors_4xx INTEGER NOT NULL,
    errors_5xx INTEGER NOT NULL,
    -- All of them together, and the longest.
    micros INTEGER NOT NULL,
    micros_max INTEGER NOT NULL,
    -- How many took how long: src/stats/times.rs.
    buckets BLOB NOT NULL,
    PRIMARY KEY (minute, route)
) STRICT, WITHOUT ROWID;

-- Runs of workflows, and their steps.
CREATE TABLE _runs (
    minute INTEGER NOT NULL,
    workflow TEXT NOT NULL,
    started INTEGER NOT NULL,
    completed INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    cancelled INTEGER NOT NULL,
    steps INTEGER NOT NULL,
    steps_failed INTEGER NOT NULL,
    steps_retried INTEGER NOT NULL,
    -- Of those that completed or failed.
    micros INTEGER NOT NULL,
    micros_max INTEGER NOT NULL,
    buckets BLOB NOT NULL,
    PRIMARY KEY (minute, workflow)
) STRICT, WITHOUT ROWID;

-- Runs that have not ended, as they were once in the minute.
CREATE TABLE _queue (
    minute INTEGER PRIMARY KEY,
    ready INTEGER NOT NULL,
    leased INTEGER NOT NULL,
    waiting INTEGER NOT NULL,
    paused INTEGER NOT NULL,
    blocked INTEGER NOT NULL
) STRICT;
