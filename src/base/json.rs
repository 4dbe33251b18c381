//! JSON written piece by piece: objects of which parts are JSON already, and strings.

use std::fmt::Write as _;

/// An object under construction.
pub struct Object(String);

impl Object {
    pub fn new() -> Object {
        Object(String::from("{"))
    }

    /// A text.
    pub fn text(mut self, name: &str, value: &str) -> Object {
        self.name(name);
        push_text(&mut self.0, value);
        self
    }

    /// A number.
    pub fn int(mut self, name: &str, value: i64) -> Object {
        self.name(name);
        let _ = write!(self.0, "{value}");
        self
    }

    pub fn bool(self, name: &str, value: bool) -> Object {
        self.raw(name, if value { "true" } else { "false" })
    }

    /// JSON as it is.
    pub fn raw(mut self, name: &str, json: &str) -> Object {
        self.name(name);
        self.0.push_str(json);
        self
    }

    /// The same, if there is one.
    pub fn some_raw(self, name: &str, json: Option<&str>) -> Object {
        match json {
            Some(json) => self.raw(name, json),
            None => self,
        }
    }

    pub fn some_text(self, name: &str, value: Option<&str>) -> Object {
        match value {
            Some(value) => self.text(name, value),
            None => self,
        }
    }

    pub fn some_int(self, name: &str, value: Option<i64>) -> Object {
        match value {
            Some(value) => self.int(name, value),
            None => self,
        }
    }

    /// A list of JSON values.
    pub fn list(mut self, name: &str, items: impl IntoIterator<Item = impl AsRef<str>>) -> Object {
        self.name(name);
        self.0.push_str(&array(items));
        self
    }

    pub fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }

    fn name(&mut self, name: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        push_text(&mut self.0, name);
        self.0.push(':');
    }
}

/// A list of JSON values.
pub fn array(items: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let mut json = String::from("[");
    for item in items {
        if json.len() > 1 {
            json.push(',');
        }
        json.push_str(item.as_ref());
    }
    json.push(']');
    json
}

fn push_text(json: &mut String, text: &str) {
    if is_plain(text.as_bytes()) {
        json.push('"');
        json.push_str(text);
        json.push('"');
    } else {
        json.push_str(&serde_json::Value::from(text).to_string());
    }
}

/// Writes a JSON string. Bytes that are not UTF-8 are replaced; only another program can have
/// stored them.
pub fn write_text(text: &[u8], out: &mut Vec<u8>) {
    if is_plain(text) {
        out.reserve(text.len() + 2);
        out.push(b'"');
        out.extend_from_slice(text);
        out.push(b'"');
        return;
    }
    match std::str::from_utf8(text) {
        Ok(text) => write_json(&text, out),
        Err(_) => write_json(&String::from_utf8_lossy(text), out),
    }
}

/// True if the string is ASCII without characters that JSON escapes. Eight bytes are checked at a
/// time, as in Daniel Lemire, "Quickly checking whether a string needs escaping" (2024).
fn is_plain(text: &[u8]) -> bool {
    let (words, rest) = text.as_chunks::<8>();
    let mut last = [b' '; 8];
    last[..rest.len()].copy_from_slice(rest);
    words.iter().chain([&last]).all(|word| is_plain_word(*word))
}

/// [`is_plain`] of eight bytes. The highest bit of a byte of each term is set if that byte is not
/// ASCII, a control character, a quote or a backslash. A borrow from a lower byte sets it only if
/// the lower byte is one of those.
fn is_plain_word(word: [u8; 8]) -> bool {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let word = u64::from_le_bytes(word);
    let equal = |byte: u8| (word ^ (EACH * u64::from(byte))).wrapping_sub(EACH);
    let control = word.wrapping_sub(EACH * u64::from(b' '));
    (word | control | equal(b'"') | equal(b'\\')) & (EACH * 0x80) == 0
}

/// Writes a value whose form in JSON cannot fail, such as a number.
pub fn write_json<T: serde::Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    let result = serde_json::to_writer(out, value);
    debug_assert!(result.is_ok(), "text and numbers always have a JSON form");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_json_whatever_the_texts_are() {
        let json = Object::new()
            .text("a\"b", "line\n\u{0}\\ \"x\" \u{e9}")
            .int("n", -5)
            .raw("raw", r#"{"x": [1,  2]}"#)
            .list("list", ["1", "null"])
            .bool("yes", true)
            .some_int("none", None)
            .end();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["a\"b"], "line\n\u{0}\\ \"x\" \u{e9}");
        assert_eq!(value["n"], -5);
        assert!(json.contains(r#""raw":{"x": [1,  2]}"#));
        assert_eq!(value["list"], serde_json::json!([1, null]));
        assert_eq!(Object::new().end(), "{}");
    }

    #[test]
    fn texts_are_written_as_serde_writes_them() {
        let check = |text: &str| {
            let mut out = Vec::new();
            write_text(text.as_bytes(), &mut out);
            assert_eq!(out, serde_json::to_vec(text).unwrap(), "{text:?}");
        };
        check("");
        for char in ('\0'..='\u{200}').chain(['\u{2028}', '\u{1f600}']) {
            for before in [0, 1, 127, 128, 300] {
                check(&format!("{}{char}end", "x".repeat(before)));
            }
        }
    }

    #[test]
    fn what_is_no_utf8_is_replaced() {
        let mut out = Vec::new();
        write_text(b"a\xffb", &mut out);
        assert_eq!(out, "\"a\u{fffd}b\"".as_bytes());
    }
}
