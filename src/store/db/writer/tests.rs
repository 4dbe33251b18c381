//! Group commits of a bare connection.
#![expect(clippy::disallowed_methods, reason = "tests of a bare connection")]

use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

use super::{Batching, CommitBarrier, WriteQueue};
use crate::base::error::{Error, Kind, Result};
use crate::base::ids;
use crate::base::threads;
use crate::store::db::connection::wal_bytes;
use crate::store::db::{
    ConnectionSettings, Database, Deadline, Role, Schema, Synchronous, on_commit,
};

const LIMIT: Duration = Duration::from_secs(5);

fn queue() -> Arc<WriteQueue> {
    let mut connection = Connection::open_in_memory().unwrap();
    connection
        .execute_batch("CREATE TABLE t (x UNIQUE)")
        .unwrap();
    let deadline = Deadline::new();
    deadline.attach(&mut connection).unwrap();
    Arc::new(WriteQueue::new(connection, deadline).unwrap())
}

fn insert(queue: &WriteQueue, x: i64) -> Result<usize> {
    queue.write(LIMIT, LIMIT, Batching::Shared, move |c| {
        Ok(c.execute("INSERT INTO t VALUES (?1)", [x])?)
    })
}

fn count(queue: &WriteQueue) -> i64 {
    queue
        .write(LIMIT, LIMIT, Batching::Shared, |c| {
            Ok(c.query_row("SELECT count(*) FROM t", [], |r| r.get(0))?)
        })
        .unwrap()
}

#[test]
fn writers_that_come_together_all_get_their_own_result() {
    let queue = queue();
    let writers: Vec<_> = (0..32)
        .map(|n| {
            let queue = Arc::clone(&queue);
            threads::spawn("writer", move || {
                // Each number is written by two threads: one of them must be refused.
                (0..50)
                    .filter(|i| insert(&queue, (n / 2) * 50 + i).is_ok())
                    .count()
            })
            .unwrap()
        })
        .collect();
    let kept: usize = writers
        .into_iter()
        .map(|writer| writer.join().unwrap())
        .sum();
    assert_eq!(kept, 16 * 50);
    assert_eq!(count(&queue), 16 * 50);
}

#[test]
fn a_panicking_or_failing_job_undoes_only_itself() {
    let queue = queue();
    let panicked: Result<()> = queue.write(LIMIT, LIMIT, Batching::Shared, |c| {
        c.execute("INSERT INTO t VALUES (1)", [])?;
        panic!("a bug in a job");
    });
    assert_eq!(panicked.unwrap_err().kind(), Kind::Internal);
    let failed: Result<()> = queue.write(LIMIT, LIMIT, Batching::Shared, |c| {
        c.execute("INSERT INTO t VALUES (2)", [])?;
        Err(Error::invalid("no"))
    });
    assert_eq!(failed.unwrap_err().message(), "no");
    assert_eq!(count(&queue), 0);
    insert(&queue, 3).unwrap();
    assert_eq!(count(&queue), 1);
}

#[test]
fn hooks_run_after_the_commit_and_only_for_what_was_kept() {
    let queue = queue();
    let (sender, done) = std::sync::mpsc::channel();
    let hook = |text: &'static str| {
        let sender = sender.clone();
        move || sender.send(text).unwrap()
    };
    let commit_barrier = queue.commit_barrier();
    assert!(commit_barrier.has_passed());
    let (first, second, undone) = (hook("first"), hook("second"), hook("undone"));
    let inner = queue.commit_barrier();
    let running = Arc::clone(&queue);
    let begun: CommitBarrier = queue
        .write(LIMIT, LIMIT, Batching::Shared, move |c| {
            c.execute("INSERT INTO t VALUES (1)", [])?;
            on_commit(|| panic!("a bug in a hook"));
            on_commit(first);
            on_commit(second);
            let commit_barrier = running.commit_barrier();
            assert!(!commit_barrier.has_passed());
            Ok(commit_barrier)
        })
        .unwrap();
    assert!(begun.has_passed() && inner.has_passed());
    let failed: Result<()> = queue.write(LIMIT, LIMIT, Batching::Shared, move |_| {
        on_commit(undone);
        Err(Error::invalid("no"))
    });
    assert!(failed.is_err());
    drop(sender);
    assert_eq!(done.iter().collect::<Vec<_>>(), ["first", "second"]);
}

