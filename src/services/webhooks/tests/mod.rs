//! Tests of call rows on real tables: reading order, updates, deletion and retries; and simulated
//! days of the dispatcher.

use rusqlite::{Connection, params};

use super::core::{CallOutcome, CallState};
use super::logs::LogFilter;
use super::queue::CallUpdate;
use super::{logs, queue, table};
use crate::base::clock;
use crate::base::clock::DAY_MS;
use crate::base::error::Kind;
use crate::base::paging::Page;
use crate::model::triggers::outbox::{CallSource, OutboxEntry, TargetSpec};
use crate::model::triggers::{RecordAction, Target, outbox};

mod changes;
mod sim;

#[expect(clippy::disallowed_methods, reason = "tables alone")]
fn tables() -> Connection {
    let db = Connection::open_in_memory().unwrap();
    db.execute_batch(include_str!("../../../store/db/schema/webhooks.sql"))
        .unwrap();
    db.execute_batch(include_str!("../../../store/db/schema/webhook_outbox.sql"))
        .unwrap();
    db
}

/// Queues a call at this time.
fn add(db: &Connection, target: &Target, now_ms: i64) -> i64 {
    let entry = OutboxEntry {
        source: CallSource::Webhook("hook"),
        spec: &TargetSpec::of(target),
        payload: r#"{"a":1}"#,
        change: None,
        dedupe: None,
        created_ms: clock::now_ms(),
    };
    let id = outbox::add(db, &entry).unwrap().unwrap();
    let sql =
        "UPDATE _webhook_logs SET due_ms = ?1, created_ms = ?1, updated_ms = ?1 WHERE id = ?2";
    db.execute(sql, params![now_ms, id]).unwrap();
    id
}

