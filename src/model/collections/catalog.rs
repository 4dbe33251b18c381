//! The catalog stores, changes and caches definitions.
//!
//! The definitions of all databases are in `_collections` of `default.db`, and cached: a look-up
//! takes one short lock and clones an `Arc`. A change first alters the table (`schema`), then
//! stores the definition, then replaces the cache. For a tenant these are two files, so the new
//! definition is stored as pending first; see [`Catalog::catch_up`].
//!
//! Every change increments a counter inside its job on the writer, before the commit. A read or
//! write with definitions of an older count fails as stale ([`Collections::check_current`]) and is
//! repeated with the new ones, so a row is never written or shown with an outdated definition.
//!
//! Lock order: `changing` (one change at a time), then `changes` or `cache`, never the other way.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rusqlite::{OptionalExtension as _, params};
use serde_json::Value;

use super::change::{
    Editor, adopt_field_ids, change, check_identity, check_new_name, reconcile_fields,
    resolve_relations,
};
use super::definition::CollectionDraft;
use super::field_json::FieldList;
use super::parse::Problems;
use super::purge::Purged;
use super::renames::Renames;
use super::stored::{
    deleted_names, forget_deleted, is_applied, load, load_absent, mark_deleted, mark_present,
    remove_absent, save, save_all, save_applied, save_pending,
};
use super::{
    Collection, CollectionKind, Collections, EMAIL_VISIBILITY, Field, auth, purge, schema, views,
};
use crate::base::error::{Error, Result};
use crate::base::lru::LruMap;
use crate::base::threads::lock;
use crate::base::{clock, crypto, ids, log};
use crate::model::rules::Rule;
use crate::store::db;
use crate::store::db::{Database, Databases, Role};

pub(super) const FAILED_IMPORT: &str = "Failed to import collections.";
pub(super) const FAILED_UPDATE: &str = "Failed to update collection.";
/// Collections whose definitions are cached, per connection to a tenant that can be open.
const COLLECTIONS_PER_CONNECTION: usize = 8;

/// The stored definitions and their cache.
pub struct Catalog {
    pub(super) databases: Arc<Databases>,
    pub(super) changing: Mutex<()>,
    /// The count of changes of each database that was used.
    changes: Mutex<HashMap<String, Arc<AtomicU64>>>,
    cache: Mutex<Cache>,
    pub(super) checks: Checks,
}

/// The definitions of the databases used last.
#[derive(Default)]
struct Cache {
    databases: LruMap<Arc<Collections>>,
    /// The number of collections of these, each database with one more.
    size: usize,
}

impl Cache {
    /// Adds definitions, and drops others above `max`.
    fn insert(&mut self, database: &str, collections: Arc<Collections>, max: usize) {
        self.remove(database);
        self.size += 1 + collections.len();
        self.databases.insert(database, collections);
        while self.size > max && self.databases.len() > 1 {
            let Some((_, dropped)) = self.databases.evict(|_| true) else {
                return;
            };
            self.size -= 1 + dropped.len();
        }
    }

    fn remove(&mut self, database: &str) {
        if let Some(dropped) = self.databases.remove(database) {
            self.size -= 1 + dropped.len();
        }
    }
}

/// Checks of a definition that need to know how records are read and written.
#[derive(Clone, Copy)]
pub struct Checks {
    /// Refuses an invalid rule of a collection, given the collections of its database.
    pub rule: fn(&Rule, &Collection, &Collections) -> Result<()>,
    /// Refuses a default value that the field does not accept.
    pub default: fn(&Field) -> Result<()>,
}

impl Catalog {
    /// Opens the catalog. The definitions of a database are read at its first use.
    pub fn open(databases: Arc<Databases>, checks: Checks) -> Catalog {
        Catalog {
            databases,
            changing: Mutex::new(()),
            changes: Mutex::new(HashMap::new()),
            cache: Mutex::default(),
            checks,
        }
    }

