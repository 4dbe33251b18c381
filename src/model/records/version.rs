//! Versions of a record: the state that an answer shows, and the states that a request expects.
//!
//! `updated` is the version: each change gives it another value, also within a millisecond, see
//! [`next_updated`]. The tag of an answer has the version and a hash of the answer, so that two answers
//! with the same tag are the same for all callers and all `fields` and `expand`. A change looks at
//! the version alone.

use rusqlite::Connection;
use xxhash_rust::xxh3::xxh3_64;

use super::row::Rowid;
use crate::base::error::{Error, Kind, Result};
use crate::model::collections::Collection;
use crate::store::db::quote;

/// Separates the version in a tag from the hash.
const SEPARATOR: char = '-';
const HEX: &[u8; 16] = b"0123456789abcdef";

/// A record as an answer shows it.
#[derive(Debug)]
pub struct Shown {
    pub json: Vec<u8>,
    /// Its `updated`; empty when the caller may not see the record.
    pub(super) updated: String,
}

impl Shown {
    /// An answer that shows nothing of the record but its id.
    pub(super) fn only_id(id: &str) -> Shown {
        Shown {
            json: serde_json::json!({ "id": id }).to_string().into_bytes(),
            updated: String::new(),
        }
    }

    /// The tag of the answer in its quotes, if it shows a record.
    pub fn tag(&self) -> Option<String> {
        if self.updated.is_empty() {
            return None;
        }
        let hash = xxh3_64(&self.json);
        let mut tag = String::with_capacity(self.updated.len() + 3 + 16);
        tag.push('"');
        push_version(&self.updated, &mut tag);
        tag.push(SEPARATOR);
        for shift in (0..16).rev() {
            tag.push(char::from(HEX[(hash >> (4 * shift)) as usize & 15]));
        }
        tag.push('"');
        Some(tag)
    }
}

/// Adds the letters and digits of a time.
fn push_version(updated: &str, tag: &mut String) {
    for byte in updated.bytes().filter(u8::is_ascii_alphanumeric) {
        tag.push(char::from(byte));
    }
}

/// The versions that a list of tags names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Versions {
    /// Whichever there is.
    Any,
    /// Those of these tags.
    Of(Vec<String>),
}

impl Versions {
    fn has(&self, updated: &str) -> bool {
        let mut version = String::new();
        push_version(updated, &mut version);
        let is_it = |tag: &String| tag.split(SEPARATOR).next() == Some(&version);
        match self {
            Versions::Any => true,
            Versions::Of(tags) => tags.iter().any(is_it),
        }
    }
}

/// The states of a record in which a request is carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Precondition {
    /// Only in one of these.
    pub only: Option<Versions>,
    /// In none of these.
    pub except: Option<Versions>,
}

impl Precondition {
    /// Refuses a record that is in another state.
    pub(super) fn check(&self, updated: &str) -> Result<()> {
        let is_wrong = self.only.as_ref().is_some_and(|it| !it.has(updated))
            || self.except.as_ref().is_some_and(|it| it.has(updated));
        match is_wrong {
            false => Ok(()),
            true => Err(Error::new(
                Kind::PreconditionFailed,
                "The record is not in the state that the request expects; read it again.",
            )),
        }
    }

    /// The same for a row.
    pub(super) fn check_row(
        &self,
        tx: &Connection,
        collection: &Collection,
        rowid: Rowid,
    ) -> Result<()> {
        if self.only.is_none() && self.except.is_none() {
            return Ok(());
        }
        let table = quote(&collection.name);
        let sql = format!("SELECT updated FROM {table} WHERE rowid = ?1");
        let mut statement = tx.prepare_cached(&sql)?;
        let updated: String = statement.query_row([rowid], |row| row.get(0))?;
        self.check(&updated)
    }
}

/// SQL: the value of `updated` after a change at the time in the parameter `now`. It is that time, or, when
/// the row has changed in the same millisecond already, the next millisecond. A time that is far ahead
/// is one of a wrong clock.
pub fn next_updated(now: &str) -> String {
    const FORM: &str = "'%Y-%m-%dT%H:%M:%fZ'";
    format!(
        "CASE WHEN updated < {now} OR updated > strftime({FORM}, {now}, '+60 seconds') THEN {now} \
         ELSE coalesce(strftime({FORM}, updated, '+0.001 seconds'), {now}) END"
    )
}

#[expect(clippy::disallowed_methods, reason = "a table to compute in")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock;

    fn after(updated: &str, now: &str) -> String {
        let connection = Connection::open_in_memory().unwrap();
        let sql = format!("SELECT {} FROM (SELECT ?2 AS updated)", next_updated("?1"));
        let row = connection.query_row(&sql, [now, updated], |row| row.get(0));
        row.unwrap()
    }

    /// Two changes in one millisecond were one version to an editor, and one of them was lost.
    #[test]
    fn each_change_has_another_time() {
        let connection = Connection::open_in_memory().unwrap();
        let sql = format!("SELECT {} FROM (SELECT ?1 AS updated)", next_updated("?1"));
        let mut statement = connection.prepare(&sql).unwrap();
        // Each millisecond of a second, at the end of a day and of February.
        let start = clock::parse_datetime("2028-02-28T23:59:59.500Z").unwrap();
        for ms in start..start + 1000 {
            let text = clock::format_ms(ms);
            let next: String = statement.query_row([&text], |row| row.get(0)).unwrap();
            assert_eq!(next, clock::format_ms(ms + 1), "{text}");
        }
        let now = "2026-01-31T12:00:00.000Z";
        assert_eq!(after("2026-01-31T11:59:59.999Z", now), now);
        let ahead = after("2026-01-31T12:00:00.005Z", now);
        assert_eq!(ahead, "2026-01-31T12:00:00.006Z");
        for wrong in ["2027-01-31T12:00:00.000Z", "", "zz", "2026-01-31T12:00:00x"] {
            assert_eq!(after(wrong, now), now, "{wrong}");
        }
    }

    #[test]
    fn a_change_looks_at_the_version_alone() {
        let shown = Shown {
            json: b"{}".to_vec(),
            updated: "2026-01-31T12:00:00.000Z".to_owned(),
        };
        let tag = shown.tag().unwrap();
        let other = Shown {
            json: b"{\"a\":1}".to_vec(),
            updated: shown.updated.clone(),
        };
        assert_ne!(other.tag().unwrap(), tag);
        let tag = tag.trim_matches('"');
        let only = |tags: &[&str]| Precondition {
            only: Some(Versions::Of(
                tags.iter().map(|it| (*it).to_owned()).collect(),
            )),
            except: None,
        };
        assert!(only(&["x", tag]).check(&other.updated).is_ok());
        assert!(only(&[tag]).check("2026-01-31T12:00:00.001Z").is_err());
        assert!(only(&[]).check(&other.updated).is_err());
        assert_eq!(Shown::only_id("a").tag(), None);
    }
}
