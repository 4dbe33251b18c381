//! Renames beside requests and subscribers, with kills in between, and on replicas.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::{
    COLLECTIONS, check_followed, fields_with, path, records, rename_all, rename_fields, set_up,
};
use crate::support::cluster::{converge, master, replica};
use crate::support::listener::Listener;
use crate::support::server::Server;
use crate::support::wait_until;

#[test]
fn replicas_follow_renames() {
    let server = master();
    let admin = server.admin();
    admin
        .post("/api/databases", json!({"name": "shop"}))
        .expect(200);
    for base in ["", "/db/shop"] {
        set_up(&admin, base);
    }
    let follower = replica(&server);
    converge(&server, &follower);
    let reader = follower.api().with_token(admin.token());
    for base in ["", "/db/shop"] {
        assert_eq!(
            reader.get(&records(base, "posts")).expect(200).json["totalItems"],
            1
        );
        rename_all(&admin, base);
    }
    converge(&server, &follower);
    for base in ["", "/db/shop"] {
        wait_until("the replica knows the new names", || {
            reader.get(&path(base, "articles")).status == 200
        });
        check_followed(&reader, base);
        let list = reader.get(&records(base, "articles")).expect(200).json;
        assert_eq!(list["items"][0]["headline"], "hello");
        reader.get(&records(base, "posts")).expect(404);
        let stats = reader.get(&records(base, "stats")).expect(200).json;
        assert_eq!(stats["items"][0]["title"], "hello");
    }
}

#[test]
fn a_kill_leaves_all_of_a_rename_or_nothing() {
    for (base, point, is_done) in [
        ("", "tables-renamed", false),
        ("/db/shop", "tables-renamed", false),
        ("/db/shop", "definitions-pending", false),
        ("/db/shop", "definitions-applied", true),
    ] {
        let server = Server::start();
        let admin = server.admin();
        admin
            .post("/api/databases", json!({"name": "shop"}))
            .expect(200);
        set_up(&admin, base);
        let id = |name: &str| {
            admin
                .get(&path(base, name))
                .expect(200)
                .text("/id")
                .to_owned()
        };
        let swap = json!({"collections": [
            {"id": id("posts"), "name": "comments"}, {"id": id("comments"), "name": "posts"}]});
        let mut server = server.restart_with("VSKI_FAILPOINT", point);
        let import = format!("{base}{COLLECTIONS}/import");
        let sent = server.admin().send("PUT", &import, &swap.to_string());
        assert!(sent.is_err(), "the server has answered");
        server.wait();
        let server = server.restart_with("VSKI_FAILPOINT", "");
        let admin = server.admin();
        let (posts, comments) = match is_done {
            true => ("comments", "posts"),
            false => ("posts", "comments"),
        };
        let list = admin.get(&records(base, posts)).expect(200).json;
        assert_eq!(list["items"][0]["title"], "hello", "{point}");
        let list = admin.get(&records(base, comments)).expect(200).json;
        assert_eq!(list["items"][0]["text"], "hi", "{point}");
        let rule = admin.get(&path(base, posts)).expect(200).json["viewRule"].clone();
        assert!(
            rule.as_str()
                .unwrap()
                .starts_with(&format!("{comments}_via_post.text"))
        );
        let stats = admin.get(&records(base, "stats")).expect(200).json;
        assert_eq!(stats["items"][0]["title"], "hello", "{point}");
        // And once more, in full.
        admin.put(&import, swap).expect(204);
        let list = admin.get(&records(base, "comments")).expect(200).json;
        assert_eq!(list["totalItems"], 1, "{point}");
    }
}

