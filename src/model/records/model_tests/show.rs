//! Computes responses: `fields` and `expand`, written from the documentation.

use serde_json::{Map, Value as Json, json};

use super::callers::Caller;
use super::grants::Verb;
use super::world::{Record, Table, Value, World};
use crate::model::collections::{Field, FieldKind};
use crate::tests::rng::Rng;

pub type Path = Vec<String>;

/// The paths of the two parameters.
#[derive(Clone, Debug, Default)]
pub struct Projection {
    pub fields: Option<Vec<Path>>,
    pub expand: Vec<Path>,
}

impl Projection {
    pub fn fields_text(&self) -> Option<String> {
        self.fields.as_ref().map(|paths| join(paths))
    }

    pub fn expand_text(&self) -> String {
        join(&self.expand)
    }

    /// Mostly existing relations and fields.
    pub fn random(rng: &mut Rng, world: &World, table: usize, caller: &Caller) -> Projection {
        let expand = match rng.below(3) {
            0 => Vec::new(),
            _ => (0..rng.between(1, 3))
                .map(|_| random_expand(rng, world, table, caller))
                .collect(),
        };
        let expand: Vec<Path> = expand
            .into_iter()
            .filter(|path: &Path| !path.is_empty())
            .collect();
        let fields = rng.one_in(2).then(|| {
            let mut paths: Vec<Path> = (0..rng.between(1, 6))
                .map(|_| random_fields(rng, world, table, &expand))
                .collect();
            paths.retain(|path| !path.is_empty());
            if paths.is_empty() {
                vec![vec!["id".to_owned()]]
            } else {
                paths
            }
        });
        Projection { fields, expand }
    }
}

fn join(paths: &[Path]) -> String {
    let paths: Vec<String> = paths.iter().map(|path| path.join(".")).collect();
    paths.join(",")
}

fn random_expand(rng: &mut Rng, world: &World, mut table: usize, caller: &Caller) -> Path {
    let mut path = Path::new();
    for _ in 0..rng.between(1, 4) {
        let fields = &world.tables[table].collection.fields;
        let seen = world.grant(table, Verb::View, caller).fields;
        let is_careless = rng.one_in(20);
        let relations: Vec<&Field> = fields
            .iter()
            .filter(|field| field.relation().is_some() && (is_careless || seen.shows(field)))
            .collect();
        if rng.one_in(4)
            && let Some((name, target)) = world.random_back_relation(rng, table)
        {
            path.push(name);
            table = target;
            continue;
        }
        if relations.is_empty() {
            break;
        }
        let field = rng.pick(&relations);
        path.push(field.name.clone());
        table = world.target(field).unwrap();
    }
    if rng.one_in(30) {
        path.push(rng.word(&["id", "name", "nowhere"]));
    }
    path
}

fn random_fields(rng: &mut Rng, world: &World, table: usize, expand: &[Path]) -> Path {
    let mut path = Path::new();
    let mut table = table;
    if !expand.is_empty() && rng.one_in(3) {
        for name in rng.pick(expand) {
            let field = world.tables[table].collection.field(name);
            let back = world.back_relation(table, name).map(|(target, _)| target);
            let Some(target) = field.and_then(|field| world.target(field)).or(back) else {
                break;
            };
            path.extend(["expand".to_owned(), name.clone()]);
            table = target;
            if rng.one_in(2) {
                break;
            }
        }
        if rng.one_in(3) {
            return path;
        }
    }
    if rng.one_in(25) {
        path.extend(["expand".to_owned(), "*".to_owned()]);
        return path;
    }
    let general = [
        "id",
        "created",
        "collectionId",
        "collectionName",
        "expand",
        "*",
        "nowhere",
    ];
    let fields = &world.tables[table].collection.fields;
    path.push(match rng.one_in(3) {
        true => rng.word(&general),
        false => rng.pick(fields).name.clone(),
    });
    path
}

impl World {
    /// A record in a response.
    pub fn show(
        &self,
        table: usize,
        record: &Record,
        projection: &Projection,
        caller: &Caller,
    ) -> Json {
        let (collection, fields) = (&self.tables[table].collection, projection.fields.as_deref());
        let seen = self.grant(table, Verb::View, caller).fields;
        let mut shown = Map::new();
        for (name, value) in [
            ("collectionId", &collection.id),
            ("collectionName", &collection.name),
            ("id", &record.id),
            ("created", &record.created),
            ("updated", &record.updated),
        ] {
            if wants(fields, name) {
                shown.insert(name.to_owned(), json!(value));
            }
        }
        for (field, value) in collection.fields.iter().zip(&record.values) {
            let is_unseen = || field.name == "email" && !self.sees_address(table, record, caller);
            if seen.shows(field) && wants(fields, &field.name) && !is_unseen() {
                shown.insert(field.name.clone(), show_value(field, value));
            }
        }
        if !projection.expand.is_empty() && wants(fields, "expand") {
            shown.insert(
                "expand".to_owned(),
                self.show_expands(table, record, projection, caller),
            );
        }
        Json::Object(shown)
    }