    /// The current definitions of a database.
    pub fn collections(&self, database: &str) -> Result<Arc<Collections>> {
        let cached = || lock(&self.cache).databases.get(database).cloned();
        if let Some(collections) = cached()
            && collections.check_current().is_ok()
        {
            return Ok(collections);
        }
        let _changing = lock(&self.changing);
        match cached() {
            Some(collections) if collections.check_current().is_ok() => return Ok(collections),
            // A change failed, and so did the reload after it.
            Some(_) => {}
            None if self.databases.role() == Role::Master => self.catch_up(database)?,
            // The master completes interrupted changes.
            None => {}
        }
        self.reload(database)
    }

    /// Creates a collection and returns its definition.
    pub fn create(&self, database: &str, body: &Value, editor: Editor) -> Result<Arc<Collection>> {
        let mut problems = Problems::default();
        let mut draft = CollectionDraft::read(body, &mut problems)?;
        draft.resolve_fields(&FieldList::default(), &mut problems);
        let _changing = lock(&self.changing);
        let current = self.reload(database)?;
        let mut collection = self.build(database, draft, &current, editor, &mut problems)?;
        resolve_relations(&mut collection, &current, &mut problems);
        let failed = "Failed to create collection.";
        let collection = self.check(collection, &current, problems, failed)?;
        let name = collection.name.clone();
        self.store(collection, None)?;
        Ok(Arc::clone(self.reload(database)?.get(&name)?))
    }

    /// Changes a collection. Attributes that `body` does not mention stay unchanged.
    pub fn update(
        &self,
        database: &str,
        name: &str,
        body: &Value,
        editor: Editor,
    ) -> Result<Arc<Collection>> {
        let mut problems = Problems::default();
        let mut draft = CollectionDraft::read(body, &mut problems)?;
        let _changing = lock(&self.changing);
        let current = self.reload(database)?;
        let previous = current.get(name)?;
        draft.resolve_fields(&previous.field_list(), &mut problems);
        if let Some(list) = &mut draft.fields {
            adopt_field_ids(previous, list);
        }
        let mut collection = Collection::clone(previous);
        let others = match draft.name.as_ref() {
            Some(name) if *name != previous.name => current.without(&[&previous.id]),
            _ => Collections::default(),
        };
        problems.take("name", check_identity(&draft, previous, &others))?;
        change(&mut collection, draft, editor, &mut problems)?;
        resolve_relations(&mut collection, &current, &mut problems);
        if !collection.is_view() {
            reconcile_fields(previous, &mut collection, &mut problems);
        }
        let id = previous.id.clone();
        let mut renames = Renames::default();
        renames.add(previous, &collection);
        if !renames.is_empty() {
            self.rename(database, previous, collection, problems, &current)?;
            return Ok(Arc::clone(self.reload(database)?.get(&id)?));
        }
        let mut collection = self.check(collection, &current, problems, FAILED_UPDATE)?;
        collection.updated = clock::now();
        if collection.updated == previous.updated {
            // A table stores the time of the definition that it follows.
            return Err(Error::stale());
        }
        self.store(collection, Some(previous))?;
        Ok(Arc::clone(self.reload(database)?.get(&id)?))
    }

    /// Marks a collection as deleted. Its table stays on disk.
    pub fn delete(&self, database: &str, name: &str) -> Result<()> {
        let _changing = lock(&self.changing);
        let current = self.reload(database)?;
        let collection = current.get(name)?;
        let points_here = |other: &&&Arc<Collection>| {
            other.id != collection.id
                && other.fields.iter().any(|field| {
                    field
                        .relation()
                        .is_some_and(|to| to.collection_id == collection.id)
                })
        };
        if let Some(other) = current.all().iter().find(points_here) {
            return Err(Error::conflict(format!(
                "The collection {} has a relation to {}; delete that field first.",
                other.name, collection.name
            )));
        }
        let rest = views::with_change(&current, &collection.id, None);
        self.check_others(&collection.id, &rest, &current)?;
        let (id, now) = (collection.id.clone(), clock::now());
        // In the queue of its own database, so that no later write uses the definition.
        let count = self.count_change(database);
        let counted = self.databases.get(database)?.write(move |_| {
            count();
            Ok(())
        });
        let deleted = counted.and_then(|()| {
            self.databases.default().write(move |tx| {
                let sql = "UPDATE _collections SET deleted = ?2 WHERE id = ?1";
                Ok(tx.prepare_cached(sql)?.execute(params![id, now])?)
            })
        });
        // After a failure too, so that definitions which were stale meanwhile are current again.
        self.reload(database)?;
        deleted.map(drop)
    }

