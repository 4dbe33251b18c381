//! The list of connected workers.

use serde_json::Value;

use crate::base::clock;
use crate::base::json::Object;
use crate::services::workflows::core::Core;
use crate::services::workflows::sessions::{Session, SessionId, WorkerGrant};

/// Workers in the list, and workflows of each.
const WORKERS_MAX: usize = 10_000;
const SERVES_MAX: usize = 20;

impl Core {
    /// Connected workers as JSON objects; only those that the grant covers completely.
    pub fn workers(&self, grant: &WorkerGrant) -> Vec<String> {
        let may_see = |(_, session): &(SessionId, &Session)| {
            session
                .serves
                .iter()
                .all(|served| grant.opens(&served.name))
        };
        let seen = self.sessions.iter().filter(may_see).take(WORKERS_MAX);
        let workers = seen.map(|(id, session)| {
            let serves = session.serves.iter().take(SERVES_MAX).map(|served| {
                Object::new()
                    .text("name", &served.name)
                    .text("version", &served.version)
                    .end()
            });
            let jobs = self.leases.runs_of(id).into_iter();
            let jobs = jobs.filter_map(|run| self.leases.get(run));
            let jobs = jobs.map(|held| Value::from(held.run.clone()).to_string());
            Object::new()
                .text("worker", &session.worker)
                .text("instance", &session.instance)
                .text("sdk", &session.sdk)
                .text("lang", &session.lang)
                .text("connected", &clock::format_ms(session.connected))
                .text("heard", &clock::format_ms(session.heard))
                .int("credit", i64::try_from(session.credit).unwrap_or(i64::MAX))
                .bool("draining", session.is_draining)
                .list("workflows", serves)
                .list("jobs", jobs)
                .end()
        });
        workers.collect()
    }

    /// The runs that workers hold, with their epochs.
    #[cfg(test)]
    pub fn held(&self) -> Vec<(i64, i64)> {
        let held = self.leases.iter().filter(|(_, held)| !held.is_cancelled);
        held.map(|(run, held)| (run, held.epoch)).collect()
    }

    /// True if a connected worker serves this version; an empty version matches any.
    pub fn is_served(&self, workflow: &str, version: &str) -> bool {
        self.sessions.iter().any(|(_, session)| {
            let mut serves = session.serves.iter();
            serves.any(|served| {
                served.name == workflow && (version.is_empty() || served.version == version)
            })
        })
    }

    /// The number of connected workers.
    pub fn worker_count(&self) -> usize {
        self.sessions.iter().count()
    }
}
