//! Clients that remember what they were told, and compare it with what they find later.
//!
//! The one request of each that was under way when the server was killed may have happened or not,
//! but never by half. What was refused with 503 ("nothing was saved") must not have happened.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Barrier, Mutex};
use std::{io, thread};

use serde_json::{Value, json};

use super::Random;
use super::design::{Designer, Keeper};
use crate::support::api::{Api, Reply};

/// Writers of records; with the [`Designer`] and the [`Keeper`] there are 64 clients.
const WRITERS: usize = 62;
/// The paths of the two databases that the load writes to.
pub const PLACES: [&str; 2] = ["/api", "/db/shop/api"];
/// The part of the definition of the collection of the writers that never changes.
pub const NOTE_FIELDS: [&str; 4] = ["client", "key", "n", "text"];

/// The message for a write that was checked against an outdated definition.
pub const OVERTAKEN: &str = "The collection changed meanwhile; try again.";

/// Makes what the load writes to.
pub fn make_collections(api: &Api) {
    api.post("/api/databases", json!({"name": "shop"}))
        .expect(200);
    for base in PLACES {
        let fields: Vec<Value> = NOTE_FIELDS.iter().map(|name| field(base, name)).collect();
        let notes = json!({"name": "notes", "fields": fields,
            "indexes": [{"fields": ["client", "-n"]}]});
        let notes = api.post(&format!("{base}/collections"), notes);
        assert_eq!(notes.status, 200, "{}", notes.json);
        let note = json!({"name": "note", "type": "relation", "collectionId": "notes",
            "required": true, "cascadeDelete": true});
        let parts = json!({"name": "parts", "fields": [note]});
        api.post(&format!("{base}/collections"), parts).expect(200);
    }
}

/// In one of the databases a duplicate would be refused, in the other it would show.
pub fn field(base: &str, name: &str) -> Value {
    let kind = if name == "n" { "number" } else { "text" };
    json!({"name": name, "type": kind, "unique": name == "key" && base == PLACES[1]})
}

/// The state that a client knows from answers, and the state after its unanswered request.
pub struct Model<V> {
    pub known: BTreeMap<String, V>,
    pub pending: Vec<(String, Option<V>)>,
}

impl<V: Clone + Debug + PartialEq> Model<V> {
    pub fn new() -> Model<V> {
        Model {
            known: BTreeMap::new(),
            pending: Vec::new(),
        }
    }

    /// Takes in the answer to the request that is pending.
    pub fn answered(&mut self, reply: &Reply) -> Answer {
        let pending = std::mem::take(&mut self.pending);
        match reply.status {
            200 | 204 => {
                apply(&mut self.known, pending);
                Answer::Kept
            }
            503 if reply.text("/message") == OVERTAKEN => Answer::Overtaken,
            503 => Answer::Refused(reply.text("/message").to_owned()),
            _ => panic!("{reply:?}"),
        }
    }

    /// Compares with what is found after a kill. Tells whether the pending request has happened.
    pub fn settle(&mut self, who: &str, found: BTreeMap<String, V>) -> Option<bool> {
        let pending = std::mem::take(&mut self.pending);
        let is_in_doubt = !pending.is_empty();
        let mut after = self.known.clone();
        apply(&mut after, pending.clone());
        let (is_before, is_after) = (found == self.known, found == after);
        if !is_before && !is_after {
            let known = std::mem::take(&mut self.known);
            let lost: Vec<_> = known
                .iter()
                .filter(|(key, v)| found.get(*key) != Some(v))
                .collect();
            let extra: Vec<_> = found
                .iter()
                .filter(|(key, v)| known.get(*key) != Some(v))
                .collect();
            panic!(
                "{who}: acknowledged but not found {lost:#?}\nfound {extra:#?}\npending {pending:#?}"
            );
        }
        self.known = found;
        is_in_doubt.then_some(is_after)
    }
}

pub fn apply<V>(known: &mut BTreeMap<String, V>, changes: Vec<(String, Option<V>)>) {
    for (key, value) in changes {
        match value {
            Some(value) => known.insert(key, value),
            None => known.remove(&key),
        };
    }
}

/// The result of a request.
pub enum Answer {
    Kept,
    /// By a change of the collection.
    Overtaken,
    /// With this message.
    Refused(String),
}

/// A load that is under way.
#[derive(Default)]
pub struct Running {
    stop: AtomicBool,
    pub acknowledged: AtomicU64,
    pub refused: AtomicU64,
    pub messages: Mutex<BTreeMap<String, u64>>,
}

