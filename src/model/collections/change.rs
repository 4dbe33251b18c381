//! Applies a request to a definition, completes it, and checks it against the previous one.

use serde_json::{Map, Value};

use super::collection::View;
use super::definition::{CollectionDraft, FIELD_RULES, check_name};
use super::field_json::FieldList;
use super::named_view::parse_named_views;
use super::parse::{Problems, key_of_field};
use super::{Collection, CollectionKind, Collections, Field, FieldKind, auth, views};
use crate::base::error::{Error, Kind, Result};
use crate::model::rules::Rule;
use crate::model::triggers::{Target, Trigger, Triggers, redaction};

pub const INVALID_RULE: &str = "validation_invalid_rule";

/// The caller that changes a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Editor {
    Admin,
    /// An API key. It cannot change triggers that call a URL.
    Key,
}

/// Applies a draft to a definition, except the targets of relations. Errors in it are problems.
pub fn change(
    collection: &mut Collection,
    mut draft: CollectionDraft,
    editor: Editor,
    problems: &mut Problems,
) -> Result<()> {
    if let Some(name) = draft.name.take() {
        collection.name = name;
    }
    draft.apply_rules(&mut collection.rules, |name, text| {
        Ok(Rule::parse(text.as_str()).unwrap_or_else(|error| {
            problems.add(name, INVALID_RULE, error.message());
            Rule::unreadable(text)
        }))
    })?;
    if let Some(list) = draft.fields {
        collection.set_fields(list);
    }
    if collection.is_view() {
        // They follow from the statement.
        collection.fields.clear();
    }
    if let Some(indexes) = draft.indexes {
        collection.indexes = indexes;
    }
    if collection.kind == CollectionKind::Auth {
        auth::complete_fields(collection, problems);
    }
    let identity_option = auth::identity_option(collection).cloned();
    if let Some(options) = draft.options {
        let changed = change_options(collection, options, editor);
        problems.take("options", changed)?;
    }
    let is_option_changed = auth::identity_option(collection) != identity_option.as_ref();
    auth::change_settings(collection, &draft.auth, is_option_changed, problems);
    if let Some(query) = draft.view_query {
        collection.view = Some(View::of_query(query));
    }
    match parse_named_views(collection) {
        Ok(views) => collection.named_views = views,
        Err(error) => problems.take("options", Err(error))?,
    }
    problems.take("viewQuery", views::check_definition(collection))
}

/// Options are replaced as a whole. Redacted values that a client sends back keep the stored ones.
fn change_options(
    collection: &mut Collection,
    mut options: Map<String, Value>,
    editor: Editor,
) -> Result<()> {
    let refused = || {
        Error::new(
            Kind::Forbidden,
            "Only administrators change triggers that call a URL. Leave options.triggers out to keep them.",
        )
    };
    if editor == Editor::Key {
        redaction::inherit_triggers(&mut options, &collection.options);
    }
    let kept = redaction::restore_triggers(&mut options, &collection.options);
    // A placeholder without a stored value belongs to a new call.
    kept.map_err(|error| match editor {
        Editor::Admin => error,
        Editor::Key => refused(),
    })?;
    let triggers = Triggers::parse(&options)?;
    let is_call = |trigger: &&Trigger| matches!(trigger.target, Target::Http(_));
    let has_same_calls = || {
        let before = collection.triggers.iter().filter(is_call);
        before.eq(triggers.iter().filter(is_call))
    };
    if editor == Editor::Key && !has_same_calls() {
        return Err(refused());
    }
    collection.options = options;
    collection.triggers = triggers;
    Ok(())
}

/// Replaces names of target collections by ids. An unknown target is a problem.
pub fn resolve_relations(
    collection: &mut Collection,
    current: &Collections,
    problems: &mut Problems,
) {
    let (own_id, own_name) = (collection.id.clone(), collection.name.clone());
    for field in &mut collection.fields {
        let FieldKind::Relation(options) = &mut field.kind else {
            continue;
        };
        let target = &mut options.collection_id;
        if *target == own_name {
            target.clone_from(&own_id);
        }
        if *target == own_id || target.is_empty() {
            continue;
        }
        match current.by_id(target).or_else(|| current.find(target)) {
            Some(found) if found.is_view() => problems.add(
                &format!("{}.collectionId", key_of_field(&field.name)),
                "validation_invalid_definition",
                format!("{target} is a view; a relation needs a collection with stored records."),
            ),
            Some(found) => target.clone_from(&found.id),
            None => problems.add(
                &format!("{}.collectionId", key_of_field(&field.name)),
                "validation_field_relation_missing_collection",
                format!("The target collection {target} does not exist."),
            ),
        }
    }
}

