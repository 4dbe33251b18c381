//! Stored files that no record names.

use std::path::Path;

use super::{DOCS, Place, Site, form, link, send, server, unnamed};
use crate::support::{sqlite, wait_until};

/// Deleting them at once would make a slip with a copy of a database final.
#[test]
fn files_wait_for_the_database_that_names_them() {
    let site = server(Place::Local);
    let api = site.api();
    let body = form(&[("doc", Some("a.txt"), b"early")]);
    send(&api, "POST", DOCS, &body).expect(200);
    let data = site.dir().join("data");
    let (older, newer) = (data.join("older"), data.join("newer"));
    let copy = |to: &Path| {
        sqlite(&data.join("default.db"))
            .execute("VACUUM INTO ?1", [to.to_str().unwrap()])
            .unwrap();
    };
    let put = |mut site: Site, from: &Path| {
        site.signal("TERM");
        site.wait();
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(data.join(format!("default.db{suffix}")));
        }
        std::fs::rename(from, data.join("default.db")).unwrap();
        site.restart()
    };
    copy(&older);
    let body = form(&[("doc", Some("b.txt"), b"late")]);
    let late = send(&api, "POST", DOCS, &body).expect(200).json;
    copy(&newer);
    let site = put(site, &older);
    wait_until("it is found", || unnamed(&site) == 1);
    let seen = site.admin().get("/api/files").expect(200).json;
    assert_eq!(seen["orphans"]["count"], 1);
    assert_eq!(seen["items"][0]["collection"], "docs");
    assert_eq!(seen["items"][0]["files"], 1);
    assert_eq!(seen["items"][0]["bytes"], 5);
    assert_eq!(site.api().get(&link(&late, &late["doc"])).status, 404);
    let site = put(site, &newer);
    wait_until("it is known again", || unnamed(&site) == 0);
    let reply = site.api().get(&link(&late, &late["doc"])).expect(200);
    assert_eq!(reply.body, b"late");
}
