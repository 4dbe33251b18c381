//! What the changes of a draft come to: the values that would be stored, before anything is written.

use rusqlite::Connection;
use rusqlite::types::Value as Stored;

use super::draft::{Draft, NewFile, Times, not_valid};
use super::query::RequestBody;
use super::row::{Rowid, holds, rowid_of};
use super::value::FieldChange;
use super::{Scope, draft, value};
use crate::base::error::{FieldError, FieldErrors, Result};
use crate::model::collections::{Collection, Field};
use crate::model::rules::{Access, Identity, Operation};
use crate::store::db::quote;

/// The values that a draft comes to.
pub struct Resolved {
    /// By position in `Collection::fields`.
    pub values: Vec<(usize, Stored)>,
    /// What a rule sees as `@request.body`.
    pub sent: RequestBody,
    pub times: Times,
    /// The files that come along.
    pub files: Vec<NewFile>,
    /// Names of files that are named no longer.
    pub removed: Vec<String>,
    errors: FieldErrors,
}

impl Resolved {
    /// Refuses them when some are wrong, and names those.
    pub fn check(&self) -> Result<()> {
        match self.errors.is_empty() {
            true => Ok(()),
            false => Err(not_valid(self.errors.clone())),
        }
    }
}

impl Resolved {
    /// Every file that a field names was there, or comes along.
    fn check_files(
        &self,
        field: &Field,
        stored: Stored,
        was: &Stored,
    ) -> Result<Stored, FieldError> {
        if field.file().is_none() {
            return Ok(stored);
        }
        let was = value::load_list(field, was);
        let is_new = |name: &String| self.files.iter().any(|file| file.stored.name == *name);
        let is_unknown = |name: &&String| !was.contains(name) && !is_new(name);
        match value::load_list(field, &stored).iter().find(is_unknown) {
            Some(name) => {
                let message = format!("There is no file {} here.", value::shorten(name));
                value::wrong("validation_missing_file", &message)
            }
            None => Ok(stored),
        }
    }

    fn drop_files(&mut self, field: &Field, stored: &Stored, was: &Stored) {
        if field.file().is_some() {
            let left = value::load_list(field, stored);
            let gone = value::load_list(field, was).into_iter();
            self.removed
                .extend(gone.filter(|name| !left.contains(name)));
        }
    }
}

/// For a new record with this id.
pub fn create(
    tx: &Connection,
    scope: &Scope,
    collection: &Collection,
    id: &str,
    draft: Draft,
) -> Result<Resolved> {
    let known = own(collection, id);
    let before = |_: &Field| Ok(Stored::Null);
    resolve_all(tx, scope, collection, draft, &before, &|_, _| known.clone())
}

/// For the record in this row.
pub fn update(
    tx: &Connection,
    scope: &Scope,
    collection: &Collection,
    rowid: Rowid,
    draft: Draft,
) -> Result<Resolved> {
    let before = |field: &Field| {
        let (table, column) = (quote(&collection.name), quote(&field.name));
        let sql = format!("SELECT {column} FROM {table} WHERE rowid = ?1");
        let mut statement = tx.prepare_cached(&sql)?;
        Ok(statement.query_row([rowid], |row| row.get(0))?)
    };
    // What was named before may be named again.
    let kept = |field: &Field, was: &Stored| Known {
        collection: field
            .relation()
            .map_or(String::new(), |options| options.collection_id.clone()),
        ids: value::load_list(field, was),
    };
    resolve_all(tx, scope, collection, draft, &before, &kept)
}

fn resolve_all(
    tx: &Connection,
    scope: &Scope,
    collection: &Collection,
    draft: Draft,
    before: &dyn Fn(&Field) -> Result<Stored>,
    known: &dyn Fn(&Field, &Stored) -> Known,
) -> Result<Resolved> {
    let mut resolved = Resolved {
        values: Vec::new(),
        sent: RequestBody::new(),
        times: draft.times,
        files: draft.files,
        removed: Vec::new(),
        errors: draft.errors,
    };
    if let Some(id) = draft.id {
        resolved.sent.insert("id".to_owned(), Stored::Text(id));
    }
    for (at, change) in draft.changes {
        let field = &collection.fields[at];
        let needs_before = field.relation().is_some()
            || field.file().is_some()
            || draft.unchanged.contains(&at)
            || !matches!(change, FieldChange::Set(_));
        let was = match needs_before {
            true => before(field)?,
            false => Stored::Null,
        };
        let result = match resolve(field, change, &was)? {
            Ok(stored) if draft.unchanged.contains(&at) && stored != was => {
                Err(draft::reserved(field))
            }
            Ok(stored) => check_targets(tx, scope, field, stored, &known(field, &was))?,
            Err(error) => Err(error),
        };
        let result = result.and_then(|stored| resolved.check_files(field, stored, &was));
        match result {
            Ok(stored) => {
                resolved.drop_files(field, &stored, &was);
                if draft.sent.contains(&at) {
                    resolved.sent.insert(field.name.clone(), stored.clone());
                }
                resolved.values.push((at, stored));
            }
            // What was wrong before comes first: why a file was not taken, and not that it is missing.
            Err(error) => drop(resolved.errors.entry(field.name.clone()).or_insert(error)),
        }
    }
    Ok(resolved)
}

