//! A rule of a collection: its text and its parsed condition.

use std::sync::Arc;

use crate::base::error::Result;
use crate::model::filter;
use crate::model::filter::Expr;

/// A rule, parsed once when its definition is read. Requests use the tree, and never the text.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    text: String,
    /// None for an empty rule, which admits everyone.
    expression: Option<Arc<Expr>>,
}

impl Rule {
    /// Parses a rule, which may be empty.
    pub fn parse(text: impl Into<String>) -> Result<Rule> {
        let text = text.into();
        let expression = match text.trim() {
            "" => None,
            filter => Some(Arc::new(filter::parse(filter)?)),
        };
        Ok(Rule { text, expression })
    }

    /// The empty rule, which admits everyone.
    pub fn everyone() -> Rule {
        Rule {
            text: String::new(),
            expression: None,
        }
    }

    /// A rule of a stored definition that cannot be parsed. It keeps its text and admits admins
    /// only.
    pub fn unreadable(text: String) -> Rule {
        Rule {
            text,
            expression: Some(Arc::new(Expr::never())),
        }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn expression(&self) -> Option<&Arc<Expr>> {
        self.expression.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_keeps_its_text_and_only_an_empty_one_has_no_condition() {
        let rule = Rule::parse(" a = 1 ").unwrap();
        assert_eq!(rule.text(), " a = 1 ");
        assert!(rule.expression().is_some());
        assert!(Rule::parse("  ").unwrap().expression().is_none());
        assert!(Rule::parse("a =").is_err());
        let unreadable = Rule::unreadable("a =".to_owned());
        assert_eq!(unreadable.text(), "a =");
        assert!(unreadable.expression().is_some());
    }
}
