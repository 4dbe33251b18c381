//! A world in a real database, in a directory that is deleted with the value.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rusqlite::params;
use serde_json::{Map, Value as Json, json};

use super::callers::{Account, Caller};
use super::world;
use super::world::{Definition, Record, Rules, Table, World};
use crate::model::collections::{Catalog, Collection, Editor, Field};
use crate::model::records;
use crate::model::records::{Draft, RawBody, Scope, Shape};
use crate::model::rules::Identity;
use crate::store::db;
use crate::store::db::{Database, Databases};
use crate::tests::rng::Rng;

pub struct Store {
    dir: PathBuf,
    databases: Arc<Databases>,
    catalog: Catalog,
}

impl Store {
    pub fn open() -> Store {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("vski-model-{}-{count}", std::process::id()));
        let settings = db::ConnectionSettings {
            role: db::Role::Master,
            synchronous: db::Synchronous::Normal,
            prepare: records::register,
        };
        let databases = Arc::new(Databases::open(&dir, settings, 64).unwrap());
        let catalog = Catalog::open(Arc::clone(&databases), records::CHECKS);
        Store {
            dir,
            databases,
            catalog,
        }
    }

    pub fn database(&self) -> &Database {
        self.databases.default()
    }

    pub fn file(&self) -> PathBuf {
        db::default_file(&self.dir)
    }

    /// Creates collections, first without relations, so that relations can be circular.
    pub fn define(&self, definitions: &[Definition]) -> World {
        for Definition {
            name,
            is_auth,
            plain,
            ..
        } in definitions
        {
            let kind = if *is_auth { "auth" } else { "base" };
            let body = json!({"name": name, "type": kind, "fields": plain});
            self.catalog
                .create(db::DEFAULT, &body, Editor::Admin)
                .unwrap();
        }
        for definition in definitions {
            let fields = [&definition.plain[..], &definition.relations].concat();
            self.catalog
                .update(
                    db::DEFAULT,
                    &definition.name,
                    &json!({"fields": fields}),
                    Editor::Admin,
                )
                .unwrap();
        }
        let collections = self.catalog.collections(db::DEFAULT).unwrap();
        let table = |definition: &Definition| Table {
            collection: Arc::clone(collections.get(&definition.name).unwrap()),
            records: Vec::new(),
            rules: Rules::default(),
        };
        let tables = definitions.iter().map(table).collect();
        let mut world = World {
            tables,
            collections,
        };
        world.publish_rules();
        world
    }

    /// A world with random collections and records.
    pub fn random_world(&self, rng: &mut Rng) -> World {
        let mut world = self.define(&world::random_definitions(rng));
        let count = |_| *rng.pick(&[0, 1, 3, 8, 15, 25, 40]);
        let counts: Vec<usize> = world.tables.iter().map(count).collect();
        world::fill(rng, &mut world, &counts);
        self.insert(&world);
        world
    }

    /// Writes all records of a world, first without relations, then with them.
    pub fn insert(&self, world: &World) {
        for table in &world.tables {
            let bodies = bodies(table, |field| field.relation().is_none());
            let (scope, collection) = (admin_scope(world), Arc::clone(&table.collection));
            let write = self.database().write(move |tx| {
                for (record, body) in bodies {
                    let draft =
                        Draft::create(&scope, &collection, &body, &|_| Ok("a hash".to_owned()))?;
                    let shape = Shape::default();
                    records::create(tx, &scope, &collection, draft, &shape)
                        .map_err(|error| error.context(record.id))?;
                }
                Ok(())
            });
            write.unwrap();
        }
        for table in &world.tables {
            let bodies = bodies(table, |field| field.relation().is_some());
            let (scope, collection) = (admin_scope(world), Arc::clone(&table.collection));
            let write = self.database().write(move |tx| {
                for (record, body) in bodies {
                    let draft = Draft::update(&scope, &collection, &body, &|_| Ok(String::new()))?;
                    let shape = Shape::default();
                    records::update(tx, &scope, &collection, &record.id, draft, &shape)?;
                    let table = db::quote(&collection.name);
                    let sql =
                        format!("UPDATE {table} SET created = ?2, updated = ?3 WHERE id = ?1");
                    tx.execute(&sql, params![record.id, record.created, record.updated])?;
                }
                Ok(())
            });
            write.unwrap();
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

pub fn admin_scope(world: &World) -> Scope {
    scope(world, Caller::Admin.identity(world))
}

pub fn scope(world: &World, identity: Identity) -> Scope {
    Scope {
        collections: Arc::clone(&world.collections),
        identity,
        facts: records::RequestFacts::default(),
        events: Arc::default(),
        output: crate::base::budget::OutputCharge::default(),
    }
}

impl Store {
    /// The identity of a caller, with the account as the server loads it.
    pub fn identity(&self, world: &World, caller: &Caller) -> Identity {
        let Caller::User(Account { table, record }) = caller else {
            return caller.identity(world);
        };
        let (scope, collection) = (admin_scope(world), &world.tables[*table].collection);
        let read = self.database().read(|connection| {
            records::account::load_user(connection, &scope, collection, &record.id)
        });
        Identity::User(Arc::new(read.unwrap().unwrap()))
    }
}

/// Checks that the server accepts every rule that the model accepts.
pub fn check_rules(world: &World) {
    for table in &world.tables {
        let rules = &table.collection.rules;
        let all = [
            &rules.list,
            &rules.view,
            &rules.create,
            &rules.update,
            &rules.delete,
            &rules.manage,
        ];
        for rule in all.into_iter().flatten() {
            let checked = (records::CHECKS.rule)(rule, &table.collection, &world.collections);
            assert!(
                checked.is_ok(),
                "rule {rule:?} of {}: {checked:?}",
                table.collection.name
            );
        }
    }
}

pub fn body(map: &Map<String, Json>) -> RawBody {
    serde_json::from_str(&Json::Object(map.clone()).to_string()).unwrap()
}

fn bodies(table: &Table, wanted: impl Fn(&Field) -> bool) -> Vec<(Record, RawBody)> {
    let make = |record: &Record| {
        (
            record.clone(),
            body(&wire(&table.collection, record, &wanted)),
        )
    };
    table.records.iter().map(make).collect()
}

fn wire(
    collection: &Collection,
    record: &Record,
    wanted: &impl Fn(&Field) -> bool,
) -> Map<String, Json> {
    let mut map = Map::new();
    map.insert("id".to_owned(), json!(record.id));
    for (field, value) in collection.fields.iter().zip(&record.values) {
        if wanted(field) {
            let value = if field.is_secret() {
                json!("12345678")
            } else {
                value.wire()
            };
            map.insert(field.name.clone(), value);
        }
    }
    map
}
