//! Callers: every kind of identity that a request can have, as the model sees it.

use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::show;
use super::world::{Record, Value, World};
use crate::model::rules::{ApiKey, Identity, KeyScope, Service, User};
use crate::tests::rng::Rng;

pub const ADMIN_ID: &str = "adm-1";

#[derive(Clone, Debug, PartialEq)]
pub enum Caller {
    Anonymous,
    Service,
    Admin,
    Key(KeyAccess),
    User(Account),
}

/// The scopes and collections of an API key.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyAccess {
    pub reads: bool,
    pub writes: bool,
    /// Tables; none for all.
    pub tables: Option<Vec<usize>>,
}

/// An account at the time of the request.
#[derive(Clone, Debug, PartialEq)]
pub struct Account {
    pub table: usize,
    pub record: Record,
}

impl Caller {
    /// A random caller; mostly an account, if there is one.
    pub fn random(rng: &mut Rng, world: &World) -> Caller {
        match rng.below(20) {
            0..=2 => Caller::Anonymous,
            3 => Caller::Service,
            4 | 5 => Caller::Admin,
            6 | 7 => Caller::random_key(rng, world),
            _ => Caller::random_user(rng, world).unwrap_or(Caller::Anonymous),
        }
    }

    pub fn random_user(rng: &mut Rng, world: &World) -> Option<Caller> {
        let mut tables = world.accounts();
        tables.retain(|table| !world.tables[*table].records.is_empty());
        if tables.is_empty() {
            return None;
        }
        let table = *rng.pick(&tables);
        let record = rng.pick(&world.tables[table].records).clone();
        Some(Caller::User(Account { table, record }))
    }

    fn random_key(rng: &mut Rng, world: &World) -> Caller {
        let tables = (0..world.tables.len()).filter(|_| rng.percent(60));
        let tables: Vec<usize> = tables.collect();
        Caller::Key(KeyAccess {
            reads: rng.percent(70),
            writes: rng.percent(70),
            tables: rng.one_in(2).then_some(tables),
        })
    }

    /// True for admins and API keys, which manage accounts.
    pub fn manages(&self) -> bool {
        matches!(self, Caller::Admin | Caller::Key(_))
    }

    /// True if an API key or admin may read the records of a table.
    pub fn opens(&self, table: usize) -> bool {
        match self {
            Caller::Admin => true,
            Caller::Key(pass) => pass
                .tables
                .as_ref()
                .is_none_or(|list| list.contains(&table)),
            _ => false,
        }
    }

    /// The groups of an account, and the group that includes everyone.
    pub fn groups(&self, world: &World) -> Vec<String> {
        let mut groups = vec!["*".to_owned()];
        if let Caller::User(Account { table, record }) = self {
            let collection = &world.tables[*table].collection;
            if collection.field("groups").is_some() {
                match record.value(collection, "groups") {
                    Value::Json(Json::String(group)) => groups.push(group.clone()),
                    Value::Json(Json::Array(list)) => {
                        groups.extend(list.iter().filter_map(|it| it.as_str().map(str::to_owned)));
                    }
                    value => groups.extend(value.texts()),
                }
            }
        }
        groups.retain(|group| !group.is_empty());
        groups
    }

    pub fn identity(&self, world: &World) -> Identity {
        match self {
            Caller::Anonymous => Identity::Anonymous,
            Caller::Admin => Identity::Admin(ADMIN_ID.to_owned()),
            Caller::Service => Identity::Service(Service {
                is_operator: false,
                name: "worker".to_owned(),
                workflows: None,
            }),
            Caller::Key(pass) => Identity::Key(Arc::new(pass.key(world))),
            Caller::User(Account { table, record }) => {
                let collection = &world.tables[*table].collection;
                Identity::User(Arc::new(User {
                    id: record.id.clone(),
                    collection_id: collection.id.clone(),
                    collection_name: collection.name.clone(),
                    record: account_json(world, *table, record),
                    field_names: Arc::default(),
                }))
            }
        }
    }
}

impl KeyAccess {
    fn key(&self, world: &World) -> ApiKey {
        let scopes = [
            (self.reads, KeyScope::Read),
            (self.writes, KeyScope::Write),
            (true, KeyScope::Collections),
            (true, KeyScope::Service),
        ];
        let names = |tables: &Vec<usize>| {
            let name = |table: &usize| world.tables[*table].collection.name.clone();
            tables.iter().map(name).collect()
        };
        ApiKey {
            id: "key-1".to_owned(),
            scopes: scopes.iter().filter(|it| it.0).map(|it| it.1).collect(),
            databases: None,
            collections: self.tables.as_ref().map(names),
        }
    }
}

/// An account with all its values except the password.
pub fn account_json(world: &World, table: usize, record: &Record) -> Map<String, Json> {
    let collection = &world.tables[table].collection;
    let mut map = Map::new();
    for (name, value) in [
        ("id", &record.id),
        ("created", &record.created),
        ("updated", &record.updated),
        ("collectionId", &collection.id),
        ("collectionName", &collection.name),
    ] {
        map.insert(name.to_owned(), Json::String(value.clone()));
    }
    for (field, value) in collection.fields.iter().zip(&record.values) {
        if !field.is_secret() {
            map.insert(field.name.clone(), show::show_value(field, value));
        }
    }
    map
}
