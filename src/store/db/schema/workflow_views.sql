-- Readable views for operators: words instead of codes (see workflows::codes), and times as RFC 3339. vski itself does not use them.

CREATE VIEW runs_view AS
SELECT r.id, r.run, r.workflow, r.version,
       CASE r.status WHEN 0 THEN 'pending' WHEN 1 THEN 'running' WHEN 2 THEN 'completed' WHEN 3 THEN 'failed'
                     WHEN 4 THEN 'cancelled' END AS status,
       p.run AS parent, r.idempotency_key, r.concurrency_key, r.priority, r.attributes,
       strftime('%Y-%m-%dT%H:%M:%fZ', r.created / 1000.0, 'unixepoch') AS created,
       strftime('%Y-%m-%dT%H:%M:%fZ', r.started / 1000.0, 'unixepoch') AS started,
       strftime('%Y-%m-%dT%H:%M:%fZ', r.ended / 1000.0, 'unixepoch') AS ended,
       strftime('%Y-%m-%dT%H:%M:%fZ', r.expires / 1000.0, 'unixepoch') AS expires,
       r.caller
FROM runs r LEFT JOIN runs p ON p.id = r.parent;

CREATE VIEW jobs_view AS
SELECT r.run, j.workflow, j.version,
       CASE j.state WHEN 0 THEN 'waiting' WHEN 1 THEN 'ready' WHEN 2 THEN 'leased' WHEN 3 THEN 'paused'
                    WHEN 4 THEN 'blocked' WHEN 5 THEN 'delayed' END AS state,
       j.priority, strftime('%Y-%m-%dT%H:%M:%fZ', j.due / 1000.0, 'unixepoch') AS due,
       j.epoch, j.lost, j.retries, j.concurrency_key, j.holds_key, j.worker, j.note
FROM jobs j JOIN runs r ON r.id = j.run;

CREATE VIEW steps_view AS
SELECT r.run, s.key, s.name,
       CASE s.status WHEN 0 THEN 'pending' WHEN 1 THEN 'running' WHEN 2 THEN 'completed' WHEN 3 THEN 'failed'
                     WHEN 4 THEN 'cancelled' END AS status,
       s.attempt,
       strftime('%Y-%m-%dT%H:%M:%fZ', s.started / 1000.0, 'unixepoch') AS started,
       strftime('%Y-%m-%dT%H:%M:%fZ', s.ended / 1000.0, 'unixepoch') AS ended,
       strftime('%Y-%m-%dT%H:%M:%fZ', s.retry / 1000.0, 'unixepoch') AS retry,
       e.data AS result, c.run AS child
FROM steps s JOIN runs r ON r.id = s.run
             LEFT JOIN events e ON e.run = s.run AND e.seq = s.result
             LEFT JOIN runs c ON c.id = s.child;

CREATE VIEW events_view AS
SELECT r.run, e.seq,
       CASE e.kind WHEN 1 THEN 'run_created' WHEN 2 THEN 'run_started' WHEN 3 THEN 'run_completed'
                   WHEN 4 THEN 'run_failed' WHEN 5 THEN 'run_cancelled' WHEN 6 THEN 'attr_set'
                   WHEN 7 THEN 'step_created' WHEN 8 THEN 'step_started' WHEN 9 THEN 'step_completed'
                   WHEN 10 THEN 'step_failed' WHEN 11 THEN 'step_retrying' WHEN 12 THEN 'hook_created'
                   WHEN 13 THEN 'hook_received' WHEN 14 THEN 'hook_disposed' WHEN 15 THEN 'hook_conflict'
                   WHEN 16 THEN 'wait_created' WHEN 17 THEN 'wait_completed' WHEN 18 THEN 'run_resumed'
                   WHEN 19 THEN 'run_retrying' END AS kind,
       e.key, e.data, e.info, e.n AS attempt,
       strftime('%Y-%m-%dT%H:%M:%fZ', e.at / 1000.0, 'unixepoch') AS at
FROM events e JOIN runs r ON r.id = e.run;
