//! Two editors of one record: neither shall write over the change of the other without a word, as
//! both did while records had no `ETag` and `If-Match` was passed over.

use serde_json::json;

use crate::support::api::{Api, Reply};
use crate::support::cluster;
use crate::support::server::Server;

const POSTS: &str = "/api/collections/posts/records";

fn set_up(server: &Server) -> Api {
    let admin = server.admin();
    let teams = json!({"name": "teams", "viewRule": "", "updateRule": "", "fields": [{"name": "name", "type": "text"}]});
    admin.post("/api/collections", teams).expect(200);
    let posts = json!({"name": "posts", "listRule": "", "viewRule": "", "createRule": "", "updateRule": "locked = false",
        "deleteRule": "", "fields": [
            {"name": "title", "type": "text"}, {"name": "locked", "type": "bool"},
            {"name": "body", "type": "text"}, {"name": "secret", "type": "text", "hidden": true},
            {"name": "team", "type": "relation", "collectionId": "teams"}]});
    admin.post("/api/collections", posts).expect(200);
    admin
        .post(
            "/api/collections/teams/records",
            json!({"id": "red", "name": "Red"}),
        )
        .expect(200);
    admin
        .post(
            POSTS,
            json!({"id": "a", "title": "one", "secret": "s", "team": "red"}),
        )
        .expect(200);
    admin
}

fn tag(reply: &Reply) -> String {
    reply.header("ETag").expect("an ETag").to_owned()
}

#[test]
fn a_change_is_made_only_in_the_state_that_it_names() {
    let server = Server::start();
    set_up(&server);
    let (api, path) = (server.api(), format!("{POSTS}/a"));
    let read = tag(&api.get(&path).expect(200));
    assert!(read.starts_with('"') && read.ends_with('"'), "{read}");
    let with = |name: &str, tags: &str| api.with_header(name, tags);
    // The first editor writes, the second has read the same state and is told.
    let first = with("If-Match", &read)
        .patch(&path, json!({"title": "first"}))
        .expect(200);
    let second = with("If-Match", &read)
        .patch(&path, json!({"title": "second"}))
        .expect(412);
    assert!(
        second.text("/message").contains("read it again"),
        "{}",
        second.json
    );
    with("If-Match", &read).delete(&path).expect(412);
    with("If-Match", &read).get(&path).expect(412);
    let now = api.get(&path).expect(200);
    assert_eq!((now.text("/title"), tag(&now)), ("first", tag(&first)));
    // The forms of a tag; a weak one does not match.
    let now = tag(&now);
    for (tags, status) in [
        (format!("\"x\", {now} ,\"y\""), 200),
        ("*".to_owned(), 200),
        (format!("W/{now}"), 412),
        (now.trim_matches('"').to_owned(), 412),
        (String::new(), 412),
        ("\"\"".to_owned(), 412),
        ("garbage \" , *".to_owned(), 412),
    ] {
        with("If-Match", &tags).get(&path).expect(status);
        let reply = with("If-Match", &tags).patch(&path, "{}");
        // A change without a change is one: its time is another.
        let is_first = tags.contains("\"x\"") || tags == "*" || status == 412;
        assert!(is_first, "{tags}");
        assert_eq!(
            reply.status,
            if tags.contains("\"x\"") || tags == "*" {
                200
            } else {
                412
            },
            "{tags}"
        );
    }
    with("If-None-Match", "*").patch(&path, "{}").expect(412);
    with("If-None-Match", "*").delete(&path).expect(412);
    let now = tag(&api.get(&path).expect(200));
    with("If-None-Match", &format!("W/{now}"))
        .patch(&path, "{}")
        .expect(412);
    with("If-None-Match", &read)
        .patch(&path, json!({"title": "third"}))
        .expect(200);
    // A caller without access learns nothing, and a refused request changes nothing.
    with("If-Match", &read)
        .patch(&format!("{POSTS}/none"), "{}")
        .expect(404);
    let wrong = with("If-Match", &read).patch(&path, json!({"title": 5}));
    assert!([400, 412].contains(&wrong.status));
    api.patch(&path, json!({"locked": true})).expect(200);
    with("If-Match", "*").patch(&path, "{}").expect(404);
    let now = tag(&api.get(&path).expect(200));
    with("If-Match", &now).delete(&path).expect(204);
    with("If-Match", "*").get(&path).expect(404);
}

#[test]
fn two_changes_in_one_millisecond_are_two_states() {
    let server = Server::start();
    let admin = set_up(&server);
    let path = format!("{POSTS}/a");
    let made = admin.post(POSTS, json!({"id": "b"})).expect(200);
    assert_eq!(
        tag(&made),
        tag(&admin.get(&format!("{POSTS}/b")).expect(200))
    );
    let requests: Vec<_> = (0..500)
        .map(|at| json!({"method": "PATCH", "url": path, "body": {"title": at.to_string()}}))
        .collect();
    let batch = admin
        .post("/api/batch", json!({ "requests": requests }))
        .expect(200);
    let answers = batch.json.as_array().unwrap();
    let times: Vec<&str> = answers
        .iter()
        .map(|it| it["body"]["updated"].as_str().unwrap())
        .collect();
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
    // Deleting what it points to changes it, too.
    let before = tag(&admin.get(&path).expect(200));
    admin
        .delete("/api/collections/teams/records/red")
        .expect(204);
    admin
        .with_header("If-Match", &before)
        .patch(&path, "{}")
        .expect(412);
}

