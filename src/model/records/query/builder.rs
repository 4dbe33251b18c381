//! The state of a statement under construction: its parameters and table aliases.

use std::collections::BTreeMap;

use rusqlite::types::Value as Stored;

use crate::base::clock;
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

/// The request that a statement serves: the caller, and the body.
#[derive(Clone, Copy)]
pub struct RequestContext<'a> {
    pub identity: &'a Identity,
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
