//! Limits of one response: its length, its memory, and the number of records looked up for it.

use std::cell::Cell;
use std::rc::Rc;

use super::Scope;
use crate::base::budget::OutputCharge;
use crate::base::error::{Error, Kind, Result};

/// Maximum length of a response.
const OUTPUT_BYTES_MAX: usize = 8 << 20;
/// Limit on lookups per response. Hidden records count too: they cost time.
const LOOKUPS_MAX: usize = 20_000;

/// Lookups and memory left for a response, shared by all plans that build it.
#[derive(Clone)]
pub struct Limits {
    lookups: Rc<Cell<usize>>,
    output: OutputCharge,
}

impl Limits {
    pub fn new(output: &OutputCharge) -> Limits {
        Limits {
            lookups: Rc::new(Cell::new(LOOKUPS_MAX)),
            output: output.clone(),
        }
    }

    /// Starts the next response.
    pub fn reset(&self) {
        self.lookups.set(LOOKUPS_MAX);
    }

    /// Returns an error if a response of this length is too long or there is no memory for it.
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
                    "The response would need more than {LOOKUPS_MAX} lookups; request fewer \
                     records or expansions."
                ),
            )),
            _ => Ok(()),
        }
    }
}

impl Scope {
    /// Returns an error if the response is too long or there is no memory for it.
    pub fn check_size(&self, out: &[u8]) -> Result<()> {
        check_size(out.len())?;
        self.output.reach(out.len())
    }
}

fn check_size(bytes: usize) -> Result<()> {
    if bytes <= OUTPUT_BYTES_MAX {
        return Ok(());
    }
    Err(Error::new(
        Kind::TooLarge,
        "The response would be too large; request fewer records, fields or expansions.",
    ))
}
