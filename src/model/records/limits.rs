//! Limits of one answer: its length, the memory for it, and the records that are looked up for it.

use std::cell::Cell;
use std::rc::Rc;

use super::Scope;
use crate::base::budget::Output;
use crate::base::error::{Error, Kind, Result};

/// Largest answer; a list that would be longer is refused.
const OUTPUT_BYTES_MAX: usize = 8 << 20;
/// Records that one answer may look for, found or not: what is hidden adds nothing to the answer,
/// and takes time all the same.
const LOOKUPS_MAX: usize = 20_000;

/// The look-ups and the memory that are left for an answer.
#[derive(Clone)]
pub struct Limits {
    /// Of [`LOOKUPS_MAX`].
    lookups: Rc<Cell<usize>>,
    output: Output,
}

impl Limits {
    pub fn new(output: &Output) -> Limits {
        Limits {
            lookups: Rc::new(Cell::new(LOOKUPS_MAX)),
            output: output.clone(),
        }
    }

    /// Another answer begins.
    pub fn reset(&self) {
        self.lookups.set(LOOKUPS_MAX);
    }

    /// Refuses an answer of this length if it is too long or there is no memory for it.
    pub fn reach(&self, bytes: usize) -> Result<()> {
        check_size(bytes)?;
        self.output.reach(bytes)
    }

    pub fn count_lookup(&self) -> Result<()> {
        let left = self.lookups.get();
        self.lookups.set(left.saturating_sub(1));
        match left {
            0 => Err(Error::new(
                Kind::TooLarge,
                format!(
                    "The answer would need more than {LOOKUPS_MAX} records; ask for fewer \
                     records or expansions."
                ),
            )),
            _ => Ok(()),
        }
    }
}

impl Scope {
    /// Refuses an answer that grows too long, or for which there is no memory.
    pub fn check_size(&self, out: &[u8]) -> Result<()> {
        check_size(out.len())?;
        self.output.reach(out.len())
    }
}

/// Refuses an answer that grows beyond [`OUTPUT_BYTES_MAX`].
fn check_size(bytes: usize) -> Result<()> {
    if bytes <= OUTPUT_BYTES_MAX {
        return Ok(());
    }
    Err(Error::new(
        Kind::TooLarge,
        "The answer would be too large; ask for fewer records, fields or expansions.",
    ))
}
