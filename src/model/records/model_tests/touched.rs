//! Which columns the words of a condition speak of, and into which tables they step.

use std::collections::HashSet;

use super::callers::Caller;
use super::model::Asking;
use super::request::ALWAYS;
use super::world::World;
use crate::model::filter::{Comparison, Expr, Operand};

#[derive(Clone, Debug, Default)]
pub struct Touched {
    /// Table and column.
    pub columns: HashSet<(String, String)>,
    /// Tables that a relation leads into.
    pub targets: HashSet<usize>,
}

impl World {
    pub fn touched(&self, expr: &Expr, table: usize, asking: Asking<'_>) -> Touched {
        let mut touched = Touched::default();
        self.touch(expr, table, asking, &mut touched);
        touched
    }

    fn touch(&self, expr: &Expr, table: usize, asking: Asking<'_>, touched: &mut Touched) {
        match expr {
            Expr::Not(inner) => self.touch(inner, table, asking, touched),
            Expr::And(list) | Expr::Or(list) => {
                for expr in list {
                    self.touch(expr, table, asking, touched);
                }
            }
            Expr::Compare(Comparison { left, right, .. }) => {
                self.touch_operand(left, table, asking, touched);
                self.touch_operand(right, table, asking, touched);
            }
            Expr::In(left, _) => self.touch_operand(left, table, asking, touched),
        }
    }

    fn touch_operand(
        &self,
        operand: &Operand,
        table: usize,
        asking: Asking<'_>,
        touched: &mut Touched,
    ) {
        let Operand::Path(path) = operand else {
            return;
        };
        match path.as_slice() {
            [first, part, name, rest @ ..] if first == "@request" => {
                if part == "auth" && !ALWAYS.contains(&name.as_str()) {
                    self.touch_account(name, rest, asking, touched);
                }
            }
            [first, ..] if first.starts_with('@') => {}
            path => self.touch_path(table, path, touched),
        }
    }

    /// Only relations of the account lead to records.
    fn touch_account(
        &self,
        name: &str,
        rest: &[String],
        asking: Asking<'_>,
        touched: &mut Touched,
    ) {
        let Caller::User(account) = asking.caller else {
            return;
        };
        let collection = &self.tables[account.table].collection;
        let Some(field) = collection.field(name) else {
            return;
        };
        let is_set = !account.record.value(collection, name).texts().is_empty();
        let is_walked = is_set && !rest.is_empty();
        // In a rule a path that only other accounts have is nothing.
        let leads = |target: &usize| self.class_of(*target, rest, asking).is_some();
        if let Some(target) = self.target(field).filter(|it| is_walked && leads(it)) {
            touched.targets.insert(target);
            self.touch_path(target, rest, touched);
        }
    }

    fn touch_path(&self, table: usize, path: &[String], touched: &mut Touched) {
        let collection = &self.tables[table].collection;
        let Some((name, rest)) = path.split_first() else {
            return;
        };
        touched
            .columns
            .insert((collection.name.clone(), name.clone()));
        let target = collection.field(name).and_then(|field| self.target(field));
        if let Some(target) = target.filter(|_| !rest.is_empty()) {
            touched.targets.insert(target);
            self.touch_path(target, rest, touched);
        }
    }
}
