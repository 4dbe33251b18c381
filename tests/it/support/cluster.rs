//! A master and its replicas: the built binary, once for each.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::api::Api;
use super::server::{Server, VSKI, command};
use super::token::SECRET;
use super::{sqlite, wait_until};

/// A master that keeps its port when it is started again.
pub fn master() -> Server {
    let server = Server::with(&[("JWT_SECRET", SECRET)]);
    let port = server.addr().port().to_string();
    server.restart_with("PORT", &port)
}

/// A replica of the server at this URL, with further settings.
pub fn replica_of(url: &str, settings: &[(&str, &str)]) -> Server {
    let own = [
        ("JWT_SECRET", SECRET),
        ("REPLICA_MODE", "replica"),
        ("MASTER_URL", url),
        ("SYNC_INTERVAL", "1"),
    ];
    Server::with(&[&own, settings].concat())
}

/// A replica of this master.
pub fn replica(master: &Server) -> Server {
    replica_of(&format!("http://{}", master.addr()), &[])
}

/// A server that is not allowed to write files longer than so many KiB.
pub fn limited(server: Server, kib: u32) -> Server {
    with_limit(server, &format!("-f {kib}"))
}

/// A server started again under this limit of `ulimit`.
pub fn with_limit(server: Server, limit: &str) -> Server {
    let (dir, settings) = server.into_parts();
    let mut limited = std::process::Command::new("bash");
    let script = format!("ulimit {limit}; exec \"$0\" serve");
    limited.args(["-c", &script, VSKI]);
    for (name, value) in command(dir.path()).get_envs() {
        limited.env(name, value.unwrap_or_default());
    }
    limited.env("PORT", "0").envs(settings.iter().cloned());
    Server::from_command(limited, dir, settings)
}

/// The status of replication.
pub fn status(server: &Server) -> Value {
    let watch = super::token::replica(&server.api(), "watch");
    watch.get("/api/replica/status").expect(200).json
}

/// The status of one database of a replica; null if it has none of that name.
pub fn database(server: &Server, name: &str) -> Value {
    let status = status(server);
    let list = status["replica"]["databases"].as_array().unwrap().clone();
    list.into_iter()
        .find(|it| it["name"] == name)
        .unwrap_or_default()
}

/// Waits until a replica has every database of the master as it is now, page for page.
#[track_caller]
pub fn converge(master: &Server, replica: &Server) {
    let files = std::fs::read_dir(data(master)).unwrap();
    let names = files.filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let own = ["local.db", "stats.db", "workflows.db"];
    let names = names.filter(|name| name.ends_with(".db") && !own.contains(&name.as_str()));
    for name in names.collect::<Vec<_>>() {
        wait_until(&format!("{name} is the same on the replica"), || {
            let there = pages(&data(master).join(&name));
            let here = data(replica).join(&name);
            here.exists() && there.is_some() && there == pages(&here)
        });
    }
}

/// The directory with the databases of a server.
pub fn data(server: &Server) -> PathBuf {
    server.dir().join("data")
}

/// Every page of a database, without the bytes that SQLite writes by itself; none when it cannot be
/// read now.
pub fn pages(path: &Path) -> Option<Vec<Vec<u8>>> {
    let connection = sqlite(path);
    let mut statement = connection.prepare("SELECT data FROM sqlite_dbpage").ok()?;
    let rows = statement.query_map([], |row| row.get(0)).ok()?;
    let mut pages: Vec<Vec<u8>> = rows.collect::<rusqlite::Result<_>>().ok()?;
    let first = pages.first_mut()?;
    first[24..28].fill(0);
    first[92..100].fill(0);
    Some(pages)
}

/// A collection that everyone may read and write.
pub fn open_collection(admin: &Api, name: &str) {
    open_collection_in(admin, "", name);
}

/// The same in a tenant; `base` is `/db/` and its name.
pub fn open_collection_in(admin: &Api, base: &str, name: &str) {
    let body = serde_json::json!({
        "name": name, "listRule": "", "viewRule": "", "createRule": "", "updateRule": "",
        "deleteRule": "", "fields": [{"name": "title", "type": "text"}, {"name": "n", "type": "number"}],
    });
    admin
        .post(&format!("{base}/api/collections"), body)
        .expect(200);
}
