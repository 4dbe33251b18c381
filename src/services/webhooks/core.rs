//! Decides which calls are made now, and what the result of a call means: a pure state machine.
//!
//! Its inputs are the time and the earliest rows of each database; its output is the rows to send.
//! Hosts take turns. Calls in flight are bounded in all and per host. A host is healthy after it
//! answers, and slow after an attempt that timed out or could not reach it, until an attempt
//! succeeds. A slow host gets one call at a time. So does a new host, which has not answered since
//! the start, while other hosts are called. Slow hosts together get a quarter of all slots. New
//! hosts together have a few calls in their first second. A call that takes longer is late. Late
//! calls never take all slots: some stay free for healthy hosts that have none. So a host that
//! answers never waits for hosts that hang, and a few hanging hosts delay a new host by seconds at
//! most.

use std::time::Duration;

use crate::base::backoff::Backoff;

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Limit on calls in flight.
pub const SENDERS: usize = 32;
/// Limit for one host.
const PER_HOST: usize = 6;
/// Limit for all slow hosts together.
const FOR_SLOW: usize = SENDERS / 4;
/// Limit for calls of all new hosts that are not late.
const FOR_NEW: usize = SENDERS / 4;
/// Limit on late calls of all hosts. Above it, only healthy hosts without a late call may start
/// one.
const LATE_MAX: usize = SENDERS - PER_HOST;
/// A call in flight for longer is late.
const PROMPT_MS: i64 = 1000;
/// Longest pause between two attempts.
const WAIT_MAX_MS: i64 = 3_600_000;
/// Pauses between the attempts of a call.
const BACKOFF: Backoff = Backoff::doubling(Duration::from_secs(2), Duration::from_secs(3600));
/// Limit on remembered hosts without a call in flight.
const HOSTS_MAX: usize = 1000;

/// Identifies a row: database, id and time of creation, which distinguishes a database from an
/// earlier one of the same name.
pub type CallKey = (String, i64, i64);

/// A pending row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingCall {
    pub id: i64,
    pub host: String,
    /// Unix milliseconds.
    pub due_ms: i64,
    pub created_ms: i64,
}

impl PendingCall {
    /// No pause is longer than the maximum: a later time was written before the clock was set back.
    fn is_due(&self, now_ms: i64) -> bool {
        self.due_ms <= now_ms || self.due_ms.saturating_sub(now_ms) > WAIT_MAX_MS
    }
}

/// The result of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    Answered {
        code: u16,
        /// The beginning of the body.
        answer: String,
        /// The pause that the response requests.
        retry_after_ms: Option<i64>,
    },
    /// A run was started, or existed already.
    Started { run: String },
    /// The host could not be reached or did not answer in time.
    Unreachable(String),
    /// Another error that may be temporary.
    Failed(String),
    /// A retry would fail in the same way.
    Rejected(String),
}

/// The status of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    Success,
    /// It is retried.
    Pending,
    Failed,
}

impl CallOutcome {
    pub const ALL: [CallOutcome; 3] = [
        CallOutcome::Success,
        CallOutcome::Pending,
        CallOutcome::Failed,
    ];

    pub fn name(self) -> &'static str {
        match self {
            CallOutcome::Success => "success",
            CallOutcome::Pending => "pending",
            CallOutcome::Failed => "failed",
        }
    }
}

/// The state of a row after an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallState {
    pub outcome: CallOutcome,
    /// Attempts so far.
    pub attempts: u32,
    /// The time of the next attempt.
    pub due_ms: i64,
    pub code: Option<u16>,
    pub error: String,
    pub answer: String,
}

