//! Renames with all that they need: definitions that mention a name change together with the one
//! that has it.

use std::sync::Arc;

use rusqlite::Connection;

use super::catalog::{Catalog, FAILED_UPDATE};
use super::check::refers_to_removed;
use super::parse::{Problems, key_of_field};
use super::renames::{REFUSED, Renamer, Renames, references};
use super::several::{DefinitionChange, Reports};
use super::{Collection, Collections};
use crate::base::error::{Error, Kind, Result};

const REPORTS: Reports = Reports {
    problems: report,
    table: |_, error| error,
};

/// The first definition is the renamed one.
fn report(all: &mut [DefinitionChange]) -> Result<()> {
    for (at, one) in all.iter_mut().enumerate() {
        let problems = std::mem::take(&mut one.problems);
        if at == 0 {
            problems.check(FAILED_UPDATE)?;
        } else if let Some((key, _)) = problems.into_errors().first_key_value() {
            return Err(refers_to_removed(key, &one.next));
        }
    }
    Ok(())
}

impl Catalog {
    /// Changes a collection that gets another name, or a field of which does, and all definitions
    /// that mention it.
    pub(super) fn rename(
        &self,
        database: &str,
        previous: &Arc<Collection>,
        next: Collection,
        problems: Problems,
        current: &Collections,
    ) -> Result<()> {
        let mut kept = current.all();
        kept.retain(|it| it.id != previous.id);
        let mut all = vec![DefinitionChange {
            next,
            previous: Some(Arc::clone(previous)),
            problems,
        }];
        self.follow_renames(database, &mut all, &mut kept, (current, REPORTS))?;
        self.check_all(&mut all, &kept, current, REPORTS)?;
        let nothing = Box::new(|_: &Connection, _: &Collections| Ok(()));
        self.store_all(database, all, Vec::new(), (REPORTS, nothing))
    }

    /// Rewrites what mentions renamed collections and fields. Moves those of `kept` that change to
    /// `all`. What cannot follow is a problem of a renamed collection.
    pub(super) fn follow_renames(
        &self,
        database: &str,
        all: &mut Vec<DefinitionChange>,
        kept: &mut Vec<&Arc<Collection>>,
        (current, reports): (&Collections, Reports),
    ) -> Result<()> {
        let mut renames = Renames::default();
        for one in all.iter() {
            one.previous
                .iter()
                .for_each(|it| renames.add(it, &one.next));
        }
        let Some(first) = all.iter().position(|one| renames.concern(&one.next)) else {
            return Ok(());
        };
        if all.iter().any(|one| !one.problems.is_empty()) {
            // Names that are not free would only cause more errors.
            (reports.problems)(all)?;
        }
        let renamer = Renamer {
            before: current,
            renames: &renames,
        };
        let mut refusals = Vec::new();
        let mut take = |result: Result<()>| match result {
            Err(error) if error.kind() == Kind::Invalid => {
                refusals.push(error.message().to_owned());
                Ok(())
            }
            result => result,
        };
        for one in all.iter_mut() {
            if let Some(previous) = &one.previous {
                take(renamer.apply(previous, &mut one.next))?;
            }
        }
        for it in std::mem::take(kept) {
            let mut next = Collection::clone(it);
            take(renamer.apply(it, &mut next))?;
            match next.stored_json() == it.stored_json() {
                true => kept.push(it),
                false => all.push(DefinitionChange {
                    next,
                    previous: Some(Arc::clone(it)),
                    problems: Problems::default(),
                }),
            }
        }
        take(self.check_references(database, &renames, current))?;
        let renamed = &mut all[first];
        let key = problem_key(&renames, &renamed.next);
        for message in refusals {
            renamed.problems.add(&key, REFUSED, message);
        }
        Ok(())
    }

    /// Refuses renames that an API key or the script of a job cannot follow.
    fn check_references(
        &self,
        database: &str,
        renames: &Renames,
        current: &Collections,
    ) -> Result<()> {
        let pairs: Vec<_> = renames.collections.values().collect();
        let default = self.databases.default();
        let refusal = default.look_up(|it| references::refusing_key(it, database, &pairs))?;
        if let Some(message) = refusal {
            return Err(Error::invalid(message));
        }
        let job = |it: &Connection| references::refusing_job(it, database, renames, current);
        match default.look_up(job)? {
            None => Ok(()),
            Some((job, name)) => Err(Error::invalid(format!(
                "The script of the job {job} names {name}, and cannot be rewritten; change or \
                 delete the job first."
            ))),
        }
    }
}

/// The attribute of a renamed collection that cannot be renamed.
fn problem_key(renames: &Renames, collection: &Collection) -> String {
    let fields = renames.fields.get(&collection.id);
    match fields.and_then(|it| it.values().next()) {
        Some(pair) if !renames.collections.contains_key(&collection.id) => key_of_field(&pair.new),
        _ => "name".to_owned(),
    }
}
