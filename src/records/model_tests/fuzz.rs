//! Whatever the text: reading it is quick, and what is made of it is a statement that SQLite runs
//! without an error and that reads only what its author may see. SQLite itself says what is read.

use std::cell::Cell;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use rusqlite::Connection;
use rusqlite::OpenFlags;
use rusqlite::hooks::AuthAction;
use rusqlite::hooks::AuthContext;
use rusqlite::hooks::Authorization;
use rusqlite::params_from_iter;
use rusqlite::types::Value as Stored;
use serde_json::Value as Json;
use serde_json::json;

use super::filters::Maker;
use super::model::Sight;
use super::rng;
use super::rng::Rng;
use super::soup;
use super::store;
use super::store::Store;
use super::world;
use super::world::Caller;
use super::world::Rule;
use super::world::World;
use crate::db::quote;
use crate::error::Kind;
use crate::error::Result;
use crate::filter;
use crate::filter::SortTerm;
use crate::records;
use crate::records::ListQuery;
use crate::records::Shape;
use crate::records::query::Input;
use crate::records::query::MAIN;
use crate::records::query::Query;
use crate::records::query::Trust;
use crate::rules::Identity;

/// Inputs on one database.
const CASES_PER_WORLD: usize = 20_000;
/// Far more than any text needs, even on a machine that has other things to do.
const PARSE_LIMIT: Duration = Duration::from_secs(5);
const RUN_LIMIT: Duration = Duration::from_secs(60);
/// What the statements made of conditions and sorts call.
const FUNCTIONS: [&str; 5] = ["json_extract", "coalesce", "vski_like", "random", "count"];

#[test]
fn no_text_does_harm() {
    rng::rounds("no_text_does_harm", 60_000, |rng, left| {
        let store = Store::open();
        let world = make_world(rng, &store);
        let guarded = Guarded::open(&store, &world);
        let maker = Maker {
            world: &world,
            table: 0,
            sight: Sight::Rule,
            caller: Caller::Admin,
            times: true,
        };
        let cases = left.min(CASES_PER_WORLD);
        for _ in 0..cases {
            if rng.one_in(5) {
                let text = soup::random_sort(rng, &maker);
                guarded.check_sort(&text);
            } else {
                let text = soup::random_text(rng, &maker);
                guarded.check_filter(rng, &text);
            }
        }
        let ran = guarded.ran.get();
        assert!(
            cases < 1000 || ran > cases / 4,
            "only {ran} of {cases} texts came to a statement"
        );
        cases
    });
}

/// Every type of field, each also hidden, and relations to what may and may not be seen.
fn make_world(rng: &mut Rng, store: &Store) -> World {
    let kinds = [
        json!({"type": "text", "name": "title"}),
        json!({"type": "email", "name": "email"}),
        json!({"type": "url", "name": "url"}),
        json!({"type": "editor", "name": "body"}),
        json!({"type": "number", "name": "number"}),
        json!({"type": "bool", "name": "done"}),
        json!({"type": "date", "name": "day"}),
        json!({"type": "datetime", "name": "moment"}),
        json!({"type": "select", "name": "choice", "values": world::CHOICES}),
        json!({"type": "select", "name": "tags", "values": world::CHOICES, "maxSelect": 3}),
        json!({"type": "json", "name": "meta"}),
    ];
    let hidden = |field: &Json| {
        let mut field = field.clone();
        field["name"] = json!(format!("hidden_{}", field["name"].as_str().unwrap()));
        field["hidden"] = json!(true);
        field
    };
    let plain: Vec<Json> = kinds
        .iter()
        .cloned()
        .chain(kinds.iter().map(hidden))
        .collect();
    let mut relations = Vec::new();
    for (name, target, most) in [
        ("parent", "docs", 1),
        ("friends", "docs", 2),
        ("author", "users", 1),
        ("shut", "shut", 1),
        ("shuts", "shut", 2),
        ("ruled", "ruled", 1),
        ("open", "open", 1),
        ("opens", "open", 2),
    ] {
        let relation = json!({"name": name, "type": "relation", "collectionId": target,
            "maxSelect": most});
        relations.extend([hidden(&relation), relation]);
    }
    let all: Vec<Json> = plain.iter().chain(&relations).cloned().collect();
    let names = ["docs", "open", "shut", "ruled", "users"];
    let definitions = names.map(|name| (name.to_owned(), plain.clone(), all.clone()));
    let mut world = store.define(&definitions);
    world::fill(rng, &mut world, &[4, 3, 3, 3, 3]);
    store.insert(&world);
    world.tables[2].rules.view = Rule::Admins;
    world.tables[3].rules.view = Rule::When(filter::parse("title != 'a'").unwrap());
    world.tables[4].rules.view = Rule::Admins;
    world.publish_rules();
    world
}

