//! Dates: what fields of the types `date` and `datetime` accept, and what filters and rules
//! compare.

use serde_json::json;

use super::support::api::Api;
use super::support::listener::Listener;
use super::support::server::Server;

const DAYS: &str = "/api/collections/days/records";

fn set_up(server: &Server) -> Api {
    let api = server.admin();
    let days = json!({"name": "days", "listRule": "", "viewRule": "", "createRule": "", "fields": [
        {"name": "d", "type": "date"}, {"name": "t", "type": "datetime"},
        {"name": "title", "type": "text"}, {"name": "n", "type": "number"}]});
    api.post("/api/collections", days).expect(200);
    api
}

fn make(api: &Api, id: &str, d: &str) {
    api.post(DAYS, json!({"id": id, "d": d, "t": d}))
        .expect(200);
}

#[track_caller]
fn check(api: &Api, filter: &str, expected: &[&str]) {
    let list = api.list("days", &[("filter", filter), ("sort", "d,id")]);
    assert_eq!(list.expect(200).column("id"), expected, "{filter}");
}

/// `date` took days alone, so that what PocketBase's clients send, times, was refused. It takes
/// both and answers what it got; a day is its midnight when it is compared or sorted.
#[test]
fn a_date_is_a_day_or_a_moment() {
    let server = Server::start();
    let api = set_up(&server);
    for (sent, kept) in [
        ("2026-01-01", "2026-01-01"),
        ("2026-01-01 10:00", "2026-01-01T10:00:00.000Z"),
        ("2026-01-01 10:00:00.000Z", "2026-01-01T10:00:00.000Z"),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000Z"),
        ("2026-01-01T01:00:00.5+02:00", "2025-12-31T23:00:00.500Z"),
        ("2026-01-01 10:00:00 UTC", "2026-01-01T10:00:00.000Z"),
        ("", ""),
    ] {
        let made = api.post(DAYS, json!({ "d": sent })).expect(200);
        assert_eq!(made.text("/d"), kept);
    }
    for wrong in ["2026-01-01 10", "2026-02-30", "01.01.2026", "tomorrow"] {
        let refused = api.post(DAYS, json!({ "d": wrong })).expect(400);
        assert_eq!(refused.text("/data/d/code"), "validation_invalid_date");
    }
}

#[test]
fn days_and_moments_are_compared_and_sorted_as_moments() {
    let server = Server::start();
    let api = set_up(&server);
    make(&api, "after", "2026-01-02 00:00:00.001Z");
    make(&api, "before", "2026-01-01 23:59:59.999Z");
    make(&api, "midnight", "2026-01-02T00:00:00Z");
    make(&api, "day", "2026-01-02");
    api.post(DAYS, json!({"id": "none"})).expect(200);
    check(&api, "d != ''", &["before", "day", "midnight", "after"]);
    for midnight in [
        "2026-01-02",
        "2026-01-02 00:00",
        "2026-01-02T01:00:00+01:00",
    ] {
        let check = |op: &str, expected: &[&str]| {
            check(&api, &format!("d {op} '{midnight}'"), expected);
        };
        check("=", &["day", "midnight"]);
        check("!=", &["none", "before", "after"]);
        check(">", &["after"]);
        check(">=", &["day", "midnight", "after"]);
        check("<", &["none", "before"]);
        check("<=", &["none", "before", "day", "midnight"]);
    }
    check(&api, "'2026-01-02' < d", &["after"]);
    check(
        &api,
        "d IN ('2026-01-02', '1999-01-01')",
        &["day", "midnight"],
    );
    check(
        &api,
        "d = t",
        &["none", "before", "day", "midnight", "after"],
    );
}

