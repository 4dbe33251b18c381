//! SQL with the names of codes: `sql!("... WHERE state = {JobState::Ready}")`.
//!
//! The compiler writes the numbers into the statement and refuses an unknown name. The numbers are
//! not parameters, because SQLite uses a partial index only if the statement itself implies the
//! condition of the index. For the same reason a statement repeats a condition that looks
//! redundant, such as `kind = {EventKind::WaitCompleted} AND kind IN ({EventKind::ONCE})`: SQLite
//! does not deduce the list from the single value.

use crate::services::workflows::codes::{EventKind, JobState, RunStatus, StepStatus};

/// See the module documentation.
macro_rules! sql {
    ($text:expr) => {
        sql!(crate::services::workflows::sql::ALL, $text)
    };
    ($names:expr, $text:expr) => {{
        // Twice the length is enough: most names are longer than their values.
        const EXPANDED: crate::services::workflows::sql::Expanded<{ 2 * $text.len() }> =
            crate::services::workflows::sql::Expanded::new($text, $names);
        const SQL: &str = EXPANDED.as_str();
        SQL
    }};
}
pub(super) use sql;

/// Names and what replaces them.
type Names = &'static [(&'static str, &'static str)];

pub const CODES: &[Names] = &[
    RunStatus::SQL,
    StepStatus::SQL,
    EventKind::SQL,
    JobState::SQL,
];
/// The names that `sql!` knows.
pub const ALL: &[Names] = &[
    RunStatus::SQL,
    StepStatus::SQL,
    EventKind::SQL,
    JobState::SQL,
    LISTS,
];
/// The lists of codes in the conditions of partial indexes.
const LISTS: Names = &[("EventKind::ONCE", ONCE), ("JobState::TIMED", TIMED)];
/// Kinds of which a run has one event for each key: the index `events_once`.
const ONCE: &str = sql!(
    CODES,
    "{EventKind::RunCreated}, {EventKind::StepCompleted}, {EventKind::HookCreated}, \
     {EventKind::HookDisposed}, {EventKind::WaitCreated}, {EventKind::WaitCompleted}"
);
/// States that end at the time `due`: the index `jobs_due`.
const TIMED: &str = sql!(CODES, "{JobState::Parked}, {JobState::Delayed}");

/// A statement whose names are replaced; only the first `length` bytes are in use.
pub struct Expanded<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Expanded<N> {
    /// Replaces all names in braces.
    pub const fn new(text: &str, names: &[Names]) -> Expanded<N> {
        let text = text.as_bytes();
        let (mut bytes, mut length, mut at) = ([0; N], 0, 0);
        while at < text.len() {
            if text[at] != b'{' {
                bytes[length] = text[at];
                length += 1;
                at += 1;
                continue;
            }
            let (value, end) = lookup(text, at + 1, names);
            let mut i = 0;
            while i < value.len() {
                bytes[length] = value[i];
                length += 1;
                i += 1;
            }
            at = end;
        }
        Expanded { bytes, length }
    }

    pub const fn as_str(&self) -> &str {
        match std::str::from_utf8(self.bytes.split_at(self.length).0) {
            Ok(text) => text,
            Err(_) => panic!("the statement is not UTF-8"),
        }
    }
}

/// The value of the name that begins at `start`, and the position after its closing brace.
const fn lookup(text: &[u8], start: usize, names: &[Names]) -> (&'static [u8], usize) {
    let mut table = 0;
    while table < names.len() {
        let mut row = 0;
        while row < names[table].len() {
            let (name, value) = names[table][row];
            let end = start + name.len();
            if end < text.len() && text[end] == b'}' && is_at(text, start, name.as_bytes()) {
                return (value.as_bytes(), end + 1);
            }
            row += 1;
        }
        table += 1;
    }
    panic!("the statement has an unknown name in braces")
}

const fn is_at(text: &[u8], start: usize, name: &[u8]) -> bool {
    let mut i = 0;
    while i < name.len() {
        if text[start + i] != name[i] {
            return false;
        }
        i += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_numbers() {
        let sql = sql!(
            "status = {RunStatus::Failed} AND kind IN ({EventKind::ONCE}) OR {JobState::TIMED}"
        );
        assert_eq!(sql, "status = 3 AND kind IN (1, 9, 12, 14, 16, 17) OR 0, 5");
    }

    /// The statements repeat these conditions so that SQLite uses the indexes.
    #[test]
    fn the_lists_are_those_of_the_indexes() {
        let schema = include_str!("../../store/db/schema/workflows.sql");
        assert!(schema.contains(&format!("WHERE kind IN ({ONCE});")));
        assert!(schema.contains(&format!("WHERE state IN ({TIMED}) AND due IS NOT NULL;")));
        for condition in [
            sql!("WHERE status = {RunStatus::Failed};"),
            sql!("WHERE kind = {EventKind::AttrSet};"),
            sql!("WHERE state = {JobState::Ready};"),
            sql!("WHERE state = {JobState::Leased};"),
            sql!("WHERE state = {JobState::Blocked};"),
        ] {
            assert!(schema.contains(condition), "{condition}");
        }
    }
}
