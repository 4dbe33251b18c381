//! Forms as browsers send them with files: `multipart/form-data` (RFC 7578), from memory.

use crate::error::Error;
use crate::error::Result;

/// Parts of one form.
const PARTS_MAX: usize = 1000;

/// One field of a form.
#[derive(Debug, PartialEq, Eq)]
pub struct Part<'a> {
    pub name: String,
    pub data: &'a [u8],
}

/// What separates the parts, if this media type is a form's.
pub fn boundary(media_type: &str) -> Option<String> {
    let (kind, parameters) = media_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let found = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("boundary")
            .then(|| value.trim().trim_matches('"').to_owned())
    });
    found.filter(|boundary| (1..=70).contains(&boundary.len()))
}

/// The parts of a form, in order.
pub fn parse<'a>(body: &'a [u8], boundary: &str) -> Result<Vec<Part<'a>>> {
    let delimiter = format!("\r\n--{boundary}");
    let first = &delimiter.as_bytes()[2..];
    let mut rest = body.strip_prefix(first).ok_or_else(broken)?;
    let mut parts = Vec::new();
    loop {
        if rest.starts_with(b"--") {
            return Ok(parts);
        }
        if parts.len() >= PARTS_MAX {
            return Err(Error::invalid(format!(
                "A form has at most {PARTS_MAX} fields."
            )));
        }
        let part = rest.strip_prefix(b"\r\n").ok_or_else(broken)?;
        let head = find(part, b"\r\n\r\n").ok_or_else(broken)?;
        let length = find(&part[head + 2..], delimiter.as_bytes()).ok_or_else(broken)?;
        let end = head + 2 + length;
        parts.push(Part {
            name: name(&part[..head]).ok_or_else(broken)?,
            data: part.get(head + 4..end).unwrap_or_default(),
        });
        rest = &part[end + delimiter.len()..];
    }
}

/// The name in the `Content-Disposition` of a part.
fn name(head: &[u8]) -> Option<String> {
    let head = std::str::from_utf8(head).ok()?;
    let disposition = head.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("Content-Disposition")
            .then_some(value)
    })?;
    let (_, rest) = disposition.split_once(" name=\"")?;
    let (name, _) = rest.split_once('"')?;
    Some(name.to_owned())
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len())
        .position(|window| window == wanted)
}

fn broken() -> Error {
    Error::invalid("The form is not whole.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(body: &str) -> Result<Vec<(String, String)>> {
        let parts = parse(body.as_bytes(), "xx")?;
        let text = |part: Part<'_>| (part.name, String::from_utf8(part.data.to_vec()).unwrap());
        Ok(parts.into_iter().map(text).collect())
    }

    #[test]
    fn parts_are_found_by_their_names() {
        let head = "Content-Disposition: form-data; name=";
        let body = format!(
            "--xx\r\n{head}\"a\"\r\n\r\none\r\n--x\r\n--xx\r\n{head}\"b\"\r\nX: y\r\n\r\n\r\n--xx--\r\n"
        );
        let expected = [("a", "one\r\n--x"), ("b", "")];
        let expected = expected.map(|(name, data)| (name.to_owned(), data.to_owned()));
        assert_eq!(names(&body).unwrap(), expected);
        assert_eq!(names("--xx--").unwrap(), []);
    }

    #[test]
    fn what_is_cut_off_anywhere_is_refused() {
        let body = "--xx\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\none\r\n--xx--";
        assert_eq!(names(body).unwrap().len(), 1);
        for end in 0..body.len() {
            assert!(names(&body[..end]).is_err(), "{end}");
        }
        assert!(names("").is_err());
    }

    #[test]
    fn only_forms_have_a_boundary() {
        let form = "multipart/form-data; charset=utf-8; boundary=\"a b\"";
        assert_eq!(boundary(form).as_deref(), Some("a b"));
        for other in [
            "application/json",
            "multipart/mixed; boundary=x",
            "multipart/form-data",
            "",
        ] {
            assert_eq!(boundary(other), None, "{other}");
        }
    }
}
