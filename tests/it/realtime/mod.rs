//! Subscriptions as their clients see them.
//!
//! - here: over WebSockets, which events arrive, in which order, and what ends a subscription.
//! - `bounds`: clients that exceed their share do not disturb others.
//! - `load`: long records, slow clients, many short subscriptions.
//! - `streams`: server-sent events, and requests that are refused.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::api::Api;
use crate::support::listener::Listener;
use crate::support::server::Server;
use crate::support::token::{SECRET, resigned};
use crate::support::wait_until;

mod bounds;
mod load;
mod streams;

const POSTS: &str = "/api/collections/posts/records";

/// Creates users with a role and groups, and posts with these rules.
fn set_up(server: &Server, rules: Value) -> Api {
    let admin = server.admin();
    let users = json!({"name": "users", "type": "auth", "listRule": "", "viewRule": "", "updateRule": "id = @request.auth.id",
        "fields": [{"name": "role", "type": "text"}, {"name": "groups", "type": "json"}]});
    admin.post("/api/collections", users).expect(200);
    let mut posts = json!({"name": "posts", "fields": [
        {"name": "title", "type": "text"}, {"name": "n", "type": "number"},
        {"name": "public", "type": "bool"}, {"name": "secret", "type": "text", "hidden": true},
        {"name": "owner", "type": "relation", "collectionId": "users"},
        {"name": "meta", "type": "json"}]});
    let map = posts.as_object_mut().unwrap();
    map.extend(rules.as_object().unwrap().clone());
    admin.post("/api/collections", posts).expect(200);
    admin
}

fn open() -> Value {
    json!({"listRule": "", "viewRule": ""})
}

/// Creates an account. Returns its id and a token.
fn account(admin: &Api, name: &str, role: &str) -> (String, String) {
    let email = format!("{name}@example.com");
    let body = json!({"email": email, "password": "password-1", "role": role});
    let made = admin.post("/api/collections/users/records", body);
    let id = made.expect(200).text("/id").to_owned();
    (id, sign_in(admin, &email, "password-1"))
}

fn sign_in(api: &Api, email: &str, password: &str) -> String {
    let body = json!({"identity": email, "password": password});
    let path = "/api/collections/users/auth-with-password";
    api.post(path, body).expect(200).text("/token").to_owned()
}

fn make(api: &Api, id: &str, more: Value) {
    let mut body = json!({"id": id});
    let map = body.as_object_mut().unwrap();
    map.extend(more.as_object().unwrap().clone());
    api.post(POSTS, body).expect(200);
}

fn change(api: &Api, id: &str, body: Value) {
    api.patch(&format!("{POSTS}/{id}"), body).expect(200);
}

#[test]
fn changes_come_as_the_answers_to_requests_show_them() {
    let server = Server::start();
    let admin = set_up(&server, open());
    let (owner, _) = account(&admin, "a", "");
    let mut all = Listener::connect(&server, "");
    all.subscribe("posts", json!({}));
    let mut some = Listener::connect(&server, "");
    some.subscribe(
        "posts",
        json!({"filter": "n > 1 && title ~ 'x'", "fields": "id,n,expand.owner.id", "expand": "owner"}),
    );
    let mut one = Listener::connect(&server, "");
    one.subscribe("posts", json!({"id": "two"}));
    let made =
        json!({"n": 1, "title": "x", "secret": "s", "owner": owner, "meta": {"a": "line\nend"}});
    make(&admin, "one", made);
    make(&admin, "two", json!({"n": 2, "title": "\u{1f600} X \"q\""}));
    let shown = server.api().get(&format!("{POSTS}/one")).expect(200).json;
    let event = all.expect("create", "one");
    assert_eq!((&event["record"], &event["sub"]), (&shown, &json!("posts")));
    assert!(shown.get("secret").is_none());
    all.expect("create", "two");
    one.expect("create", "two");
    let event = some.expect("create", "two");
    assert_eq!(
        event["record"],
        json!({"id": "two", "n": 2, "expand": {}}),
        "fields"
    );
    // The record enters the view, is shown with its relation, and leaves without an event.
    change(&admin, "one", json!({"n": 2}));
    let event = some.expect("update", "one");
    assert_eq!(
        event["record"]["expand"]["owner"],
        json!({"id": owner}),
        "{event}"
    );
    change(&admin, "one", json!({"n": 0}));
    admin.delete(&format!("{POSTS}/one")).expect(204);
    admin.delete(&format!("{POSTS}/two")).expect(204);
    some.expect("delete", "two");
    one.expect("delete", "two");
    for (action, id) in [
        ("update", "one"),
        ("update", "one"),
        ("delete", "one"),
        ("delete", "two"),
    ] {
        all.expect(action, id);
    }
    for listener in [&mut all, &mut some, &mut one] {
        listener.nothing();
    }
}