/// Refuses a name or id that another collection of the database has.
pub fn check_new_name(name: &str, id: Option<&str>, current: &Collections) -> Result<()> {
    check_name(name)?;
    let is_id = current.by_id(name).is_some();
    let is_name = id.is_some_and(|id| current.find(id).is_some());
    if is_id || is_name {
        let message = "A name must not be the id of another collection, and an id not its name.";
        return Err(Error::field(
            "name",
            "validation_collection_name_exists",
            message,
        ));
    }
    if current
        .all()
        .iter()
        .any(|other| other.name.eq_ignore_ascii_case(name))
    {
        return Err(Error::field(
            "name",
            "validation_collection_name_exists",
            "A collection with this name already exists.",
        ));
    }
    Ok(())
}

/// Adds a problem for each field with the id of another one, also of one of the system.
pub fn check_field_ids(collection: &Collection, problems: &mut Problems) {
    let system = &collection.system;
    let others = [&system.created, &system.updated, &system.token_key];
    let mut ids: Vec<&str> = others
        .into_iter()
        .flatten()
        .map(|it| it.id.as_str())
        .collect();
    ids.push(&system.id.id);
    for field in &collection.fields {
        if ids.contains(&field.id.as_str()) {
            let key = format!("{}.id", key_of_field(&field.name));
            let message = "Another field has this id.";
            problems.add(&key, "validation_duplicated_field_id", message);
        }
        ids.push(&field.id);
    }
}

/// Adds a problem for each index on an unknown field.
pub fn check_indexes(collection: &Collection, problems: &mut Problems) {
    for (position, index) in collection.indexes.iter().enumerate() {
        let unknown = index.names().find(|name| collection.column(name).is_none());
        if let Some(name) = unknown {
            let message = format!("The index {} names an unknown field: {name}.", index.name);
            let key = format!("indexes.{position}");
            problems.add(&key, "validation_invalid_index_expression", message);
        }
    }
}

/// Adds a problem for each field rule with an unknown field.
pub fn check_field_rules(collection: &Collection, problems: &mut Problems) {
    let mut rules = collection.rules.clone();
    for (name, slot) in FIELD_RULES {
        let mut named = slot(&mut rules)
            .iter()
            .flatten()
            .flat_map(|(_, names)| names);
        let is_known = |name: &str| {
            ["*", "id", "created", "updated"].contains(&name) || collection.field(name).is_some()
        };
        if let Some(unknown) = named.find(|field| !is_known(field)) {
            let message = format!("{} has no field {unknown}.", collection.name);
            problems.add(name, INVALID_RULE, message);
        }
    }
}

/// Refuses a new id or type, and a new name that one of `others` has.
pub fn check_identity(
    draft: &CollectionDraft,
    previous: &Collection,
    others: &Collections,
) -> Result<()> {
    if let Some(name) = draft.name.as_ref().filter(|it| **it != previous.name) {
        check_new_name(name, None, others)?;
    }
    if draft.id.as_ref().is_some_and(|id| *id != previous.id) {
        let message = "The id of a collection cannot change.";
        return Err(Error::field("id", "validation_unchangeable", message));
    }
    if draft.kind.is_some_and(|kind| kind != previous.kind) {
        return Err(Error::field(
            "type",
            "validation_collection_type_change",
            "The type of a collection cannot change.",
        ));
    }
    Ok(())
}

