//! Files of runs: an export imported under other row ids, conflicts, and damaged files.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Seek as _, Write as _};

use rusqlite::Connection;
use rusqlite::types::Value as Cell;

use super::{Adopted, Exported, TABLES, adopt, export, remove};
use crate::base::error::Result;
use crate::base::ids;
use crate::services::workflows::codes::RunStatus;
use crate::services::workflows::offline::cancel_children;
use crate::services::workflows::run_id::NodeTag;
use crate::services::workflows::runs::{NewRun, RunEnd, RunStarter};
use crate::services::workflows::sql::sql;
use crate::services::workflows::steps::StepOutcome;
use crate::services::workflows::tests::schema::empty_database;
use crate::services::workflows::tx::{Effects, Lease, Run, Tx};
use crate::services::workflows::waits::{WakeCondition, WakeTime};

mod older;

const NOW: i64 = 1_700_000_000_000;

/// A database of a node, in memory.
struct Node {
    db: Connection,
    name: &'static str,
    random_u64: u64,
}

impl Node {
    fn new(name: &'static str) -> Node {
        let db = empty_database();
        Node {
            db,
            name,
            random_u64: 0,
        }
    }

    fn tx<T>(&mut self, body: impl FnOnce(&mut Tx<'_>) -> T) -> T {
        let random_u64 = &mut self.random_u64;
        let mut random = || {
            *random_u64 += 1;
            *random_u64
        };
        body(&mut Tx {
            db: &self.db,
            now: NOW,
            node: NodeTag::of(self.name),
            random: &mut random,
            effects: Effects::default(),
        })
    }

    fn make(&mut self, new: &NewRun) -> Run {
        self.tx(|tx| {
            let made = tx.create_run(new, None).unwrap();
            tx.run_by_id(made.id).unwrap().unwrap()
        })
    }

    fn find(&mut self, run: &str) -> Run {
        self.tx(|tx| tx.run(run).unwrap().unwrap())
    }

    /// Dispatches a run.
    fn lease(&mut self, run: &str) -> Lease {
        let found = self.find(run);
        self.tx(|tx| {
            let epoch = tx.lease_job(found.id, "1", "w").unwrap();
            tx.start_run(&found, "1").unwrap();
            Lease {
                run: found.run,
                epoch,
            }
        })
    }

    fn end(&mut self, run: &str, end: RunEnd<'_>) {
        let found = self.find(run);
        self.tx(|tx| tx.end_run(&found, end).unwrap());
    }

    fn export(&self, all: bool) -> (Exported, File) {
        let mut bytes = Vec::new();
        let exported = export(&self.db, self.name, all, &mut bytes).unwrap();
        (exported, file_of(&bytes))
    }

    /// Imports a file in a transaction.
    fn adopt(&self, file: &File) -> Result<Adopted> {
        self.db.execute_batch("BEGIN").unwrap();
        let adopted = adopt(&self.db, file.try_clone().unwrap());
        let end = if adopted.is_ok() {
            "COMMIT"
        } else {
            "ROLLBACK"
        };
        self.db.execute_batch(end).unwrap();
        adopted
    }

    fn count(&self, table: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM {table}");
        self.db.query_row(&sql, [], |row| row.get(0)).unwrap()
    }

    /// All rows as strings, with the public ids of runs in place of row ids.
    fn content(&self, tables: &[&str]) -> Vec<String> {
        let name = |number: &Cell| {
            let sql = "SELECT run FROM runs WHERE id = ?1";
            let found = self
                .db
                .query_row(sql, [number], |row| row.get::<_, String>(0));
            found.unwrap_or_else(|_| format!("{number:?}"))
        };
        let mut content = Vec::new();
        for table in TABLES.iter().filter(|table| tables.contains(&table.name)) {
            let sql = format!("SELECT * FROM {}", table.name);
            let mut statement = self.db.prepare(&sql).unwrap();
            let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
            let mut rows = statement.query([]).unwrap();
            while let Some(row) = rows.next().unwrap() {
                let kind: i64 = row.get("kind").unwrap_or(0);
                let mut line = table.name.to_owned();
                for (at, column) in columns.iter().enumerate() {
                    let cell: Cell = row.get(at).unwrap();
                    let is_link = match column.as_str() {
                        "run" => table.name != "runs",
                        "parent" | "root" | "child" => true,
                        "info" => matches!(kind, 7 | 9 | 10),
                        _ => false,
                    };
                    line += &match (is_link, column.as_str()) {
                        (_, "id") => String::new(),
                        (true, _) if cell != Cell::Null => format!(" {column}={}", name(&cell)),
                        _ => format!(" {column}={cell:?}"),
                    };
                }
                content.push(line);
            }
        }
        content.sort();
        content
    }

    /// Run, state, epoch and possession of the concurrency key, for all jobs.
    fn jobs(&self) -> Vec<(String, i64, i64, bool)> {
        let sql = "SELECT r.run, state, j.epoch, holds_key FROM jobs j JOIN runs r ON r.id = j.run
                   ORDER BY r.run";
        let mut statement = self.db.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        });
        rows.unwrap().map(|it| it.unwrap()).collect()
    }

    fn state(&self, run: &str) -> (i64, bool) {
        let job = self.jobs().into_iter().find(|job| job.0 == run).unwrap();
        (job.1, job.3)
    }

    /// Runs all ready jobs and wakes all sleeps; every run must end.
    fn drain(&mut self) {
        for _ in 0..1_000 {
            self.tx(|tx| while cancel_children(tx).unwrap() {});
            self.db
                .execute(
                    sql!("UPDATE jobs SET due = 0 WHERE state IN ({JobState::TIMED}) AND due IS NOT NULL"),
                    [],
                )
                .unwrap();
            self.tx(|tx| {
                for run in tx.due_runs(100).unwrap() {
                    tx.wake_due(run).unwrap();
                }
            });
            let Some(ready) = self.jobs().into_iter().find(|job| job.1 == 1) else {
                break;
            };
            self.lease(&ready.0);
            self.end(&ready.0, RunEnd::Completed("1"));
        }
        assert_eq!(self.jobs(), [], "runs that cannot go on");
    }
}

