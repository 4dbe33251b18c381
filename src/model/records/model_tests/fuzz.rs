//! Fuzzes the filter parser and the query compiler.
//!
//! Any text is parsed quickly. A statement compiled from it runs without an error and reads only
//! what its author may see: the columns that the text names, and those of the view rules of the
//! records that it joins. SQLite reports the reads. The text of a caller cannot name a column that
//! the caller may not view.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::Value as Stored;
use rusqlite::{Connection, OpenFlags, params_from_iter};
use serde_json::{Value as Json, json};

use super::callers::{Caller, KeyAccess};
use super::column_access::ColumnAccess;
use super::filters::FilterMaker;
use super::grants::Verb;
use super::model::EvalContext;
use super::store::Store;
use super::world::{Definition, Rule, World};
use super::{fuzz_inputs, store, world};
use crate::base::error::{Error, Kind, Result};
use crate::base::paging::Page;
use crate::model::filter::{Expr, Operand, SortTerm};
use crate::model::records::query::{MAIN, Query, RequestBody, RequestContext, RequestFacts, Trust};
use crate::model::records::value::FieldValue;
use crate::model::records::{ListQuery, Shape};
use crate::model::{filter, records};
use crate::store::db::quote;
use crate::tests::rng;
use crate::tests::rng::Rng;

/// Inputs per database.
const CASES_PER_WORLD: usize = 20_000;
/// Far more than any text needs, even on a busy machine.
const PARSE_LIMIT: Duration = Duration::from_secs(5);
const RUN_LIMIT: Duration = Duration::from_secs(60);
/// The SQL functions that compiled statements call.
const FUNCTIONS: [&str; 14] = [
    "json_extract",
    "json_array_length",
    "lower",
    "strftime",
    "vski_geo_distance",
    "nullif",
    "substr",
    "coalesce",
    "vski_like",
    "random",
    "count",
    "typeof",
    "json_valid",
    "json_type",
];

fn check_refusal(error: &Error, text: &str) {
    let is_refused = matches!(error.kind(), Kind::Invalid | Kind::Forbidden);
    assert!(is_refused, "{text:?}: {error}");
}