/// The value that a change comes to; `before` is the present one, where that matters.
fn resolve(
    field: &Field,
    change: FieldChange,
    before: &Stored,
) -> Result<Result<Stored, FieldError>> {
    let mut list = match &change {
        FieldChange::Append(_) | FieldChange::Prepend(_) | FieldChange::Remove(_) => {
            value::load_list(field, before)
        }
        FieldChange::Add(amount) => return Ok(add(field, before, amount)),
        FieldChange::Set(stored) => return Ok(Ok(stored.clone())),
        FieldChange::Hash(_) => {
            return Err(crate::base::error::Error::internal(
                "a password was not hashed",
            ));
        }
    };
    match change {
        // A single file makes place for another.
        FieldChange::Append(more) if !field.is_multiple() => list = more,
        FieldChange::Append(more) => {
            list.retain(|known| !more.contains(known));
            list.extend(more);
        }
        FieldChange::Prepend(mut more) => {
            list.retain(|known| !more.contains(known));
            more.append(&mut list);
            list = more;
        }
        FieldChange::Remove(less) => list.retain(|known| !less.contains(known)),
        FieldChange::Set(_) | FieldChange::Add(_) | FieldChange::Hash(_) => {}
    }
    Ok(value::check_count(field, list.len()).map(|()| value::store(field, &list)))
}

fn add(field: &Field, before: &Stored, amount: &Stored) -> Result<Stored, FieldError> {
    let real = |stored: &Stored| match stored {
        Stored::Integer(number) => *number as f64,
        Stored::Real(number) => *number,
        _ => 0.0,
    };
    let whole = |stored: &Stored| match stored {
        Stored::Null => Some(0),
        Stored::Integer(number) => Some(*number),
        _ => None,
    };
    // Whole numbers stay exact as long as their sum is one of 64 bits.
    let exact = whole(before)
        .zip(whole(amount))
        .and_then(|(a, b)| a.checked_add(b));
    let sum = real(before) + real(amount);
    if !sum.is_finite() {
        return value::wrong("validation_out_of_range", "The sum is too large.");
    }
    value::check_number(field, sum).map(|()| exact.map_or(Stored::Real(sum), Stored::Integer))
}

/// Records that a relation may name without being looked for.
#[derive(Clone)]
struct Known {
    /// Id of their collection.
    collection: String,
    ids: Vec<String>,
}

/// A new record may name itself.
fn own(collection: &Collection, id: &str) -> Known {
    Known {
        collection: collection.id.clone(),
        ids: vec![id.to_owned()],
    }
}

/// Every record that a relation names exists, and the caller may view it: what is hidden is
/// answered as if it did not exist. What was named before may be named again.
fn check_targets(
    tx: &Connection,
    scope: &Scope,
    field: &Field,
    stored: Stored,
    known: &Known,
) -> Result<Result<Stored, FieldError>> {
    let Some(options) = field.relation() else {
        return Ok(Ok(stored));
    };
    let missing = |message: &str| Ok(value::wrong("validation_missing_relation", message));
    let Some(target) = scope.collections.by_id(&options.collection_id) else {
        return missing("The collection it relates to is gone.");
    };
    for id in value::load_list(field, &stored) {
        if known.collection == target.id && known.ids.contains(&id) {
            continue;
        }
        if !may_point_to(tx, scope, target, &id)? {
            return missing(&format!("There is no record {id}."));
        }
    }
    Ok(Ok(stored))
}

fn may_point_to(tx: &Connection, scope: &Scope, target: &Collection, id: &str) -> Result<bool> {
    let Some(rowid) = rowid_of(tx, target, id)? else {
        return Ok(false);
    };
    let is_own = scope.is_account(target, id);
    let opens = match &scope.identity {
        Identity::Admin(_) => true,
        Identity::Key(key) => key.opens(&target.name),
        _ => false,
    };
    if is_own || opens {
        return Ok(true);
    }
    match target.grant(Operation::View, &scope.identity).access {
        Access::Free => Ok(true),
        Access::Denied => Ok(false),
        Access::When(rule) => holds(tx, scope, target, rowid, &rule, None),
    }
}
