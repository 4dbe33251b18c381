//! What a request wants to write into one record, checked as far as that goes without the database.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::types::Value as Stored;
use serde_json::value::RawValue;

use super::value::{FieldChange, Modifier, RawBody};
use super::version::Precondition;
use super::{Scope, value};
use crate::base::error::{Error, FieldError, FieldErrors, Result};
use crate::base::{clock, ids};
use crate::model::collections::{Collection, CollectionKind, EMAIL_VISIBILITY, Field, FileOptions};
use crate::model::rules::{Fields, Operation};
use crate::store::files;
use crate::store::files::StoredFile;

/// Attributes that answers carry and that clients send back; they are not written.
const PASSED_OVER: [&str; 3] = ["collectionId", "collectionName", "expand"];

/// The same, except that those who manage records may set them.
const TIMES: [&str; 2] = ["created", "updated"];

/// The same of accounts: proofs, and what PocketBase's clients send. A field of such a name comes
/// first, if there is one.
const PASSED_OVER_OF_ACCOUNTS: [&str; 3] = ["passwordConfirm", "oldPassword", "emailVisibility"];

/// Fields of accounts that accounts do not set themselves.
const RESERVED_OF_ACCOUNTS: [&str; 2] = ["verified", "groups"];

/// Failing fields that are named in one answer.
const ERRORS_MAX: usize = 100;

/// The changes to one record, by position in `Collection::fields`.
#[derive(Clone)]
pub struct Draft {
    /// What the client says the id is or shall be.
    pub(super) id: Option<String>,
    pub(super) changes: BTreeMap<usize, FieldChange>,
    /// What is wrong so far. It is answered together with what only the database can tell, so
    /// that a client learns of every failing field at once.
    pub(super) errors: FieldErrors,
    /// The changes that the body mentions, and not only those that make a record whole.
    pub(super) sent: BTreeSet<usize>,
    ignored: Vec<String>,
    pub(super) times: Times,
    /// The files that come with it and that its changes name.
    pub(super) files: Vec<NewFile>,
    /// Fields that may be sent, but only as they are.
    pub(super) unchanged: BTreeSet<usize>,
    /// Whether it sets the password or address of an account, which the caller must know.
    pub(super) proof: Proof,
    /// The states of the record in which it is changed.
    pub expected: Precondition,
}

/// When a record was made and changed, where the request says so.
#[derive(Clone, Debug, Default)]
pub struct Times {
    pub created: Option<String>,
    pub updated: Option<String>,
}

/// What a caller has shown who changes the password or address of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    NotNeeded,
    Missing,
    /// To know the password that belongs to this key of the account's tokens.
    Shown {
        token_key: String,
    },
}

/// A file that was received for a field.
#[derive(Clone, Debug)]
pub struct NewFile {
    /// The field, without a sign.
    pub field: String,
    pub stored: StoredFile,
}

/// Hashes a password; slow on purpose, so it happens before the writer is taken.
pub type Hasher<'a> = &'a dyn Fn(&str) -> Result<String>;

impl Draft {
    /// Checks the body of a new record: every field gets a value or an error. Callers who may not
    /// create any are turned away first, so that they learn and cost nothing.
    pub fn create(
        scope: &Scope,
        collection: &Collection,
        body: &RawBody,
        hash: Hasher<'_>,
    ) -> Result<Draft> {
        let grant = scope.admit(collection, Operation::Create)?;
        let mut builder = DraftBuilder::new(scope, collection, grant.fields);
        let id = builder.id(body);
        builder.is_new = true;
        builder.refuse_chosen_id(id.is_some());
        builder.read(body);
        builder.sent = builder.changes.keys().copied().collect();
        builder.fill_unset();
        builder.finish(id, body, hash)
    }

    /// Checks the body of a change: what it does not mention stays.
    pub fn update(
        scope: &Scope,
        collection: &Collection,
        body: &RawBody,
        hash: Hasher<'_>,
    ) -> Result<Draft> {
        let grant = scope.admit(collection, Operation::Update)?;
        let mut builder = DraftBuilder::new(scope, collection, grant.fields);
        let id = builder.id(body);
        builder.read(body);
        let sets = |name: &str| {
            let at = collection.fields.iter().position(|it| it.name == name);
            at.is_some_and(|at| builder.changes.contains_key(&at))
        };
        let needs_proof = collection.kind == CollectionKind::Auth
            && !scope.identity.manages()
            && (sets("password") || sets("email"));
        builder.sent = builder.changes.keys().copied().collect();
        let mut draft = builder.finish(id, body, hash)?;
        if needs_proof {
            draft.proof = Proof::Missing;
        }
        Ok(draft)
    }

    /// Takes note that the caller knows the present password, which the transaction looks at once
    /// more.
    pub fn prove(&mut self, token_key: String) {
        if self.proof == Proof::Missing {
            self.proof = Proof::Shown { token_key };
        }
    }

