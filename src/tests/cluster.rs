//! Nodes: servers in this process, each with its own directory.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::app::App;
use crate::base::ids;
use crate::base::threads::Stop;
use crate::config::Config;
use crate::server;
use crate::server::Running;
use crate::store::db::pages::PageReader;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A server that can be stopped and started again.
pub struct Node {
    dir: PathBuf,
    master: Option<u16>,
    port: u16,
    running: Option<Running>,
}

impl Node {
    /// A master with no data, or a replica of the one on this port.
    pub fn start(master: Option<u16>) -> Node {
        let random = ids::hex(&ids::random_bytes::<8>().unwrap());
        let mut node = Node {
            dir: std::env::temp_dir().join(format!("vski-node-{random}")),
            master,
            port: 0,
            running: None,
        };
        node.run();
        node.port = node.running.as_ref().unwrap().http.local_addr().port();
        node
    }

    /// Starts it again, on the same port.
    pub fn run(&mut self) {
        let port = self.port.to_string();
        let master = self.master.map(|port| format!("http://127.0.0.1:{port}"));
        let dir = self.dir.to_str().unwrap();
        let mut flags = HashMap::from([
            ("DATA_DIR", dir.to_owned()),
            ("PORT", port),
            ("JWT_SECRET", SECRET.to_owned()),
            ("SYNC_INTERVAL", "1".to_owned()),
            ("THREADS", "4".to_owned()),
            ("LOG", "error".to_owned()),
        ]);
        if let Some(master) = master {
            flags.insert("REPLICA_MODE", "replica".to_owned());
            flags.insert("MASTER_URL", master);
        }
        self.running = Some(server::start(&Config::load(&flags).unwrap()).unwrap());
    }

    /// Stops it cleanly.
    pub fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            assert!(running.stop(), "a clean stop");
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn app(&self) -> &Arc<App> {
        &self.running.as_ref().unwrap().app
    }

    /// Reports whether every page of a database is equal on both nodes, except for what SQLite
    /// writes by itself.
    pub fn equals(&self, other: &Node, name: &str) -> bool {
        let map = |node: &Node| {
            let path = node.app().databases.file(name);
            let reader = PageReader::open(&path).ok()?;
            let snapshot = reader.snapshot().unwrap();
            Some(snapshot.map(1).unwrap())
        };
        map(self) == map(other)
    }

    /// Waits until a replica has everything of this master.
    #[track_caller]
    pub fn awaits(&self, replica: &Node, name: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.equals(replica, name) {
            assert!(
                Instant::now() < deadline,
                "the replica does not catch up: {:?}",
                replica.app().replica().unwrap().status()
            );
            replica.app().replica().unwrap().request_full_sync();
            Stop::new().wait(Duration::from_millis(20));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("data: {}", self.dir.display());
            // A stop might never return.
            std::mem::forget(self.running.take());
            return;
        }
        self.stop();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
