//! The columns that a condition names, and the tables that its paths join.

use std::collections::HashSet;

use super::callers::Caller;
use super::model::EvalContext;
use super::request::ALWAYS;
use super::world::World;
use crate::model::filter::{Comparison, Expr, Operand};

#[derive(Clone, Debug, Default)]
pub struct ColumnAccess {
    /// Tables and columns.
    pub columns: HashSet<(String, String)>,
    /// Tables reached through a relation.
    pub targets: HashSet<usize>,
}

impl World {
    pub fn column_access(
        &self,
        expr: &Expr,
        table: usize,
        context: EvalContext<'_>,
    ) -> ColumnAccess {
        let mut access = ColumnAccess::default();
        self.collect(expr, table, context, &mut access);
        access
    }

    fn collect(
        &self,
        expr: &Expr,
        table: usize,
        context: EvalContext<'_>,
        access: &mut ColumnAccess,
    ) {
        match expr {
            Expr::Not(inner) => self.collect(inner, table, context, access),
            Expr::And(list) | Expr::Or(list) => {
                for expr in list {
                    self.collect(expr, table, context, access);
                }
            }
            Expr::Compare(Comparison { left, right, .. }) => {
                self.collect_operand(left, table, context, access);
                self.collect_operand(right, table, context, access);
            }
            Expr::In(left, _) => self.collect_operand(left, table, context, access),
        }
    }

    fn collect_operand(
        &self,
        operand: &Operand,
        table: usize,
        context: EvalContext<'_>,
        access: &mut ColumnAccess,
    ) {
        let path = match operand {
            Operand::Path(path) => path,
            Operand::Call(_, arguments) => {
                for argument in arguments {
                    self.collect_operand(argument, table, context, access);
                }
                return;
            }
            Operand::Literal(_) => return,
        };
        match path.as_slice() {
            [first, part, name, rest @ ..] if first == "@request" => {
                if part == "auth" && !ALWAYS.contains(&name.as_str()) {
                    self.collect_account(name, rest, context, access);
                }
            }
            [first, name, rest @ ..] if first == "@collection" => {
                let name = name.split(':').next().unwrap_or_default();
                let mut tables = self.tables.iter();
                if let Some(target) = tables.position(|it| it.collection.name == name) {
                    access.targets.insert(target);
                    self.collect_path(target, rest, access);
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
        context: EvalContext<'_>,
        access: &mut ColumnAccess,
    ) {
        let Caller::User(account) = context.caller else {
            return;
        };
        let collection = &self.tables[account.table].collection;
        let Some(field) = collection.field(name) else {
            return;
        };
        let is_set = !account.record.value(collection, name).texts().is_empty();
        let is_walked = is_set && !rest.is_empty();
        // In a rule, a path that only other accounts have is unset.
        let leads = |target: &usize| self.class_of(*target, rest, context).is_some();
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
        let name = name.split(':').next().unwrap_or_default();
        if let (None, Some((target, relation))) =
            (collection.field(name), self.back_relation(table, name))
        {
            let back = &self.tables[target].collection;
            access
                .columns
                .insert((back.name.clone(), relation.name.clone()));
            access.targets.insert(target);
            return self.collect_path(target, rest, access);
        }
        access
            .columns
            .insert((collection.name.clone(), name.to_owned()));
        let target = collection.field(name).and_then(|field| self.target(field));
        if let Some(target) = target.filter(|_| !rest.is_empty()) {
            access.targets.insert(target);
            self.collect_path(target, rest, access);
        }
    }
}
