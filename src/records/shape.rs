//! What of a record a client wants to see: `fields` and `expand`.
//!
//! Both are comma-separated paths read into trees: `fields=title,expand.author.name` and
//! `expand=author,comments.author`. `*` stands for all fields of its level.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::error::Result;

/// Levels of `expand`.
pub const EXPAND_DEPTH_MAX: usize = 3;
const PATHS_MAX: usize = 100;
const BYTES_MAX: usize = 4 << 10;

/// What to show of a record.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// None: everything.
    pub fields: Option<Tree>,
    pub expand: Tree,
}

/// Names and what is wanted below each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tree {
    pub children: BTreeMap<String, Tree>,
}

impl Shape {
    /// Reads the two query parameters.
    pub fn parse(fields: Option<&str>, expand: Option<&str>) -> Result<Shape> {
        let fields = fields.filter(|text| !text.trim().is_empty());
        Ok(Shape {
            fields: fields
                .map(|text| Tree::parse("fields", text, 8))
                .transpose()?,
            expand: Tree::parse("expand", expand.unwrap_or_default(), EXPAND_DEPTH_MAX)?,
        })
    }
}

impl Tree {
    fn parse(parameter: &str, text: &str, depth_max: usize) -> Result<Tree> {
        let mut root = Tree::default();
        if text.len() > BYTES_MAX || text.split(',').count() > PATHS_MAX {
            return Err(Error::invalid(format!("{parameter} is too long.")));
        }
        for path in text
            .split(',')
            .map(str::trim)
            .filter(|path| !path.is_empty())
        {
            let names: Vec<&str> = path.split('.').collect();
            let is_name = |name: &&str| {
                let mut bytes = name.bytes();
                *name == "*"
                    || (!name.is_empty() && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_'))
            };
            if !names.iter().all(is_name) {
                return Err(Error::invalid(format!(
                    "{parameter}: {path} is not a field."
                )));
            }
            if names.len() > depth_max {
                return Err(Error::invalid(format!(
                    "{parameter}: at most {depth_max} levels."
                )));
            }
            let mut at = &mut root;
            for name in names {
                at = at.children.entry(name.to_owned()).or_default();
            }
        }
        Ok(root)
    }

    /// Whether a name is wanted.
    pub fn has(&self, name: &str) -> bool {
        self.children.contains_key("*") || self.children.contains_key(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_trees() {
        let shape = Shape::parse(Some("id, expand.a.b,expand.a.c"), Some("a.b,c")).unwrap();
        let fields = shape.fields.unwrap();
        assert!(fields.has("id") && fields.has("expand") && !fields.has("title"));
        assert_eq!(fields.children["expand"].children["a"].children.len(), 2);
        assert!(shape.expand.children["a"].has("b") && !shape.expand.has("b"));
    }

    #[test]
    fn no_fields_mean_all_and_nonsense_is_refused() {
        assert!(Shape::parse(Some(" "), None).unwrap().fields.is_none());
        for wrong in ["a b", "a..b", "a\"", "\u{e9}", "a.b.c.d"] {
            assert!(Shape::parse(None, Some(wrong)).is_err(), "{wrong}");
        }
        assert!(Shape::parse(None, Some(&"a,".repeat(200))).is_err());
    }
}
