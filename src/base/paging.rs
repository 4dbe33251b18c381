//! Pages of a list: page number and size, and the JSON envelope of a page, as in PocketBase.

use std::io::Write as _;

use serde_json::{Value, json};

/// The default and the largest page size; a larger one is reduced, as in PocketBase.
pub const SIZE: u64 = 30;
pub const SIZE_MAX: u64 = 1000;

/// The page that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// From 1.
    pub number: u64,
    /// Items of a full page, from 1.
    pub size: u64,
}

impl Default for Page {
    fn default() -> Page {
        Page::new(1, SIZE)
    }
}

impl Page {
    /// From the values of a request, where 0 means the default.
    pub fn new(number: u64, size: u64) -> Page {
        Page {
            number: number.max(1),
            size: match size {
                0 => SIZE,
                size => size.min(SIZE_MAX),
            },
        }
    }

    /// The number of items before the page; at most the largest integer of SQLite.
    pub fn skip(self) -> u64 {
        let before = (self.number - 1).saturating_mul(self.size);
        before.min(i64::MAX.cast_unsigned())
    }

    /// The JSON of the page; `total` counts the items of all pages.
    pub fn envelope(self, total: u64, items: &[Value]) -> Value {
        json!({
            "page": self.number,
            "perPage": self.size,
            "totalItems": total,
            "totalPages": total.div_ceil(self.size),
            "items": items,
        })
    }

    /// Writes the envelope up to its first item; `]}` follows the last one. Totals that were not
    /// counted are -1.
    pub fn open_envelope(self, total: Option<u64>, out: &mut Vec<u8>) {
        let Page { number, size } = self;
        let (items, pages) = match total {
            Some(total) => (total.to_string(), total.div_ceil(size).to_string()),
            None => ("-1".to_owned(), "-1".to_owned()),
        };
        // Writing to memory does not fail.
        let _ = write!(
            out,
            "{{\"page\":{number},\"perPage\":{size},\"totalItems\":{items},\"totalPages\":{pages},\"items\":["
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_and_what_is_too_much() {
        assert_eq!(
            Page::new(0, 0),
            Page {
                number: 1,
                size: 30
            }
        );
        assert_eq!(Page::new(3, 1000).size, 1000);
        assert_eq!(Page::new(3, 1001).size, 1000);
        assert_eq!(Page::new(3, 20).skip(), 40);
    }

    #[test]
    fn both_envelopes_are_the_same() {
        for (number, size, total) in [(0, 0, 0), (1, 30, 30), (2, 7, 15), (u64::MAX, u64::MAX, 1)] {
            let page = Page::new(number, size);
            let mut text = Vec::new();
            page.open_envelope(Some(total), &mut text);
            text.extend_from_slice(b"7]}");
            let written: Value = serde_json::from_slice(&text).unwrap();
            assert_eq!(written, page.envelope(total, &[json!(7)]));
            assert!(i64::try_from(page.skip()).is_ok());
        }
    }
}