impl Running {
    /// Lets each client finish its request.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Asks until told to stop or until there is no answer.
    fn go(&self, mut step: impl FnMut() -> io::Result<Answer>) {
        while !self.stop.load(Ordering::Relaxed) {
            match step() {
                Ok(Answer::Kept) => drop(self.acknowledged.fetch_add(1, Ordering::Relaxed)),
                Ok(Answer::Overtaken) => {}
                Ok(Answer::Refused(message)) => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    *self.messages.lock().unwrap().entry(message).or_default() += 1;
                }
                Err(_) => return,
            }
        }
    }
}

/// All clients.
pub struct Load {
    writers: Vec<Writer>,
    designer: Designer,
    keeper: Keeper,
    pub acknowledged: u64,
    pub in_doubt: u64,
    pub happened: u64,
}

impl Load {
    /// Each writer keeps about `kept` records.
    pub fn new(random: &mut Random, kept: usize) -> Load {
        let mut writer = |at: usize| Writer {
            name: format!("c{at}"),
            base: PLACES[usize::from(at % 3 == 2)],
            random: random.fork(),
            kept,
            made: 0,
            model: Model::new(),
        };
        let writers = (0..WRITERS).map(&mut writer).collect();
        Load {
            writers,
            designer: Designer::new(random.fork()),
            keeper: Keeper::new(random.fork()),
            acknowledged: 0,
            in_doubt: 0,
            happened: 0,
        }
    }

    /// Every client asks until `meanwhile`, which begins with them, has stopped the load or killed
    /// the server.
    pub fn run(
        &mut self,
        addr: SocketAddr,
        token: &str,
        meanwhile: impl FnOnce(&Running),
    ) -> Running {
        let (running, begin) = (Running::default(), Barrier::new(self.writers.len() + 3));
        let api = || {
            let api = Api::new(addr).with_token(token);
            begin.wait();
            api
        };
        let (running_now, api, designer, keeper) =
            (&running, &api, &mut self.designer, &mut self.keeper);
        thread::scope(|scope| {
            for writer in &mut self.writers {
                scope.spawn(move || {
                    let api = api();
                    running_now.go(|| writer.step(&api));
                });
            }
            scope.spawn(move || {
                let api = api();
                running_now.go(|| designer.step(&api));
            });
            scope.spawn(move || {
                let api = api();
                running_now.go(|| keeper.step(&api));
            });
            begin.wait();
            meanwhile(running_now);
        });
        self.acknowledged += running.acknowledged.load(Ordering::Relaxed);
        running
    }

    /// Compares what every client knows with what there is.
    pub fn check(&mut self, api: &Api) {
        let mut settled = Vec::new();
        for base in PLACES {
            let mut found = find_notes(api, base);
            for writer in self.writers.iter_mut().filter(|writer| writer.base == base) {
                let records = found.remove(&writer.name).unwrap_or_default();
                settled.push(writer.model.settle(&writer.name, records));
            }
            assert!(found.is_empty(), "{found:?}");
        }
        settled.push(self.designer.check(api));
        settled.push(self.keeper.check(api));
        self.in_doubt += settled.iter().flatten().count() as u64;
        self.happened += settled
            .iter()
            .flatten()
            .filter(|happened| **happened)
            .count() as u64;
    }

    /// Does what a kill prevented, and uses what is there.
    pub fn go_on(&mut self, api: &Api) {
        self.designer.go_on(api);
        self.keeper.go_on(api);
    }
}

/// A record as its writer knows it.
#[derive(Clone, Debug)]
struct Note {
    /// Empty when the server chose it and its answer did not come.
    id: String,
    n: i64,
    parts: usize,
}

impl PartialEq for Note {
    fn eq(&self, other: &Note) -> bool {
        let is_same_id = self.id == other.id || self.id.is_empty() || other.id.is_empty();
        is_same_id && self.n == other.n && self.parts == other.parts
    }
}

/// Makes, changes and deletes records of its own, one by one and in batches.
struct Writer {
    name: String,
    base: &'static str,
    random: Random,
    kept: usize,
    made: u32,
    model: Model<Note>,
}

impl Writer {
    fn step(&mut self, api: &Api) -> io::Result<Answer> {
        let is_full = self.model.known.len() >= self.kept;
        let some = self.some_keys();
        let (method, path, body) = match (self.random.below(10), some.first()) {
            (0..=1, _) => self.batch(&some, is_full),
            (2..=4, Some(key)) if is_full => self.request(|it| it.delete(key)),
            (5..=8, Some(key)) => self.request(|it| it.update(key)),
            (9, Some(key)) => self.request(|it| it.delete(key)),
            _ => self.request(|it| it.create("", 0)),
        };
        let reply = api.send(method, &path, &body.to_string())?;
        if let ([(_, Some(note))], 200) = (self.model.pending.as_mut_slice(), reply.status) {
            reply.text("/id").clone_into(&mut note.id);
        }
        Ok(self.model.answered(&reply))
    }

