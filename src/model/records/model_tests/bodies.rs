//! Generates random request bodies, most of them valid.

use serde_json::{Value as Json, json};

use super::callers::Caller;
use super::grants::{ReadableFields, Verb};
use super::world;
use super::world::World;
use super::writes::Body;
use crate::model::collections::{Field, FieldKind};
use crate::tests::rng::Rng;

/// The id of the record to create or update.
#[derive(Clone, Copy)]
pub enum TargetId<'a> {
    New(&'a str),
    Old(&'a str),
}

/// Values for some of the fields, a few of them invalid.
pub fn random(
    rng: &mut Rng,
    world: &World,
    table: usize,
    caller: &Caller,
    aim: TargetId<'_>,
) -> Body {
    let mut body = Body::new();
    let (own, is_new) = match aim {
        TargetId::New(own) => (own, true),
        TargetId::Old(own) => (own, false),
    };
    let verb = if is_new { Verb::Create } else { Verb::Update };
    let grant = world.grant(table, verb, caller);
    let is_auth = world.tables[table].is_auth();
    let share = if is_new { 60 } else { 25 };
    for field in &world.tables[table].collection.fields {
        let is_wanted = (field.required && is_new && !rng.one_in(15)) || rng.percent(share);
        let is_reserved = is_auth && ["verified", "groups"].contains(&field.name.as_str());
        let is_wanted = is_wanted || (is_auth && field.name == "email" && rng.one_in(3));
        let is_foreign = is_reserved && !caller.manages() && !grant.fields.names(&field.name);
        // A field that `*` includes but that is not writable is tried more often.
        let is_tempting =
            is_foreign && matches!(grant.fields, ReadableFields::Named(_)) && rng.one_in(2);
        let is_refused = (is_foreign && !is_tempting) || !grant.fields.knows(field);
        if !is_wanted || (is_refused && !rng.one_in(7)) {
            continue;
        }
        if is_foreign && rng.one_in(3) {
            let unset = [json!(null), json!(""), json!(false), json!([])];
            body.insert(field.name.clone(), rng.pick(&unset).clone());
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
    if rng.one_in(20) {
        let names = ["collectionName", "expand", "emailVisibility", "oldPassword"];
        body.insert(rng.word(&names), json!(true));
    }
    if is_auth && rng.one_in(4) {
        let password = body.get("password").filter(|_| !rng.one_in(10)).cloned();
        let again = password.unwrap_or(json!("another"));
        body.insert("passwordConfirm".to_owned(), again);
    }
    if is_auth && !is_new && rng.one_in(5) {
        // Few fields that can be invalid: an email, most often the current one, and its state.
        let email = known_email(rng, world, table, own).unwrap_or_default();
        body = Body::new();
        body.insert("email".to_owned(), json!(email));
        body.insert("verified".to_owned(), json!(rng.one_in(3)));
    }
    body
}

/// The email of the record or of another one, sometimes in another case.
fn known_email(rng: &mut Rng, world: &World, table: usize, own: &str) -> Option<String> {
    let records = &world.tables[table].records;
    world.tables[table].collection.field("email")?;
    let record = match rng.one_in(3) {
        true => records.get(rng.below(records.len() + 1)),
        false => world.find(table, own),
    };
    let values = record?.value(&world.tables[table].collection, "email");
    let email = values.texts().concat();
    Some(match rng.below(3) {
        0 => email.to_uppercase(),
        1 => email.to_lowercase(),
        _ => email,
    })
}

/// A value that few fields accept.
fn odd_value(rng: &mut Rng) -> Json {
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
    rng.pick(&odd).clone()
}

fn random_wire(rng: &mut Rng, world: &World, table: usize, own: &str, field: &Field) -> Json {
    if rng.one_in(50) {
        return odd_value(rng);
    }
    if let FieldKind::Number {
        integers_only: true,
        ..
    } = field.kind
    {
        return json!(i64::try_from(rng.below(12)).unwrap() - 6);
    }
    match field.kind {
        FieldKind::Password { .. } => return json!(rng.word(&["12345678", "87654321", "short"])),
        FieldKind::Email(_) if rng.one_in(2) => {
            if let Some(email) = known_email(rng, world, table, own) {
                return json!(email);
            }
        }
        FieldKind::Bool if rng.one_in(3) => {
            let forms = [
                json!(null),
                json!(""),
                json!("1"),
                json!("false"),
                json!(1),
                json!(0),
            ];
            return rng.pick(&forms).clone();
        }
        _ => {}
    }
    let mut ids: Vec<String> = Vec::new();
    if let Some(target) = world.target(field) {
        ids.extend(
            world.tables[target]
                .records
                .iter()
                .map(|record| record.id.clone()),
        );
        // The record itself, which may not exist yet, or one with the same id elsewhere.
        if (target == table && rng.one_in(3)) || rng.one_in(20) {
            ids.push(own.to_owned());
        }
    }
    let at = rng.below(50);
    world::random_value(rng, field, at, &ids).wire()
}

/// A value to add to a number or list, or to remove from it.
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
