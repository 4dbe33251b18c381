//! The changes that a request makes to one record, validated as far as possible without the
//! database.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::types::Value as Stored;
use serde_json::value::RawValue;

use super::value::{FieldChange, FieldValue, Modifier, RawBody};
use super::version::Precondition;
use super::{Scope, value};
use crate::base::error::{Error, FieldError, FieldErrors, Result};
use crate::base::{clock, ids};
use crate::model::collections::{
    Collection, CollectionKind, EMAIL_VISIBILITY, Field, FieldKind, FileOptions,
};
use crate::model::rules::{Fields, Operation};
use crate::store::files;
use crate::store::files::StoredFile;

/// Attributes of responses that clients send back; they are ignored.
const IGNORED_KEYS: [&str; 3] = ["collectionId", "collectionName", "expand"];

/// Attributes that are ignored unless the caller manages records.
const TIMES: [&str; 2] = ["created", "updated"];

/// Attributes of accounts that are ignored unless the collection has a field of that name: proofs,
/// and attributes that clients of PocketBase send.
const IGNORED_KEYS_OF_ACCOUNTS: [&str; 3] = ["passwordConfirm", "oldPassword", "emailVisibility"];

/// Fields that an account cannot set on itself.
const RESERVED_ACCOUNT_FIELDS: [&str; 2] = ["verified", "groups"];

/// Maximum number of invalid fields named in one response.
const ERRORS_MAX: usize = 100;

/// Maximum number of unknown names that one response mentions.
const IGNORED_MAX: usize = 50;

/// The changes to one record, by index in `Collection::fields`.
#[derive(Clone)]
pub struct Draft {
    /// The id in the body.
    pub(super) id: Option<String>,
    pub(super) changes: BTreeMap<usize, FieldChange>,
    /// Errors found so far. They are returned together with those that only the database can find,
    /// so that a client sees every invalid field at once.
    pub(super) errors: FieldErrors,
    /// The changes that the body mentions, without the defaults of a new record.
    pub(super) sent: BTreeSet<usize>,
    ignored: Vec<String>,
    pub(super) times: Times,
    /// The uploaded files that the changes name.
    pub(super) files: Vec<NewFile>,
    /// Fields that may be sent, but only with their current value.
    pub(super) unchanged: BTreeSet<usize>,
    /// Proof of the current password, if the draft sets the password or email of an account.
    pub(super) proof: Proof,
    /// The versions of the record to which the draft may be applied.
    pub expected: Precondition,
}

/// The times of a record that the request sets.
#[derive(Clone, Debug, Default)]
pub struct Times {
    pub created: Option<String>,
    pub updated: Option<String>,
}

/// Proof that a caller who changes the password or email of an account knows its current password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    NotNeeded,
    Missing,
    /// The caller knows the password that was set together with this token key.
    Provided {
        token_key: String,
    },
}

/// An uploaded file.
#[derive(Clone, Debug)]
pub struct NewFile {
    /// The name of the field, without a modifier.
    pub field: String,
    pub stored: StoredFile,
}

/// Hashes a password. This is slow, so it runs outside the write transaction.
pub type Hasher<'a> = &'a dyn Fn(&str) -> Result<String>;

impl Draft {
    /// Validates the body of a new record: every field gets a value or an error. Callers that may
    /// not create any record are refused first, before they cost work or learn about fields.
    pub fn create(
        scope: &Scope,
        collection: &Collection,
        body: &RawBody,
        hash: Hasher<'_>,
    ) -> Result<Draft> {
        let grant = scope.admit(collection, Operation::Create)?;
        let mut builder = DraftBuilder::new(scope, collection, grant.fields);
        let id = builder.chosen_id(body);
        builder.is_new = true;
        builder.refuse_chosen_id(id.is_some());
        builder.read(body);
        builder.sent = builder.changes.keys().copied().collect();
        builder.set_autodates();
        builder.fill_defaults()?;
        builder.finish(id, body, hash)
    }

