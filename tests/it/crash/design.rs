//! The clients of the load that change what records lie in: collections and databases.

use std::collections::BTreeMap;
use std::io;

use serde_json::{Value, json};

use super::Random;
use super::load::{Answer, Model, NOTE_FIELDS, PLACES, apply, field};
use crate::support::api::{Api, Reply};

/// Makes, changes and deletes collections, those that the writers use among them.
pub struct Designer {
    random: Random,
    made: u32,
    /// The names of the fields, by the path of the collection.
    model: Model<Vec<String>>,
    last: Value,
    /// The last request, killed on its way, has not happened.
    is_undone: bool,
}

impl Designer {
    pub fn new(random: Random) -> Designer {
        let mut model = Model::new();
        for base in PLACES {
            let names = NOTE_FIELDS.map(str::to_owned).to_vec();
            model
                .known
                .insert(format!("{base}/collections/notes"), names);
        }
        Designer {
            random,
            made: 0,
            model,
            last: Value::Null,
            is_undone: false,
        }
    }

    pub fn step(&mut self, api: &Api) -> io::Result<Answer> {
        let base = PLACES[self.random.below(2) as usize];
        let own: Vec<String> = self
            .model
            .known
            .keys()
            .filter(|path| !path.ends_with("notes"))
            .cloned()
            .collect();
        self.made += 1;
        let (method, path, names) = match (self.random.below(4), own.first()) {
            (0, Some(path)) if own.len() > 3 => ("DELETE", path.clone(), None),
            (0 | 1, _) => {
                let path = format!("{base}/collections/d{}", self.made);
                ("POST", path, Some(vec!["first".to_owned()]))
            }
            (2, Some(path)) => ("PATCH", path.clone(), Some(self.other_fields(path, 1))),
            _ => {
                let path = format!("{base}/collections/notes");
                let names = self.other_fields(&path, NOTE_FIELDS.len());
                ("PATCH", path, Some(names))
            }
        };
        self.model.pending.push((path.clone(), names.clone()));
        self.last = json!({"method": method, "path": path, "names": names});
        let reply = self.send(api)?;
        Ok(self.model.answered(&reply))
    }

    /// The fields with one more, or without the oldest of those that were added.
    fn other_fields(&self, path: &str, kept: usize) -> Vec<String> {
        let mut names = self.model.known[path].clone();
        match names.len() {
            0..10 => names.push(format!("f{}", self.made)),
            _ => drop(names.remove(kept)),
        }
        names
    }

    /// Sends the last request (again).
    fn send(&self, api: &Api) -> io::Result<Reply> {
        let path = self.last["path"].as_str().unwrap();
        let (list, name) = path.rsplit_once('/').unwrap();
        let base = if list.starts_with(PLACES[1]) {
            PLACES[1]
        } else {
            PLACES[0]
        };
        let names = self.last["names"].as_array().cloned().unwrap_or_default();
        let fields: Vec<Value> = names
            .iter()
            .map(|name| field(base, name.as_str().unwrap()))
            .collect();
        match self.last["method"].as_str() {
            Some("POST") => api.send(
                "POST",
                list,
                &json!({"name": name, "fields": fields}).to_string(),
            ),
            Some("PATCH") => api.send("PATCH", path, &json!({"fields": fields}).to_string()),
            _ => api.send("DELETE", path, ""),
        }
    }

    pub fn check(&mut self, api: &Api) -> Option<bool> {
        let mut found = BTreeMap::new();
        for base in PLACES {
            let list = api.get(&format!("{base}/collections")).expect(200);
            for collection in list.json["items"].as_array().unwrap() {
                let (name, fields) = (
                    &collection["name"],
                    collection["fields"].as_array().unwrap(),
                );
                let names = fields
                    .iter()
                    .map(|it| it["name"].as_str().unwrap().to_owned());
                let names = names.filter(|it| !["id", "created", "updated"].contains(&&**it));
                let path = format!("{base}/collections/{}", name.as_str().unwrap());
                found.insert(path, names.collect::<Vec<_>>());
            }
            found.remove(&format!("{base}/collections/parts"));
        }
        let settled = self.model.settle("the designer", found);
        self.is_undone = settled == Some(false);
        settled
    }