    /// A record that the caller has just created, and whose email it knows.
    pub fn show_new(
        &self,
        table: usize,
        record: &Record,
        projection: &Projection,
        caller: &Caller,
    ) -> Json {
        let mut shown = self.show(table, record, projection, caller);
        let collection = &self.tables[table].collection;
        let seen = self.grant(table, Verb::View, caller).fields;
        if let Some(field) = collection.field("email").filter(|it| seen.shows(it))
            && self.tables[table].is_auth()
            && wants(projection.fields.as_deref(), "email")
        {
            shown["email"] = show_value(field, record.value(collection, "email"));
        }
        shown
    }

    fn show_expands(
        &self,
        table: usize,
        record: &Record,
        projection: &Projection,
        caller: &Caller,
    ) -> Json {
        let collection = &self.tables[table].collection;
        let seen = self.grant(table, Verb::View, caller).fields;
        let mut shown = Map::new();
        for path in &projection.expand {
            let name = &path[0];
            let fields = projection.fields.as_deref();
            if fields.is_some_and(|fields| !wants_relation(fields, name)) {
                continue;
            }
            // Names that are not relations, or that the caller may not see, are ignored.
            let field = collection.field(name).filter(|field| seen.shows(field));
            let relation = field.and_then(|field| Some((field, self.target(field)?)));
            let back = self
                .back_relation(table, name)
                .filter(|(target, relation)| {
                    self.grant(*target, Verb::View, caller)
                        .fields
                        .shows(relation)
                });
            let (Some((field, target)), is_back) =
                (relation.or(back.map(|(a, b)| (b, a))), relation.is_none())
            else {
                continue;
            };
            let rests = projection
                .expand
                .iter()
                .filter(|other| other[0] == *name && other.len() > 1);
            let projection = Projection {
                fields: projection
                    .fields
                    .as_deref()
                    .and_then(|fields| below(fields, name)),
                expand: rests.map(|path| path[1..].to_vec()).collect(),
            };
            let found = match is_back {
                true => self.naming_records(target, field, &record.id),
                false => {
                    let ids = record.value(collection, name).texts();
                    ids.iter().filter_map(|id| self.find(target, id)).collect()
                }
            };
            let found = found
                .into_iter()
                .filter(|record| self.may_view(target, record, caller));
            let mut found: Vec<Json> = found
                .map(|record| self.show(target, record, &projection, caller))
                .collect();
            if found.is_empty() {
                continue;
            }
            let value = if is_back || field.is_multiple() {
                Json::Array(found)
            } else {
                found.remove(0)
            };
            shown.insert(name.clone(), value);
        }
        Json::Object(shown)
    }
}

impl World {
    /// The records of a table that name this id in a relation.
    fn naming_records(&self, table: usize, relation: &Field, id: &String) -> Vec<&Record> {
        let Table {
            collection,
            records,
            ..
        } = &self.tables[table];
        let names_it = |it: &&Record| {
            let value = it.value(collection, &relation.name);
            value.texts().contains(id)
        };
        records.iter().filter(names_it).collect()
    }
}

fn wants(fields: Option<&[Path]>, name: &str) -> bool {
    fields.is_none_or(|paths| paths.iter().any(|path| path[0] == name || path[0] == "*"))
}

/// True if `expand` shows a relation: all of them, or those that the paths name.
fn wants_relation(fields: &[Path], name: &str) -> bool {
    let mut of_expand = fields
        .iter()
        .filter(|path| path[0] == "expand" && path.len() > 1)
        .peekable();
    of_expand.peek().is_none() || of_expand.any(|path| path[1] == name || path[1] == "*")
}

/// The projection below a relation; none for everything, which is also the default.
fn below(fields: &[Path], name: &str) -> Option<Vec<Path>> {
    let of_expand = fields
        .iter()
        .filter(|path| path[0] == "expand" && path.len() > 1);
    let of_expand: Vec<&[String]> = of_expand.map(|path| &path[1..]).collect();
    let is_named = of_expand.iter().any(|path| path[0] == name);
    let name = if is_named { name } else { "*" };
    let of_name = of_expand
        .iter()
        .filter(|path| path[0] == name && path.len() > 1);
    let of_name: Vec<Path> = of_name.map(|path| path[1..].to_vec()).collect();
    (!of_name.is_empty()).then_some(of_name)
}

pub fn show_value(field: &Field, value: &Value) -> Json {
    match (&field.kind, value) {
        (FieldKind::Bool, value) => json!(*value == Value::Flag(true)),
        (FieldKind::Number { .. } | FieldKind::Json { .. }, value) => value.wire(),
        (_, Value::Unset) if field.is_multiple() => json!([]),
        (_, Value::Unset) => json!(""),
        (_, value) => value.wire(),
    }
}