/// What SQLite was asked to allow since the last look.
#[derive(Default)]
struct Seen {
    reads: Vec<(String, String)>,
    refused: Vec<String>,
}

/// A connection that tells what its statements would touch, and allows little.
struct Guarded<'a> {
    connection: Connection,
    seen: Arc<Mutex<Seen>>,
    world: &'a World,
    /// Table and column, for nobody and for those who may see more.
    public: HashSet<(String, String)>,
    all: HashSet<(String, String)>,
    /// Statements that were run.
    ran: Cell<usize>,
}

impl<'a> Guarded<'a> {
    #[expect(
        clippy::disallowed_methods,
        reason = "a pooled connection takes no authorizer"
    )]
    fn open(store: &Store, world: &'a World) -> Guarded<'a> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(store.file(), flags).unwrap();
        records::register(&connection).unwrap();
        // Each statement is prepared anew, so that its reads are seen for each caller.
        connection.set_prepared_statement_cache_capacity(0);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        connection
            .authorizer(Some(move |context: AuthContext<'_>| {
                judge(&shared, context)
            }))
            .unwrap();
        let columns = |table: usize, is_public: bool| {
            let collection = &world.tables[table].collection;
            let fields = collection.fields.iter();
            let fields = fields.filter(move |f| !(f.is_secret() || is_public && f.hidden));
            let names = fields.map(|field| field.name.as_str());
            let names = names.chain(["id", "created", "updated", "ROWID", ""]);
            names
                .map(|name| (collection.name.clone(), name.to_owned()))
                .collect::<Vec<_>>()
        };
        let tables = || 0..world.tables.len();
        let is_open = |table: &usize| world.tables[*table].rules.view == Rule::Everyone;
        let public = tables()
            .filter(is_open)
            .flat_map(|table| columns(table, true))
            .collect();
        let all = tables().flat_map(|table| columns(table, false)).collect();
        Guarded {
            connection,
            seen,
            world,
            public,
            all,
            ran: Cell::new(0),
        }
    }

    fn check_filter(&self, rng: &mut Rng, text: &str) {
        let started = Instant::now();
        let parsed = filter::parse(text);
        assert!(started.elapsed() < PARSE_LIMIT, "slow to read: {text:?}");
        match parsed {
            Ok(expr) => self.check_made(text, |query, trust| {
                let main = &self.world.tables[0].collection;
                let condition = query.condition(&expr, main, trust)?;
                Ok(format!("WHERE {condition} ORDER BY {MAIN}.rowid"))
            }),
            Err(error) => assert_eq!(error.kind(), Kind::Invalid, "{text:?}: {error}"),
        }
        if rng.one_in(30) {
            self.check_list(rng, text);
        }
    }

    fn check_sort(&self, text: &str) {
        let started = Instant::now();
        let parsed: Result<Vec<SortTerm>> = filter::parse_sort(text);
        assert!(started.elapsed() < PARSE_LIMIT, "slow to read: {text:?}");
        match parsed {
            Ok(terms) => self.check_made(text, |query, trust| {
                let main = &self.world.tables[0].collection;
                Ok(format!("ORDER BY {}", query.order(&terms, main, trust)?))
            }),
            Err(error) => assert_eq!(error.kind(), Kind::Invalid, "{text:?}: {error}"),
        }
    }

    /// Makes the end of a statement for everyone who might have written the text, and runs it.
    fn check_made(&self, text: &str, make: impl Fn(&mut Query<'_>, Trust) -> Result<String>) {
        let admin = Caller::Admin.identity();
        let nobody = Identity::Nobody;
        let authors = [
            (&nobody, Trust::Caller, &self.public),
            (&nobody, Trust::Rule, &self.all),
            (&admin, Trust::Caller, &self.all),
        ];
        let mut done: Vec<String> = Vec::new();
        for (identity, trust, allowed) in authors {
            let input = Input {
                identity,
                body: None,
            };
            let mut query = Query::new(&self.world.collections, input, Vec::new());
            match make(&mut query, trust) {
                Err(error) => assert_eq!(error.kind(), Kind::Invalid, "{text:?}: {error}"),
                // The same statement of somebody who may see less has been judged already.
                Ok(sql) if done.contains(&sql) => {}
                Ok(sql) => {
                    self.run(text, &sql, &query.into_params(), allowed);
                    done.push(sql);
                }
            }
        }
    }

    fn run(&self, text: &str, end: &str, params: &[Stored], allowed: &HashSet<(String, String)>) {
        let table = quote(&self.world.tables[0].collection.name);
        let sql = format!("SELECT {MAIN}.rowid FROM {table} AS {MAIN} {end} LIMIT 3");
        self.ran.set(self.ran.get() + 1);
        let started = Instant::now();
        let result = self.connection.prepare(&sql).and_then(|mut statement| {
            let mut rows = statement.query(params_from_iter(params))?;
            while rows.next()?.is_some() {}
            Ok(())
        });
        self.check_reads(text, allowed);
        assert!(result.is_ok(), "{text:?}\n{sql}\n{params:?}\n{result:?}");
        assert!(
            started.elapsed() < RUN_LIMIT,
            "slow to run: {text:?}\n{sql}"
        );
    }

    /// The same by the way that requests take.
    fn check_list(&self, rng: &mut Rng, text: &str) {
        let (caller, allowed) = match rng.one_in(2) {
            true => (Caller::Nobody, &self.public),
            false => (Caller::Admin, &self.all),
        };
        let scope = store::scope(self.world, caller.identity());
        let collection = &self.world.tables[0].collection;
        let query = ListQuery {
            per_page: 2,
            filter: text.to_owned(),
            ..ListQuery::default()
        };
        let answer = records::list(
            &self.connection,
            &scope,
            collection,
            &query,
            &Shape::default(),
        );
        self.check_reads(text, allowed);
        if let Err(error) = answer {
            assert_eq!(error.kind(), Kind::Invalid, "{text:?}: {error}");
        }
    }

    fn check_reads(&self, text: &str, allowed: &HashSet<(String, String)>) {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        assert!(seen.refused.is_empty(), "{text:?} wants {:?}", seen.refused);
        for read in seen.reads {
            assert!(
                read.0 == "json_each" || allowed.contains(&read),
                "{text:?} reads {read:?}"
            );
        }
    }
}

