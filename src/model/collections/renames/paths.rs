//! Rewrites the paths of rules, filters and sorts: `author.name`, `comments_via_post`,
//! `@collection.NAME.field`, `@request.auth.field`, `@request.body.field`.
//!
//! A path is followed through the definitions before the change, as `records::query` does. Names
//! that lead nowhere stay. A rule is refused if it would come to mean other fields than before:
//! `@request.auth` reaches the fields of all auth collections by their names.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::names::{NamePair, Renames};
use crate::base::error::{Error, Result};
use crate::model::collections::{Collection, CollectionKind, Collections};
use crate::model::filter;
use crate::model::filter::{COLLECTION, FilterPart, FilterPartKind, REQUEST};

/// Between the collection and the relation of a name that leads back.
const VIA: &str = "_via_";
/// `@request.auth.collectionName`, which rules compare with names of collections.
const COLLECTION_NAME: &str = "collectionName";

/// Follows paths through the definitions before the change.
#[derive(Clone, Copy)]
pub struct PathRenamer<'a> {
    pub before: &'a Collections,
    pub renames: &'a Renames,
}

impl PathRenamer<'_> {
    /// The text of a rule or filter of `root`, with the new names. One that cannot be parsed stays.
    pub fn filter(&self, root: &Collection, text: &str) -> Result<String> {
        let Ok(parts) = filter::parts(text) else {
            return Ok(text.to_owned());
        };
        let mut pieces = Vec::new();
        for part in &parts {
            if let FilterPartKind::Path(path) = &part.kind {
                let new = self.path(root, path)?;
                if new != *path {
                    pieces.push((part.range.clone(), new.join(".")));
                }
            }
        }
        self.add_collection_names(text, &parts, &mut pieces)?;
        pieces.sort_by_key(|(range, _)| range.start);
        Ok(filter::replace(text, &pieces))
    }

    /// The text of a sort, with the new names.
    pub fn sort(&self, root: &Collection, text: &str) -> Result<String> {
        let mut pieces = Vec::new();
        let mut at = 0;
        for term in text.split(',') {
            let path = term.trim().trim_start_matches(['-', '+']).trim_start();
            let start = at + (term.trim_end().len() - path.len());
            at += term.len() + 1;
            if path.is_empty() {
                continue;
            }
            let names: Vec<String> = path.split('.').map(str::to_owned).collect();
            let new = self.path(root, &names)?;
            if new != names {
                pieces.push((start..start + path.len(), new.join(".")));
            }
        }
        Ok(filter::replace(text, &pieces))
    }

    fn path(&self, root: &Collection, path: &[String]) -> Result<Vec<String>> {
        let first = path.first().map_or("", String::as_str);
        match (first, path) {
            (COLLECTION, [_, name, rest @ ..]) => {
                let (plain, alias) = split(name);
                let Some(target) = self.before.find(plain) else {
                    return Ok(path.to_vec());
                };
                let name = self.collection_name(target, plain);
                let mut new = vec![first.to_owned(), format!("{name}{alias}")];
                new.extend(self.names(target, rest));
                Ok(new)
            }
            (REQUEST, [_, part, rest @ ..]) if part == "body" => {
                let mut new = path[..2].to_vec();
                new.extend(self.names(root, rest));
                Ok(new)
            }
            (REQUEST, [_, part, _, ..]) if part == "auth" => self.auth_path(path),
            _ if first.starts_with('@') => Ok(path.to_vec()),
            _ => Ok(self.names(root, path)),
        }
    }

    /// The name of a collection in a path, which may also be its id.
    fn collection_name<'b>(&'b self, target: &'b Collection, written: &'b str) -> &'b str {
        match written == target.name {
            true => self.renames.name_of(target),
            false => written,
        }
    }

    /// The names of a path that begins at a record of `at`.
    fn names(&self, at: &Collection, names: &[String]) -> Vec<String> {
        let mut at = at;
        let mut new = Vec::with_capacity(names.len());
        for (position, name) in names.iter().enumerate() {
            let (plain, modifier) = split(name);
            let next = match at.field(plain) {
                Some(field) => {
                    new.push(format!("{}{modifier}", self.renames.field_of(at, field)));
                    let target = field.relation().map(|to| &to.collection_id);
                    target.and_then(|id| self.before.by_id(id))
                }
                None => {
                    let (name, target) = self.back_relation(at, plain).unzip();
                    new.push(name.map_or_else(|| names[position].clone(), |it| it + modifier));
                    target
                }
            };
            let Some(next) = next else {
                new.extend_from_slice(&names[position + 1..]);
                break;
            };
            at = next;
        }
        new
    }

    /// The new form of a name such as `comments_via_post`, and the collection that it leads to.
    fn back_relation(&self, at: &Collection, name: &str) -> Option<(String, &Arc<Collection>)> {
        let (written, relation) = name.rsplit_once(VIA)?;
        let target = self.before.find(written)?;
        let field = target.field(relation)?;
        if field.relation()?.collection_id != at.id {
            return None;
        }
        let collection = self.collection_name(target, written);
        let relation = self.renames.field_of(target, field);
        Some((format!("{collection}{VIA}{relation}"), target))
    }

    /// A path into the account of the caller, which may be in any auth collection that has such a
    /// field.
    fn auth_path(&self, path: &[String]) -> Result<Vec<String>> {
        let (name, rest) = (split(&path[2]).0, &path[2..]);
        let all = self.before.all().into_iter();
        let all: Vec<_> = all.filter(|it| it.kind == CollectionKind::Auth).collect();
        let having = all.iter().filter(|it| it.field(name).is_some());
        let forms: BTreeSet<Vec<String>> = having.map(|it| self.names(it, rest)).collect();
        let Some(form) = forms.first() else {
            return Ok(path.to_vec());
        };
        let new_name = split(&form[0]).0;
        let means = |it: &Collection| it.field(name).is_some();
        let will_mean = |it: &Collection| {
            let mut fields = it.fields.iter();
            fields.any(|field| self.renames.field_of(it, field) == new_name)
        };
        if forms.len() > 1 || all.iter().any(|it| will_mean(it) && !means(it)) {
            return Err(Error::invalid(format!(
                "{} means a field of several auth collections, and would not mean the same \
                 fields afterwards",
                path.join(".")
            )));
        }
        let mut new = path[..2].to_vec();
        new.extend(form.iter().cloned());
        Ok(new)
    }

    /// Adds the names of renamed auth collections that `@request.auth.collectionName` is compared
    /// with. Refuses other comparisons of it.
    fn add_collection_names(
        &self,
        text: &str,
        parts: &[FilterPart],
        pieces: &mut Vec<(Range<usize>, String)>,
    ) -> Result<()> {
        let renamed = self.renames.collections.iter().filter(|(id, _)| {
            let found = self.before.by_id(id);
            found.is_some_and(|it| it.kind == CollectionKind::Auth)
        });
        let renamed: Vec<&NamePair> = renamed.map(|(_, pair)| pair).collect();
        let is_name = |part: &FilterPart| match &part.kind {
            FilterPartKind::Path(path) => match path.as_slice() {
                [first, part, name] => {
                    first == REQUEST && part == "auth" && split(name).0 == COLLECTION_NAME
                }
                _ => false,
            },
            _ => false,
        };
        for at in (0..parts.len()).filter(|at| !renamed.is_empty() && is_name(&parts[*at])) {
            let is_plain = text[parts[at].range.clone()].ends_with(COLLECTION_NAME);
            let part = |at: Option<usize>| at.and_then(|at| parts.get(at));
            let is_equality = |part: Option<&FilterPart>| {
                part.is_some_and(|part| part.kind == FilterPartKind::Equality)
            };
            let literal = match is_equality(part(Some(at + 1))) {
                true => part(Some(at + 2)),
                false if is_equality(part(at.checked_sub(1))) => part(at.checked_sub(2)),
                false => None,
            };
            let Some(FilterPart {
                range,
                kind: FilterPartKind::Text(name),
            }) = literal.filter(|_| is_plain)
            else {
                return Err(Error::invalid(
                    "@request.auth.collectionName is not compared with one name by = or !=; \
                     compare @request.auth.collectionId with the id",
                ));
            };
            if let Some(pair) = renamed.iter().find(|pair| pair.old == *name) {
                let quote = &text[range.start..=range.start];
                pieces.push((range.clone(), format!("{quote}{}{quote}", pair.new)));
            } else if renamed.iter().any(|pair| pair.new == *name) {
                return Err(Error::invalid(format!(
                    "@request.auth.collectionName is compared with {name}, the new name"
                )));
            }
        }
        Ok(())
    }
}

/// A name and its modifier or alias with the colon.
fn split(name: &str) -> (&str, &str) {
    name.split_at(name.find(':').unwrap_or(name.len()))
}
