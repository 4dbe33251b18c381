//! Query parameters that several endpoints share.

use crate::base::error::{Error, Result};
use crate::base::paging::{Page, SIZE};
use crate::model::records::Shape;

/// The value of a query parameter; the last one if it is repeated.
pub fn parameter<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs
        .iter()
        .rev()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.as_str())
}

/// The fields and expansions of records, from `fields` and `expand`.
pub fn shape(pairs: &[(String, String)]) -> Result<Shape> {
    Shape::parse(parameter(pairs, "fields"), parameter(pairs, "expand"))
}

/// The page of a list, from `page` and `perPage`.
pub fn page(pairs: &[(String, String)]) -> Result<Page> {
    Ok(Page::new(
        number(pairs, "page", 1)?,
        number(pairs, "perPage", SIZE)?,
    ))
}

/// A whole number among the query parameters.
pub fn number(pairs: &[(String, String)], name: &str, default: u64) -> Result<u64> {
    match parameter(pairs, name) {
        None | Some("") => Ok(default),
        Some(text) => text
            .parse()
            .map_err(|_| Error::invalid(format!("{name}={text}: must be a whole number."))),
    }
}
