//! Changes of several definitions of one database at once: all of them happen, or none.
//!
//! In `default` one transaction alters all tables and stores all definitions. In a tenant the
//! definitions are first stored as pending, also those of new and deleted collections; the commit
//! that alters the tables decides about all of them; see [`Catalog::catch_up`].

use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

use super::catalog::Catalog;
use super::change::resolve_relations;
use super::check::check_views;
use super::parse::Problems;
use super::renames::tables;
use super::stored::{
    mark_deleted, mark_present, remove_absent, save_absent, save_all, save_applied, save_pending,
};
use super::{Collection, Collections, schema, views};
use crate::base::error::{Error, Result};
use crate::base::{clock, failpoints};
use crate::store::db;
use crate::store::db::Database;

/// Limit of an import that also fills its tables.
const FILL_LIMIT: Duration = Duration::from_secs(6 * 3600);

/// Writes records to the tables of new definitions.
pub type FillTables = Box<dyn FnOnce(&Connection, &Collections) -> Result<()> + Send>;

/// A new or changed definition.
pub struct DefinitionChange {
    pub next: Collection,
    pub previous: Option<Arc<Collection>>,
    pub problems: Problems,
}

/// The form of errors: of an import, or of the change of one collection.
#[derive(Clone, Copy)]
pub struct Reports {
    /// Fails if there are any.
    pub problems: fn(&mut [DefinitionChange]) -> Result<()>,
    /// Adds the collection to an error of its table.
    pub table: fn(&Collection, Error) -> Error,
}

impl Catalog {
    /// Checks all definitions against those that would exist afterwards.
    pub(super) fn check_all(
        &self,
        all: &mut [DefinitionChange],
        kept: &[&Arc<Collection>],
        current: &Collections,
        reports: Reports,
    ) -> Result<()> {
        let afterwards = |all: &[DefinitionChange]| {
            let kept = kept.iter().map(|it| Collection::clone(it));
            let all = kept.chain(all.iter().map(|one| one.next.clone()));
            Collections::from_iter(views::derive_all(all.collect()))
        };
        let unresolved = afterwards(all);
        for one in all.iter_mut() {
            resolve_relations(&mut one.next, &unresolved, &mut one.problems);
        }
        let collections = afterwards(all);
        for one in all.iter_mut() {
            // With its views derived.
            let derived = collections.by_id(&one.next.id).ok_or_else(Error::stale)?;
            one.next = Collection::clone(derived);
            self.check_alone(derived, &collections, &mut one.problems)?;
        }
        (reports.problems)(all)?;
        check_views(&collections, current)?;
        // A kept collection may refer to a field that a changed one no longer has.
        for one in kept {
            self.check_still_valid(one, &collections)?;
        }
        Ok(())
    }

    /// Alters the tables, and stores the definitions.
    pub(super) fn store_all(
        &self,
        database: &str,
        mut all: Vec<DefinitionChange>,
        deleted: Vec<Collection>,
        (reports, fill): (Reports, FillTables),
    ) -> Result<()> {
        all.retain(|one| {
            let before = one.previous.as_ref().map(|it| it.stored_json());
            before.is_none_or(|before| before != one.next.stored_json())
        });
        let now = clock::now();
        for one in &mut all {
            one.next.updated.clone_from(&now);
            if one.previous.as_ref().is_some_and(|it| it.updated == now) {
                // A table stores the time of the definition that it follows.
                return Err(Error::stale());
            }
        }
        if all.is_empty() && deleted.is_empty() {
            return Ok(());
        }
        let own = self.databases.get(database)?;
        let result = match Arc::ptr_eq(&own, self.databases.default()) {
            true => self.store_all_in_default(&own, all, deleted, (reports, fill)),
            false => self.store_all_in_tenant((database, &own), all, deleted, (reports, fill)),
        };
        // After a failure too, so that definitions which were stale meanwhile are current again.
        self.reload(database)?;
        result
    }