    pub fn go_on(&mut self, api: &Api) {
        if std::mem::take(&mut self.is_undone) {
            self.send(api)
                .unwrap()
                .expect(if self.last["method"] == "DELETE" {
                    204
                } else {
                    200
                });
            let (path, names) = (self.last["path"].as_str().unwrap(), &self.last["names"]);
            let names = serde_json::from_value(names.clone()).unwrap();
            apply(&mut self.model.known, vec![(path.to_owned(), names)]);
        }
        for (path, names) in &self.model.known {
            assert_usable(api, path, names);
        }
    }
}

/// Every field can be written and read back.
fn assert_usable(api: &Api, path: &str, names: &[String]) {
    let value = |name: &str| if name == "n" { json!(7) } else { json!(name) };
    let record: serde_json::Map<String, Value> = names
        .iter()
        .map(|name| (name.clone(), value(name)))
        .collect();
    let made = api
        .post(&format!("{path}/records"), Value::Object(record.clone()))
        .expect(200);
    let one = format!("{path}/records/{}", made.text("/id"));
    let read = api.get(&one).expect(200);
    for (name, value) in &record {
        assert_eq!(read.json[name], *value, "{path} {name}");
    }
    api.delete(&one).expect(204);
}

/// Makes databases, puts something in, and deletes them.
pub struct Keeper {
    random: Random,
    made: u32,
    /// The progress of each: 0 created, 1 with a collection, 2 with a record.
    model: Model<u8>,
    /// One whose deletion was not answered and has happened.
    gone: Option<String>,
}

impl Keeper {
    pub fn new(random: Random) -> Keeper {
        Keeper {
            random,
            made: 0,
            model: Model::new(),
            gone: None,
        }
    }

    pub fn step(&mut self, api: &Api) -> io::Result<Answer> {
        let known = self
            .model
            .known
            .iter()
            .map(|(name, stage)| (name.clone(), *stage));
        let known: Vec<(String, u8)> = known.collect();
        let at = self.random.below(known.len().max(1) as u64) as usize;
        let (method, path, body, name, stage) = match known.get(at) {
            Some((name, 0)) => {
                let body = json!({"name": "things", "fields": [{"name": "a", "type": "text"}]});
                (
                    "POST",
                    format!("/db/{name}/api/collections"),
                    body,
                    name.clone(),
                    Some(1),
                )
            }
            Some((name, 1)) => {
                let path = format!("/db/{name}/api/collections/things/records");
                ("POST", path, json!({"a": name}), name.clone(), Some(2))
            }
            Some((name, _)) if known.len() > 2 => (
                "DELETE",
                format!("/api/databases/{name}"),
                Value::Null,
                name.clone(),
                None,
            ),
            _ => {
                self.made += 1;
                let name = format!("k{}", self.made);
                (
                    "POST",
                    "/api/databases".to_owned(),
                    json!({"name": name}),
                    name,
                    Some(0),
                )
            }
        };
        self.model.pending.push((name, stage));
        let reply = api.send(method, &path, &body.to_string())?;
        Ok(self.model.answered(&reply))
    }

    pub fn check(&mut self, api: &Api) -> Option<bool> {
        let mut found = BTreeMap::new();
        for database in api
            .get("/api/databases")
            .expect(200)
            .json
            .as_array()
            .unwrap()
        {
            let name = database["name"].as_str().unwrap();
            if !name.starts_with('k') {
                continue;
            }
            let base = format!("/db/{name}/api/collections");
            let stage = match api.get(&base).expect(200).json["totalItems"].as_i64() {
                Some(0) => 0,
                _ => {
                    let records = api.get(&format!("{base}/things/records")).expect(200);
                    1 + u8::from(records.json["items"][0]["a"] == name)
                }
            };
            found.insert(name.to_owned(), stage);
        }
        let deleted = self
            .model
            .pending
            .first()
            .filter(|(_, stage)| stage.is_none());
        let deleted = deleted.map(|(name, _)| name.clone());
        let settled = self.model.settle("the keeper", found);
        self.gone = deleted.filter(|_| settled == Some(true));
        settled
    }

    pub fn go_on(&mut self, api: &Api) {
        if let Some(name) = self.gone.take() {
            // A new database of this name knows nothing of the old one.
            api.post("/api/databases", json!({"name": name}))
                .expect(200);
            let list = api.get(&format!("/db/{name}/api/collections")).expect(200);
            assert_eq!(
                list.json["items"],
                json!([]),
                "left of the deleted database {name}"
            );
            api.delete(&format!("/api/databases/{name}")).expect(204);
        }
    }
}
