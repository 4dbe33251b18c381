//! Events: a subscriber sees of a change what a list returns for the record right after it, or
//! right before it for a delete.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::bodies::TargetId;
use super::callers::Caller;
use super::filters::FilterMaker;
use super::model::EvalContext;
use super::show::Projection;
use super::store::Store;
use super::world::{Rule, Rules, World};
use super::{bodies, filters, grants, store, world};
use crate::base::error::{Error, Kind, Result};
use crate::model::events::{Events, RecordChange};
use crate::model::filter::parse;
use crate::model::records;
use crate::model::records::{Draft, ListQuery, Precondition, Scope, Shape, SubscriberView};
use crate::model::triggers::RecordAction;
use crate::store::db::Connection;
use crate::tests::rng;
use crate::tests::rng::Rng;

/// Comparisons per set of records.
const CASES_PER_WORLD: usize = 2000;
/// Changes per set of rules.
const CHANGES_PER_RULES: usize = 8;
/// Subscriptions per change, and how many of them are equal.
const ASKS: usize = 4;
const CALLERS: usize = 3;

#[test]
fn a_subscriber_sees_what_a_list_says() {
    rng::rounds("a_subscriber_sees_what_a_list_says", 3_000, |rng, left| {
        let store = Store::open();
        let mut round = Round {
            world: store.random_world(rng),
            store: &store,
            events: Arc::default(),
            compared: 0,
            shown: 0,
        };
        for table in &round.world.tables {
            round.events.watch(&table.collection.id);
        }
        let most = left.min(CASES_PER_WORLD);
        let mut number = 0;
        while round.compared < most {
            if number % CHANGES_PER_RULES == 0 {
                draw_rules(rng, &mut round.world);
            }
            number += 1;
            round.change(rng);
        }
        let Round {
            compared, shown, ..
        } = round;
        assert!(
            compared < 1000 || shown * 20 > compared,
            "{shown} of {compared}"
        );
        compared
    });
}

/// A set of records, and the number of comparisons on it.
struct Round<'a> {
    world: World,
    store: &'a Store,
    events: Arc<Events>,
    compared: usize,
    /// Comparisons with a visible record.
    shown: usize,
}

/// A subscription that several subscribers share.
struct Ask {
    /// The filter as a string.
    filter: String,
    wish: records::SubscriptionSpec,
    callers: Vec<Caller>,
}

fn draw_rules(rng: &mut Rng, world: &mut World) {
    for table in 0..world.tables.len() {
        let mut draw = || match rng.below(10) {
            0 => Rule::Admins,
            1 | 2 => Rule::Everyone,
            _ => Rule::When(FilterMaker::of_rules(world, table, false).valid(rng)),
        };
        let (list, view, manage) = (draw(), draw(), draw());
        let fields = grants::random_field_rules(rng, world, table).filter(|_| rng.one_in(3));
        world.tables[table].rules = Rules {
            list,
            view,
            manage: rng.one_in(2).then_some(manage),
            fields,
            ..Rules::default()
        };
    }
    world.publish_rules();
    store::check_rules(world);
}

