//! The state of a statement under construction: its parameters and table aliases.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::types::Value as Stored;

use super::joins::{JoinPath, JoinStep, SharedRows};
use crate::base::clock;
use crate::base::error::Result;
use crate::model::collections::{Collection, Collections};
use crate::model::records::value::FieldValue;
use crate::model::rules::Identity;

/// The alias of the main table in every statement.
pub const MAIN: &str = "r0";

/// The author of a condition.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// A rule of the schema. It reads every record and every field except passwords.
    Rule,
    /// The caller. It reads only the fields that the caller may read, and only related records that
    /// the caller may view; others do not exist for it.
    Caller,
}

/// `@request.body`: the value of each field that a change mentions, and the id.
pub type RequestBody = BTreeMap<String, FieldValue>;

/// The facts that rules can ask about a request beside its caller and its body.
#[derive(Clone, Debug)]
pub struct RequestFacts {
    /// `@request.context`: `default`, or what else the rule is tested for.
    pub context: &'static str,
    /// `@request.method`; empty if there is no request.
    pub method: &'static str,
    /// The parameters and headers, kept only if a condition may ask for them.
    pub sent: Option<Arc<SentText>>,
}

/// The parameters and headers of a request. Of equal names the first counts.
#[derive(Debug, Default)]
pub struct SentText {
    pub query: Vec<(String, String)>,
    /// Names are in lower case, with `_` for `-`.
    pub headers: Vec<(String, String)>,
}

impl RequestFacts {
    pub fn in_context(&self, context: &'static str) -> RequestFacts {
        RequestFacts {
            context,
            ..self.clone()
        }
    }
}

impl Default for RequestFacts {
    fn default() -> RequestFacts {
        RequestFacts {
            context: "default",
            method: "",
            sent: None,
        }
    }
}

/// The request that a statement serves: the caller, the body, and other facts.
#[derive(Clone, Copy)]
pub struct RequestContext<'a> {
    pub identity: &'a Identity,
    pub facts: &'a RequestFacts,
    /// `@request.body`; none if the request writes nothing.
    pub body: Option<&'a RequestBody>,
}

/// The record at which the paths of a condition start.
#[derive(Clone, Copy)]
pub struct PathRoot<'a> {
    /// The alias of a table with records of `collection`.
    pub alias: &'a str,
    pub collection: &'a Collection,
    pub trust: Trust,
}

/// Builds the conditions of one statement and collects their parameters.
pub struct Query<'a> {
    pub collections: &'a Collections,
    pub request: RequestContext<'a>,
    /// The rule is only validated: paths must resolve for any caller.
    pub is_check: bool,
    /// The condition searches in text, so its time depends on the number of records that it
    /// searches.
    pub searches: bool,
    /// The condition selects among many records, rather than tests one.
    pub is_list: bool,
    /// The rows that the comparisons compiled at present share.
    pub rows: Option<SharedRows>,
    /// The SQL compiled at present is under a NOT, so a comparison with a value that the caller
    /// may not see must be true in order to be false.
    pub is_negated: bool,
    pub params: Vec<Stored>,
    pub aliases: usize,
    pub now_ms: i64,
}

impl<'a> Query<'a> {
    /// Starts a statement whose own parameters are ?1 to ?N, the values of `reserved`.
    pub fn new(
        collections: &'a Collections,
        request: RequestContext<'a>,
        reserved: Vec<Stored>,
    ) -> Query<'a> {
        let now_ms = clock::now_ms();
        Query {
            collections,
            request,
            is_check: false,
            searches: false,
            is_list: false,
            rows: None,
            is_negated: false,
            params: reserved,
            aliases: 0,
            now_ms,
        }
    }

    pub fn into_params(self) -> Vec<Stored> {
        self.params
    }

    /// Binds a value; returns its placeholder.
    pub fn bind(&mut self, value: Stored) -> String {
        self.params.push(value);
        format!("?{}", self.params.len())
    }

    pub fn alias(&mut self) -> String {
        self.aliases += 1;
        format!("r{}", self.aliases)
    }
}

/// A state of a statement to which it can return.
pub struct Mark {
    params: usize,
    steps: usize,
}

impl Query<'_> {
    /// Takes a path one step further: to the row of the shared rows that another comparison has
    /// reached by the same names, or else by a join. `make` gets the alias.
    pub fn step(
        &mut self,
        join: &mut JoinPath,
        key: String,
        is_many: bool,
        make: impl FnOnce(&mut Self, &str) -> Result<JoinStep>,
    ) -> Result<()> {
        join.is_stepped = true;
        let shared = self.rows.iter().flat_map(|rows| &rows.aliases);
        let known = shared.into_iter().find(|(it, _)| *it == key);
        if let Some((_, alias)) = known {
            (join.alias, join.key) = (alias.clone(), key);
            return Ok(());
        }
        let alias = self.alias();
        // Conditions inside the step have rows of their own.
        let rows = self.rows.take();
        let step = make(self, &alias);
        self.rows = rows;
        let step = step?;
        match &mut self.rows {
            Some(rows) => {
                rows.steps.push(step);
                rows.aliases.push((key.clone(), alias.clone()));
            }
            None => {
                join.steps.push(step);
                join.is_many |= is_many;
            }
        }
        (join.alias, join.key) = (alias, key);
        Ok(())
    }

    /// True if the shared rows have a step with these names.
    pub fn has_rows(&self, key: &str) -> bool {
        let mut shared = self.rows.iter().flat_map(|rows| &rows.aliases);
        shared.any(|(it, _)| it == key)
    }

    pub fn mark(&self) -> Mark {
        Mark {
            params: self.params.len(),
            steps: self.rows.as_ref().map_or(0, |rows| rows.steps.len()),
        }
    }

    /// Drops the parameters and joins added since.
    pub fn rewind(&mut self, mark: &Mark) {
        self.params.truncate(mark.params);
        if let Some(rows) = &mut self.rows {
            rows.steps.truncate(mark.steps);
            rows.aliases.truncate(mark.steps);
        }
    }
}
