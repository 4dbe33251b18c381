//! A model worker: it replays programs from the journal.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::program::{Op, Program};

/// A run that the worker holds.
struct Job {
    epoch: i64,
    attempt: i64,
    program: Program,
    journal: Vec<Value>,
    seen: i64,
    /// The number and frame of the report without an answer.
    waits_for: Option<(u64, Value)>,
    /// The time at which it may continue.
    ready_at: i64,
}

/// A step that was executed, with or without a recorded report.
#[derive(Clone, Debug)]
pub struct Effect {
    pub run: String,
    pub key: String,
    pub epoch: i64,
}

/// A report that was acknowledged as on disk.
#[derive(Clone, Debug)]
pub struct Promise {
    pub run: String,
    pub key: String,
    pub frame: Value,
}

pub struct Worker {
    pub name: String,
    instance: u64,
    credit: usize,
    jobs: BTreeMap<String, Job>,
    next_ref: u64,
    pub is_greeted: bool,
    pub effects: Vec<Effect>,
    pub promises: Vec<Promise>,
    /// Sleeps that ended: the time, and the time at which they should have ended.
    pub early: Vec<String>,
    probe: Option<i64>,
    pub beat_at: i64,
}

impl Worker {
    pub fn new(name: &str, credit: usize) -> Worker {
        Worker {
            name: name.to_owned(),
            instance: 0,
            credit,
            jobs: BTreeMap::new(),
            next_ref: 0,
            is_greeted: false,
            effects: Vec::new(),
            promises: Vec::new(),
            early: Vec::new(),
            probe: None,
            beat_at: 0,
        }
    }

    /// Replaces the process after it died.
    pub fn restart(&mut self) {
        self.instance += 1;
        self.jobs.clear();
        self.is_greeted = false;
        self.probe = None;
    }

    pub fn hello(&mut self) -> Value {
        self.is_greeted = false;
        let jobs: Vec<Value> = self
            .jobs
            .iter()
            .map(|(run, job)| json!({"job": run, "epoch": job.epoch}))
            .collect();
        json!({
            "t": "hello", "proto": [1], "worker": self.name, "instance": self.instance.to_string(),
            "workflows": [{"name": "model", "version": "1"}], "credit": self.credit,
            "resume": {"session": 0, "jobs": jobs},
        })
    }

    /// Handles a frame; returns the frames to send.
    pub fn take(&mut self, now: i64, frame: &Value) -> Vec<Value> {
        match frame["t"].as_str().unwrap() {
            "welcome" => return self.welcomed(frame),
            "job" => return self.begin(now, frame),
            "revoke" | "cancel" => {
                let run = frame["job"].as_str().unwrap().to_owned();
                let is_it = self
                    .jobs
                    .get(&run)
                    .is_some_and(|job| job.epoch == frame["epoch"]);
                if is_it {
                    self.jobs.remove(&run);
                }
                if frame["t"] == "cancel" {
                    let err = json!({"kind": "cancelled", "message": "cancelled"});
                    return vec![
                        json!({"t": "fail", "job": run, "epoch": frame["epoch"], "err": err}),
                    ];
                }
            }
            "probe" => self.probe = frame["n"].as_i64(),
            "ok" | "no" | "wake" => self.answered(now, frame["ref"].as_u64(), frame),
            "acks" => {
                for reference in frame["refs"].as_array().unwrap() {
                    self.answered(now, reference.as_u64(), frame);
                }
            }
            _ => {}
        }
        Vec::new()
    }

    fn welcomed(&mut self, frame: &Value) -> Vec<Value> {
        self.is_greeted = true;
        for lost in frame["lost"].as_array().unwrap() {
            self.jobs.remove(lost["job"].as_str().unwrap());
        }
        // Reports without an answer are sent again.
        let open = self.jobs.values().filter_map(|job| job.waits_for.clone());
        open.map(|(_, frame)| frame).collect()
    }

    fn begin(&mut self, now: i64, frame: &Value) -> Vec<Value> {
        let run = frame["job"].as_str().unwrap().to_owned();
        let job = Job {
            epoch: frame["epoch"].as_i64().unwrap(),
            attempt: frame["attempt"].as_i64().unwrap(),
            program: Program::from_json(&frame["input"]),
            journal: frame["journal"].as_array().unwrap().clone(),
            seen: frame["seq"].as_i64().unwrap(),
            waits_for: None,
            ready_at: now,
        };
        assert!(job.attempt >= 1);
        let ack = json!({"t": "ack", "job": run, "epoch": job.epoch});
        self.check_sleeps(now, &run, &job.journal);
        self.jobs.insert(run, job);
        vec![ack]
    }