impl Round<'_> {
    fn change(&mut self, rng: &mut Rng) {
        let table = rng.below(self.world.tables.len());
        let taken = match rng.below(4) {
            0 => self.delete(rng, table),
            1 => self.create(rng, table),
            _ => self.update(rng, table),
        };
        if let Some(changes) = taken {
            // A record that has changed twice is as the last change left it.
            for change in changes.values().rev().take(3) {
                let asks = self.asks(rng, change);
                let store = self.store;
                let compared = store.database().snapshot(|connection| {
                    self.compare(connection, change, &asks);
                    Ok(())
                });
                compared.unwrap();
            }
        }
    }

    fn scope(&self, caller: &Caller) -> Scope {
        let identity = caller.identity(&self.world);
        Scope {
            events: Arc::clone(&self.events),
            ..store::scope(&self.world, identity)
        }
    }

    fn some_id(&self, rng: &mut Rng, table: usize) -> String {
        match self.world.tables[table].records.as_slice() {
            [] => world::record_id(0),
            list => rng.pick(list).id.clone(),
        }
    }

    /// The last change of each record.
    fn take(&self) -> BTreeMap<(String, String), Arc<RecordChange>> {
        let taken = self.events.drain(Duration::ZERO);
        assert!(taken.lost.is_empty());
        let key = |change: &Arc<RecordChange>| {
            let state = &change.state;
            (state.collection.id.clone(), state.id().to_owned())
        };
        let changes = taken.changes.into_iter();
        changes.map(|change| (key(&change), change)).collect()
    }

    fn create(
        &self,
        rng: &mut Rng,
        table: usize,
    ) -> Option<BTreeMap<(String, String), Arc<RecordChange>>> {
        let body = bodies::random(
            rng,
            &self.world,
            table,
            &Caller::Admin,
            TargetId::New("new"),
        );
        let (scope, collection) = (
            self.scope(&Caller::Admin),
            Arc::clone(&self.world.tables[table].collection),
        );
        let hash = |_: &str| Ok("a hash".to_owned());
        let draft = Draft::create(&scope, &collection, &store::body(&body), &hash).ok()?;
        let shape = Shape::default();
        let write = self
            .store
            .database()
            .write(move |tx| records::create(tx, &scope, &collection, draft, &shape));
        self.told(write.is_ok())
    }

    fn update(
        &self,
        rng: &mut Rng,
        table: usize,
    ) -> Option<BTreeMap<(String, String), Arc<RecordChange>>> {
        let id = self.some_id(rng, table);
        let body = bodies::random(rng, &self.world, table, &Caller::Admin, TargetId::Old(&id));
        let (scope, collection) = (
            self.scope(&Caller::Admin),
            Arc::clone(&self.world.tables[table].collection),
        );
        let hash = |_: &str| Ok("a hash".to_owned());
        let draft = Draft::update(&scope, &collection, &store::body(&body), &hash).ok()?;
        let shape = Shape::default();
        let write = self
            .store
            .database()
            .write(move |tx| records::update(tx, &scope, &collection, &id, draft, &shape));
        self.told(write.is_ok())
    }

    /// A rolled-back change is not published.
    fn told(&self, is_done: bool) -> Option<BTreeMap<(String, String), Arc<RecordChange>>> {
        let changes = self.take();
        assert!(is_done || changes.is_empty());
        is_done.then_some(changes)
    }

    /// Deletes a record and compares while readers still see the state before.
    fn delete(
        &mut self,
        rng: &mut Rng,
        table: usize,
    ) -> Option<BTreeMap<(String, String), Arc<RecordChange>>> {
        let id = self.some_id(rng, table);
        let (scope, collection) = (
            self.scope(&Caller::Admin),
            Arc::clone(&self.world.tables[table].collection),
        );
        let store = self.store;
        let before = store.database().snapshot(|connection| {
            // From here on readers see the current state.
            if !records::exists(connection, &collection, &id)? {
                return Ok(());
            }
            let (doomed, of) = (id.clone(), Arc::clone(&collection));
            let write = store.database().write(move |tx| {
                records::delete(tx, &scope, &of, &doomed, &Precondition::default())
            });
            let taken = self.events.drain(Duration::ZERO).changes;
            assert!(write.is_ok() || taken.is_empty());
            for change in &taken {
                let is_it = |other: &&Arc<RecordChange>| other.state.id() == change.state.id();
                // A record that changed before its delete is not as it was before the transaction.
                if change.action == RecordAction::Delete && taken.iter().filter(is_it).count() == 1
                {
                    let asks = self.asks(rng, change);
                    self.compare(connection, change, &asks);
                }
            }
            Ok(())
        });
        before.unwrap();
        None
    }

    fn asks(&self, rng: &mut Rng, change: &RecordChange) -> Vec<Ask> {
        let collection = &change.state.collection;
        let table = self.world.table(&collection.id);
        let ask = |_| {
            let callers: Vec<Caller> = (0..CALLERS)
                .map(|_| Caller::random(rng, &self.world))
                .collect();
            let maker = FilterMaker {
                world: &self.world,
                table,
                context: EvalContext::by(&callers[0]),
                times: false,
            };
            let record = rng.one_in(4).then(|| change.state.id().to_owned());
            let filter = match record.is_some() || rng.one_in(4) {
                true => String::new(),
                false => {
                    let expr = maker.expr(rng, 2);
                    filters::render(rng, &expr)
                }
            };
            let wish = match rng.one_in(3) {
                true => Projection::random(rng, &self.world, table, &callers[0]),
                false => Projection::default(),
            };
            let shape = Shape::parse(wish.fields_text().as_deref(), Some(&wish.expand_text()));
            let wish = records::SubscriptionSpec {
                filter: (!filter.is_empty()).then(|| parse(&filter).unwrap()),
                shape: shape.unwrap(),
                record,
            };
            Ask {
                filter,
                wish,
                callers,
            }
        };
        (0..ASKS).map(ask).collect()
    }

    fn compare(&mut self, connection: &Connection, change: &RecordChange, asks: &[Ask]) {
        for ask in asks {
            let Ask {
                filter,
                wish,
                callers,
            } = ask;
            let mut classes: HashMap<String, Option<Vec<u8>>> = HashMap::new();
            for caller in callers {
                let got = self.show(connection, change, wish, caller);
                let expected = self.find(connection, change, ask, caller);
                if is_too_long(&got) || is_too_long(&expected) {
                    continue;
                }
                let (got, expected) = (
                    got.map_err(|it| it.kind()),
                    expected.map_err(|it| it.kind()),
                );
                let describe = || {
                    let text = |it: &Result<Option<Vec<u8>>, Kind>| match it {
                        Ok(Some(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
                        other => format!("{other:?}"),
                    };
                    let collection = &change.state.collection;
                    format!(
                        "{:?} of {} {:?}\n{filter}\n{wish:?}\n{caller:?}\n{:?}\ngot {}\nexpected {}",
                        change.action,
                        collection.name,
                        change.state.values,
                        collection.rules,
                        text(&got),
                        text(&expected)
                    )
                };
                assert!(got == expected, "{}", describe());
                self.compared += 1;
                let Ok(shown) = &got else { continue };
                self.shown += usize::from(shown.is_some());
                // Subscribers with the same key see the same.
                let scope = self.scope(caller);
                if let Some(class) =
                    SubscriberView::group_key(&scope, &change.state.collection, wish).unwrap()
                {
                    let first = classes.entry(class).or_insert_with(|| shown.clone());
                    assert!(first == shown, "another of the class: {}", describe());
                }
            }
        }
    }

    /// The record that an event contains.
    fn show(
        &self,
        connection: &Connection,
        change: &RecordChange,
        wish: &records::SubscriptionSpec,
        caller: &Caller,
    ) -> Result<Option<Vec<u8>>> {
        let lens = SubscriberView::new(self.scope(caller), &change.state.collection, wish)?;
        assert!(!lens.is_stale());
        let mut out = Vec::new();
        let is_shown = lens.show(connection, &change.state, &mut out)?;
        Ok(is_shown.then_some(out))
    }

    /// The record that a request returns.
    fn find(
        &self,
        connection: &Connection,
        change: &RecordChange,
        ask: &Ask,
        caller: &Caller,
    ) -> Result<Option<Vec<u8>>> {
        let wish = &ask.wish;
        let (scope, collection) = (self.scope(caller), &change.state.collection);
        if let Some(id) = &wish.record {
            let any = Precondition::default();
            return match records::get(connection, &scope, collection, id, &wish.shape, &any) {
                Err(error) if error.kind() == Kind::NotFound => Ok(None),
                answer => answer.map(|shown| Some(shown.json)),
            };
        }
        let mut filter = format!("id = '{}'", change.state.id());
        if !ask.filter.is_empty() {
            filter = format!("({}) && {filter}", ask.filter);
        }
        let query = ListQuery {
            filter,
            ..ListQuery::default()
        };
        let list = records::list(connection, &scope, collection, &query, &wish.shape)?;
        let start = b"\"items\":[";
        let at = list
            .windows(start.len())
            .position(|it| it == start)
            .unwrap();
        let items = &list[at + start.len()..list.len() - 2];
        Ok((!items.is_empty()).then(|| items.to_vec()))
    }
}

/// The condition and the rules on its way take too many steps.
fn is_too_long<T>(answer: &Result<T, Error>) -> bool {
    let is_it = |error: &Error| {
        error.message().contains("100 steps") || error.message().contains("too long")
    };
    answer.as_ref().err().is_some_and(is_it)
}
