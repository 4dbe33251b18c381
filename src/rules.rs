//! Who is asking, and which condition a collection puts on what they want to do.
//!
//! A rule that is absent admits admins only, an empty one everyone, any other is a condition on
//! the record that `records::query` puts inside the statement (RUL-1 to RUL-5; the meaning of
//! absent and empty is our choice). Admins pass every rule (RUL-4, AUTH-7).

use crate::error::Result;
use crate::filter;
use crate::filter::Expr;

/// Who a request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// No credentials.
    Nobody,
    /// An administrator, by id.
    Admin(String),
}

impl Identity {
    /// Whether rules do not bind this caller.
    pub fn is_admin(&self) -> bool {
        matches!(self, Identity::Admin(_))
    }
}

/// What a rule says to one caller.
#[derive(Clone, Debug, PartialEq)]
pub enum Access {
    /// Nothing of this collection, whatever the record.
    Denied,
    /// All of it.
    Free,
    /// Those records for which the condition holds.
    When(Expr),
}

/// Applies a rule to a caller.
pub fn access(rule: Option<&str>, identity: &Identity) -> Result<Access> {
    if identity.is_admin() {
        return Ok(Access::Free);
    }
    match rule.map(str::trim) {
        None => Ok(Access::Denied),
        Some("") => Ok(Access::Free),
        Some(text) => filter::parse(text).map(Access::When),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_means_admins_and_empty_means_everyone() {
        let admin = Identity::Admin("a".to_owned());
        assert_eq!(access(None, &Identity::Nobody).unwrap(), Access::Denied);
        assert_eq!(access(Some(" "), &Identity::Nobody).unwrap(), Access::Free);
        assert!(matches!(
            access(Some("1=0"), &Identity::Nobody).unwrap(),
            Access::When(_)
        ));
        assert_eq!(access(None, &admin).unwrap(), Access::Free);
        assert_eq!(access(Some("1=0"), &admin).unwrap(), Access::Free);
    }
}