fn target(url: &str) -> Target {
    Target::restore(&format!(r#"{{"url":"{url}"}}"#)).unwrap()
}

fn created_at(db: &Connection, id: i64) -> i64 {
    let sql = "SELECT created_ms FROM _webhook_logs WHERE id = ?1";
    db.query_row(sql, [id], |row| row.get(0)).unwrap()
}

fn end(db: &Connection, id: i64, created_ms: i64, outcome: CallOutcome, now_ms: i64) {
    let row = queue::load(db, id, created_at(db, id)).unwrap().unwrap();
    let verdict = CallState {
        outcome,
        attempts: row.attempts + 1,
        due_ms: now_ms,
        code: Some(200),
        error: String::new(),
        answer: String::new(),
    };
    let written = CallUpdate {
        id,
        created_ms,
        verdict,
    };
    queue::update(db, &written, now_ms).unwrap();
}

fn count(db: &Connection, condition: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM _webhook_logs WHERE {condition}");
    db.query_row(&sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn a_host_with_much_to_send_hides_no_other() {
    let db = tables();
    for _ in 0..1000 {
        add(&db, &target("http://much.example/a"), 10);
    }
    let late = add(&db, &target("https://Other.example"), 20);
    let run = add(&db, &Target::restore(r#"{"workflow":"w"}"#).unwrap(), 5);
    let heads = queue::next_calls(&db).unwrap();
    let of = |host: &str| -> Vec<i64> {
        let heads = heads.iter().filter(|head| head.host == host);
        heads.map(|head| head.id).collect()
    };
    assert_eq!(of("much.example:80"), (1..=16).collect::<Vec<_>>());
    assert_eq!(of("other.example:443"), [late]);
    assert_eq!(of("workflow"), [run]);
    assert_eq!(queue::count_pending(&db).unwrap(), 1002);
}

/// A newer version may know targets that this one does not.
#[test]
fn a_webhook_of_another_version_holds_up_no_write() {
    let db = tables();
    let sql = "INSERT INTO _webhooks VALUES ('w1', 'new', 1, 'posts', ' create ', ?1, '', '')";
    db.execute(sql, [r#"{"queue":"a"}"#]).unwrap();
    let found = outbox::webhooks_for(&db, "posts", RecordAction::Create).unwrap();
    let [(name, spec)] = &found[..] else {
        panic!("one webhook");
    };
    let entry = OutboxEntry {
        source: CallSource::Webhook(name),
        spec,
        payload: "{}",
        change: Some(("posts", "create", "r1")),
        dedupe: None,
        created_ms: clock::now_ms(),
    };
    let id = outbox::add(&db, &entry).unwrap().unwrap();
    let row = queue::load(&db, id, created_at(&db, id)).unwrap().unwrap();
    assert_eq!(row.target, None, "the sender sees to it that it fails");
    let kept = "target = 'unreadable' AND spec LIKE '%queue%'";
    assert_eq!(count(&db, kept), 1, "a later version can make it");
    let listed = table::list(&db).unwrap();
    assert_eq!(listed[0]["id"], "w1");
    assert!(listed[0]["error"].is_string());
    let conflict = table::get(&db, "w1").unwrap_err();
    assert_eq!(conflict.kind(), Kind::Conflict);
    table::delete(&db, "w1").unwrap();
}

#[test]
fn hosts_are_told_apart_by_their_port() {
    for (url, host) in [
        ("http://a.example", "a.example:80"),
        ("https://A.example?x=:9", "a.example:443"),
        ("http://a.example:8080/x", "a.example:8080"),
        ("http://[::1]/x:1", "[::1]:80"),
        ("https://[::1]:9#x", "[::1]:9"),
    ] {
        assert_eq!(target(url).host(), host, "{url}");
    }
}

/// The row of an earlier database with the same name and id.
#[test]
fn an_end_is_written_to_its_own_row_only() {
    let db = tables();
    let id = add(&db, &target("http://a"), 10);
    end(&db, id, 9, CallOutcome::Success, 20);
    assert_eq!(count(&db, "status = 'pending' AND attempts = 0"), 1);
    end(&db, id, 10, CallOutcome::Pending, 20);
    assert_eq!(count(&db, "status = 'pending' AND attempts = 1"), 1);
    end(&db, id, 10, CallOutcome::Success, 20);
    assert_eq!(count(&db, "status = 'success' AND attempts = 2"), 1);
}

#[test]
fn old_rows_go_and_pending_ones_never() {
    let db = tables();
    let now = 100 * DAY_MS;
    let a = target("http://a");
    for (outcome, days) in [
        (CallOutcome::Success, 8),
        (CallOutcome::Success, 6),
        (CallOutcome::Failed, 31),
        (CallOutcome::Failed, 29),
    ] {
        let then = now - days * DAY_MS;
        let id = add(&db, &a, then);
        end(&db, id, then, outcome, then);
    }
    add(&db, &a, 0);
    let clean = || {
        for (outcome, until) in queue::expired(&db, now).unwrap() {
            while queue::delete(&db, outcome, until).unwrap() {}
        }
    };
    clean();
    assert_eq!(count(&db, "true"), 3);
    // Rows beyond the limit are deleted, however new.
    let sql = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 11000)
         INSERT INTO _webhook_logs (source, name, collection, action, record, target, host, status,
             due_ms, created_ms, updated_ms, spec, payload)
         SELECT 'cron', 'c', '', '', '', '', '', 'success', 0, 0, ?1 + n, '{}', '{}' FROM n";
    db.execute(sql, [now]).unwrap();
    clean();
    assert_eq!(count(&db, "status = 'success'"), 10_000);
    assert!(queue::expired(&db, now).unwrap().is_empty());
}

/// Queries that run every minute or for every call must not scan the whole log.
#[test]
fn looks_use_the_indexes() {
    let db = tables();
    for sql in [
        "SELECT updated_ms FROM _webhook_logs WHERE status <> 'pending' AND status = ?1
         ORDER BY updated_ms DESC LIMIT 1 OFFSET ?2",
        "SELECT id FROM _webhook_logs WHERE status <> 'pending' AND status = 'failed'
         AND updated_ms <= ?1 ORDER BY updated_ms LIMIT ?2",
        "SELECT id, due_ms FROM _webhook_logs
         WHERE status = 'pending' AND host = ?1 ORDER BY due_ms, id LIMIT ?2",
        "SELECT min(host) FROM _webhook_logs WHERE status = 'pending' AND host > ?1",
        "SELECT count(*) FROM (SELECT 1 FROM _webhook_logs WHERE status = 'pending' LIMIT ?1)",
    ] {
        let mut statement = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let none = [Option::<i64>::None; 2];
        let wanted = statement.parameter_count();
        let plan = statement.query_map(rusqlite::params_from_iter(&none[..wanted]), |row| {
            row.get::<_, String>(3)
        });
        let plan: Vec<String> = plan.unwrap().map(|line| line.unwrap()).collect();
        let plan = plan.join("; ");
        assert!(plan.contains("INDEX _webhook_logs_"), "{sql}: {plan}");
        assert!(!plan.contains("TEMP B-TREE"), "{sql}: {plan}");
    }
}

#[test]
fn pages_filters_and_retries_of_the_log() {
    let db = tables();
    let a = target("http://a");
    for at in 0..5 {
        let id = add(&db, &a, at);
        if at < 3 {
            end(&db, id, at, CallOutcome::Failed, at);
        }
    }
    let all = LogFilter::default();
    let page = logs::list(&db, &all, Page::new(2, 2)).unwrap();
    assert_eq!(
        (&page["totalItems"], &page["totalPages"]),
        (&5.into(), &3.into())
    );
    assert_eq!(page["items"][0]["id"], 3);
    let failed = LogFilter {
        status: Some("failed".to_owned()),
        name: Some("hook".to_owned()),
        ..LogFilter::default()
    };
    assert_eq!(
        logs::list(&db, &failed, Page::new(1, 1)).unwrap()["totalItems"],
        3
    );
    assert!(logs::list(&db, &all, Page::new(u64::MAX, u64::MAX)).is_ok());
    // Only failed calls become due again.
    assert_eq!(logs::retry(&db, &[1, 4, 5, 99]).unwrap(), 1);
    assert_eq!(count(&db, "status = 'pending' AND attempts = 0"), 3);
    assert_eq!(logs::failed(&db, 100).unwrap(), [2, 3]);
    assert_eq!(logs::failed(&db, 1).unwrap(), [2]);
    let one = logs::get(&db, 1).unwrap();
    assert_eq!(one["payload"]["a"], 1);
    assert!(one.get("spec").is_none() && one["nextAttempt"].is_string());
}
