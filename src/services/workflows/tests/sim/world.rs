//! The world of the simulation: time, messages, faults, the server and its client.

use std::collections::BTreeMap;

use rusqlite::Connection;
use serde_json::{Value, json};

use super::check;
use super::check::Promised;
use super::program::Program;
use super::worker::Worker;
use crate::base::error::{Error, Kind};
use crate::services::workflows::api_requests::{RunAction, WorkflowRequest};
use crate::services::workflows::core::{Core, Input, Output, ProtocolSettings, ReplyHandle};
use crate::services::workflows::frames;
use crate::services::workflows::runs::NewRun;
use crate::services::workflows::sessions::{SessionId, WorkerGrant};
use crate::services::workflows::tests::schema::empty_database;
use crate::tests::rng::Rng;

/// The time at which a world begins.
const BEGIN: i64 = 1_700_000_000_000;
/// Everything has ended this long after the faults.
const END_MS: i64 = 1_800_000;

enum Event {
    Round,
    ServerUp,
    ToServer {
        session: SessionId,
        text: String,
    },
    ToWorker {
        worker: usize,
        session: SessionId,
        text: String,
    },
    HangUp {
        session: SessionId,
    },
    Work {
        worker: usize,
    },
    Connect {
        worker: usize,
    },
    Hear {
        worker: usize,
        answer: Value,
    },
    Client(usize),
    Fault,
}

/// An action of the client.
enum Wish {
    Run {
        name: String,
        program: Program,
        key: Option<String>,
        expires: Option<i64>,
        run: Option<String>,
    },
    Payload {
        token: String,
        is_done: bool,
    },
    Cancel {
        of: usize,
        is_done: bool,
    },
}

