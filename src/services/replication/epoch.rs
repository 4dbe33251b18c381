//! The epoch of a database: which run of version numbers a position belongs to.

use std::fmt;
use std::sync::Arc;

use crate::base::error::Result;
use crate::base::ids;

/// One history of a database: from when its master began to number states until it cannot vouch for
/// the numbers any more. A secret of master and replicas but for its second half.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Epoch(pub(super) u128);

impl Epoch {
    pub fn random() -> Result<Epoch> {
        Ok(Epoch(u128::from_le_bytes(ids::random_bytes::<16>()?)))
    }

    /// Reads what it is displayed as.
    pub fn parse(text: &str) -> Option<Epoch> {
        let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u128::from_str_radix(text, 16).ok()?;
        is_hex.then_some(Epoch(number))
    }

    /// What the hashes of pages depend on.
    pub fn seed(self) -> u64 {
        (self.0 >> 64) as u64
    }

    /// The half that clients may see.
    pub fn tag(self) -> String {
        format!("{:016x}", self.0 as u64)
    }

    /// How a client names this history of a database.
    pub fn history(self, database: &str) -> Arc<str> {
        format!("{database}:{}", self.tag()).into()
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Without the half that is a secret.
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
