//! Joins of paths, and the rows that comparisons share.
//!
//! Comparisons that ask for any value (`?=`) and are joined by AND look at the same row of a list
//! of records: `members_via_team.user ?= 'a' && members_via_team.role ?= 'b'` holds if one member
//! is both. Such comparisons become one `EXISTS` over the rows that they share. A path that leads
//! nowhere has one row without values.
//!
//! In a list the same may become `column IN (SELECT ...)`, so that SQLite can begin with the few
//! rows of the other table, where an index finds them, rather than test every record.

use crate::model::collections::{Collection, Field, Index, IndexColumn};

/// One step of a path: a table or list, joined to what the path has reached before.
pub struct JoinStep {
    alias: String,
    /// The table or function with its alias.
    pub source: String,
    /// A column of the source, and the expression that it equals.
    pub link: Option<(String, String)>,
    /// A further condition on its rows.
    pub condition: Option<String>,
}

impl JoinStep {
    /// The values of a list; an empty list counts as one unset value.
    pub fn values(list: &str, alias: &str) -> JoinStep {
        JoinStep {
            alias: alias.to_owned(),
            source: format!("json_each(coalesce({list}, '[null]')) AS {alias}"),
            link: None,
            condition: None,
        }
    }

    /// The rows of a table.
    pub fn table(
        table: &Collection,
        alias: &str,
        link: Option<(String, String)>,
        condition: Option<String>,
    ) -> JoinStep {
        JoinStep {
            alias: alias.to_owned(),
            source: format!("{} AS {alias}", table.source()),
            link,
            condition,
        }
    }

    fn sql(&self) -> String {
        self.joined("LEFT JOIN")
    }

    fn joined(&self, join: &str) -> String {
        let link = self.link.iter().map(|(a, b)| format!("{a} = {b}"));
        let parts: Vec<String> = link.chain(self.condition.clone()).collect();
        match parts.is_empty() {
            true => format!(" {join} {}", self.source),
            false => format!(" {join} {} ON {}", self.source, parts.join(" AND ")),
        }
    }

    fn mentions(&self, table: &str) -> bool {
        let link = self.link.iter().any(|(_, to)| to.contains(table));
        let condition = self.condition.iter().any(|it| it.contains(table));
        link || condition || self.source.contains(table)
    }
}

/// A `FROM` clause with one row to begin with.
pub fn from(steps: &[JoinStep]) -> String {
    let joins: String = steps.iter().map(JoinStep::sql).collect();
    format!("(SELECT 1){joins}")
}

/// The rows that the comparisons of one `EXISTS` share.
#[derive(Default)]
pub struct SharedRows {
    pub steps: Vec<JoinStep>,
    /// The path of each step, and its alias.
    pub aliases: Vec<(String, String)>,
    /// Equalities of an indexed column with a constant: the column, and the SQL.
    pub seeks: Vec<(String, String)>,
    /// Equalities of a column of the rows with one of the record.
    pub links: Vec<RowLink>,
}

/// `sql` is true where the column `inner` of the rows equals the column `outer` of the record.
pub struct RowLink {
    pub sql: String,
    pub inner: String,
    pub outer: String,
    /// Two unset values are equal too.
    pub has_unset: bool,
}

impl SharedRows {
    /// SQL that is true if a row meets all conditions.
    pub fn exists(&self, conditions: &[String], form: RowsForm<'_>) -> String {
        let condition = conditions.join(" AND ");
        if self.steps.is_empty() {
            return match conditions.len() {
                1 => condition,
                _ => format!("({condition})"),
            };
        }
        if form.is_list
            && !form.keeps_order
            && let Some(sql) = self.membership(conditions, form.record)
        {
            return sql;
        }
        // Inside a CASE no condition lets SQLite read a row before its view rule is tested.
        let condition = match form.keeps_order {
            true => format!("CASE WHEN TRUE THEN {condition} END"),
            false => condition,
        };
        format!(
            "EXISTS (SELECT 1 FROM {} WHERE {condition})",
            from(&self.steps)
        )
    }

