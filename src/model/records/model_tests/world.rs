//! Random collections and records of every type, as plain Rust values.

use std::cmp::Ordering;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::filters;
use crate::model::collections::{Collection, CollectionKind, Collections, Field, FieldKind};
use crate::model::filter::Expr;
use crate::model::rules;
use crate::model::rules::FieldRules;
use crate::tests::rng::Rng;

/// Auth collections; every world has the first.
const ACCOUNTS: [&str; 2] = ["users", "members"];
/// Groups of accounts.
pub const GROUPS: [&str; 4] = ["staff", "boss", "guests", "*"];

/// The fields of a collection; relations come last, so that they can be circular.
pub struct Definition {
    pub name: String,
    pub is_auth: bool,
    pub plain: Vec<Json>,
    pub relations: Vec<Json>,
}

/// A stored value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Unset,
    Number(Number),
    Flag(bool),
    Text(String),
    List(Vec<String>),
    Json(Json),
}

#[derive(Clone, Copy, Debug)]
pub enum Number {
    Integer(i64),
    Real(f64),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub id: String,
    pub created: String,
    pub updated: String,
    /// In field order.
    pub values: Vec<Value>,
}

/// A rule.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Rule {
    Admins,
    #[default]
    Everyone,
    When(Expr),
}

#[derive(Clone, Debug, Default)]
pub struct Rules {
    pub list: Rule,
    pub view: Rule,
    pub create: Rule,
    pub update: Rule,
    pub delete: Rule,
    /// None for admins only.
    pub manage: Option<Rule>,
    pub fields: Option<FieldRules>,
    pub field_edits: Option<FieldRules>,
}

#[derive(Clone, Debug)]
pub struct Table {
    pub collection: Arc<Collection>,
    /// In order of creation.
    pub records: Vec<Record>,
    pub rules: Rules,
}

/// The contents of a database.
pub struct World {
    pub tables: Vec<Table>,
    /// The definitions with the current rules.
    pub collections: Arc<Collections>,
}

impl Number {
    /// As a numeric column stores it: whole numbers are integers.
    pub fn stored(real: f64) -> Number {
        let is_whole = real.fract() == 0.0 && real.abs() < INTEGERS_END;
        if is_whole {
            Number::Integer(real as i64)
        } else {
            Number::Real(real)
        }
    }

    pub fn as_real(self) -> f64 {
        match self {
            Number::Integer(integer) => integer as f64,
            Number::Real(real) => real,
        }
    }

    pub fn to_json(self) -> Json {
        match self {
            Number::Integer(integer) => json!(integer),
            Number::Real(real) => json!(real),
        }
    }

    /// Exact, even between integers and reals.
    pub fn compare(self, other: Number) -> Ordering {
        match (self, other) {
            (Number::Integer(a), Number::Integer(b)) => a.cmp(&b),
            (Number::Real(a), Number::Real(b)) => a.partial_cmp(&b).unwrap(),
            (Number::Integer(a), Number::Real(b)) => compare_mixed(a, b),
            (Number::Real(a), Number::Integer(b)) => compare_mixed(b, a).reverse(),
        }
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Number) -> bool {
        self.compare(*other) == Ordering::Equal
    }
}

/// The first number too large for an integer.
const INTEGERS_END: f64 = 9_223_372_036_854_775_808.0;

fn compare_mixed(integer: i64, real: f64) -> Ordering {
    if real >= INTEGERS_END {
        return Ordering::Less;
    }
    if real < -INTEGERS_END {
        return Ordering::Greater;
    }
    let whole = integer.cmp(&(real.trunc() as i64));
    whole.then(0.0.partial_cmp(&real.fract()).unwrap())
}

impl Table {
    pub fn is_auth(&self) -> bool {
        self.collection.kind == CollectionKind::Auth
    }
}

impl Record {
    pub fn value<'a>(&'a self, collection: &Collection, name: &str) -> &'a Value {
        let at = collection
            .fields
            .iter()
            .position(|field| field.name == name);
        &self.values[at.unwrap()]
    }
}

impl Value {
    /// The strings of a field with several values.
    pub fn texts(&self) -> Vec<String> {
        match self {
            Value::Text(text) => vec![text.clone()],
            Value::List(list) => list.clone(),
            _ => Vec::new(),
        }
    }

    /// The JSON that a client sends.
    pub fn wire(&self) -> Json {
        match self {
            Value::Unset => Json::Null,
            Value::Number(number) => number.to_json(),
            Value::Flag(flag) => json!(flag),
            Value::Text(text) => json!(text),
            Value::List(list) => json!(list),
            Value::Json(json) => json.clone(),
        }
    }
}

