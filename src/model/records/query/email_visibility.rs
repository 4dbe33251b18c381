//! Visibility of the email of an account.
//!
//! The email is visible to the account itself, to admins, to API keys that can read the account, to
//! callers admitted by the `manageRule` of the collection, and, if `emailVisibility` is true, to
//! all callers that may view the account. For other callers a response has no `email`, a comparison
//! with it is false, even under a `NOT`, and a sort treats it as unset.

use rusqlite::types::Value as Stored;

use super::builder::{MAIN, PathRoot, Query, Trust};
use crate::base::error::Result;
use crate::model::collections::{Collection, CollectionKind, EMAIL_VISIBILITY, Field};
use crate::model::rules::{Fields, Identity, Rule};
use crate::store::db::quote;

const EMAIL: &str = "email";

/// True if the account decides whether a caller who reads these fields sees this one.
pub fn is_guarded(collection: &Collection, field: &Field, fields: &Fields) -> bool {
    collection.kind == CollectionKind::Auth && field.name == EMAIL && *fields != Fields::All
}

/// True if two callers who read these fields may see different emails.
pub fn differs_by_caller(collection: &Collection, fields: &Fields, identity: &Identity) -> bool {
    let is_own = matches!(identity, Identity::User(user) if user.collection_id == collection.id);
    let rule = collection.rules.manage.as_ref();
    let rule = rule.and_then(|rule| rule.expression());
    let email = collection.field(EMAIL);
    email.is_some_and(|field| is_guarded(collection, field, fields))
        && (is_own || rule.is_some_and(|rule| rule.depends_on_request()))
}

/// SQL for `value` if the guard holds, else `otherwise`.
pub fn guarded(value: &str, guard: &str, otherwise: &str) -> String {
    format!("CASE WHEN {guard} THEN {value} ELSE {otherwise} END")
}

/// SQL for an equality that is false without the guard, and that can use an index on the value. It
/// is NULL if the guard is, which counts as false because it is never under a `NOT`.
pub fn guarded_equality(equality: &str, guard: &str) -> String {
    format!("({guard} AND {equality})")
}

impl Query<'_> {
    /// SQL that is true if the caller may see the email of the account in the table `alias`, or if
    /// there is no such account.
    pub fn sees_email(&mut self, alias: &str, collection: &Collection) -> Result<String> {
        let mut any = Vec::new();
        if alias != MAIN {
            any.push(format!("{alias}.id IS NULL"));
        }
        // A definition from a master of an older version has no such field.
        if collection.field(EMAIL_VISIBILITY).is_some() {
            any.push(format!("{alias}.{}", quote(EMAIL_VISIBILITY)));
        }
        if let Identity::User(user) = self.request.identity
            && user.collection_id == collection.id
        {
            let id = self.bind(Stored::Text(user.id.clone()));
            any.push(format!("{alias}.id = {id}"));
        }
        match collection.rules.manage.as_ref().map(Rule::expression) {
            None => {}
            Some(None) => any.push("TRUE".to_owned()),
            Some(Some(rule)) => {
                let root = PathRoot {
                    alias,
                    collection,
                    trust: Trust::Rule,
                };
                any.push(self.apart(|query| query.expr(rule, true, root))?);
            }
        }
        match any.is_empty() {
            true => Ok("FALSE".to_owned()),
            false => Ok(format!("({})", any.join(" OR "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{RequestContext, RequestFacts};
    use super::*;
    use crate::model::collections::{Collections, test_collection};
    use crate::model::{filter, records};
    use crate::store::db::Deadline;
    use rusqlite::{Connection, params_from_iter};
    use serde_json::json;

    fn accounts() -> Collections {
        let fields = json!([
            {"id": "f1", "name": "email", "type": "email", "unique": true},
            {"id": "f2", "name": "emailVisibility", "type": "bool"},
            {"id": "f3", "name": "name", "type": "text"},
        ]);
        let mut users = test_collection("u", "users", fields);
        users.kind = CollectionKind::Auth;
        users.rules.view = Some(Rule::everyone());
        Collections::from_iter([users])
    }

    #[expect(clippy::disallowed_methods, reason = "tests of bare connections")]
    fn table() -> Connection {
        let db = Connection::open_in_memory().unwrap();
        records::register(&db, &Deadline::new()).unwrap();
        db.execute_batch(
            "CREATE TABLE users (id TEXT NOT NULL UNIQUE, email TEXT, emailVisibility, name TEXT);
             CREATE UNIQUE INDEX email ON users (email);
             INSERT INTO users VALUES ('a', 'a@b.c', NULL, 'Ann'), ('b', 'b@b.c', 1, 'Bob'),
                 ('c', 'c@b.c', 0, 'Cid')",
        )
        .unwrap();
        db
    }

    /// The query plan for a filter of an anonymous caller, and the ids that it finds.
    fn ask(db: &Connection, filter: &str) -> (String, String) {
        let collections = accounts();
        let request = RequestContext {
            identity: &Identity::Anonymous,
            facts: &RequestFacts::default(),
            body: None,
        };
        let mut query = Query::new(&collections, request, Vec::new());
        let users = collections.all()[0];
        let expr = filter::parse(filter).unwrap();
        let condition = query.condition(&expr, users, Trust::Caller).unwrap();
        let params = query.into_params();
        let sql = format!("SELECT id FROM users AS {MAIN} WHERE {condition} ORDER BY +id");
        let texts = |sql: &str, column: usize| -> Vec<String> {
            let mut statement = db.prepare(sql).unwrap();
            let rows = statement.query_map(params_from_iter(&params), |row| row.get(column));
            rows.unwrap().map(|it| it.unwrap()).collect()
        };
        let plan = texts(&format!("EXPLAIN QUERY PLAN {sql}"), 3);
        (plan.join("; "), texts(&sql, 0).concat())
    }

    /// A guard in a CASE prevented use of the index: each lookup of an account by email scanned the
    /// table.
    #[test]
    fn an_equality_uses_the_index_and_other_comparisons_take_as_long_for_hidden_addresses() {
        let db = table();
        for (filter, is_search, ids) in [
            ("email = 'b@b.c'", true, "b"),
            ("email = 'a@b.c'", true, ""),
            ("'b@b.c' = email", true, "b"),
            ("NOT (email != 'b@b.c')", true, "b"),
            ("email IN ('a@b.c', 'b@b.c', 'c@b.c')", true, "b"),
            ("name = 'Bob' && email = 'b@b.c'", true, "b"),
            ("email = 'a@b.c' || id = 'c'", true, "c"),
            ("NOT (email = 'a@b.c')", false, "b"),
            ("email != 'a@b.c'", false, "b"),
            ("email > 'a'", false, "b"),
            ("NOT (email > 'b')", false, ""),
            ("email ~ 'b.c'", false, "b"),
            ("email !~ 'x'", false, "b"),
            // A text search on the accounts with an email would reveal by its time that there are
            // some.
            ("email = 'b@b.c' && name ~ 'b'", false, "b"),
            ("NOT (NOT (name ~ 'a') || email != 'a@b.c')", false, ""),
        ] {
            let (plan, found) = ask(&db, filter);
            assert_eq!(found, ids, "{filter}");
            assert_eq!(!plan.contains("SCAN"), is_search, "{filter}: {plan}");
        }
    }
}