#[test]
fn a_job_that_does_not_get_its_turn_is_refused_and_never_run() {
    let queue = queue();
    let (begin, begun) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let running = Arc::clone(&queue);
    let long = threads::spawn("long", move || {
        running.write(LIMIT, LIMIT, Batching::Exclusive, move |_| {
            begin.send(()).unwrap();
            let _ = ended.recv_timeout(Duration::from_secs(60));
            Ok(())
        })
    });
    begun.recv().unwrap();
    let next = Arc::clone(&queue);
    let next = threads::spawn("next", move || insert(&next, 2)).unwrap();
    let refused: Result<usize> =
        queue.write(Duration::from_millis(20), LIMIT, Batching::Shared, |c| {
            Ok(c.execute("INSERT INTO t VALUES (1)", [])?)
        });
    assert_eq!(refused.unwrap_err().kind(), Kind::Unavailable);
    end.send(()).unwrap();
    long.unwrap().join().unwrap().unwrap();
    next.join().unwrap().unwrap();
    assert_eq!(count(&queue), 1, "the one that could wait");
}

#[test]
fn a_job_that_takes_too_long_is_stopped_and_the_next_one_works() {
    let queue = queue();
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
                   SELECT count(*) FROM n";
    let stopped: Result<i64> = queue.write(
        LIMIT,
        Duration::from_millis(50),
        Batching::Shared,
        move |c| {
            c.execute("INSERT INTO t VALUES (1)", [])?;
            Ok(c.query_row(endless, [], |row| row.get(0))?)
        },
    );
    assert!(stopped.is_err());
    assert_eq!(count(&queue), 0);
    insert(&queue, 1).unwrap();
}

#[test]
fn when_the_disk_is_full_every_job_fails_and_the_next_one_works() {
    let queue = queue();
    let fill: Result<()> = queue.write(LIMIT, LIMIT, Batching::Shared, |c| {
        c.execute_batch("PRAGMA max_page_count = 10")?;
        c.execute("INSERT INTO t VALUES (zeroblob(1000000))", [])?;
        Ok(())
    });
    assert_eq!(fill.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(count(&queue), 0);
    insert(&queue, 1).unwrap();
}

#[test]
fn the_log_of_a_database_that_rests_takes_no_space() {
    let dir = std::env::temp_dir().join(ids::record_id().unwrap());
    std::fs::create_dir(&dir).unwrap();
    let path = dir.join("rests.db");
    let settings = ConnectionSettings {
        role: Role::Master,
        synchronous: Synchronous::Normal,
        prepare: |_, _| Ok(()),
    };
    let database = Database::open(&path, Schema::Tenant, settings).unwrap();
    database
        .write(|tx| Ok(tx.execute_batch("CREATE TABLE t (x)")?))
        .unwrap();
    let insert = || database.write(|tx| Ok(tx.execute("INSERT INTO t VALUES (1)", [])?));
    let in_use = std::cell::Cell::new(0);
    let maintain = || {
        database.maintain().unwrap();
        in_use.set(wal_bytes(&path));
    };
    insert().unwrap();
    maintain();
    assert!(in_use.get() > 0, "it may be written again soon");
    // A reader of the log keeps it.
    database
        .read(|_| {
            maintain();
            Ok(())
        })
        .unwrap();
    maintain();
    assert_eq!(in_use.get(), 0);
    insert().unwrap();
    assert!(wal_bytes(&path) > 0);
    maintain();
    assert!(in_use.get() > 0);
    maintain();
    assert_eq!(in_use.get(), 0);
    let rows: i64 = database
        .read(|db| Ok(db.query_row("SELECT count(*) FROM t", [], |row| row.get(0))?))
        .unwrap();
    assert_eq!(rows, 2);
    database.close().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
}