impl World {
    pub fn table(&self, id: &str) -> usize {
        self.tables
            .iter()
            .position(|table| table.collection.id == id)
            .unwrap()
    }

    pub fn target(&self, field: &Field) -> Option<usize> {
        field
            .relation()
            .map(|options| self.table(&options.collection_id))
    }

    /// A name such as `posts_via_author` for records that name those of this table, with theirs.
    pub fn random_back_relation(&self, rng: &mut Rng, table: usize) -> Option<(String, usize)> {
        let mut all = Vec::new();
        for (at, other) in self.tables.iter().enumerate() {
            let fields = other.collection.fields.iter();
            let fields = fields.filter(|field| self.target(field) == Some(table));
            all.extend(fields.map(|it| (format!("{}_via_{}", other.collection.name, it.name), at)));
        }
        (!all.is_empty()).then(|| rng.pick(&all).clone())
    }

    /// The auth collections.
    pub fn accounts(&self) -> Vec<usize> {
        let tables = 0..self.tables.len();
        tables.filter(|at| self.tables[*at].is_auth()).collect()
    }

    /// Updates the definitions to the rules of the tables.
    pub fn publish_rules(&mut self) {
        let parsed = |expr| rules::Rule::parse(filters::render_plainly(expr)).unwrap();
        for table in &mut self.tables {
            let mut collection = Collection::clone(&table.collection);
            let rules = &table.rules;
            for (text, rule) in [
                (&mut collection.rules.list, &rules.list),
                (&mut collection.rules.view, &rules.view),
                (&mut collection.rules.create, &rules.create),
                (&mut collection.rules.update, &rules.update),
                (&mut collection.rules.delete, &rules.delete),
            ] {
                *text = match rule {
                    Rule::Admins => None,
                    Rule::Everyone => Some(rules::Rule::everyone()),
                    Rule::When(expr) => Some(parsed(expr)),
                };
            }
            collection.rules.manage = match &rules.manage {
                None | Some(Rule::Admins) => None,
                Some(Rule::Everyone) => Some(rules::Rule::everyone()),
                Some(Rule::When(expr)) => Some(parsed(expr)),
            };
            collection.rules.fields.clone_from(&rules.fields);
            collection.rules.field_edits.clone_from(&rules.field_edits);
            table.collection = Arc::new(collection);
        }
        let all = self
            .tables
            .iter()
            .map(|table| Collection::clone(&table.collection));
        self.collections = Arc::new(all.collect());
    }
}

const TABLE_NAMES: [&str; 7] = [
    "posts", "order", "r1", "Values", "select", "authors", "json",
];
const FIELD_NAMES: [&str; 24] = [
    "name",
    "value",
    "key",
    "group",
    "from",
    "Order",
    "total",
    "r0",
    "r1",
    "json",
    "type",
    "select",
    "index",
    "a",
    "b_2",
    "Z9",
    "limit",
    "where",
    "exists",
    "rowIdx",
    "json_each",
    "count",
    "vski_like",
    "fullkey",
];
pub const CHOICES: [&str; 8] = ["a", "b", "c", "ab", "5", "x y", "\u{e9}t\u{e9}", "\"q\""];

