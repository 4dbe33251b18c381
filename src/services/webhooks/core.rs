//! Which calls are made now, and what becomes of one that was made: a pure state machine.
//!
//! It is given the time and the soonest rows of each database, and says which of them to send. Hosts take
//! turns. Bounds: so many calls at a time in all, so many per host. A host is *well* after an answer and *slow*
//! after an attempt that ran into its time limit or could not reach it, until an attempt succeeds. A slow host
//! gets one call at a time, and so does a new one, which has not answered since the start, while others are
//! called. Slow hosts together get a quarter of all places. New hosts together have some calls in their first
//! second; those that take longer are late, and late calls of all hosts leave some places to hosts that are
//! well and prompt. So a host that answers never waits for those that hang, and some that hang delay a new host
//! by seconds at most.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Attempts that are under way at a time.
pub const SENDERS: usize = 32;
/// Those of one host.
const PER_HOST: usize = 6;
/// Those of all slow hosts.
const FOR_SLOW: usize = SENDERS / 4;
/// Those of all new hosts that are not late.
const FOR_NEW: usize = SENDERS / 4;
/// Late ones of all hosts, after which only hosts that are well and have no late one begin others.
const LATE_MAX: usize = SENDERS - PER_HOST;
/// An attempt that is under way for longer is late.
const PROMPT_MS: i64 = 1000;
/// Longest wait between two attempts.
const WAIT_MAX_MS: i64 = 3_600_000;
/// Hosts that are remembered while nothing of them is under way.
const HOSTS_MAX: usize = 1000;

/// A row: its database, its number, and when it was made, which tells it from one of an older database of the
/// same name.
pub type Place = (String, i64, i64);

/// A row that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub id: i64,
    pub host: String,
    /// Milliseconds since 1970.
    pub due_ms: i64,
    pub created_ms: i64,
}

impl Head {
    /// Nothing waits longer than that: what is further away was written by a clock that was set back since.
    fn is_due(&self, now_ms: i64) -> bool {
        self.due_ms <= now_ms || self.due_ms.saturating_sub(now_ms) > WAIT_MAX_MS
    }
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    Answered {
        code: u16,
        /// The beginning of the body.
        answer: String,
        /// What the answer asks for.
        retry_after_ms: Option<i64>,
    },
    /// A run was started, or was there already.
    Started { run: String },
    /// The host could not be reached, or did not answer in time.
    Silent(String),
    /// Something else went wrong that may pass.
    Broken(String),
    /// Another attempt would come to the same.
    Refused(String),
}

/// How it stands with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// It is tried again.
    Pending,
    Failed,
}

impl Outcome {
    pub const ALL: [Outcome; 3] = [Outcome::Success, Outcome::Pending, Outcome::Failed];

    pub fn name(self) -> &'static str {
        match self {
            Outcome::Success => "success",
            Outcome::Pending => "pending",
            Outcome::Failed => "failed",
        }
    }
}

/// What a row says after an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub outcome: Outcome,
    /// Attempts that were made.
    pub attempts: u32,
    /// When the next one is due.
    pub due_ms: i64,
    pub code: Option<u16>,
    pub error: String,
    pub answer: String,
}

