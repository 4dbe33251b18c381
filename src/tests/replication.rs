//! Applies random changes of every kind to a master, through its writer and through another
//! connection, while a replica follows and readers read on both.
//!
//! The oracle is equality of every page once the writer pauses. Readers check invariants that no
//! reader may see broken: the counter row equals the number of rows, and a transaction sees one
//! version from beginning to end. `VSKI_CASES` sets the number of changes (default: a few hundred),
//! `VSKI_SEED` the seed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;

use super::cluster::Node;
use super::rng::{Rng, rounds};
use crate::app::App;
use crate::base::error::{Error, Kind};
use crate::base::threads;
use crate::base::threads::Stop;
use crate::store::db::pages::PageReader;

/// The database under test.
const NAME: &str = "fuzz";
/// Changes between two comparisons.
const STRETCH: usize = 12;

const SCHEMA: &str = "
    CREATE TABLE entries (id INTEGER PRIMARY KEY, k TEXT, n INTEGER, v BLOB);
    CREATE INDEX entries_k ON entries (k);
    CREATE TABLE counter (n INTEGER NOT NULL);
    INSERT INTO counter VALUES (0);
    CREATE TRIGGER entries_in AFTER INSERT ON entries BEGIN UPDATE counter SET n = n + 1; END;
    CREATE TRIGGER entries_out AFTER DELETE ON entries BEGIN UPDATE counter SET n = n - 1; END;";

#[test]
fn a_replica_is_the_master_page_for_page_whatever_is_done_to_it() {
    rounds("a_replica_is_the_master", 120, |rng, left| {
        let cases = left.min(1000);
        let mut master = Node::start(None);
        master.app().create_database(NAME).unwrap();
        let path = master.app().databases.file(NAME);
        outside(&path).execute_batch(SCHEMA).unwrap();
        let mut replica = Node::start(Some(master.port()));
        master.awaits(&replica, NAME);

        let reads = Arc::new(AtomicU64::new(0));
        let mut readers = Readers::start(&replica, &reads);
        for case in 0..cases {
            let pin = PageReader::open(&path).unwrap();
            // A long read on the master prevents a reset of its WAL.
            let pinned = rng.one_in(8).then(|| pin.snapshot().unwrap());
            change(rng, master.app(), &path);
            drop(pinned);
            if case % STRETCH == STRETCH - 1 {
                compare(&master, &replica, &path);
            }
            if rng.one_in(100) {
                master.stop();
                if rng.one_in(3) {
                    shorten(&path, rng);
                }
                master.run();
            }
            if rng.one_in(150) {
                readers.stop();
                replica.stop();
                replica.run();
                readers = Readers::start(&replica, &reads);
            }
        }
        compare(&master, &replica, &path);
        readers.stop();
        eprintln!("{cases} changes, {} reads", reads.load(Ordering::Relaxed));
        cases
    });
}

/// A connection that the server does not know.
#[expect(
    clippy::disallowed_methods,
    reason = "stands for another program that uses the database"
)]
fn outside(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_millis(300)).unwrap();
    connection
}