/// Random definitions; the last ones are auth collections.
pub fn random_definitions(rng: &mut Rng) -> Vec<Definition> {
    let mut names: Vec<String> = Vec::new();
    while names.len() < rng.between(2, 3) {
        let name = rng.word(&TABLE_NAMES);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let accounts = if rng.one_in(3) { 2 } else { 1 };
    names.extend(ACCOUNTS[..accounts].iter().map(|name| (*name).to_owned()));
    let define = |name: &String| {
        let mut free: Vec<&str> = FIELD_NAMES.to_vec();
        let mut take = |rng: &mut Rng| {
            let name = free.remove(rng.below(free.len()));
            free.retain(|other| !other.eq_ignore_ascii_case(name));
            name
        };
        let is_auth = ACCOUNTS.contains(&name.as_str());
        let mut plain = random_plain_fields(rng, &mut take);
        if is_auth && rng.percent(85) {
            plain.push(random_groups_field(rng));
        }
        let mut relation = |rng: &mut Rng| {
            json!({"name": take(rng), "type": "relation", "collectionId": rng.pick(&names),
                "maxSelect": *rng.pick(&[1, 1, 3, 50]), "hidden": rng.one_in(10)})
        };
        let count = rng.between(1, 3);
        let relations = (0..count).map(|_| relation(rng)).collect();
        Definition {
            name: name.clone(),
            is_auth,
            plain,
            relations,
        }
    };
    names.iter().map(define).collect()
}

/// The groups of an account, in any type that can hold them.
pub fn random_groups_field(rng: &mut Rng) -> Json {
    let mut field = rng
        .pick(&[
            json!({"type": "json"}),
            json!({"type": "json"}),
            json!({"type": "select", "values": GROUPS, "maxSelect": 3}),
            json!({"type": "select", "values": GROUPS}),
            json!({"type": "text"}),
        ])
        .clone();
    field["name"] = json!("groups");
    field["hidden"] = json!(rng.one_in(3));
    field
}

fn random_plain_fields(
    rng: &mut Rng,
    take: &mut impl FnMut(&mut Rng) -> &'static str,
) -> Vec<Json> {
    let kinds = [
        json!({"type": "text"}),
        json!({"type": "text"}),
        json!({"type": "email"}),
        json!({"type": "url"}),
        json!({"type": "editor"}),
        json!({"type": "number", "nullable": true}),
        json!({"type": "number", "nullable": true}),
        json!({"type": "bool"}),
        json!({"type": "date"}),
        json!({"type": "datetime"}),
        json!({"type": "select", "values": CHOICES}),
        json!({"type": "select", "values": CHOICES, "maxSelect": 4}),
        json!({"type": "json"}),
    ];
    let mut fields = Vec::new();
    for mut field in kinds {
        if rng.percent(55) {
            field["name"] = json!(take(rng));
            field["hidden"] = json!(rng.one_in(8));
            fields.push(field);
        }
    }
    fields
}

pub const TEXTS: [&str; 29] = [
    "a",
    "A",
    "b",
    "abc",
    "ABC",
    "Abc d",
    "50%",
    "50\\%",
    "a_b",
    "%",
    "%%",
    "O'Reilly",
    "\"q\"",
    "back\\slash",
    "\\'",
    "5",
    "1.5",
    "-3",
    "1e3",
    "true",
    "2020-01-01",
    "\u{fc}ber",
    "\u{dc}BER",
    "\u{65e5}\u{672c}",
    "\u{1f600}x",
    " a ",
    "null",
    "[1]",
    "{}",
];
pub const NUMBERS: [Number; 20] = [
    Number::Integer(0),
    Number::Integer(1),
    Number::Integer(-1),
    Number::Integer(2),
    Number::Integer(3),
    Number::Integer(5),
    Number::Integer(-3),
    Number::Integer(1000),
    Number::Integer(10_000_000_000),
    Number::Integer(9_007_199_254_740_993),
    Number::Integer(i64::MAX),
    Number::Integer(i64::MIN),
    Number::Real(0.5),
    Number::Real(-0.5),
    Number::Real(1.5),
    Number::Real(2.25),
    Number::Real(0.1),
    Number::Real(1e300),
    Number::Real(-1e300),
    Number::Real(1e-9),
];
pub const DAYS: [&str; 6] = [
    "2020-01-01",
    "2020-02-29",
    "1999-12-31",
    "2015-06-15",
    "9999-12-31",
    "0001-01-01",
];
pub const MOMENTS: [&str; 8] = [
    "2015-06-15T00:00:00.000Z",
    "2020-01-01T00:00:00.000Z",
    "2020-01-01T12:30:00.000Z",
    "2020-02-29T23:59:59.999Z",
    "1999-12-31T23:00:00.000Z",
    "9999-12-31T23:59:59.999Z",
    "0001-01-01T00:00:00.001Z",
    "2015-06-15T08:00:00.123Z",
];
pub const JSON_KEYS: [&str; 6] = ["a", "b", "colour", "0", "1", "in"];

/// A record id; the same ones in every collection, some of which look like numbers.
pub fn record_id(at: usize) -> String {
    match at % 3 {
        0 => format!("{at}"),
        1 => format!("id{at}"),
        _ => format!("ID-{at}"),
    }
}

/// A value for a field of record number `at`; relations choose among `ids`.
pub fn random_value(rng: &mut Rng, field: &Field, at: usize, ids: &[String]) -> Value {
    if field.unique {
        return Value::Text(format!("u{at}@example.org"));
    }
    if let FieldKind::Bool = field.kind {
        return Value::Flag(rng.one_in(2));
    }
    if !field.required && rng.percent(25) {
        return Value::Unset;
    }
    match &field.kind {
        FieldKind::Json { .. } if field.name == "groups" => Value::Json(random_groups(rng)),
        FieldKind::Text(_) if field.name == "groups" => Value::Text(rng.word(&GROUPS)),
        FieldKind::Text(_) | FieldKind::Editor { .. } => Value::Text(rng.word(&TEXTS)),
        FieldKind::Email(_) => Value::Text(rng.word(&["a@x.org", "A@x.org", "b@y.net"])),
        FieldKind::Url(_) => Value::Text(rng.word(&["https://x.org", "http://Y.net/a%20b?c"])),
        FieldKind::Number { .. } => Value::Number(random_number(rng)),
        FieldKind::Date(_) => Value::Text(match rng.one_in(2) {
            true => rng.word(&DAYS),
            false => rng.word(&MOMENTS),
        }),
        FieldKind::Datetime(_) => Value::Text(rng.word(&MOMENTS)),
        FieldKind::Json { .. } => match random_json(rng, 3) {
            Json::Null => Value::Unset,
            json => Value::Json(json),
        },
        FieldKind::Select { values, select_max } => choose(rng, values, *select_max),
        FieldKind::Relation(options) => choose(rng, ids, options.select_max),
        // Files need multipart requests.
        FieldKind::File(_) => Value::Unset,
        FieldKind::Bool
        | FieldKind::Password { .. }
        | FieldKind::Autodate { .. }
        | FieldKind::GeoPoint => Value::Unset,
    }
}

/// Mostly a list of groups, sometimes one group or neither.
fn random_groups(rng: &mut Rng) -> Json {
    match rng.below(10) {
        0 => json!(rng.pick(&GROUPS)),
        1 => rng
            .pick(&[
                json!([]),
                json!({"staff": 1}),
                json!(5),
                json!(""),
                json!([["staff"]]),
            ])
            .clone(),
        2 => json!([5, rng.pick(&GROUPS), null, "", {"boss": 1}]),
        _ => (0..rng.between(1, 2))
            .map(|_| json!(rng.pick(&GROUPS)))
            .collect(),
    }
}

fn random_number(rng: &mut Rng) -> Number {
    match rng.below(20) {
        0 => loop {
            let real = f64::from_bits(rng.bits());
            if real.is_finite() {
                return Number::stored(real);
            }
        },
        _ => *rng.pick(&NUMBERS),
    }
}

fn choose(rng: &mut Rng, from: &[String], most: usize) -> Value {
    if from.is_empty() {
        return Value::Unset;
    }
    if most == 1 {
        return Value::Text(rng.pick(from).clone());
    }
    let mut list: Vec<String> = Vec::new();
    for _ in 0..rng.between(1, most.min(4)) {
        let text = rng.pick(from);
        if !list.contains(text) {
            list.push(text.clone());
        }
    }
    Value::List(list)
}

/// JSON whose numbers have only one notation.
fn random_json(rng: &mut Rng, depth: usize) -> Json {
    match rng.below(if depth == 0 { 5 } else { 9 }) {
        0 => Json::Null,
        1 => json!(rng.one_in(2)),
        2 => json!(*rng.pick(&[0, 1, 5, -3, 1000])),
        3 => json!(*rng.pick(&[0.5, 1.5, 2.25, -0.5])),
        4 => json!(if rng.one_in(5) {
            String::new()
        } else {
            rng.word(&TEXTS)
        }),
        5 | 6 => (0..rng.below(4))
            .map(|_| random_json(rng, depth - 1))
            .collect(),
        _ => {
            let mut object = serde_json::Map::new();
            for _ in 0..rng.between(1, 4) {
                object.insert(rng.word(&JSON_KEYS), random_json(rng, depth - 1));
            }
            Json::Object(object)
        }
    }
}

impl World {
    /// The id of a record of a table, unique among accounts.
    fn id(&self, table: usize, at: usize) -> String {
        match self.accounts().iter().position(|it| *it == table) {
            Some(number) if number > 0 => format!("{}-{number}", record_id(at)),
            _ => record_id(at),
        }
    }
}

/// Fills each table of a world with this many random records.
pub fn fill(rng: &mut Rng, world: &mut World, counts: &[usize]) {
    for (table_at, count) in counts.iter().enumerate() {
        let collection = Arc::clone(&world.tables[table_at].collection);
        for at in 0..*count {
            let values = collection.fields.iter().map(|field| {
                let ids: Vec<String> = match world.target(field) {
                    Some(target) => (0..counts[target]).map(|at| world.id(target, at)).collect(),
                    None => Vec::new(),
                };
                random_value(rng, field, at, &ids)
            });
            let values = values.collect();
            let (created, updated) = (rng.word(&MOMENTS), rng.word(&MOMENTS));
            let record = Record {
                id: world.id(table_at, at),
                created,
                updated,
                values,
            };
            world.tables[table_at].records.push(record);
        }
    }
}