/// What becomes of a row whose `made` earlier attempts have failed.
pub fn settle(made: u32, retries: u32, attempt: Attempt, now_ms: i64) -> Verdict {
    let attempts = made.saturating_add(1);
    let verdict = |outcome, code, error: String, answer: String| Verdict {
        outcome,
        attempts,
        due_ms: now_ms,
        code,
        error,
        answer,
    };
    let (may_pass, asked_ms, mut verdict) = match attempt {
        Attempt::Started { run } => {
            return verdict(Outcome::Success, None, String::new(), run);
        }
        Attempt::Answered { code, answer, .. } if (200..300).contains(&code) => {
            return verdict(Outcome::Success, Some(code), String::new(), answer);
        }
        Attempt::Answered {
            code,
            answer,
            retry_after_ms,
        } => {
            let error = match code {
                300..400 => format!("The answer is {code}; redirects are not followed."),
                _ => format!("The answer is {code}."),
            };
            let asked_ms = retry_after_ms.filter(|_| matches!(code, 429 | 503));
            let failed = verdict(Outcome::Failed, Some(code), error, answer);
            (true, asked_ms.unwrap_or(0), failed)
        }
        Attempt::Silent(error) | Attempt::Broken(error) => (
            true,
            0,
            verdict(Outcome::Failed, None, error, String::new()),
        ),
        Attempt::Refused(error) => (
            false,
            0,
            verdict(Outcome::Failed, None, error, String::new()),
        ),
    };
    if may_pass && attempts <= retries {
        verdict.outcome = Outcome::Pending;
        verdict.due_ms = now_ms + wait_ms(attempts).max(asked_ms.min(WAIT_MAX_MS));
    }
    verdict
}

/// How long the next attempt waits after so many: 2, 4, 8 ... seconds (WH-5).
fn wait_ms(attempts: u32) -> i64 {
    let seconds = 1_i64 << attempts.min(20);
    (seconds * 1000).min(WAIT_MAX_MS)
}

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Core {
    heads: BTreeMap<String, Vec<Head>>,
    hosts: HashMap<String, Host>,
    /// Rows whose attempt is under way, or has come to an end that is not written yet.
    held: BTreeSet<Place>,
    /// Attempts that are under way.
    flights: BTreeMap<Place, Flight>,
    turn: u64,
}

/// An attempt that is under way.
#[derive(Debug)]
struct Flight {
    host: String,
    began_ms: i64,
}

impl Flight {
    fn is_late(&self, now_ms: i64) -> bool {
        // A clock that was set back tells nothing.
        !(0..PROMPT_MS).contains(&(now_ms - self.began_ms))
    }
}

/// The state of a host since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Standing {
    /// It has not answered yet.
    #[default]
    New,
    Well,
    Slow,
}

#[derive(Debug, Default)]
struct Host {
    standing: Standing,
    /// When it had its last turn.
    turn: u64,
}

impl Core {
    /// The soonest rows of a database, some of each host; in place of what was known.
    pub fn know(&mut self, database: &str, heads: Vec<Head>) {
        match heads.is_empty() {
            true => self.heads.remove(database),
            false => self.heads.insert(database.to_owned(), heads),
        };
    }

    /// The database is gone, or cannot be read now.
    pub fn forget(&mut self, database: &str) {
        self.heads.remove(database);
    }

    /// Takes the rows that are to be sent now.
    pub fn pick(&mut self, now_ms: i64) -> Vec<(Place, String)> {
        let mut picked = Vec::new();
        if self.running() >= SENDERS {
            return picked;
        }
        let mut due: BTreeMap<&str, Vec<(i64, Place)>> = BTreeMap::new();
        for (database, heads) in &self.heads {
            for head in heads.iter().filter(|head| head.is_due(now_ms)) {
                let place = (database.clone(), head.id, head.created_ms);
                if !self.held.contains(&place) {
                    let of_host = due.entry(&head.host).or_default();
                    of_host.push((head.due_ms, place));
                }
            }
        }
        let turn_of = |host: &str| self.hosts.get(host).map_or(0, |it| it.turn);
        let mut hosts: Vec<(u64, String, Vec<Place>)> = due
            .into_iter()
            .map(|(host, mut rows)| {
                rows.sort_unstable();
                let rows = rows.into_iter().take(PER_HOST).map(|(_, place)| place);
                (turn_of(host), host.to_owned(), rows.collect())
            })
            .collect();
        hosts.sort_unstable();
        for at in 0..PER_HOST {
            for (_, host, rows) in &hosts {
                if let Some(place) = rows.get(at)
                    && self.has_room(host, now_ms)
                {
                    self.begin(host, place.clone(), now_ms);
                    picked.push((place.clone(), host.clone()));
                }
            }
        }
        picked
    }