#[test]
fn requests_beside_renames_see_one_name_or_the_other() {
    const RENAMES: usize = 30;
    let server = Server::start();
    let admin = server.admin();
    let body = json!({"name": "posts", "listRule": "title != ''", "createRule": "", "fields": [
        {"name": "title", "type": "text", "unique": true}, {"name": "n", "type": "number"}]});
    let id = admin
        .post(COLLECTIONS, body)
        .expect(200)
        .text("/id")
        .to_owned();
    let (is_over, written) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let (is_over, written, id) = (&is_over, &written, &id);
            let api = server.api();
            scope.spawn(move || {
                let mut count = 0;
                while !is_over.load(Ordering::SeqCst) {
                    count += 1;
                    // Fields of an unknown name are passed over, so the answer says which it was.
                    let title = format!("{writer}-{count}");
                    let body = json!({"title": title, "headline": title, "n": 1});
                    let made = api.post(&records("", id), body).expect(200);
                    let shown = [&made.json["title"], &made.json["headline"]];
                    assert!(shown.contains(&&json!(title)), "{}", made.json);
                    written.fetch_add(1, Ordering::SeqCst);
                    let name = ["posts", "articles"][count % 2];
                    let list = api.get(&records("", name));
                    assert!(matches!(list.status, 200 | 404), "{}", list.json);
                    let list = api.get(&records("", id)).expect(200).json;
                    for item in list["items"].as_array().unwrap() {
                        let titles = [&item["title"], &item["headline"]];
                        let set = titles.iter().filter(|it| it.is_string()).count();
                        assert_eq!(set, 1, "{item}");
                    }
                }
            });
        }
        for round in 0..RENAMES {
            let (from, to) = match round % 2 {
                0 => (("posts", "title"), ("articles", "headline")),
                _ => (("articles", "headline"), ("posts", "title")),
            };
            let fields = fields_with(&admin, &path("", from.0), &[(from.1, to.1)]);
            let body = json!({"name": to.0, "fields": fields});
            admin.patch(&path("", from.0), body).expect(200);
        }
        is_over.store(true, Ordering::SeqCst);
    });
    let list = admin.get(&records("", "posts")).expect(200).json;
    assert_eq!(list["totalItems"], written.load(Ordering::SeqCst));
}

#[test]
fn a_subscription_ends_with_the_name_and_follows_the_id() {
    let server = Server::start();
    let admin = server.admin();
    set_up(&admin, "");
    let id = admin
        .get(&path("", "posts"))
        .expect(200)
        .text("/id")
        .to_owned();
    let mut by_name = Listener::connect(&server, admin.token());
    by_name.subscribe("posts", json!({}));
    let mut by_id = Listener::connect(&server, admin.token());
    by_id.subscribe(&id, json!({}));
    let mut by_field = Listener::connect(&server, admin.token());
    by_field.subscribe(&id, json!({"sub": "f", "filter": "title != ''"}));
    let fields = fields_with(&admin, &path("", "posts"), &[("title", "headline")]);
    let body = json!({"name": "articles", "fields": fields});
    admin.patch(&path("", "posts"), body).expect(200);
    let change = json!({"headline": "new"});
    admin
        .patch(&format!("{}/p1", records("", "articles")), change)
        .expect(200);
    let event = by_id.expect("update", "p1");
    assert_eq!(event["record"]["headline"], "new");
    assert_eq!(event["record"]["collectionName"], "articles");
    assert_eq!(event["record"]["title"], Value::Null);
    for listener in [&mut by_name, &mut by_field] {
        let ended = listener.next();
        assert_eq!(ended["t"], "ended", "{ended}");
    }
    by_name.subscribe("articles", json!({}));
}

#[test]
fn a_rule_sees_the_account_of_a_subscriber_under_the_new_name() {
    let server = Server::start();
    let admin = server.admin();
    set_up(&admin, "");
    let rule = json!({"listRule": "@request.auth.role = 'title'"});
    admin.patch(&path("", "posts"), rule).expect(200);
    let login = json!({"identity": "anna", "password": "password-1"});
    let login = admin.post(&format!("{}/auth-with-password", path("", "users")), login);
    let mut listener = Listener::connect(&server, login.expect(200).text("/token"));
    listener.subscribe("posts", json!({}));
    rename_fields(&admin, &path("", "users"), &[("role", "kind")]).expect(200);
    let change = json!({"title": "new"});
    admin
        .patch(&format!("{}/p1", records("", "posts")), change)
        .expect(200);
    listener.expect("update", "p1");
}