/// The state of a row after an attempt that followed `made` failed attempts.
pub fn next_state(made: u32, retries: u32, attempt: Attempt, now_ms: i64) -> CallState {
    let attempts = made.saturating_add(1);
    let verdict = |outcome, code, error: String, answer: String| CallState {
        outcome,
        attempts,
        due_ms: now_ms,
        code,
        error,
        answer,
    };
    let (may_pass, asked_ms, mut verdict) = match attempt {
        Attempt::Started { run } => {
            return verdict(CallOutcome::Success, None, String::new(), run);
        }
        Attempt::Answered { code, answer, .. } if (200..300).contains(&code) => {
            return verdict(CallOutcome::Success, Some(code), String::new(), answer);
        }
        Attempt::Answered {
            code,
            answer,
            retry_after_ms,
        } => {
            let error = match code {
                300..400 => format!("The host answered {code}; redirects are not followed."),
                _ => format!("The host answered {code}."),
            };
            let asked_ms = retry_after_ms.filter(|_| matches!(code, 429 | 503));
            let failed = verdict(CallOutcome::Failed, Some(code), error, answer);
            (true, asked_ms.unwrap_or(0), failed)
        }
        Attempt::Unreachable(error) | Attempt::Failed(error) => (
            true,
            0,
            verdict(CallOutcome::Failed, None, error, String::new()),
        ),
        Attempt::Rejected(error) => (
            false,
            0,
            verdict(CallOutcome::Failed, None, error, String::new()),
        ),
    };
    if may_pass && attempts <= retries {
        verdict.outcome = CallOutcome::Pending;
        verdict.due_ms = now_ms + BACKOFF.pause_ms(attempts).max(asked_ms.min(WAIT_MAX_MS));
    }
    verdict
}

/// See the module documentation.
#[derive(Debug, Default)]
pub struct DispatchCore {
    pending: BTreeMap<String, Vec<PendingCall>>,
    hosts: HashMap<String, Host>,
    /// Rows with a call in flight, or with a result that is not written yet.
    claimed: BTreeSet<CallKey>,
    /// Calls in flight.
    in_flight: BTreeMap<CallKey, InFlight>,
    turn: u64,
}

/// A call in flight.
#[derive(Debug)]
struct InFlight {
    host: String,
    started_ms: i64,
}

impl InFlight {
    fn is_late(&self, now_ms: i64) -> bool {
        // After the clock is set back, the duration is unknown.
        !(0..PROMPT_MS).contains(&(now_ms - self.started_ms))
    }
}

/// The health of a host since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Health {
    /// It has not answered yet.
    #[default]
    Unknown,
    Healthy,
    Slow,
}

#[derive(Debug, Default)]
struct Host {
    health: Health,
    /// The number of its last turn.
    turn: u64,
}

impl DispatchCore {
    /// Replaces the earliest pending rows of a database, some of each host.
    pub fn set_pending(&mut self, database: &str, pending: Vec<PendingCall>) {
        match pending.is_empty() {
            true => self.pending.remove(database),
            false => self.pending.insert(database.to_owned(), pending),
        };
    }

    /// Forgets the rows of a database that was deleted or cannot be read.
    pub fn forget(&mut self, database: &str) {
        self.pending.remove(database);
    }

    /// Starts the calls that may be made now and returns them.
    pub fn pick(&mut self, now_ms: i64) -> Vec<(CallKey, String)> {
        let mut picked = Vec::new();
        if self.running() >= SENDERS {
            return picked;
        }
        let mut due: BTreeMap<&str, Vec<(i64, CallKey)>> = BTreeMap::new();
        for (database, pending) in &self.pending {
            for call in pending.iter().filter(|call| call.is_due(now_ms)) {
                let key = (database.clone(), call.id, call.created_ms);
                if !self.claimed.contains(&key) {
                    let of_host = due.entry(&call.host).or_default();
                    of_host.push((call.due_ms, key));
                }
            }
        }
        let turn_of = |host: &str| self.hosts.get(host).map_or(0, |it| it.turn);
        let mut hosts: Vec<(u64, String, Vec<CallKey>)> = due
            .into_iter()
            .map(|(host, mut rows)| {
                rows.sort_unstable();
                let rows = rows.into_iter().take(PER_HOST).map(|(_, key)| key);
                (turn_of(host), host.to_owned(), rows.collect())
            })
            .collect();
        hosts.sort_unstable();
        for at in 0..PER_HOST {
            for (_, host, rows) in &hosts {
                if let Some(key) = rows.get(at)
                    && self.may_start(host, now_ms)
                {
                    self.start(host, key.clone(), now_ms);
                    picked.push((key.clone(), host.clone()));
                }
            }
        }
        picked
    }

    fn health(&self, host: &str) -> Health {
        self.hosts.get(host).map_or(Health::Unknown, |it| it.health)
    }