    /// Validates the body of an update. Fields that it does not mention keep their value.
    pub fn update(
        scope: &Scope,
        collection: &Collection,
        body: &RawBody,
        hash: Hasher<'_>,
    ) -> Result<Draft> {
        let grant = scope.admit(collection, Operation::Update)?;
        let mut builder = DraftBuilder::new(scope, collection, grant.fields);
        let id = builder.chosen_id(body);
        builder.read(body);
        let sets = |name: &str| {
            let at = collection.fields.iter().position(|it| it.name == name);
            at.is_some_and(|at| builder.changes.contains_key(&at))
        };
        let needs_proof = collection.kind == CollectionKind::Auth
            && !scope.identity.manages()
            && (sets("password") || sets("email"));
        builder.sent = builder.changes.keys().copied().collect();
        builder.set_autodates();
        let mut draft = builder.finish(id, body, hash)?;
        if needs_proof {
            draft.proof = Proof::Missing;
        }
        Ok(draft)
    }

    /// Records that the caller knows the current password. The transaction checks this again.
    pub fn prove(&mut self, token_key: String) {
        if self.proof == Proof::Missing {
            self.proof = Proof::Provided { token_key };
        }
    }

    /// Makes the draft that of a new account which signs in with a provider: it needs no password,
    /// and its address is verified if the provider has verified it.
    pub fn sign_in_with_provider(&mut self, collection: &Collection, is_verified: bool) {
        let position = |name: &str| collection.fields.iter().position(|it| it.name == name);
        if let Some(at) = position("password")
            && !self.sent.contains(&at)
        {
            self.errors.remove("password");
            let none = FieldChange::Set(FieldValue::Scalar(Stored::Null));
            self.changes.insert(at, none);
        }
        if let Some(at) = position("verified")
            && is_verified
        {
            let verified = FieldChange::Set(FieldValue::Scalar(Stored::Integer(1)));
            self.changes.insert(at, verified);
        }
    }

    /// Lets an account change its own `emailVisibility`.
    pub(super) fn allow_own_email_visibility(&mut self, collection: &Collection) {
        self.unchanged
            .retain(|at| collection.fields[*at].name != EMAIL_VISIBILITY);
    }

    /// Number of related records that the draft names.
    pub fn relations(&self, collection: &Collection) -> usize {
        let count = |(at, change): (&usize, &FieldChange)| {
            let field = &collection.fields[*at];
            match change {
                _ if field.relation().is_none() => 0,
                FieldChange::Set(value) => value.strings().len(),
                FieldChange::Append(list) | FieldChange::Prepend(list) => list.len(),
                FieldChange::Remove(_) | FieldChange::Add(_) | FieldChange::Hash(_) => 0,
            }
        };
        self.changes.iter().map(count).sum()
    }

    /// Adds the uploaded files that the changes name, and validates them against the options of
    /// their fields.
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

    pub fn files(&self) -> &[NewFile] {
        &self.files
    }

    /// Fixes the id of the new record; its files need it before the record is written.
    pub fn choose_id(&mut self, collection: &Collection) -> Result<String> {
        let id = match self.id.take() {
            Some(id) => id,
            None => new_id(collection)?,
        };
        self.id = Some(id.clone());
        Ok(id)
    }

    /// Returns an error that names every invalid field.
    pub fn check(&self) -> Result<()> {
        match self.errors.is_empty() {
            true => Ok(()),
            false => Err(Error::fields(
                "The record is not valid.",
                self.errors.clone(),
            )),
        }
    }

    /// Names in the body that are no field, or a field that field rules do not let the caller
    /// write; they are ignored.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }
}

/// Generates the id of a new record.
pub fn new_id(collection: &Collection) -> Result<String> {
    if let FieldKind::Text(options) = &collection.system.id.kind
        && let Some(generator) = &options.autogenerate
    {
        let id = generator.generate()?;
        return match ids::is_valid_id(&id) {
            true => Ok(id),
            false => Err(Error::invalid(format!(
                "The autogeneratePattern of the field id of {} makes invalid ids.",
                collection.name
            ))),
        };
    }
    match collection.kind {
        CollectionKind::Base | CollectionKind::View => ids::record_id(),
        CollectionKind::Auth => ids::account_id(),
    }
}

