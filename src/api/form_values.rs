//! Deserializes a form, whose values are strings, into the type that a handler expects.
//!
//! The type decides how a string is read: as a number or a boolean, as a list (a repeated field or
//! a JSON list) or as an object (JSON). For an untyped JSON value, a string that is `true`,
//! `false`, a number, a JSON list or a JSON object becomes that. A value from `@jsonPayload` stays
//! as it is.

use std::collections::BTreeMap;

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Map, Result, Value};

/// The name by which `serde_json` asks for a raw value, any JSON kept as text, begins with this.
const RAW: &str = "$serde_json";

/// The fields of a form by name.
pub struct FormFields(pub BTreeMap<String, FormField>);

/// The value of a field.
pub enum FormField {
    /// A string for each occurrence of the field.
    Texts(Vec<String>),
    Json(Value),
}

impl FormField {
    /// The last string.
    fn text(self) -> Result<String> {
        match self {
            FormField::Texts(texts) => Ok(texts.into_iter().next_back().unwrap_or_default()),
            FormField::Json(Value::String(text)) => Ok(text),
            FormField::Json(other) => Err(wrong(&other, "a string")),
        }
    }

    /// The string parsed as JSON, if the result satisfies `is_wanted`; else the string.
    fn json(self, is_wanted: fn(&Value) -> bool) -> Value {
        match self {
            FormField::Json(value) => value,
            FormField::Texts(mut texts) if texts.len() == 1 => {
                let text = texts.remove(0);
                let parsed = serde_json::from_str(&text).ok().filter(is_wanted);
                parsed.unwrap_or(Value::String(text))
            }
            FormField::Texts(texts) => Value::from(texts),
        }
    }

    fn number(self) -> Value {
        match self {
            FormField::Json(value) => value,
            texts @ FormField::Texts(_) => {
                let text = texts.text().unwrap_or_default();
                let parsed = serde_json::from_str(text.trim()).ok();
                parsed
                    .filter(Value::is_number)
                    .unwrap_or(Value::String(text))
            }
        }
    }
}

fn wrong(value: &Value, wanted: &str) -> Error {
    serde::de::Error::custom(format!("{value} is not {wanted}"))
}