    fn may_start(&self, host: &str, now_ms: i64) -> bool {
        let count = |counts: &dyn Fn(&InFlight) -> bool| {
            self.in_flight.values().filter(|it| counts(it)).count()
        };
        let of_host = count(&|it| it.host == host);
        let has_late = || count(&|it| it.host == host && it.is_late(now_ms)) > 0;
        let of_health = |health: Health, young_only: bool| {
            count(&|it| self.health(&it.host) == health && !(young_only && it.is_late(now_ms)))
        };
        let health = self.health(host);
        let may_start_one = match health {
            Health::Healthy => of_host < PER_HOST,
            Health::Slow => of_host == 0 && of_health(Health::Slow, false) < FOR_SLOW,
            Health::Unknown => {
                let may_have_more = || self.running() < PER_HOST && !has_late();
                (of_host == 0 || may_have_more()) && of_health(Health::Unknown, true) < FOR_NEW
            }
        };
        let is_prompt = || health == Health::Healthy && !has_late();
        may_start_one
            && self.running() < SENDERS
            && (count(&|it| it.is_late(now_ms)) < LATE_MAX || is_prompt())
    }

    fn start(&mut self, host: &str, key: CallKey, now_ms: i64) {
        self.turn += 1;
        self.claimed.insert(key.clone());
        let call = InFlight {
            host: host.to_owned(),
            started_ms: now_ms,
        };
        self.in_flight.insert(key, call);
        self.hosts.entry(host.to_owned()).or_default().turn = self.turn;
    }

    /// Ends a call; without an attempt it was not made. Its row is not sent again before
    /// [`DispatchCore::recorded`].
    pub fn finished(&mut self, key: &CallKey, attempt: Option<&Attempt>) {
        let Some(call) = self.in_flight.remove(key) else {
            return;
        };
        if let Some(known) = self.hosts.get_mut(&call.host) {
            known.health = match (attempt, known.health) {
                (Some(Attempt::Unreachable(_)), _) => Health::Slow,
                (Some(Attempt::Answered { code: 200..300, .. }), _) => Health::Healthy,
                (Some(Attempt::Started { .. }), _) => Health::Healthy,
                (Some(Attempt::Answered { .. }), Health::Unknown) => Health::Healthy,
                (_, health) => health,
            };
        }
        if self.hosts.len() > HOSTS_MAX {
            // Keep hosts that were called recently or are being called.
            let oldest = self.turn.saturating_sub(HOSTS_MAX as u64 / 2);
            let running: BTreeSet<&str> = self.in_flight.values().map(|it| &*it.host).collect();
            self.hosts
                .retain(|name, host| host.turn > oldest || running.contains(&**name));
        }
    }

    /// The result is written, or the row is deleted.
    pub fn recorded(&mut self, key: &CallKey) {
        self.claimed.remove(key);
    }

    /// Calls in flight.
    pub fn running(&self) -> usize {
        self.in_flight.len()
    }

