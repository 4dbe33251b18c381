-- Workflows of this node. Times are milliseconds since 1970; codes are those of workflows::codes.

CREATE TABLE node (
  name  TEXT PRIMARY KEY,
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- AUTOINCREMENT: an id is never used again, so that nothing can mean a later run.
CREATE TABLE runs (
  id              INTEGER PRIMARY KEY AUTOINCREMENT,
  run             TEXT    NOT NULL UNIQUE,
  workflow        TEXT    NOT NULL,
  version         TEXT    NOT NULL,             -- '' until a worker has it
  status          INTEGER NOT NULL,
  parent          INTEGER,
  parent_key      TEXT,
  root            INTEGER,
  depth           INTEGER NOT NULL,
  idempotency_key TEXT,
  concurrency_key TEXT,
  priority        INTEGER NOT NULL,
  attributes      TEXT    NOT NULL,
  created         INTEGER NOT NULL,
  started         INTEGER,
  ended           INTEGER,
  expires         INTEGER,
  epoch           INTEGER NOT NULL DEFAULT 0,   -- of its last hand-out, once it has ended
  resumed         INTEGER NOT NULL DEFAULT 0    -- the event since which failures count
) STRICT;
CREATE UNIQUE INDEX runs_idempotency ON runs (workflow, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX runs_workflow ON runs (workflow, status);
CREATE INDEX runs_name ON runs (workflow);
CREATE INDEX runs_status ON runs (status);
CREATE INDEX runs_parent ON runs (parent) WHERE parent IS NOT NULL;
CREATE INDEX runs_ended ON runs (ended) WHERE ended IS NOT NULL;
CREATE INDEX runs_failed ON runs (ended) WHERE status = 3;
CREATE INDEX runs_expires ON runs (expires) WHERE expires IS NOT NULL AND ended IS NULL;

-- What has happened; everything else follows from it and is written with it.
CREATE TABLE events (
  run  INTEGER NOT NULL,
  seq  INTEGER NOT NULL,
  kind INTEGER NOT NULL,
  key  TEXT    NOT NULL,
  data TEXT,                                    -- JSON
  info INTEGER,                                 -- a time, or the child that it is about
  n    INTEGER,                                 -- the attempt
  at   INTEGER NOT NULL,
  PRIMARY KEY (run, seq)
) STRICT, WITHOUT ROWID;
-- Once for each key: what begins, and what is good for ever.
CREATE UNIQUE INDEX events_once ON events (run, kind, key) WHERE kind IN (1, 9, 12, 14, 16, 17);
CREATE INDEX events_attributes ON events (run, key) WHERE kind = 6;

-- One row for each run that has not ended.
CREATE TABLE jobs (
  run             INTEGER PRIMARY KEY,
  workflow        TEXT    NOT NULL,
  version         TEXT    NOT NULL,
  state           INTEGER NOT NULL,
  priority        INTEGER NOT NULL,
  due             INTEGER,                      -- parked: when it wakes by itself; ready: since when
  epoch           INTEGER NOT NULL,
  lost            INTEGER NOT NULL,             -- workers lost in a row
  retries         INTEGER NOT NULL,             -- failures of the whole that were tried again
  concurrency_key TEXT,
  holds_key       INTEGER NOT NULL,
  worker          TEXT    NOT NULL,             -- who had it last
  note            TEXT                          -- why it is paused
) STRICT;
CREATE INDEX jobs_ready ON jobs (workflow, version, priority DESC, due, run) WHERE state = 1;
CREATE INDEX jobs_due ON jobs (due) WHERE state IN (0, 5) AND due IS NOT NULL;
CREATE INDEX jobs_leased ON jobs (run) WHERE state = 2;
CREATE INDEX jobs_blocked ON jobs (workflow, concurrency_key, priority DESC, run) WHERE state = 4;
-- At most one run of a key is under way.
CREATE UNIQUE INDEX jobs_key ON jobs (workflow, concurrency_key) WHERE holds_key = 1;

CREATE TABLE steps (
  run     INTEGER NOT NULL,
  key     TEXT    NOT NULL,
  name    TEXT    NOT NULL,
  status  INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  started INTEGER,
  ended   INTEGER,
  retry   INTEGER,                              -- not before
  result  INTEGER,                              -- the event that has its output or latest error
  child   INTEGER,                              -- it is a run of its own
  PRIMARY KEY (run, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE waits (
  run   INTEGER NOT NULL,
  key   TEXT    NOT NULL,
  until INTEGER NOT NULL,
  ended INTEGER,
  PRIMARY KEY (run, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE hooks (
  run      INTEGER NOT NULL,
  key      TEXT    NOT NULL,
  token    TEXT    NOT NULL,
  metadata TEXT,
  disposed INTEGER,
  PRIMARY KEY (run, key)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX hooks_token ON hooks (token) WHERE disposed IS NULL;

CREATE TABLE chunks (
  run  INTEGER NOT NULL,
  name TEXT    NOT NULL,
  idx  INTEGER NOT NULL,
  data TEXT    NOT NULL,
  last INTEGER NOT NULL,
  PRIMARY KEY (run, name, idx)
) STRICT, WITHOUT ROWID;

-- Cancelled runs whose children are still to be cancelled.
CREATE TABLE cancelling (
  run INTEGER PRIMARY KEY
) STRICT;
