//! JSON objects written piece by piece: what users gave goes through to the byte.

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
    let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
    if text.bytes().all(is_plain) {
        json.push('"');
        json.push_str(text);
        json.push('"');
    } else {
        json.push_str(&serde_json::Value::from(text).to_string());
    }
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
}