    /// Drops the deleted collections and fields of a database for good.
    pub fn purge(&self, name: &str) -> Result<Purged> {
        let _changing = lock(&self.changing);
        let (database, default) = (self.databases.get(name)?, self.databases.default());
        let current = self.reload(name)?;
        let deleted = default.look_up(|connection| deleted_names(connection, name))?;
        let count = self.count_change(name);
        let purged = database.write_for_long(move |tx| {
            let purged = purge::run(tx, &current, &deleted)?;
            count();
            Ok(purged)
        });
        self.reload(name)?;
        let (purged, name) = (purged?, name.to_owned());
        default.write(move |tx| forget_deleted(tx, &name))?;
        Ok(purged)
    }

    /// Creates a database. Deletes definitions that a crash left of an older database of this name;
    /// `clear` removes everything else of it.
    pub fn create_database(
        &self,
        database: &str,
        clear: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let _changing = lock(&self.changing);
        self.databases.check_new(database)?;
        self.forget(database)?;
        clear()?;
        self.databases.create(database)
    }

    /// Runs `change`, which replaces definitions by those of a master: of all databases if
    /// `database` is `default`, else of a tenant whose tables now follow others. Older definitions
    /// are stale from then on.
    pub fn replace<T>(&self, database: &str, change: impl FnOnce() -> Result<T>) -> Result<T> {
        let _changing = lock(&self.changing);
        for (name, changes) in &*lock(&self.changes) {
            if database == db::DEFAULT || database == name {
                changes.fetch_add(1, Ordering::SeqCst);
            }
        }
        change()
    }

    /// Marks a database and all its collections as deleted. Calls `on_deleted` with the new path of
    /// its file, unless a new database of this name exists already.
    pub fn delete_database(&self, database: &str, on_deleted: impl FnOnce(&Path)) -> Result<()> {
        let file = self.databases.delete(database)?;
        let _changing = lock(&self.changing);
        if self.databases.check_new(database).is_err() {
            return Ok(());
        }
        // The database is deleted. Definitions that remain have no effect, and are deleted when the
        // name is used again.
        if let Err(error) = self.forget(database) {
            log::warn(format_args!(
                "cannot delete the definitions of {database}: {error}"
            ));
        }
        on_deleted(&file);
        Ok(())
    }

    fn forget(&self, database: &str) -> Result<()> {
        self.count_change(database)();
        lock(&self.cache).remove(database);
        let (name, now) = (database.to_owned(), clock::now());
        self.databases.default().write(move |tx| {
            let sql =
                "UPDATE _collections SET deleted = ?2 WHERE database = ?1 AND deleted IS NULL";
            tx.prepare_cached(sql)?.execute(params![name, now])?;
            Ok(())
        })
    }

    /// Reads and caches the definitions of a database. The caller holds `changing`.
    pub(super) fn reload(&self, database: &str) -> Result<Arc<Collections>> {
        drop(self.databases.get(database)?);
        let changes = self.changes(database);
        let read_at = changes.load(Ordering::SeqCst);
        let list = self
            .databases
            .default()
            .look_up(|connection| load(connection, database))?;
        let list = list
            .into_iter()
            .map(|(stored, pending)| self.current_definition(stored, pending));
        let mut list = list.collect::<Result<Vec<_>>>()?;
        list.retain(|collection| !collection.is_deleted);
        let list = views::derive_all(list);
        let collections = Arc::new(Collections::from_iter(list).counted(read_at, changes));
        let max = COLLECTIONS_PER_CONNECTION * self.databases.tenant_connections();
        lock(&self.cache).insert(database, Arc::clone(&collections), max);
        Ok(collections)
    }

