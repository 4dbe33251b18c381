//! Statistics of requests, which a restart neither loses nor counts twice.

use serde_json::Value;

use crate::support::api::Api;
use crate::support::cluster::{converge, replica};
use crate::support::server::Server;
use crate::support::{cluster, sqlite};

/// The sums of the last hour for a route.
fn of_route(api: &Api, route: &str) -> Value {
    let reply = api.get("/api/stats?by=total").expect(200);
    let rows = reply.json["requests"].as_array().unwrap().clone();
    let mut found = rows.into_iter().filter(|row| row["route"] == route);
    let row = found.next().unwrap_or_default();
    assert!(found.next().is_none(), "one row");
    row
}

fn count(api: &Api, route: &str) -> u64 {
    of_route(api, route)["count"].as_u64().unwrap_or(0)
}

const RECORD: &str = "GET /api/collections/{collection}/records/{id}";

#[test]
fn requests_are_counted_once_over_restarts() {
    let mut server = Server::start();
    server.admin();
    for round in 1..=2 {
        let api = server.api();
        for _ in 0..20 {
            api.get("/api/health").expect(200);
        }
        for _ in 0..5 {
            api.get("/api/collections/none/records/x").expect(404);
            api.get("/no/such/path").expect(404);
            api.delete("/api/health").expect(405);
        }
        for _ in 0..2 {
            let admin = server.admin();
            assert_eq!(count(&admin, "GET /api/health"), 20 * round);
            let record = of_route(&admin, RECORD);
            assert_eq!(record["count"], 5 * round);
            assert_eq!(
                (&record["errors4xx"], &record["errors5xx"]),
                (&record["count"], &Value::from(0))
            );
            let of = |name: &str| record[name].as_f64().unwrap();
            assert!(
                of("p50Ms") <= of("p95Ms") && of("p95Ms") <= of("p99Ms"),
                "{record}"
            );
            assert!(of("p99Ms") <= of("maxMs") && of("maxMs") > 0.0, "{record}");
            assert!(of("meanMs") <= of("maxMs"), "{record}");
            assert_eq!(count(&admin, "(no route)"), 10 * round);
            let (dir, settings) = server.into_parts();
            server = Server::from_parts((dir, settings));
        }
    }
    let admin = server.admin();
    let before = count(&admin, "GET /api/health");
    let file = sqlite(&server.dir().join("data/stats.db"));
    let sql = "SELECT sum(count) FROM _requests WHERE route = 'GET /api/health'";
    let written: i64 = file.query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!((before, written), (40, 40));
    assert!(server.stop().success());
}

#[test]
fn wrong_parameters_are_named() {
    let server = Server::start();
    let admin = server.admin();
    for (query, says) in [
        ("from=yesterday", "from=yesterday"),
        ("to=2026-13-01", "to=2026-13-01"),
        ("from=2026-01-02&to=2026-01-01", "from"),
        ("from=2026-01-02&to=2026-01-02", "from"),
        ("by=week", "by=week"),
        ("of=users", "of=users"),
        ("from=2026-01-01&to=2026-01-31", "use by=hour"),
        ("from=2026-01-01&to=2026-12-31&by=hour", "use by=day"),
    ] {
        let reply = admin.get(&format!("/api/stats?{query}")).expect(400);
        assert!(
            reply.text("/message").contains(says),
            "{query}: {}",
            reply.json
        );
    }
    let from = "/api/stats?from=2026-01-01T12:00:10Z&to=2026-01-01T13:00:20Z";
    let reply = admin.get(&format!("{from}&of=workflows")).expect(200);
    assert_eq!(reply.text("/from"), "2026-01-01T12:00:00.000Z");
    assert_eq!(reply.text("/to"), "2026-01-01T13:00:20.000Z");
    assert_eq!(
        (&reply.json["by"], &reply.json["requests"]),
        (&Value::from("minute"), &Value::Null)
    );
    assert_eq!(reply.json["workflows"], Value::Array(Vec::new()));
    let metrics = admin.get("/metrics").expect(200);
    let text = String::from_utf8(metrics.body).unwrap();
    assert!(
        text.contains("# TYPE vski_workflow_runs_started_total counter"),
        "{text}"
    );
}

#[test]
fn a_replica_has_its_own() {
    let master = cluster::master();
    master.admin();
    let mut follower = replica(&master);
    converge(&master, &follower);
    for _ in 0..7 {
        follower.api().get("/api/health").expect(200);
        follower.api().post("/api/collections", "{}").expect(403);
    }
    for _ in 0..2 {
        let admin = follower.admin();
        assert_eq!(count(&admin, "GET /api/health"), 7);
        assert_eq!(of_route(&admin, "POST /api/collections")["errors4xx"], 7);
        assert_eq!(count(&master.admin(), "GET /api/health"), 0);
        let (dir, settings) = follower.into_parts();
        follower = Server::from_parts((dir, settings));
    }
    assert!(count(&master.admin(), "GET /api/replica/databases") > 0);
}
