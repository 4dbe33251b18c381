//! Random sequences of changes: each has the outcome that the model gives, contents stay equal,
//! no relation ever dangles, and the file stays whole.

use std::sync::Arc;

use serde_json::Value as Json;
use serde_json::json;

use super::filters::Maker;
use super::model::Sight;
use super::rng;
use super::rng::Rng;
use super::show::Wish;
use super::store;
use super::store::Store;
use super::world;
use super::world::Caller;
use super::world::Rule;
use super::world::Rules;
use super::world::Table;
use super::world::World;
use super::writes::Body;
use super::writes::Outcome;
use crate::collections::Field;
use crate::collections::FieldKind;
use crate::error::Error;
use crate::error::Result;
use crate::records;
use crate::records::Draft;
use crate::records::ListQuery;
use crate::records::Shape;
use crate::records::Upsert;

/// Changes of one sequence.
const STEPS: usize = 100;
/// Changes between two sets of rules.
const STEPS_PER_RULES: usize = 20;
/// Sequences in one database.
const SEQUENCES_PER_STORE: usize = 4;

#[derive(Debug)]
enum Step {
    Create {
        table: usize,
        body: Body,
    },
    Update {
        table: usize,
        id: String,
        body: Body,
    },
    Upsert {
        table: usize,
        id: String,
        body: Body,
    },
    Delete {
        table: usize,
        id: String,
    },
    UpdateAll {
        table: usize,
        ids: Vec<String>,
        body: Body,
    },
    DeleteAll {
        table: usize,
        ids: Vec<String>,
    },
}

#[test]
fn sequences_of_changes_end_as_the_model_says() {
    rng::rounds(
        "sequences_of_changes_end_as_the_model_says",
        40,
        |rng, left| {
            let store = Store::open();
            let sequences = left.min(SEQUENCES_PER_STORE);
            for number in 0..sequences {
                run_sequence(rng, &store, number);
            }
            let check = store.database().read(|connection| {
                let sql = "PRAGMA integrity_check";
                Ok(connection.query_row(sql, [], |row| row.get::<_, String>(0))?)
            });
            assert_eq!(check.unwrap(), "ok");
            sequences
        },
    );
}

fn run_sequence(rng: &mut Rng, store: &Store, number: usize) {
    let mut world = store.define(&random_definitions(rng, number));
    let caller = if rng.one_in(3) {
        Caller::Nobody
    } else {
        Caller::Admin
    };
    let mut story: Vec<(Step, String)> = Vec::new();
    for number in 0..STEPS {
        if number % STEPS_PER_RULES == 0 {
            draw_rules(rng, &mut world);
        }
        let step = Step::random(rng, &world);
        let answer = step.run(store, &world, caller);
        let refusal = answer
            .as_ref()
            .err()
            .map(ToString::to_string)
            .unwrap_or_default();
        let got = read(answer);
        let expected = step.run_on_model(&mut world, &got, caller);
        story.push((step, refusal));
        if got != expected {
            let outcome = format!("got {got:?}\nexpected {expected:?}");
            panic!("{caller:?}\n{}\n{outcome}", describe(&world, &story));
        }
        world.check_relations();
    }
    for table in 0..world.tables.len() {
        let records = world.tables[table].records.iter();
        let expected: Vec<Json> = records.map(|record| show(&world, table, record)).collect();
        assert_eq!(
            contents(store, &world, table),
            expected,
            "{}",
            describe(&world, &story)
        );
    }
}

fn describe(world: &World, story: &[(Step, String)]) -> String {
    let definitions: Vec<String> = world
        .tables
        .iter()
        .map(|table| table.collection.to_json().to_string())
        .collect();
    let story: Vec<String> = story
        .iter()
        .map(|(step, refusal)| format!("{step:?} {refusal}"))
        .collect();
    format!("{}\n{}", definitions.join("\n"), story.join("\n"))
}