/// A value that is not a date was compared as a string: `d > '2022-01-01 10'` found midnight of
/// that day, and `d > '29.01.2023'` nothing at all. It is refused, in rules when they are stored.
#[test]
fn what_is_no_date_is_refused() {
    let server = Server::start();
    let api = set_up(&server);
    make(&api, "night", "2023-01-29");
    make(&api, "evening", "2023-01-29 18:00");
    for noon in [
        "2023-01-29 12:00",
        "2023-01-29 12:00:00",
        "2023-01-29 12:00:00Z",
        "2023-01-29 12:00:00.000Z",
        "2023-01-29 12:00:00 UTC",
        "2023-01-29 12:00:00 +0000",
        "2023-01-29T12:00:00.000Z",
        "2023-01-29T14:00:00+02:00",
    ] {
        for field in ["d", "t"] {
            check(&api, &format!("{field} > '{noon}'"), &["evening"]);
        }
    }
    for wrong in [
        "2022-01-01 10",
        "2022-1-1",
        "29.01.2023",
        "Sat, 01 Jan 2022 10:00:00 GMT",
        "2022",
        "now",
        "2022-13-01",
    ] {
        for left in [
            "d",
            "t",
            "created",
            "updated",
            "@now",
            "@request.auth.created",
        ] {
            for filter in [
                format!("{left} > '{wrong}'"),
                format!("'{wrong}' <= {left}"),
                format!("{left} = '{wrong}'"),
                format!("NOT {left} IN ('{wrong}')"),
            ] {
                let refused = api.list("days", &[("filter", &filter)]).expect(400);
                assert!(refused.text("/message").contains(wrong), "{filter}");
            }
            let rule = json!({"listRule": format!("{left} < '{wrong}'")});
            let refused = api.patch("/api/collections/days", rule).expect(400);
            assert!(refused.json["data"]["listRule"].is_object());
        }
        let rule = json!({"createRule": format!("@request.body.d < '{wrong}'")});
        api.patch("/api/collections/days", rule).expect(400);
    }
    api.list("days", &[("filter", "d > 5")]).expect(400);
    // Texts are searched as they are, and texts compared with texts.
    check(
        &api,
        "d ~ '2023-' && created ~ '20' && d !~ '1999'",
        &["night", "evening"],
    );
    check(
        &api,
        "d < @now && d < @todayStart && @yearStart > t",
        &["night", "evening"],
    );
    check(&api, "title != '2022-1-1'", &["night", "evening"]);
}

/// A rule compares what is sent as a date, too: it was compared as text with what the rule says.
#[test]
fn a_sent_date_is_compared_as_a_moment() {
    let server = Server::start();
    let api = set_up(&server);
    let rule =
        json!({"createRule": "@request.body.d >= '2026-01-01 10:00' && @request.body.t > d"});
    api.patch("/api/collections/days", rule).expect(200);
    let guest = server.api();
    let send = |d: &str, t: &str| guest.post(DAYS, json!({"d": d, "t": t})).status;
    assert_eq!(send("2026-01-01 10:00", "2026-01-01 11:00"), 200);
    assert_eq!(send("2026-01-01 09:59", "2026-01-01 11:00"), 400);
    assert_eq!(send("2026-01-02", "2026-01-02 00:00"), 400);
    assert_eq!(send("2026-01-02", "2026-01-02 00:01"), 200);
    assert_eq!(send("", "2026-01-02 00:01"), 400);
}

/// A subscriber's filter sees a change as a list does.
#[test]
fn subscribers_compare_days_and_moments_alike() {
    let server = Server::start();
    let api = set_up(&server);
    let mut listener = Listener::connect(&server, "");
    listener.subscribe(
        "days",
        json!({"filter": "d = '2026-01-02 00:00' && id > ''"}),
    );
    let wrong = listener.try_subscribe("days", json!({"sub": "s", "filter": "d > '2026'"}));
    assert_eq!(wrong["status"], 400);
    make(&api, "other", "2026-01-02 00:00:01");
    make(&api, "day", "2026-01-02");
    make(&api, "midnight", "2026-01-02 00:00");
    listener.expect("create", "day");
    listener.expect("create", "midnight");
}

/// `> ''` and `>= ''` were never true, so a client that pages by key from the empty one found
/// nothing.
#[test]
fn the_empty_text_comes_before_all_others() {
    let server = Server::start();
    let api = set_up(&server);
    let some = json!({"id": "some", "d": "2026-01-01", "t": "2026-01-01", "title": "x", "n": 1});
    api.post(DAYS, some).expect(200);
    api.post(DAYS, json!({"id": "none"})).expect(200);
    for always in ["id", "created", "updated", "@now", "'a'"] {
        for op in [">", ">="] {
            check(&api, &format!("{always} {op} ''"), &["none", "some"]);
            check(&api, &format!("NOT {always} {op} ''"), &[]);
        }
        for op in ["<", "<="] {
            check(&api, &format!("{always} {op} ''"), &[]);
            check(&api, &format!("'' {op} {always}"), &["none", "some"]);
        }
    }
    for field in ["d", "t", "title"] {
        check(&api, &format!("{field} > ''"), &["some"]);
        check(&api, &format!("{field} >= ''"), &["none", "some"]);
        check(&api, &format!("{field} < ''"), &[]);
        check(&api, &format!("{field} <= ''"), &["none"]);
        check(&api, &format!("NOT {field} > ''"), &["none"]);
        check(&api, &format!("{field} > null"), &[]);
    }
    check(&api, "n > '' || n < ''", &[]);
}
