//! Access of callers to the records of a table: rules, field rules and API keys, written from the
//! documentation; and random ones.

use std::collections::BTreeSet;

use super::callers::Caller;
use super::model::{EvalContext, SentValues};
use super::request::is_own;
use super::world::{GROUPS, Record, Rule, Table, Value, World};
use crate::model::collections::Field;
use crate::model::rules::FieldRules;
use crate::tests::rng::Rng;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    List,
    View,
    Create,
    Update,
    Delete,
}

/// The fields that a caller may read or write.
#[derive(Clone, Debug, PartialEq)]
pub enum ReadableFields {
    All,
    NotHidden,
    /// The fields that field rules name; `*` names all.
    Named(BTreeSet<String>),
}

/// The records, and their fields.
#[derive(Clone, Debug)]
pub struct Grant {
    pub rule: Rule,
    pub fields: ReadableFields,
}

impl ReadableFields {
    /// Passwords are never readable; hidden fields only with access to all fields.
    pub fn shows(&self, field: &Field) -> bool {
        !field.is_secret() && self.takes(field)
    }

    /// The same for writing, which includes passwords.
    pub fn takes(&self, field: &Field) -> bool {
        match self {
            ReadableFields::All => true,
            ReadableFields::NotHidden => self.knows(field),
            ReadableFields::Named(names) => {
                self.knows(field) && (names.contains("*") || names.contains(&field.name))
            }
        }
    }

    /// A hidden field does not exist without access to all fields.
    pub fn knows(&self, field: &Field) -> bool {
        *self == ReadableFields::All || !field.hidden || field.is_secret()
    }

    pub fn names(&self, name: &str) -> bool {
        matches!(self, ReadableFields::Named(names) if names.contains(name))
    }
}

impl Grant {
    pub fn is_denied(&self) -> bool {
        self.rule == Rule::Admins
    }
}

impl World {
    pub fn grant(&self, table: usize, verb: Verb, caller: &Caller) -> Grant {
        let everything = Grant {
            rule: Rule::Everyone,
            fields: ReadableFields::All,
        };
        let nothing = Grant {
            rule: Rule::Admins,
            fields: ReadableFields::NotHidden,
        };
        let is_read = matches!(verb, Verb::List | Verb::View);
        match caller {
            Caller::Admin => return everything,
            Caller::Key(pass) => {
                let is_in_scope = if is_read { pass.reads } else { pass.writes };
                let is_listed = pass
                    .tables
                    .as_ref()
                    .is_none_or(|list| list.contains(&table));
                return if is_in_scope && is_listed {
                    everything
                } else {
                    nothing
                };
            }
            Caller::Anonymous | Caller::Service | Caller::User(_) => {}
        }
        let rules = &self.tables[table].rules;
        let (rule, field_rules) = match verb {
            Verb::List => (&rules.list, rules.fields.as_ref()),
            Verb::View => (&rules.view, rules.fields.as_ref()),
            Verb::Create => (&rules.create, rules.field_edits.as_ref()),
            Verb::Update => (&rules.update, rules.field_edits.as_ref()),
            Verb::Delete => (&rules.delete, None),
        };
        let groups = caller.groups(self);
        let lists: Vec<&BTreeSet<String>> = field_rules
            .into_iter()
            .flatten()
            .filter(|(group, _)| groups.contains(group))
            .map(|(_, names)| names)
            .collect();
        if lists.is_empty() {
            return Grant {
                rule: rule.clone(),
                fields: ReadableFields::NotHidden,
            };
        }
        Grant {
            rule: Rule::Everyone,
            fields: ReadableFields::Named(lists.into_iter().flatten().cloned().collect()),
        }
    }

    /// True if a grant covers this record; `sent` is `@request.body`.
    pub fn admits(
        &self,
        grant: &Grant,
        table: usize,
        record: &Record,
        caller: &Caller,
        sent: Option<&SentValues>,
    ) -> bool {
        match &grant.rule {
            Rule::Admins => false,
            Rule::Everyone => true,
            Rule::When(expr) => {
                let context = EvalContext {
                    caller,
                    is_rule: true,
                    sent,
                };
                self.holds(expr, table, record, context)
            }
        }
    }

    /// True if the caller sees the email of an account that it may view.
    pub fn sees_address(&self, table: usize, record: &Record, caller: &Caller) -> bool {
        let Table {
            collection, rules, ..
        } = &self.tables[table];
        if !self.tables[table].is_auth() {
            return true;
        }
        let is_shown = *record.value(collection, "emailVisibility") == Value::Flag(true);
        let fields = self.grant(table, Verb::View, caller).fields;
        let manage = rules.manage.clone().map(|rule| Grant {
            rule,
            fields: fields.clone(),
        });
        let manages = |grant: Grant| self.admits(&grant, table, record, caller, None);
        is_shown
            || fields == ReadableFields::All
            || is_own(caller, table, record)
            || manage.is_some_and(manages)
    }

    /// True if the caller may view a record.
    pub fn may_view(&self, table: usize, record: &Record, caller: &Caller) -> bool {
        let grant = self.grant(table, Verb::View, caller);
        self.admits(&grant, table, record, caller, None)
    }
}

/// Lists of fields for some groups; often none.
pub fn random_field_rules(rng: &mut Rng, world: &World, table: usize) -> Option<FieldRules> {
    if rng.percent(60) {
        return None;
    }
    let fields = &world.tables[table].collection.fields;
    let mut rules = FieldRules::new();
    for group in GROUPS.iter().chain(&["", "nobody"]) {
        // The rule for everyone would mask the others.
        let share = if *group == "*" { 12 } else { 40 };
        if rng.percent(share) {
            let named = fields.iter().filter(|_| rng.percent(50));
            let mut names: BTreeSet<String> = named.map(|field| field.name.clone()).collect();
            if rng.one_in(3) {
                names.insert(rng.word(&["*", "*", "id", "created"]));
            }
            rules.insert((*group).to_owned(), names);
        }
    }
    (!rules.is_empty()).then_some(rules)
}