#[track_caller]
fn compare(master: &Node, replica: &Node, path: &Path) {
    master.awaits(replica, NAME);
    let check: String = outside(&replica.app().databases.file(NAME))
        .query_row("PRAGMA integrity_check(5)", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok", "{}", path.display());
    let status = replica.app().replica().unwrap().status();
    let repairs: u64 = status.databases.iter().map(|it| it.repairs).sum();
    assert_eq!(repairs, 0, "no repair was needed: {status:?}");
}

/// Simulates a restored backup, or a WAL that lost its end in a power failure: fewer rows, and
/// schema counters that are reused for other schemas.
fn shorten(path: &Path, rng: &mut Rng) {
    let connection = outside(path);
    connection
        .execute("DELETE FROM entries WHERE id % 3 = 0", [])
        .unwrap();
    let cookie: i64 = connection
        .query_row("PRAGMA schema_version", [], |row| row.get(0))
        .unwrap();
    let _ = connection.execute_batch("DROP TABLE IF EXISTS swapped; CREATE TABLE swapped (a, b);");
    let back = cookie - i64::try_from(rng.below(3)).unwrap();
    connection
        .pragma_update(None, "schema_version", back.max(1))
        .unwrap();
}

/// One random change.
fn change(rng: &mut Rng, app: &App, path: &Path) {
    if rng.percent(25) {
        return change_outside(rng, path);
    }
    let sql = match rng.below(16) {
        0..6 => insert(rng),
        6 | 7 => format!("DELETE FROM entries WHERE id % {} = 0", 2 + rng.below(9)),
        8 => format!(
            "UPDATE entries SET n = n + 1, k = hex(randomblob(6)) WHERE id % {} = 0",
            1 + rng.below(20)
        ),
        9 => format!(
            "UPDATE entries SET v = randomblob({}) WHERE id % 50 = 0",
            rng.below(9000)
        ),
        10 => schema_change(rng),
        11 => full_text(rng),
        12 => "ANALYZE".to_owned(),
        13 => "REINDEX".to_owned(),
        14 => format!(
            "SAVEPOINT a; {}; SAVEPOINT b; {}; ROLLBACK TO b; RELEASE a",
            insert(rng),
            insert(rng)
        ),
        _ => return fail_after_much(app),
    };
    let database = app.databases.get(NAME).unwrap();
    let result = database.write(move |tx| Ok(tx.execute_batch(&sql)?));
    // A statement that does not fit the current schema fails and changes nothing.
    if let Err(error) = result {
        assert!(
            matches!(
                error.kind(),
                Kind::Internal | Kind::Conflict | Kind::Invalid
            ),
            "{error}"
        );
    }
}

fn insert(rng: &mut Rng) -> String {
    let bytes = *rng.pick(&[10, 200, 200, 3000, 20_000]);
    format!(
        "WITH RECURSIVE i(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM i WHERE x < {})
         INSERT INTO entries (k, n, v) SELECT hex(randomblob(5)), x, randomblob({bytes}) FROM i",
        rng.between(1, 60)
    )
}

fn schema_change(rng: &mut Rng) -> String {
    let name = format!("t{}", rng.below(4));
    match rng.below(8) {
        0 => format!("CREATE TABLE {name} (a, b); INSERT INTO {name} VALUES (1, 'x')"),
        1 => format!("DROP TABLE IF EXISTS {name}"),
        2 => format!("CREATE TABLE {name} (a PRIMARY KEY, b) WITHOUT ROWID"),
        3 => format!("ALTER TABLE {name} ADD COLUMN c{}", rng.below(50)),
        4 => format!("ALTER TABLE {name} RENAME TO u{}", rng.below(1000)),
        5 => "DROP INDEX entries_k; CREATE INDEX entries_k ON entries (k, n)".to_owned(),
        // The root page of one table becomes that of another.
        6 => format!("DROP TABLE IF EXISTS {name}; CREATE TABLE {name} (x, y, z)"),
        _ => format!("CREATE VIEW IF NOT EXISTS v{name} AS SELECT k FROM entries"),
    }
}

fn full_text(rng: &mut Rng) -> String {
    match rng.below(5) {
        0 => "CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (w)".to_owned(),
        1 => "INSERT INTO words SELECT k || ' word' FROM entries LIMIT 50".to_owned(),
        2 => "INSERT INTO words (words) VALUES ('optimize')".to_owned(),
        3 => "DELETE FROM words WHERE rowid % 2 = 0".to_owned(),
        _ => "INSERT INTO words (words) VALUES ('rebuild')".to_owned(),
    }
}

/// A job that writes more than the page cache holds and then fails; its pages are in the WAL
/// already.
fn fail_after_much(app: &App) {
    let database = app.databases.get(NAME).unwrap();
    let result: Result<(), Error> = database.write(|tx| {
        tx.execute_batch(
            "WITH RECURSIVE i(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM i WHERE x < 600)
             INSERT INTO entries (k, n, v) SELECT 'gone', x, randomblob(20000) FROM i",
        )?;
        Err(Error::invalid("after all not"))
    });
    assert_eq!(result.unwrap_err().kind(), Kind::Invalid);
}

/// A change by another program. It fails when the server holds a lock, as it would in reality.
fn change_outside(rng: &mut Rng, path: &Path) {
    let connection = outside(path);
    let sql = match rng.below(10) {
        0 | 1 => insert(rng),
        2 => "VACUUM".to_owned(),
        3 => format!("PRAGMA auto_vacuum = {}; VACUUM", rng.below(3)),
        4 => format!("PRAGMA incremental_vacuum({})", rng.below(30)),
        5 => "PRAGMA wal_checkpoint(RESTART)".to_owned(),
        6 => "PRAGMA wal_checkpoint(TRUNCATE)".to_owned(),
        7 => format!(
            "PRAGMA wal_autocheckpoint = 5; {}; {}",
            insert(rng),
            insert(rng)
        ),
        8 => "DELETE FROM entries WHERE id > 5; VACUUM".to_owned(),
        _ => format!(
            "PRAGMA cache_size = 5; BEGIN; {}; {}; ROLLBACK",
            insert(rng),
            insert(rng)
        ),
    };
    let _ = connection.execute_batch(&sql);
}

/// Threads that read on a replica without pause.
struct Readers {
    stop: Stop,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    fn start(replica: &Node, reads: &Arc<AtomicU64>) -> Readers {
        let stop = Stop::new();
        let read = |work: fn(&App, u64)| {
            let (app, stop, reads) = (Arc::clone(replica.app()), stop.clone(), Arc::clone(reads));
            threads::spawn("reader", move || {
                let mut round = 0;
                while !stop.is_set() {
                    work(&app, round);
                    round += 1;
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            })
            .unwrap()
        };
        let threads = vec![read(check_counter), read(check_counter), read(check_pinned)];
        Readers { stop, threads }
    }

    fn stop(self) {
        self.stop.set();
        for thread in self.threads {
            thread.join().expect("no reader saw anything wrong");
        }
    }
}

/// In one statement and in one transaction, the counter equals the number of rows.
fn check_counter(app: &App, _round: u64) {
    let database = app.databases.get(NAME).unwrap();
    let sql = "SELECT (SELECT n FROM counter), (SELECT count(*) FROM entries),
                      (SELECT count(*) FROM entries WHERE k > '')";
    let (counter, rows, keys): (i64, i64, i64) = database
        .read(|it| {
            let mut statement = it.prepare_cached(sql)?;
            Ok(statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?)
        })
        .unwrap();
    assert_eq!((counter, counter), (rows, keys));
    database
        .snapshot(|it| {
            let count = |sql: &str| it.prepare_cached(sql)?.query_row([], |row| row.get(0));
            let rows: i64 = count("SELECT count(*) FROM entries")?;
            let counter: i64 = count("SELECT n FROM counter")?;
            assert_eq!(counter, rows);
            Ok(())
        })
        .unwrap();
}

/// A transaction sees the same bytes from beginning to end.
fn check_pinned(app: &App, round: u64) {
    let database = app.databases.get(NAME).unwrap();
    database
        .snapshot(|it| {
            let digest = || -> Result<(i64, i64, Option<i64>), Error> {
                let sql = "SELECT count(*), total(length(v)), sum(n) FROM entries";
                let mut statement = it.prepare_cached(sql)?;
                Ok(statement.query_row([], |row| {
                    Ok((row.get(0)?, row.get::<_, f64>(1)? as i64, row.get(2)?))
                })?)
            };
            let before = digest()?;
            Stop::new().wait(Duration::from_millis(round % 80));
            assert_eq!(before, digest()?);
            Ok(())
        })
        .unwrap();
}
