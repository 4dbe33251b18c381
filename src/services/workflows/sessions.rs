//! Connected workers, and the choice of the worker for the next job.
//!
//! A worker can receive a job while it holds fewer jobs than its credit. Each such worker is in one
//! ring per workflow and version that it serves; the worker that has waited longest is first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::base::error::{Error, Kind, Result};
use crate::services::workflows::frames::Served;

/// A connection of a worker.
pub type SessionId = u64;

/// The permissions of a caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerGrant {
    /// None: all workflows.
    pub workflows: Option<Arc<BTreeSet<String>>>,
    /// The end of its validity; milliseconds since 1970.
    pub expires_ms: Option<i64>,
}

impl WorkerGrant {
    /// True if the grant covers the workflow.
    pub fn opens(&self, workflow: &str) -> bool {
        let names = self.workflows.as_ref();
        names.is_none_or(|names| names.contains(workflow))
    }

    /// Refuses a workflow that the grant does not cover.
    pub fn check(&self, workflow: &str) -> Result<()> {
        match self.opens(workflow) {
            true => Ok(()),
            false => Err(Error::new(
                Kind::Forbidden,
                format!("The token does not cover the workflow {workflow}."),
            )),
        }
    }
}

/// A worker after its hello.
#[derive(Debug)]
pub struct Session {
    pub worker: String,
    pub instance: String,
    pub sdk: String,
    pub lang: String,
    pub grant: WorkerGrant,
    pub serves: Vec<Served>,
    pub credit: usize,
    pub is_draining: bool,
    /// It did not acknowledge a job and has sent nothing since.
    pub is_stalled: bool,
    pub connected: i64,
    pub heard: i64,
    /// The start of its current silence: its last frame, or the first job after a pause.
    pub quiet_since: i64,
    pub heartbeats: u64,
    /// The number and deadline of a pending probe.
    pub probe: Option<(i64, i64)>,
    /// The worker was told that its token expires soon.
    pub is_warned: bool,
    /// Its position in the rings; none while it cannot receive a job.
    turn: Option<u64>,
}

/// Sessions that can receive a job, by turn.
type Ring = BTreeSet<(u64, SessionId)>;

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Sessions {
    all: BTreeMap<SessionId, Session>,
    by_worker: BTreeMap<String, BTreeSet<SessionId>>,
    /// Workflow, version, and the sessions that can receive a job.
    rings: BTreeMap<String, BTreeMap<String, Ring>>,
    turns: u64,
}

impl Session {
    pub fn new(worker: String, grant: WorkerGrant, serves: Vec<Served>, now: i64) -> Session {
        Session {
            worker,
            instance: String::new(),
            sdk: String::new(),
            lang: String::new(),
            grant,
            serves,
            credit: 0,
            is_draining: false,
            is_stalled: false,
            connected: now,
            heard: now,
            quiet_since: now,
            heartbeats: 0,
            probe: None,
            is_warned: false,
            turn: None,
        }
    }
}

impl Sessions {
    pub fn get(&self, id: SessionId) -> Option<&Session> {
        self.all.get(&id)
    }

