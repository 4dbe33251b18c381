//! The state of a statement while its conditions are made: parameters, names of tables.

use std::collections::BTreeMap;

use rusqlite::types::Value as Stored;

use crate::base::clock;
use crate::model::collections::{Collection, Collections};
use crate::model::rules::Identity;

/// The name of the main table in every statement made here.
pub const MAIN: &str = "r0";

/// Whose words a condition is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// A rule of the schema: every record, every field but passwords.
    Rule,
    /// The caller's: only the fields that the caller may read, and of related records only those
    /// that the caller may view; others are as if they did not exist.
    Caller,
}

/// What a change sends: each field that it mentions, as it would be stored, and the id.
pub type RequestBody = BTreeMap<String, Stored>;

/// Whose request a statement is for, and what it says.
#[derive(Clone, Copy)]
pub struct RequestContext<'a> {
    pub identity: &'a Identity,
    /// What a rule sees as `@request.body`; none when nothing is written.
    pub body: Option<&'a RequestBody>,
}

/// What the paths of a condition begin at.
#[derive(Clone, Copy)]
pub struct PathRoot<'a> {
    /// A table that holds records of `collection`, by its name in the statement.
    pub alias: &'a str,
    pub collection: &'a Collection,
    pub trust: Trust,
}

/// Makes conditions for one statement and gathers their parameters.
pub struct Query<'a> {
    pub collections: &'a Collections,
    pub request: RequestContext<'a>,
    /// The rule is only checked; paths must lead somewhere, whoever asks.
    pub is_check: bool,
    /// The condition searches in texts, which takes the longer the more records it does so in.
    pub searches: bool,
    pub params: Vec<Stored>,
    pub aliases: usize,
    pub now_ms: i64,
}

impl<'a> Query<'a> {
    /// A statement whose own parameters are ?1 to ?`reserved`.
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

    /// All parameters in order.
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