    fn check_sleeps(&mut self, now: i64, run: &str, journal: &[Value]) {
        for entry in journal.iter().filter(|entry| entry["kind"] == "wake") {
            let begun = journal
                .iter()
                .find(|it| it["kind"] == "sleep" && it["key"] == entry["key"]);
            // The first event of a sleep that was begun before may be earlier in the journal.
            let Some(begun) = begun else { continue };
            if begun["until"].as_i64().unwrap() > now {
                self.early.push(format!("{run} {entry}"));
            }
        }
    }

    fn answered(&mut self, now: i64, reference: Option<u64>, frame: &Value) {
        if reference.is_none() {
            return;
        }
        let found = self
            .jobs
            .iter()
            .find(|(_, job)| job.waits_for.as_ref().map(|it| it.0) == reference)
            .map(|(run, _)| run.clone());
        let Some(run) = found else { return };
        let job = self.jobs.get_mut(&run).unwrap();
        let (reference, sent) = job.waits_for.take().unwrap();
        // Most code is quick, some is slow.
        job.ready_at = match reference % 3 {
            0 => now + i64::try_from(reference * 7919 % 4_000).unwrap(),
            _ => now,
        };
        match frame["t"].as_str().unwrap() {
            "no" => match frame["code"].as_str().unwrap() {
                "unavailable" => {
                    let reference = sent["ref"].as_u64().unwrap();
                    job.waits_for = Some((reference, sent));
                    job.ready_at = now + 1_000;
                }
                "lost_lease" | "cancelled" => drop(self.jobs.remove(&run)),
                code => panic!("{sent} was answered with {code}: {frame}"),
            },
            "wake" => {
                let results = frame["results"].as_array().unwrap().clone();
                job.journal.extend(results);
                job.seen = frame["seq"].as_i64().unwrap();
                let journal = job.journal.clone();
                self.check_sleeps(now, &run, &journal);
            }
            _ => self.done(now, &run, &sent, frame),
        }
    }

    fn done(&mut self, now: i64, run: &str, sent: &Value, frame: &Value) {
        let job = self.jobs.get_mut(run).unwrap();
        let key = sent["key"].as_str().unwrap_or_default().to_owned();
        match sent["t"].as_str().unwrap() {
            "step" => match frame["retry_ms"].as_i64() {
                Some(ms) => {
                    let attempt = sent["attempt"].clone();
                    let entry =
                        json!({"kind": "retry", "key": key, "attempt": attempt, "at": now + ms});
                    job.journal.push(entry);
                }
                None => {
                    let mut entry = json!({"kind": "step", "key": key});
                    let name = if sent["ok"].is_null() { "err" } else { "ok" };
                    assert_eq!(frame["failed"] == true, name == "err", "{sent} {frame}");
                    entry[name] = sent[name].clone();
                    job.journal.push(entry);
                    self.promises.push(Promise {
                        run: run.to_owned(),
                        key,
                        frame: sent.clone(),
                    });
                }
            },
            "call" => job.journal.push(match sent["op"].as_str().unwrap() {
                "trigger" => json!({"kind": "child", "key": key, "run": frame["run"]}),
                "hook_create" => json!({"kind": "hook", "key": key, "token": frame["token"]}),
                _ => json!({"kind": "attribute", "key": key}),
            }),
            "park" => drop(self.jobs.remove(run)),
            "done" | "fail" => {
                self.promises.push(Promise {
                    run: run.to_owned(),
                    key: "end".to_owned(),
                    frame: sent.clone(),
                });
                self.jobs.remove(run);
            }
            _ => {}
        }
    }

    /// Continues the runs that can continue; returns the frames to send.
    pub fn work(&mut self, now: i64) -> Vec<Value> {
        let mut frames = Vec::new();
        if !self.is_greeted {
            return frames;
        }
        if self.beat_at <= now && !self.jobs.is_empty() {
            self.beat_at = now + 10_000;
            let jobs: Vec<Value> = self
                .jobs
                .iter()
                .map(|(run, job)| json!([run, job.epoch]))
                .collect();
            let mut beat = json!({"t": "hb", "jobs": jobs});
            if let Some(n) = self.probe.take() {
                beat["n"] = json!(n);
            }
            frames.push(beat);
        }
        let runs: Vec<String> = self.jobs.keys().cloned().collect();
        for run in runs {
            let job = self.jobs.get_mut(&run).unwrap();
            if job.ready_at > now {
                continue;
            }
            if let Some((_, sent)) = &job.waits_for {
                // Refused for a while only: the frame is sent again.
                if job.ready_at > 0 {
                    job.ready_at = i64::MAX;
                    frames.push(sent.clone());
                }
                continue;
            }
            let Some(mut frame) = next(now, job) else {
                continue;
            };
            self.next_ref += 1;
            frame["ref"] = json!(self.next_ref);
            frame["job"] = json!(run);
            frame["epoch"] = json!(job.epoch);
            if frame["t"] == "step" {
                self.effects.push(Effect {
                    run: run.clone(),
                    key: frame["key"].as_str().unwrap().to_owned(),
                    epoch: job.epoch,
                });
            }
            job.waits_for = Some((self.next_ref, frame.clone()));
            job.ready_at = i64::MAX;
            frames.push(frame);
        }
        frames
    }

