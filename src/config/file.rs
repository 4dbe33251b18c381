//! The file of settings that `ENV_FILE` names, in the format of `EnvironmentFile=` of systemd, so
//! that the command line can use the settings of the service.
//!
//! Each line is `NAME=value`; empty lines and lines that begin with `#` or `;` are ignored. A value
//! may be quoted. Outside of quotes `\` makes the next character literal; in double quotes it does
//! so before `"`, `\`, `` ` `` and `$` and is literal otherwise; in single quotes it is literal. A
//! value ends with its line: one that systemd would continue on the next line, after a `\` or in
//! open quotes, is an error.

use std::collections::HashMap;
use std::path::Path;

use crate::base::error::{Error, Result};

/// Reads the file. The result includes names that are not options, which may be for other programs.
pub fn read(path: &Path) -> Result<HashMap<String, String>> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Error::invalid(format!(
            "ENV_FILE={} cannot be read: {error}.",
            path.display()
        ))
    })?;
    let lines = (1..).zip(text.lines().map(str::trim));
    lines
        .filter_map(|(number, line)| setting(line).map_err(|what| (number, what)).transpose())
        .map(|found| {
            // Without the line, which may contain a secret.
            found.map_err(|(number, what)| {
                let path = path.display();
                Error::invalid(format!("{path}: line {number} {what}."))
            })
        })
        .collect()
}

/// The setting of a line; none for an empty line or a comment. The error completes "line N".
fn setting(line: &str) -> std::result::Result<Option<(String, String)>, &'static str> {
    if line.ends_with('\\') {
        // Also in a comment: systemd continued comments before its version 254.
        return Err("ends with a backslash; a value cannot continue on the next line");
    }
    if line.is_empty() || line.starts_with(['#', ';']) {
        return Ok(None);
    }
    pair(line).map(Some).ok_or("is not NAME=value")
}

fn pair(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once('=')?;
    let name = name.trim_end();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(is_name) {
        return None;
    }
    Some((name.to_owned(), unquote(value.trim_start())?))
}

/// The value without quotes; none if a quote is not closed, has text after it, or a `\` is last.
fn unquote(value: &str) -> Option<String> {
    if let Some(rest) = value.strip_prefix('\'') {
        let inner = rest.strip_suffix('\'')?;
        return (!inner.contains('\'')).then(|| inner.to_owned());
    }
    let quoted = value.strip_prefix('"');
    let (mut text, mut chars) = (String::new(), quoted.unwrap_or(value).chars());
    loop {
        match (chars.next(), quoted) {
            (None, None) => return Some(text),
            (None, Some(_)) => return None,
            (Some('"'), Some(_)) => return chars.next().is_none().then_some(text),
            (Some('\\'), _) => {
                let next = chars.next()?;
                if quoted.is_some() && !"\"\\`$".contains(next) {
                    text.push('\\');
                }
                text.push(next);
            }
            (Some(c), _) => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_systemd_reads_them() {
        for (line, value) in [
            ("A=b", Some("b")),
            ("A=", Some("")),
            ("A = b", Some("b")),
            ("A=vski <vski@example.com>", Some("vski <vski@example.com>")),
            ("A=b=c", Some("b=c")),
            (r#"A="b c""#, Some("b c")),
            (r#"A="b \"c\\""#, Some(r#"b "c\"#)),
            ("A='b \\ \"c'", Some("b \\ \"c")),
            (r"A=C:\\d\e", Some(r"C:\de")),
            (r#"A="a\b\$\`""#, Some(r"a\b$`")),
            ("A='b", None),
            ("A=\"b", None),
            ("A=\"b\" c", None),
            ("A", None),
            ("=b", None),
            ("export A=b", None),
        ] {
            let found = setting(line).ok().flatten().map(|(name, value)| {
                assert_eq!(name, "A");
                value
            });
            assert_eq!(found.as_deref(), value, "{line}");
        }
    }

    #[test]
    fn lines_that_others_go_on_with_are_refused() {
        for line in ["A=b\\", "# A=b \\", "A=\"b\\"] {
            assert!(setting(line).is_err(), "{line}");
        }
        assert_eq!(setting("# A=b"), Ok(None));
        assert_eq!(setting(""), Ok(None));
        assert!(setting("A='b\\'").is_ok());
    }
}
