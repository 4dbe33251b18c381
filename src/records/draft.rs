//! What a request wants to write into one record, checked as far as that goes without the database.

use std::collections::BTreeMap;

use rusqlite::types::Value as Stored;
use serde_json::value::RawValue;

use super::Scope;
use super::value;
use super::value::Body;
use super::value::Change;
use super::value::Modifier;
use crate::collections::Collection;
use crate::collections::CollectionKind;
use crate::collections::Field;
use crate::error::FieldErrors;
use crate::error::Result;
use crate::ids;

/// Attributes that answers carry and that clients send back; they are not written.
const PASSED_OVER: [&str; 5] = ["created", "updated", "collectionId", "collectionName", "expand"];

/// The changes to one record, by position in `Collection::fields`.
#[derive(Clone)]
pub struct Draft {
    /// What the client says the id is or shall be.
    pub(super) id: Option<String>,
    pub(super) changes: BTreeMap<usize, Change>,
    /// What is wrong so far. It is answered together with what only the database can tell, so
    /// that a client learns of every failing field at once.
    pub(super) errors: FieldErrors,
}

/// Hashes a password; slow on purpose, so it happens before the writer is taken.
pub type Hasher<'a> = &'a dyn Fn(&str) -> Result<String>;

impl Draft {
    /// Checks the body of a new record: every field gets a value or an error. Callers who may not
    /// create any are turned away first, so that they learn and cost nothing.
    pub fn create(
        scope: &Scope,
        collection: &Collection,
        body: &Body,
        hash: Hasher<'_>,
    ) -> Result<Draft> {
        scope.admit(collection.rules.create.as_ref())?;
        let mut reader = Reader::new(collection);
        let id = reader.id(body);
        reader.read(body);
        reader.fill_unset();
        reader.finish(id, body, hash)
    }

    /// Checks the body of a change: what it does not mention stays.
    pub fn update(
        scope: &Scope,
        collection: &Collection,
        body: &Body,
        hash: Hasher<'_>,
    ) -> Result<Draft> {
        scope.admit(collection.rules.update.as_ref())?;
        let mut reader = Reader::new(collection);
        let id = reader.id(body);
        reader.read(body);
        reader.finish(id, body, hash)
    }
}

struct Reader<'a> {
    collection: &'a Collection,
    changes: BTreeMap<usize, Change>,
    errors: FieldErrors,
}

impl<'a> Reader<'a> {
    fn new(collection: &'a Collection) -> Reader<'a> {
        Reader { collection, changes: BTreeMap::new(), errors: FieldErrors::new() }
    }

    fn read(&mut self, body: &Body) {
        for (key, raw) in body {
            if PASSED_OVER.contains(&key.as_str()) || key == "id" {
                continue;
            }
            if key == "passwordConfirm" && self.collection.kind == CollectionKind::Auth {
                continue;
            }
            let plain = self.position(key);
            let modified = Modifier::split(key)
                .and_then(|(name, sign)| self.position(name).map(|at| (at, sign)));
            let (at, change) = match (plain, modified) {
                (Some(at), _) => (at, value::parse(self.field(at), raw)),
                (None, Some((at, sign))) => (at, value::parse_modifier(self.field(at), sign, raw)),
                (None, None) => {
                    let message = format!("{} has no such field.", self.collection.name);
                    let Err(error) = value::wrong::<()>("validation_unknown_field", &message) else {
                        continue;
                    };
                    self.errors.insert(key.clone(), error);
                    continue;
                }
            };
            match change {
                Ok(change) => drop(self.changes.insert(at, change)),
                Err(error) => drop(self.errors.insert(key.clone(), error)),
            }
        }
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.collection.fields.iter().position(|field| field.name == name)
    }

    fn field(&self, at: usize) -> &'a Field {
        &self.collection.fields[at]
    }

    /// The id that a client chose; checked like a field.
    fn id(&mut self, body: &Body) -> Option<String> {
        let raw = body.get("id")?;
        match serde_json::from_str::<Option<String>>(raw.get()) {
            Ok(None) => None,
            Ok(Some(id)) if id.is_empty() => None,
            Ok(Some(id)) if ids::is_valid_id(&id) => Some(id),
            _ => {
                let message = "Must be 1 to 64 of A-Z, a-z, 0-9, _ and -.";
                if let Err(error) = value::wrong::<()>("validation_invalid_id", message) {
                    self.errors.insert("id".to_owned(), error);
                }
                None
            }
        }
    }

    fn fill_unset(&mut self) {
        for (at, field) in self.collection.fields.iter().enumerate() {
            if self.changes.contains_key(&at) || self.errors.contains_key(&field.name) {
                continue;
            }
            match value::unset(field) {
                Ok(stored) => drop(self.changes.insert(at, Change::Set(stored))),
                Err(error) => drop(self.errors.insert(field.name.clone(), error)),
            }
        }
    }

    fn finish(mut self, id: Option<String>, body: &Body, hash: Hasher<'_>) -> Result<Draft> {
        self.check_confirmation(body);
        for change in self.changes.values_mut() {
            if let Change::Hash(password) = change {
                // The slow work is not done for what is refused anyway.
                *change = Change::Set(match self.errors.is_empty() {
                    true => Stored::Text(hash(password)?),
                    false => Stored::Null,
                });
            }
        }
        Ok(Draft { id, changes: self.changes, errors: self.errors })
    }

    /// A password may be sent twice to be sure of it; then both must be the same.
    fn check_confirmation(&mut self, body: &Body) {
        let text = |raw: &RawValue| serde_json::from_str::<String>(raw.get()).ok();
        if let (Some(password), Some(confirm)) = (body.get("password"), body.get("passwordConfirm"))
            && self.collection.kind == CollectionKind::Auth
            && text(password) != text(confirm)
            && let Err(error) =
                value::wrong::<()>("validation_values_mismatch", "The passwords are not the same.")
        {
            self.errors.insert("passwordConfirm".to_owned(), error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(body: &serde_json::Value, expected: &[&str]) {
        let fields = json!([
            {"name": "a", "type": "text", "required": true},
            {"name": "n", "type": "number", "max": 5},
            {"name": "tags", "type": "select", "values": ["x", "y"], "maxSelect": 2},
        ]);
        let collection = crate::collections::test_collection("c", "c", fields);
        let body: Body = serde_json::from_value(body.clone()).unwrap();
        let hash = |_: &str| Ok(String::new());
        let scope = Scope {
            collections: std::sync::Arc::default(),
            identity: crate::rules::Identity::Admin("a".to_owned()),
        };
        let draft = Draft::create(&scope, &collection, &body, &hash).unwrap();
        let errors: Vec<String> =
            draft.errors.iter().map(|(name, error)| format!("{name} {}", error.code)).collect();
        assert_eq!(errors, expected, "{body:?}");
    }

    #[test]
    fn every_failing_field_is_named_at_once() {
        check(&json!({"a": "x"}), &[]);
        check(
            &json!({"n": 9, "tags": ["z"], "typo": 1, "id": "a/b"}),
            &[
                "a validation_required",
                "id validation_invalid_id",
                "n validation_out_of_range",
                "tags validation_invalid_choice",
                "typo validation_unknown_field",
            ],
        );
    }

    #[test]
    fn what_answers_carry_may_be_sent_back() {
        check(&json!({"a": "x", "id": "i", "created": "", "collectionName": "c", "expand": {}}), &[]);
    }
}
