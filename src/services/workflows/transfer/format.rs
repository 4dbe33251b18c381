//! The format of the file: its head, its last line, and the rows of each table.

pub const FORMAT: &str = "vski-workflows";
pub const VERSION: i64 = 1;
/// The start of the last line.
pub const END: &str = r#"{"sha256":"#;

/// A table with rows of runs.
pub struct ExportTable {
    pub name: &'static str,
    /// Selects the rows of a run.
    pub select: &'static str,
    /// Inserts a row; the parameters have the names of the columns.
    pub insert: &'static str,
    pub delete: &'static str,
}

/// Parents precede the rows that refer to them.
pub const TABLES: [ExportTable; 8] = [
    ExportTable {
        name: "runs",
        select: "SELECT id AS number, run, workflow, version, status, parent, parent_key, root, depth,
                        idempotency_key, concurrency_key, priority, attributes, created, started, ended,
                        expires, epoch, resumed, caller
                 FROM runs WHERE id = ?1",
        insert: "INSERT INTO runs (run, workflow, version, status, parent, parent_key, root, depth,
                                   idempotency_key, concurrency_key, priority, attributes, created, started,
                                   ended, expires, epoch, resumed, caller)
                 VALUES (:run, :workflow, :version, :status, :parent, :parent_key, :root, :depth,
                         :idempotency_key, :concurrency_key, :priority, :attributes, :created, :started,
                         :ended, :expires, :epoch, :resumed, :caller)",
        delete: "DELETE FROM runs WHERE id = ?1",
    },
    ExportTable {
        name: "hooks",
        select: "SELECT run, key, token, metadata, disposed FROM hooks WHERE run = ?1 ORDER BY key",
        insert: "INSERT INTO hooks (run, key, token, metadata, disposed)
                 VALUES (:run, :key, :token, :metadata, :disposed)",
        delete: "DELETE FROM hooks WHERE run = ?1",
    },
    ExportTable {
        name: "jobs",
        select: "SELECT run, workflow, version, state, priority, due, epoch, lost, retries, concurrency_key,
                        holds_key, worker, note
                 FROM jobs WHERE run = ?1",
        insert: "INSERT INTO jobs (run, workflow, version, state, priority, due, epoch, lost, retries,
                                   concurrency_key, holds_key, worker, note)
                 VALUES (:run, :workflow, :version, :state, :priority, :due, :epoch, :lost, :retries,
                         :concurrency_key, :holds_key, :worker, :note)",
        delete: "DELETE FROM jobs WHERE run = ?1",
    },
    ExportTable {
        name: "events",
        select: "SELECT run, seq, kind, key, data, info, n, at FROM events WHERE run = ?1 ORDER BY seq",
        insert: "INSERT INTO events (run, seq, kind, key, data, info, n, at)
                 VALUES (:run, :seq, :kind, :key, :data, :info, :n, :at)",
        delete: "DELETE FROM events WHERE run = ?1",
    },
    ExportTable {
        name: "steps",
        select: "SELECT run, key, name, status, attempt, started, ended, retry, result, child
                 FROM steps WHERE run = ?1 ORDER BY key",
        insert: "INSERT INTO steps (run, key, name, status, attempt, started, ended, retry, result, child)
                 VALUES (:run, :key, :name, :status, :attempt, :started, :ended, :retry, :result, :child)",
        delete: "DELETE FROM steps WHERE run = ?1",
    },
    ExportTable {
        name: "waits",
        select: "SELECT run, key, until, ended FROM waits WHERE run = ?1 ORDER BY key",
        insert: "INSERT INTO waits (run, key, until, ended) VALUES (:run, :key, :until, :ended)",
        delete: "DELETE FROM waits WHERE run = ?1",
    },
    ExportTable {
        name: "chunks",
        select: "SELECT run, name, idx, data, last FROM chunks WHERE run = ?1 ORDER BY name, idx",
        insert: "INSERT INTO chunks (run, name, idx, data, last) VALUES (:run, :name, :idx, :data, :last)",
        delete: "DELETE FROM chunks WHERE run = ?1",
    },
    ExportTable {
        name: "cancelling",
        select: "SELECT run FROM cancelling WHERE run = ?1",
        insert: "INSERT INTO cancelling (run) VALUES (:run)",
        delete: "DELETE FROM cancelling WHERE run = ?1",
    },
];
