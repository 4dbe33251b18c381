//! Computes the results of creates, updates and deletes, written from the documentation.
//!
//! Errors have this order: access to the collection, existence of the record, validity of the body.

use std::collections::BTreeSet;

use serde_json::{Map, Value as Json};

use super::callers::Caller;
use super::grants::{Grant, ReadableFields, Verb};
use super::model::SentValues;
use super::request;
use super::values::{
    ModelChange, apply_action, default_value, list_value, read_id, read_modifier, read_value,
};
use super::world::{Record, Table, Value, World};
use crate::base::error::Kind;

pub type Outcome<T> = Result<T, Kind>;
pub type Body = Map<String, Json>;

/// The result of a change of a record.
struct Changed {
    values: Vec<Value>,
    /// Indexes of the valid fields in the body.
    mentioned: Vec<usize>,
    is_wrong: bool,
}

impl Changed {
    fn sent(&self, world: &World, table: usize, body: &Body) -> SentValues {
        let fields = &world.tables[table].collection.fields;
        let value = |at: &usize| (fields[*at].name.clone(), self.values[*at].clone());
        let mut sent: SentValues = self.mentioned.iter().map(value).collect();
        if let Ok(Some(id)) = read_id(body) {
            sent.insert("id".to_owned(), Value::Text(id));
        }
        sent
    }
}

/// Changes by field index.
type Actions = Vec<(usize, ModelChange)>;

/// A requested change.
#[derive(Clone, Copy)]
pub struct WriteRequest<'a> {
    pub caller: &'a Caller,
    pub body: &'a Body,
    /// True if the caller proved that it knows the password of the account.
    pub is_proven: bool,
}

impl World {
    /// Creates a record; its id is the one of the body, else `made_id`.
    pub fn create(&mut self, table: usize, made_id: &str, wanted: WriteRequest<'_>) -> Outcome<()> {
        let WriteRequest { caller, body, .. } = wanted;
        let grant = self.grant(table, Verb::Create, caller);
        admit(&grant)?;
        let (mut actions, is_wrong) = self.read_body(table, &grant, wanted, None);
        let sent_fields: Vec<usize> = actions.iter().map(|(at, _)| *at).collect();
        // An account cannot choose its own id.
        if self.tables[table].is_auth() && !caller.manages() && read_id(body)?.is_some() {
            return Err(Kind::Invalid);
        }
        for (at, field) in self.tables[table].collection.fields.iter().enumerate() {
            if actions.iter().all(|(known, _)| *known != at) {
                // A field that the caller may not write is not required of it.
                if field.required && grant.fields.takes(field) {
                    return Err(Kind::Invalid);
                }
                actions.push((at, ModelChange::Set(default_value(field))));
            }
        }
        let id = read_id(body)?.unwrap_or_else(|| made_id.to_owned());
        let is_account = |other: &usize| *other != table && self.tables[*other].is_auth();
        let mut tables: Vec<usize> = (0..self.tables.len()).filter(is_account).collect();
        tables.retain(|_| self.tables[table].is_auth());
        tables.push(table);
        if tables.iter().any(|table| self.find(*table, &id).is_some()) {
            return Err(Kind::Invalid);
        }
        let fields = &self.tables[table].collection.fields;
        let mut record = Record {
            id,
            created: String::new(),
            updated: String::new(),
            values: fields.iter().map(default_value).collect(),
        };
        let own = (table, record.id.clone());
        let changed = self.changed(table, &record, actions, Some(&own), caller);
        if is_wrong || changed.is_wrong {
            return Err(Kind::Invalid);
        }
        let mut sent = changed.sent(self, table, body);
        let fields = &self.tables[table].collection.fields;
        let is_sent =
            |name: &String| name == "id" || sent_fields.iter().any(|at| fields[*at].name == *name);
        sent.retain(|name, _| is_sent(name));
        record.values = changed.values;
        self.check_unique(table, &record)?;
        self.tables[table].records.push(record.clone());
        if self.admits(&grant, table, &record, caller, Some(&sent)) {
            Ok(())
        } else {
            Err(Kind::Invalid)
        }
    }

