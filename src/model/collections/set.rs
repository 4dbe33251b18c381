//! The definitions of a database at one moment.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::collection::{Collection, CollectionKind, Rules};
use crate::base::error::{Error, Result};
use crate::model::filter::REQUEST;
use crate::model::rules::Rule;

#[derive(Debug, Default)]
pub struct Collections {
    by_name: HashMap<String, Arc<Collection>>,
    by_id: HashMap<String, Arc<Collection>>,
    /// A rule asks for a parameter or a header of the request.
    ask_what_is_sent: bool,
    /// The count of changes when these were read, and the current one.
    read_at: u64,
    changes: Arc<AtomicU64>,
}

impl Collections {
    /// Adds the counter of changes, and its value before the definitions were read.
    pub fn counted(self, read_at: u64, changes: Arc<AtomicU64>) -> Collections {
        Collections {
            read_at,
            changes,
            ..self
        }
    }

    /// Those that are not among these ids.
    pub fn without(&self, ids: &[&str]) -> Collections {
        let all = self.by_id.values();
        let rest = all.filter(|it| !ids.contains(&it.id.as_str()));
        Collections::from_iter(rest.map(|it| Collection::clone(it)))
    }

    /// The number of collections.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// True if a rule asks for a parameter or a header of the request.
    pub fn ask_what_is_sent(&self) -> bool {
        self.ask_what_is_sent
    }

    /// By name, or else by id.
    pub fn find(&self, name_or_id: &str) -> Option<&Arc<Collection>> {
        self.by_name
            .get(name_or_id)
            .or_else(|| self.by_id.get(name_or_id))
    }

    /// By id alone, for stored references.
    pub fn by_id(&self, id: &str) -> Option<&Arc<Collection>> {
        self.by_id.get(id)
    }

    /// Fails if a definition of the database has changed since these were read. A write calls it
    /// inside its transaction: changes use the same queue, so the result holds until the commit. A
    /// read calls it at its end: what it saw was then committed before any change.
    pub fn check_current(&self) -> Result<()> {
        match self.changes.load(Ordering::SeqCst) == self.read_at {
            true => Ok(()),
            false => Err(Error::stale()),
        }
    }

    /// By name, or else by id. Fails with `NotFound`.
    pub fn get(&self, name_or_id: &str) -> Result<&Arc<Collection>> {
        self.find(name_or_id)
            .ok_or_else(|| Error::not_found(format!("There is no collection {name_or_id}.")))
    }

    /// True if a collection has a file field.
    pub fn has_files(&self) -> bool {
        self.by_id.values().any(|collection| collection.has_files())
    }

    /// Every collection, sorted by name.
    pub fn all(&self) -> Vec<&Arc<Collection>> {
        let mut all: Vec<_> = self.by_name.values().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

fn asks_what_is_sent(rules: &Rules) -> bool {
    let Rules {
        list,
        view,
        create,
        update,
        delete,
        execute,
        manage,
        ..
    } = rules;
    let is_sent = |path: &[String]| match path {
        [first, part, ..] => first == REQUEST && (part == "query" || part == "headers"),
        _ => false,
    };
    [list, view, create, update, delete, execute, manage]
        .into_iter()
        .flatten()
        .filter_map(Rule::expression)
        .any(|rule| rule.any_path(&is_sent))
}

impl FromIterator<Collection> for Collections {
    fn from_iter<I: IntoIterator<Item = Collection>>(list: I) -> Collections {
        let mut collections = Collections::default();
        for mut collection in list {
            if collection.kind == CollectionKind::Auth {
                let names = collection.fields.iter();
                let names = names.map(|it| (it.id.clone(), it.name.clone()));
                collection.field_names = Arc::new(names.collect());
            }
            collections.ask_what_is_sent |= asks_what_is_sent(&collection.rules);
            let collection = Arc::new(collection);
            collections
                .by_id
                .insert(collection.id.clone(), Arc::clone(&collection));
            collections
                .by_name
                .insert(collection.name.clone(), collection);
        }
        collections
    }
}
