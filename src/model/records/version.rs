//! Versions of records, for ETags and preconditions.
//!
//! The version of a record is its `updated`: each change sets another value, even within a
//! millisecond (see [`next_updated`]). The tag of a response combines the version with a hash of
//! the response, so two responses with the same tag are equal for all callers and all values of
//! `fields` and `expand`. A precondition of a change compares the version only.

use rusqlite::Connection;
use xxhash_rust::xxh3::xxh3_64;

use super::row::Rowid;
use crate::base::error::{Error, Kind, Result};
use crate::model::collections::Collection;
use crate::store::db::quote;

const SEPARATOR: char = '-';
const HEX: &[u8; 16] = b"0123456789abcdef";

/// The JSON of a record as the caller may see it.
#[derive(Debug)]
pub struct RenderedRecord {
    pub json: Vec<u8>,
    /// The `updated` of the record; empty if the caller may not see the record.
    pub(super) updated: String,
}

impl RenderedRecord {
    /// A response with only the id, for callers that may not see the record.
    pub(super) fn only_id(id: &str) -> RenderedRecord {
        RenderedRecord {
            json: serde_json::json!({ "id": id }).to_string().into_bytes(),
            updated: String::new(),
        }
    }

    /// The ETag of the response, with quotes; none if the record is not shown.
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

/// Appends the letters and digits of a time.
fn push_version(updated: &str, tag: &mut String) {
    for byte in updated.bytes().filter(u8::is_ascii_alphanumeric) {
        tag.push(char::from(byte));
    }
}

/// The versions named by a list of tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Versions {
    /// `*`: every version.
    Any,
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

/// The versions of a record for which a request is carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Precondition {
    /// If-Match: only these versions.
    pub only: Option<Versions>,
    /// If-None-Match: all versions except these.
    pub except: Option<Versions>,
}

impl Precondition {
    /// Returns an error if the version does not meet the precondition.
    pub(super) fn check(&self, updated: &str) -> Result<()> {
        let is_wrong = self.only.as_ref().is_some_and(|it| !it.has(updated))
            || self.except.as_ref().is_some_and(|it| it.has(updated));
        match is_wrong {
            false => Ok(()),
            true => Err(Error::new(
                Kind::PreconditionFailed,
                "The record does not have the version that the request expects; read it again.",
            )),
        }
    }

    /// Checks the version of a row.
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

/// SQL for the new value of `updated`. It is the time in the parameter `now`, or the next
/// millisecond if the row has already changed in this one. A value more than 60 seconds ahead of
/// `now` comes from a wrong clock and is replaced.
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

    /// Two changes within one millisecond had the same version, and an editor lost one of them.
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
        let shown = RenderedRecord {
            json: b"{}".to_vec(),
            updated: "2026-01-31T12:00:00.000Z".to_owned(),
        };
        let tag = shown.tag().unwrap();
        let other = RenderedRecord {
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
        assert_eq!(RenderedRecord::only_id("a").tag(), None);
    }
}