    /// The time of its next action without a frame.
    pub fn next_at(&self) -> i64 {
        let jobs = self.jobs.values().map(|job| job.ready_at);
        let beat = (!self.jobs.is_empty()).then_some(self.beat_at);
        jobs.chain(beat).min().unwrap_or(i64::MAX)
    }
}

/// The first operation of a program that the journal does not have; none while the run waits in the
/// worker.
fn next(now: i64, job: &mut Job) -> Option<Value> {
    if let Some((key, at)) = due_retry(now, job) {
        if at % 2 == 0 {
            return Some(json!({"t": "park", "seen": job.seen, "on": [{"retry": key}]}));
        }
        job.ready_at = at;
        return None;
    }
    Some(next_frame(job))
}

/// A step that may not be tried again yet.
fn due_retry(now: i64, job: &Job) -> Option<(String, i64)> {
    let has_result = |key: &Value| {
        let mut entries = job.journal.iter();
        entries.any(|entry| entry["kind"] == "step" && entry["key"] == *key)
    };
    job.journal
        .iter()
        .filter(|entry| entry["kind"] == "retry" && !has_result(&entry["key"]))
        .filter_map(|entry| Some((entry["key"].as_str()?.to_owned(), entry["at"].as_i64()?)))
        .find(|(key, at)| *at > now && is_latest(job, key, *at))
}

fn is_latest(job: &Job, key: &str, at: i64) -> bool {
    let retries = job
        .journal
        .iter()
        .filter(|entry| entry["kind"] == "retry" && entry["key"] == *key);
    retries.filter_map(|entry| entry["at"].as_i64()).max() == Some(at)
}

fn next_frame(job: &Job) -> Value {
    let mut results = Vec::new();
    for (at, op) in job.program.ops.iter().enumerate() {
        let key = format!("op{at}#0");
        let find = |kind: &str| {
            let mut entries = job.journal.iter();
            entries.find(|entry| entry["kind"] == kind && entry["key"] == *key)
        };
        let park =
            |condition: &str| json!({"t": "park", "seen": job.seen, "on": [{condition: key}]});
        let call = |op: &str| json!({"t": "call", "op": op, "key": key});
        match op {
            Op::Step { .. } | Op::Fatal => match find("step") {
                Some(entry) if entry["ok"].is_null() => results.push(json!("failed")),
                Some(entry) => results.push(entry["ok"].clone()),
                None => return step(job, op, &key, at),
            },
            Op::Sleep { ms } => match find("wake") {
                Some(_) => results.push(json!("slept")),
                None => {
                    return json!({"t": "park", "seen": job.seen, "on": [{"sleep": key, "ms": ms}]});
                }
            },
            Op::Hook { token } => match (find("payload"), find("hook")) {
                (Some(entry), _) => results.push(entry["ok"].clone()),
                (None, Some(_)) => return park("hook"),
                (None, None) => {
                    let mut call = call("hook_create");
                    call["token"] = json!(token);
                    return call;
                }
            },
            Op::Child(program) => match (find("step"), find("child")) {
                (Some(entry), _) if entry["ok"].is_null() => results.push(entry["err"].clone()),
                (Some(entry), _) => results.push(entry["ok"].clone()),
                (None, Some(_)) => return park("child"),
                (None, None) => {
                    let mut call = call("trigger");
                    call["workflow"] = json!("model");
                    call["input"] = program.to_json();
                    return call;
                }
            },
            Op::Attribute => match find("attribute") {
                Some(_) => results.push(json!("set")),
                None => {
                    let mut call = call("set_attr");
                    call["attributes"] = json!({"at": at});
                    return call;
                }
            },
        }
    }
    match job.program.fails {
        true => {
            let err = json!({"kind": "fatal", "message": "as planned", "results": results});
            json!({"t": "fail", "err": err})
        }
        false => json!({"t": "done", "output": results}),
    }
}

fn step(job: &Job, op: &Op, key: &str, at: usize) -> Value {
    let retries = job
        .journal
        .iter()
        .filter(|entry| entry["kind"] == "retry" && entry["key"] == key);
    let failures = retries
        .map(|entry| entry["attempt"].as_i64().unwrap())
        .max();
    let attempt = failures.unwrap_or(0) + 1;
    let fails = match op {
        Op::Step { fails } => attempt <= *fails,
        _ => true,
    };
    if !fails {
        return json!({"t": "step", "key": key, "ok": format!("step {at}"), "attempt": attempt});
    }
    let kind = match op {
        Op::Fatal => "fatal",
        _ => "error",
    };
    let err = json!({"kind": kind, "message": format!("attempt {attempt}")});
    json!({"t": "step", "key": key, "err": err, "attempt": attempt})
}