fn random_definitions(rng: &mut Rng, number: usize) -> Vec<(String, Vec<Json>, Vec<Json>)> {
    let names: Vec<String> = (0..3).map(|table| format!("t{number}_{table}")).collect();
    let mut definitions = Vec::new();
    for name in &names {
        let plain = vec![
            json!({"name": "title", "type": "text", "min": 1, "max": 10, "required": rng.one_in(4)}),
            json!({"name": "code", "type": "text", "unique": true}),
            json!({"name": "number", "type": "number", "required": rng.one_in(8),
                "hidden": rng.one_in(6)}),
            json!({"name": "whole", "type": "number", "onlyInt": true, "min": -5, "max": 5}),
            json!({"name": "done", "type": "bool"}),
            json!({"name": "choice", "type": "select", "values": world::CHOICES}),
            json!({"name": "tags", "type": "select", "values": world::CHOICES, "maxSelect": 3,
                "required": rng.one_in(6)}),
            json!({"name": "meta", "type": "json", "hidden": rng.one_in(3)}),
        ];
        let mut all = plain.clone();
        for at in 0..rng.between(1, 4) {
            all.push(json!({"name": format!("to{at}"), "type": "relation",
                "collectionId": rng.pick(&names), "maxSelect": *rng.pick(&[1, 1, 3]),
                "cascadeDelete": rng.one_in(3), "required": rng.one_in(7)}));
        }
        definitions.push((name.clone(), plain, all));
    }
    definitions
}

fn draw_rules(rng: &mut Rng, world: &mut World) {
    for table in 0..world.tables.len() {
        let mut draw = || match rng.below(8) {
            0 => Rule::Admins,
            1 | 2 => {
                let (sight, caller) = (Sight::Rule, Caller::Nobody);
                let maker = Maker {
                    world,
                    table,
                    sight,
                    caller,
                    times: false,
                };
                Rule::When(maker.valid(rng))
            }
            _ => Rule::Everyone,
        };
        let (view, create, update, delete) = (draw(), draw(), draw(), draw());
        let list = Rule::Everyone;
        world.tables[table].rules = Rules {
            list,
            view,
            create,
            update,
            delete,
        };
    }
    world.publish_rules();
}

/// Without what depends on the clock.
fn timeless(mut json: Json) -> Json {
    if let Some(object) = json.as_object_mut() {
        object.remove("created");
        object.remove("updated");
    }
    json
}

/// The outcome of a change as a client meets it, without times.
fn read(answer: Result<Option<Vec<u8>>>) -> Outcome<Json> {
    let Some(body) = answer.map_err(|error| error.kind())? else {
        return Ok(Json::Null);
    };
    let mut json: Json = serde_json::from_slice(&body).unwrap();
    if let Some(items) = json.get_mut("items").and_then(Json::as_array_mut) {
        *items = items.drain(..).map(timeless).collect();
    }
    Ok(timeless(json))
}

fn show(world: &World, table: usize, record: &world::Record) -> Json {
    timeless(world.show(table, record, &Wish::default(), Caller::Admin))
}

/// All records of a table as a client reads them.
fn contents(store: &Store, world: &World, table: usize) -> Vec<Json> {
    let (scope, collection) = (store::admin_scope(world), &world.tables[table].collection);
    let query = ListQuery {
        per_page: 500,
        sort: "@rowid".to_owned(),
        ..ListQuery::default()
    };
    let answer = store.database().snapshot(|connection| {
        records::list(connection, &scope, collection, &query, &Shape::default())
    });
    let mut answer: Json = serde_json::from_slice(&answer.unwrap()).unwrap();
    let items = answer["items"].as_array_mut().unwrap();
    for item in items.iter() {
        assert!(
            item["updated"].as_str() >= item["created"].as_str(),
            "{item}"
        );
    }
    items.drain(..).map(timeless).collect()
}

impl Step {
    fn random(rng: &mut Rng, world: &World) -> Step {
        let table = rng.below(world.tables.len());
        let records = &world.tables[table].records;
        let id = |rng: &mut Rng| match records.is_empty() || rng.one_in(15) {
            true => world::record_id(rng.below(30)),
            false => rng.pick(records).id.clone(),
        };
        let ids = |rng: &mut Rng| (0..rng.between(1, 4)).map(|_| id(rng)).collect();
        match rng.below(100) {
            0..=39 => {
                let own = world::record_id(rng.below(30));
                let mut body = random_body(rng, world, table, &own, true);
                // A rule may look at the id, so the model must know it beforehand.
                let has_rule = matches!(world.tables[table].rules.create, Rule::When(_));
                if has_rule || rng.percent(60) {
                    body.insert("id".to_owned(), json!(own));
                } else if rng.one_in(10) {
                    body.insert(
                        "id".to_owned(),
                        rng.pick(&[json!(""), json!(5), json!("a b")]).clone(),
                    );
                }
                Step::Create { table, body }
            }
            40..=64 => {
                let id = id(rng);
                let mut body = random_body(rng, world, table, &id, false);
                if rng.one_in(10) {
                    body.insert(
                        "id".to_owned(),
                        if rng.one_in(2) { json!(id) } else { json!("9") },
                    );
                }
                Step::Update { table, id, body }
            }
            65..=74 => {
                let id = id(rng);
                let mut body = random_body(rng, world, table, &id, true);
                body.insert("id".to_owned(), json!(id));
                Step::Upsert { table, id, body }
            }
            75..=86 => Step::Delete { table, id: id(rng) },
            87..=94 => {
                let ids: Vec<String> = ids(rng);
                let body = random_body(rng, world, table, &ids[0], false);
                Step::UpdateAll { table, ids, body }
            }
            _ => Step::DeleteAll {
                table,
                ids: ids(rng),
            },
        }
    }