/// Gives the fields of a request the ids of the stored ones that they mean: of the same id, if the
/// request gives one, or else of the same name.
pub fn adopt_field_ids(previous: &Collection, list: &mut FieldList) {
    let is_stored = |id: &str| previous.fields.iter().any(|before| before.id == id);
    let is_given = |list: &FieldList, field: &Field| !list.has_generated_id(&field.name);
    let meant = list.fields.iter().filter(|field| is_given(list, field));
    let mut meant: Vec<String> = meant
        .map(|field| field.id.clone())
        .filter(|id| is_stored(id))
        .collect();
    for at in 0..list.fields.len() {
        let field = &list.fields[at];
        let (is_given, is_known) = (is_given(list, field), is_stored(&field.id));
        if is_given && is_known {
            continue;
        }
        let mut id = field.id.clone();
        match previous.field(&field.name) {
            Some(before) if !meant.contains(&before.id) => id.clone_from(&before.id),
            _ => {
                // A generated id must not be that of a renamed field.
                while is_stored(&id)
                    || list
                        .fields
                        .iter()
                        .any(|it| it.name != field.name && it.id == id)
                {
                    id += "_";
                }
            }
        }
        meant.push(id.clone());
        list.fields[at].id = id;
    }
}

/// Adds a problem for each change of type that stored values cannot follow, and for each name that
/// a field cannot get. Fields that a request does not list keep their ids.
pub fn reconcile_fields(previous: &Collection, next: &mut Collection, problems: &mut Problems) {
    let ids: Vec<String> = next.fields.iter().map(|it| it.id.clone()).collect();
    for at in 0..next.fields.len() {
        let (earlier, rest) = next.fields.split_at_mut(at);
        let field = &mut rest[0];
        let key = key_of_field(&field.name);
        if earlier
            .iter()
            .any(|it| it.name.eq_ignore_ascii_case(&field.name))
        {
            let message = "Another field has this name.";
            problems.add(&key, "validation_duplicated_field_name", message);
        }
        let by_id = previous.fields.iter().find(|before| before.id == field.id);
        let by_name = previous
            .field(&field.name)
            .filter(|it| !ids.contains(&it.id));
        let Some(before) = by_id.or(by_name) else {
            continue;
        };
        field.id.clone_from(&before.id);
        if before.name != field.name && !can_rename(previous.kind, before, field) {
            let message = format!(
                "The field {} cannot be renamed to {}.",
                before.name, field.name
            );
            problems.add(&key, "validation_system_field_change", message);
        }
        check_type(before, field, problems);
    }
    check_system_names(previous, next, problems);
}

/// Fields of the system have their names for good. Field rules find the groups of an account by
/// the name of the field.
fn can_rename(kind: CollectionKind, before: &Field, now: &Field) -> bool {
    const GROUPS: &str = "groups";
    let has_groups = [before, now].iter().any(|it| it.name == GROUPS);
    let decides_groups = kind == CollectionKind::Auth && has_groups;
    !before.labels.system && !decides_groups
}

/// Adds a problem for a field that becomes one of those that every record has, or was one.
fn check_system_names(previous: &Collection, next: &Collection, problems: &mut Problems) {
    let system = |it: &Collection| {
        let it = &it.system;
        let all = [
            Some(&it.id),
            it.created.as_ref(),
            it.updated.as_ref(),
            it.token_key.as_ref(),
        ];
        all.into_iter().flatten().cloned().collect::<Vec<Field>>()
    };
    let pairs = [
        (system(previous), next.fields.clone()),
        (previous.fields.clone(), system(next)),
    ];
    for (before, now) in pairs {
        for field in &now {
            let same = before
                .iter()
                .find(|it| it.id == field.id && it.name != field.name);
            if let Some(before) = same {
                let message = format!(
                    "The field {} cannot be renamed to {}.",
                    before.name, field.name
                );
                let key = key_of_field(&field.name);
                problems.add(&key, "validation_system_field_change", message);
            }
        }
    }
}

fn check_type(before: &Field, field: &Field, problems: &mut Problems) {
    let is_same = std::mem::discriminant(&before.kind) == std::mem::discriminant(&field.kind);
    let is_same_target = match (before.relation(), field.relation()) {
        (Some(before), Some(now)) => before.collection_id == now.collection_id,
        _ => true,
    };
    let are_plain = before.kind.is_plain_text() && field.kind.is_plain_text();
    if !(is_same && is_same_target || are_plain) {
        let message = format!(
            "The type of this field cannot change from {}.",
            before.kind.name()
        );
        let key = format!("{}.type", key_of_field(&field.name));
        problems.add(&key, "validation_field_type_change", message);
    }
}