pub struct World {
    rng: Rng,
    now: i64,
    db: Connection,
    core: Option<Core>,
    workers: Vec<Worker>,
    /// The connection of each worker.
    links: Vec<Option<SessionId>>,
    frozen_until: Vec<i64>,
    next_session: SessionId,
    inbox: Vec<Input>,
    events: BTreeMap<(i64, u64), Event>,
    order: u64,
    wishes: Vec<Wish>,
    tickets: BTreeMap<ReplyHandle, usize>,
    /// Reports of workers over HTTP.
    reports: BTreeMap<ReplyHandle, usize>,
    next_ticket: ReplyHandle,
    faults_until: i64,
    /// One in this many rounds is interrupted or fails.
    fault_share: usize,
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut rng = Rng::new(seed);
        let db = empty_database();
        db.set_prepared_statement_cache_capacity(128);
        let workers: Vec<Worker> = (0..rng.between(1, 3))
            .map(|n| Worker::new(&format!("worker{n}"), rng.between(1, 4)))
            .collect();
        let count = workers.len();
        let faults_until = BEGIN + i64::try_from(rng.below(180_000)).unwrap();
        let fault_share = rng.between(10, 200);
        let mut world = World {
            rng,
            now: BEGIN,
            db,
            core: None,
            workers,
            links: vec![None; count],
            frozen_until: vec![0; count],
            next_session: 1,
            inbox: Vec::new(),
            events: BTreeMap::new(),
            order: 0,
            wishes: Vec::new(),
            tickets: BTreeMap::new(),
            reports: BTreeMap::new(),
            next_ticket: 1,
            faults_until,
            fault_share,
        };
        world.draw_wishes();
        world.at(0, Event::ServerUp);
        world.at(100, Event::Fault);
        for worker in 0..count {
            world.soon(500, Event::Connect { worker });
        }
        world
    }

    fn draw_wishes(&mut self) {
        for n in 0..self.rng.between(1, 6) {
            let name = format!("run{n}");
            let program = Program::draw(&mut self.rng, &name, 0);
            let key = self.rng.one_in(3).then(|| "key".to_owned());
            let expires = match self.rng.below(8) {
                0 => Some(BEGIN - 1),
                1 => Some(BEGIN + i64::try_from(self.rng.below(120_000)).unwrap()),
                _ => None,
            };
            for token in program.tokens() {
                self.wish(
                    60_000,
                    Wish::Payload {
                        token,
                        is_done: false,
                    },
                );
            }
            let of = self.wishes.len();
            let run = None;
            self.wish(
                20_000,
                Wish::Run {
                    name,
                    program,
                    key,
                    expires,
                    run,
                },
            );
            if self.rng.one_in(6) {
                self.wish(60_000, Wish::Cancel { of, is_done: false });
            }
        }
    }

    fn wish(&mut self, within: usize, wish: Wish) {
        let number = self.wishes.len();
        self.wishes.push(wish);
        self.soon(within, Event::Client(number));
    }

    /// Runs the world until everything has ended, and checks the invariants.
    pub fn run(&mut self) {
        while let Some(((at, _), event)) = self.events.pop_first() {
            self.now = at.max(self.now);
            assert!(
                self.now < self.faults_until + END_MS,
                "stuck: {}",
                check::open_runs(&self.db)
            );
            self.happen(event);
            if self.now > self.faults_until && self.is_over() {
                break;
            }
        }
        self.check();
    }

    fn is_over(&self) -> bool {
        let is_granted = self.wishes.iter().all(|wish| match wish {
            Wish::Run { run, .. } => run.is_some(),
            Wish::Payload { .. } => true,
            Wish::Cancel { is_done, .. } => *is_done,
        });
        is_granted && self.core.is_some() && check::jobs(&self.db) == 0
    }

    fn check(&self) {
        let cancels = |of: usize| {
            let mut wishes = self.wishes.iter();
            wishes.any(|wish| matches!(wish, Wish::Cancel { of: other, .. } if *other == of))
        };
        let promised = self.wishes.iter().enumerate().filter_map(|(at, wish)| {
            let Wish::Run {
                program,
                expires,
                run: Some(run),
                ..
            } = wish
            else {
                return None;
            };
            Some(Promised {
                run: run.clone(),
                program: program.clone(),
                may_be_cancelled: cancels(at),
                expires: *expires,
            })
        });
        check::all(&self.db, &promised.collect::<Vec<_>>(), &self.workers);
    }

    fn at(&mut self, in_ms: i64, event: Event) {
        self.order += 1;
        self.events.insert((self.now + in_ms, self.order), event);
    }

    fn soon(&mut self, within: usize, event: Event) {
        let ms = i64::try_from(self.rng.below(within.max(1))).unwrap();
        self.at(ms, event);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Round => self.round(),
            Event::ServerUp => self.start_server(),
            Event::ToServer { session, text } => {
                let is_connected = self.links.contains(&Some(session));
                if self.core.is_some() && is_connected {
                    self.inbox.push(match frames::parse_frame(&text) {
                        Ok(frame) => Input::Frame {
                            session,
                            frame,
                            grant: None,
                        },
                        Err(what) => panic!("{text}: {what:?}"),
                    });
                    self.soon(3, Event::Round);
                }
            }
            Event::HangUp { session } => {
                if self.core.is_some() {
                    self.inbox.push(Input::Closed { session });
                    self.soon(3, Event::Round);
                }
            }
            Event::ToWorker {
                worker,
                session,
                text,
            } => self.deliver(worker, session, text),
            Event::Work { worker } => self.work(worker),
            Event::Connect { worker } => self.connect(worker),
            Event::Hear { worker, answer } => self.hear(worker, answer),
            Event::Client(wish) => self.ask(wish),
            Event::Fault => self.fault(),
        }
    }

    fn start_server(&mut self) {
        if self.core.is_some() {
            return;
        }
        let mut chance = Rng::new(self.rng.bits());
        let random = Box::new(move || chance.bits());
        let mut core = Core::new(ProtocolSettings::default(), "simulated", random);
        core.recover(&self.db, self.now).unwrap();
        self.core = Some(core);
        self.at(0, Event::Round);
    }

    fn crash_server(&mut self) {
        self.core = None;
        self.inbox.clear();
        self.tickets.clear();
        self.reports.clear();
        for worker in 0..self.links.len() {
            self.cut(worker);
        }
        self.soon(5_000, Event::ServerUp);
    }

    /// The worker notices that its connection is closed.
    fn cut(&mut self, worker: usize) {
        if let Some(session) = self.links[worker].take() {
            // The server notices later, if it still runs.
            self.soon(30_000, Event::HangUp { session });
        }
        self.soon(2_000, Event::Connect { worker });
    }

    fn connect(&mut self, worker: usize) {
        if self.links[worker].is_some() {
            return;
        }
        if self.core.is_none() || self.frozen_until[worker] > self.now {
            return self.soon(2_000, Event::Connect { worker });
        }
        let session = self.next_session;
        self.next_session += 1;
        self.links[worker] = Some(session);
        let grant = Some(WorkerGrant::default());
        self.inbox.push(Input::Opened { session, grant });
        let hello = self.workers[worker].hello();
        self.say(worker, hello);
        self.at(0, Event::Work { worker });
    }

    /// Messages of a connection arrive in order.
    fn say(&mut self, worker: usize, frame: Value) {
        let Some(session) = self.links[worker] else {
            return;
        };
        let text = frame.to_string();
        self.at(5, Event::ToServer { session, text });
    }

    /// Sends a report over HTTP, without a socket.
    fn report(&mut self, worker: usize, frame: &Value) {
        if self.core.is_none() {
            return;
        }
        let frame = frames::parse_frame(&frame.to_string()).unwrap();
        let frames::FrameBody::Report(report) = frame.body else {
            panic!("no report");
        };
        let reply = self.next_ticket;
        self.next_ticket += 1;
        self.reports.insert(reply, worker);
        let reports = vec![(frame.reference, Ok(report))];
        self.inbox.push(Input::Request {
            reply,
            grant: WorkerGrant::default(),
            request: WorkflowRequest::Report { reports },
        });
        self.soon(3, Event::Round);
    }

    /// The answer to a report over HTTP; a process that hangs reads it later.
    fn hear(&mut self, worker: usize, answer: Value) {
        if self.frozen_until[worker] > self.now {
            let wait = self.frozen_until[worker] - self.now;
            return self.at(wait, Event::Hear { worker, answer });
        }
        self.workers[worker].take(self.now, &answer);
        self.at(0, Event::Work { worker });
    }

    fn deliver(&mut self, worker: usize, session: SessionId, text: String) {
        if self.links[worker] != Some(session) {
            return;
        }
        if self.frozen_until[worker] > self.now {
            let wait = self.frozen_until[worker] - self.now;
            return self.at(
                wait,
                Event::ToWorker {
                    worker,
                    session,
                    text,
                },
            );
        }
        if text == "close" {
            return self.cut(worker);
        }
        let frame: Value = serde_json::from_str(&text).unwrap();
        for frame in self.workers[worker].take(self.now, &frame) {
            self.say(worker, frame);
        }
        self.at(0, Event::Work { worker });
    }

    fn work(&mut self, worker: usize) {
        if self.links[worker].is_none() || self.frozen_until[worker] > self.now {
            return;
        }
        for frame in self.workers[worker].work(self.now) {
            let is_report = frame["t"] != "hb" && frame["t"] != "park";
            match is_report && self.rng.one_in(10) {
                true => self.report(worker, &frame),
                false => self.say(worker, frame),
            }
        }
        let next = self.workers[worker].next_at();
        if next < i64::MAX && self.workers[worker].is_greeted {
            let wait = (next - self.now).max(1);
            self.at(wait, Event::Work { worker });
        }
    }

    fn ask(&mut self, number: usize) {
        let again = match &self.wishes[number] {
            Wish::Run { run, .. } => run.is_none(),
            Wish::Payload { is_done, .. } => !is_done,
            Wish::Cancel { is_done, .. } => !is_done,
        };
        if !again {
            return;
        }
        self.at(5_000, Event::Client(number));
        let request = match &self.wishes[number] {
            Wish::Run {
                name,
                program,
                key,
                expires,
                ..
            } => {
                let mut run = NewRun::new("model", &program.to_json().to_string());
                run.idempotency_key = Some(name.clone());
                run.expires_at = *expires;
                run.concurrency_key.clone_from(key);
                WorkflowRequest::Trigger(Box::new(run))
            }
            Wish::Payload { token, .. } => WorkflowRequest::Hook {
                token: token.clone(),
                payload: json!(format!("payload of {token}")).to_string(),
            },
            Wish::Cancel { of, .. } => {
                let Wish::Run { run: Some(run), .. } = &self.wishes[*of] else {
                    return;
                };
                WorkflowRequest::Apply {
                    runs: vec![run.clone()],
                    action: RunAction::Cancel {
                        reason: "null".to_owned(),
                    },
                    is_bulk: false,
                }
            }
        };
        if self.core.is_none() {
            return;
        }
        let reply = self.next_ticket;
        self.next_ticket += 1;
        self.tickets.insert(reply, number);
        self.inbox.push(Input::Request {
            reply,
            grant: WorkerGrant::default(),
            request,
        });
        self.soon(3, Event::Round);
    }

    fn answer(&mut self, reply: ReplyHandle, answer: Result<String, Error>) {
        if let Some(worker) = self.reports.remove(&reply) {
            let answer: Value = serde_json::from_str(&answer.unwrap_or_default())
                .unwrap_or_else(|_| json!({"answers": [{"t": "lost"}]}));
            let answer = answer["answers"][0].clone();
            match answer["t"] == "lost" {
                // As after an interrupted request, it is sent again on a new connection.
                true => self.cut(worker),
                false => self.at(0, Event::Hear { worker, answer }),
            }
            return;
        }
        let Some(number) = self.tickets.remove(&reply) else {
            return;
        };
        match (&mut self.wishes[number], answer) {
            (Wish::Run { run, .. }, Ok(answer)) => {
                let answer: Value = serde_json::from_str(&answer).unwrap();
                let made = answer["runId"].as_str().unwrap().to_owned();
                assert!(
                    run.as_ref().is_none_or(|run| *run == made),
                    "two runs of a key"
                );
                *run = Some(made);
            }
            (Wish::Payload { is_done, .. } | Wish::Cancel { is_done, .. }, Ok(_)) => {
                *is_done = true;
            }
            (Wish::Cancel { is_done, .. }, Err(error)) if error.kind() == Kind::Conflict => {
                *is_done = true;
            }
            (Wish::Payload { .. }, Err(error)) if error.kind() == Kind::NotFound => {}
            (_, Err(error)) => assert_eq!(error.kind(), Kind::Unavailable, "{error}"),
        }
    }

    /// One round of the server, which may be its last.
    fn round(&mut self) {
        let Some(mut core) = self.core.take() else {
            return;
        };
        let inputs = std::mem::take(&mut self.inbox);
        let (mut out, work) = core.receive(self.now, inputs);
        out.extend(core.tick(self.now));
        self.send(out);
        if core.is_due(self.now) || !work.is_empty() {
            self.db.execute_batch("BEGIN IMMEDIATE").unwrap();
            let out = core.transact(&self.db, self.now, &work).unwrap();
            let is_broken = self.now < self.faults_until && self.rng.one_in(self.fault_share);
            let end = if is_broken { self.rng.below(3) } else { 3 };
            let sql = if end < 2 { "ROLLBACK" } else { "COMMIT" };
            self.db.execute_batch(sql).unwrap();
            match end {
                // The server dies before the commit, or after it and before it sends anything.
                1 | 2 => return self.crash_server(),
                0 => {
                    let out = core.abort(&Error::unavailable("a full disk"), &work);
                    self.send(out);
                }
                _ => {
                    core.commit();
                    self.send(out);
                }
            }
            check::leases(&self.db, &core);
        }
        core.finish(self.now);
        core.drain_counted();
        let due = (core.due_at() - self.now).clamp(1, 250);
        self.core = Some(core);
        self.at(due, Event::Round);
    }

    fn send(&mut self, out: Vec<Output>) {
        for output in out {
            let (session, text) = match output {
                Output::Send { session, text } => {
                    check::hand_out(&text, self.now);
                    (session, text)
                }
                Output::Close { session, .. } => (session, "close".to_owned()),
                Output::Answer { reply, answer } => {
                    self.answer(reply, answer);
                    continue;
                }
            };
            if let Some(worker) = self.links.iter().position(|link| *link == Some(session)) {
                self.at(
                    5,
                    Event::ToWorker {
                        worker,
                        session,
                        text,
                    },
                );
            }
        }
    }

    fn fault(&mut self) {
        if self.now >= self.faults_until {
            return;
        }
        let worker = self.rng.below(self.workers.len());
        match self.rng.below(6) {
            0 => self.cut(worker),
            1 => {
                self.workers[worker].restart();
                self.cut(worker);
            }
            2 => {
                let ms = i64::try_from(self.rng.below(60_000)).unwrap();
                self.frozen_until[worker] = self.now + ms;
                // It continues where it was, before it receives any news.
                self.at(ms, Event::Work { worker });
            }
            3 if self.core.is_some() => self.crash_server(),
            _ => {}
        }
        self.soon(20_000, Event::Fault);
    }
}
