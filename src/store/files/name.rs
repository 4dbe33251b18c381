//! Names of stored files: the client's name, sanitised, and a random part that makes the name
//! unique and impossible to guess.

use crate::base::error::Result;
use crate::base::ids;

/// Characters kept of the client's name, without its extension.
const STEM_CHARS_MAX: usize = 80;
const EXTENSION_CHARS_MAX: usize = 16;
const RANDOM_CHARS: usize = 10;

/// A new name such as `annual_report_k3v9x0q2ab.pdf`: letters, digits, `_`, `-` and one dot.
pub fn new_name(client: &str) -> Result<String> {
    // Some clients send full paths.
    let base = client.rsplit(['/', '\\']).next().unwrap_or_default();
    let (stem, extension) = match base.rsplit_once('.') {
        Some((stem, extension)) => (stem, sanitize(extension, EXTENSION_CHARS_MAX)),
        None => (base, String::new()),
    };
    let stem = match sanitize(stem, STEM_CHARS_MAX) {
        stem if stem.is_empty() => "file".to_owned(),
        stem => stem,
    };
    let random = random()?;
    Ok(match extension.is_empty() {
        true => format!("{stem}_{random}"),
        false => format!("{stem}_{random}.{extension}"),
    })
}

/// Keeps lower-case letters, digits, `_` and `-`; runs of other characters become one `_`.
fn sanitize(text: &str, chars_max: usize) -> String {
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
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let bytes = ids::random_bytes::<RANDOM_CHARS>()?;
    let chars = bytes
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(byte % 32)]));
    Ok(chars.collect())
}

/// True if this can be the name of a stored file.
pub fn is_valid(name: &str) -> bool {
    (1..=STEM_CHARS_MAX + RANDOM_CHARS + EXTENSION_CHARS_MAX + 2).contains(&name.len())
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
        for (client, stem, extension) in [
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
            assert_eq!(rest.strip_suffix(extension).unwrap().len(), 11, "{name}");
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
