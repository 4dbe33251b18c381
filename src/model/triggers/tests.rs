//! Parsing of triggers, and what is refused.

use serde_json::{Value, json};

use super::attributes::{BODY_BYTES_MAX, RETRIES};
use super::{RecordAction, Target, Trigger, Triggers};
use crate::base::error::Result;

fn parse(triggers: &Value) -> Result<Vec<Trigger>> {
    let Value::Object(options) = json!({ "triggers": triggers }) else {
        unreachable!("an object");
    };
    Ok(Triggers::parse(&options)?.iter().cloned().collect())
}

#[test]
fn the_forms_of_the_public_text_are_read_and_come_back() {
    let triggers = parse(&json!([
        {"action": "create", "url": "https://example.org/a?b=c", "method": "patch",
         "headers": {"X-Key": "v"}},
        {"action": ["update", "delete"], "workflow": "tidy", "retryLimit": 100},
        {"action": "*", "url": "http://[::1]:80", "contentType": "json", "jwtEnabled": true},
    ]))
    .unwrap();
    let Target::Http(call) = &triggers[0].target else {
        panic!("a call");
    };
    assert_eq!((call.method.as_str(), call.retries), ("PATCH", RETRIES));
    assert_eq!(triggers[1].target.label(), "workflow:tidy");
    assert_eq!(triggers[2].actions, RecordAction::ALL);
    for trigger in triggers {
        let text = Value::Object(trigger.target.to_json()).to_string();
        assert_eq!(Target::restore(&text).unwrap(), trigger.target);
    }
}

fn refusals() -> Vec<(Value, &'static str)> {
    let url = "http://a";
    vec![
        (json!(1), "options.triggers.0"),
        (json!({"url": url}), "options.triggers.0.action"),
        (
            json!({"action": "created", "url": url}),
            "options.triggers.0.action",
        ),
        (
            json!({"action": [], "url": url}),
            "options.triggers.0.action",
        ),
        (json!({"action": "*"}), "options.triggers.0.url"),
        (
            json!({"action": "*", "workflow": "w", "input": "i".repeat(BODY_BYTES_MAX)}),
            "options.triggers.0.input",
        ),
        (
            json!({"action": "*", "url": url, "workflow": "w"}),
            "options.triggers.0.url",
        ),
        (
            json!({"action": "*", "url": url, "method": "CONNECT"}),
            "options.triggers.0.method",
        ),
        (
            json!({"action": "*", "url": url, "headers": {"Host": "x"}}),
            "options.triggers.0.headers",
        ),
        (
            json!({"action": "*", "url": url, "headers": {"A": "x\ny"}}),
            "options.triggers.0.headers",
        ),
        (
            json!({"action": "*", "url": url, "headers": {"webhook-id": "x"}}),
            "options.triggers.0.headers",
        ),
        (
            json!({"action": "*", "url": url, "retryLimit": 0}),
            "options.triggers.0.retryLimit",
        ),
        (
            json!({"action": "*", "url": url, "retryLimit": 101}),
            "options.triggers.0.retryLimit",
        ),
        (
            json!({"action": "*", "url": url, "secret": "x"}),
            "options.triggers.0.secret",
        ),
        (
            json!({"action": "*", "url": url, "wat": 1}),
            "options.triggers.0.wat",
        ),
    ]
}

#[test]
fn an_action_that_is_named_often_counts_once() {
    let list = Value::from(["update", "create"].repeat(1000));
    let actions = RecordAction::parse_some("actions", &list).unwrap();
    assert_eq!(actions, [RecordAction::Create, RecordAction::Update]);
}

#[test]
fn what_would_not_work_is_refused_by_name() {
    for (trigger, name) in refusals() {
        let error = parse(&json!([trigger.clone()])).unwrap_err();
        assert!(
            error.field_errors().contains_key(name),
            "{trigger}: {error}"
        );
    }
    assert!(parse(&json!({"action": "create"})).is_err());
}

#[test]
fn what_is_no_url_of_a_host_is_refused() {
    for url in [
        "ftp://a",
        "http://",
        "http://a@b",
        "http://a\r\nX: y",
        "http://a:99999",
        "http://a:0",
        "http://a:+80",
        "http://a:",
        "http://:80",
        "http://[::1",
        "http://[::1]x",
        "http://a%00/",
        "http://a\\b",
    ] {
        let error = parse(&json!([{"action": "*", "url": url}])).unwrap_err();
        assert!(
            error.field_errors().contains_key("options.triggers.0.url"),
            "{url}: {error}"
        );
    }
    for url in [
        "http://a_b.c-d:1/x:y@z",
        "https://[::1]:443?a@b",
        "http://127.1#f",
    ] {
        parse(&json!([{"action": "*", "url": url}])).unwrap();
    }
}
