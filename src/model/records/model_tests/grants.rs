//! What a caller may do with the records of a table: rules, field rules and keys told from the
//! documentation; and random ones of them.

use std::collections::BTreeSet;

use super::callers::Caller;
use super::model::{Asking, SentValues};
use super::request::is_own;
use super::world::{GROUPS, Record, Rule, Table, Value, World};
use crate::model::collections::Field;
use crate::model::rules::FieldRules;
use crate::tests::rng::Rng;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    List,
    View,
    Create,
    Update,
    Delete,
}

/// Which fields a caller reads or writes.
#[derive(Clone, Debug, PartialEq)]
pub enum Sees {
    All,
    NotHidden,
    /// Those that field rules name; `*` names all.
    Named(BTreeSet<String>),
}

/// Which records, and which fields of them.
#[derive(Clone, Debug)]
pub struct Grant {
    pub rule: Rule,
    pub fields: Sees,
}

impl Sees {
    /// Passwords are never seen; hidden fields only by those who see all.
    pub fn shows(&self, field: &Field) -> bool {
        !field.is_secret() && self.takes(field)
    }

    /// The same of writing, which passwords are made for.
    pub fn takes(&self, field: &Field) -> bool {
        match self {
            Sees::All => true,
            Sees::NotHidden => self.knows(field),
            Sees::Named(names) => {
                self.knows(field) && (names.contains("*") || names.contains(&field.name))
            }
        }
    }

    /// To those who do not see all a hidden field does not exist.
    pub fn knows(&self, field: &Field) -> bool {
        *self == Sees::All || !field.hidden || field.is_secret()
    }

    pub fn names(&self, name: &str) -> bool {
        matches!(self, Sees::Named(names) if names.contains(name))
    }
}

impl Grant {
    pub fn is_denied(&self) -> bool {
        self.rule == Rule::Admins
    }
}

impl World {
    pub fn grant(&self, table: usize, deed: Deed, caller: &Caller) -> Grant {
        let everything = Grant {
            rule: Rule::Everyone,
            fields: Sees::All,
        };
        let nothing = Grant {
            rule: Rule::Admins,
            fields: Sees::NotHidden,
        };
        let is_read = matches!(deed, Deed::List | Deed::View);
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
            Caller::Nobody | Caller::Service | Caller::User(_) => {}
        }
        let rules = &self.tables[table].rules;
        let (rule, field_rules) = match deed {
            Deed::List => (&rules.list, rules.fields.as_ref()),
            Deed::View => (&rules.view, rules.fields.as_ref()),
            Deed::Create => (&rules.create, rules.field_edits.as_ref()),
            Deed::Update => (&rules.update, rules.field_edits.as_ref()),
            Deed::Delete => (&rules.delete, None),
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
                fields: Sees::NotHidden,
            };
        }
        Grant {
            rule: Rule::Everyone,
            fields: Sees::Named(lists.into_iter().flatten().cloned().collect()),
        }
    }

    /// Whether a grant is for this record; `sent` is what a change sends.
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
                let asking = Asking {
                    caller,
                    is_rule: true,
                    sent,
                };
                self.holds(expr, table, record, asking)
            }
        }
    }

    /// True if the caller sees the address of an account that it may view.
    pub fn sees_address(&self, table: usize, record: &Record, caller: &Caller) -> bool {
        let Table {
            collection, rules, ..
        } = &self.tables[table];
        if !self.tables[table].is_auth() {
            return true;
        }
        let is_shown = *record.value(collection, "emailVisibility") == Value::Flag(true);
        let fields = self.grant(table, Deed::View, caller).fields;
        let manage = rules.manage.clone().map(|rule| Grant {
            rule,
            fields: fields.clone(),
        });
        let manages = |grant: Grant| self.admits(&grant, table, record, caller, None);
        is_shown
            || fields == Sees::All
            || is_own(caller, table, record)
            || manage.is_some_and(manages)
    }

    /// Whether the caller may view a record.
    pub fn may_view(&self, table: usize, record: &Record, caller: &Caller) -> bool {
        let grant = self.grant(table, Deed::View, caller);
        self.admits(&grant, table, record, caller, None)
    }
}

/// Lists of fields for some groups; often none at all.
pub fn random_field_rules(rng: &mut Rng, world: &World, table: usize) -> Option<FieldRules> {
    if rng.percent(60) {
        return None;
    }
    let fields = &world.tables[table].collection.fields;
    let mut rules = FieldRules::new();
    for group in GROUPS.iter().chain(&["", "nobody"]) {
        // What everybody may do hides what else there is.
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
