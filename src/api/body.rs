//! Request bodies: reading them, and charging the memory that parsing takes.
//!
//! Every handler reads its body with [`Call::body`], so all endpoints accept JSON,
//! `application/x-www-form-urlencoded` and `multipart/form-data`. A long body is charged to the
//! budget `request bodies` while it arrives, and again for its parsed form: a short name or number
//! of JSON takes many times its bytes in memory.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::call::Call;
use super::form_values::{FormField, FormFields};
use super::multipart_body::MultipartForm;
use crate::base::error::{Error, Kind, Result};
use crate::net::http::{FREE_BYTES, media_type, query};

/// The form field that holds further values as JSON.
pub const PAYLOAD: &str = "@jsonPayload";

/// Parses all levels of a body; see [`Call::body_to`].
const ALL_LEVELS: usize = usize::MAX;

/// Limit on the pairs of a URL-encoded form.
const PAIRS_MAX: usize = 1000;

/// Limit on the names in one object, where objects are records. A record has at most 200 fields.
const NAMES_MAX: usize = 1000;
/// Levels in which names are counted.
const NAMED_LEVELS: usize = 8;

/// Limit on the parsed form of one body, with all its parts and copies. Together with the body it
/// is below the share of one network, so such a body is accepted once the budget has room.
const PARSED_BYTES_MAX: u64 = 24 << 20;
/// Memory of parsed JSON: a name or value with its allocation, a list, and an object, which has
/// room for eleven entries even if it is small.
const VALUE_BYTES: u64 = 64;
const LIST_BYTES: u64 = 128;
const OBJECT_BYTES: u64 = 512;

impl Call<'_> {
    /// The parsed body. An error if the client sent none.
    pub fn body<T: DeserializeOwned>(&self) -> Result<T> {
        self.read(ALL_LEVELS, usize::MAX)
    }

    /// The parsed body, for a `T` that parses this many levels of lists and objects and keeps
    /// deeper ones as JSON text. Objects are records and have a limited number of names.
    pub fn body_to<T: DeserializeOwned>(&self, levels: usize) -> Result<T> {
        self.read(levels, NAMES_MAX)
    }

    fn read<T: DeserializeOwned>(&self, levels: usize, names_max: usize) -> Result<T> {
        if let Some(values) = self.form_values()? {
            return self.read_form(values);
        }
        if self.request.body.is_empty() {
            return Err(Error::invalid(
                "The request has no body; send JSON or a form.",
            ));
        }
        self.json(&self.request.body, levels, names_max)
    }

    /// True if the client has sent a body.
    pub fn has_body(&self) -> bool {
        !self.request.body.is_empty() || self.request.sink.is_some()
    }

    /// Parses JSON of a client as [`Call::body_to`] does, and charges its memory.
    pub fn json_to<T: DeserializeOwned>(&self, bytes: &[u8], levels: usize) -> Result<T> {
        self.json(bytes, levels, NAMES_MAX)
    }

    fn json<T: DeserializeOwned>(
        &self,
        bytes: &[u8],
        levels: usize,
        names_max: usize,
    ) -> Result<T> {
        if bytes.len() > FREE_BYTES {
            self.charge_parsed(parsed_bytes(bytes, levels, names_max)?)?;
        }
        serde_json::from_slice(bytes)
            .map_err(|error| Error::invalid(format!("Invalid JSON body: {error}.")))
    }

    /// Charges the memory that parsing this JSON takes.
    pub fn charge_json(&self, text: &str) -> Result<()> {
        match text.len() > FREE_BYTES {
            true => self.charge_parsed(parsed_bytes(text.as_bytes(), ALL_LEVELS, usize::MAX)?),
            false => Ok(()),
        }
    }

    /// Charges the memory of parsed values until the request is answered. The limit is on their
    /// sum: otherwise several parts that fit it one by one could exceed the share of the network.
    fn charge_parsed(&self, bytes: u64) -> Result<()> {
        let budget = &self.app.budgets.bodies;
        let mut parsed = self.parsed.borrow_mut();
        let charge = parsed.get_or_insert_with(|| budget.empty(self.payer()));
        if charge.amount().saturating_add(bytes) > PARSED_BYTES_MAX {
            return Err(Error::new(
                Kind::TooLarge,
                "The body has too many values; send fewer at a time.",
            ));
        }
        let granted = charge.grow(bytes);
        granted.map_err(|exhausted| exhausted.into_error(budget.name()))
    }

    /// The names and values of the form; none if the body is not a form.
    pub fn form_values(&self) -> Result<Option<Vec<(String, String)>>> {
        if let Some(form) = MultipartForm::of(self.request) {
            let (values, _) = form.parts()?;
            let bytes: usize = values.iter().map(|(_, value)| value.len()).sum();
            if bytes > FREE_BYTES {
                self.charge_parsed(bytes as u64)?;
            }
            let texts = values.iter().map(|(name, value)| {
                let text = std::str::from_utf8(value).map_err(|_| not_utf8(name))?;
                Ok((name.clone(), text.to_owned()))
            });
            return texts.collect::<Result<_>>().map(Some);
        }
        let content_type = self.request.header("Content-Type").unwrap_or_default();
        if !media_type(content_type).eq_ignore_ascii_case("application/x-www-form-urlencoded")
            || self.request.body.is_empty()
            || looks_like_json(&self.request.body)
        {
            return Ok(None);
        }
        if self.request.body.len() > FREE_BYTES {
            self.charge_parsed(self.request.body.len() as u64)?;
        }
        let text = std::str::from_utf8(&self.request.body).map_err(|_| not_utf8("the form"))?;
        query::parse_up_to(text, PAIRS_MAX).map(Some)
    }

    fn read_form<T: DeserializeOwned>(&self, values: Vec<(String, String)>) -> Result<T> {
        let mut fields: BTreeMap<String, FormField> = BTreeMap::new();
        for (name, text) in values {
            if name == PAYLOAD {
                let payload: Map<String, Value> =
                    self.json(text.as_bytes(), ALL_LEVELS, usize::MAX)?;
                let payload = payload.into_iter();
                fields.extend(payload.map(|(name, value)| (name, FormField::Json(value))));
                continue;
            }
            match fields.entry(name).or_insert(FormField::Texts(Vec::new())) {
                FormField::Texts(texts) => texts.push(text),
                json @ FormField::Json(_) => *json = FormField::Texts(vec![text]),
            }
        }
        T::deserialize(FormFields(fields))
            .map_err(|error| Error::invalid(format!("Invalid form: {error}.")))
    }
}

