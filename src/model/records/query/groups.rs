//! Which conditions of an AND look at the same rows.

use std::collections::BTreeSet;

use super::path::back_relation;
use crate::model::collections::{Collection, Collections};
use crate::model::filter::{COLLECTION, Expr, REQUEST};

/// Divides the conditions of an AND so that those that ask for any of the same rows are together.
pub fn of<'e>(list: &'e [Expr], at: &Collection, collections: &Collections) -> Vec<Vec<&'e Expr>> {
    let mut groups: Vec<(BTreeSet<String>, Vec<&Expr>)> = Vec::new();
    let is_alone = list.iter().filter(|expr| asks_any(expr)).count() < 2;
    for expr in list {
        let mut keys = BTreeSet::new();
        if !is_alone {
            collect(expr, at, collections, &mut keys);
        }
        let mut members = vec![expr];
        // All groups that share rows with this condition become one, in place of the first.
        let mut first = None;
        let mut index = 0;
        while index < groups.len() {
            if groups[index].0.is_disjoint(&keys) {
                index += 1;
                continue;
            }
            let (more, mut others) = groups.remove(index);
            keys.extend(more);
            others.append(&mut members);
            members = others;
            first.get_or_insert(index);
        }
        groups.insert(first.unwrap_or(groups.len()), (keys, members));
    }
    groups.into_iter().map(|(_, members)| members).collect()
}

/// True if it compares with any of several values. A NOT has rows of its own.
fn asks_any(expr: &Expr) -> bool {
    match expr {
        Expr::Not(_) => false,
        Expr::And(list) | Expr::Or(list) => list.iter().any(asks_any),
        Expr::Compare(comparison) => comparison.any,
        Expr::In(..) => true,
    }
}

/// Collects the paths to the rows that a condition asks for.
fn collect(expr: &Expr, at: &Collection, collections: &Collections, keys: &mut BTreeSet<String>) {
    let operands = match expr {
        Expr::And(list) | Expr::Or(list) => {
            for expr in list {
                collect(expr, at, collections, keys);
            }
            return;
        }
        Expr::Compare(comparison) if comparison.any => vec![&comparison.left, &comparison.right],
        Expr::In(operand, _) => vec![operand],
        Expr::Not(_) | Expr::Compare(_) => return,
    };
    for path in operands.into_iter().flat_map(|operand| operand.paths()) {
        match path {
            [first, name, rest @ ..] if first == COLLECTION => {
                let key = format!("{first}.{name}");
                let plain = name.split(':').next().unwrap_or_default();
                if let Some(target) = collections.find(plain) {
                    keys.insert(key.clone());
                    collect_path(rest, target, key, collections, keys);
                }
            }
            // Relations of the account and of the body, with one value or several.
            [first, part, name, _, ..] if first == REQUEST => {
                keys.insert(format!("{first}.{part}.{name}"));
            }
            path => collect_path(path, at, String::new(), collections, keys),
        }
    }
}

fn collect_path<'a>(
    path: &[String],
    mut at: &'a Collection,
    mut key: String,
    collections: &'a Collections,
    keys: &mut BTreeSet<String>,
) {
    for (index, name) in path.iter().enumerate() {
        key += ".";
        key += name;
        let field = at.field(name);
        let is_last = index + 1 == path.len();
        if name.ends_with(":each") || (!is_last && field.is_none_or(|it| it.is_multiple())) {
            keys.insert(key.clone());
        }
        let next = match field {
            Some(field) => field
                .relation()
                .and_then(|options| collections.by_id(&options.collection_id)),
            None => back_relation(collections, at, name).map(|(target, _)| target),
        };
        match next {
            Some(next) => at = next,
            None => return,
        }
    }
}