#[test]
fn bulk_batches_cascades_and_cleared_relations_are_told_and_what_was_undone_is_not() {
    let server = Server::start();
    let admin = set_up(&server, open());
    let notes = json!({"name": "notes", "listRule": "", "fields": [
        {"name": "post", "type": "relation", "collectionId": "posts", "cascadeDelete": true},
        {"name": "also", "type": "relation", "collectionId": "posts", "maxSelect": 3}]});
    admin.post("/api/collections", notes).expect(200);
    let mut posts = Listener::connect(&server, "");
    posts.subscribe("posts", json!({}));
    let mut notes = Listener::connect(&server, "");
    notes.subscribe("notes", json!({}));
    let write = |method: &str, path: &str, body: Value| json!({"method": method, "url": format!("/api/collections/{path}"), "body": body});
    let good = [
        write("POST", "posts/records", json!({"id": "a"})),
        write("POST", "posts/records", json!({"id": "b"})),
        write("PUT", "posts/records", json!({"id": "b", "n": 1})),
        write("PUT", "posts/records", json!({"id": "c", "n": 1})),
        write(
            "POST",
            "notes/records",
            json!({"id": "x", "post": "a", "also": ["b", "c"]}),
        ),
        write(
            "POST",
            "notes/records",
            json!({"id": "y", "also": ["b", "c"]}),
        ),
        write("PATCH", "posts/records/a", json!({"n": 5})),
        write("DELETE", "posts/records/c", Value::Null),
    ];
    let bad = [
        write("POST", "posts/records", json!({"id": "z"})),
        write("PATCH", "posts/records/none", json!({})),
    ];
    admin
        .post("/api/batch", json!({"requests": bad}))
        .expect(400);
    admin
        .post("/api/batch", json!({"requests": good}))
        .expect(200);
    for (action, id) in [
        ("create", "a"),
        ("create", "b"),
        ("update", "b"),
        ("create", "c"),
        ("update", "a"),
        ("delete", "c"),
    ] {
        posts.expect(action, id);
    }
    let actions = ["create", "create", "update", "update"];
    let ids: Vec<Value> = actions.map(|action| about(&mut notes, action)).to_vec();
    assert_eq!(ids[..2], [json!("x"), json!("y")]);
    // Relations to the deleted record were cleared.
    let cleared: BTreeSet<&str> = ids[2..].iter().filter_map(Value::as_str).collect();
    assert_eq!(cleared, BTreeSet::from(["x", "y"]));
    let body = json!({"ids": ["a", "b"], "data": {"n": 7}});
    admin.patch(POSTS, body).expect(200);
    posts.expect("update", "a");
    assert_eq!(posts.expect("update", "b")["record"]["n"], 7);
    let missing = json!({"ids": ["a", "none"], "data": {"n": 8}});
    admin.patch(POSTS, missing).expect(404);
    admin
        .send("DELETE", POSTS, &json!({"ids": ["a", "b"]}).to_string())
        .unwrap()
        .expect(204);
    let gone = [posts.event(), posts.event()].map(|event| event["record"]["id"].clone());
    assert_eq!(gone, ["a", "b"]);
    notes.find(|frame| frame["action"] == "delete" && frame["record"]["id"] == "x");
    notes.find(|frame| frame["record"]["id"] == "y" && frame["record"]["also"] == json!([]));
    posts.nothing();
}

fn about(listener: &mut Listener, action: &str) -> Value {
    let event = listener.event();
    assert_eq!(event["action"], action, "{event}");
    event["record"]["id"].clone()
}