    fn standing(&self, host: &str) -> Standing {
        self.hosts.get(host).map_or(Standing::New, |it| it.standing)
    }

    fn has_room(&self, host: &str, now_ms: i64) -> bool {
        let count = |counts: &dyn Fn(&Flight) -> bool| {
            self.flights.values().filter(|it| counts(it)).count()
        };
        let of_host = count(&|it| it.host == host);
        let has_late = || count(&|it| it.host == host && it.is_late(now_ms)) > 0;
        let of_standing = |standing: Standing, young_only: bool| {
            count(&|it| self.standing(&it.host) == standing && !(young_only && it.is_late(now_ms)))
        };
        let standing = self.standing(host);
        let may_begin = match standing {
            Standing::Well => of_host < PER_HOST,
            Standing::Slow => of_host == 0 && of_standing(Standing::Slow, false) < FOR_SLOW,
            Standing::New => {
                let may_have_more = || self.running() < PER_HOST && !has_late();
                (of_host == 0 || may_have_more()) && of_standing(Standing::New, true) < FOR_NEW
            }
        };
        let is_prompt = || standing == Standing::Well && !has_late();
        may_begin
            && self.running() < SENDERS
            && (count(&|it| it.is_late(now_ms)) < LATE_MAX || is_prompt())
    }

    fn begin(&mut self, host: &str, place: Place, now_ms: i64) {
        self.turn += 1;
        self.held.insert(place.clone());
        let flight = Flight {
            host: host.to_owned(),
            began_ms: now_ms,
        };
        self.flights.insert(place, flight);
        self.hosts.entry(host.to_owned()).or_default().turn = self.turn;
    }

    /// An attempt has ended; without one it was not made after all. Its row is not sent again before
    /// [`Core::written`].
    pub fn ended(&mut self, place: &Place, attempt: Option<&Attempt>) {
        let Some(flight) = self.flights.remove(place) else {
            return;
        };
        if let Some(known) = self.hosts.get_mut(&flight.host) {
            known.standing = match (attempt, known.standing) {
                (Some(Attempt::Silent(_)), _) => Standing::Slow,
                (Some(Attempt::Answered { code: 200..300, .. }), _) => Standing::Well,
                (Some(Attempt::Started { .. }), _) => Standing::Well,
                (Some(Attempt::Answered { .. }), Standing::New) => Standing::Well,
                (_, standing) => standing,
            };
        }
        if self.hosts.len() > HOSTS_MAX {
            // Those that were called last stay, and those that are being called.
            let oldest = self.turn.saturating_sub(HOSTS_MAX as u64 / 2);
            let running: BTreeSet<&str> = self.flights.values().map(|it| &*it.host).collect();
            self.hosts
                .retain(|name, host| host.turn > oldest || running.contains(&**name));
        }
    }

    /// The row says by now what came of its attempt, or is gone.
    pub fn written(&mut self, place: &Place) {
        self.held.remove(place);
    }

    /// Attempts that are under way.
    pub fn running(&self) -> usize {
        self.flights.len()
    }