    fn store_all_in_default(
        &self,
        own: &Database,
        all: Vec<DefinitionChange>,
        deleted: Vec<Collection>,
        (reports, fill): (Reports, FillTables),
    ) -> Result<()> {
        let count = self.count_change(db::DEFAULT);
        own.write_exclusive(FILL_LIMIT, move |tx| {
            tables::rename(tx, &changes(&all))?;
            for one in &all {
                schema::apply(tx, &one.next, one.previous.as_deref())
                    .map_err(|error| (reports.table)(&one.next, error))?;
            }
            // First, since another collection may get the name.
            deleted.iter().try_for_each(|it| mark_deleted(tx, &it.id))?;
            let next: Vec<&Collection> = all.iter().map(|one| &one.next).collect();
            save_all(tx, &next)?;
            fill(tx, &next_of(&all))?;
            count();
            Ok(())
        })
    }

    fn store_all_in_tenant(
        &self,
        (database, own): (&str, &Database),
        all: Vec<DefinitionChange>,
        deleted: Vec<Collection>,
        (reports, fill): (Reports, FillTables),
    ) -> Result<()> {
        let default = self.databases.default();
        let (all, deleted) = (Arc::new(all), Arc::new(deleted));
        let (next, gone) = (Arc::clone(&all), Arc::clone(&deleted));
        default.write(move |tx| {
            // The previous change may still be pending, if its last step failed.
            let previous: Vec<&Collection> = next
                .iter()
                .filter_map(|it| it.previous.as_deref())
                .collect();
            save_all(tx, &previous)?;
            for one in next.iter() {
                match &one.previous {
                    Some(_) => save_pending(tx, &one.next.id, Some(&one.next))?,
                    None => save_absent(tx, &one.next)?,
                }
            }
            gone.iter()
                .try_for_each(|it| save_pending(tx, &it.id, Some(it)))
        })?;
        failpoints::reach("definitions-pending");
        let count = self.count_change(database);
        let (next, gone) = (Arc::clone(&all), Arc::clone(&deleted));
        let applied = own.write_exclusive(FILL_LIMIT, move |tx| {
            tables::rename(tx, &changes(&next))?;
            for one in next.iter() {
                schema::apply(tx, &one.next, one.previous.as_deref())
                    .map_err(|error| (reports.table)(&one.next, error))?;
                save_applied(tx, &one.next)?;
            }
            gone.iter().try_for_each(|it| save_applied(tx, it))?;
            fill(tx, &next_of(&next))?;
            count();
            Ok(())
        });
        failpoints::reach("definitions-applied");
        let is_applied = applied.is_ok();
        let settled = default.write(move |tx| settle(tx, &all, &deleted, is_applied));
        match applied {
            // The next start completes what is still pending.
            Ok(()) => settled,
            Err(error) => Err(error),
        }
    }
}

/// The definitions after an import, without those that it does not mention.
fn next_of(all: &[DefinitionChange]) -> Collections {
    Collections::from_iter(all.iter().map(|one| one.next.clone()))
}

/// The definitions that change, before and after.
fn changes(all: &[DefinitionChange]) -> Vec<(&Collection, &Collection)> {
    let changed = all
        .iter()
        .filter_map(|one| Some((one.previous.as_deref()?, &one.next)));
    changed.collect()
}
/// Replaces the definitions by the pending ones, or discards these. A name is given up before
/// another collection gets it.
fn settle(
    tx: &Connection,
    all: &[DefinitionChange],
    deleted: &[Collection],
    is_applied: bool,
) -> Result<()> {
    for it in deleted {
        match is_applied {
            true => mark_deleted(tx, &it.id)?,
            false => save_pending(tx, &it.id, None)?,
        }
    }
    let (changed, new): (Vec<&DefinitionChange>, Vec<&DefinitionChange>) =
        all.iter().partition(|one| one.previous.is_some());
    match is_applied {
        true => {
            let changed: Vec<&Collection> = changed.iter().map(|one| &one.next).collect();
            save_all(tx, &changed)?;
            new.iter()
                .try_for_each(|one| mark_present(tx, &one.next.id))
        }
        false => {
            changed
                .iter()
                .try_for_each(|one| save_pending(tx, &one.next.id, None))?;
            new.iter()
                .try_for_each(|one| remove_absent(tx, &one.next.id))
        }
    }
}