    pub fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.all.get_mut(&id)
    }

    pub fn iter(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.all.iter().map(|(id, session)| (*id, session))
    }

    pub fn add(&mut self, id: SessionId, session: Session) {
        let of_worker = self.by_worker.entry(session.worker.clone()).or_default();
        of_worker.insert(id);
        self.all.insert(id, session);
    }

    pub fn remove(&mut self, id: SessionId) -> Option<Session> {
        self.leave_rings(id);
        let session = self.all.remove(&id)?;
        if let Some(of_worker) = self.by_worker.get_mut(&session.worker) {
            of_worker.remove(&id);
            if of_worker.is_empty() {
                self.by_worker.remove(&session.worker);
            }
        }
        Some(session)
    }

    /// Moves all times after a jump of the clock.
    pub fn shift(&mut self, ms: i64) {
        for session in self.all.values_mut() {
            session.quiet_since += ms;
            if let Some((_, until)) = &mut session.probe {
                *until += ms;
            }
        }
    }

    /// The connections of a worker.
    pub fn of_worker(&self, worker: &str) -> impl Iterator<Item = (SessionId, &Session)> {
        let ids = self.by_worker.get(worker).into_iter().flatten();
        ids.filter_map(|id| self.all.get(id).map(|session| (*id, session)))
    }

    /// Removes a workflow from those that the session serves.
    pub fn stop_serving(&mut self, id: SessionId, workflow: &str) {
        let turn = self.leave_rings(id);
        if let Some(session) = self.all.get_mut(&id) {
            session.serves.retain(|served| served.name != workflow);
        }
        if turn.is_some() {
            self.join_rings(id);
        }
    }

    /// Sets whether a session can receive a job; returns true if it could not before.
    pub fn set_free(&mut self, id: SessionId, is_free: bool) -> bool {
        let was_free = self
            .all
            .get(&id)
            .is_some_and(|session| session.turn.is_some());
        match (was_free, is_free) {
            (false, true) => self.join_rings(id),
            (true, false) => drop(self.leave_rings(id)),
            _ => {}
        }
        !was_free && is_free
    }

    /// Moves a session to the end of its rings after it received a job.
    pub fn rotate(&mut self, id: SessionId) {
        if self.leave_rings(id).is_some() {
            self.join_rings(id);
        }
    }

    /// The versions of a workflow for which a session can receive a job.
    pub fn free_versions(&self, workflow: &str) -> Vec<String> {
        let rings = self.rings.get(workflow).into_iter().flatten();
        rings.map(|(version, _)| version.clone()).collect()
    }

    /// Chooses the session for a job: the worker that held it last if it can receive a job, else
    /// the session that has waited longest. Returns the version too, for jobs that are bound to
    /// none.
    pub fn choose_worker(
        &self,
        workflow: &str,
        version: &str,
        last: &str,
    ) -> Option<(SessionId, String)> {
        let rings = self.rings.get(workflow)?;
        let serves = |session: &Session| {
            let mut serves = session.serves.iter();
            let is_it = |served: &&Served| {
                served.name == workflow && (version.is_empty() || served.version == version)
            };
            serves.find(is_it).map(|served| served.version.clone())
        };
        let sticky = self.of_worker(last).find_map(|(id, session)| {
            session.turn?;
            Some((id, serves(session)?))
        });
        if sticky.is_some() && !last.is_empty() {
            return sticky;
        }
        let mut found: Option<(u64, SessionId, &str)> = None;
        for (known, ring) in rings {
            if !version.is_empty() && known != version {
                continue;
            }
            if let Some((turn, id)) = ring.first()
                && found.is_none_or(|(first, _, _)| *turn < first)
            {
                found = Some((*turn, *id, known));
            }
        }
        found.map(|(_, id, version)| (id, version.to_owned()))
    }

    fn join_rings(&mut self, id: SessionId) {
        self.turns += 1;
        let Some(session) = self.all.get_mut(&id) else {
            return;
        };
        session.turn = Some(self.turns);
        for served in &session.serves {
            let versions = self.rings.entry(served.name.clone()).or_default();
            let ring = versions.entry(served.version.clone()).or_default();
            ring.insert((self.turns, id));
        }
    }

    fn leave_rings(&mut self, id: SessionId) -> Option<u64> {
        let session = self.all.get_mut(&id)?;
        let turn = session.turn.take()?;
        for served in &session.serves {
            let Some(versions) = self.rings.get_mut(&served.name) else {
                continue;
            };
            if let Some(ring) = versions.get_mut(&served.version) {
                ring.remove(&(turn, id));
                if ring.is_empty() {
                    versions.remove(&served.version);
                }
            }
            if versions.is_empty() {
                self.rings.remove(&served.name);
            }
        }
        Some(turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions(count: u64) -> Sessions {
        let mut sessions = Sessions::default();
        for id in 1..=count {
            let served = Served {
                name: "w".to_owned(),
                version: (id % 2).to_string(),
            };
            let session = Session::new(
                format!("worker{id}"),
                WorkerGrant::default(),
                vec![served],
                0,
            );
            sessions.add(id, session);
            assert!(sessions.set_free(id, true));
        }
        sessions
    }

    #[test]
    fn jobs_go_round_and_back_to_who_had_them() {
        let mut sessions = sessions(4);
        let mut order = Vec::new();
        for _ in 0..8 {
            let (id, _) = sessions.choose_worker("w", "", "").unwrap();
            sessions.rotate(id);
            order.push(id);
        }
        assert_eq!(order, [1, 2, 3, 4, 1, 2, 3, 4]);
        assert_eq!(
            sessions.choose_worker("w", "", "worker3"),
            Some((3, "1".to_owned()))
        );
        // The last worker now serves another version, or has no free credit.
        assert_eq!(sessions.choose_worker("w", "0", "worker3").unwrap().0, 2);
        assert!(!sessions.set_free(3, false));
        assert_eq!(sessions.choose_worker("w", "1", "worker3").unwrap().0, 1);
        assert_eq!(sessions.choose_worker("w", "2", ""), None);
    }

    #[test]
    fn nothing_is_left_of_who_has_gone() {
        let mut sessions = sessions(2);
        sessions.stop_serving(1, "w");
        assert_eq!(sessions.free_versions("w"), ["0"]);
        sessions.remove(1);
        sessions.remove(2);
        assert!(sessions.rings.is_empty() && sessions.by_worker.is_empty());
    }
}