    /// Chooses between a definition and its pending change: the change is current if the table
    /// follows it.
    ///
    /// On a replica the two files arrive one after the other. If the table follows neither, one of
    /// the files has yet to arrive, and until then the collection is stale: it must not be read
    /// with a wrong definition or rule.
    fn current_definition(
        &self,
        stored: Collection,
        pending: Option<Collection>,
    ) -> Result<Collection> {
        let has_followed = |it: &Collection| {
            let tenant = self.databases.get(&it.database)?;
            tenant.look_up(|tenant| is_applied(tenant, it))
        };
        match pending {
            Some(next) if has_followed(&next)? => return Ok(next),
            _ => {}
        }
        let is_apart = stored.database != db::DEFAULT && self.databases.role() == Role::Replica;
        match is_apart && !has_followed(&stored)? {
            true => Err(Error::stale()),
            false => Ok(stored),
        }
    }

    /// Completes changes that a crash interrupted, and adds columns that a restored older file
    /// lacks. Runs at the first use of a database; the caller holds `changing`.
    fn catch_up(&self, database: &str) -> Result<()> {
        let own = self.databases.get(database)?;
        self.settle_pending(database)?;
        self.settle_absent(database, &own)?;
        let list = self
            .databases
            .default()
            .look_up(|connection| load(connection, database))?;
        for (collection, _) in list {
            let collection = Arc::new(collection);
            let is_behind = own.look_up(|connection| {
                let is_tenant = collection.database != db::DEFAULT;
                Ok(schema::is_behind(connection, &collection)?
                    || (is_tenant && !is_applied(connection, &collection)?))
            })?;
            if is_behind {
                log::warn(format_args!(
                    "adding missing columns and indexes to the table of {}",
                    collection.name
                ));
                self.store(Collection::clone(&collection), Some(&collection))?;
            }
            // Without the field no address is visible, so a failure is harmless.
            if let Err(error) = self.add_email_visibility(&collection) {
                log::warn(format_args!(
                    "cannot add {EMAIL_VISIBILITY} to {}: {error}",
                    collection.name
                ));
            }
        }
        Ok(())
    }

    /// Completes or discards the changes of definitions that a crash interrupted.
    fn settle_pending(&self, database: &str) -> Result<()> {
        let default = self.databases.default();
        let list = default.look_up(|connection| load(connection, database))?;
        let interrupted = list.into_iter().filter(|(_, pending)| pending.is_some());
        let settled = interrupted.map(|(stored, next)| self.current_definition(stored, next));
        let settled = settled.collect::<Result<Vec<_>>>()?;
        if settled.is_empty() {
            return Ok(());
        }
        default.write(move |tx| {
            let (deleted, present): (Vec<&Collection>, Vec<&Collection>) =
                settled.iter().partition(|it| it.is_deleted);
            // First, since another collection may have the name now.
            deleted.iter().try_for_each(|it| mark_deleted(tx, &it.id))?;
            save_all(tx, &present)
        })
    }

    /// Completes or discards the new collections of an import that a crash interrupted.
    fn settle_absent(&self, database: &str, own: &Database) -> Result<()> {
        let default = self.databases.default();
        for next in default.look_up(|connection| load_absent(connection, database))? {
            let is_applied = own.look_up(|connection| is_applied(connection, &next))?;
            default.write(move |tx| match is_applied {
                true => mark_present(tx, &next.id),
                false => remove_absent(tx, &next.id),
            })?;
        }
        Ok(())
    }

    /// Adds the field to an auth collection of an older version.
    fn add_email_visibility(&self, collection: &Arc<Collection>) -> Result<()> {
        let mut previous = Arc::clone(collection);
        for next in auth::with_email_visibility(collection) {
            self.store(next.clone(), Some(&previous))?;
            previous = Arc::new(next);
        }
        Ok(())
    }

    fn changes(&self, database: &str) -> Arc<AtomicU64> {
        Arc::clone(lock(&self.changes).entry(database.to_owned()).or_default())
    }

