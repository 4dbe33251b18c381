-- System tables of default.db and of every tenant: changes of records whose calls are not in
-- _webhook_logs yet.
-- Released: never change, append a step instead.

-- The calls that one kind of change of a collection makes. A change of webhooks or triggers ends a list;
-- a later change of a record makes another. Changes that wait keep the list that was in force.
CREATE TABLE _webhook_lists (
    id INTEGER PRIMARY KEY,
    -- The name of the collection; NULL: the list has ended.
    collection TEXT,
    action TEXT NOT NULL,
    -- Digest of the triggers of the collection; a list of other triggers has ended.
    triggers TEXT NOT NULL,
    -- Number of the calls, and the bytes of their rows without payloads.
    calls INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    -- JSON: name of the webhook, empty for a trigger, and spec of each.
    specs TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX _webhook_lists_current ON _webhook_lists (collection, action) WHERE collection IS NOT NULL;

-- One row for each change that makes calls, written in its transaction, in the order of the changes.
CREATE TABLE _webhook_outbox (
    id INTEGER PRIMARY KEY,
    -- The list of its calls, in _webhook_lists.
    list INTEGER NOT NULL,
    collection TEXT NOT NULL,
    action TEXT NOT NULL,
    record TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    payload TEXT NOT NULL
) STRICT;

CREATE TRIGGER _webhooks_inserted AFTER INSERT ON _webhooks BEGIN
    UPDATE _webhook_lists SET collection = NULL WHERE collection IS NOT NULL;
END;
CREATE TRIGGER _webhooks_updated AFTER UPDATE ON _webhooks BEGIN
    UPDATE _webhook_lists SET collection = NULL WHERE collection IS NOT NULL;
END;
CREATE TRIGGER _webhooks_deleted AFTER DELETE ON _webhooks BEGIN
    UPDATE _webhook_lists SET collection = NULL WHERE collection IS NOT NULL;
END;
