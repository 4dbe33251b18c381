-- System tables of local.db: what this node has done of the jobs in _cron of default.db.
-- Released: never change, append a step instead.

-- How far each job has come here: until when all that was due has been run, or passed over.
CREATE TABLE _cron_state (
    job TEXT PRIMARY KEY NOT NULL,
    -- The schedule and time zone that it was counted with; others begin anew.
    schedule TEXT NOT NULL,
    done_until_ms INTEGER NOT NULL,
    -- The same before the clock was set back by much; see src/cron/core.rs.
    ahead_until_ms INTEGER NOT NULL
) STRICT;

-- The last runs of each job.
CREATE TABLE _cron_runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    job TEXT NOT NULL,
    -- The time that it was due; NULL: by hand.
    due_ms INTEGER,
    started_ms INTEGER NOT NULL,
    ended_ms INTEGER,
    -- 'running', 'success', 'failed', 'skipped'.
    status TEXT NOT NULL,
    -- What went wrong, or what was done.
    message TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE INDEX _cron_runs_job ON _cron_runs (job, id);