    /// The time when the next row becomes due, or a call becomes late, which frees a slot for
    /// others.
    pub fn next_due_ms(&self, now_ms: i64) -> Option<i64> {
        let pending = self.pending.values().flatten().map(|it| it.due_ms);
        let late = self.in_flight.values().map(|it| it.started_ms + PROMPT_MS);
        pending.chain(late).filter(|due| *due > now_ms).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(code: u16) -> Attempt {
        Attempt::Answered {
            code,
            answer: "text".to_owned(),
            retry_after_ms: Some(30_000),
        }
    }

    #[test]
    fn what_an_outcome_means() {
        use CallOutcome::{Failed, Pending, Success};
        let silent = || Attempt::Unreachable("no answer".to_owned());
        let refused = Attempt::Rejected("private".to_owned());
        let run = Attempt::Started {
            run: "wrun_1".to_owned(),
        };
        for (made, retries, attempt, outcome, due) in [
            (0, 5, answered(200), Success, 0),
            (5, 5, answered(204), Success, 0),
            (0, 5, run, Success, 0),
            (0, 5, answered(199), Pending, 2_000),
            (0, 5, answered(301), Pending, 2_000),
            (1, 5, answered(404), Pending, 4_000),
            (2, 5, answered(500), Pending, 8_000),
            (3, 5, silent(), Pending, 16_000),
            (4, 5, Attempt::Failed(String::new()), Pending, 32_000),
            (5, 5, answered(500), Failed, 0),
            (5, 5, silent(), Failed, 0),
            (0, 5, refused, Failed, 0),
            // The receiver requests a pause; the limit is an hour.
            (0, 5, answered(429), Pending, 30_000),
            (0, 5, answered(503), Pending, 30_000),
            (5, 9, answered(503), Pending, 64_000),
            (11, 100, silent(), Pending, 3_600_000),
            (99, 100, silent(), Pending, 3_600_000),
            (100, 100, silent(), Failed, 0),
        ] {
            let name = format!("{made} of {retries}: {attempt:?}");
            let verdict = next_state(made, retries, attempt, 1_000_000);
            let found = (verdict.outcome, verdict.due_ms, verdict.attempts);
            assert_eq!(found, (outcome, 1_000_000 + due, made + 1), "{name}");
        }
        let long = Attempt::Answered {
            code: 429,
            answer: String::new(),
            retry_after_ms: Some(i64::MAX),
        };
        assert_eq!(next_state(0, 1, long, 0).due_ms, 3_600_000);
    }

    fn pending(host: &str, ids: std::ops::Range<i64>) -> Vec<PendingCall> {
        let call = |id| PendingCall {
            id,
            host: host.to_owned(),
            due_ms: id,
            created_ms: 0,
        };
        ids.map(call).collect()
    }

    /// Lets a host answer one call, with this id.
    fn greet(core: &mut DispatchCore, host: &str, id: i64) {
        core.set_pending("greetings", pending(host, id..id + 1));
        for (key, _) in core.pick(id) {
            core.finished(&key, Some(&answered(200)));
        }
        core.forget("greetings");
    }

    fn hosts(picked: &[(CallKey, String)]) -> Vec<&str> {
        picked.iter().map(|(_, host)| &**host).collect()
    }

    #[test]
    fn a_host_gets_some_and_one_when_it_is_slow() {
        let mut core = DispatchCore::default();
        core.set_pending("default", pending("a:80", 1..17));
        let picked = core.pick(100);
        let ids: Vec<i64> = picked.iter().map(|((_, id, _), _)| *id).collect();
        assert_eq!(ids, [1, 2, 3, 4, 5, 6]);
        assert!(core.pick(100).is_empty());
        for (key, _) in &picked[1..] {
            core.finished(key, Some(&Attempt::Unreachable(String::new())));
            assert!(core.pick(100).is_empty(), "one is still under way");
        }
        core.finished(&picked[0].0, Some(&Attempt::Failed(String::new())));
        let picked = core.pick(100);
        assert_eq!(picked.len(), 1);
        core.finished(&picked[0].0, Some(&answered(200)));
        assert_eq!(core.pick(13).len(), PER_HOST);
        assert_eq!(core.next_due_ms(13), Some(14));
    }

    /// A host of which nothing is known gets more than one call only if there is nothing else to
    /// do.
    #[test]
    fn a_new_host_gets_one_call_while_others_are_called() {
        let mut core = DispatchCore::default();
        core.set_pending("default", pending("a:80", 1..4));
        assert_eq!(core.pick(100).len(), 3);
        core.set_pending("other", pending("b:80", 1..17));
        assert_eq!(core.pick(100).len(), 3);
        core.set_pending("third", pending("c:80", 1..17));
        let picked = core.pick(100);
        assert_eq!(hosts(&picked), ["c:80"]);
        // Any answer counts.
        core.finished(&picked[0].0, Some(&answered(500)));
        assert_eq!(hosts(&core.pick(100)), ["c:80"; PER_HOST]);
    }

    #[test]
    fn slow_hosts_leave_most_places_to_others() {
        let mut core = DispatchCore::default();
        let mut all = Vec::new();
        for number in 0..20 {
            all.extend(pending(
                &format!("slow{number}:80"),
                number * 10..number * 10 + 6,
            ));
        }
        greet(&mut core, "well:443", 1);
        core.set_pending("default", all.clone());
        for _ in 0..9 {
            for (key, _) in core.pick(1000) {
                core.finished(&key, Some(&Attempt::Unreachable(String::new())));
            }
            core.claimed.clear();
        }
        assert_eq!(core.pick(1000).len(), FOR_SLOW);
        core.set_pending("other", pending("well:443", 500..520));
        assert_eq!(core.pick(1000).len(), PER_HOST);
        assert_eq!(core.running(), FOR_SLOW + PER_HOST);
    }

    /// After a start no host is known, and hosts that hang are called with all others.
    #[test]
    fn new_hosts_that_hang_delay_others_by_seconds() {
        let mut core = DispatchCore::default();
        greet(&mut core, "well:80", 1);
        core.set_pending("default", pending("hangs:80", 1..10));
        assert_eq!(core.pick(1000).len(), PER_HOST);
        let hanging =
            (10..29).flat_map(|at| pending(&format!("hangs{at}:80"), at * 10..at * 10 + 9));
        core.set_pending("default", hanging.collect());
        core.set_pending("other", pending("z-new:80", 50..59));
        assert_eq!(core.pick(1000).len(), FOR_NEW - PER_HOST);
        assert!(core.pick(1999).is_empty());
        assert_eq!(core.next_due_ms(1000), Some(2000), "when they are late");
        assert_eq!(core.pick(2000).len(), FOR_NEW);
        assert_eq!(core.pick(3000).len(), FOR_NEW);
        let picked = core.pick(4000);
        assert_eq!(hosts(&picked), ["hangs28:80", "z-new:80"]);
        assert!(core.pick(10_000).is_empty());
        core.set_pending("other", pending("well:80", 50..59));
        assert_eq!(hosts(&core.pick(10_000)), ["well:80"; PER_HOST]);
    }

    #[test]
    fn calls_that_hang_leave_places_to_prompt_hosts() {
        let mut core = DispatchCore::default();
        let (mut all, names) = (Vec::new(), ["a:80", "b:80", "c:80", "d:80", "e:80", "f:80"]);
        for (at, host) in (1_i64..).zip(names) {
            greet(&mut core, host, at);
            all.extend(pending(host, at * 100..at * 100 + 16));
        }
        // Four healthy hosts stop answering; then two that answer get calls.
        let (hang, well) = all.split_at(64);
        core.set_pending("default", hang.to_vec());
        assert_eq!(core.pick(1000).len(), 24);
        core.set_pending("default", [hang, well].concat());
        let picked = core.pick(9000);
        assert_eq!(hosts(&picked), ["e:80", "f:80"].repeat(4));
        core.finished(&picked[0].0, Some(&answered(200)));
        assert_eq!(hosts(&core.pick(9000)), ["e:80"]);
    }

    #[test]
    fn a_clock_that_was_wrong_delays_no_row_for_ever() {
        let day_ms = 86_400_000;
        let mut core = DispatchCore::default();
        greet(&mut core, "a:80", 100);
        let mut rows = pending("a:80", 1..4);
        for (row, due_ms) in rows.iter_mut().zip([day_ms, WAIT_MAX_MS, 2 * day_ms]) {
            row.due_ms = due_ms;
        }
        core.set_pending("default", rows);
        let ids: Vec<i64> = core.pick(0).into_iter().map(|((_, id, _), _)| id).collect();
        assert_eq!(ids, [1, 3], "the second waits as it may");
    }

    #[test]
    fn hosts_take_turns() {
        let mut core = DispatchCore::default();
        let mut all = Vec::new();
        for number in 0..8 {
            let host = format!("h{number}:80");
            greet(&mut core, &host, number + 1);
            all.extend(pending(&host, number * 10 + 100..number * 10 + 106));
        }
        core.set_pending("default", all);
        let first = core.pick(1000);
        assert_eq!(first.len(), SENDERS);
        let names: BTreeSet<&str> = hosts(&first[..8]).into_iter().collect();
        assert_eq!(names.len(), 8);
        let of = |host: &str| &first.iter().find(|(_, it)| it == host).unwrap().0;
        core.finished(of("h7:80"), Some(&answered(200)));
        core.finished(of("h0:80"), Some(&answered(200)));
        assert_eq!(hosts(&core.pick(1000)), ["h0:80", "h1:80"]);
    }
}