/// Methods that deserialize a number.
macro_rules! numbers {
    ($($name:ident)*) => {$(
        fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            self.number().$name(visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for FormField {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let value = self.json(|value| !value.is_string() && !value.is_null());
        value.deserialize_any(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self {
            FormField::Json(value) => value.deserialize_bool(visitor),
            texts @ FormField::Texts(_) => match texts.text()?.as_str() {
                "true" | "1" | "on" => visitor.visit_bool(true),
                "false" | "0" | "" => visitor.visit_bool(false),
                text => Err(wrong(&Value::from(text), "true or false")),
            },
        }
    }

    numbers!(deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128);
    numbers!(deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128);
    numbers!(deserialize_f32 deserialize_f64);

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_string(self.text()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_string(self.text()?)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self {
            FormField::Json(Value::Null) => visitor.visit_none(),
            field => visitor.visit_some(field),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self {
            FormField::Texts(texts) if texts.len() == 1 => {
                match FormField::Texts(texts).json(Value::is_array) {
                    Value::String(text) => of_texts(vec![text], visitor),
                    list => list.deserialize_seq(visitor),
                }
            }
            FormField::Texts(texts) => of_texts(texts, visitor),
            FormField::Json(value) => value.deserialize_seq(visitor),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.json(Value::is_object).deserialize_map(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        let value = self.json(Value::is_object);
        value.deserialize_enum(name, variants, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value> {
        match name.starts_with(RAW) {
            true => self
                .json(|_| true)
                .deserialize_newtype_struct(name, visitor),
            false => visitor.visit_newtype_struct(self),
        }
    }

    forward_to_deserialize_any! {
        char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

/// Deserializes a list of the strings that are not empty.
fn of_texts<'de, V: Visitor<'de>>(texts: Vec<String>, visitor: V) -> Result<V::Value> {
    let texts = texts.into_iter().filter(|text| !text.is_empty());
    let fields = texts.map(|text| FormField::Texts(vec![text]));
    visitor.visit_seq(SeqDeserializer::new(fields))
}

impl IntoDeserializer<'_, Error> for FormField {
    type Deserializer = FormField;

    fn into_deserializer(self) -> FormField {
        self
    }
}

impl<'de> Deserializer<'de> for FormFields {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_map(MapDeserializer::new(self.0.into_iter()))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_some(self)
    }

    /// As raw JSON a form is an object of strings, since no type tells what they are.
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value> {
        if !name.starts_with(RAW) {
            return visitor.visit_newtype_struct(self);
        }
        let fields = self.0.into_iter().map(|(name, field)| match field {
            FormField::Json(value) => (name, value),
            FormField::Texts(mut texts) if texts.len() == 1 => (name, Value::from(texts.remove(0))),
            FormField::Texts(texts) => (name, Value::from(texts)),
        });
        let object = Value::Object(fields.collect::<Map<_, _>>());
        object.deserialize_newtype_struct(name, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde::Deserialize;
    use serde_json::json;
    use serde_json::value::RawValue;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Wanted {
        text: String,
        number: Option<u32>,
        real: f64,
        flag: bool,
        list: Vec<String>,
        numbers: Option<Vec<i64>>,
        object: BTreeMap<String, i64>,
        any: Value,
    }

    fn form(values: &[(&str, &str)]) -> FormFields {
        let mut fields: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, text) in values {
            let texts = fields.entry((*name).to_owned()).or_default();
            texts.push((*text).to_owned());
        }
        let fields = fields.into_iter();
        FormFields(
            fields
                .map(|(name, texts)| (name, FormField::Texts(texts)))
                .collect(),
        )
    }

    fn read(values: &[(&str, &str)]) -> Result<Wanted> {
        Wanted::deserialize(form(values))
    }

    #[test]
    fn a_text_becomes_what_is_wanted() {
        let found = read(&[
            ("text", "12"),
            ("number", "12"),
            ("real", "-1.5"),
            ("flag", "on"),
            ("list", "a"),
            ("list", ""),
            ("list", "b"),
            ("numbers", "[1, 2]"),
            ("object", r#"{"a":1}"#),
            ("any", "true"),
        ]);
        let expected = Wanted {
            text: "12".to_owned(),
            number: Some(12),
            real: -1.5,
            flag: true,
            list: vec!["a".to_owned(), "b".to_owned()],
            numbers: Some(vec![1, 2]),
            object: BTreeMap::from([("a".to_owned(), 1)]),
            any: Value::Bool(true),
        };
        assert_eq!(found.unwrap(), expected);
        let list = read(&[("list", "x"), ("numbers", "7"), ("any", "007")]).unwrap();
        assert_eq!(list.list, ["x"]);
        assert_eq!(list.numbers, Some(vec![7]));
        assert_eq!(list.any, json!("007"));
    }

    #[test]
    fn a_text_that_is_not_what_is_wanted_is_refused() {
        for (name, text) in [
            ("number", "x"),
            ("number", "-1"),
            ("number", ""),
            ("number", "\"1\""),
            ("real", "true"),
            ("flag", "maybe"),
            ("numbers", "x"),
            ("object", "[1]"),
            ("object", "x"),
        ] {
            assert!(read(&[(name, text)]).is_err(), "{name}={text}");
        }
    }

    #[test]
    fn json_of_a_payload_keeps_its_type() {
        let text = |value: Value| {
            let fields = BTreeMap::from([("text".to_owned(), FormField::Json(value))]);
            Wanted::deserialize(FormFields(fields)).map(|wanted| wanted.text)
        };
        assert_eq!(text(json!("12")).unwrap(), "12");
        assert!(text(json!(12)).is_err());
    }

    #[test]
    fn raw_json_of_a_form_is_an_object_of_texts() {
        let raw = Box::<RawValue>::deserialize(form(&[("a", "1"), ("b", "x"), ("b", "y")]));
        assert_eq!(raw.unwrap().get(), r#"{"a":"1","b":["x","y"]}"#);
        #[derive(Deserialize)]
        struct Inner {
            a: Box<RawValue>,
            b: Box<RawValue>,
        }
        let inner = Inner::deserialize(form(&[("a", "{\"x\": 1}"), ("b", "x")])).unwrap();
        assert_eq!((inner.a.get(), inner.b.get()), (r#"{"x":1}"#, r#""x""#));
    }
}
