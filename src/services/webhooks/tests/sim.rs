//! Simulates days of the dispatcher on real tables with a simulated clock: receivers that fail,
//! hang, redirect, appear and disappear; crashes at any moment; writes that fail.
//!
//! The world steps from event to event and does what the dispatcher does. It keeps its own records:
//! the time of each call, the number of calls in flight, and the expected final state of each row.

use std::collections::{BTreeMap, HashMap, VecDeque};

use rusqlite::Connection;
use serde_json::Value;

use super::{add, tables};
use crate::base::clock::DAY_MS;
use crate::model::triggers::{RecordAction, Target, Triggers, changes};
use crate::services::webhooks::core::{Attempt, CallKey, CallOutcome, DispatchCore, next_state};
use crate::services::webhooks::queue;
use crate::services::webhooks::queue::{CallUpdate, QueuedCall};
use crate::tests::rng;
use crate::tests::rng::Rng;

const NAMES: [&str; 2] = ["default", "shop"];
const HANG_MS: i64 = 30_000;
/// The longest wait of a call to a healthy host, even just after a start, when no host is known:
/// some wait behind other calls of their own host.
const WELL_MS: i64 = 6_000;
/// The longest time between two turns of a host with pending calls: 14 hosts hang and share eight
/// slots.
const TURN_MS: i64 = 4 * HANG_MS;

/// The behaviour of a receiver.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Well,
    /// Succeeds after seconds.
    Tardy,
    Fails,
    Redirects,
    Hangs,
    Unreachable,
    /// Succeeds every other hour and hangs otherwise.
    Flaps,
    /// Requests a pause and succeeds the second time.
    Asks,
    Private,
}

const KINDS: [(Kind, usize); 9] = [
    (Kind::Well, 3),
    (Kind::Tardy, 1),
    (Kind::Fails, 2),
    (Kind::Redirects, 1),
    (Kind::Hangs, 12),
    (Kind::Unreachable, 1),
    (Kind::Flaps, 1),
    (Kind::Asks, 1),
    (Kind::Private, 1),
];

/// The expected state of a row.
struct Book {
    kind: Kind,
    retries: u32,
    /// The earliest time of the next attempt.
    due_ms: i64,
    /// Attempts made, and attempts whose result a crash lost.
    made: u32,
    lost: u32,
}

/// A call to be queued.
struct Call {
    kind: Kind,
    retries: u32,
}

impl Call {
    fn book(self, due_ms: i64) -> Book {
        Book {
            kind: self.kind,
            retries: self.retries,
            due_ms,
            made: 0,
            lost: 0,
        }
    }
}

struct Flight {
    ends_ms: i64,
    place: CallKey,
    host: String,
    row: QueuedCall,
    attempt: Attempt,
}

struct World<'a> {
    rng: &'a mut Rng,
    now: i64,
    dbs: BTreeMap<&'static str, Connection>,
    hosts: Vec<(String, Kind)>,
    core: DispatchCore,
    flights: Vec<Flight>,
    /// Results to write, each from a time on.
    unwritten: Vec<(i64, CallKey, CallUpdate)>,
    books: HashMap<CallKey, Book>,
    /// Times and calls of changes whose calls are not queued yet.
    changes: HashMap<&'static str, VecDeque<(i64, Vec<Call>)>>,
    /// The last start of the server.
    started_ms: i64,
    /// Databases that could not be written, and when they are tried again.
    paused: HashMap<String, i64>,
    /// The last call of each host.
    turns: HashMap<String, i64>,
    attempts: usize,
}

