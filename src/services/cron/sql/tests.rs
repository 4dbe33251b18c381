//! Tests the permissions of scripts on real databases.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

use super::{ScriptScope, check, run};
use crate::base::error::Result;
use crate::model::records;
use crate::store::db;
use crate::store::db::{ConnectionSettings, Database, Schema, Synchronous};

/// A database that is removed at the end.
struct Bench {
    dir: std::path::PathBuf,
    database: Arc<Database>,
}

impl Bench {
    fn new(schema: Schema) -> Bench {
        let dir = std::env::temp_dir().join(crate::base::ids::record_id().unwrap());
        std::fs::create_dir_all(&dir).unwrap();
        let settings = ConnectionSettings {
            role: db::Role::Master,
            synchronous: Synchronous::Normal,
            prepare: records::register,
        };
        let database = Database::open(&dir.join("it.db"), schema, settings).unwrap();
        Bench {
            dir,
            database: Arc::new(database),
        }
    }

    fn sql(&self, sql: &'static str) {
        let result = self.database.write(move |tx| Ok(tx.execute_batch(sql)?));
        result.unwrap();
    }

    fn run(&self, scope: ScriptScope, sql: &str) -> Result<u64> {
        let sql = sql.to_owned();
        let limit = Duration::from_millis(300);
        self.database
            .write_exclusive(limit, move |tx| run(tx, scope, &sql, || false))
    }