    /// The same as the membership of one column of the record in a list that is the same for all
    /// records, if an index finds its rows.
    fn membership(&self, conditions: &[String], record: &str) -> Option<String> {
        let record = format!("{record}.");
        let is_condition = |seek: &&(String, String)| conditions.contains(&seek.1);
        let (seek, _) = self.seeks.iter().find(is_condition)?;
        let mentions = |it: &&String| it.contains(&record);
        let of_record: Vec<&String> = conditions.iter().filter(mentions).collect();
        let steps = self.steps.iter().filter(|step| step.mentions(&record));
        match (steps.count(), of_record.as_slice(), self.steps.first()?) {
            (0, [one], _) => {
                let link = self.links.iter().find(|link| link.sql == **one)?;
                let rest: Vec<&str> = conditions
                    .iter()
                    .filter(|it| it != one)
                    .map(String::as_str)
                    .collect();
                let (rest, from) = (rest.join(" AND "), from(&self.steps));
                let RowLink { inner, outer, .. } = link;
                let is_in = format!("{outer} IN (SELECT {inner} FROM {from} WHERE {rest})");
                Some(match link.has_unset {
                    true => format!(
                        "({is_in} OR ({outer} IS NULL AND EXISTS \
                         (SELECT 1 FROM {from} WHERE {inner} IS NULL AND {rest})))"
                    ),
                    false => is_in,
                })
            }
            // All later steps follow from the first, so a row that the seek finds requires rows of
            // the steps that lead there.
            (1, [], first) if self.steps[1..].iter().all(|step| step.link.is_some()) => {
                let (inner, outer) = first
                    .link
                    .as_ref()
                    .filter(|(_, to)| to.starts_with(&record))?;
                let mut from = format!("(SELECT 1) JOIN {}", first.source);
                if let Some(condition) = &first.condition {
                    if condition.contains(&record) {
                        return None;
                    }
                    from += &format!(" ON {condition}");
                }
                let needed = self.leading_to(seek);
                from.extend(self.steps[1..].iter().map(|step| {
                    step.joined(match needed.contains(&step.alias.as_str()) {
                        true => "JOIN",
                        false => "LEFT JOIN",
                    })
                }));
                let condition = conditions.join(" AND ");
                Some(format!(
                    "{outer} IN (SELECT {inner} FROM {from} WHERE {condition})"
                ))
            }
            _ => None,
        }
    }
}

impl SharedRows {
    /// The aliases of the steps that lead to a column.
    fn leading_to<'a>(&'a self, column: &'a str) -> Vec<&'a str> {
        let mut aliases = Vec::new();
        let mut at = Some(column);
        while let Some((alias, _)) = at.and_then(|column| column.split_once('.')) {
            aliases.push(alias);
            let step = self.steps.iter().find(|step| step.alias == alias);
            at = step
                .and_then(|step| step.link.as_ref())
                .map(|(_, to)| to.as_str());
        }
        aliases
    }
}

/// The form of an `EXISTS` over rows.
#[derive(Clone, Copy)]
pub struct RowsForm<'a> {
    /// The alias of the record.
    pub record: &'a str,
    /// The condition selects among many records.
    pub is_list: bool,
    /// Conditions must not be tested before the joins.
    pub keeps_order: bool,
}

/// The joins of one path.
pub struct JoinPath {
    pub alias: String,
    /// The names so far, by which a step is found among shared rows.
    pub key: String,
    pub steps: Vec<JoinStep>,
    pub is_many: bool,
    /// The path has left its first record, so there may be none where it is.
    pub is_stepped: bool,
    /// See [`super::operand::ResolvedOperand::guard`].
    pub guard: Option<String>,
}

impl JoinPath {
    /// A path that begins at the row of `alias`.
    pub fn begin(alias: &str, key: &str) -> JoinPath {
        JoinPath {
            alias: alias.to_owned(),
            key: key.to_owned(),
            steps: Vec::new(),
            is_many: false,
            is_stepped: false,
            guard: None,
        }
    }
}

/// True if an index begins with this field, or the field is unique.
pub fn is_indexed(collection: &Collection, field: &Field) -> bool {
    let begins = |index: &Index| {
        let first = index.columns.first();
        let first = first.filter(|it| it.collation.is_none() && index.condition.is_empty());
        first.and_then(IndexColumn::plain) == Some(&field.name)
    };
    field.unique || collection.indexes.iter().any(begins)
}

/// True if at most one record has each value of this field.
pub fn is_unique(collection: &Collection, field: &Field) -> bool {
    let is_only = |index: &Index| {
        let column = index.unique_column().filter(|_| index.unique);
        column.and_then(IndexColumn::plain) == Some(&field.name)
    };
    field.unique || collection.indexes.iter().any(is_only)
}

#[cfg(test)]
mod tests {
    use rusqlite::{Connection, params_from_iter};
    use serde_json::{Map, json};
    use std::sync::Arc;

    use super::super::{MAIN, Query, RequestContext, RequestFacts, Trust};
    use crate::model::collections::{Collection, Collections, test_collection, test_index};
    use crate::model::rules::{Identity, User};
    use crate::model::{filter, records};
    use crate::store::db::Deadline;

    fn indexed(id: &str, name: &str, fields: &[(&str, &str)]) -> Collection {
        let definition = fields.iter().map(|(field, target)| {
            json!({"id": field, "name": field, "type": "relation", "collectionId": target})
        });
        let mut collection = test_collection(id, name, definition.collect());
        let names = fields.iter().map(|(field, _)| field);
        let indexes = names.map(|field| test_index(&format!("{name}_{field}"), field));
        collection.indexes = indexes.collect();
        collection
    }