#[test]
fn no_text_does_harm() {
    rng::rounds("no_text_does_harm", 25_000, |rng, left| {
        let store = Store::open();
        let world = make_world(rng, &store);
        let guarded = Guarded::open(&store, &world, authors(rng, &world));
        let users: Vec<Caller> = (0..4)
            .filter_map(|_| Caller::random_user(rng, &world))
            .collect();
        let cases = left.min(CASES_PER_WORLD);
        for _ in 0..cases {
            let maker = FilterMaker {
                world: &world,
                table: 0,
                context: EvalContext {
                    caller: rng.pick(&users),
                    is_rule: true,
                    sent: None,
                },
                times: true,
            };
            if rng.one_in(5) {
                let text = fuzz_inputs::random_sort(rng, &maker);
                guarded.check_sort(&text);
            } else {
                let text = fuzz_inputs::random_text(rng, &maker);
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

/// Every type of field, each also hidden, and relations to visible and hidden records.
fn make_world(rng: &mut Rng, store: &Store) -> World {
    let kinds = [
        json!({"type": "text", "name": "title"}),
        json!({"type": "email", "name": "email"}),
        json!({"type": "url", "name": "url"}),
        json!({"type": "editor", "name": "body"}),
        json!({"type": "number", "name": "number", "nullable": true}),
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
    let groups = world::random_groups_field(rng);
    for (name, target, most) in [
        ("parent", "docs", 1),
        ("friends", "docs", 2),
        ("author", "users", 1),
        ("authors", "users", 2),
        ("shut", "shut", 1),
        ("shuts", "shut", 2),
        ("ruled", "ruled", 1),
        ("open", "open", 1),
        ("opens", "open", 2),
        ("named", "named", 1),
        ("nameds", "named", 2),
    ] {
        let relation = json!({"name": name, "type": "relation", "collectionId": target,
            "maxSelect": most});
        relations.extend([hidden(&relation), relation]);
    }
    let define = |name: &str| {
        let is_auth = name == "users";
        let mut plain = plain.clone();
        if is_auth {
            plain.push(groups.clone());
        }
        Definition {
            name: name.to_owned(),
            is_auth,
            plain,
            relations: relations.clone(),
        }
    };
    let names = ["docs", "open", "shut", "ruled", "named", "users"];
    let definitions: Vec<Definition> = names.into_iter().map(define).collect();
    let mut world = store.define(&definitions);
    world::fill(rng, &mut world, &[4, 3, 3, 3, 3, 4]);
    store.insert(&world);
    set_rules(&mut world);
    store::check_rules(&world);
    world
}

fn set_rules(world: &mut World) {
    let when = |text: &str| Rule::When(filter::parse(text).unwrap());
    world.tables[0].rules.list =
        when("hidden_done = false || hidden_author.hidden_number ?!= 7 || title ~ 'a'");
    world.tables[2].rules.view = Rule::Admins;
    world.tables[3].rules.view =
        when("hidden_title != 'a' && (hidden_shuts.hidden_choice ?!= 'b' || open.body !~ 'x')");
    // A member of a group sees some fields of every record; other callers see none.
    world.tables[4].rules.view = Rule::Admins;
    let named = json!({"staff": ["title", "tags", "hidden_title", "opens"], "boss": ["*"]});
    world.tables[4].rules.fields = serde_json::from_value(named).unwrap();
    world.tables[5].rules.view = when("id = @request.auth.id || hidden_done = true");
    world.tables[5].rules.manage = Some(when("open.hidden_title = @request.auth.id"));
    world.publish_rules();
}

/// The authors of the texts: each caller with its filters, some also with rules.
fn authors(rng: &mut Rng, world: &World) -> Vec<Author> {
    let mut callers = vec![(Caller::Anonymous, false), (Caller::Anonymous, true)];
    callers.push((Caller::Admin, false));
    let pass = KeyAccess {
        reads: true,
        writes: false,
        tables: Some(vec![0, 1, 3]),
    };
    callers.push((Caller::Key(pass), false));
    for is_rule in [false, false, true] {
        callers.extend(Caller::random_user(rng, world).map(|caller| (caller, is_rule)));
    }
    let author = |(caller, is_rule): (Caller, bool)| {
        let shown = (0..world.tables.len())
            .flat_map(|table| shown(world, table, &caller, is_rule))
            .collect();
        Author {
            caller,
            is_rule,
            shown,
        }
    };
    callers.into_iter().map(author).collect()
}

/// The fields of a table that a caller may see; none if it may see no record.
fn shown(world: &World, table: usize, caller: &Caller, is_rule: bool) -> Vec<(String, String)> {
    let collection = &world.tables[table].collection;
    let grant = world.grant(table, Verb::View, caller);
    if !is_rule && grant.is_denied() {
        return Vec::new();
    }
    let fields = collection.fields.iter();
    let fields = fields.filter(|field| match is_rule {
        true => !field.is_secret(),
        false => grant.fields.shows(field),
    });
    let names = fields.map(|field| field.name.as_str());
    let names = names.chain(["id", "created", "updated"]);
    names
        .map(|name| (collection.name.clone(), name.to_owned()))
        .collect()
}

struct Author {
    caller: Caller,
    is_rule: bool,
    /// Tables and columns.
    shown: HashSet<(String, String)>,
}

/// The actions that SQLite asked to authorize since the last check.
#[derive(Default)]
struct Seen {
    reads: Vec<(String, String)>,
    refused: Vec<String>,
}

/// A connection whose authorizer records the reads of statements and denies most other actions.
struct Guarded<'a> {
    connection: Connection,
    seen: Arc<Mutex<Seen>>,
    world: &'a World,
    authors: Vec<Author>,
    /// Number of executed statements.
    ran: Cell<usize>,
}

impl<'a> Guarded<'a> {
    #[expect(
        clippy::disallowed_methods,
        reason = "a pooled connection takes no authorizer"
    )]
    fn open(store: &Store, world: &'a World, authors: Vec<Author>) -> Guarded<'a> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(store.file(), flags).unwrap();
        records::register(&connection, &crate::store::db::Deadline::new()).unwrap();
        // Prepare each statement again, so that the authorizer records its reads for each caller.
        connection.set_prepared_statement_cache_capacity(0);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        connection
            .authorizer(Some(move |context: AuthContext<'_>| {
                judge(&shared, context)
            }))
            .unwrap();
        Guarded {
            connection,
            seen,
            world,
            authors,
            ran: Cell::new(0),
        }
    }

    fn check_filter(&self, rng: &mut Rng, text: &str) {
        let started = Instant::now();
        let parsed = filter::parse(text);
        assert!(started.elapsed() < PARSE_LIMIT, "slow to read: {text:?}");
        match parsed {
            Ok(expr) => {
                self.check_made(text, &expr, |query, trust| {
                    let main = &self.world.tables[0].collection;
                    let condition = query.condition(&expr, main, trust)?;
                    Ok(format!("WHERE {condition} ORDER BY {MAIN}.rowid"))
                });
                if rng.one_in(30) {
                    self.check_list(rng, text, &expr);
                }
            }
            Err(error) => check_refusal(&error, text),
        }
    }

    fn check_sort(&self, text: &str) {
        let started = Instant::now();
        let parsed: Result<Vec<SortTerm>> = filter::parse_sort(text);
        assert!(started.elapsed() < PARSE_LIMIT, "slow to read: {text:?}");
        match parsed {
            Ok(terms) => {
                let paths = terms.iter().map(|term| Operand::Path(term.path.clone()));
                let words = Expr::And(paths.map(|path| Expr::In(path, Vec::new())).collect());
                self.check_made(text, &words, |query, trust| {
                    let main = &self.world.tables[0].collection;
                    Ok(format!("ORDER BY {}", query.order(&terms, main, trust)?))
                });
            }
            Err(error) => check_refusal(&error, text),
        }
    }

    /// Compiles a statement for every possible author of the text, and runs it.
    fn check_made(
        &self,
        text: &str,
        words: &Expr,
        make: impl Fn(&mut Query<'_>, Trust) -> Result<String>,
    ) {
        let scalar = FieldValue::Scalar;
        let text_of = |text: &str| scalar(Stored::Text(text.to_owned()));
        let tags = ["a".to_owned(), "b".to_owned()];
        let sent = RequestBody::from([
            ("title".to_owned(), text_of("a")),
            ("tags".to_owned(), FieldValue::List(tags.to_vec())),
            ("number".to_owned(), scalar(Stored::Integer(5))),
            ("meta".to_owned(), text_of(r#"{"a":[1,"b"]}"#)),
            ("hidden_done".to_owned(), scalar(Stored::Integer(1))),
        ]);
        let mut done: HashMap<String, HashSet<(String, String)>> = HashMap::new();
        for author in &self.authors {
            let input = RequestContext {
                identity: &author.caller.identity(self.world),
                facts: &RequestFacts::default(),
                body: author.is_rule.then_some(&sent),
            };
            let trust = match author.is_rule {
                true => Trust::Rule,
                false => Trust::Caller,
            };
            let mut query = Query::new(&self.world.collections, input, Vec::new());
            match make(&mut query, trust) {
                Err(error) => check_refusal(&error, text),
                Ok(sql) => {
                    let params = query.into_params();
                    let reads = done
                        .entry(sql)
                        .or_insert_with_key(|sql| self.run(text, sql, &params));
                    let wrong = self.wrong_read(reads, author, words, &[]);
                    assert_eq!(wrong, None, "{text:?} of {:?}", author.caller);
                }
            }
        }
    }

    fn run(&self, text: &str, end: &str, params: &[Stored]) -> HashSet<(String, String)> {
        let table = quote(&self.world.tables[0].collection.name);
        let sql = format!("SELECT {MAIN}.rowid FROM {table} AS {MAIN} {end} LIMIT 3");
        self.ran.set(self.ran.get() + 1);
        let started = Instant::now();
        let result = self.connection.prepare(&sql).and_then(|mut statement| {
            let mut rows = statement.query(params_from_iter(params))?;
            while rows.next()?.is_some() {}
            Ok(())
        });
        let reads = self.reads(text);
        assert!(result.is_ok(), "{text:?}\n{sql}\n{params:?}\n{result:?}");
        assert!(
            started.elapsed() < RUN_LIMIT,
            "slow to run: {text:?}\n{sql}"
        );
        reads
    }

    /// The same through the functions that requests call.
    fn check_list(&self, rng: &mut Rng, text: &str, words: &Expr) {
        let author = rng.pick(&self.authors);
        if author.is_rule {
            return;
        }
        let scope = store::scope(self.world, author.caller.identity(self.world));
        let collection = &self.world.tables[0].collection;
        let query = ListQuery {
            page: Page::new(1, 2),
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
        let reads = self.reads(text);
        match answer {
            Err(error) => check_refusal(&error, text),
            Ok(_) => {
                // The rule of the list itself, and the returned columns.
                let rules = [self.world.grant(0, Verb::List, &author.caller).rule];
                let own = &collection.name;
                let is_shown =
                    |read: &&(String, String)| read.0 != *own || !author.shown.contains(read);
                let rest = reads.iter().filter(is_shown).cloned().collect();
                let wrong = self.wrong_read(&rest, author, words, &rules);
                assert_eq!(wrong, None, "{text:?} of {:?}", author.caller);
            }
        }
    }

    /// The reads since the last check.
    fn reads(&self, text: &str) -> HashSet<(String, String)> {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        assert!(seen.refused.is_empty(), "{text:?} wants {:?}", seen.refused);
        seen.reads.into_iter().collect()
    }

    /// Checks that every read is of a column that the text names or that a rule on the way reads,
    /// and that the author may name it.
    fn wrong_read(
        &self,
        reads: &HashSet<(String, String)>,
        author: &Author,
        words: &Expr,
        rules: &[Rule],
    ) -> Option<String> {
        let context = EvalContext {
            caller: &author.caller,
            is_rule: author.is_rule,
            sent: None,
        };
        let own = self.world.column_access(words, 0, context);
        if let Some(column) = own.columns.iter().find(|it| !author.shown.contains(*it)) {
            return Some(format!("speaks of {column:?}"));
        }
        let mut all = own.clone();
        let accounts = &self.world.tables[5];
        let column = |name: &str| (accounts.collection.name.clone(), name.to_owned());
        let asks_address = !author.is_rule && own.columns.contains(&column("email"));
        if asks_address {
            all.columns.insert(column("emailVisibility"));
        }
        let mut rule = |rule: &Rule, table: usize| {
            if let Rule::When(expr) = rule {
                let context = EvalContext {
                    is_rule: true,
                    ..context
                };
                let ColumnAccess { columns, targets } =
                    self.world.column_access(expr, table, context);
                all.columns.extend(columns);
                all.targets.extend(targets);
            }
        };
        rules.iter().for_each(|it| rule(it, 0));
        for target in own.targets.iter().filter(|_| !author.is_rule) {
            let grant = self.world.grant(*target, Verb::View, &author.caller);
            if grant.is_denied() {
                return Some(format!("steps into table {target}"));
            }
            rule(&grant.rule, *target);
        }
        if let Some(manage) = accounts.rules.manage.as_ref().filter(|_| asks_address) {
            rule(manage, 5);
        }
        all.targets.insert(0);
        let name = |table: &usize| self.world.tables[*table].collection.name.clone();
        let tables: HashSet<String> = all.targets.iter().map(name).collect();
        let is_right = |read: &(String, String)| {
            let is_row = ["ROWID", "", "id"].contains(&read.1.as_str()) && tables.contains(&read.0);
            read.0 == "json_each" || is_row || all.columns.contains(read)
        };
        let wrong = reads.iter().find(|read| !is_right(read));
        wrong.map(|read| format!("reads {read:?}"))
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

/// Checks that the authorizer records reads at all.
#[test]
fn the_guard_sees_what_statements_touch() {
    let store = Store::open();
    let rng = &mut Rng::new(1);
    let world = make_world(rng, &store);
    let guarded = Guarded::open(&store, &world, authors(rng, &world));
    let reads = |sql: &str| {
        let _ = guarded.connection.prepare(sql);
        let seen = std::mem::take(&mut *guarded.seen.lock().unwrap());
        (seen.reads.len(), seen.refused.len())
    };
    assert_eq!(reads("SELECT password FROM users WHERE title = ''"), (2, 0));
    assert_eq!(reads("SELECT upper('a')"), (0, 1));
    assert_eq!(reads("DELETE FROM docs"), (0, 1));
    for author in &guarded.authors {
        let mut shown = author.shown.iter();
        assert!(!shown.any(|(_, column)| column == "password"));
    }
    let anonymous = &guarded.authors[0];
    assert!(anonymous.caller == Caller::Anonymous && !anonymous.is_rule);
    let mut shown = anonymous.shown.iter();
    assert!(!shown.any(|(table, column)| {
        table == "shut" || table == "named" || column.contains("hidden")
    }));
    // A statement that reads a column that its text does not name, or a hidden one, must be
    // detected.
    let judged = |sql: &str, words: &str| {
        let reads = guarded.run("", sql, &[]);
        let words = filter::parse(words).unwrap();
        guarded.wrong_read(&reads, anonymous, &words, &[]).is_none()
    };
    let ruled = "WHERE EXISTS (SELECT 1 FROM ruled AS r1 WHERE r1.title = r1.hidden_title)";
    assert!(judged(ruled, "ruled.title = 'a'"));
    assert!(!judged(ruled, "open.title = 'a'"));
    assert!(judged("WHERE title = 'a'", "title = 'a'"));
    assert!(!judged("WHERE body = 'a'", "title = 'a'"));
    assert!(!judged("WHERE hidden_title = 'a'", "hidden_title = 'a'"));
}
