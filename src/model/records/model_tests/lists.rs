//! Pages of records: every response must equal that of the model.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::callers::Caller;
use super::filters::FilterMaker;
use super::grants::Verb;
use super::model::EvalContext;
use super::show::Projection;
use super::store::Store;
use super::world::{Rule, Rules, World};
use super::{callers, filters, grants, store};
use crate::base::error::{Kind, Result};
use crate::base::paging::Page;
use crate::model::filter::{Expr, SortTerm};
use crate::model::records::{ListQuery, Shape};
use crate::model::rules::Identity;
use crate::model::{filter, records};
use crate::tests::rng;
use crate::tests::rng::Rng;

/// Cases per set of rules.
const CASES_PER_RULES: usize = 40;
/// Cases per set of records.
const CASES_PER_WORLD: usize = 1000;

/// The result of a request that exceeds a limit.
const TOO_LONG: &str = "too long";

/// A request and all its random parameters.
#[derive(Debug)]
struct Case {
    table: usize,
    caller: Caller,
    filter: Option<Expr>,
    sort: Vec<SortTerm>,
    projection: Projection,
    /// Page number and size, as in the request.
    page: (u64, u64),
    query: ListQuery,
}

#[test]
fn a_list_is_what_the_model_says() {
    rng::rounds("a_list_is_what_the_model_says", 6_000, |rng, left| {
        run_round(rng, left.min(CASES_PER_WORLD), |rng, world| {
            for table in 0..world.tables.len() {
                let rules = Rules {
                    view: random_view_rule(rng, world, table),
                    manage: rng.one_in(2).then(|| random_rule(rng, world, table)),
                    fields: grants::random_field_rules(rng, world, table).filter(|_| rng.one_in(3)),
                    ..Rules::default()
                };
                world.tables[table].rules = rules;
            }
        })
    });
}

#[test]
fn rules_and_filters_together_are_what_the_model_says() {
    rng::rounds(
        "rules_and_filters_together_are_what_the_model_says",
        6_000,
        |rng, left| {
            run_round(rng, left.min(CASES_PER_WORLD), |rng, world| {
                for table in 0..world.tables.len() {
                    let list = random_rule(rng, world, table);
                    let view = random_rule(rng, world, table);
                    let fields = grants::random_field_rules(rng, world, table);
                    let manage = rng.one_in(2).then(|| random_rule(rng, world, table));
                    world.tables[table].rules = Rules {
                        list,
                        view,
                        manage,
                        fields,
                        ..Rules::default()
                    };
                }
            })
        },
    );
}

fn run_round(
    rng: &mut Rng,
    cases: usize,
    mut draw_rules: impl FnMut(&mut Rng, &mut World),
) -> usize {
    let store = Store::open();
    let mut world = store.random_world(rng);
    let mut too_long = 0;
    for number in 0..cases {
        if number % CASES_PER_RULES == 0 {
            draw_rules(rng, &mut world);
            world.publish_rules();
            store::check_rules(&world);
        }
        let table = rng.below(world.tables.len());
        let caller = Caller::random(rng, &world);
        if rng.one_in(20) {
            check_account(&store, &world, &caller);
        }
        if rng.one_in(6) {
            check_get(rng, &store, &world, table, &caller);
        }
        let case = Case::random(rng, &world, table, caller);
        if !case.check(&store, &world) {
            too_long += 1;
        }
    }
    assert!(
        cases < 1000 || too_long * 20 < cases,
        "{too_long} of {cases} were too long"
    );
    cases
}

fn random_view_rule(rng: &mut Rng, world: &World, table: usize) -> Rule {
    match rng.below(4) {
        0 => Rule::Admins,
        1 => Rule::When(FilterMaker::of_rules(world, table, true).valid(rng)),
        _ => Rule::Everyone,
    }
}

fn random_rule(rng: &mut Rng, world: &World, table: usize) -> Rule {
    match rng.below(10) {
        0 => Rule::Admins,
        1 => Rule::Everyone,
        _ => Rule::When(FilterMaker::of_rules(world, table, true).valid(rng)),
    }
}

/// An account loads as in the model: with hidden fields and without the password.
fn check_account(store: &Store, world: &World, caller: &Caller) {
    if let (Caller::User(account), Identity::User(user)) = (caller, store.identity(world, caller)) {
        let expected = callers::account_json(world, account.table, &account.record);
        assert_eq!(user.record, expected);
        // The names of fields are those of the definition.
        let mut user = Arc::unwrap_or_clone(user);
        user.field_names = Arc::default();
        assert_eq!(
            Identity::User(Arc::new(user)),
            caller.identity(world),
            "ids and names of {account:?}"
        );
    }
}