#[test]
fn rules_and_groups_decide_as_of_the_change() {
    let server = Server::start();
    let rule = "public = true || owner = @request.auth.id || @request.auth.role = 'chief'";
    let rules = json!({"listRule": rule, "viewRule": "owner = @request.auth.id", "fieldRules": {"staff": ["n"]}});
    let admin = set_up(&server, rules);
    let (ann, of_ann) = account(&admin, "ann", "");
    let (bob, of_bob) = account(&admin, "bob", "");
    let mut anns = Listener::connect(&server, &of_ann);
    anns.subscribe("posts", json!({}));
    anns.subscribe("posts", json!({"sub": "own", "id": "own"}));
    let mut bobs = Listener::connect(&server, "");
    bobs.ask(json!({"t": "auth", "token": of_bob}));
    bobs.subscribe("posts", json!({}));
    let mut anonymous = Listener::connect(&server, "");
    anonymous.subscribe("posts", json!({}));
    make(&admin, "own", json!({"owner": ann, "secret": "s"}));
    make(&admin, "common", json!({"public": true}));
    assert_eq!(anns.find(|it| it["sub"] == "own")["record"]["id"], "own");
    anns.expect("create", "own");
    for listener in [&mut anns, &mut bobs, &mut anonymous] {
        let event = listener.expect("create", "common");
        assert!(event["record"].get("secret").is_none(), "{event}");
    }
    // A new role applies from the next commit on.
    let user = format!("/api/collections/users/records/{bob}");
    admin.patch(&user, json!({"role": "chief"})).expect(200);
    change(&admin, "own", json!({"n": 1}));
    bobs.expect("update", "own");
    admin.patch(&user, json!({"role": ""})).expect(200);
    change(&admin, "own", json!({"n": 2}));
    admin.patch(&user, json!({"groups": ["staff"]})).expect(200);
    change(&admin, "own", json!({"n": 3}));
    let event = bobs.expect("update", "own");
    let keys: BTreeSet<&str> = event["record"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let expected = [
        "collectionId",
        "collectionName",
        "created",
        "id",
        "n",
        "updated",
    ];
    assert_eq!(
        (keys, &event["record"]["n"]),
        (BTreeSet::from(expected), &json!(3))
    );
    admin.patch(&user, json!({"groups": []})).expect(200);
    change(&admin, "own", json!({"owner": ""}));
    change(&admin, "common", json!({"n": 9}));
    bobs.expect("update", "common");
    anonymous.expect("update", "common");
    admin.delete(&user).expect(204);
    bobs.ended(401);
    bobs.nothing();
    let mut chief = Listener::connect(
        &server,
        admin
            .post("/api/admins/refresh", "")
            .expect(200)
            .text("/token"),
    );
    chief.subscribe("posts", json!({}));
    change(&admin, "own", json!({"n": 4}));
    assert_eq!(chief.expect("update", "own")["record"]["secret"], "s");
}

#[test]
fn between_two_changes_of_an_account_it_is_who_it_was_then() {
    let server = Server::start();
    let admin = set_up(&server, json!({"listRule": "@request.auth.role = 'chief'"}));
    let (bob, token) = account(&admin, "bob", "");
    let user = format!("/api/collections/users/records/{bob}");
    let mut bobs = Listener::connect(&server, &token);
    bobs.subscribe("posts", json!({}));
    make(&admin, "own", json!({}));
    let write = |url: &str, body: Value| json!({"method": "PATCH", "url": url, "body": body});
    let own = format!("{POSTS}/own");
    let both = [
        write(&user, json!({"role": "chief"})),
        write(&own, json!({"n": 5})),
        write(&user, json!({"role": ""})),
        write(&own, json!({"n": 6})),
    ];
    let body = json!({"requests": both});
    let reply = admin.post("/api/batch", body).expect(200);
    assert_eq!(reply.json[3]["body"]["n"], 6);
    assert_eq!(bobs.expect("update", "own")["record"]["n"], 5);
    bobs.nothing();
}

#[test]
fn when_definitions_change_all_subscribers_follow() {
    let server = Server::start();
    let admin = set_up(&server, open());
    let mut listeners: Vec<Listener> = (0..3).map(|_| Listener::connect(&server, "")).collect();
    for listener in &mut listeners {
        listener.subscribe("posts", json!({}));
    }
    let path = "/api/collections/posts";
    // An equivalent definition: no event is missed, and no resync is sent.
    admin
        .post("/api/collections", json!({"name": "other"}))
        .expect(200);
    for n in 0..3 {
        make(&admin, &format!("p{n}"), json!({"public": n > 0}));
        for listener in &mut listeners {
            listener.expect("create", &format!("p{n}"));
        }
    }
    admin
        .patch(path, json!({"listRule": "public = true"}))
        .expect(200);
    change(&admin, "p0", json!({"n": 1}));
    change(&admin, "p1", json!({"n": 1}));
    for listener in &mut listeners {
        listener.expect("update", "p1");
    }
    admin.patch(path, json!({"listRule": null})).expect(200);
    for listener in &mut listeners {
        assert_eq!(listener.ended(403)["sub"], "posts");
        assert_eq!(listener.try_subscribe("posts", json!({}))["status"], 403);
    }
    admin.patch(path, json!({"listRule": ""})).expect(200);
    let last = listeners[0].subscribe("posts", json!({}));
    admin.delete(path).expect(204);
    listeners[0].ended(404);
    let again =
        json!({"name": "posts", "listRule": "", "fields": [{"name": "title", "type": "text"}]});
    admin.post("/api/collections", again).expect(200);
    listeners[0].subscribe("posts", json!({"after": last}));
    assert_eq!(listeners[0].next()["t"], "resync");
    make(&admin, "new", json!({"title": "t"}));
    listeners[0].expect("create", "new");
    listeners[0].nothing();
}

#[test]
fn credentials_that_end_end_subscriptions() {
    let server = Server::with(&[("JWT_SECRET", SECRET)]);
    let admin = set_up(
        &server,
        json!({"listRule": "@request.auth.id != null || public = true"}),
    );
    let (ann, token) = account(&admin, "ann", "");
    #[expect(clippy::disallowed_methods, reason = "a token ends by the clock")]
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let short = resigned(&token, SECRET, |claims| claims["exp"] = json!(now + 2));
    let mut brief = Listener::connect(&server, &short);
    brief.subscribe("posts", json!({}));
    let mut renewed = Listener::connect(&server, &short);
    renewed.subscribe("posts", json!({}));
    assert_eq!(renewed.ask(json!({"t": "auth", "token": token}))["t"], "ok");
    brief.ended(401);
    // It continues as an anonymous client and sees only public records.
    brief.subscribe("posts", json!({}));
    make(&admin, "hidden", json!({}));
    renewed.expect("create", "hidden");
    brief.nothing();
    let refused = brief.ask(json!({"t": "auth", "token": "nonsense"}));
    assert_eq!(
        (&refused["t"], &refused["status"]),
        (&json!("no"), &json!(401))
    );
    // Subscriptions of another account end.
    let (_, of_bob) = account(&admin, "bob", "");
    renewed.send(&json!({"t": "auth", "ref": "b", "token": of_bob}));
    renewed.ended(401);
    assert_eq!(renewed.next(), json!({"t": "ok", "ref": "b"}));
    let mut anns = Listener::connect(&server, &token);
    anns.subscribe("posts", json!({}));
    let body = json!({"oldPassword": "password-1", "password": "password-2", "passwordConfirm": "password-2"});
    let path = format!("/api/collections/users/records/{ann}");
    server
        .api()
        .with_token(&token)
        .patch(&path, body)
        .expect(200);
    anns.ended(401);
    let body = json!({"name": "k", "scopes": ["read"]});
    let key = admin.post("/api/keys", body).expect(200);
    let mut keys = Listener::connect(&server, key.text("/key"));
    keys.subscribe("posts", json!({}));
    admin
        .delete(&format!("/api/keys/{}", key.text("/id")))
        .expect(204);
    keys.ended(401);
}

#[test]
fn whoever_comes_back_misses_nothing_or_is_told() {
    let server = Server::start();
    let admin = set_up(&server, open());
    let mut listener = Listener::connect(&server, "");
    let first = listener.subscribe("posts", json!({}));
    make(&admin, "a", json!({"n": 1}));
    let seen = listener.expect("create", "a")["id"]
        .as_str()
        .unwrap()
        .to_owned();
    drop(listener);
    make(&admin, "b", json!({"n": 2}));
    change(&admin, "a", json!({"n": 3}));
    let mut listener = Listener::connect(&server, "");
    let last = listener.subscribe("posts", json!({"after": seen}));
    // If the connection broke now, the events below would count as not received.
    assert_eq!(last, seen);
    listener.expect("create", "b");
    assert_eq!(listener.expect("update", "a")["record"]["n"], 3);
    listener.subscribe(
        "posts",
        json!({"sub": "all", "after": first, "filter": "n != 2"}),
    );
    let all = [listener.event(), listener.event()].map(|event| event["record"]["n"].clone());
    assert_eq!(all, [1, 3], "as the changes left it");
    listener.nothing();
    for after in [
        "",
        "x",
        "00000000.1",
        "x.y",
        &seen.replace('.', ".9999"),
        &seen[1..],
    ] {
        let reply = listener.try_subscribe("posts", json!({"sub": "s", "after": after}));
        assert_eq!(reply["t"], "ok", "{reply}");
        assert_eq!(listener.next()["t"], "resync", "{after}");
    }
    let server = server.restart();
    let mut listener = Listener::connect(&server, "");
    listener.subscribe("posts", json!({"after": first}));
    assert_eq!(listener.next()["t"], "resync");
    make(&server.admin(), "c", json!({}));
    listener.expect("create", "c");
}

#[test]
fn much_that_was_missed_comes_no_faster_than_it_is_taken() {
    let server = Server::start();
    let admin = set_up(&server, open());
    let mut listener = Listener::connect(&server, "");
    let last = listener.subscribe("posts", json!({}));
    drop(listener);
    let text = "x".repeat(3000);
    for _ in 0..4 {
        let make = json!({"method": "POST", "url": POSTS, "body": {"title": text}});
        let body = json!({"requests": vec![make; 1000]});
        admin.post("/api/batch", body).expect(200);
    }
    let mut listener = Listener::connect(&server, "");
    listener.subscribe("posts", json!({"after": last}));
    for n in 0..4000 {
        if n == 2000 {
            make(&admin, "last", json!({}));
        }
        assert_eq!(listener.event()["action"], "create");
    }
    listener.expect("create", "last");
    listener.nothing();
}

#[test]
fn of_a_group_one_gets_each_event() {
    let server = Server::start();
    let admin = set_up(&server, open());
    let (_, token) = account(&admin, "ann", "");
    let group = json!({"group": "g"});
    let mut members: Vec<Listener> = (0..3).map(|_| Listener::connect(&server, "")).collect();
    let mut others = [
        Listener::connect(&server, &token),
        Listener::connect(&server, ""),
    ];
    others[0].subscribe("posts", group.clone());
    others[1].subscribe("posts", json!({"group": "h"}));
    for member in &mut members {
        member.subscribe("posts", group.clone());
    }
    let count = 9;
    for n in 0..count {
        make(&admin, &format!("p{n}"), json!({}));
    }
    let mut seen = BTreeSet::new();
    for member in &mut members {
        // The members take turns.
        for _ in 0..count / 3 {
            assert!(seen.insert(member.event()["record"]["id"].to_string()));
        }
        member.nothing();
    }
    for other in &mut others {
        for n in 0..count {
            other.expect("create", &format!("p{n}"));
        }
    }
    drop(members.drain(1..));
    let mut last = members.pop().unwrap();
    for n in 0..4 {
        // A disconnected member can still be chosen for a moment.
        make(&admin, &format!("q{n}"), json!({}));
        wait_until("the others are gone", || server_has(&server, 3));
    }
    last.find(|event| event["record"]["id"] == "q3");
    let refused = last.try_subscribe("posts", json!({"group": "g", "after": "x.1"}));
    assert_eq!(refused["status"], 400);
}

fn server_has(server: &Server, count: usize) -> bool {
    let metrics = server.admin().get("/metrics").expect(200);
    let text = String::from_utf8(metrics.body).unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("vski_realtime_subscriptions"));
    line.is_some_and(|line| line.ends_with(&format!(" {count}")))
}