    /// Four different keys at most, anywhere.
    fn some_keys(&mut self) -> Vec<String> {
        let keys: Vec<&String> = self.model.known.keys().collect();
        let from = self.random.below(keys.len().max(1) as u64) as usize;
        let around = keys.iter().cycle().skip(from).take(keys.len().min(4));
        around.map(|key| (*key).clone()).collect()
    }

    fn request(
        &mut self,
        make: impl FnOnce(&mut Writer) -> (&'static str, String, Value),
    ) -> (&'static str, String, Value) {
        let (method, path, body) = make(self);
        (method, format!("{}{path}", self.base), body)
    }

    fn create(&mut self, id: &str, parts: usize) -> (&'static str, String, Value) {
        self.made += 1;
        let key = format!("{}-{}", self.name, self.made);
        let id = if id.is_empty() {
            String::new()
        } else {
            format!("{key}{id}")
        };
        let body =
            json!({"id": id, "client": self.name, "key": key, "n": 0, "text": text(&key, 0)});
        self.model
            .pending
            .push((key, Some(Note { id, n: 0, parts })));
        ("POST", "/collections/notes/records".to_owned(), body)
    }

    /// Adds to the number, so that a change made twice would show.
    fn update(&mut self, key: &str) -> (&'static str, String, Value) {
        let mut note = self.model.known[key].clone();
        note.n += 1;
        let path = format!("/collections/notes/records/{}", note.id);
        let body = json!({"n+": 1, "text": text(key, note.n)});
        self.model.pending.push((key.to_owned(), Some(note)));
        ("PATCH", path, body)
    }

    fn delete(&mut self, key: &str) -> (&'static str, String, Value) {
        let path = format!("/collections/notes/records/{}", self.model.known[key].id);
        self.model.pending.push((key.to_owned(), None));
        ("DELETE", path, Value::Null)
    }

    /// A change, deletions, and unless there is enough, three new ones, one with parts.
    fn batch(&mut self, some: &[String], is_full: bool) -> (&'static str, String, Value) {
        let mut requests = Vec::new();
        if let Some(key) = some.first() {
            requests.push(self.update(key));
        }
        let deleted = if is_full { 4 } else { 2 };
        for key in some.iter().take(deleted).skip(1) {
            requests.push(self.delete(key));
        }
        if !is_full {
            requests.push(self.create("-own", 2));
            let id = requests[requests.len() - 1].2["id"].clone();
            for _ in 0..2 {
                let path = "/collections/parts/records".to_owned();
                requests.push(("POST", path, json!({"note": id})));
            }
            requests.push(self.create("-own", 0));
            requests.push(self.create("-own", 0));
        }
        let requests: Vec<Value> = requests
            .into_iter()
            .map(|(method, path, body)| match body {
                Value::Null => json!({"method": method, "url": format!("/api{path}")}),
                body => json!({"method": method, "url": format!("/api{path}"), "body": body}),
            })
            .collect();
        (
            "POST",
            format!("{}/batch", self.base),
            json!({"requests": requests}),
        )
    }
}

/// Says whose and which it is; of varying length, some longer than a page.
fn text(key: &str, n: i64) -> String {
    let bytes = key.bytes().map(usize::from).sum::<usize>() * 37 % 6000;
    format!("{key}/{n}/{}", "x".repeat(bytes))
}

/// All notes of a database by client and key.
fn find_notes(api: &Api, base: &str) -> BTreeMap<String, BTreeMap<String, Note>> {
    let mut parts: BTreeMap<String, usize> = BTreeMap::new();
    for part in all(api, &format!("{base}/collections/parts/records?sort=id")) {
        *parts
            .entry(part["note"].as_str().unwrap().to_owned())
            .or_default() += 1;
    }
    let mut found: BTreeMap<String, BTreeMap<String, Note>> = BTreeMap::new();
    for note in all(api, &format!("{base}/collections/notes/records?sort=id")) {
        let part = |name: &str| note[name].as_str().unwrap().to_owned();
        let (id, key, n) = (part("id"), part("key"), note["n"].as_i64().unwrap());
        assert!(note["text"] == text(&key, n), "{note}");
        let parts = parts.remove(&id).unwrap_or(0);
        let twice = found
            .entry(part("client"))
            .or_default()
            .insert(key, Note { id, n, parts });
        assert!(twice.is_none(), "twice: {note}");
    }
    assert!(parts.is_empty(), "parts without their note: {parts:?}");
    found
}

/// All records of a list.
fn all(api: &Api, path: &str) -> Vec<Value> {
    let mut items = Vec::new();
    for page in 1.. {
        let reply = api
            .get(&format!("{path}&perPage=500&page={page}"))
            .expect(200);
        items.extend(reply.json["items"].as_array().unwrap().iter().cloned());
        if page >= reply.json["totalPages"].as_i64().unwrap() {
            assert_eq!(reply.json["totalItems"], items.len());
            break;
        }
    }
    items
}
