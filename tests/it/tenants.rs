//! More tenants than can be open at a time: the limit of descriptors leaves 64 connections.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::support::api::Api;
use super::support::cluster::{converge, data, master, open_collection_in, replica_of, with_limit};
use super::support::server::Server;
use super::support::{pause, wait_until};

const TENANTS: usize = 210;
const CONNECTIONS: usize = 64;
const CLIENTS: usize = 4;

fn limited(server: Server) -> Server {
    with_limit(server.restart_with("MAX_CONNECTIONS", "64"), "-n 600")
}

fn records(tenant: usize) -> String {
    format!("/db/t{tenant}/api/collections/c/records")
}

fn create_tenants(server: &Server) {
    let admin = server.admin();
    for tenant in 0..TENANTS {
        let name = format!("t{tenant}");
        admin
            .post("/api/databases", json!({"name": name}))
            .expect(200);
        open_collection_in(&admin, &format!("/db/{name}"), "c");
    }
}

/// Tenants of which the process has a file open.
fn open_tenants(server: &Server) -> usize {
    let dir = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
    let links = dir.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let names = links.filter_map(|path| path.file_name()?.to_str().map(str::to_owned));
    let tenants = names.filter(|name| name.starts_with('t') && name.ends_with(".db"));
    tenants.collect::<HashSet<_>>().len()
}

/// Writes to all tenants in turns until the server is killed; the records that it acknowledged.
fn write_until_killed(server: &mut Server) -> Vec<(usize, String)> {
    let (acknowledged, is_over) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    let addr = server.addr();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (api, acknowledged, is_over) = (Api::new(addr), &acknowledged, &is_over);
            scope.spawn(move || {
                for turn in client.. {
                    let tenant = turn * 11 % TENANTS;
                    let body = json!({"n": turn}).to_string();
                    let Ok(reply) = api.send("POST", &records(tenant), &body) else {
                        assert!(is_over.load(Ordering::SeqCst), "ended by itself");
                        return;
                    };
                    let id = reply.expect(200).text("/id").to_owned();
                    let read = api.send("GET", &format!("{}/{id}", records(tenant)), "");
                    if let Ok(read) = read {
                        read.expect(200);
                    }
                    acknowledged.lock().unwrap().push((tenant, id));
                }
            });
        }
        for goal in (0..TENANTS + 100).step_by(20) {
            let is_reached = || acknowledged.lock().unwrap().len() > goal;
            wait_until("the tenants are written to", is_reached);
        }
        // Each open one has a writer and a reader; requests that run now may exceed the bound.
        assert!(open_tenants(server) <= CONNECTIONS + 2 * CLIENTS);
        is_over.store(true, Ordering::SeqCst);
        server.kill();
    });
    acknowledged.into_inner().unwrap()
}

#[test]
fn hundreds_of_tenants_survive_kills_and_reach_a_replica() {
    let mut server = limited(master());
    create_tenants(&server);
    let mut acknowledged = Vec::new();
    for _ in 0..2 {
        acknowledged.extend(write_until_killed(&mut server));
        server = limited(server);
    }
    let api = server.api();
    for (tenant, id) in &acknowledged {
        api.get(&format!("{}/{id}", records(*tenant))).expect(200);
    }

    let replica = limited(replica_of(&format!("http://{}", server.addr()), &[]));
    let has_all = || (0..TENANTS).all(|it| data(&replica).join(format!("t{it}.db")).exists());
    let deadline = Instant::now() + Duration::from_secs(60);
    while !has_all() && Instant::now() < deadline {
        pause(Duration::from_millis(100));
    }
    converge(&server, &replica);
    let there = replica.api();
    for (tenant, id) in &acknowledged {
        there.get(&format!("{}/{id}", records(*tenant))).expect(200);
    }
    assert!(open_tenants(&replica) <= CONNECTIONS + 2 * CLIENTS);
}

#[test]
fn a_deleted_tenant_is_gone_and_its_name_is_free_while_others_are_closed() {
    let server = limited(Server::with(&[("DB_SYNCHRONOUS", "normal")]));
    create_tenants(&server);
    let admin = server.admin();
    for tenant in [0, 100, TENANTS - 1] {
        let made = server.api().post(&records(tenant), json!({"title": "old"}));
        let id = made.expect(200).text("/id").to_owned();
        admin
            .delete(&format!("/api/databases/t{tenant}"))
            .expect(204);
        server.api().get(&records(tenant)).expect(404);
        admin
            .post("/api/databases", json!({"name": format!("t{tenant}")}))
            .expect(200);
        open_collection_in(&admin, &format!("/db/t{tenant}"), "c");
        server
            .api()
            .get(&format!("{}/{id}", records(tenant)))
            .expect(404);
        server
            .api()
            .post(&records(tenant), json!({"title": "new"}))
            .expect(200);
    }
    admin
        .post("/api/databases", json!({"name": "t1"}))
        .expect(409);
}