#[test]
fn databases_are_apart() {
    let server = Server::start();
    let admin = set_up(&server, open());
    admin
        .post("/api/databases", json!({"name": "shop"}))
        .expect(200);
    let posts = json!({"name": "posts", "listRule": "", "fields": []});
    admin.post("/db/shop/api/collections", posts).expect(200);
    let mut here = Listener::connect(&server, "");
    here.subscribe("posts", json!({}));
    let mut there = Listener::to(&server, "/db/shop", "");
    there.subscribe("posts", json!({}));
    let shop = format!("/db/shop{POSTS}");
    admin.post(&shop, json!({"id": "there"})).expect(200);
    make(&admin, "here", json!({}));
    here.expect("create", "here");
    there.expect("create", "there");
    here.nothing();
    there.nothing();
    let (_, token) = account(&admin, "ann", "");
    let refused = there.ask(json!({"t": "auth", "token": token}));
    assert_eq!(refused["status"], 401);
    admin.delete("/api/databases/shop").expect(204);
    there.ended(404);
}

#[test]
fn of_one_record_changes_come_in_order_whoever_makes_them() {
    let server = Server::start();
    let admin = set_up(&server, open());
    make(&admin, "one", json!({"n": 0}));
    let mut listeners: Vec<Listener> = (0..3).map(|_| Listener::connect(&server, "")).collect();
    for listener in &mut listeners {
        listener.subscribe("posts", json!({"id": "one"}));
    }
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let admin = server.admin();
                for _ in 0..50 {
                    change(&admin, "one", json!({"n+": 1}));
                }
            });
        }
    });
    for listener in &mut listeners {
        let mut last = String::new();
        for n in 1..=200 {
            let event = listener.expect("update", "one");
            assert_eq!(event["record"]["n"], n);
            last = event["id"].to_string();
        }
        assert!(last.ends_with(".201\""), "one for the start, {last}");
        listener.nothing();
    }
}
