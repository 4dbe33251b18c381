//! Who is asking, and what a collection lets them do.
//!
//! A rule that is absent admits admins only, an empty one everyone, any other is a condition on the record
//! that `records::query` puts inside the statement. Admins pass every rule; so does a key for what its
//! scopes name. Field rules outrank the rule of the collection for callers in whose groups there are any.

pub use grant::{Access, FieldRules, Fields, Grant, Operation, grant};
pub use identity::{ApiKey, Identity, KeyScope, Service, User};
pub use rule::Rule;

mod grant;
mod identity;
mod rule;