    fn table(&self) -> usize {
        match self {
            Step::Create { table, .. }
            | Step::Update { table, .. }
            | Step::Upsert { table, .. }
            | Step::Delete { table, .. }
            | Step::UpdateAll { table, .. }
            | Step::DeleteAll { table, .. } => *table,
        }
    }

    fn run(&self, store: &Store, world: &World, caller: Caller) -> Result<Option<Vec<u8>>> {
        let Table { collection, .. } = &world.tables[self.table()];
        let (scope, collection) = (
            store::scope(world, caller.identity()),
            Arc::clone(collection),
        );
        let (database, shape) = (store.database(), Shape::default());
        let hash = |_: &str| Err(Error::internal("there are no passwords here"));
        let to_create = |body| Draft::create(&scope, &collection, &store::body(body), &hash);
        let to_update = |body| Draft::update(&scope, &collection, &store::body(body), &hash);
        match self {
            Step::Create { body, .. } => {
                let draft = to_create(body)?;
                database.write(move |tx| records::create(tx, &scope, &collection, draft, &shape))
            }
            Step::Update { id, body, .. } => {
                let (draft, id) = (to_update(body)?, id.clone());
                database
                    .write(move |tx| records::update(tx, &scope, &collection, &id, draft, &shape))
            }
            Step::Upsert { id, body, .. } => {
                let drafts = Upsert {
                    update: to_update(body),
                    create: to_create(body),
                };
                let id = id.clone();
                database
                    .write(move |tx| records::upsert(tx, &scope, &collection, &id, drafts, &shape))
            }
            Step::UpdateAll { ids, body, .. } => {
                let (draft, ids) = (to_update(body)?, ids.clone());
                database.write(move |tx| {
                    records::bulk_update(tx, &scope, &collection, &ids, &draft, &shape)
                })
            }
            Step::Delete { id, .. } => {
                let id = id.clone();
                database.write(move |tx| records::delete(tx, &scope, &collection, &id))?;
                return Ok(None);
            }
            Step::DeleteAll { ids, .. } => {
                let ids = ids.clone();
                database.write(move |tx| records::bulk_delete(tx, &scope, &collection, &ids))?;
                return Ok(None);
            }
        }
        .map(Some)
    }

    /// The same on the model; `got` tells the id of a record that was given none.
    fn run_on_model(
        &self,
        world: &mut World,
        got: &Outcome<Json>,
        caller: Caller,
    ) -> Outcome<Json> {
        let before: Vec<Vec<world::Record>> = world
            .tables
            .iter()
            .map(|table| table.records.clone())
            .collect();
        let outcome = self.try_on_model(world, got, caller);
        if outcome.is_err() {
            for (table, records) in world.tables.iter_mut().zip(before) {
                table.records = records;
            }
        }
        outcome
    }

