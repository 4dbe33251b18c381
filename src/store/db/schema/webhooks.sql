-- System tables of default.db and of every tenant: calls to others.
-- Released: never change, append a step instead.

-- Webhooks that are no trigger of a collection.
CREATE TABLE _webhooks (
    id TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL UNIQUE,
    active INTEGER NOT NULL,
    -- The name of the collection whose changes it is for, '*' for all of them; NULL: it is called by hand.
    collection TEXT,
    -- Names of actions, each in blanks: ' create update '.
    actions TEXT NOT NULL,
    -- JSON: whom to call, and how.
    spec TEXT NOT NULL,
    created TEXT NOT NULL,
    updated TEXT NOT NULL
) STRICT;

-- Calls that are to be made, and what became of those that were made. Written in the transaction that
-- causes the call.
CREATE TABLE _webhook_logs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- 'trigger', 'webhook', 'cron', and the name of the latter two.
    source TEXT NOT NULL,
    name TEXT NOT NULL,
    -- The change that caused it; empty when none did.
    collection TEXT NOT NULL,
    action TEXT NOT NULL,
    record TEXT NOT NULL,
    -- The URL, or 'workflow:' and a name.
    target TEXT NOT NULL,
    -- Who is called: host and port, or 'workflow'. Calls to one do not hold up those to another.
    host TEXT NOT NULL,
    -- Keeps what must be queued only once from being queued twice.
    dedupe TEXT UNIQUE,
    status TEXT NOT NULL CHECK (status IN ('pending', 'success', 'failed')),
    -- Attempts that were made.
    attempts INTEGER NOT NULL DEFAULT 0,
    -- When the next one is due, in milliseconds since 1970; means something while it is pending.
    due_ms INTEGER NOT NULL,
    -- Of the last attempt: HTTP status, what went wrong, the beginning of the answer.
    code INTEGER,
    error TEXT NOT NULL DEFAULT '',
    answer TEXT NOT NULL DEFAULT '',
    created_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL,
    -- JSON: whom to call, and how, as that was at the time.
    spec TEXT NOT NULL,
    -- JSON: what is sent, unless the spec has a body of its own. The last column, for it may be long and
    -- most looks do not need it.
    payload TEXT NOT NULL
) STRICT;

-- The next calls of each host are found without a look at those that wait for another.
CREATE INDEX _webhook_logs_due ON _webhook_logs (host, due_ms, id) WHERE status = 'pending';
CREATE INDEX _webhook_logs_ended ON _webhook_logs (status, updated_ms) WHERE status <> 'pending';
