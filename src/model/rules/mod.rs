//! Callers, and the access that a collection grants them.
//!
//! An absent rule admits admins only, an empty one everyone. Any other is a condition on the
//! record, which `records::query` adds to the statement. Admins pass every rule, and API keys those
//! of their scopes. Field rules replace the rule of the collection for callers in one of their
//! groups.

pub use grant::{Access, FieldRules, Fields, Grant, Operation, grant};
pub use identity::{ApiKey, FieldNames, Identity, KeyScope, Service, User};
pub use rule::Rule;

mod grant;
mod identity;
mod rule;