/// True if a body that is labelled a form is JSON, as `curl -d '{"a": 1}'` sends it. A form encodes
/// the two characters as `%7B` and `%5B`.
fn looks_like_json(body: &[u8]) -> bool {
    matches!(body.trim_ascii_start().first(), Some(b'{' | b'['))
}

fn not_utf8(name: &str) -> Error {
    Error::invalid(format!("The value of {name} is not UTF-8."))
}

/// An estimate of the memory that parsed JSON takes, with a copy of the text below `levels`. An
/// error if an object above them has more than `names_max` names. Does not validate the JSON.
fn parsed_bytes(json: &[u8], levels: usize, names_max: usize) -> Result<u64> {
    let (mut level, mut bytes) = (0_usize, json.len() as u64);
    let mut names = [0_usize; NAMED_LEVELS];
    let mut at = 0;
    while at < json.len() {
        match json[at] {
            b'"' => at = end_of_string(json, at + 1),
            bracket @ (b'{' | b'[') => {
                level += 1;
                if level <= levels {
                    bytes += if bracket == b'{' {
                        OBJECT_BYTES
                    } else {
                        LIST_BYTES
                    };
                }
                if let Some(names) = names.get_mut(level) {
                    *names = 0;
                }
            }
            b'}' | b']' => level = level.saturating_sub(1),
            b',' if level <= levels => bytes += VALUE_BYTES,
            b':' if level <= levels => {
                bytes += VALUE_BYTES;
                if let Some(names) = names.get_mut(level) {
                    *names += 1;
                    if *names > names_max {
                        return Err(Error::invalid(format!(
                            "An object of the body has more than {names_max} names."
                        )));
                    }
                }
            }
            _ => {}
        }
        at += 1;
    }
    Ok(bytes)
}

/// The position of the quote that ends the string whose contents begin at `at`.
fn end_of_string(json: &[u8], mut at: usize) -> usize {
    while at < json.len() && json[at] != b'"' {
        at += if json[at] == b'\\' { 2 } else { 1 };
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(json: &str, levels: usize) -> u64 {
        parsed_bytes(json.as_bytes(), levels, NAMES_MAX).unwrap()
    }

    #[test]
    fn what_stays_text_counts_its_bytes_only() {
        let json = r#"{"a":[1,2,{"b":3}],"c":"x,y:{[\"]"}"#;
        let length = json.len() as u64;
        assert_eq!(bytes(json, 0), length);
        // Two names and a comma of the outer object.
        assert_eq!(bytes(json, 1), length + OBJECT_BYTES + 3 * VALUE_BYTES);
        let inner = LIST_BYTES + OBJECT_BYTES + 3 * VALUE_BYTES;
        let all = length + OBJECT_BYTES + 3 * VALUE_BYTES + inner;
        assert_eq!(bytes(json, ALL_LEVELS), all);
        assert_eq!(bytes("\"", 1), 1);
        assert_eq!(bytes("]]}}\"\\", 1), 6);
    }

    #[test]
    fn an_object_has_a_bound_of_names_at_each_level_that_is_parsed() {
        let object = |count: usize| {
            let names: Vec<String> = (0..count).map(|at| format!("\"n{at}\":1")).collect();
            format!("{{{}}}", names.join(","))
        };
        let check = |json: &str, levels| parsed_bytes(json.as_bytes(), levels, NAMES_MAX).is_ok();
        assert!(check(&object(NAMES_MAX), 1));
        assert!(!check(&object(NAMES_MAX + 1), 1));
        let list = format!("[{},{}]", object(NAMES_MAX), object(NAMES_MAX));
        assert!(check(&list, 2));
        let deep = format!("[{},{}]", object(1), object(NAMES_MAX + 1));
        assert!(check(&deep, 1));
        assert!(!check(&deep, 2));
    }
}