#[test]
fn an_answer_that_is_known_is_not_sent_again_and_no_other_is_taken_for_it() {
    let server = Server::start();
    let admin = set_up(&server);
    let api = server.api();
    let long = "x ".repeat(2000);
    admin
        .patch(&format!("{POSTS}/a"), json!({ "body": long }))
        .expect(200);
    let path = |query: &str| format!("{POSTS}/a{query}");
    let known = |api: &Api, tag: &str, query: &str| {
        let reply = api.with_header("If-None-Match", tag).get(&path(query));
        assert!(reply.status == 200 || reply.body.is_empty());
        reply.status
    };
    let plain = tag(&api.get(&path("")).expect(200));
    let packed = tag(&api
        .with_header("Accept-Encoding", "gzip")
        .get(&path(""))
        .expect(200));
    assert_ne!(plain, packed, "the bytes are others");
    for tags in [
        &plain,
        &packed,
        &format!("W/{plain}"),
        &format!("\"x\", {plain}"),
        "*",
    ] {
        assert_eq!(known(&api, tags, ""), 304, "{tags}");
    }
    let head = api
        .with_header("If-None-Match", &plain)
        .send("HEAD", &path(""), "");
    assert_eq!(head.unwrap().status, 304);
    api.with_header("If-Match", &packed)
        .get(&path(""))
        .expect(200);
    // Other fields, an expansion, another caller: other answers.
    assert_eq!(known(&api, &plain, "?fields=id"), 200);
    assert_eq!(known(&api, &plain, "?expand=team"), 200);
    assert_eq!(known(&admin, &plain, ""), 200);
    let expanded = tag(&api.get(&path("?expand=team")).expect(200));
    assert_eq!(known(&api, &expanded, "?expand=team"), 304);
    let team = "/api/collections/teams/records/red";
    api.patch(team, json!({"name": "Green"})).expect(200);
    assert_eq!(known(&api, &expanded, "?expand=team"), 200);
    assert_eq!(known(&api, &plain, ""), 304);
    // A change looks at the state alone, however it was read.
    let some = tag(&admin
        .get(&path("?fields=id,expand.team.name&expand=team"))
        .expect(200));
    api.with_header("If-Match", &some)
        .patch(&path(""), json!({"title": "new"}))
        .expect(200);
    // Hiding a field changes the answer but not the record.
    let before = tag(&api.get(&path("")).expect(200));
    let fields = admin.get("/api/collections/posts").json["fields"].clone();
    let mut fields = fields.as_array().unwrap().clone();
    fields.iter_mut().find(|it| it["name"] == "title").unwrap()["hidden"] = json!(true);
    admin
        .patch("/api/collections/posts", json!({ "fields": fields }))
        .expect(200);
    assert_eq!(known(&api, &before, ""), 200);
    api.with_header("If-Match", &before)
        .patch(&path(""), "{}")
        .expect(200);
}

#[test]
fn replicas_give_the_tags_of_their_master() {
    let master = cluster::master();
    set_up(&master);
    let replica = cluster::replica(&master);
    cluster::converge(&master, &replica);
    let path = format!("{POSTS}/a");
    let there = tag(&master.api().get(&path).expect(200));
    let here = tag(&replica.api().get(&path).expect(200));
    assert_eq!(there, here);
}

#[test]
fn a_weak_tag_of_a_file_matches_nothing() {
    let server = Server::with(&[("CORS_ORIGINS", "https://app.example")]);
    let admin = server.admin();
    let docs = json!({"name": "docs", "viewRule": "", "fields": [{"name": "f", "type": "file"}]});
    admin.post("/api/collections", docs).expect(200);
    let form = "--x\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.txt\"\r\n\r\nabc\r\n--x--\r\n";
    let form_api = admin.with_header("Content-Type", "multipart/form-data; boundary=x");
    let made = form_api
        .post("/api/collections/docs/records", form)
        .expect(200);
    let path = format!("/api/files/docs/{}/{}", made.text("/id"), made.text("/f"));
    let api = server.api();
    let tag = tag(&api.get(&path).expect(200));
    api.with_header("If-Match", &tag).get(&path).expect(200);
    api.with_header("If-Match", &format!("W/{tag}"))
        .get(&path)
        .expect(412);
    api.with_header("If-None-Match", &format!("W/{tag}"))
        .get(&path)
        .expect(304);
    // An invalid token is ignored if the file is public.
    api.get(&format!("{path}?token=nonsense")).expect(200);
    // Browsers may send these headers and read the tag.
    let page = server.api().with_header("Origin", "https://app.example");
    let wants = page
        .with_header("Access-Control-Request-Method", "PATCH")
        .with_header("Access-Control-Request-Headers", "if-match");
    let allowed = wants.send("OPTIONS", &path, "").unwrap().expect(204);
    assert_eq!(
        allowed.header("Access-Control-Allow-Headers"),
        Some("if-match")
    );
    let seen = page.get(&path).expect(200);
    assert!(
        seen.header("Access-Control-Expose-Headers")
            .unwrap()
            .contains("ETag")
    );
}