/// A record by its id, or by an id that does not exist.
fn check_get(rng: &mut Rng, store: &Store, world: &World, table: usize, caller: &Caller) {
    let id = super::world::record_id(rng.below(20));
    let (projection, scope) = (
        Projection::random(rng, world, table, caller),
        store::scope(world, caller.identity(world)),
    );
    let collection = &world.tables[table].collection;
    let shape = shape(&projection);
    let got = store.database().snapshot(|connection| {
        let expected = records::Precondition::default();
        records::get(connection, &scope, collection, &id, &shape, &expected).map(|it| it.json)
    });
    let record = world.find(table, &id);
    let record = record.filter(|record| world.may_view(table, record, caller));
    let expected = match record {
        _ if world.grant(table, Verb::View, caller).is_denied() => Err(Kind::Forbidden),
        None => Err(Kind::NotFound),
        Some(record) => Ok(world.show(table, record, &projection, caller)),
    };
    let got = read(got);
    assert_eq!(
        got, expected,
        "get {id} of {}, {caller:?}, {projection:?}, {:?}",
        collection.name, collection.rules
    );
}

fn shape(projection: &Projection) -> Shape {
    Shape::parse(
        projection.fields_text().as_deref(),
        Some(&projection.expand_text()),
    )
    .unwrap()
}

fn read(answer: Result<Vec<u8>>) -> Result<Json, Kind> {
    match answer {
        Ok(body) => Ok(serde_json::from_slice(&body).unwrap()),
        Err(error) if error.kind() == Kind::Internal => panic!("internal: {error}"),
        Err(error) => Err(error.kind()),
    }
}

impl Case {
    fn random(rng: &mut Rng, world: &World, table: usize, caller: Caller) -> Case {
        let maker = FilterMaker {
            world,
            table,
            context: EvalContext::by(&caller),
            times: true,
        };
        let filter = rng.percent(90).then(|| maker.expr(rng, 3));
        let sort = if rng.percent(60) {
            maker.sort(rng)
        } else {
            Vec::new()
        };
        let projection = match rng.below(4) {
            0 => Projection::random(rng, world, table, &caller),
            1 => Projection::default(),
            _ => Projection {
                fields: Some(vec![vec!["id".to_owned()]]),
                expand: Vec::new(),
            },
        };
        let filter_text = filter.as_ref().map(|expr| filters::render(rng, expr));
        let page = (
            *rng.pick(&[0, 1, 1, 1, 1, 2, 3, 9]),
            *rng.pick(&[0, 1, 2, 5, 5, 10, 500, 9999]),
        );
        let query = ListQuery {
            page: Page::new(page.0, page.1),
            sort: filters::render_sort(rng, &sort),
            filter: filter_text.unwrap_or_default(),
            skip_total: rng.one_in(4),
        };
        Case {
            table,
            caller,
            filter,
            sort,
            projection,
            page,
            query,
        }
    }

    /// False if the condition and the rules on its way take too many steps.
    fn check(mut self, store: &Store, world: &World) -> bool {
        self.check_parse();
        match self.failure(store, world) {
            None => return true,
            Some(failure) if failure == TOO_LONG => return false,
            Some(_) => {}
        }
        // The simplest condition that still fails is the most useful one.
        while let Some(simpler) = self.simpler_failure(store, world) {
            self.query.filter = filters::render_plainly(&simpler);
            self.filter = Some(simpler);
        }
        let failure = self.failure(store, world).unwrap_or_default();
        panic!("{}\n{failure}", self.describe(world));
    }

    fn simpler_failure(&mut self, store: &Store, world: &World) -> Option<Expr> {
        let before = (self.filter.clone(), self.query.filter.clone());
        let found = simpler(before.0.as_ref()?).into_iter().find(|expr| {
            self.query.filter = filters::render_plainly(expr);
            self.filter = Some(expr.clone());
            self.failure(store, world)
                .is_some_and(|failure| failure != TOO_LONG)
        });
        (self.filter, self.query.filter) = before;
        found
    }

    fn failure(&self, store: &Store, world: &World) -> Option<String> {
        let table = &world.tables[self.table];
        let (scope, shape) = (
            store::scope(world, self.caller.identity(world)),
            shape(&self.projection),
        );
        let answer = store.database().snapshot(|connection| {
            records::list(connection, &scope, &table.collection, &self.query, &shape)
        });
        match answer {
            Err(error) if error.kind() == Kind::Internal => Some(format!("internal: {error}")),
            Err(error) if error.message().contains("100 steps") => Some(TOO_LONG.to_owned()),
            answer => {
                let (got, expected) = (read(answer), self.expected(world));
                (got != expected).then(|| first_difference(&got, &expected))
            }
        }
    }

    /// Checks that the text parses to the tree from which it was made.
    fn check_parse(&self) {
        if let Some(expr) = &self.filter {
            assert_eq!(
                filter::parse(&self.query.filter).unwrap(),
                *expr,
                "{}",
                self.query.filter
            );
        }
        let sort = filter::parse_sort(&self.query.sort).unwrap();
        assert_eq!(sort, self.sort, "{}", self.query.sort);
    }

