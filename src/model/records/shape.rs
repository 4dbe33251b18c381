//! The parameters `fields` and `expand`: which parts of a record to return.
//!
//! Both are comma-separated paths that become trees: `fields=title,expand.author.name` and
//! `expand=author,comments.author`. `*` stands for all fields of its level. Names in `expand` that
//! do not exist, and levels that are too deep, are ignored, as in PocketBase.

use std::collections::BTreeMap;

use serde_json::Value;

use super::excerpt::Excerpt;
use crate::base::error::{Error, Result};

/// Maximum depth of `expand`.
pub const EXPAND_DEPTH_MAX: usize = 6;
/// Maximum depth of `fields`: each level of `expand` with the word `expand`, and a field.
const FIELDS_DEPTH_MAX: usize = 2 * EXPAND_DEPTH_MAX + 1;
const PATHS_MAX: usize = 100;
const BYTES_MAX: usize = 4 << 10;

/// The parts of a record to return.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// None for all fields.
    pub fields: Option<FieldTree>,
    pub expand: FieldTree,
}

/// A tree of field names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldTree {
    pub children: BTreeMap<String, FieldTree>,
    /// The excerpt to return in place of the whole field.
    pub excerpt: Option<Excerpt>,
}

impl Shape {
    /// Parses the query parameters `fields` and `expand`.
    pub fn parse(fields: Option<&str>, expand: Option<&str>) -> Result<Shape> {
        let fields = fields.filter(|text| !text.trim().is_empty());
        Ok(Shape {
            fields: fields.map(FieldTree::of_fields).transpose()?,
            expand: FieldTree::of_expand(expand.unwrap_or_default())?,
        })
    }

    /// The parts of a JSON object that `fields` names, for objects that are no records.
    pub fn of_json(&self, value: Value) -> Value {
        match &self.fields {
            Some(tree) => tree.of_json(value),
            None => value,
        }
    }
}

impl FieldTree {
    fn of_json(&self, value: Value) -> Value {
        if self.children.is_empty() {
            return value;
        }
        match value {
            Value::Array(list) => list.into_iter().map(|it| self.of_json(it)).collect(),
            Value::Object(object) => {
                let all = self.children.contains_key("*");
                let shown =
                    object
                        .into_iter()
                        .filter_map(|(name, value)| match self.children.get(&name) {
                            Some(tree) => Some((name, tree.of_json(value))),
                            None => all.then_some((name, value)),
                        });
                Value::Object(shown.collect())
            }
            value => value,
        }
    }

    fn of_fields(text: &str) -> Result<FieldTree> {
        let mut root = FieldTree::default();
        for path in paths("fields", text)? {
            let unknown = || Error::invalid(format!("fields: {path} is not a field."));
            let (names, excerpt) = match path.split_once(':') {
                Some((names, modifier)) => {
                    (names, Some(Excerpt::parse(modifier).ok_or_else(unknown)?))
                }
                None => (path, None),
            };
            let names: Vec<&str> = names.split('.').collect();
            if !names.iter().copied().all(is_name) {
                return Err(unknown());
            }
            if names.len() > FIELDS_DEPTH_MAX {
                let message = format!("fields: at most {FIELDS_DEPTH_MAX} levels.");
                return Err(Error::invalid(message));
            }
            root.add(&names).excerpt = excerpt;
        }
        Ok(root)
    }

    fn of_expand(text: &str) -> Result<FieldTree> {
        let mut root = FieldTree::default();
        for path in paths("expand", text)? {
            let names = path.split('.').take(EXPAND_DEPTH_MAX);
            let names: Vec<&str> = names.take_while(|name| is_name(name)).collect();
            root.add(&names);
        }
        Ok(root)
    }

    /// Inserts a path and returns its last node.
    fn add(&mut self, names: &[&str]) -> &mut FieldTree {
        names.iter().fold(self, |at, name| {
            at.children.entry((*name).to_owned()).or_default()
        })
    }

    pub fn has(&self, name: &str) -> bool {
        self.children.contains_key("*") || self.children.contains_key(name)
    }

    /// The excerpt requested for a field; none for the whole field.
    pub fn excerpt(&self, name: &str) -> Option<Excerpt> {
        let tree = self.children.get(name).or_else(|| self.children.get("*"));
        tree.and_then(|tree| tree.excerpt)
    }
}

/// Splits a parameter into paths at its commas, except those in parentheses.
fn paths<'a>(parameter: &str, text: &'a str) -> Result<Vec<&'a str>> {
    let mut depth = 0_usize;
    let parts = text.split(|char| {
        match char {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        char == ',' && depth == 0
    });
    let parts: Vec<&str> = parts.map(str::trim).collect();
    if text.len() > BYTES_MAX || parts.len() > PATHS_MAX {
        return Err(Error::invalid(format!("{parameter} is too long.")));
    }
    Ok(parts.into_iter().filter(|path| !path.is_empty()).collect())
}

fn is_name(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    name == "*" || (!name.is_empty() && name.bytes().all(is_part))
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
        let deep = "expand.a.".repeat(7) + "b";
        for wrong in [
            "a b",
            "a..b",
            "a\"",
            "\u{e9}",
            "a:no",
            "a:excerpt",
            "a:excerpt(0)",
            "a:excerpt(5",
            &deep,
        ] {
            assert!(Shape::parse(Some(wrong), None).is_err(), "{wrong}");
        }
        assert!(Shape::parse(Some(&deep[9..]), None).is_ok());
        assert!(Shape::parse(None, Some(&"a,".repeat(200))).is_err());
    }

    #[test]
    fn what_cannot_be_expanded_is_passed_over() {
        let tree = |text: &str| Shape::parse(None, Some(text)).unwrap().expand;
        for nothing in ["a b", "\u{e9}", "-a", "comments(post)", ","] {
            assert_eq!(tree(nothing), FieldTree::default(), "{nothing}");
        }
        assert_eq!(tree("a.b c,x,"), tree("a,x"));
        assert_eq!(tree("a.b.c.d.e.f.g.h"), tree("a.b.c.d.e.f"));
    }

    #[test]
    fn a_field_may_be_wanted_in_part() {
        let text = "body:excerpt(5,true), title,*:excerpt(9),expand.a.b:excerpt(7)";
        let fields = Shape::parse(Some(text), None).unwrap().fields.unwrap();
        let chars = |name: &str| {
            fields
                .excerpt(name)
                .map(|it| (it.chars_max, it.has_ellipsis))
        };
        assert_eq!(chars("body"), Some((5, true)));
        assert_eq!(chars("title"), None);
        assert_eq!(chars("other"), Some((9, false)));
        let below = &fields.children["expand"].children["a"];
        assert_eq!(below.excerpt("b").map(|it| it.chars_max), Some(7));
    }
}
