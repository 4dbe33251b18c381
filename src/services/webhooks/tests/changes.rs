//! Changes of records become the calls that were defined when they were committed.

use rusqlite::{Connection, params};
use serde_json::{Map, Value, json};

use super::{count, tables};
use crate::base::error::Kind;
use crate::model::triggers::{RecordAction, Triggers, changes};
use crate::services::webhooks::table::WebhookDraft;
use crate::services::webhooks::{queue, table};

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

/// Creates a webhook for `posts`, and returns its id.
fn hook(db: &Connection, name: &str) -> String {
    let value = json!({"name": name, "url": "http://a", "collection": "posts"});
    let draft = WebhookDraft::parse(object(&value)).unwrap();
    table::create(db, draft).unwrap().id
}

fn triggers(list: &Value) -> Triggers {
    Triggers::parse(&object(&json!({ "triggers": list }))).unwrap()
}

/// A change of a record of `posts`; false if it makes no call.
fn change(db: &Connection, triggers: &Triggers, record: &str) -> bool {
    let list = changes::list_for(db, "posts", RecordAction::Create, triggers).unwrap();
    if list.is_empty() {
        return false;
    }
    let change = ("posts", RecordAction::Create, record);
    changes::add(db, list, change, "{}").unwrap();
    true
}

/// The calls in the log, in order: record, name of the webhook or the target of the trigger.
fn calls(db: &Connection) -> Vec<String> {
    let sql = "SELECT record || ' ' || iif(source = 'trigger', target, name)
               FROM _webhook_logs ORDER BY id";
    let mut statement = db.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

fn lists(db: &Connection) -> i64 {
    let sql = "SELECT count(*) FROM _webhook_lists";
    db.query_row(sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn a_change_makes_the_calls_that_were_defined_when_it_happened() {
    let db = tables();
    let none = Triggers::default();
    assert!(!change(&db, &none, "r0"));
    let first = hook(&db, "first");
    assert!(change(&db, &none, "r1"));
    hook(&db, "second");
    let calling = triggers(&json!([{"action": "*", "url": "http://t"}]));
    assert!(change(&db, &calling, "r2"));
    table::delete(&db, &first).unwrap();
    let other = triggers(&json!([{"action": "create", "workflow": "w"}]));
    assert!(change(&db, &other, "r3"));
    let second: String = db
        .query_row("SELECT id FROM _webhooks", [], |row| row.get(0))
        .unwrap();
    let inactive = object(&json!({"active": false}));
    table::update(&db, &second, inactive).unwrap();
    assert!(!change(&db, &none, "r4"));
    assert_eq!(queue::count_pending(&db).unwrap(), 6);
    assert!(!changes::queue_calls(&db).unwrap());
    let expected = [
        "r1 first",
        "r2 http://t",
        "r2 first",
        "r2 second",
        "r3 workflow:w",
        "r3 second",
    ];
    assert_eq!(calls(&db), expected);
    assert_eq!(queue::count_pending(&db).unwrap(), 6);
    assert_eq!(lists(&db), 1, "only that in force");
    assert!(!changes::queue_calls(&db).unwrap());
    assert_eq!(calls(&db).len(), 6);
}

#[test]
fn one_transaction_queues_a_bounded_number_of_calls() {
    let db = tables();
    for number in 0..10 {
        hook(&db, &format!("h{number}"));
    }
    for record in 0..60 {
        change(&db, &Triggers::default(), &format!("r{record:02}"));
    }
    // A transaction that is rolled back leaves the changes.
    db.execute_batch("BEGIN").unwrap();
    assert!(changes::queue_calls(&db).unwrap());
    db.execute_batch("ROLLBACK").unwrap();
    assert_eq!(count(&db, "true"), 0);
    let mut portions = Vec::new();
    loop {
        let before = count(&db, "true");
        let has_more = changes::queue_calls(&db).unwrap();
        portions.push(count(&db, "true") - before);
        if !has_more {
            break;
        }
    }
    assert_eq!(portions, [250, 250, 100]);
    let found = calls(&db);
    assert!(found.is_sorted(), "{found:?}");
    // A row that is large counts for more, and a portion has at least one change.
    let list = changes::list_for(&db, "posts", RecordAction::Create, &Triggers::default());
    let list = list.unwrap();
    let change = ("posts", RecordAction::Create, "large");
    let payload = "x".repeat(2 << 20);
    changes::add(&db, list, change, &payload).unwrap();
    changes::add(&db, list, change, &payload).unwrap();
    assert!(changes::queue_calls(&db).unwrap());
    assert_eq!(count(&db, "record = 'large'"), 10);
    let error = changes::add(&db, list, change, &"x".repeat(7 << 20)).unwrap_err();
    assert_eq!(error.kind(), Kind::TooLarge);
}

#[test]
fn a_call_is_as_old_as_its_change() {
    let db = tables();
    hook(&db, "hook");
    change(&db, &Triggers::default(), "r1");
    let sql = "UPDATE _webhook_outbox SET created_ms = ?1";
    db.execute(sql, params![5000]).unwrap();
    changes::queue_calls(&db).unwrap();
    assert_eq!(count(&db, "created_ms = 5000 AND due_ms = 5000"), 1);
}

/// Each change looks for its list.
#[test]
fn the_list_is_found_by_an_index() {
    let db = tables();
    let sql = "EXPLAIN QUERY PLAN SELECT id, calls, bytes, triggers = ?3 FROM _webhook_lists
               WHERE collection = ?1 AND action = ?2";
    let none = params![
        Option::<i64>::None,
        Option::<i64>::None,
        Option::<i64>::None
    ];
    let plan: String = db.query_row(sql, none, |row| row.get(3)).unwrap();
    assert!(plan.contains("INDEX _webhook_lists_current"), "{plan}");
}
