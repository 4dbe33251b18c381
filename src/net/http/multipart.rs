//! An incremental parser for `multipart/form-data` (RFC 7578), the forms that browsers send with
//! files.
//!
//! A [`Parser`] accepts pieces of any length and reports events. It buffers at most one piece, the
//! head of one part, and as many bytes as a delimiter has.

use memchr::memmem;

use super::media_type;
use crate::base::error::{Error, Result};

/// Most parts of a form.
pub const PARTS_MAX: usize = 1000;
/// Longest head of a part, and longest preamble before the first part.
const HEAD_BYTES_MAX: usize = 8 << 10;

/// The head of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartHead {
    /// The field of the form.
    pub name: String,
    /// The name of the file; none for a plain value.
    pub file_name: Option<String>,
    /// As given by the client.
    pub media_type: Option<String>,
}

/// An event of the parser. Each part has one begin, any number of data events, one end.
#[derive(Debug, PartialEq, Eq)]
pub enum PartEvent<'a> {
    Begin(PartHead),
    Data(&'a [u8]),
    End,
}

/// A push parser for forms.
pub struct Parser {
    delimiter: memmem::Finder<'static>,
    state: ParserState,
    /// Bytes fed but not parsed yet.
    pending: Vec<u8>,
    parts: usize,
    /// Bytes skipped before the first delimiter.
    preamble: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ParserState {
    /// After a delimiter: another part, or the end.
    Delimited,
    Head,
    Data,
    /// The rest is ignored.
    Done,
}

/// The boundary of a `multipart/form-data` media type; none for other types.
pub fn boundary(header: &str) -> Option<String> {
    let (_, parameters) = header.split_once(';')?;
    if !media_type(header).eq_ignore_ascii_case("multipart/form-data") {
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

impl Parser {
    pub fn new(boundary: &str) -> Parser {
        Parser {
            delimiter: memmem::Finder::new(&format!("\r\n--{boundary}")).into_owned(),
            state: ParserState::Data,
            // The first delimiter need not follow a line break.
            pending: b"\r\n".to_vec(),
            parts: 0,
            preamble: 0,
        }
    }

    /// Parses the next piece. Must not be called after an error.
    pub fn feed(
        &mut self,
        piece: &[u8],
        mut found: impl FnMut(PartEvent<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut pending = std::mem::take(&mut self.pending);
        pending.extend_from_slice(piece);
        let mut used = 0;
        while let Some(count) = self.step(&pending[used..], &mut found)? {
            used += count;
        }
        if self.state == ParserState::Data && self.parts > 0 {
            // Everything except a possible start of a delimiter.
            let sure = (pending.len() - used).saturating_sub(self.delimiter.needle().len() - 1);
            if sure > 0 {
                found(PartEvent::Data(&pending[used..used + sure]))?;
                used += sure;
            }
        }
        pending.drain(..used);
        self.pending = pending;
        Ok(())
    }

    /// True after the final delimiter.
    pub fn is_done(&self) -> bool {
        self.state == ParserState::Done
    }

    /// Advances by one state. Returns the number of bytes used, or none if more are needed.
    fn step(
        &mut self,
        bytes: &[u8],
        found: &mut impl FnMut(PartEvent<'_>) -> Result<()>,
    ) -> Result<Option<usize>> {
        match self.state {
            ParserState::Done => Ok((!bytes.is_empty()).then_some(bytes.len())),
            // Spaces may follow a delimiter (RFC 2046, 5.1.1).
            ParserState::Delimited if bytes.first().is_some_and(|byte| is_blank(*byte)) => {
                let blanks = bytes.iter().take_while(|byte| is_blank(**byte));
                Ok(Some(blanks.count()))
            }
            ParserState::Delimited if bytes.len() < 2 => Ok(None),
            ParserState::Delimited if bytes.starts_with(b"--") => {
                self.state = ParserState::Done;
                Ok(Some(2))
            }
            ParserState::Delimited if bytes.starts_with(b"\r\n") => {
                self.parts += 1;
                if self.parts > PARTS_MAX {
                    return Err(Error::invalid(format!(
                        "A form has at most {PARTS_MAX} parts."
                    )));
                }
                self.state = ParserState::Head;
                // The line break is kept, so that an empty head ends with `\r\n\r\n` too.
                Ok(Some(0))
            }
            ParserState::Delimited => Err(malformed()),
            ParserState::Head => self.parse_head(bytes, found),
            ParserState::Data if self.parts == 0 => self.skip_preamble(bytes),
            ParserState::Data => match self.delimiter.find(bytes) {
                Some(at) => {
                    if at > 0 {
                        found(PartEvent::Data(&bytes[..at]))?;
                    }
                    found(PartEvent::End)?;
                    self.state = ParserState::Delimited;
                    Ok(Some(at + self.delimiter.needle().len()))
                }
                None => Ok(None),
            },
        }
    }

    /// Skips the preamble before the first delimiter (RFC 2046, 5.1.1).
    fn skip_preamble(&mut self, bytes: &[u8]) -> Result<Option<usize>> {
        let length = self.delimiter.needle().len();
        if let Some(at) = self.delimiter.find(bytes) {
            self.state = ParserState::Delimited;
            return Ok(Some(at + length));
        }
        // Everything except a possible start of a delimiter.
        let passed = bytes.len().saturating_sub(length - 1);
        self.preamble += passed;
        if self.preamble > HEAD_BYTES_MAX {
            return Err(malformed());
        }
        Ok((passed > 0).then_some(passed))
    }

    fn parse_head(
        &mut self,
        bytes: &[u8],
        found: &mut impl FnMut(PartEvent<'_>) -> Result<()>,
    ) -> Result<Option<usize>> {
        let window = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
        match memmem::find(window, b"\r\n\r\n") {
            Some(at) => {
                found(PartEvent::Begin(part_head(&bytes[..at])?))?;
                self.state = ParserState::Data;
                Ok(Some(at + 4))
            }
            None if bytes.len() >= HEAD_BYTES_MAX => Err(malformed()),
            None => Ok(None),
        }
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// Parses the head of a part. Each line follows a line break.
fn part_head(head: &[u8]) -> Result<PartHead> {
    let head = std::str::from_utf8(head).map_err(|_| malformed())?;
    let mut part = None;
    let mut media_type = None;
    for line in head.split("\r\n").filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or_else(malformed)?;
        if name.eq_ignore_ascii_case("Content-Disposition") {
            part = Some(disposition(value.trim()).ok_or_else(malformed)?);
        } else if name.eq_ignore_ascii_case("Content-Type") {
            media_type = Some(value.trim().to_owned());
        }
    }
    let (name, file_name) = part.ok_or_else(malformed)?;
    Ok(PartHead {
        name,
        file_name,
        media_type,
    })
}

/// Parses `form-data; name="field"; filename="file"`.
fn disposition(value: &str) -> Option<(String, Option<String>)> {
    let mut rest = value.strip_prefix("form-data")?;
    let (mut name, mut file_name) = (None, None);
    while let Some(parameter) = rest.trim_start().strip_prefix(';') {
        let (key, value) = parameter.split_once('=')?;
        let (value, after) = parameter_value(value.trim_start())?;
        match key.trim().to_ascii_lowercase().as_str() {
            "name" => name = Some(value),
            "filename" => file_name = Some(value),
            _ => {}
        }
        rest = after;
    }
    rest.trim().is_empty().then_some((name?, file_name))
}

/// Parses a token or a quoted string. Returns it and the rest. Browsers escape a quote as `%22`,
/// other clients as `\"`.
fn parameter_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(';').unwrap_or(text.len());
        return Some((text[..end].trim().to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices().peekable();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value.replace("%22", "\""), &quoted[at + 1..])),
            '\\' if chars
                .peek()
                .is_some_and(|(_, next)| matches!(next, '"' | '\\')) =>
            {
                value.extend(chars.next().map(|(_, escaped)| escaped));
            }
            _ => value.push(char),
        }
    }
    None
}

fn malformed() -> Error {
    Error::invalid("The multipart body is truncated or malformed.")
}

#[cfg(test)]
mod tests {
    use super::*;

    type Parts = Vec<(String, Option<String>, String)>;

    /// Parses a form in pieces of this length. Returns none if it has no end.
    fn parts(body: &[u8], piece: usize) -> Result<Option<Parts>> {
        let (mut parser, mut parts) = (Parser::new("xx"), Parts::new());
        let mut is_open = false;
        for piece in body.chunks(piece) {
            parser.feed(piece, |event| {
                assert_eq!(is_open, !matches!(event, PartEvent::Begin(_)));
                is_open = event != PartEvent::End;
                match event {
                    PartEvent::Begin(part) => {
                        parts.push((part.name, part.file_name, String::new()));
                    }
                    PartEvent::Data(data) => {
                        let text = std::str::from_utf8(data).unwrap();
                        parts.last_mut().unwrap().2.push_str(text);
                    }
                    PartEvent::End => {}
                }
                Ok(())
            })?;
        }
        Ok(parser.is_done().then_some(parts))
    }

    const HEAD: &str = "Content-Disposition: form-data; name=";

    #[test]
    fn a_form_comes_apart_however_it_is_cut() {
        let body = format!(
            "--xx\r\n{HEAD}\"a\"\r\n\r\none\r\n--x\r\n--xx\r\n{HEAD}\"b\"; filename=\"f.txt\"\r\n\
             Content-Type: text/plain\r\n\r\n\r\n--xx\r\n{HEAD}c\r\n\r\n\r\n\r\n-\r\n--xx--\r\nmore"
        );
        let own = |text: &str| text.to_owned();
        let expected = vec![
            (own("a"), None, own("one\r\n--x")),
            (own("b"), Some(own("f.txt")), own("")),
            (own("c"), None, own("\r\n\r\n-")),
        ];
        for piece in 1..=body.len() {
            let found = parts(body.as_bytes(), piece).unwrap();
            assert_eq!(found.as_ref(), Some(&expected), "{piece}");
        }
        assert_eq!(parts(b"--xx--", 3).unwrap(), Some(vec![]));
    }

    /// Some clients write an empty line, a comment, or spaces around the first delimiter.
    #[test]
    fn what_stands_before_the_first_delimiter_is_passed_over() {
        let part = format!("{HEAD}\"a\"\r\n\r\none\r\n--xx--\r\n");
        for before in [
            "\r\n--xx\r\n",
            "\r\n\r\n--xx \t\r\n",
            "This is a form.\r\n--xy\r\n--xx\r\n",
            &format!("{}\r\n--xx\r\n", "x".repeat(HEAD_BYTES_MAX - 2)),
        ] {
            let body = format!("{before}{part}");
            for piece in [1, 2, 3, 7, body.len()] {
                let found = parts(body.as_bytes(), piece).unwrap();
                let expected = vec![("a".to_owned(), None, "one".to_owned())];
                assert_eq!(found, Some(expected), "{before:.20} {piece}");
            }
        }
        assert_eq!(parts(b"no boundary", 3).unwrap(), None);
        assert_eq!(parts(b"--yy\r\n", 3).unwrap(), None);
    }

    #[test]
    fn what_is_cut_off_has_no_end() {
        let body = format!("--xx\r\n{HEAD}\"a\"\r\n\r\none\r\n--xx--");
        assert_eq!(parts(body.as_bytes(), 9).unwrap().unwrap().len(), 1);
        for end in 0..body.len() {
            let found = parts(&body.as_bytes()[..end], 5);
            assert!(!matches!(found, Ok(Some(_))), "{end}");
        }
    }

    #[test]
    fn broken_forms_are_refused() {
        let long = "x".repeat(HEAD_BYTES_MAX);
        for body in [
            &"no boundary ".repeat(1000),
            "--xxy\r\n",
            "--xx\r\nX: y\r\n\r\n",
            "--xx\r\n\r\n\r\n",
            "--xx\r\nno colon\r\n\r\n",
            "--xx\r\nContent-Disposition: attachment; name=\"a\"\r\n\r\n",
            "--xx\r\nContent-Disposition: form-data; name=\"a\r\n\r\n",
            "--xx\r\nContent-Disposition: form-data\r\n\r\n",
            &format!("--xx\r\nX: {long}"),
        ] {
            assert!(parts(body.as_bytes(), 7).is_err(), "{body:.60}");
        }
        let many = format!("--xx\r\n{HEAD}a\r\n\r\n\r\n").repeat(PARTS_MAX + 1);
        assert!(parts(many.as_bytes(), 4096).is_err());
    }

    #[test]
    fn names_may_have_quotes() {
        for (text, name) in [
            (
                r#"form-data; name="a"; filename="b\"c\\.txt""#,
                r#"b"c\.txt"#,
            ),
            (r#"form-data; filename="b%22c"; name="a""#, r#"b"c"#),
            (r#"form-data;name=a;filename=b"#, "b"),
            (
                r#"form-data; name="a"; filename="C:\x\y.txt""#,
                r"C:\x\y.txt",
            ),
        ] {
            let found = disposition(text).unwrap();
            assert_eq!(found, ("a".to_owned(), Some(name.to_owned())), "{text}");
        }
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
