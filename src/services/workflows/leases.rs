//! The part of a lease that is in memory: the session and the deadline.
//!
//! The epoch is in the database: whatever this table says, a stale worker cannot write. Deadlines
//! are only here, so renewing them costs no disk access. A rollback undoes the changes of a
//! transaction.

use std::collections::{BTreeMap, BTreeSet};

use crate::services::workflows::sessions::SessionId;
use crate::services::workflows::tx::Lease;

/// A run that a worker holds, or that it is told to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldRun {
    pub run: String,
    pub epoch: i64,
    pub workflow: String,
    /// None after the connection closed or the server restarted; the worker may return.
    pub session: Option<SessionId>,
    /// The time at which the lease expires.
    pub deadline: i64,
    /// The worker has acknowledged the job.
    pub is_acked: bool,
    /// The run was cancelled; the worker has until the deadline to stop its code.
    pub is_cancelled: bool,
    /// Size of the frame that dispatched it.
    pub bytes: usize,
}

/// The runs of one session.
#[derive(Debug, Default)]
struct SessionLoad {
    runs: BTreeSet<i64>,
    unacked_bytes: usize,
}

/// All held runs by row id.
#[derive(Debug, Default)]
pub struct Leases {
    held: BTreeMap<i64, HeldRun>,
    by_run: BTreeMap<String, i64>,
    loads: BTreeMap<SessionId, SessionLoad>,
    /// The values before the transaction changed them.
    undo: Option<Vec<(i64, Option<HeldRun>)>>,
    /// Sessions whose leases have changed.
    touched: BTreeSet<SessionId>,
}

impl Leases {
    pub fn get(&self, run: i64) -> Option<&HeldRun> {
        self.held.get(&run)
    }

    /// The row id of the run of a current lease.
    pub fn find(&self, lease: &Lease) -> Option<i64> {
        let id = *self.by_run.get(&lease.run)?;
        let held = self.held.get(&id)?;
        (held.epoch == lease.epoch).then_some(id)
    }

    /// Inserts or replaces a lease.
    pub fn put(&mut self, run: i64, held: HeldRun) {
        let old = self.detach(run);
        if let Some(session) = held.session {
            self.touched.insert(session);
            let load = self.loads.entry(session).or_default();
            load.runs.insert(run);
            if !held.is_acked {
                load.unacked_bytes += held.bytes;
            }
        }
        self.by_run.insert(held.run.clone(), run);
        self.held.insert(run, held);
        self.record_undo(run, old);
    }

    pub fn remove(&mut self, run: i64) -> Option<HeldRun> {
        let old = self.detach(run)?;
        self.record_undo(run, Some(old.clone()));
        Some(old)
    }

    pub fn change(&mut self, run: i64, change: impl FnOnce(&mut HeldRun)) {
        if let Some(held) = self.held.get(&run) {
            let mut held = held.clone();
            change(&mut held);
            self.put(run, held);
        }
    }

    /// Extends the deadline of an acknowledged lease. A rollback does not undo it.
    pub fn renew(&mut self, run: i64, deadline: i64) {
        if let Some(held) = self.held.get_mut(&run)
            && held.is_acked
            && !held.is_cancelled
        {
            held.deadline = held.deadline.max(deadline);
        }
    }

    /// Moves all deadlines after a jump of the clock.
    pub fn shift(&mut self, ms: i64) {
        for held in self.held.values_mut() {
            held.deadline += ms;
        }
    }

    pub fn runs_of(&self, session: SessionId) -> Vec<i64> {
        let load = self.loads.get(&session);
        load.map_or_else(Vec::new, |load| load.runs.iter().copied().collect())
    }

    /// The number of runs of a session.
    pub fn count(&self, session: SessionId) -> usize {
        self.loads.get(&session).map_or(0, |load| load.runs.len())
    }

    /// Bytes of jobs that the session has not acknowledged.
    pub fn unacked_bytes(&self, session: SessionId) -> usize {
        let load = self.loads.get(&session);
        load.map_or(0, |load| load.unacked_bytes)
    }

    /// Runs whose lease has expired, at most `max`.
    pub fn expired(&self, now: i64, max: usize) -> Vec<i64> {
        let expired = self.held.iter().filter(|(_, held)| held.deadline <= now);
        expired.map(|(run, _)| *run).take(max).collect()
    }

    #[cfg(test)]
    pub fn iter(&self) -> impl Iterator<Item = (i64, &HeldRun)> {
        self.held.iter().map(|(run, held)| (*run, held))
    }

    /// Sessions whose leases have changed since the last call.
    pub fn drain_touched(&mut self) -> BTreeSet<SessionId> {
        std::mem::take(&mut self.touched)
    }

    /// Starts to record changes for a rollback.
    pub fn begin(&mut self) {
        self.undo = Some(Vec::new());
    }

    /// Keeps the changes.
    pub fn commit(&mut self) {
        self.undo = None;
    }

    /// Undoes the changes since [`Leases::begin`].
    pub fn rollback(&mut self) {
        for (run, old) in self.undo.take().unwrap_or_default().into_iter().rev() {
            match old {
                Some(old) => self.put(run, old),
                None => drop(self.detach(run)),
            }
        }
    }

    fn record_undo(&mut self, run: i64, old: Option<HeldRun>) {
        if let Some(undo) = &mut self.undo {
            undo.push((run, old));
        }
    }

    fn detach(&mut self, run: i64) -> Option<HeldRun> {
        let held = self.held.remove(&run)?;
        self.by_run.remove(&held.run);
        self.touched.extend(held.session);
        if let Some(session) = held.session
            && let Some(load) = self.loads.get_mut(&session)
        {
            load.runs.remove(&run);
            if !held.is_acked {
                load.unacked_bytes -= held.bytes;
            }
            if load.runs.is_empty() {
                self.loads.remove(&session);
            }
        }
        Some(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(run: i64, session: SessionId) -> HeldRun {
        HeldRun {
            run: format!("wrun_{run}"),
            epoch: 1,
            workflow: "w".to_owned(),
            session: Some(session),
            deadline: 10 * run,
            is_acked: false,
            is_cancelled: false,
            bytes: 100,
        }
    }

    #[test]
    fn a_transaction_that_fails_leaves_everything_as_it_was() {
        let mut leases = Leases::default();
        leases.put(1, held(1, 7));
        leases.put(2, held(2, 7));
        leases.drain_touched();
        let before = format!("{leases:?}");
        leases.begin();
        leases.remove(1);
        leases.change(2, |held| held.is_acked = true);
        leases.put(3, held(3, 8));
        leases.put(1, held(1, 8));
        leases.remove(2);
        assert_eq!(leases.count(8), 2);
        leases.rollback();
        assert_eq!(leases.drain_touched(), BTreeSet::from([7, 8]));
        assert_eq!(format!("{leases:?}"), before);
        assert_eq!(leases.unacked_bytes(7), 200);
        assert_eq!(leases.expired(10, 9), [1]);
    }
}
