//! Conditional and partial requests: `Range`, `If-Match` and `If-None-Match` (RFC 9110, sections 13
//! and 14).

/// The part of a file that a client requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRange {
    Full,
    /// Offset and length; the length is never zero.
    Part(u64, u64),
    /// The range lies beyond the end.
    Unsatisfiable,
}

/// Parses a `Range` header for a file of `size` bytes. Several ranges, and an invalid header,
/// select the whole file, as the standard allows.
pub fn parse(header: &str, size: u64) -> ByteRange {
    let Some((from, to)) = header
        .strip_prefix("bytes=")
        .filter(|ranges| !ranges.contains(','))
        .and_then(|range| range.trim().split_once('-'))
    else {
        return ByteRange::Full;
    };
    let number = |text: &str| text.parse::<u64>().ok().filter(|_| !text.starts_with('+'));
    let (start, end) = match (number(from), number(to)) {
        (Some(start), Some(last)) if last >= start => (start, last.saturating_add(1).min(size)),
        (Some(start), None) if to.is_empty() => (start, size),
        (None, Some(length)) if from.is_empty() => (size.saturating_sub(length), size),
        _ => return ByteRange::Full,
    };
    if start >= end {
        ByteRange::Unsatisfiable
    } else {
        ByteRange::Part(start, end - start)
    }
}

/// The tags of an `If-Match` or `If-None-Match` header, without quotes. Invalid tags are ignored,
/// and so are weak ones unless `accepts_weak` is set. `If-Match` accepts no weak tags.
pub fn tags(header: &str, accepts_weak: bool) -> impl Iterator<Item = &str> {
    header.split(',').filter_map(move |tag| {
        let tag = tag.trim();
        let tag = match accepts_weak {
            true => tag.strip_prefix("W/").unwrap_or(tag),
            false => tag,
        };
        tag.strip_prefix('"')?.strip_suffix('"')
    })
}

/// True for `*`, which matches any tag.
pub fn is_any(header: &str) -> bool {
    header.trim() == "*"
}

/// True if an `If-None-Match` header contains this tag.
pub fn is_match(header: Option<&str>, tag: &str) -> bool {
    header.is_some_and(|header| is_any(header) || tags(header, true).any(|it| it == tag))
}

/// True if an `If-Match` header does not contain this tag.
pub fn is_mismatch(header: Option<&str>, tag: &str) -> bool {
    header.is_some_and(|header| !is_any(header) && tags(header, false).all(|it| it != tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_to_the_file() {
        for (header, expected) in [
            ("bytes=0-9", ByteRange::Part(0, 10)),
            ("bytes=90-", ByteRange::Part(90, 10)),
            ("bytes=90-1000", ByteRange::Part(90, 10)),
            ("bytes=-10", ByteRange::Part(90, 10)),
            ("bytes=-1000", ByteRange::Part(0, 100)),
            ("bytes=99-99", ByteRange::Part(99, 1)),
            ("bytes=100-", ByteRange::Unsatisfiable),
            ("bytes=-0", ByteRange::Unsatisfiable),
            ("bytes=9-0", ByteRange::Full),
            ("bytes=0-1,3-4", ByteRange::Full),
            ("bytes=+1-2", ByteRange::Full),
            ("bytes=", ByteRange::Full),
            ("bytes=-", ByteRange::Full),
            ("items=0-1", ByteRange::Full),
            ("bytes=0-18446744073709551615", ByteRange::Part(0, 100)),
            ("bytes=99999999999999999999-", ByteRange::Full),
        ] {
            assert_eq!(parse(header, 100), expected, "{header}");
        }
        assert_eq!(parse("bytes=0-", 0), ByteRange::Unsatisfiable);
    }

    #[test]
    fn a_tag_is_found_among_several() {
        for (header, expected) in [
            (Some("\"a\""), true),
            (Some("W/\"a\", \"b\""), true),
            (Some("*"), true),
            (Some("\"b\""), false),
            (Some("a"), false),
            (Some(""), false),
            (Some("W/W/\"a\""), false),
            (None, false),
        ] {
            assert_eq!(is_match(header, "a"), expected, "{header:?}");
        }
        for (header, expected) in [
            (Some("\"a\""), false),
            (Some("\"b\" ,\"a\""), false),
            (Some(" * "), false),
            (None, false),
            (Some("W/\"a\""), true),
            (Some("\"b\""), true),
            (Some(""), true),
        ] {
            assert_eq!(is_mismatch(header, "a"), expected, "{header:?}");
        }
    }
}
