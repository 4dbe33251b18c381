//! The names that a change gives to collections and fields.

use std::collections::BTreeMap;

use crate::model::collections::{Collection, Field};

/// The code of a rename that something cannot follow.
pub const REFUSED: &str = "validation_rename_refused";

/// An old name and the new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePair {
    pub old: String,
    pub new: String,
}

impl NamePair {
    fn of(old: &str, new: &str) -> Option<NamePair> {
        (old != new).then(|| NamePair {
            old: old.to_owned(),
            new: new.to_owned(),
        })
    }
}

/// Renamed collections, and the renamed fields of each collection; by their ids.
#[derive(Clone, Debug, Default)]
pub struct Renames {
    pub collections: BTreeMap<String, NamePair>,
    pub fields: BTreeMap<String, BTreeMap<String, NamePair>>,
}

impl Renames {
    /// Adds the names that differ between two definitions of a collection.
    pub fn add(&mut self, previous: &Collection, next: &Collection) {
        if let Some(pair) = NamePair::of(&previous.name, &next.name) {
            self.collections.insert(previous.id.clone(), pair);
        }
        let fields = renamed_fields(previous, next);
        if !fields.is_empty() {
            self.fields.insert(previous.id.clone(), fields);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.collections.is_empty() && self.fields.is_empty()
    }

    /// True if this collection or one of its fields gets another name.
    pub fn concern(&self, collection: &Collection) -> bool {
        self.collections.contains_key(&collection.id) || self.fields.contains_key(&collection.id)
    }

    /// The name of a collection after the change.
    pub fn name_of<'a>(&'a self, collection: &'a Collection) -> &'a str {
        let pair = self.collections.get(&collection.id);
        pair.map_or(&collection.name, |pair| &pair.new)
    }

    /// The name of a field after the change.
    pub fn field_of<'a>(&'a self, collection: &Collection, field: &'a Field) -> &'a str {
        let pair = self.fields.get(&collection.id);
        let pair = pair.and_then(|fields| fields.get(&field.id));
        pair.map_or(&field.name, |pair| &pair.new)
    }

    /// The name after the change of the field with this name; none if it keeps it.
    pub fn new_field_name(&self, collection: &Collection, name: &str) -> Option<&str> {
        let field = collection.field(name)?;
        let new = self.fields.get(&collection.id)?.get(&field.id)?;
        Some(&new.new)
    }
}

/// The fields with another name, by id. Those of a view follow from its statement.
pub fn renamed_fields(previous: &Collection, next: &Collection) -> BTreeMap<String, NamePair> {
    if previous.is_view() || next.is_view() {
        return BTreeMap::new();
    }
    let renamed = next.fields.iter().filter_map(|field| {
        let before = previous.fields.iter().find(|it| it.id == field.id)?;
        Some((field.id.clone(), NamePair::of(&before.name, &field.name)?))
    });
    renamed.collect()
}