    /// The last call of the job of a change, just before its commit: older definitions are stale
    /// from then on.
    pub(super) fn count_change(&self, database: &str) -> impl FnOnce() + Send + 'static {
        let changes = self.changes(database);
        move || {
            changes.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A new collection with the attributes of a draft, except the targets of its relations.
    pub(super) fn build(
        &self,
        database: &str,
        draft: CollectionDraft,
        current: &Collections,
        editor: Editor,
        problems: &mut Problems,
    ) -> Result<Collection> {
        let name = draft.name.clone().unwrap_or_default();
        let kind = draft.kind.unwrap_or(CollectionKind::Base);
        match name.as_str() {
            "" => problems.add("name", "validation_required", "A collection needs a name."),
            name => problems.take("name", check_new_name(name, draft.id.as_deref(), current))?,
        }
        let id = match &draft.id {
            None => self.new_id(&name, kind)?,
            Some(id) => {
                if !ids::is_valid_id(id) || !self.is_free_id(id)? {
                    let message = "Must have 1 to 64 characters of A-Z, a-z, 0-9, _ and -, and must not be in use.";
                    problems.add("id", "validation_invalid_id", message);
                }
                id.clone()
            }
        };
        let mut collection = Collection::new(id, database, &name);
        collection.kind = kind;
        if kind == CollectionKind::Auth {
            collection.rules.auth = Some(Rule::everyone());
        }
        collection.created = clock::now();
        collection.updated.clone_from(&collection.created);
        change(&mut collection, draft, editor, problems)?;
        Ok(collection)
    }

    /// The id that PocketBase gives to a collection, or another one if it is in use.
    fn new_id(&self, name: &str, kind: CollectionKind) -> Result<String> {
        let text = [kind.name(), name].concat();
        let id = format!("pbc_{}", crypto::crc32(text.as_bytes()));
        match self.is_free_id(&id)? {
            true => Ok(id),
            false => ids::record_id(),
        }
    }

    /// True if no collection of any database has this id.
    pub fn is_free_id(&self, id: &str) -> Result<bool> {
        self.databases.default().look_up(|connection| {
            let sql = "SELECT 1 FROM _collections WHERE id = ?1";
            let found = connection
                .prepare_cached(sql)?
                .query_row([id], |_| Ok(()))
                .optional()?;
            Ok(found.is_none())
        })
    }

    /// Alters the table, then stores the definition.
    fn store(&self, collection: Collection, previous: Option<&Arc<Collection>>) -> Result<()> {
        let database = self.databases.get(&collection.database)?;
        let count = self.count_change(&collection.database);
        let (name, previous) = (collection.database.clone(), previous.cloned());
        let result = if Arc::ptr_eq(&database, self.databases.default()) {
            database.write_for_long(move |tx| {
                schema::apply(tx, &collection, previous.as_deref())?;
                save(tx, &collection)?;
                count();
                Ok(())
            })
        } else {
            self.store_tenant(&database, collection, previous, count)
        };
        // After a failure too, so that definitions which were stale meanwhile are current again.
        self.reload(&name)?;
        result
    }

    /// Changes the table in one file and the definition in another. First the new definition is
    /// stored as pending. The commit of the table, which records the definition that it follows,
    /// decides. The pending definition then becomes the stored one; if that fails,
    /// [`Catalog::catch_up`] does it later.
    fn store_tenant(
        &self,
        database: &Database,
        collection: Collection,
        previous: Option<Arc<Collection>>,
        count: impl FnOnce() + Send + 'static,
    ) -> Result<()> {
        let default = self.databases.default();
        let (next, shared) = (Arc::new(collection.clone()), Arc::new(collection));
        let (id, is_change) = (next.id.clone(), previous.is_some());
        if let Some(previous) = previous.clone() {
            let next = Arc::clone(&next);
            // The previous change may still be pending, if its last step failed.
            default.write(move |tx| {
                save(tx, &previous)?;
                save_pending(tx, &next.id, Some(&next))
            })?;
        }
        let applied = database.write_for_long(move |tx| {
            schema::apply(tx, &shared, previous.as_deref())?;
            save_applied(tx, &shared)?;
            count();
            Ok(())
        });
        let saved = match &applied {
            Ok(()) => default.write(move |tx| save(tx, &next)),
            Err(_) if is_change => default.write(move |tx| save_pending(tx, &id, None)),
            Err(_) => Ok(()),
        };
        match (applied, saved) {
            (Ok(()), Err(error)) if is_change => {
                log::warn(format_args!("a changed definition stays pending: {error}"));
                Ok(())
            }
            (applied, saved) => applied.and(saved),
        }
    }
}
