//! The epoch of a database: a span in which its version numbers are comparable.

use std::fmt;
use std::sync::Arc;

use crate::base::error::Result;
use crate::base::ids;

/// The span in which the version numbers of a database are comparable. It begins when a master
/// starts to number versions and ends when the master can no longer vouch for the numbers. Only
/// masters and replicas may know the full value; clients see its lower half, the tag.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Epoch(pub(super) u128);

impl Epoch {
    pub fn random() -> Result<Epoch> {
        Ok(Epoch(u128::from_le_bytes(ids::random_bytes::<16>()?)))
    }

    /// Parses the displayed form: 32 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Epoch> {
        let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u128::from_str_radix(text, 16).ok()?;
        is_hex.then_some(Epoch(number))
    }

    /// The seed of page hashes.
    pub fn seed(self) -> u64 {
        (self.0 >> 64) as u64
    }

    pub fn tag(self) -> String {
        format!("{:016x}", self.0 as u64)
    }

    /// The tag qualified with the name of the database, as clients send it.
    pub fn history(self, database: &str) -> Arc<str> {
        format!("{database}:{}", self.tag()).into()
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Omits the secret half.
impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoch(..{})", self.tag())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_read_as_it_is_shown_and_nothing_else_is() {
        let epoch = Epoch(0x0123_4567_89ab_cdef_0000_0000_0000_00ff);
        assert_eq!(epoch.to_string(), "0123456789abcdef00000000000000ff");
        assert_eq!(Epoch::parse(&epoch.to_string()), Some(epoch));
        assert_eq!(epoch.tag(), "00000000000000ff");
        assert!(!format!("{epoch:?}").contains("0123"));
        for text in ["", "1", "+123456789abcdef00000000000000ff", &"g".repeat(32)] {
            assert_eq!(Epoch::parse(text), None, "{text}");
        }
    }
}