    /// Takes note that it is the account itself that changes its record.
    pub(super) fn is_by_account_itself(&mut self, collection: &Collection) {
        self.unchanged
            .retain(|at| collection.fields[*at].name != EMAIL_VISIBILITY);
    }

    /// Related records that it names.
    pub fn relations(&self, collection: &Collection) -> usize {
        let count = |(at, change): (&usize, &FieldChange)| {
            let field = &collection.fields[*at];
            match change {
                _ if field.relation().is_none() => 0,
                FieldChange::Set(stored) => value::load_list(field, stored).len(),
                FieldChange::Append(list) | FieldChange::Prepend(list) => list.len(),
                FieldChange::Remove(_) | FieldChange::Add(_) | FieldChange::Hash(_) => 0,
            }
        };
        self.changes.iter().map(count).sum()
    }

    /// Takes along the files that were received, as far as the changes name them, and checks
    /// them against the options of their fields.
    pub fn attach(&mut self, collection: &Collection, files: Vec<NewFile>) {
        for file in files {
            let at = collection
                .fields
                .iter()
                .position(|it| it.name == file.field);
            let Some(at) = at.filter(|at| self.changes.contains_key(at)) else {
                continue;
            };
            let field = &collection.fields[at];
            match field
                .file()
                .map(|options| check_file(options, &file.stored))
            {
                Some(Ok(())) => self.files.push(file),
                Some(Err(error)) => drop(self.errors.insert(field.name.clone(), error)),
                None => {}
            }
        }
    }

    /// The files that it takes along.
    pub fn files(&self) -> &[NewFile] {
        &self.files
    }

    /// The id of the new record, which its files must know before it is written.
    pub fn choose_id(&mut self, collection: &Collection) -> Result<String> {
        let id = match self.id.take() {
            Some(id) => id,
            None => new_id(collection)?,
        };
        self.id = Some(id.clone());
        Ok(id)
    }

    /// What is wrong so far, if anything is.
    pub fn check(&self) -> Result<()> {
        match self.errors.is_empty() {
            true => Ok(()),
            false => Err(Error::fields(
                "The record is not valid.",
                self.errors.clone(),
            )),
        }
    }

    /// Fields that the body mentions and that field rules keep the caller from writing; they are
    /// passed over (FLD-6).
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }
}

/// An id for a new record.
pub fn new_id(collection: &Collection) -> Result<String> {
    match collection.kind {
        CollectionKind::Base => ids::record_id(),
        CollectionKind::Auth => ids::account_id(),
    }
}

fn check_file(options: &FileOptions, file: &StoredFile) -> Result<(), FieldError> {
    if file.size > options.bytes_max {
        return value::wrong(
            "validation_file_size_limit",
            &format!("Must have at most {} bytes.", options.bytes_max),
        );
    }
    if !files::is_allowed(&file.media_type, &options.media_types) {
        return value::wrong(
            "validation_invalid_mime_type",
            &format!("Must not be {}.", file.media_type),
        );
    }
    Ok(())
}

pub fn not_valid(errors: FieldErrors) -> Error {
    Error::fields("The record is not valid.", errors)
}

/// What is said to somebody who sets what only others may set.
pub fn reserved(field: &Field) -> FieldError {
    let message = match field.name.as_str() {
        EMAIL_VISIBILITY => "Only the account itself and admins may change this.",
        _ => "Only admins may set this.",
    };
    FieldError::new("validation_forbidden", message)
}

struct DraftBuilder<'a> {
    collection: &'a Collection,
    /// May say who is verified and in which groups.
    manages: bool,
    /// What the caller may write.
    fields: Fields,
    /// The record is being made.
    is_new: bool,
    changes: BTreeMap<usize, FieldChange>,
    errors: FieldErrors,
    ignored: Vec<String>,
    times: Times,
    unchanged: BTreeSet<usize>,
    sent: BTreeSet<usize>,
}

