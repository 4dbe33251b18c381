//! Files whose field, their collection or their database is deleted: they are kept
//! out of reach until that is made final.

use serde_json::json;

use super::{DOCS, Place, form, journal_and_rows, link, on_both, send, server, stored};
use crate::support::token::replica;
use crate::support::{sqlite_for_writing, wait_until};

const PURGE: &str = "/api/databases/default/purge";

fn files_of_a_deleted_field_are_out_of_reach_and_go_with_the_purge(place: Place) {
    let server = server(place);
    let (api, admin) = (server.api(), server.admin());
    let fields = json!({"fields": [
        {"name": "title", "type": "text"},
        {"name": "doc", "type": "file", "protected": true},
        {"name": "pics", "type": "file", "maxSelect": 3},
    ]});
    admin.patch("/api/collections/docs", &fields).expect(200);
    let body = form(&[
        ("doc", Some("secret.txt"), b"secret"),
        ("pics", Some("a.txt"), b"first"),
        ("pics", Some("b.txt"), b"second"),
    ]);
    let record = send(&api, "POST", DOCS, &body).expect(200).json;
    let (secret, picture) = (
        link(&record, &record["doc"]),
        link(&record, &record["pics"][0]),
    );
    admin.get(&secret).expect(200);
    let fields = json!({"fields": [{"name": "pics", "type": "file", "maxSelect": 3}]});
    admin.patch("/api/collections/docs", &fields).expect(200);
    // It was protected, and is not open to all for being deleted.
    api.get(&secret).expect(404);
    admin.get(&secret).expect(404);
    assert_eq!(stored(&server).len(), 3);
    // A field of the same name is another one.
    let fields = json!({"fields": [
        {"name": "pics", "type": "file", "maxSelect": 3}, {"name": "doc", "type": "file"}]});
    admin.patch("/api/collections/docs", &fields).expect(200);
    api.get(&secret).expect(404);

    let reply = admin.post(PURGE, "").expect(200);
    assert_eq!(
        reply.json,
        json!({"collections": 0, "fields": 4, "files": 1})
    );
    wait_until("the file is gone", || stored(&server).len() == 2);
    assert_eq!(api.get(&picture).expect(200).body, b"first");
    let reply = admin.post(PURGE, "").expect(200);
    assert_eq!(
        reply.json,
        json!({"collections": 0, "fields": 0, "files": 0})
    );
    // The remaining files still work.
    let body = form(&[("doc", Some("new.txt"), b"new"), ("pics-", None, b"none")]);
    let id = record["id"].as_str().unwrap();
    send(&api, "PATCH", &format!("{DOCS}/{id}"), &body).expect(200);
}

fn files_of_a_deleted_field_go_with_their_record(place: Place) {
    let server = server(place);
    let (api, admin) = (server.api(), server.admin());
    let body = form(&[("doc", Some("a.txt"), b"content")]);
    let id = send(&api, "POST", DOCS, &body)
        .expect(200)
        .text("/id")
        .to_owned();
    let fields = json!({"fields": [{"name": "title", "type": "text"}]});
    admin.patch("/api/collections/docs", &fields).expect(200);
    api.delete(&format!("{DOCS}/{id}")).expect(204);
    // The thread is not notified, so it is done at the next start at the latest.
    let server = server.restart();
    wait_until("the file is gone", || stored(&server).is_empty());
}