    fn number(&self, sql: &str) -> i64 {
        let number = |db: &Connection| Ok(db.query_row(sql, [], |row| row.get(0))?);
        self.database.read(number).unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[track_caller]
fn refused(bench: &Bench, scope: ScriptScope, sql: &str, part: &str) {
    let checked = bench.database.read(|db| check(db, scope, sql));
    let error = checked.expect_err(sql);
    assert!(error.message().contains(part), "{sql}: {}", error.message());
    let error = bench.run(scope, sql).expect_err(sql);
    assert!(error.message().contains(part), "{sql}: {}", error.message());
}

#[test]
fn rows_are_changed_by_all_statements_or_by_none() {
    let bench = Bench::new(Schema::Default);
    bench.sql("CREATE TABLE notes (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)");
    let script = "-- some rows\nINSERT INTO notes (n) VALUES (1), (2), (3); SELECT * FROM notes;
                  UPDATE notes SET n = n + 1 WHERE n > 1; ; DELETE FROM notes WHERE n = 4;";
    assert_eq!(bench.run(ScriptScope::Records, script).unwrap(), 6);
    assert_eq!(bench.number("SELECT sum(n) FROM notes"), 4);
    let half = "DELETE FROM notes; INSERT INTO notes (n) VALUES (NULL)";
    let error = bench.run(ScriptScope::Records, half).unwrap_err();
    assert!(
        error
            .message()
            .contains("NOT NULL constraint failed: notes.n"),
        "{error}"
    );
    assert_eq!(bench.number("SELECT count(*) FROM notes"), 2);
    let whole = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 9)
                 INSERT INTO notes (n) SELECT x FROM c RETURNING id";
    assert_eq!(bench.run(ScriptScope::Records, whole).unwrap(), 9);
}

#[test]
fn what_is_no_change_of_rows_is_refused() {
    let bench = Bench::new(Schema::Default);
    bench.sql("CREATE TABLE notes (id INTEGER PRIMARY KEY AUTOINCREMENT, n)");
    for (sql, part) in [
        ("", "no statement"),
        (" -- nothing\n;", "no statement"),
        ("SELECT ?1", "parameter"),
        (
            "SELEC 1",
            "The script failed: near \"SELEC\": syntax error.",
        ),
        ("DELETE FROM none_such", "no such table: none_such"),
        ("ATTACH 'x.db' AS x", "attach"),
        ("DETACH main", "attach"),
        ("PRAGMA user_version = 7", "use PRAGMA user_version"),
        ("BEGIN", "transactions"),
        ("DELETE FROM notes; COMMIT", "transactions"),
        ("ROLLBACK", "transactions"),
        ("SAVEPOINT job", "transactions"),
        ("ROLLBACK TO job", "transactions"),
        ("RELEASE job", "transactions"),
        ("CREATE TABLE x (y)", "create, alter or drop"),
        ("CREATE TEMP TABLE x (y)", "create, alter or drop"),
        ("CREATE VIEW v AS SELECT 1", "create, alter or drop"),
        (
            "CREATE TRIGGER t AFTER DELETE ON notes BEGIN SELECT 1; END",
            "create, alter or drop",
        ),
        ("CREATE INDEX i ON notes (n)", "create, alter or drop"),
        (
            "CREATE VIRTUAL TABLE v USING dbstat",
            "create, alter or drop",
        ),
        ("DROP TABLE notes", "create, alter or drop"),
        ("ALTER TABLE notes ADD COLUMN z", "create, alter or drop"),
        ("ANALYZE", "create, alter or drop"),
        ("REINDEX", "create, alter or drop"),
        ("INSERT INTO _admins DEFAULT VALUES", "_admins"),
        ("UPDATE _api_keys SET name = ''", "_api_keys"),
        ("DELETE FROM _webhook_logs", "_webhook_logs"),
        (
            "INSERT INTO notes (n) SELECT password_hash FROM _admins",
            "read the system table _admins",
        ),
        ("DELETE FROM sqlite_sequence", "sqlite_sequence"),
        ("SELECT load_extension('x')", "load_extension"),
    ] {
        refused(&bench, ScriptScope::Records, sql, part);
    }
    // SQLite asks when it looks.
    let sql = "SELECT * FROM pragma_table_info('notes')";
    let looked = bench.run(ScriptScope::Records, sql).unwrap_err();
    assert!(
        looked.message().contains("use PRAGMA table_info"),
        "{looked}"
    );
    let pages = bench
        .run(ScriptScope::Records, "SELECT data FROM sqlite_dbpage")
        .unwrap_err();
    assert!(pages.message().contains("prohibited"), "{pages}");
    assert!(bench.run(ScriptScope::Records, "VACUUM").is_err());
    assert!(
        bench
            .run(ScriptScope::Records, "VACUUM INTO 'x.db'")
            .is_err()
    );
    // Afterwards the writer accepts everything again.
    bench.sql("CREATE TABLE more (x)");
    bench.sql("INSERT INTO more VALUES (1)");
    assert_eq!(bench.number("SELECT count(*) FROM more"), 1);
}

#[test]
fn a_script_that_does_not_end_is_stopped_and_does_no_harm() {
    let bench = Bench::new(Schema::Default);
    bench.sql("CREATE TABLE notes (n)");
    let endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) ";
    for rest in [
        "SELECT count(*) FROM c",
        "INSERT INTO notes SELECT x FROM c",
    ] {
        let sql = format!("INSERT INTO notes VALUES (0); {endless} {rest}");
        assert!(bench.run(ScriptScope::Records, &sql).is_err());
        assert_eq!(bench.number("SELECT count(*) FROM notes"), 0);
    }
    // Concurrent writes are not rolled back with it.
    std::thread::scope(|scope| {
        let script = scope.spawn(|| {
            bench.run(
                ScriptScope::Records,
                &format!("{endless} INSERT INTO notes SELECT x FROM c"),
            )
        });
        let writers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..20 {
                        bench.sql("INSERT INTO notes VALUES (1)");
                    }
                })
            })
            .collect();
        assert!(script.join().unwrap().is_err());
        writers
            .into_iter()
            .for_each(|writer| writer.join().unwrap());
    });
    assert_eq!(bench.number("SELECT count(*) FROM notes"), 80);
}

