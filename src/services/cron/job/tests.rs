//! Tests of jobs as clients send them: validation, merging and output.

use serde_json::{Map, Value, json};

use super::{CronJob, INPUT_BYTES_MAX, JobRow, SECONDS_DEFAULT, SQL_BYTES_MAX};
use crate::base::error::Result;
use crate::store::db::Role;

const NOW: &str = "2026-01-01T00:00:00.000Z";

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => unreachable!("an object"),
    }
}

fn parse(value: Value) -> Result<JobRow> {
    JobRow::parse("id", NOW, NOW, object(value))
}

fn sql() -> Value {
    json!({"name": "tidy", "schedule": "@daily", "type": "sql", "sql": "DELETE FROM a"})
}

fn http() -> Value {
    json!({"name": "ping", "schedule": "*/5 * * * *", "type": "http", "url": "https://example.org/",
           "secret": "whsec_MDEyMzQ1Njc4OWFiY2RlZg=="})
}

fn with(mut value: Value, name: &str, other: Value) -> Value {
    value[name] = other;
    value
}

#[test]
fn what_is_wrong_is_named() {
    for (value, name) in [
        (json!({}), "name"),
        (with(sql(), "name", json!(" ")), "name"),
        (with(sql(), "name", json!("a\nb")), "name"),
        (with(sql(), "name", json!("x".repeat(101))), "name"),
        (with(sql(), "schedule", json!("")), "schedule"),
        (with(sql(), "schedule", json!("61 * * * *")), "schedule"),
        (with(sql(), "timeZone", json!("Berlin")), "timeZone"),
        (with(sql(), "type", json!("shell")), "type"),
        (with(sql(), "active", json!(1)), "active"),
        (with(sql(), "sql", json!(" ")), "sql"),
        (
            with(sql(), "sql", json!("x".repeat(SQL_BYTES_MAX + 1))),
            "sql",
        ),
        (with(sql(), "database", json!("local")), "database"),
        (with(sql(), "database", json!("../x")), "database"),
        (with(sql(), "timeout", json!(301)), "timeout"),
        (with(sql(), "timeout", json!(0)), "timeout"),
        (
            with(
                with(sql(), "database", json!("workflows")),
                "timeout",
                json!(11),
            ),
            "timeout",
        ),
        (with(sql(), "url", json!("https://example.org")), "url"),
        (with(http(), "url", json!("")), "url"),
        (with(http(), "workflow", json!("w")), "workflow"),
        (with(http(), "input", json!(1)), "input"),
        (with(http(), "sql", json!("SELECT 1")), "sql"),
        (with(http(), "wat", json!(1)), "wat"),
        (
            json!({"name": "w", "schedule": "@daily", "type": "workflow"}),
            "workflow",
        ),
        (
            json!({"name": "w", "schedule": "@daily", "type": "workflow", "workflow": "a b"}),
            "workflow",
        ),
        (
            json!({"name": "w", "schedule": "@daily", "type": "workflow", "workflow": "w",
                "retryLimit": 3}),
            "retryLimit",
        ),
        (
            json!({"name": "w", "schedule": "@daily", "type": "workflow", "workflow": "w",
                "input": "x".repeat(INPUT_BYTES_MAX)}),
            "input",
        ),
    ] {
        let error = parse(value.clone()).unwrap_err();
        assert!(error.field_errors().contains_key(name), "{value}: {error}");
    }
}

#[test]
fn a_secret_is_kept_and_not_shown() {
    let stored = parse(http()).unwrap();
    let shown = stored.to_json();
    assert_eq!(shown["hasSecret"], true);
    assert!(shown["secret"] == "***" && shown["method"] == "POST");
    // A client can send back what a response shows.
    let same = stored.merge(NOW, shown).unwrap();
    assert_eq!(same, stored);
    let other = stored.merge(NOW, object(json!({"secret": null}))).unwrap();
    assert_eq!(other.to_json()["hasSecret"], false);
}

#[test]
fn a_change_is_merged_and_another_type_starts_over() {
    let stored = parse(sql()).unwrap();
    assert_eq!(stored.to_json()["timeout"], SECONDS_DEFAULT);
    let later = stored
        .merge("later", object(json!({"timeout": 5, "active": false})))
        .unwrap();
    assert_eq!(
        (later.updated.as_str(), later.created.as_str()),
        ("later", NOW)
    );
    assert!(!later.is_active && later.spec["timeout"] == 5 && later.spec["sql"] == "DELETE FROM a");
    let other = json!({"type": "workflow", "workflow": "order", "input": {"a": 1}});
    let other = later.merge(NOW, object(other)).unwrap();
    assert!(!other.spec.contains_key("sql") && other.spec["input"]["a"] == 1);
    assert!(stored.merge(NOW, object(json!({"type": "http"}))).is_err());
}

#[test]
fn where_a_job_runs() {
    let job = |value: Value| CronJob::restore(&parse(value).unwrap()).unwrap();
    for (value, on_replica) in [
        (sql(), false),
        (http(), false),
        (with(sql(), "database", json!("tenant")), false),
        (with(sql(), "database", json!("stats")), true),
        (with(sql(), "database", json!("workflows")), true),
    ] {
        let job = job(value);
        assert!(job.runs_on(Role::Master));
        assert_eq!(job.runs_on(Role::Replica), on_replica);
        assert_eq!(job.next(0, Role::Replica).is_some(), on_replica);
    }
    assert_eq!(
        job(with(sql(), "active", json!(false))).next(0, Role::Master),
        None
    );
}