    fn try_on_model(
        &self,
        world: &mut World,
        got: &Outcome<Json>,
        caller: Caller,
    ) -> Outcome<Json> {
        let shown = |world: &World, table: usize, id: &str| {
            let record = world.find(table, id).unwrap();
            timeless(world.show(table, record, &Wish::default(), caller))
        };
        // Who may change a record may yet not see it.
        let shown_if_allowed = |world: &World, table: usize, id: &str| {
            let record = world.find(table, id).unwrap();
            match world.allows(&world.tables[table].rules.view, table, record, caller) {
                true => shown(world, table, id),
                false => json!({ "id": id }),
            }
        };
        match self {
            Step::Create { table, body } => {
                let id = got
                    .as_ref()
                    .ok()
                    .and_then(|json| json["id"].as_str())
                    .unwrap_or("none");
                world.create(*table, body, id, caller)?;
                Ok(shown(world, *table, id))
            }
            Step::Update { table, id, body } => {
                world.update(*table, id, body, caller)?;
                Ok(shown_if_allowed(world, *table, id))
            }
            Step::Upsert { table, id, body } => {
                let is_new = world.find(*table, id).is_none();
                world.upsert(*table, id, body, caller)?;
                Ok(if is_new {
                    shown(world, *table, id)
                } else {
                    shown_if_allowed(world, *table, id)
                })
            }
            Step::UpdateAll { table, ids, body } => {
                let mut items = Vec::new();
                for id in ids {
                    world.update(*table, id, body, caller)?;
                    items.push(shown_if_allowed(world, *table, id));
                }
                Ok(json!({ "items": items }))
            }
            Step::Delete { table, id } => world.delete(*table, id, caller).map(|()| Json::Null),
            Step::DeleteAll { table, ids } => {
                world.delete_all(*table, ids, caller).map(|()| Json::Null)
            }
        }
    }
}

/// Values for some of the fields, now and then something wrong.
fn random_body(rng: &mut Rng, world: &World, table: usize, own: &str, is_new: bool) -> Body {
    let mut body = Body::new();
    let share = if is_new { 60 } else { 25 };
    for field in &world.tables[table].collection.fields {
        let is_wanted = (field.required && is_new && !rng.one_in(15)) || rng.percent(share);
        if !is_wanted {
            continue;
        }
        let takes_sign = field.is_multiple() || matches!(field.kind, FieldKind::Number { .. });
        if (takes_sign && rng.percent(if is_new { 10 } else { 60 })) || rng.one_in(150) {
            let name = &field.name;
            let forms = [format!("{name}+"), format!("{name}-"), format!("+{name}")];
            body.insert(
                rng.pick(&forms).clone(),
                random_amount(rng, world, table, own, field),
            );
        } else {
            body.insert(
                field.name.clone(),
                random_wire(rng, world, table, own, field),
            );
        }
        if takes_sign && rng.one_in(150) {
            let amount = random_amount(rng, world, table, own, field);
            body.insert(format!("{}+", field.name), amount);
        }
    }
    if rng.one_in(100) {
        body.insert("nowhere".to_owned(), json!(1));
    }
    body
}

fn random_wire(rng: &mut Rng, world: &World, table: usize, own: &str, field: &Field) -> Json {
    if rng.one_in(50) {
        let odd = [
            json!(null),
            json!(""),
            json!(5),
            json!("x"),
            json!([]),
            json!(["gone"]),
            json!(true),
            json!({"a": 1}),
            json!(-1.5),
            json!("gone"),
            json!(["a", "", "a"]),
            json!("a b"),
            json!([null]),
            json!([1]),
            json!("1e2"),
            json!(["a", "b", "c", "ab"]),
        ];
        return rng.pick(&odd).clone();
    }
    if let FieldKind::Number {
        integers_only: true,
        ..
    } = field.kind
    {
        return json!(i64::try_from(rng.below(12)).unwrap() - 6);
    }
    let mut ids: Vec<String> = Vec::new();
    if let Some(target) = world.target(field) {
        ids.extend(
            world.tables[target]
                .records
                .iter()
                .map(|record| record.id.clone()),
        );
        // The record itself, which may not be there yet; or one of the same id elsewhere.
        if (target == table && rng.one_in(3)) || rng.one_in(20) {
            ids.push(own.to_owned());
        }
    }
    let at = rng.below(50);
    world::random_value(rng, field, at, &ids).wire()
}

/// What is added to a number or a list, or taken from it.
fn random_amount(rng: &mut Rng, world: &World, table: usize, own: &str, field: &Field) -> Json {
    match field.kind {
        FieldKind::Number { .. } => rng
            .pick(&[
                json!(1),
                json!(2),
                json!(-1),
                json!(0),
                json!(0.5),
                json!(1000),
                json!("3"),
                json!(1e300),
                json!(null),
                json!("x"),
                json!(4_000_000_000_000_000_000_i64),
                json!(9_007_199_254_740_993_i64),
                json!(i64::MIN),
            ])
            .clone(),
        _ => random_wire(rng, world, table, own, field),
    }
}
