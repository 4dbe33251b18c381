//! Random sequences of changes: each has the outcome of the model, contents stay equal, no relation
//! ever dangles, and the file stays valid.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::bodies::TargetId;
use super::callers::{Account, Caller};
use super::filters::FilterMaker;
use super::show::Projection;
use super::store::Store;
use super::world::{Definition, Rule, Rules, Table, World};
use super::writes::{Body, Outcome, WriteRequest};
use super::{bodies, callers, grants, store, world};
use crate::base::error::{Kind, Result};
use crate::base::paging::Page;
use crate::model::records;
use crate::model::records::{Draft, ListQuery, Precondition, Shape, Upsert, account};
use crate::model::rules::Identity;
use crate::tests::rng;
use crate::tests::rng::Rng;

/// Changes per sequence.
const STEPS: usize = 100;
/// Creates at the start of a sequence.
const STEPS_OF_ADMIN: usize = 20;
/// Changes per set of rules.
const STEPS_PER_RULES: usize = 20;
/// Sequences per database.
const SEQUENCES_PER_STORE: usize = 4;

/// A change, its caller, and the requested projection.
#[derive(Debug)]
struct Request {
    caller: Caller,
    projection: Projection,
    is_proven: bool,
    step: Step,
}

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
    let mut story: Vec<(Request, String)> = Vec::new();
    for number in 0..STEPS {
        if number % STEPS_PER_RULES == 0 {
            draw_rules(rng, &mut world);
        }
        let request = match number < STEPS_OF_ADMIN {
            true => Request::by_admin(rng, &world),
            false => Request::random(rng, &world),
        };
        let answer = request.run(store, &world);
        let refusal = answer
            .as_ref()
            .err()
            .map(ToString::to_string)
            .unwrap_or_default();
        let got = read(answer);
        let expected = request.run_on_model(&mut world, &got);
        story.push((request, refusal));
        if got != expected {
            let outcome = format!("got {got:?}\nexpected {expected:?}");
            panic!("{}\n{outcome}", describe(&world, &story));
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

fn describe(world: &World, story: &[(Request, String)]) -> String {
    let definitions: Vec<String> = world
        .tables
        .iter()
        .map(|table| table.collection.to_json().to_string())
        .collect();
    let story: Vec<String> = story
        .iter()
        .map(|(request, refusal)| format!("{request:?} {refusal}"))
        .collect();
    format!("{}\n{}", definitions.join("\n"), story.join("\n"))
}

fn random_definitions(rng: &mut Rng, number: usize) -> Vec<Definition> {
    let names: Vec<String> = (0..4).map(|table| format!("t{number}_{table}")).collect();
    let define = |(at, name): (usize, &String)| {
        let mut plain = vec![
            json!({"name": "title", "type": "text", "min": 1, "max": 10, "required": rng.one_in(4)}),
            json!({"name": "code", "type": "text", "unique": true}),
            json!({"name": "number", "type": "number", "nullable": true, "required": rng.one_in(8),
                "hidden": rng.one_in(6)}),
            json!({"name": "whole", "type": "number", "nullable": true, "onlyInt": true, "min": -5, "max": 5}),
            json!({"name": "done", "type": "bool", "required": rng.one_in(4),
                "hidden": rng.one_in(6)}),
            json!({"name": "choice", "type": "select", "values": world::CHOICES}),
            json!({"name": "tags", "type": "select", "values": world::CHOICES, "maxSelect": 3,
                "required": rng.one_in(6)}),
            json!({"name": "meta", "type": "json", "hidden": rng.one_in(3)}),
            json!({"name": "day", "type": "date", "min": "2000-01-01"}),
        ];
        let is_auth = at == 3;
        if is_auth {
            plain.push(world::random_groups_field(rng));
        }
        let mut relations = Vec::new();
        for at in 0..rng.between(1, 4) {
            relations.push(json!({"name": format!("to{at}"), "type": "relation",
                "collectionId": rng.pick(&names), "maxSelect": *rng.pick(&[1, 1, 3]),
                "cascadeDelete": rng.one_in(3), "required": rng.one_in(7)}));
        }
        Definition {
            name: name.clone(),
            is_auth,
            plain,
            relations,
        }
    };
    names.iter().enumerate().map(define).collect()
}

fn draw_rules(rng: &mut Rng, world: &mut World) {
    for table in 0..world.tables.len() {
        let mut draw = |share: usize| match rng.below(8) {
            0 => Rule::Admins,
            number if number <= share => {
                Rule::When(FilterMaker::of_rules(world, table, false).valid(rng))
            }
            _ => Rule::Everyone,
        };
        let (view, create, update, delete) = (draw(3), draw(4), draw(4), draw(2));
        let manage = Some(draw(4));
        let rules = Rules {
            list: Rule::Everyone,
            view,
            create,
            update,
            delete,
            manage: manage.filter(|_| rng.one_in(2)),
            fields: grants::random_field_rules(rng, world, table),
            field_edits: grants::random_field_rules(rng, world, table),
        };
        world.tables[table].rules = rules;
    }
    world.publish_rules();
    store::check_rules(world);
}

/// Removes values that depend on the clock.
fn timeless(mut json: Json) -> Json {
    if let Some(object) = json.as_object_mut() {
        object.remove("created");
        object.remove("updated");
        let expanded = object.get_mut("expand").and_then(Json::as_object_mut);
        for below in expanded.into_iter().flat_map(|it| it.values_mut()) {
            *below = match below.take() {
                Json::Array(list) => list.into_iter().map(timeless).collect(),
                one => timeless(one),
            };
        }
    }
    json
}

/// The outcome of a change as a client sees it, without times.
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
    timeless(world.show(table, record, &Projection::default(), &Caller::Admin))
}

/// All records of a table as a client reads them.
fn contents(store: &Store, world: &World, table: usize) -> Vec<Json> {
    let (scope, collection) = (store::admin_scope(world), &world.tables[table].collection);
    let query = ListQuery {
        page: Page::new(1, 500),
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

impl Request {
    fn by_admin(rng: &mut Rng, world: &World) -> Request {
        let table = random_table(rng, world);
        Request {
            caller: Caller::Admin,
            projection: Projection::default(),
            is_proven: false,
            step: Step::create(rng, world, table, &Caller::Admin),
        }
    }

    fn random(rng: &mut Rng, world: &World) -> Request {
        let caller = Caller::random(rng, world);
        let step = Step::random(rng, world, &caller);
        // The response must contain the id.
        let projection = match rng.one_in(5) {
            true => Projection {
                fields: None,
                ..Projection::random(rng, world, step.table(), &caller)
            },
            false => Projection::default(),
        };
        Request {
            caller,
            projection,
            is_proven: rng.percent(75),
            step,
        }
    }

    fn run(&self, store: &Store, world: &World) -> Result<Option<Vec<u8>>> {
        let Table { collection, .. } = &world.tables[self.step.table()];
        let identity = store.identity(world, &self.caller);
        check_account(world, &self.caller, &identity);
        let (scope, collection) = (store::scope(world, identity), Arc::clone(collection));
        let shape = Shape::parse(None, Some(&self.projection.expand_text()))?;
        let database = store.database();
        let hash = |_: &str| Ok("a hash".to_owned());
        let to_create = |body| Draft::create(&scope, &collection, &store::body(body), &hash);
        let to_update = |body, id: Option<&String>| {
            let mut draft = Draft::update(&scope, &collection, &store::body(body), &hash)?;
            let is_account = world.tables[self.step.table()].is_auth();
            if let Some(id) = id.filter(|_| self.is_proven && is_account) {
                let secrets = database.read(|it| account::secrets(it, &collection, id))?;
                secrets.into_iter().for_each(|it| draft.prove(it.token_key));
            }
            Ok(draft)
        };
        let shown = match &self.step {
            Step::Create { body, .. } => {
                let draft = to_create(body)?;
                database.write(move |tx| records::create(tx, &scope, &collection, draft, &shape))
            }
            Step::Update { id, body, .. } => {
                let (draft, id) = (to_update(body, Some(id))?, id.clone());
                database
                    .write(move |tx| records::update(tx, &scope, &collection, &id, draft, &shape))
            }
            Step::Upsert { id, body, .. } => {
                let drafts = Upsert {
                    update: to_update(body, Some(id)),
                    create: to_create(body),
                };
                let id = id.clone();
                database.write(move |tx| {
                    records::update::upsert(tx, &scope, &collection, &id, drafts, &shape)
                })
            }
            Step::UpdateAll { ids, body, .. } => {
                let (draft, ids) = (to_update(body, None)?, ids.clone());
                let items = database.write(move |tx| {
                    records::bulk_update(tx, &scope, &collection, &ids, &draft, &shape)
                });
                return items.map(Some);
            }
            Step::Delete { id, .. } => {
                let (id, any) = (id.clone(), Precondition::default());
                database.write(move |tx| records::delete(tx, &scope, &collection, &id, &any))?;
                return Ok(None);
            }
            Step::DeleteAll { ids, .. } => {
                let ids = ids.clone();
                database.write(move |tx| records::bulk_delete(tx, &scope, &collection, &ids))?;
                return Ok(None);
            }
        };
        shown.map(|shown| Some(shown.json))
    }

    /// Applies the change to the model; `got` contains the generated id of a new record.
    fn run_on_model(&self, world: &mut World, got: &Outcome<Json>) -> Outcome<Json> {
        let before: Vec<Vec<world::Record>> = world
            .tables
            .iter()
            .map(|table| table.records.clone())
            .collect();
        let outcome = self.try_on_model(world, got);
        if outcome.is_err() {
            for (table, records) in world.tables.iter_mut().zip(before) {
                table.records = records;
            }
        }
        outcome
    }

    fn try_on_model(&self, world: &mut World, got: &Outcome<Json>) -> Outcome<Json> {
        let wanted = |body| WriteRequest {
            caller: &self.caller,
            body,
            is_proven: self.is_proven,
        };
        match &self.step {
            Step::Create { table, body } => {
                let id = got.as_ref().ok().and_then(|json| json["id"].as_str());
                let id = id.unwrap_or("none");
                world.create(*table, id, wanted(body))?;
                self.shown(world, *table, id)
            }
            Step::Update { table, id, body } => {
                world.update(*table, id, wanted(body))?;
                self.shown_if_seen(world, *table, id)
            }
            Step::Upsert { table, id, body } => {
                let is_new = world.find(*table, id).is_none();
                world.upsert(*table, id, wanted(body))?;
                match is_new {
                    true => self.shown(world, *table, id),
                    false => self.shown_if_seen(world, *table, id),
                }
            }
            Step::UpdateAll { table, ids, body } => {
                let mut items = Vec::new();
                // A proof for one account is not one for others.
                let wanted = WriteRequest {
                    is_proven: false,
                    ..wanted(body)
                };
                for id in ids {
                    world.update(*table, id, wanted)?;
                    items.push(self.shown_if_seen(world, *table, id)?);
                }
                Ok(json!({ "items": items }))
            }
            Step::Delete { table, id } => {
                let deleted = world.delete(*table, id, &self.caller);
                deleted.map(|()| Json::Null)
            }
            Step::DeleteAll { table, ids } => {
                let deleted = world.delete_all(*table, ids, &self.caller);
                deleted.map(|()| Json::Null)
            }
        }
    }

    /// A new record is returned to its creator.
    fn shown(&self, world: &World, table: usize, id: &str) -> Outcome<Json> {
        // An API key without the scope `read` gets only the id.
        let is_unseen = world
            .grant(table, grants::Verb::View, &self.caller)
            .is_denied();
        if is_unseen && matches!(self.caller, Caller::Key(_)) {
            return Ok(json!({ "id": id }));
        }
        // Without an id in the body, and with an invalid projection, the model does not know the
        // id.
        let record = world.find(table, id).ok_or(Kind::Internal)?;
        Ok(timeless(world.show_new(
            table,
            record,
            &self.projection,
            &self.caller,
        )))
    }

    /// The right to update a record does not include the right to view it.
    fn shown_if_seen(&self, world: &World, table: usize, id: &str) -> Outcome<Json> {
        self.shown(world, table, id)?;
        let record = world.find(table, id).unwrap();
        let shown = world.show(table, record, &self.projection, &self.caller);
        Ok(match world.may_view(table, record, &self.caller) {
            true => timeless(shown),
            false => json!({ "id": id }),
        })
    }
}

/// Checks that the server loads an account as the model does.
fn check_account(world: &World, caller: &Caller, identity: &Identity) {
    if let (Caller::User(Account { table, record }), Identity::User(user)) = (caller, identity) {
        let expected = callers::account_json(world, *table, record);
        let got = timeless(Json::Object(user.record.clone()));
        assert_eq!(got, timeless(Json::Object(expected)));
    }
}

impl Step {
    fn random(rng: &mut Rng, world: &World, caller: &Caller) -> Step {
        let table = random_table(rng, world);
        let records = &world.tables[table].records;
        let own = match caller {
            Caller::User(account) if account.table == table => Some(&account.record.id),
            _ => None,
        };
        let id = |rng: &mut Rng| match own {
            Some(own) if rng.one_in(2) => own.clone(),
            _ if records.is_empty() || rng.one_in(15) => world::record_id(rng.below(30)),
            _ => rng.pick(records).id.clone(),
        };
        let ids = |rng: &mut Rng| (0..rng.between(1, 4)).map(|_| id(rng)).collect();
        match rng.below(100) {
            0..=29 => Step::create(rng, world, table, caller),
            30..=64 => {
                let id = id(rng);
                let mut body = bodies::random(rng, world, table, caller, TargetId::Old(&id));
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
                let mut body = bodies::random(rng, world, table, caller, TargetId::New(&id));
                body.insert("id".to_owned(), json!(id));
                Step::Upsert { table, id, body }
            }
            75..=86 => Step::Delete { table, id: id(rng) },
            87..=94 => {
                let ids: Vec<String> = ids(rng);
                let body = bodies::random(rng, world, table, caller, TargetId::Old(&ids[0]));
                Step::UpdateAll { table, ids, body }
            }
            _ => Step::DeleteAll {
                table,
                ids: ids(rng),
            },
        }
    }

    fn create(rng: &mut Rng, world: &World, table: usize, caller: &Caller) -> Step {
        let own = world::record_id(rng.below(30));
        let mut body = bodies::random(rng, world, table, caller, TargetId::New(&own));
        // A rule may read the id, so the model must know it in advance.
        let has_rule = matches!(world.tables[table].rules.create, Rule::When(_));
        let is_own_account = world.tables[table].is_auth() && !caller.manages();
        let looks_at_id = format!("{:?}", world.tables[table].rules.create).contains("\"id\"");
        if is_own_account && !looks_at_id && !rng.one_in(8) {
            // Accounts cannot choose their id.
        } else if has_rule || rng.percent(60) {
            body.insert("id".to_owned(), json!(own));
        } else if rng.one_in(10) {
            body.insert(
                "id".to_owned(),
                rng.pick(&[json!(""), json!(5), json!("a b")]).clone(),
            );
        }
        Step::Create { table, body }
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
}

/// Accounts change about as often as all other tables together.
fn random_table(rng: &mut Rng, world: &World) -> usize {
    match rng.percent(40) {
        true => *rng.pick(&world.accounts()),
        false => rng.below(world.tables.len()),
    }
}
