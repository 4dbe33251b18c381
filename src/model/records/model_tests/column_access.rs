//! Which columns the words of a condition speak of, and into which tables they step.

use std::collections::HashSet;

use super::callers::Caller;
use super::model::Asking;
use super::request::ALWAYS;
use super::world::World;
use crate::model::filter::{Comparison, Expr, Operand};

#[derive(Clone, Debug, Default)]
pub struct ColumnAccess {
    /// Table and column.
    pub columns: HashSet<(String, String)>,
    /// Tables that a relation leads into.
    pub targets: HashSet<usize>,
}

impl World {
    pub fn column_access(&self, expr: &Expr, table: usize, asking: Asking<'_>) -> ColumnAccess {
        let mut access = ColumnAccess::default();
        self.collect(expr, table, asking, &mut access);
        access
    }

    fn collect(&self, expr: &Expr, table: usize, asking: Asking<'_>, access: &mut ColumnAccess) {
        match expr {
            Expr::Not(inner) => self.collect(inner, table, asking, access),
            Expr::And(list) | Expr::Or(list) => {
                for expr in list {
                    self.collect(expr, table, asking, access);
                }
            }
            Expr::Compare(Comparison { left, right, .. }) => {
                self.collect_operand(left, table, asking, access);
                self.collect_operand(right, table, asking, access);
            }
            Expr::In(left, _) => self.collect_operand(left, table, asking, access),
        }
    }

    fn collect_operand(
        &self,
        operand: &Operand,
        table: usize,
        asking: Asking<'_>,
        access: &mut ColumnAccess,
    ) {
        let Operand::Path(path) = operand else {
            return;
        };
        match path.as_slice() {
            [first, part, name, rest @ ..] if first == "@request" => {
                if part == "auth" && !ALWAYS.contains(&name.as_str()) {
                    self.collect_account(name, rest, asking, access);
                }
            }
            [first, ..] if first.starts_with('@') => {}
            path => self.collect_path(table, path, access),
        }
    }

    /// Only relations of the account lead to records.
    fn collect_account(
        &self,
        name: &str,
        rest: &[String],
        asking: Asking<'_>,
        access: &mut ColumnAccess,
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
            access.targets.insert(target);
            self.collect_path(target, rest, access);
        }
    }

    fn collect_path(&self, table: usize, path: &[String], access: &mut ColumnAccess) {
        let collection = &self.tables[table].collection;
        let Some((name, rest)) = path.split_first() else {
            return;
        };
        access
            .columns
            .insert((collection.name.clone(), name.clone()));
        let target = collection.field(name).and_then(|field| self.target(field));
        if let Some(target) = target.filter(|_| !rest.is_empty()) {
            access.targets.insert(target);
            self.collect_path(target, rest, access);
        }
    }
}