    fn definitions() -> Collections {
        Collections::from_iter([
            indexed("u", "users", &[]),
            indexed("t", "teams", &[]),
            indexed("m", "members", &[("user", "u"), ("team", "t")]),
            indexed("n", "notes", &[("team", "t")]),
        ])
    }

    /// Three teams in which the caller is a member, of 20,000.
    #[expect(clippy::disallowed_methods, reason = "tests of bare connections")]
    fn tables(notes: u32) -> Connection {
        let db = Connection::open_in_memory().unwrap();
        records::register(&db, &Deadline::new()).unwrap();
        db.execute_batch(&format!(
            "CREATE TABLE teams (id TEXT NOT NULL UNIQUE);
             CREATE TABLE members (id TEXT NOT NULL UNIQUE, user TEXT, team TEXT);
             CREATE TABLE notes (id TEXT NOT NULL UNIQUE, team TEXT);
             WITH n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {notes} / 5)
             INSERT INTO teams SELECT 't' || i FROM n;
             WITH n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {notes})
             INSERT INTO members SELECT 'm' || i, 'u' || (i / 3), 't' || (i / 5) FROM n;
             INSERT INTO notes SELECT 'n' || substr(id, 2), team FROM members;
             CREATE INDEX members_user ON members (user);
             CREATE INDEX members_team ON members (team);
             CREATE INDEX notes_team ON notes (team)"
        ))
        .unwrap();
        db
    }

    const RULES: [&str; 4] = [
        "@collection.members.user ?= @request.auth.id && @collection.members.team ?= team",
        "team.members_via_team.user ?= @request.auth.id",
        "@request.auth.id != '' && (id = 'n1' || team.members_via_team.user ?= @request.auth.id)",
        "team.id ?= 't9' && team.members_via_team.user ?= 'u15'",
    ];

    /// The statement of a page for `u15`, and its parameters.
    fn page(rule: &str, is_list: bool) -> (String, Vec<rusqlite::types::Value>) {
        let collections = definitions();
        let identity = Identity::User(Arc::new(User {
            id: "u15".to_owned(),
            collection_id: "u".to_owned(),
            collection_name: "users".to_owned(),
            record: Map::from_iter([("id".to_owned(), json!("u15"))]),
            field_names: Arc::default(),
        }));
        let request = RequestContext {
            identity: &identity,
            facts: &RequestFacts::default(),
            body: None,
        };
        let mut query = Query::new(&collections, request, Vec::new());
        query.is_list = is_list;
        let notes = collections.by_id("n").unwrap();
        let expr = filter::parse(rule).unwrap();
        let condition = query.condition(&expr, notes, Trust::Rule).unwrap();
        let one = if is_list { "" } else { " AND r0.id = 'n45'" };
        let sql = format!(
            "SELECT {MAIN}.rowid FROM notes AS {MAIN} WHERE {condition}{one} \
             ORDER BY {MAIN}.rowid LIMIT 30"
        );
        (sql, query.into_params())
    }

    fn texts(db: &Connection, sql: &str, params: &[rusqlite::types::Value]) -> Vec<String> {
        let mut statement = db.prepare(sql).unwrap();
        let at = statement.column_count() - 1;
        let rows = statement.query_map(params_from_iter(params), |row| {
            row.get::<_, rusqlite::types::Value>(at)
        });
        let show = |value| match value {
            rusqlite::types::Value::Text(text) => text,
            other => format!("{other:?}"),
        };
        rows.unwrap().map(|it| show(it.unwrap())).collect()
    }

    /// Without the form with IN, a list tests each of its records.
    #[test]
    fn a_rule_of_membership_begins_with_the_memberships_of_the_caller() {
        let db = tables(100_000);
        for rule in RULES {
            for is_list in [true, false] {
                let (sql, params) = page(rule, is_list);
                let plan = texts(&db, &format!("EXPLAIN QUERY PLAN {sql}"), &params);
                assert!(!texts(&db, &sql, &params).is_empty(), "{rule}");
                let is_scan = |step: &String| step.starts_with("SCAN r");
                assert!(!plan.iter().any(is_scan), "{rule}: {plan:?}");
            }
        }
    }

    #[test]
    fn both_forms_find_the_same() {
        let db = tables(60);
        db.execute_batch(
            "INSERT INTO notes VALUES ('x', NULL); INSERT INTO members VALUES ('y', 'u15', NULL)",
        )
        .unwrap();
        for rule in RULES {
            let (fast, params) = page(rule, true);
            let fast = texts(&db, &fast, &params);
            let (slow, params) = page(rule, false);
            let slow = texts(&db, &slow.replace(" AND r0.id = 'n45'", ""), &params);
            assert_eq!(fast, slow, "{rule}");
        }
    }
}