    fn expected(&self, world: &World) -> Result<Json, Kind> {
        let (table, caller) = (&world.tables[self.table], &self.caller);
        if world.grant(self.table, Verb::List, caller).is_denied() {
            return Err(Kind::Forbidden);
        }
        let is_wrong = |expr: &Expr| world.refuses(expr, self.table, EvalContext::by(caller));
        if self.filter.as_ref().is_some_and(is_wrong)
            || world.refuses_sort(&self.sort, self.table, caller)
        {
            return Err(Kind::Invalid);
        }
        let found = self.found(world);
        let per_page = match self.page.1 {
            0 => 30,
            number => usize::try_from(number.min(1000)).unwrap(),
        };
        let page = usize::try_from(self.page.0.max(1)).unwrap();
        let shown = found.iter().skip((page - 1) * per_page).take(per_page);
        let show =
            |at: &usize| world.show(self.table, &table.records[*at], &self.projection, caller);
        let items: Vec<Json> = shown.map(show).collect();
        let (total, pages) = match self.query.skip_total {
            true => (json!(-1), json!(-1)),
            false => (json!(found.len()), json!(found.len().div_ceil(per_page))),
        };
        Ok(
            json!({"page": page, "perPage": per_page, "totalItems": total, "totalPages": pages,
            "items": items}),
        )
    }

    /// The indexes of all matching records, in order.
    fn found(&self, world: &World) -> Vec<usize> {
        let table = &world.tables[self.table];
        let grant = world.grant(self.table, Verb::List, &self.caller);
        let is_found = |at: &usize| {
            let record = &table.records[*at];
            let context = EvalContext::by(&self.caller);
            let holds = |expr: &Expr| world.holds(expr, self.table, record, context);
            world.admits(&grant, self.table, record, &self.caller, None)
                && self.filter.as_ref().is_none_or(holds)
        };
        let mut found = (0..table.records.len()).filter(is_found).collect();
        world.sort(&self.sort, self.table, &self.caller, &mut found);
        found
    }

    fn describe(&self, world: &World) -> String {
        let table = &world.tables[self.table];
        let fields: Vec<String> = table
            .collection
            .fields
            .iter()
            .map(|field| format!("{} {}", field.name, field.kind.name()))
            .collect();
        let records: Vec<String> = table
            .records
            .iter()
            .map(|record| format!("\n  {record:?}"))
            .collect();
        let rules: Vec<String> = world
            .tables
            .iter()
            .map(|table| format!("\n  {} {:?}", table.collection.name, table.collection.rules))
            .collect();
        format!(
            "{self:?}\nfields {fields:?}\nrules{}\nrecords{}",
            rules.concat(),
            records.concat()
        )
    }
}

/// The first difference of two responses.
fn first_difference(got: &Result<Json, Kind>, expected: &Result<Json, Kind>) -> String {
    let (Ok(a), Ok(b)) = (got, expected) else {
        return format!("got {got:?}\nexpected {expected:?}");
    };
    let ids = |json: &Json| -> Vec<String> {
        json["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["id"].to_string())
            .collect()
    };
    let place = json_difference("", a, b).unwrap_or_default();
    format!(
        "{place}\ngot {}\nexpected {}",
        ids(a).join(" "),
        ids(b).join(" ")
    )
}

fn json_difference(path: &str, a: &Json, b: &Json) -> Option<String> {
    match (a, b) {
        _ if a == b => None,
        (Json::Object(a), Json::Object(b)) if a.keys().eq(b.keys()) => {
            let mut pairs = a.iter().zip(b.values());
            pairs.find_map(|((key, a), b)| json_difference(&format!("{path}/{key}"), a, b))
        }
        (Json::Array(a), Json::Array(b)) if a.len() == b.len() => {
            let mut pairs = a.iter().zip(b).enumerate();
            pairs.find_map(|(at, (a, b))| json_difference(&format!("{path}/{at}"), a, b))
        }
        _ => Some(format!("{path}: got {a}, expected {b}")),
    }
}

/// The conditions that are one step simpler.
fn simpler(expr: &Expr) -> Vec<Expr> {
    match expr {
        Expr::Compare(_) => Vec::new(),
        Expr::Not(inner) => {
            let below = simpler(inner)
                .into_iter()
                .map(|inner| Expr::Not(Box::new(inner)));
            std::iter::once(Expr::clone(inner)).chain(below).collect()
        }
        Expr::In(left, list) if list.len() > 1 => list
            .iter()
            .map(|literal| Expr::In(left.clone(), vec![literal.clone()]))
            .collect(),
        Expr::In(..) => Vec::new(),
        Expr::And(list) | Expr::Or(list) => {
            let mut found = list.clone();
            for (at, part) in list.iter().enumerate() {
                for part in simpler(part) {
                    let mut list = list.clone();
                    list[at] = part;
                    found.push(match expr {
                        Expr::And(_) => Expr::And(list),
                        _ => Expr::Or(list),
                    });
                }
            }
            found
        }
    }
}