impl World<'_> {
    fn new(rng: &mut Rng) -> World<'_> {
        let mut hosts = Vec::new();
        for (kind, count) in KINDS {
            let name = format!("{kind:?}").to_lowercase();
            hosts.extend((0..count).map(|number| (format!("http://{name}{number}"), kind)));
        }
        World {
            rng,
            now: DAY_MS,
            dbs: NAMES.map(|name| (name, tables())).into(),
            hosts,
            core: DispatchCore::default(),
            flights: Vec::new(),
            unwritten: Vec::new(),
            books: HashMap::new(),
            changes: HashMap::new(),
            started_ms: DAY_MS,
            paused: HashMap::new(),
            turns: HashMap::new(),
            attempts: 0,
        }
    }

    /// An event causes some calls: one queued at once, or those of a change of a record, which are
    /// queued later.
    fn arrive(&mut self) {
        let name = *self.rng.pick(&NAMES);
        if self.rng.percent(50) {
            let (call, target) = self.call();
            let id = add(&self.dbs[name], &target, self.now);
            self.books
                .insert((name.to_owned(), id, self.now), call.book(self.now));
        } else {
            self.change(name);
        }
        self.look(name);
    }

    fn call(&mut self) -> (Call, Target) {
        let (url, kind) = self.rng.pick(&self.hosts).clone();
        let retries = u32::try_from(self.rng.between(1, 12)).unwrap();
        let spec = format!(r#"{{"url":"{url}","retryLimit":{retries}}}"#);
        (Call { kind, retries }, Target::restore(&spec).unwrap())
    }

    /// A change of a collection whose triggers are others each time.
    fn change(&mut self, name: &'static str) {
        let count = self.rng.between(1, 3);
        let (calls, targets): (Vec<Call>, Vec<Target>) = (0..count).map(|_| self.call()).unzip();
        let triggers = targets.iter().map(|target| {
            let mut trigger = target.to_json();
            trigger.insert("action".to_owned(), "create".into());
            Value::Object(trigger)
        });
        let options = [("triggers".to_owned(), triggers.collect())];
        let triggers = Triggers::parse(&options.into_iter().collect()).unwrap();
        let (db, action) = (&self.dbs[name], RecordAction::Create);
        let list = changes::list_for(db, "posts", action, &triggers).unwrap();
        changes::add(db, list, ("posts", action, "r1"), "{}").unwrap();
        let sql = "UPDATE _webhook_outbox SET created_ms = ?1 WHERE id = last_insert_rowid()";
        db.execute(sql, [self.now]).unwrap();
        self.changes
            .entry(name)
            .or_default()
            .push_back((self.now, calls));
    }

    /// Queues the calls of changes, and checks that they are those, in order.
    fn queue_calls(&mut self, name: &'static str) {
        let db = &self.dbs[name];
        let sql = "SELECT coalesce(max(id), 0) FROM _webhook_logs";
        let last: i64 = db.query_row(sql, [], |row| row.get(0)).unwrap();
        assert!(!changes::queue_calls(db).unwrap(), "few arrive at a time");
        let mut ids = last + 1..;
        for (made_ms, calls) in self.changes.remove(name).unwrap_or_default() {
            for (call, id) in calls.into_iter().zip(&mut ids) {
                let row = queue::load(db, id, made_ms).unwrap().unwrap();
                let retries = row.target.unwrap().retries();
                assert_eq!(retries, call.retries, "{name} {id}");
                self.books
                    .insert((name.to_owned(), id, made_ms), call.book(made_ms));
            }
        }
    }

    fn look(&mut self, name: &'static str) {
        if self.unwritten.iter().any(|(_, place, _)| place.0 == name) {
            // A database that cannot be written is suspended.
            return;
        }
        self.queue_calls(name);
        let heads = queue::next_calls(&self.dbs[name]).unwrap();
        self.core.set_pending(name, heads);
    }

    /// The result of an attempt, and its duration.
    fn receive(&mut self, kind: Kind, made: u32) -> (i64, Attempt) {
        let answered = |code, seconds: i64| Attempt::Answered {
            code,
            answer: String::new(),
            retry_after_ms: Some(seconds * 1000),
        };
        let quick = i64::try_from(self.rng.between(20, 500)).unwrap();
        let silent = || Attempt::Unreachable("silence".to_owned());
        match kind {
            Kind::Well => (quick, answered(200, 0)),
            Kind::Tardy => (quick + 4_000, answered(204, 0)),
            Kind::Fails if self.rng.percent(5) => (quick, Attempt::Failed(String::new())),
            Kind::Fails => (quick, answered(500, 999)),
            Kind::Redirects => (quick, answered(308, 0)),
            Kind::Hangs => (HANG_MS, silent()),
            Kind::Unreachable => (5_000, silent()),
            Kind::Flaps if self.now / 3_600_000 % 2 == 0 => (quick, answered(200, 0)),
            Kind::Flaps => (HANG_MS, silent()),
            Kind::Asks if made == 0 => (quick, answered(429, 120)),
            Kind::Asks => (quick, answered(200, 0)),
            Kind::Private => (1, Attempt::Rejected("private".to_owned())),
        }
    }

    fn send(&mut self) {
        for (place, host) in self.core.pick(self.now) {
            let row = queue::load(&self.dbs[place.0.as_str()], place.1, place.2).unwrap();
            let row = row.expect("only what waits is picked");
            let under_way = self.flights.iter().any(|it| it.place == place);
            assert!(!under_way, "{place:?} is under way twice");
            let now = self.now;
            let book = self.books.get_mut(&place).unwrap();
            assert!(now >= book.due_ms, "{place:?} is early");
            let paused = self.paused.get(&place.0).copied().unwrap_or(0);
            let could_ms = book.due_ms.max(self.started_ms).max(paused);
            let late_ms = now - could_ms;
            if book.kind == Kind::Well {
                assert!(
                    late_ms <= WELL_MS,
                    "{place:?} of {host} waited {late_ms} ms"
                );
            }
            let turn = self.turns.insert(host.clone(), now).unwrap_or(0);
            let waited_ms = now - turn.max(could_ms);
            assert!(
                waited_ms <= TURN_MS,
                "{host} waited {waited_ms} ms for its turn"
            );
            let (kind, made) = (book.kind, book.made);
            book.made += 1;
            self.attempts += 1;
            let (takes_ms, attempt) = self.receive(kind, made);
            self.flights.push(Flight {
                ends_ms: now + takes_ms,
                place,
                host,
                row,
                attempt,
            });
        }
        self.check_bounds();
    }

    fn check_bounds(&self) {
        assert!(self.flights.len() <= 32);
        assert_eq!(self.flights.len(), self.core.running());
        let mut of_hosts: BTreeMap<&str, usize> = BTreeMap::new();
        for flight in &self.flights {
            *of_hosts.entry(&flight.host).or_default() += 1;
        }
        assert!(of_hosts.values().all(|count| *count <= 6), "{of_hosts:?}");
    }

    /// Finishes the calls that end now.
    fn end(&mut self) {
        let now = self.now;
        let (over, left) = std::mem::take(&mut self.flights)
            .into_iter()
            .partition(|flight| flight.ends_ms <= now);
        self.flights = left;
        let over: Vec<Flight> = over;
        for flight in over {
            let Flight {
                place,
                row,
                attempt,
                ..
            } = flight;
            self.core.finished(&place, Some(&attempt));
            let retries = row.target.as_ref().unwrap().retries();
            let verdict = next_state(row.attempts, retries, attempt, now);
            let written = CallUpdate {
                id: row.id,
                created_ms: row.created_ms,
                verdict,
            };
            self.unwritten.push((now, place, written));
        }
    }

    fn write(&mut self) {
        for name in NAMES {
            let is_due = |it: &(i64, CallKey, CallUpdate), now: i64| it.1.0 == name && it.0 <= now;
            if !self.unwritten.iter().any(|it| is_due(it, self.now)) {
                continue;
            }
            if self.rng.percent(3) {
                // A full disk suspends the database for a while.
                self.core.forget(name);
                let again = self.now + 5_000;
                self.paused.insert(name.to_owned(), again);
                let of = self.unwritten.iter_mut().filter(|it| it.1.0 == name);
                of.for_each(|it| it.0 = again);
                continue;
            }
            let (writes, left) = std::mem::take(&mut self.unwritten)
                .into_iter()
                .partition(|it| it.1.0 == name);
            self.unwritten = left;
            let writes: Vec<(i64, CallKey, CallUpdate)> = writes;
            for (_, place, written) in writes {
                queue::update(&self.dbs[name], &written, self.now).unwrap();
                self.core.recorded(&place);
                self.note(&place, &written);
            }
            self.look(name);
        }
    }

    /// Compares the new state of a row with the documented one.
    fn note(&mut self, place: &CallKey, written: &CallUpdate) {
        let book = self.books.get_mut(place).unwrap();
        let verdict = &written.verdict;
        assert_eq!(book.made, verdict.attempts + book.lost, "{place:?}");
        if verdict.outcome == CallOutcome::Pending {
            let wait = (1000 << verdict.attempts).min(3_600_000);
            let asked = book.kind == Kind::Asks && verdict.attempts == 1 && book.lost == 0;
            let from = verdict.due_ms - if asked { wait.max(120_000) } else { wait };
            // The pause counts from the end of the attempt, which may be written later.
            assert!(from <= self.now && self.now - from <= 60_000, "{place:?}");
            book.due_ms = verdict.due_ms;
        }
    }

    /// A power failure: whether calls in flight were made is unknown.
    fn crash(&mut self) {
        let lost = self.flights.drain(..).map(|flight| flight.place);
        let lost: Vec<CallKey> = lost
            .chain(self.unwritten.drain(..).map(|(_, place, _)| place))
            .collect();
        for place in lost {
            self.books.get_mut(&place).unwrap().lost += 1;
        }
        self.core = DispatchCore::default();
        self.started_ms = self.now;
        for name in NAMES {
            self.look(name);
        }
    }

    fn has_pending(&self) -> bool {
        self.dbs
            .values()
            .any(|db| queue::count_pending(db).unwrap() > 0)
    }

    fn run(&mut self) {
        let (mut arrival, mut crash) = (self.now, self.now + 3_600_000);
        let end = self.now + DAY_MS;
        loop {
            let next = [
                self.flights.iter().map(|it| it.ends_ms).min(),
                self.unwritten.iter().map(|it| it.0).min(),
                self.core.next_due_ms(self.now),
                Some(crash),
                (arrival < end).then_some(arrival),
            ];
            let next = next.into_iter().flatten().min().unwrap();
            self.now = self.now.max(next);
            assert!(self.now < end + 10 * DAY_MS, "it comes to no end");
            if self.now >= crash {
                self.crash();
                crash = self.now + i64::try_from(self.rng.between(1, 2 * 3_600_000)).unwrap();
            }
            if self.now >= arrival && arrival < end {
                self.arrive();
                arrival = self.now + i64::try_from(self.rng.between(1, 120_000)).unwrap();
            }
            self.end();
            self.write();
            self.send();
            if self.now >= end && self.flights.is_empty() && !self.has_pending() {
                return;
            }
        }
    }

    /// The final state of each row.
    fn check_ends(&self) {
        for ((name, id, _), book) in &self.books {
            let sql = "SELECT status, attempts FROM _webhook_logs WHERE id = ?1";
            let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get(1)?));
            let db = &self.dbs[name.as_str()];
            let (status, attempts): (String, u32) = db.query_row(sql, [id], read).unwrap();
            let found = (status.as_str(), attempts);
            let text = format!("{name} {id} {:?} {found:?}", book.kind);
            assert_eq!(attempts + book.lost, book.made, "{text}");
            match book.kind {
                Kind::Well | Kind::Tardy => assert_eq!(found, ("success", 1), "{text}"),
                Kind::Asks => assert!(status == "success" && attempts <= 2, "{text}"),
                Kind::Private => assert_eq!(found, ("failed", 1), "{text}"),
                Kind::Flaps if status == "success" => assert!(attempts <= book.retries + 1),
                _ => assert_eq!(found, ("failed", book.retries + 1), "{text}"),
            }
        }
    }
}

#[test]
fn a_day_of_calls_with_crashes_keeps_every_promise() {
    rng::rounds(
        "a_day_of_calls_with_crashes_keeps_every_promise",
        1,
        |rng, _| {
            let mut world = World::new(rng);
            world.run();
            world.check_ends();
            eprintln!("{} rows, {} attempts", world.books.len(), world.attempts);
            1
        },
    );
}