    pub fn update(&mut self, table: usize, id: &str, wanted: WriteRequest<'_>) -> Outcome<()> {
        let WriteRequest { caller, body, .. } = wanted;
        let grant = self.grant(table, Verb::Update, caller);
        admit(&grant)?;
        let records = &self.tables[table].records;
        let at = records.iter().position(|record| record.id == id);
        let at = at.ok_or(Kind::NotFound)?;
        let before = records[at].clone();
        let (actions, is_wrong) = self.read_body(table, &grant, wanted, Some(&before));
        let positions: Vec<usize> = actions.iter().map(|(at, _)| *at).collect();
        let changed = self.changed(table, &before, actions, None, caller);
        let sent = changed.sent(self, table, body);
        self.find_for(table, id, &grant, caller, Some(&sent))?;
        if is_wrong || changed.is_wrong {
            return Err(Kind::Invalid);
        }
        if read_id(body)?.is_some_and(|given| given != id) {
            return Err(Kind::Invalid);
        }
        let fields = &self.tables[table].collection.fields;
        let sets = |name: &str| positions.iter().any(|at| fields[*at].name == name);
        let is_guarded = self.tables[table].is_auth()
            && !caller.manages()
            && (sets("email") || sets("password"));
        if is_guarded && !wanted.is_proven {
            return Err(Kind::Invalid);
        }
        let mut record = before.clone();
        record.values = changed.values;
        self.check_unique(table, &record)?;
        if self.tables[table].is_auth() && !caller.manages() {
            self.forget_verified(table, &before, &mut record);
        }
        self.tables[table].records[at] = record;
        Ok(())
    }

    /// A new email is not verified.
    fn forget_verified(&self, table: usize, before: &Record, after: &mut Record) {
        let collection = &self.tables[table].collection;
        let email = |record: &Record| record.value(collection, "email").texts().concat();
        if !email(before).eq_ignore_ascii_case(&email(after)) {
            let fields = &collection.fields;
            let at = fields.iter().position(|field| field.name == "verified");
            after.values[at.unwrap()] = Value::Flag(false);
        }
    }

    pub fn upsert(&mut self, table: usize, id: &str, wanted: WriteRequest<'_>) -> Outcome<()> {
        match self.find(table, id) {
            Some(_) => self.update(table, id, wanted),
            None => self.create(table, id, wanted),
        }
    }

    pub fn delete(&mut self, table: usize, id: &str, caller: &Caller) -> Outcome<()> {
        self.delete_all(table, std::slice::from_ref(&id.to_owned()), caller)
    }

    fn delete_found(&mut self, table: usize, ids: &[String]) -> Outcome<()> {
        let doomed = self.doomed(table, ids);
        for from in 0..self.tables.len() {
            let fields = self.tables[from].collection.fields.clone();
            let records = &mut self.tables[from].records;
            records.retain(|record| !doomed.contains(&(from, record.id.clone())));
            for (at, field) in fields.iter().enumerate() {
                let Some(target) = self.target(field) else {
                    continue;
                };
                for record in &mut self.tables[from].records {
                    let before = record.values[at].texts();
                    let mut list = before.clone();
                    list.retain(|id| !doomed.contains(&(target, id.clone())));
                    if list.is_empty() && !before.is_empty() && field.required {
                        return Err(Kind::Conflict);
                    }
                    record.values[at] = list_value(field, list);
                }
            }
        }
        Ok(())
    }

    /// All records are deleted together, so references among them do not prevent it.
    pub fn delete_all(&mut self, table: usize, ids: &[String], caller: &Caller) -> Outcome<()> {
        let grant = self.grant(table, Verb::Delete, caller);
        admit(&grant)?;
        for id in ids {
            self.find_for(table, id, &grant, caller, None)?;
        }
        self.delete_found(table, ids)
    }

    fn find_for(
        &self,
        table: usize,
        id: &str,
        grant: &Grant,
        caller: &Caller,
        sent: Option<&SentValues>,
    ) -> Outcome<usize> {
        let records = &self.tables[table].records;
        let at = records
            .iter()
            .position(|record| record.id == id)
            .ok_or(Kind::NotFound)?;
        if self.admits(grant, table, &records[at], caller, sent) {
            Ok(at)
        } else {
            Err(Kind::NotFound)
        }
    }

    /// Collects the records and their cascades.
    fn doomed(&self, table: usize, ids: &[String]) -> BTreeSet<(usize, String)> {
        let mut doomed: BTreeSet<_> = ids.iter().map(|id| (table, id.clone())).collect();
        loop {
            let before = doomed.len();
            for (from, table) in self.tables.iter().enumerate() {
                for (at, field) in table.collection.fields.iter().enumerate() {
                    if !field
                        .relation()
                        .is_some_and(|options| options.cascade_delete)
                    {
                        continue;
                    }
                    let target = self.target(field).unwrap();
                    for record in &table.records {
                        let mut ids = record.values[at].texts().into_iter();
                        if ids.any(|id| doomed.contains(&(target, id))) {
                            doomed.insert((from, record.id.clone()));
                        }
                    }
                }
            }
            if doomed.len() == before {
                return doomed;
            }
        }
    }