    /// When the next row is due that is not yet, or an attempt becomes late, which makes room for others.
    pub fn next_due_ms(&self, now_ms: i64) -> Option<i64> {
        let heads = self.heads.values().flatten().map(|it| it.due_ms);
        let late = self.flights.values().map(|it| it.began_ms + PROMPT_MS);
        heads.chain(late).filter(|due| *due > now_ms).min()
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
        use Outcome::{Failed, Pending, Success};
        let silent = || Attempt::Silent("no answer".to_owned());
        let refused = Attempt::Refused("private".to_owned());
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
            (4, 5, Attempt::Broken(String::new()), Pending, 32_000),
            (5, 5, answered(500), Failed, 0),
            (5, 5, silent(), Failed, 0),
            (0, 5, refused, Failed, 0),
            // The receiver asks for more time; never for more than an hour.
            (0, 5, answered(429), Pending, 30_000),
            (0, 5, answered(503), Pending, 30_000),
            (5, 9, answered(503), Pending, 64_000),
            (11, 100, silent(), Pending, 3_600_000),
            (99, 100, silent(), Pending, 3_600_000),
            (100, 100, silent(), Failed, 0),
        ] {
            let name = format!("{made} of {retries}: {attempt:?}");
            let verdict = settle(made, retries, attempt, 1_000_000);
            let found = (verdict.outcome, verdict.due_ms, verdict.attempts);
            assert_eq!(found, (outcome, 1_000_000 + due, made + 1), "{name}");
        }
        let long = Attempt::Answered {
            code: 429,
            answer: String::new(),
            retry_after_ms: Some(i64::MAX),
        };
        assert_eq!(settle(0, 1, long, 0).due_ms, 3_600_000);
    }

    fn heads(host: &str, ids: std::ops::Range<i64>) -> Vec<Head> {
        let head = |id| Head {
            id,
            host: host.to_owned(),
            due_ms: id,
            created_ms: 0,
        };
        ids.map(head).collect()
    }

    /// Lets a host answer one call, number `id`.
    fn greet(core: &mut Core, host: &str, id: i64) {
        core.know("greetings", heads(host, id..id + 1));
        for (place, _) in core.pick(id) {
            core.ended(&place, Some(&answered(200)));
        }
        core.forget("greetings");
    }

    fn hosts(picked: &[(Place, String)]) -> Vec<&str> {
        picked.iter().map(|(_, host)| &**host).collect()
    }

    #[test]
    fn a_host_gets_some_and_one_when_it_is_slow() {
        let mut core = Core::default();
        core.know("default", heads("a:80", 1..17));
        let picked = core.pick(100);
        let ids: Vec<i64> = picked.iter().map(|((_, id, _), _)| *id).collect();
        assert_eq!(ids, [1, 2, 3, 4, 5, 6]);
        assert!(core.pick(100).is_empty());
        for (place, _) in &picked[1..] {
            core.ended(place, Some(&Attempt::Silent(String::new())));
            assert!(core.pick(100).is_empty(), "one is still under way");
        }
        core.ended(&picked[0].0, Some(&Attempt::Broken(String::new())));
        let picked = core.pick(100);
        assert_eq!(picked.len(), 1);
        core.ended(&picked[0].0, Some(&answered(200)));
        assert_eq!(core.pick(13).len(), PER_HOST);
        assert_eq!(core.next_due_ms(13), Some(14));
    }

    /// A host of which nothing is known gets more than one call only if there is nothing else to do.
    #[test]
    fn a_new_host_gets_one_call_while_others_are_called() {
        let mut core = Core::default();
        core.know("default", heads("a:80", 1..4));
        assert_eq!(core.pick(100).len(), 3);
        core.know("other", heads("b:80", 1..17));
        assert_eq!(core.pick(100).len(), 3);
        core.know("third", heads("c:80", 1..17));
        let picked = core.pick(100);
        assert_eq!(hosts(&picked), ["c:80"]);
        // Any answer will do.
        core.ended(&picked[0].0, Some(&answered(500)));
        assert_eq!(hosts(&core.pick(100)), ["c:80"; PER_HOST]);
    }

    #[test]
    fn slow_hosts_leave_most_places_to_others() {
        let mut core = Core::default();
        let mut all = Vec::new();
        for number in 0..20 {
            all.extend(heads(
                &format!("slow{number}:80"),
                number * 10..number * 10 + 6,
            ));
        }
        greet(&mut core, "well:443", 1);
        core.know("default", all.clone());
        for _ in 0..9 {
            for (place, _) in core.pick(1000) {
                core.ended(&place, Some(&Attempt::Silent(String::new())));
            }
            core.held.clear();
        }
        assert_eq!(core.pick(1000).len(), FOR_SLOW);
        core.know("other", heads("well:443", 500..520));
        assert_eq!(core.pick(1000).len(), PER_HOST);
        assert_eq!(core.running(), FOR_SLOW + PER_HOST);
    }

    /// After a start nothing is known of any host, and those that hang are called with all others.
    #[test]
    fn new_hosts_that_hang_delay_others_by_seconds() {
        let mut core = Core::default();
        greet(&mut core, "well:80", 1);
        core.know("default", heads("hangs:80", 1..10));
        assert_eq!(core.pick(1000).len(), PER_HOST);
        let hanging = (10..29).flat_map(|at| heads(&format!("hangs{at}:80"), at * 10..at * 10 + 9));
        core.know("default", hanging.collect());
        core.know("other", heads("z-new:80", 50..59));
        assert_eq!(core.pick(1000).len(), FOR_NEW - PER_HOST);
        assert!(core.pick(1999).is_empty());
        assert_eq!(core.next_due_ms(1000), Some(2000), "when they are late");
        assert_eq!(core.pick(2000).len(), FOR_NEW);
        assert_eq!(core.pick(3000).len(), FOR_NEW);
        let picked = core.pick(4000);
        assert_eq!(hosts(&picked), ["hangs28:80", "z-new:80"]);
        assert!(core.pick(10_000).is_empty());
        core.know("other", heads("well:80", 50..59));
        assert_eq!(hosts(&core.pick(10_000)), ["well:80"; PER_HOST]);
    }

    #[test]
    fn calls_that_hang_leave_places_to_prompt_hosts() {
        let mut core = Core::default();
        let (mut all, names) = (Vec::new(), ["a:80", "b:80", "c:80", "d:80", "e:80", "f:80"]);
        for (at, host) in (1_i64..).zip(names) {
            greet(&mut core, host, at);
            all.extend(heads(host, at * 100..at * 100 + 16));
        }
        // Four that were well answer no more, and then two that do come.
        let (hang, well) = all.split_at(64);
        core.know("default", hang.to_vec());
        assert_eq!(core.pick(1000).len(), 24);
        core.know("default", [hang, well].concat());
        let picked = core.pick(9000);
        assert_eq!(hosts(&picked), ["e:80", "f:80"].repeat(4));
        core.ended(&picked[0].0, Some(&answered(200)));
        assert_eq!(hosts(&core.pick(9000)), ["e:80"]);
    }

    #[test]
    fn a_clock_that_was_wrong_delays_no_row_for_ever() {
        let day_ms = 86_400_000;
        let mut core = Core::default();
        greet(&mut core, "a:80", 100);
        let mut rows = heads("a:80", 1..4);
        for (row, due_ms) in rows.iter_mut().zip([day_ms, WAIT_MAX_MS, 2 * day_ms]) {
            row.due_ms = due_ms;
        }
        core.know("default", rows);
        let ids: Vec<i64> = core.pick(0).into_iter().map(|((_, id, _), _)| id).collect();
        assert_eq!(ids, [1, 3], "the second waits as it may");
    }

    #[test]
    fn hosts_take_turns() {
        let mut core = Core::default();
        let mut all = Vec::new();
        for number in 0..8 {
            let host = format!("h{number}:80");
            greet(&mut core, &host, number + 1);
            all.extend(heads(&host, number * 10 + 100..number * 10 + 106));
        }
        core.know("default", all);
        let first = core.pick(1000);
        assert_eq!(first.len(), SENDERS);
        let names: BTreeSet<&str> = hosts(&first[..8]).into_iter().collect();
        assert_eq!(names.len(), 8);
        let of = |host: &str| &first.iter().find(|(_, it)| it == host).unwrap().0;
        core.ended(of("h7:80"), Some(&answered(200)));
        core.ended(of("h0:80"), Some(&answered(200)));
        assert_eq!(hosts(&core.pick(1000)), ["h0:80", "h1:80"]);
    }
}