impl<'a> DraftBuilder<'a> {
    fn new(scope: &Scope, collection: &'a Collection, fields: Fields) -> DraftBuilder<'a> {
        DraftBuilder {
            collection,
            manages: scope.identity.manages(),
            fields,
            is_new: false,
            changes: BTreeMap::new(),
            errors: FieldErrors::new(),
            ignored: Vec::new(),
            times: Times::default(),
            unchanged: BTreeSet::new(),
            sent: BTreeSet::new(),
        }
    }

    fn read(&mut self, body: &RawBody) {
        for (key, raw) in body {
            let is_of_account = self.collection.kind == CollectionKind::Auth
                && PASSED_OVER_OF_ACCOUNTS.contains(&key.as_str());
            let is_passed_over = PASSED_OVER.contains(&key.as_str()) || key == "id";
            if is_passed_over || (is_of_account && self.position(key).is_none()) {
                continue;
            }
            if self.errors.len() >= ERRORS_MAX {
                return;
            }
            if TIMES.contains(&key.as_str()) {
                self.read_time(key, raw);
                continue;
            }
            self.read_key(key, raw);
        }
    }

    /// Of callers who manage records; what others send back is not written.
    fn read_time(&mut self, key: &str, raw: &RawValue) {
        if !self.manages {
            return;
        }
        let text = serde_json::from_str::<Option<String>>(raw.get());
        if matches!(&text, Ok(text) if text.as_ref().is_none_or(String::is_empty)) {
            return;
        }
        let text = text.ok().flatten();
        match text.and_then(|text| clock::parse_datetime(&text)) {
            Some(ms) if key == "created" => self.times.created = Some(clock::format_ms(ms)),
            Some(ms) => self.times.updated = Some(clock::format_ms(ms)),
            None => {
                let message = "Must be a date such as 2026-01-31T12:00:00Z.";
                let error = FieldError::new("validation_invalid_date", message);
                self.errors.insert(key.to_owned(), error);
            }
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
        if matches!(&self.fields, Fields::Named(_)) && !self.is_writable(self.field(at)) {
            self.ignored.push(name);
            return;
        }
        let change = match self.may_set(at, change.as_ref().ok()) {
            true => change,
            false if !self.is_new => {
                self.unchanged.insert(at);
                change
            }
            false => Err(reserved(self.field(at))),
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

    /// Whether an account is verified and in which groups it is is not for itself to say: only for
    /// those who manage accounts, and for groups whose field rules name these fields. In a new account
    /// others may leave them unset, and later send them as they are. That an account shows its address is
    /// for itself to say, see [`Draft::is_by_account_itself`], or for those who make it.
    fn may_set(&self, at: usize, change: Option<&FieldChange>) -> bool {
        let field = self.field(at);
        let name = field.name.as_str();
        let is_reserved = self.collection.kind == CollectionKind::Auth
            && (RESERVED_OF_ACCOUNTS.contains(&name) || (name == EMAIL_VISIBILITY && !self.is_new));
        !is_reserved
            || self.manages
            || self.fields.names(&field.name)
            || (self.is_new && value::unset(field).ok().map(FieldChange::Set).as_ref() == change)
    }

    /// To those who may not see it a hidden field does not exist.
    fn position(&self, name: &str) -> Option<usize> {
        let is_shown = |field: &Field| {
            let is_hidden = field.hidden && !field.is_secret();
            !is_hidden || self.fields == Fields::All
        };
        self.collection
            .fields
            .iter()
            .position(|field| field.name == name && is_shown(field))
    }

    /// Rules know accounts by their ids: one that somebody chose could be that of another account, or
    /// of one that is gone.
    fn refuse_chosen_id(&mut self, is_chosen: bool) {
        if is_chosen && self.collection.kind == CollectionKind::Auth && !self.manages {
            let message = "The id of an account is not for itself to choose.";
            let error = FieldError::new("validation_forbidden", message);
            self.errors.insert("id".to_owned(), error);
        }
    }

    fn is_writable(&self, field: &Field) -> bool {
        self.fields
            .has(&field.name, field.hidden && !field.is_secret())
    }

    fn field(&self, at: usize) -> &'a Field {
        &self.collection.fields[at]
    }

    /// The id that a client chose; checked like a field.
    fn id(&mut self, body: &RawBody) -> Option<String> {
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
                Ok(stored) => drop(self.changes.insert(at, FieldChange::Set(stored))),
                // What may not be set cannot be asked for (FLD-6).
                Err(_) if !self.is_writable(field) => {
                    self.changes
                        .insert(at, FieldChange::Set(value::unset_form(field)));
                }
                Err(error) => drop(self.errors.insert(field.name.clone(), error)),
            }
        }
    }

    fn finish(mut self, id: Option<String>, body: &RawBody, hash: Hasher<'_>) -> Result<Draft> {
        self.check_confirmation(body);
        for change in self.changes.values_mut() {
            if let FieldChange::Hash(password) = change {
                // The slow work is not done for what is refused anyway.
                *change = FieldChange::Set(match self.errors.is_empty() {
                    true => Stored::Text(hash(password)?),
                    false => Stored::Null,
                });
            }
        }
        Ok(Draft {
            id,
            changes: self.changes,
            errors: self.errors,
            sent: self.sent,
            ignored: self.ignored,
            times: self.times,
            files: Vec::new(),
            unchanged: self.unchanged,
            proof: Proof::NotNeeded,
            expected: Precondition::default(),
        })
    }

    /// A password may be sent twice to be sure of it; then both must be the same.
    fn check_confirmation(&mut self, body: &RawBody) {
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
        let collection = crate::model::collections::test_collection("c", "c", fields);
        let body: RawBody = serde_json::from_value(body.clone()).unwrap();
        let hash = |_: &str| Ok(String::new());
        let scope = Scope {
            collections: std::sync::Arc::default(),
            identity: crate::model::rules::Identity::Admin("a".to_owned()),
            events: std::sync::Arc::default(),
            output: crate::base::budget::Output::default(),
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