fn judge(seen: &Mutex<Seen>, context: AuthContext<'_>) -> Authorization {
    let mut seen = seen.lock().unwrap();
    match context.action {
        AuthAction::Select => {}
        AuthAction::Read {
            table_name,
            column_name,
        } => {
            seen.reads
                .push((table_name.to_owned(), column_name.to_owned()));
        }
        AuthAction::Function { function_name } if FUNCTIONS.contains(&function_name) => {}
        other => {
            seen.refused.push(format!("{other:?}"));
            return Authorization::Deny;
        }
    }
    Authorization::Allow
}

/// The guard is no guard if it sees nothing.
#[test]
fn the_guard_sees_what_statements_touch() {
    let store = Store::open();
    let world = make_world(&mut Rng::new(1), &store);
    let guarded = Guarded::open(&store, &world);
    let reads = |sql: &str| {
        let _ = guarded.connection.prepare(sql);
        let seen = std::mem::take(&mut *guarded.seen.lock().unwrap());
        (seen.reads.len(), seen.refused.len())
    };
    assert_eq!(reads("SELECT password FROM users WHERE title = ''"), (2, 0));
    assert_eq!(reads("SELECT lower('a')"), (0, 1));
    assert_eq!(reads("DELETE FROM docs"), (0, 1));
    assert!(
        !guarded
            .all
            .contains(&("users".to_owned(), "password".to_owned()))
    );
    assert!(
        !guarded
            .public
            .iter()
            .any(|(table, column)| table == "shut" || column.contains("hidden"))
    );
}
