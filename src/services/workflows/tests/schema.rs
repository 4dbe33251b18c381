//! An empty database of workflows in memory, and its views.

use rusqlite::Connection;

use crate::services::workflows::codes::{EventKind, JobState, RunStatus, StepStatus};

#[expect(clippy::disallowed_methods, reason = "a database of its own")]
pub fn empty_database() -> Connection {
    let db = Connection::open_in_memory().unwrap();
    for step in [
        include_str!("../../../store/db/schema/workflows.sql"),
        include_str!("../../../store/db/schema/workflow_callers.sql"),
        include_str!("../../../store/db/schema/workflow_views.sql"),
    ] {
        db.execute_batch(step).unwrap();
    }
    db
}

/// An operator who opens the file with `sqlite3` reads the same words as a caller of the API.
#[test]
fn the_views_have_the_words_of_all_codes() {
    let db = empty_database();
    let insert_run = "INSERT INTO runs (id, run, workflow, version, status, depth, priority, attributes, created)
                      VALUES (?1, 'run' || ?1, 'w', '', ?2, 0, 0, '{}', 1700000000123)";
    for id in 0..20 {
        let status = id % 5;
        db.execute(insert_run, [id, status]).unwrap();
    }
    let words = |sql: &str| -> Vec<String> {
        let mut statement = db.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    };
    let expected: Vec<&str> = RunStatus::ALL.iter().map(|(_, word)| *word).collect();
    let sql = "SELECT status FROM runs_view WHERE id < 5 ORDER BY id";
    assert_eq!(words(sql), expected);
    assert_eq!(
        words("SELECT created FROM runs_view WHERE id = 0"),
        ["2023-11-14T22:13:20.123Z"]
    );
    for (state, word) in JobState::ALL {
        let sql = "INSERT INTO jobs (run, workflow, version, state, priority, epoch, lost, retries, holds_key, worker)
                   VALUES (?1, 'w', '', ?1, 0, 0, 0, 0, 0, '')";
        db.execute(sql, [state]).unwrap();
        let sql = format!(
            "SELECT state FROM jobs_view WHERE run = 'run{}'",
            state.code()
        );
        assert_eq!(words(&sql), [*word]);
    }
    for (status, word) in StepStatus::ALL {
        let sql = "INSERT INTO steps (run, key, name, status, attempt) VALUES (0, ?1, 's', ?1, 0)";
        db.execute(sql, [status]).unwrap();
        let sql = format!(
            "SELECT status FROM steps_view WHERE key = '{}'",
            status.code()
        );
        assert_eq!(words(&sql), [*word]);
    }
    for (kind, word) in EventKind::ALL {
        let sql = "INSERT INTO events (run, seq, kind, key, at) VALUES (0, ?1, ?1, '', 0)";
        db.execute(sql, [kind]).unwrap();
        let sql = format!("SELECT kind FROM events_view WHERE seq = {}", kind.code());
        assert_eq!(words(&sql), [*word]);
    }
}
