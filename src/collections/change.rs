//! From what a client wants to a whole definition: a draft applied, completed, and checked against
//! the one that it changes.

use super::Collection;
use super::CollectionKind;
use super::Collections;
use super::DomainOptions;
use super::Field;
use super::FieldKind;
use super::definition::Draft;
use super::definition::RULES;
use crate::error::Error;
use crate::error::Result;
use crate::ids;

/// Applies what a draft says to a definition.
pub fn change(collection: &mut Collection, draft: Draft, current: &Collections) -> Result<()> {
    if let Some(fields) = draft.fields {
        collection.fields = fields;
    }
    match collection.kind {
        CollectionKind::Auth => complete_auth_fields(&mut collection.fields)?,
        CollectionKind::Base => {
            if let Some(field) = collection.fields.iter().find(|field| field.is_secret()) {
                return Err(Error::field(
                    field.name.clone(),
                    "validation_invalid_definition",
                    "Only auth collections have a password.",
                ));
            }
        }
    }
    if let Some(indexes) = draft.indexes {
        collection.indexes = indexes;
    }
    for (name, rule) in draft.rules {
        if let Some((_, slot)) = RULES.iter().find(|(known, _)| *known == name) {
            *slot(&mut collection.rules) = rule;
        }
    }
    if let Some(options) = draft.options {
        collection.options = options;
    }
    resolve_relations(collection, current)
}

/// Replaces names of targets by ids and refuses targets that do not exist.
fn resolve_relations(collection: &mut Collection, current: &Collections) -> Result<()> {
    let (own_id, own_name) = (collection.id.clone(), collection.name.clone());
    for field in &mut collection.fields {
        let FieldKind::Relation(options) = &mut field.kind else {
            continue;
        };
        let target = &mut options.collection_id;
        if *target == own_name {
            target.clone_from(&own_id);
        }
        if *target == own_id {
            continue;
        }
        let Some(found) = current.by_id(target).or_else(|| current.find(target)) else {
            return Err(Error::field(
                field.name.clone(),
                "validation_invalid_definition",
                format!("There is no collection {target} to relate to."),
            ));
        };
        target.clone_from(&found.id);
    }
    Ok(())
}

/// An auth collection always has `email`, `password` and `verified`, of the right types, however
/// they were written down (COL-6).
fn complete_auth_fields(fields: &mut Vec<Field>) -> Result<()> {
    let email = FieldKind::Email(DomainOptions::default());
    let wanted = [
        ("email", email, true),
        ("password", FieldKind::Password { chars_min: 8 }, true),
        ("verified", FieldKind::Bool, false),
    ];
    for (position, (name, kind, required)) in wanted.into_iter().enumerate() {
        let (unique, hidden) = (name == "email", name == "password");
        match fields
            .iter_mut()
            .find(|field| field.name.eq_ignore_ascii_case(name))
        {
            Some(field) => {
                if std::mem::discriminant(&field.kind) != std::mem::discriminant(&kind) {
                    field.kind = kind;
                }
                name.clone_into(&mut field.name);
                field.required |= required;
                field.unique |= unique;
                field.hidden |= hidden;
            }
            None => {
                let (id, name) = (ids::record_id()?, name.to_owned());
                let at = position.min(fields.len());
                fields.insert(
                    at,
                    Field {
                        id,
                        name,
                        kind,
                        required,
                        unique,
                        hidden,
                    },
                );
            }
        }
    }
    match fields
        .iter()
        .find(|field| field.is_secret() && field.name != "password")
    {
        Some(field) => Err(Error::field(
            field.name.clone(),
            "validation_invalid_definition",
            "The one password field of an auth collection is called password.",
        )),
        None => Ok(()),
    }
}

/// Refuses indexes on what is no field.
pub fn check_indexes(collection: &Collection) -> Result<()> {
    for index in &collection.indexes {
        for (column, _) in &index.columns {
            let is_system = ["id", "created", "updated"].contains(&column.as_str());
            if !is_system && collection.field(column).is_none() {
                let message = format!("The index {} names no field: {column}.", index.name);
                return Err(Error::field(
                    "indexes",
                    "validation_invalid_definition",
                    message,
                ));
            }
        }
    }
    Ok(())
}

/// Refuses a new name, id or type.
pub fn refuse_new_identity(draft: &Draft, previous: &Collection) -> Result<()> {
    let refuse =
        |name: &str, message: &str| Err(Error::field(name, "validation_unchangeable", message));
    if draft
        .name
        .as_ref()
        .is_some_and(|name| *name != previous.name)
    {
        return refuse("name", "A collection cannot be renamed.");
    }
    if draft.id.as_ref().is_some_and(|id| *id != previous.id) {
        return refuse("id", "The id of a collection cannot change.");
    }
    if draft.kind.is_some_and(|kind| kind != previous.kind) {
        return refuse("type", "The type of a collection cannot change.");
    }
    Ok(())
}

/// Refuses changes of type that stored values would not survive; fields keep their ids.
pub fn keep_storage_forms(previous: &Collection, next: &mut Collection) -> Result<()> {
    for field in &mut next.fields {
        let by_id = previous.fields.iter().find(|before| before.id == field.id);
        if let Some(before) = by_id.filter(|before| before.name != field.name) {
            return Err(Error::field(
                field.name.clone(),
                "validation_unchangeable",
                format!("The field {} cannot be renamed.", before.name),
            ));
        }
        let Some(before) = previous.field(&field.name) else {
            continue;
        };
        field.id.clone_from(&before.id);
        let is_same = std::mem::discriminant(&before.kind) == std::mem::discriminant(&field.kind);
        let is_same_target = match (before.relation(), field.relation()) {
            (Some(before), Some(now)) => before.collection_id == now.collection_id,
            _ => true,
        };
        let are_plain = before.kind.is_plain_text() && field.kind.is_plain_text();
        if !(is_same && is_same_target || are_plain) {
            return Err(Error::field(
                field.name.clone(),
                "validation_unchangeable",
                format!("The field is a {} and stays one.", before.kind.name()),
            ));
        }
    }
    Ok(())
}
