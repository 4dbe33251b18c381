//! Files of older versions.

use super::{Node, busy, bytes_of, file_of};
use crate::base::crypto::Sha256Hasher;
use crate::base::ids;
use crate::services::workflows::transfer::format::END;

/// Versions before 0.6.5 did not store the callers of runs: such runs count for no caller.
#[test]
fn a_file_without_callers_is_taken_in() {
    let mut from = Node::new("a");
    busy(&mut from);
    let text = String::from_utf8(bytes_of(&from.export(true).1)).unwrap();
    let (rows, _) = text.rsplit_once(END).unwrap();
    assert!(rows.contains(r#","caller":"account/users/ann""#));
    let older = rows
        .replace(r#","caller":"account/users/ann""#, "")
        .replace(r#","caller":null"#, "");
    assert!(!older.contains("caller"));
    let mut hasher = Sha256Hasher::new();
    hasher.update(older.as_bytes());
    let older = format!("{older}{END}\"{}\"}}\n", ids::hex(&hasher.finish()));
    let to = Node::new("b");
    to.adopt(&file_of(older.as_bytes())).unwrap();
    assert_eq!(to.count("runs"), from.count("runs"));
    assert_eq!(to.count("runs WHERE caller IS NOT NULL"), 0);
}