fn check_file(options: &FileOptions, file: &StoredFile) -> Result<(), FieldError> {
    if file.size > options.bytes_max {
        return value::field_error(
            "validation_file_size_limit",
            &format!("Must have at most {} bytes.", options.bytes_max),
        );
    }
    if !files::is_allowed(&file.media_type, &options.media_types) {
        return value::field_error(
            "validation_invalid_mime_type",
            &format!("Must not be {}.", file.media_type),
        );
    }
    Ok(())
}

pub fn invalid_record(errors: FieldErrors) -> Error {
    Error::fields("The record is not valid.", errors)
}

/// The error for a field that the caller cannot set.
pub fn reserved_field(field: &Field) -> FieldError {
    let (code, message) = match field.name.as_str() {
        EMAIL_VISIBILITY => (
            "validation_forbidden",
            "Only the account itself and admins may change this.",
        ),
        "verified" => ("validation_values_mismatch", "Only admins may set this."),
        _ => ("validation_forbidden", "Only admins may set this."),
    };
    FieldError::new(code, message)
}

struct DraftBuilder<'a> {
    collection: &'a Collection,
    /// The caller manages accounts, and may set `verified` and `groups`.
    manages: bool,
    /// The fields that the caller may write.
    fields: Fields,
    /// The draft is for a new record.
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
                && IGNORED_KEYS_OF_ACCOUNTS.contains(&key.as_str());
            let is_ignored = IGNORED_KEYS.contains(&key.as_str()) || key == "id";
            if is_ignored || (is_of_account && self.position(key).is_none()) {
                continue;
            }
            if self.errors.len() >= ERRORS_MAX {
                return;
            }
            if TIMES.contains(&key.as_str()) {
                self.read_time(key, raw);
                continue;
            }
            if !self.manages && self.is_autodate(key) {
                continue;
            }
            self.read_key(key, raw);
        }
    }

    fn is_autodate(&self, key: &str) -> bool {
        let field = self.collection.field(key);
        field.is_some_and(|field| matches!(field.kind, FieldKind::Autodate { .. }))
    }

    /// Sets the autodates of a new or changed record, unless the caller sets them.
    fn set_autodates(&mut self) {
        let now = clock::now();
        for (at, field) in self.collection.fields.iter().enumerate() {
            let FieldKind::Autodate {
                on_create,
                on_update,
            } = field.kind
            else {
                continue;
            };
            let is_due = if self.is_new { on_create } else { on_update };
            let unset = FieldChange::Set(FieldValue::Scalar(Stored::Null));
            if self.changes.get(&at).is_some_and(|change| *change == unset) {
                self.changes.remove(&at);
            }
            if is_due {
                let value = FieldValue::Scalar(Stored::Text(now.clone()));
                self.changes.entry(at).or_insert(FieldChange::Set(value));
            }
        }
    }

    /// Reads a time. It is ignored unless the caller manages records.
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
        let modified = Modifier::split(key)
            .and_then(|(name, modifier)| self.position(name).map(|at| (at, modifier)));
        let (at, change) = match (self.position(key), modified) {
            (Some(at), _) => (at, value::parse(self.field(at), raw)),
            (None, Some((at, modifier))) => {
                (at, value::parse_modifier(self.field(at), modifier, raw))
            }
            (None, None) => {
                self.ignore_unknown(key);
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
            false => Err(reserved_field(self.field(at))),
        };
        match change {
            Ok(_) if self.changes.contains_key(&at) => {
                let message = "Cannot be set and modified (+/-) in one request.";
                self.errors.insert(
                    name,
                    FieldError::new("validation_invalid_modifier", message),
                );
            }
            Ok(change) => drop(self.changes.insert(at, change)),
            Err(error) => drop(self.errors.insert(name, error)),
        }
    }

    /// True if the caller may set the field. `verified` and `groups` are reserved for callers that
    /// manage accounts, and for groups whose field rules name these fields. Others may leave them
    /// unset in a new account, and later send them unchanged. `emailVisibility` is set when the
    /// account is created, by a manager, or by the account itself (see
    /// [`Draft::allow_own_email_visibility`]).
    fn may_set(&self, at: usize, change: Option<&FieldChange>) -> bool {
        let field = self.field(at);
        let name = field.name.as_str();
        let is_reserved = self.collection.kind == CollectionKind::Auth
            && (RESERVED_ACCOUNT_FIELDS.contains(&name)
                || (name == EMAIL_VISIBILITY && !self.is_new));
        !is_reserved
            || self.manages
            || self.fields.names(&field.name)
            || (self.is_new
                && value::default_value(field)
                    .ok()
                    .map(FieldChange::Set)
                    .as_ref()
                    == change)
    }

    /// Passes over a name that is no field, as PocketBase does. The answer names it.
    fn ignore_unknown(&mut self, key: &str) {
        if ids::is_valid_id(key) && self.ignored.len() < IGNORED_MAX {
            self.ignored.push(key.to_owned());
        }
    }

    /// The index of a field. A hidden field does not exist for callers that may not see it.
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

    /// Rules identify accounts by id. An id chosen by a caller could be that of another account, or
    /// of a deleted one.
    fn refuse_chosen_id(&mut self, is_chosen: bool) {
        if is_chosen && self.collection.kind == CollectionKind::Auth && !self.manages {
            let message = "Only administrators may choose the id of an account.";
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

    /// Reads the id in the body; an invalid one is an error of the field `id`.
    fn chosen_id(&mut self, body: &RawBody) -> Option<String> {
        let raw = body.get("id")?;
        match serde_json::from_str::<Option<String>>(raw.get()) {
            Ok(None) => None,
            Ok(Some(id)) if id.is_empty() => None,
            Ok(Some(id)) if ids::is_valid_id(&id) => {
                if let Err(error) = value::check_id(&self.collection.system.id, &id) {
                    self.errors.insert("id".to_owned(), error);
                }
                Some(id)
            }
            _ => {
                let message = "Must be 1 to 64 of A-Z, a-z, 0-9, _ and -.";
                let error = FieldError::new("validation_invalid_format", message);
                self.errors.insert("id".to_owned(), error);
                None
            }
        }
    }

    fn fill_defaults(&mut self) -> Result<()> {
        for (at, field) in self.collection.fields.iter().enumerate() {
            if self.changes.contains_key(&at) || self.errors.contains_key(&field.name) {
                continue;
            }
            if let FieldKind::Text(options) = &field.kind
                && let Some(generator) = &options.autogenerate
            {
                let value = FieldValue::Scalar(Stored::Text(generator.generate()?));
                self.changes.insert(at, FieldChange::Set(value));
                continue;
            }
            match value::default_value(field) {
                Ok(stored) => drop(self.changes.insert(at, FieldChange::Set(stored))),
                // A field that the caller may not write is not required of it.
                Err(_) if !self.is_writable(field) => {
                    self.changes
                        .insert(at, FieldChange::Set(value::unset_value(field)));
                }
                Err(error) => drop(self.errors.insert(field.name.clone(), error)),
            }
        }
        Ok(())
    }

    fn finish(mut self, id: Option<String>, body: &RawBody, hash: Hasher<'_>) -> Result<Draft> {
        self.check_confirmation(body);
        for change in self.changes.values_mut() {
            if let FieldChange::Hash(password) = change {
                // Do not hash for a draft that fails anyway.
                *change = FieldChange::Set(FieldValue::Scalar(match self.errors.is_empty() {
                    true => Stored::Text(hash(password)?),
                    false => Stored::Null,
                }));
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

    /// Compares the password with its confirmation, if one is sent.
    fn check_confirmation(&mut self, body: &RawBody) {
        let text = |raw: &RawValue| serde_json::from_str::<String>(raw.get()).ok();
        if let (Some(password), Some(confirm)) = (body.get("password"), body.get("passwordConfirm"))
            && self.collection.kind == CollectionKind::Auth
            && text(password) != text(confirm)
        {
            let error =
                FieldError::new("validation_values_mismatch", "The passwords do not match.");
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
            facts: crate::model::records::RequestFacts::default(),
            events: std::sync::Arc::default(),
            output: crate::base::budget::OutputCharge::default(),
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
                "id validation_invalid_format",
                "n validation_max_number_constraint",
                "tags validation_invalid_value",
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