#[test]
fn statistics_may_be_changed_and_runs_that_have_ended_deleted() {
    let stats = Bench::new(Schema::Stats);
    let made = "INSERT INTO _queue VALUES (1, 1, 1, 1, 1, 1); UPDATE _queue SET ready = 2";
    assert_eq!(stats.run(ScriptScope::Stats, made).unwrap(), 2);
    assert_eq!(
        stats
            .run(ScriptScope::Stats, "DELETE FROM _queue WHERE minute < 5")
            .unwrap(),
        1
    );
    refused(
        &stats,
        ScriptScope::Stats,
        "DROP TABLE _queue",
        "create, alter or drop",
    );

    let bench = Bench::new(Schema::Workflows);
    // 1 has ended; 2 runs; 3 has ended, 2 is its parent; 4 has ended, its parent too.
    bench.sql(
        "INSERT INTO runs (id, run, workflow, version, status, parent, depth, priority, attributes, created, ended)
         VALUES (1, 'a', 'w', '', 2, NULL, 0, 0, '', 1, 5), (2, 'b', 'w', '', 1, NULL, 0, 0, '', 1, NULL),
                (3, 'c', 'w', '', 2, 2, 1, 0, '', 1, 5), (4, 'd', 'w', '', 2, 1, 1, 0, '', 1, 5);
         INSERT INTO jobs (run, workflow, version, state, priority, epoch, lost, retries, holds_key, worker)
         VALUES (2, 'w', '', 1, 0, 0, 0, 0, 0, '');
         INSERT INTO events (run, seq, kind, key, at) VALUES (1, 1, 1, '', 1), (2, 1, 1, '', 1), (3, 1, 1, '', 1);
         INSERT INTO steps (run, key, name, status, attempt) VALUES (1, 's', 's', 1, 1), (2, 's', 's', 1, 1);",
    );
    for (sql, part) in [
        ("DELETE FROM jobs", "delete from any table but runs"),
        ("DELETE FROM events", "delete from any table but runs"),
        (
            "UPDATE runs SET ended = 1",
            "change workflows except by deleting runs",
        ),
        (
            "INSERT INTO cancelling VALUES (1)",
            "change workflows except by deleting runs",
        ),
        (
            "INSERT OR REPLACE INTO runs (id) VALUES (2)",
            "change workflows except by deleting runs",
        ),
        ("DROP TRIGGER temp.cron_stays", ""),
    ] {
        let error = bench.run(ScriptScope::Workflows, sql).unwrap_err();
        assert!(error.message().contains(part), "{sql}: {error}");
    }
    assert_eq!(
        bench
            .run(ScriptScope::Workflows, "DELETE FROM runs")
            .unwrap(),
        4
    );
    assert_eq!(
        bench.number("SELECT group_concat(id, '') = '23' FROM runs"),
        1
    );
    assert_eq!(
        bench.number("SELECT group_concat(run, '') = '23' FROM events"),
        1
    );
    assert_eq!(bench.number("SELECT count(*) FROM steps WHERE run = 1"), 0);
    // The triggers are dropped, however the script ended.
    bench.sql("DELETE FROM runs");
    assert_eq!(bench.number("SELECT count(*) FROM runs"), 0);
}

