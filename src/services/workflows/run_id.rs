//! Ids of runs: `wrun_` and a ULID (128 bits, 26 characters of Crockford's base 32, sorted by time)
//! whose random half begins with a tag of the node that created the run.

use crate::base::crypto;

const PREFIX: &str = "wrun_";
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const CHARS: usize = 26;
const TAG_BITS: u32 = 40;

/// The tag of a node in the ids of its runs: 40 bits of the SHA-256 of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeTag(u64);

impl NodeTag {
    pub fn of(node: &str) -> NodeTag {
        let digest = crypto::sha256(node.as_bytes());
        let tag = digest[..5]
            .iter()
            .fold(0, |tag, byte| tag << 8 | u64::from(*byte));
        NodeTag(tag)
    }
}

/// A new id.
pub fn new(now_ms: i64, node: NodeTag, random: u64) -> String {
    let time = u128::try_from(now_ms).unwrap_or(0) & ((1 << 48) - 1);
    let rest = u128::from(node.0) << TAG_BITS | u128::from(random) & ((1 << TAG_BITS) - 1);
    let bits = time << 80 | rest;
    let mut id = String::with_capacity(PREFIX.len() + CHARS);
    id.push_str(PREFIX);
    for at in (0..CHARS).rev() {
        let digit = (bits >> (at * 5)) & 31;
        id.push(char::from(ALPHABET[digit as usize]));
    }
    id
}

/// The tag of the node that created a run; none if the string is no id of a run.
pub fn tag(id: &str) -> Option<NodeTag> {
    let digits = id.strip_prefix(PREFIX)?;
    if digits.len() != CHARS {
        return None;
    }
    let mut bits: u128 = 0;
    for byte in digits.bytes() {
        let digit = ALPHABET.iter().position(|known| *known == byte)?;
        bits = bits << 5 | digit as u128;
    }
    let tag = (bits >> TAG_BITS) & ((1 << TAG_BITS) - 1);
    Some(NodeTag(u64::try_from(tag).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_tells_its_node_and_sorts_by_time() {
        let node = NodeTag::of("0123456789abcdef");
        let early = new(1_700_000_000_000, node, u64::MAX);
        let late = new(1_700_000_000_001, node, 0);
        assert_eq!(early.len(), 31);
        assert!(early < late, "{early} {late}");
        assert_eq!(tag(&early), Some(node));
        assert_ne!(NodeTag::of("a"), NodeTag::of("b"));
        for wrong in [
            "",
            "wrun_",
            "wrun_0123",
            "order",
            &early[1..],
            &early.to_lowercase(),
        ] {
            assert_eq!(tag(wrong), None, "{wrong}");
        }
    }
}
