//! Names of stored files: what the client called the file, made harmless, and a part that nobody can
//! guess and that no two files share.

use crate::base::error::Result;
use crate::base::ids;

/// Characters kept of what the client says, before the ending.
const STEM_CHARS_MAX: usize = 80;
const ENDING_CHARS_MAX: usize = 16;
const RANDOM_CHARS: usize = 10;

/// A new name such as `annual_report_k3v9x0q2ab.pdf`: letters, digits, `_`, `-` and one dot.
pub fn new_name(client: &str) -> Result<String> {
    // Some clients send whole paths.
    let base = client.rsplit(['/', '\\']).next().unwrap_or_default();
    let (stem, ending) = match base.rsplit_once('.') {
        Some((stem, ending)) => (stem, harmless(ending, ENDING_CHARS_MAX)),
        None => (base, String::new()),
    };
    let stem = match harmless(stem, STEM_CHARS_MAX) {
        stem if stem.is_empty() => "file".to_owned(),
        stem => stem,
    };
    let random = random()?;
    Ok(match ending.is_empty() {
        true => format!("{stem}_{random}"),
        false => format!("{stem}_{random}.{ending}"),
    })
}

/// Lower-case letters, digits and single `_` and `-` for whatever else there is.
fn harmless(text: &str, chars_max: usize) -> String {
    let mut kept = String::new();
    for char in text.chars() {
        let next = match char {
            'a'..='z' | '0'..='9' | '-' => char,
            'A'..='Z' => char.to_ascii_lowercase(),
            _ => '_',
        };
        if next != '_' || !(kept.is_empty() || kept.ends_with('_')) {
            kept.push(next);
        }
        if kept.len() >= chars_max {
            break;
        }
    }
    kept.trim_matches(['_', '-']).to_owned()
}

fn random() -> Result<String> {
    const SIGNS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let bytes = ids::random_bytes::<RANDOM_CHARS>()?;
    let signs = bytes
        .iter()
        .map(|byte| char::from(SIGNS[usize::from(byte % 32)]));
    Ok(signs.collect())
}

/// Whether this may be the name of a stored file; nothing else is looked for.
pub fn is_valid(name: &str) -> bool {
    (1..=STEM_CHARS_MAX + RANDOM_CHARS + ENDING_CHARS_MAX + 2).contains(&name.len())
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_harmless_whatever_the_client_says() {
        for (client, stem, ending) in [
            ("Report 2024.PDF", "report_2024", ".pdf"),
            ("../../etc/passwd", "passwd", ""),
            ("C:\\docs\\a b.txt", "a_b", ".txt"),
            ("", "file", ""),
            (".", "file", ""),
            ("..", "file", ""),
            (".htaccess", "file", ".htaccess"),
            ("\0\0", "file", ""),
            ("a\0b.c\r\nd", "a_b", ".c_d"),
            ("\u{0439}\u{4e2d}.\u{e9}", "file", ""),
            ("archive.tar.gz", "archive_tar", ".gz"),
            ("con.txt", "con", ".txt"),
        ] {
            let name = new_name(client).unwrap();
            assert!(is_valid(&name), "{name}");
            let rest = name.strip_prefix(stem).unwrap_or_else(|| panic!("{name}"));
            assert_eq!(rest.strip_suffix(ending).unwrap().len(), 11, "{name}");
        }
        assert!(new_name(&"x".repeat(4000)).unwrap().len() < 100);
        assert_ne!(new_name("a").unwrap(), new_name("a").unwrap());
    }

    #[test]
    fn only_such_names_are_looked_for() {
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a\0",
            ".tmp",
            "a b",
            "\u{e9}",
            &"x".repeat(200),
        ] {
            assert!(!is_valid(name), "{name}");
        }
    }
}
