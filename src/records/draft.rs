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
use crate::error::FieldError;
use crate::error::FieldErrors;
use crate::error::Result;
use crate::ids;

/// Attributes that answers carry and that clients send back; they are not written.
const PASSED_OVER: [&str; 5] = [
    "created",
    "updated",
    "collectionId",
    "collectionName",
    "expand",
];

/// Failing fields that are named in one answer.
const ERRORS_MAX: usize = 100;

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
        let mut reader = Reader::new(scope, collection);
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
        let mut reader = Reader::new(scope, collection);
        let id = reader.id(body);
        reader.read(body);
        reader.finish(id, body, hash)
    }
}

struct Reader<'a> {
    collection: &'a Collection,
    is_admin: bool,
    changes: BTreeMap<usize, Change>,
    errors: FieldErrors,
}

impl<'a> Reader<'a> {
    fn new(scope: &Scope, collection: &'a Collection) -> Reader<'a> {
        let is_admin = scope.identity.is_admin();
        Reader {
            collection,
            is_admin,
            changes: BTreeMap::new(),
            errors: FieldErrors::new(),
        }
    }

    fn read(&mut self, body: &Body) {
        for (key, raw) in body {
            let is_confirmation =
                key == "passwordConfirm" && self.collection.kind == CollectionKind::Auth;
            if PASSED_OVER.contains(&key.as_str()) || key == "id" || is_confirmation {
                continue;
            }
            if self.errors.len() >= ERRORS_MAX {
                return;
            }
            self.read_key(key, raw);
        }
    }

    fn read_key(&mut self, key: &str, raw: &RawValue) {
        let modified =
            Modifier::split(key).and_then(|(name, sign)| self.position(name).map(|at| (at, sign)));
        let (at, change) = match (self.position(key), modified) {
            (Some(at), _) => (at, value::parse(self.field(at), raw)),
            (None, Some((at, sign))) => (at, value::parse_modifier(self.field(at), sign, raw)),
            (None, None) => {
                let message = format!("{} has no such field.", self.collection.name);
                let error = FieldError::new("validation_unknown_field", message);
                self.errors.insert(value::shorten(key), error);
                return;
            }
        };
        let name = self.field(at).name.clone();
        let change = match self.may_set(at, change.as_ref().ok()) {
            true => change,
            false => Err(FieldError::new(
                "validation_forbidden",
                "Only admins may set this.",
            )),
        };
        match change {
            Ok(_) if self.changes.contains_key(&at) => {
                let message = "Is mentioned twice, with and without a sign.";
                self.errors.insert(
                    name,
                    FieldError::new("validation_invalid_modifier", message),
                );
            }
            Ok(change) => drop(self.changes.insert(at, change)),
            Err(error) => drop(self.errors.insert(name, error)),
        }
    }

    /// Whether an account is verified is for admins to say; others may leave it unset.
    fn may_set(&self, at: usize, change: Option<&Change>) -> bool {
        let is_verified =
            self.collection.kind == CollectionKind::Auth && self.field(at).name == "verified";
        self.is_admin || !is_verified || change == Some(&Change::Set(Stored::Integer(0)))
    }

    /// To others than admins a hidden field does not exist.
    fn position(&self, name: &str) -> Option<usize> {
        let is_shown = |field: &Field| self.is_admin || !field.hidden || field.is_secret();
        self.collection
            .fields
            .iter()
            .position(|field| field.name == name && is_shown(field))
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
                let error = FieldError::new("validation_invalid_id", message);
                self.errors.insert("id".to_owned(), error);
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
                // What may not be set cannot be asked for (FLD-6).
                Err(_) if self.position(&field.name).is_none() => {
                    self.changes.insert(at, Change::Set(Stored::Null));
                }
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
        Ok(Draft {
            id,
            changes: self.changes,
            errors: self.errors,
        })
    }

    /// A password may be sent twice to be sure of it; then both must be the same.
    fn check_confirmation(&mut self, body: &Body) {
        let text = |raw: &RawValue| serde_json::from_str::<String>(raw.get()).ok();
        if let (Some(password), Some(confirm)) = (body.get("password"), body.get("passwordConfirm"))
            && self.collection.kind == CollectionKind::Auth
            && text(password) != text(confirm)
        {
            let error = FieldError::new(
                "validation_values_mismatch",
                "The passwords are not the same.",
            );
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
        let errors: Vec<String> = draft
            .errors
            .iter()
            .map(|(name, error)| format!("{name} {}", error.code))
            .collect();
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
        check(
            &json!({"a": "x", "id": "i", "created": "", "collectionName": "c", "expand": {}}),
            &[],
        );
    }
}