fn files_of_a_deleted_collection_go_with_the_purge(place: Place) {
    let server = server(place);
    let (api, admin) = (server.api(), server.admin());
    let data = server.dir().join("data");
    let foreign = sqlite_for_writing(&data.join("default.db"));
    foreign
        .execute_batch("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)")
        .unwrap();
    let docs = admin.get("/api/collections/docs").expect(200).json;
    let body = form(&[("doc", Some("a.txt"), b"content")]);
    let old = send(&api, "POST", DOCS, &body).expect(200).json;
    admin.delete("/api/collections/docs").expect(204);
    api.get(&link(&old, &old["doc"])).expect(404);
    // The table of the first moves aside, that of the second stays under its name.
    let anew = json!({"name": "docs", "createRule": "", "fields": docs["fields"]});
    admin.post("/api/collections", &anew).expect(200);
    let new = send(&api, "POST", DOCS, &body).expect(200).json;
    let other = json!({"name": "other", "fields": [{"name": "doc", "type": "file"}]});
    admin.post("/api/collections", &other).expect(200);
    send(&admin, "POST", "/api/collections/other/records", &body).expect(200);
    admin.delete("/api/collections/other").expect(204);
    assert_eq!(stored(&server).len(), 3);

    let reply = admin.post(PURGE, "").expect(200);
    assert_eq!(
        reply.json,
        json!({"collections": 2, "fields": 0, "files": 2})
    );
    wait_until("their files are gone", || stored(&server).len() == 1);
    wait_until("the journal says so", || {
        let (left, rows) = journal_and_rows(&server);
        left == rows && rows.len() == 1
    });
    assert_eq!(
        api.get(&link(&new, &new["doc"])).expect(200).body,
        b"content"
    );
    let kept: i64 = foreign
        .query_row("SELECT count(*) FROM theirs", [], |row| row.get(0))
        .unwrap();
    assert_eq!(kept, 1);
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name LIKE '_deleted%' OR name = 'other'";
    let left: i64 = foreign.query_row(tables, [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0);

    // A view of theirs is in the way, and nothing is done by halves.
    let fields = json!({"fields": [{"name": "doc", "type": "file"}]});
    admin.patch("/api/collections/docs", &fields).expect(200);
    foreign
        .execute_batch("CREATE VIEW view AS SELECT title FROM docs")
        .unwrap();
    let reply = admin.post(PURGE, "").expect(409);
    assert!(reply.text("/message").contains("title"), "{}", reply.json);
    foreign.execute_batch("DROP VIEW view").unwrap();
    admin.post(PURGE, "").expect(200);
}

#[test]
fn files_of_a_deleted_database_lie_beside_its_file() {
    let server = server(Place::Local);
    let (api, admin) = (server.api(), server.admin());
    let replica = replica(&api, "one");
    let reply = replica.get("/api/replica/files").expect(200);
    let epoch = reply.text("/epoch").to_owned();
    let shop = json!({"name": "shop"});
    let docs =
        json!({"name": "docs", "createRule": "", "fields": [{"name": "doc", "type": "file"}]});
    let body = form(&[("doc", Some("a.txt"), b"content")]);
    for _ in 0..2 {
        admin.post("/api/databases", &shop).expect(200);
        admin.post("/db/shop/api/collections", &docs).expect(200);
        send(&api, "POST", "/db/shop/api/collections/docs/records", &body).expect(200);
        admin.delete("/api/databases/shop").expect(204);
        assert!(stored(&server).is_empty());
    }
    // The journal tells nothing of them, so replicas have to look at all there is.
    replica
        .get(&format!("/api/replica/files?since=0&epoch={epoch}"))
        .expect(410);
    let mut names: Vec<String> = std::fs::read_dir(server.dir().join("data/deleted"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let stems: Vec<&str> = names
        .iter()
        .map(|name| name.rsplit_once('.').unwrap().0)
        .collect();
    assert_eq!(names.len(), 4, "{names:?}");
    assert!(stems[0] == stems[1] && stems[2] == stems[3], "{names:?}");

    // Put back as the README says, all is there again.
    let data = server.dir().join("data");
    let aside = |extension: &str| data.join(format!("deleted/{}.{extension}", stems[2]));
    let mut server = server;
    server.signal("TERM");
    server.wait();
    std::fs::rename(aside("db"), data.join("shop.db")).unwrap();
    std::fs::rename(aside("files"), data.join("storage/shop")).unwrap();
    let default = sqlite_for_writing(&data.join("default.db"));
    let sql = "UPDATE _collections SET deleted = NULL WHERE database = 'shop' AND deleted =
               (SELECT max(deleted) FROM _collections WHERE database = 'shop')";
    assert_eq!(default.execute(sql, []).unwrap(), 1);
    drop(default);
    let server = server.restart();
    let list = server
        .admin()
        .get("/db/shop/api/collections/docs/records")
        .expect(200)
        .json;
    let record = &list["items"][0];
    let file = format!("/db/shop{}", link(record, &record["doc"]));
    assert_eq!(server.api().get(&file).expect(200).body, b"content");
}

on_both!(
    files_of_a_deleted_field_go_with_their_record,
    files_of_a_deleted_field_are_out_of_reach_and_go_with_the_purge,
    files_of_a_deleted_collection_go_with_the_purge,
);