fn file_of(bytes: &[u8]) -> File {
    let name = format!("vski-runs-{}", ids::hex(&ids::random_bytes::<8>().unwrap()));
    let path = std::env::temp_dir().join(name);
    let mut file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    std::fs::remove_file(&path).unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

fn bytes_of(mut file: &File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
    bytes
}

fn new(workflow: &str) -> NewRun {
    NewRun::new(workflow, "{\"a\": [1,  2], \"t\": \"\\u0000\u{e9}\\n\"}")
}

/// The ids of the runs of a node with one of everything.
struct Ids {
    parent: String,
    child: String,
    ended_child: String,
    detached: String,
    over: String,
    failed: String,
    cancelled: String,
    orphan: String,
    keyed: [String; 3],
}

fn busy(node: &mut Node) -> Ids {
    let over = node.make(&new("old")).run;
    node.lease(&over);
    node.end(&over, RunEnd::Completed("7"));
    let failed = node.make(&once()).run;
    node.lease(&failed);
    node.end(&failed, RunEnd::Failed(r#"{"kind":"fatal"}"#));
    let (parent, [child, ended_child, detached]) = family(node);
    let cancelled = node.make(&new("order"));
    node.lease(&cancelled.run);
    let orphan = node.tx(|tx| tx.start_child(&cancelled, "c#0", &new("part"), false));
    node.end(&cancelled.run, RunEnd::Cancelled("\"\""));
    let keyed = [None, None, Some(NOW + 1_000)].map(|run_at| {
        let keyed = NewRun { run_at, ..keyed() };
        node.make(&keyed).run
    });
    node.lease(&keyed[0]);
    Ids {
        parent,
        child,
        ended_child,
        detached,
        over,
        failed,
        cancelled: cancelled.run,
        orphan: orphan.unwrap().0,
        keyed,
    }
}

fn once() -> NewRun {
    let idempotency_key = Some("once".to_owned());
    NewRun {
        idempotency_key,
        caller: Some(RunStarter::Account("users/ann".to_owned())),
        ..new("order")
    }
}

fn keyed() -> NewRun {
    let concurrency_key = Some("k".to_owned());
    NewRun {
        concurrency_key,
        ..new("shop")
    }
}

fn sleep() -> [WakeCondition; 1] {
    let (key, until) = ("s#0".to_owned(), WakeTime::In(60_000));
    [WakeCondition::Sleep { key, until }]
}

/// A run that sleeps, with a hook, a stream, and runs of its own: a child, an ended child, and a
/// detached run.
fn family(node: &mut Node) -> (String, [String; 3]) {
    let parent = node.make(&new("order"));
    let lease = node.lease(&parent.run);
    let children = node.tx(|tx| {
        let outcome = StepOutcome::Ok("{\"x\":  1}");
        tx.report_step(&lease, "a#0", "a", None, outcome).unwrap();
        let children = [("c#0", false), ("c#1", false), ("d#0", true)];
        let children = children.map(|(key, is_detached)| {
            let started = tx.start_child(&parent, key, &new("part"), is_detached);
            started.unwrap().0
        });
        let hook = tx.create_hook(&parent, "h#0", Some("token-1"), Some("{}"));
        hook.unwrap().unwrap();
        tx.receive("token-1", "[1]").unwrap();
        let sql = "INSERT INTO chunks VALUES (?1, 'log', 0, 'x\ny', 1)";
        tx.db.execute(sql, [parent.id]).unwrap();
        children
    });
    node.lease(&children[1]);
    node.end(&children[1], RunEnd::Completed("\"done\""));
    node.tx(|tx| {
        let seen = tx.last_seq(parent.id).unwrap();
        tx.park(&parent, seen, &sleep()).unwrap();
    });
    (parent.run, children)
}

const ALL: [&str; 8] = [
    "runs",
    "hooks",
    "jobs",
    "events",
    "steps",
    "waits",
    "chunks",
    "cancelling",
];

#[test]
fn everything_comes_out_as_it_went_in_under_other_numbers() {
    let mut from = Node::new("a");
    let ids = busy(&mut from);
    let mut to = Node::new("b");
    for _ in 0..5 {
        to.make(&new("other"));
    }
    to.drain();
    let before = to.content(&ALL);
    let (exported, file) = from.export(true);
    assert_eq!(exported.runs.len() as i64, from.count("runs"));
    let adopted = to.adopt(&file).unwrap();
    assert_eq!(
        (adopted.runs, adopted.unfinished),
        (exported.runs.len(), exported.unfinished)
    );
    assert_eq!(
        (adopted.node.as_str(), adopted.here, adopted.refused),
        ("a", 0, 0)
    );

    let but_jobs: Vec<&str> = ALL.into_iter().filter(|it| *it != "jobs").collect();
    let before: BTreeSet<String> = before.into_iter().collect();
    let mut come = to.content(&but_jobs);
    come.retain(|line| !before.contains(line));
    assert_eq!(come, from.content(&but_jobs));
    // A leased job is ready again, under the epoch that it had.
    let mut jobs = from.jobs();
    for job in &mut jobs {
        job.1 = if job.1 == 2 { 1 } else { job.1 };
    }
    assert_eq!(to.jobs(), jobs);
    assert_eq!(to.state(&ids.keyed[0]), (1, true));
    assert_eq!(to.state(&ids.keyed[1]), (4, false));
    assert_eq!(to.lease(&ids.keyed[0]).epoch, 2);

    // A payload, the end of a child, and all other events wake them here.
    let parent = to.find(&ids.parent);
    assert_eq!(to.tx(|tx| tx.receive("token-1", "2").unwrap()), parent.id);
    to.end(&ids.keyed[0], RunEnd::Completed("1"));
    to.end(&ids.child, RunEnd::Completed("3"));
    let step = to.tx(|tx| tx.step(parent.id, "c#0").unwrap().unwrap());
    assert!(step.status.is_terminal());
    to.drain();
    assert_eq!(to.find(&ids.orphan).status, RunStatus::Cancelled);
    assert_eq!(to.find(&ids.detached).status, RunStatus::Completed);
}

#[test]
fn what_has_ended_comes_along_only_where_something_unfinished_is_linked_to_it() {
    let mut from = Node::new("a");
    let ids = busy(&mut from);
    let (exported, file) = from.export(false);
    let mut to = Node::new("b");
    let adopted = to.adopt(&file).unwrap();
    assert_eq!(adopted.runs, exported.runs.len());
    assert_eq!(adopted.unfinished, 7);
    for run in [
        &ids.parent,
        &ids.child,
        &ids.ended_child,
        &ids.cancelled,
        &ids.orphan,
    ] {
        to.find(run);
    }
    for run in [&ids.over, &ids.failed] {
        assert!(to.tx(|tx| tx.run(run).unwrap()).is_none());
    }
    assert_eq!(to.count("cancelling"), 1);
    to.drain();
}

#[test]
fn a_second_time_nothing_is_taken_and_nothing_changes() {
    let mut from = Node::new("a");
    let ids = busy(&mut from);
    let (exported, file) = from.export(true);
    let mut to = Node::new("b");
    to.adopt(&file).unwrap();
    to.lease(&ids.keyed[0]);
    to.end(&ids.keyed[0], RunEnd::Completed("1"));
    // A deleted run is not imported again while its related runs exist.
    let gone = to.find(&ids.ended_child).id;
    remove(&to.db, &[gone]).unwrap();
    let before = to.content(&ALL);
    let again = to.adopt(&file).unwrap();
    assert_eq!(
        (again.runs, again.here, again.refused),
        (0, exported.runs.len(), 0)
    );
    assert_eq!(to.content(&ALL), before);
    // Nor does the import change the node that wrote the file.
    let before = from.content(&ALL);
    assert_eq!(from.adopt(&file).unwrap().here, exported.runs.len());
    assert_eq!(from.content(&ALL), before);
}

#[test]
fn what_is_in_the_way_keeps_a_run_out_with_all_that_belongs_to_it() {
    let mut from = Node::new("a");
    let ids = busy(&mut from);
    let (_, file) = from.export(true);

    let mut to = Node::new("b");
    let other = to.make(&new("order"));
    to.lease(&other.run);
    to.tx(|tx| {
        tx.create_hook(&other, "x#0", Some("token-1"), None)
            .unwrap()
            .unwrap()
    });
    let first = to.make(&once()).run;
    let adopted = to.adopt(&file).unwrap();
    assert_eq!(
        adopted.reasons,
        [
            format!(
                "{} is left out: its idempotency key once is already used by {first} here.",
                ids.failed
            ),
            format!(
                "{} is left out: the token token-1 of a hook is already used by {} here.",
                ids.parent, other.run
            ),
        ]
    );
    // The parent with both children, and the failed run.
    assert_eq!(adopted.refused, 4);
    assert!(to.tx(|tx| tx.run(&ids.child).unwrap()).is_none());
    to.find(&ids.detached);
    to.find(&ids.orphan);

    // After the conflict is resolved, they are imported.
    to.tx(|tx| tx.dispose_hook(&other, "x#0").unwrap());
    let adopted = to.adopt(&file).unwrap();
    assert_eq!((adopted.runs, adopted.refused), (3, 1));
    let parent = to.find(&ids.parent);
    assert_eq!(
        to.find(&ids.child).parent,
        Some((parent.id, "c#0".to_owned()))
    );
    to.end(&other.run, RunEnd::Completed("1"));
    to.drain();
}

#[test]
fn of_a_concurrency_key_one_run_is_under_way_after_any_mixture() {
    // The number of runs of the key here and there, and the actions of the first one there.
    for (here, there, begins) in [
        (0, 3, true),
        (1, 2, true),
        (2, 2, false),
        (3, 1, true),
        (0, 1, false),
    ] {
        let mut from = Node::new("a");
        let runs: Vec<String> = (0..there).map(|_| from.make(&keyed()).run).collect();
        if begins {
            from.lease(&runs[0]);
            let run = from.find(&runs[0]);
            from.tx(|tx| tx.park(&run, 2, &sleep()).unwrap());
        }
        let mut to = Node::new("b");
        for _ in 0..here {
            to.make(&keyed());
        }
        to.adopt(&from.export(false).1).unwrap();
        let jobs = to.jobs();
        assert_eq!(jobs.len(), here + there);
        assert_eq!(jobs.iter().filter(|job| job.3).count(), 1, "{jobs:?}");
        assert!(jobs.iter().all(|job| job.3 || job.1 != 1), "{jobs:?}");
        to.drain();
    }
}

#[test]
fn a_file_that_is_not_as_it_was_written_is_refused_whole() {
    let mut from = Node::new("a");
    busy(&mut from);
    let bytes = bytes_of(&from.export(true).1);
    let to = Node::new("b");
    let refused = |bytes: &[u8]| to.adopt(&file_of(bytes)).unwrap_err().to_string();
    for end in (0..bytes.len() - 1).step_by(53) {
        refused(&bytes[..end]);
    }
    let last = bytes[..bytes.len() - 1]
        .iter()
        .rposition(|byte| *byte == b'\n')
        .unwrap();
    assert!(refused(&bytes[..=last]).contains("truncated"));
    for at in (0..bytes.len() - 1)
        .step_by(47)
        .chain(last..bytes.len() - 1)
    {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        refused(&changed);
    }
    assert!(refused(&[&bytes[..], b"\n"].concat()).contains("damaged"));
    assert!(refused(b"{}\n").contains("not written by vski"));
    assert_eq!(to.count("runs") + to.count("events"), 0);

    // Complete, but of a later format.
    let text = String::from_utf8(bytes).unwrap();
    let later = text.replacen("\"version\":1", "\"version\":2", 1);
    assert!(refused(later.as_bytes()).contains("format 2"));
}

#[test]
fn what_is_removed_leaves_nothing() {
    let mut from = Node::new("a");
    busy(&mut from);
    let (exported, file) = from.export(true);
    let before = from.content(&["runs", "events", "steps", "hooks", "waits", "chunks"]);
    remove(&from.db, &exported.runs).unwrap();
    for table in ALL {
        assert_eq!(from.count(table), 0, "{table}");
    }
    // And the original node can import it again.
    from.adopt(&file).unwrap();
    assert_eq!(
        from.content(&["runs", "events", "steps", "hooks", "waits", "chunks"]),
        before
    );
}

#[test]
fn a_link_to_a_deleted_run_stays_a_link_to_none() {
    let mut from = Node::new("a");
    let ids = busy(&mut from);
    let gone = [from.find(&ids.ended_child).id, from.find(&ids.cancelled).id];
    remove(&from.db, &gone).unwrap();
    let mut node = Node::new("b");
    node.adopt(&from.export(false).1).unwrap();
    // Through a third node, which assigns other row ids again.
    let mut to = Node::new("c");
    to.make(&new("other"));
    to.adopt(&node.export(false).1).unwrap();
    for node in [&mut node, &mut to] {
        let parent = node.find(&ids.parent).id;
        let child = node.tx(|tx| tx.step(parent, "c#1").unwrap().unwrap().child);
        assert!(child.is_some_and(|child| child < 0));
        let sql = "SELECT count(*) FROM events WHERE run = ?1 AND info = ?2 AND key = 'c#1'";
        let events: i64 = node
            .db
            .query_row(sql, [Some(parent), child], |row| row.get(0))
            .unwrap();
        assert_eq!(events, 2, "made and ended");
        assert!(node.find(&ids.orphan).parent.is_none());
        node.drain();
    }
}