    /// `before` is the record to update, if there is one.
    fn read_body(
        &self,
        table: usize,
        grant: &Grant,
        wanted: WriteRequest<'_>,
        before: Option<&Record>,
    ) -> (Actions, bool) {
        let WriteRequest { caller, body, .. } = wanted;
        let mut actions: Actions = Vec::new();
        let (fields, is_auth) = (
            &self.tables[table].collection.fields,
            self.tables[table].is_auth(),
        );
        let position = |name: &str| {
            fields
                .iter()
                .position(|field| field.name == name && grant.fields.knows(field))
        };
        let mut is_wrong = false;
        for (key, json) in body {
            let name = key.trim_matches(['+', '-']);
            // Names that are no field are passed over.
            let Some(at) = position(key).or_else(|| position(name)) else {
                continue;
            };
            let field = &fields[at];
            if matches!(grant.fields, ReadableFields::Named(_)) && !grant.fields.takes(field) {
                continue;
            }
            let action = match *key == field.name {
                true => read_value(field, json)
                    .filter(|value| {
                        let is_blank = matches!(value, Value::Unset | Value::Flag(false));
                        !is_blank || !field.required
                    })
                    .map(ModelChange::Set),
                false => read_modifier(field, &key.replace(name, "*"), json),
            };
            // A field occurs once, with or without a modifier.
            let Some(action) = action.filter(|_| actions.iter().all(|(known, _)| *known != at))
            else {
                is_wrong = true;
                continue;
            };
            let is_reserved = is_auth && ["verified", "groups"].contains(&field.name.as_str());
            // Accounts may send these unchanged.
            let is_same = match before {
                Some(record) => {
                    let present = &record.values[at];
                    apply_action(field, present, action.clone()).as_ref() == Ok(present)
                }
                None => {
                    matches!(&action, ModelChange::Set(value) if *value == default_value(field))
                }
            };
            let may_set = caller.manages() || grant.fields.names(&field.name) || is_same;
            // After creation only the account itself changes its `emailVisibility`.
            let is_reserved = match before {
                Some(record) if is_auth && field.name == "emailVisibility" => {
                    !request::is_own(caller, table, record)
                }
                _ => is_reserved,
            };
            if is_reserved && !may_set {
                is_wrong = true;
                continue;
            }
            actions.push((at, action));
        }
        if is_auth
            && let (Some(password), Some(again)) =
                (body.get("password"), body.get("passwordConfirm"))
        {
            is_wrong |= password.as_str() != again.as_str();
        }
        (actions, is_wrong)
    }

    /// The values of a record after a change; `own` is the id of a new record.
    fn changed(
        &self,
        table: usize,
        record: &Record,
        actions: Actions,
        own: Option<&(usize, String)>,
        caller: &Caller,
    ) -> Changed {
        let mut changed = Changed {
            values: record.values.clone(),
            mentioned: Vec::new(),
            is_wrong: false,
        };
        for (at, action) in actions {
            let field = &self.tables[table].collection.fields[at];
            let before = &record.values[at];
            let Ok(value) = apply_action(field, before, action) else {
                changed.is_wrong = true;
                continue;
            };
            if let Some(target) = self.target(field) {
                let may_name = |id: &String| {
                    let is_own = own.is_some_and(|own| *own == (target, id.clone()));
                    is_own || before.texts().contains(id) || self.may_name(target, id, caller)
                };
                if !value.texts().iter().all(may_name) {
                    changed.is_wrong = true;
                    continue;
                }
            }
            changed.mentioned.push(at);
            changed.values[at] = value;
        }
        changed
    }

    /// True if a relation may reference a record; one that the caller may not view does not exist.
    fn may_name(&self, target: usize, id: &str, caller: &Caller) -> bool {
        self.find(target, id).is_some_and(|record| {
            caller.opens(target)
                || request::is_own(caller, target, record)
                || self.may_view(target, record, caller)
        })
    }

    fn check_unique(&self, table: usize, record: &Record) -> Outcome<()> {
        let Table {
            collection,
            records,
            ..
        } = &self.tables[table];
        for (at, field) in collection.fields.iter().enumerate() {
            let is_address = self.tables[table].is_auth() && field.name == "email";
            let is_same = |a: &Value, b: &Value| match (a, b) {
                (Value::Text(a), Value::Text(b)) if is_address => a.eq_ignore_ascii_case(b),
                (a, b) => a == b,
            };
            let value = &record.values[at];
            let is_taken =
                |other: &Record| other.id != record.id && is_same(&other.values[at], value);
            if field.unique && *value != Value::Unset && records.iter().any(is_taken) {
                return Err(Kind::Invalid);
            }
        }
        Ok(())
    }

    /// Checks that every id in a relation exists.
    pub fn check_relations(&self) {
        for table in &self.tables {
            for (at, field) in table.collection.fields.iter().enumerate() {
                let Some(target) = self.target(field) else {
                    continue;
                };
                for record in &table.records {
                    for id in record.values[at].texts() {
                        let is_there = self.find(target, &id).is_some();
                        assert!(is_there, "{} of {} points to {id}", field.name, record.id);
                    }
                }
            }
        }
    }
}

fn admit(grant: &Grant) -> Outcome<()> {
    if grant.is_denied() {
        Err(Kind::Forbidden)
    } else {
        Ok(())
    }
}