/// Statements that are denied because they use secrets of accounts, and the reasons.
const ABOUT_SECRETS: [(&str, &str); 28] = [
    ("SELECT * FROM {}", "read password of the accounts"),
    ("SELECT PASSWORD FROM {}", "read password"),
    ("SELECT \"_Token_Key\" FROM main.{}", "read _token_key"),
    ("SELECT x._token_key FROM {} AS x", "read _token_key"),
    ("SELECT 1 FROM {} WHERE password > 'a'", "read password"),
    (
        "SELECT email FROM {} ORDER BY _token_key",
        "read _token_key",
    ),
    ("SELECT count(password) FROM {}", "read password"),
    (
        "WITH w AS (SELECT * FROM {}) SELECT id FROM w WHERE password = ''",
        "read",
    ),
    ("INSERT INTO notes SELECT * FROM {}", "read password"),
    (
        "UPDATE notes SET a = (SELECT _token_key FROM {})",
        "read _token_key",
    ),
    (
        "UPDATE notes SET a = it.password FROM {} AS it",
        "read password",
    ),
    (
        "SELECT it.id FROM {} AS it JOIN doors USING (password)",
        "join accounts",
    ),
    (
        "SELECT it.id FROM {} AS it NATURAL JOIN doors",
        "join accounts",
    ),
    (
        "SELECT password FROM doors FULL JOIN {} USING (password)",
        "read password",
    ),
    (
        "SELECT doors.id FROM doors JOIN \"{}\" AS it /* */ uSiNg(id)",
        "join accounts",
    ),
    (
        "UPDATE {} SET password = 'x'",
        "write password of the accounts",
    ),
    (
        "UPDATE {} SET (email, _token_key) = ('x', 'y')",
        "write _token_key",
    ),
    ("UPDATE {} SET email = password", "read password"),
    (
        "UPDATE {} SET email = '' RETURNING password",
        "read password",
    ),
    ("DELETE FROM {} RETURNING *", "read password"),
    ("DELETE FROM {} WHERE _token_key = 'key'", "read _token_key"),
    (
        "INSERT INTO {} (id, email) VALUES ('b', 'b')",
        "insert accounts into",
    ),
    (
        "INSERT INTO {} (id, password) VALUES ('b', 'b')",
        "insert accounts into",
    ),
    ("REPLACE INTO {} (id) VALUES ('a')", "insert accounts into"),
    (
        "INSERT INTO {} (id) VALUES ('a') ON CONFLICT DO UPDATE SET password = 'x'",
        "insert accounts into",
    ),
    (
        "CREATE TABLE copy AS SELECT * FROM {}",
        "create, alter or drop",
    ),
    (
        "ALTER TABLE {} RENAME COLUMN password TO x",
        "create, alter or drop",
    ),
    ("ALTER TABLE {} RENAME TO x", "create, alter or drop"),
];

/// Scripts could once read, copy and overwrite the secrets of accounts in collections without a
/// leading underscore, and could use no column of `_users`, because the name of the table decided.
/// Now the columns decide.
#[test]
fn of_accounts_all_is_used_but_what_they_sign_in_with() {
    let bench = Bench::new(Schema::Default);
    for name in ["_users", "staff"] {
        let made = format!(
            "CREATE TABLE {name} (id TEXT PRIMARY KEY NOT NULL, email TEXT, verified INTEGER, password TEXT, _token_key TEXT);
             INSERT INTO {name} VALUES ('a', 'a@example.com', 0, 'hash', 'key')"
        );
        bench
            .database
            .write(move |tx| Ok(tx.execute_batch(&made)?))
            .unwrap();
    }
    // A base collection may have a field of this name.
    bench.sql("CREATE TABLE doors (id TEXT, password TEXT)");
    bench.sql("CREATE TABLE notes (id TEXT, a, b, c, d)");
    bench.sql("CREATE VIEW shown AS SELECT password AS harmless FROM staff");
    bench.sql(
        "CREATE TRIGGER copying AFTER DELETE ON notes BEGIN
             INSERT INTO doors (password) SELECT _token_key FROM staff; END",
    );
    for name in ["_users", "staff"] {
        for (sql, part) in ABOUT_SECRETS {
            refused(&bench, ScriptScope::Records, &sql.replace("{}", name), part);
        }
        let rest = format!(
            "UPDATE {name} SET verified = 1, email = lower(email) WHERE id = 'a';
             INSERT INTO notes (a) SELECT email FROM {name} WHERE verified"
        );
        assert_eq!(bench.run(ScriptScope::Records, &rest).unwrap(), 2);
        let count = format!("SELECT count(*), id, rowid FROM {name} GROUP BY id");
        bench.run(ScriptScope::Records, &count).unwrap();
    }
    refused(
        &bench,
        ScriptScope::Records,
        "SELECT * FROM shown",
        "read password",
    );
    refused(
        &bench,
        ScriptScope::Records,
        "DELETE FROM notes",
        "read _token_key",
    );
    bench.sql("DROP TRIGGER copying");
    let doors = "INSERT INTO doors (password) VALUES ('open'); SELECT * FROM doors";
    assert_eq!(bench.run(ScriptScope::Records, doors).unwrap(), 1);
    for name in ["_users", "staff"] {
        let gone = format!("DELETE FROM {name} WHERE verified");
        assert_eq!(bench.run(ScriptScope::Records, &gone).unwrap(), 1);
    }
}
