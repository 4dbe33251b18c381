//! The addresses of accounts: who sees them.
//!
//! An account shows its address to itself, to admins, to keys that read it, to the callers whom the
//! `manageRule` of its collection admits, and, if its `emailVisibility` is true, to everybody who may view
//! it. To others an answer has no `email`, a comparison with it is false, also behind a `NOT`, and a sort
//! puts it where accounts without an address are.

use rusqlite::types::Value as Stored;

use super::MAIN;
use super::Place;
use super::Query;
use super::Trust;
use crate::collections::Collection;
use crate::collections::CollectionKind;
use crate::collections::EMAIL_VISIBILITY;
use crate::collections::Field;
use crate::db::quote;
use crate::error::Result;
use crate::filter;
use crate::rules::Fields;
use crate::rules::Identity;

/// The field that holds the address.
const EMAIL: &str = "email";

/// True if it depends on the account whether a caller who reads these fields sees this one.
pub fn is_guarded(collection: &Collection, field: &Field, fields: &Fields) -> bool {
    collection.kind == CollectionKind::Auth && field.name == EMAIL && *fields != Fields::All
}

/// True if two callers who read these fields may see different addresses.
pub fn differs_by_caller(collection: &Collection, fields: &Fields, identity: &Identity) -> bool {
    let is_own = matches!(identity, Identity::User(user) if user.collection_id == collection.id);
    let rule = collection.rules.manage.as_deref().unwrap_or_default();
    let email = collection.field(EMAIL);
    email.is_some_and(|field| is_guarded(collection, field, fields))
        && (is_own || rule.contains("@request"))
}

/// SQL: a value where the guard holds, and something else where it does not.
pub fn guarded(value: &str, guard: &str, otherwise: &str) -> String {
    format!("CASE WHEN {guard} THEN {value} ELSE {otherwise} END")
}

impl Query<'_> {
    /// SQL: the caller may see the address of the account in the table `alias`, or there is none.
    pub fn sees_address(&mut self, alias: &str, collection: &Collection) -> Result<String> {
        let mut any = Vec::new();
        if alias != MAIN {
            any.push(format!("{alias}.id IS NULL"));
        }
        // A definition that a master of an older version made has no such field.
        if collection.field(EMAIL_VISIBILITY).is_some() {
            any.push(format!("{alias}.{}", quote(EMAIL_VISIBILITY)));
        }
        if let Identity::User(user) = self.input.identity
            && user.collection_id == collection.id
        {
            let id = self.bind(Stored::Text(user.id.clone()));
            any.push(format!("{alias}.id = {id}"));
        }
        match collection.rules.manage.as_deref().map(str::trim) {
            None => {}
            Some("") => any.push("TRUE".to_owned()),
            Some(rule) => {
                let place = Place {
                    alias,
                    collection,
                    trust: Trust::Rule,
                };
                any.push(self.expr(&filter::parse(rule)?, true, place)?);
            }
        }
        match any.is_empty() {
            true => Ok("FALSE".to_owned()),
            false => Ok(format!("({})", any.join(" OR "))),
        }
    }
}
