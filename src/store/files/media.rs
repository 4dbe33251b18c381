//! Media types of files, from content and name together: either alone is often wrong.

use std::borrow::Cow;

/// Bytes at the start of a file that are inspected.
pub const SNIFF_BYTES: usize = 512;

const SVG: &str = "image/svg+xml";
const UNKNOWN: &str = "application/octet-stream";

/// Detects the media type of a file from its name and its first bytes. A name that contradicts the
/// content is ignored.
pub fn detect(name: &str, beginning: &[u8]) -> String {
    let by_name = mime_guess::from_path(name).first_raw();
    let by_content = infer::get(beginning).map(|kind| kind.mime_type());
    match (by_content, by_name) {
        (Some(content), Some(name)) if is_kind_of(name, content) => name,
        (Some(content), _) => content,
        // Text has no signature; only the name tells its kind.
        (None, Some(name)) if is_textual(name) && is_text(beginning) => name,
        (None, _) if is_text(beginning) && !beginning.is_empty() => "text/plain",
        // Kinds without a known signature.
        (None, Some(name)) if !has_signature(name) => name,
        _ => UNKNOWN,
    }
    .to_owned()
}

/// True if the type by name is a kind of the type by content: many document formats are archives.
fn is_kind_of(name: &str, content: &str) -> bool {
    name == content
        || (content == "application/zip"
            && (name.contains("openxmlformats")
                || name.contains("opendocument")
                || name.ends_with("+zip")
                || name.contains("java-archive")))
        || (matches!(content, "text/xml" | "application/xml")
            && (name.ends_with("xml") || name.contains("html")))
        || (content == "text/html" && name.contains("html"))
}

fn is_textual(media_type: &str) -> bool {
    media_type.starts_with("text/")
        || media_type.ends_with("+xml")
        || media_type.ends_with("json")
        || matches!(
            media_type,
            "application/javascript"
                | "application/xml"
                | "application/sql"
                | "application/x-sh"
                | "application/rtf"
        )
}

/// The value of `Content-Type` for a file of this media type. A file counts as text only if it
/// begins as UTF-8, and browsers guess another encoding if none is given. XML declares its own.
pub fn content_type(media_type: &str) -> Cow<'_, str> {
    let is_xml = media_type.ends_with("xml") && media_type != SVG;
    match is_textual(media_type) && !is_xml {
        true => Cow::Owned(format!("{media_type}; charset=utf-8")),
        false => Cow::Borrowed(media_type),
    }
}

/// True if a browser can show the file without running any of its content, from any origin.
pub fn is_passive(media_type: &str) -> bool {
    match media_type.split_once('/') {
        Some(("image", _)) => media_type != SVG,
        Some(("audio" | "video", _)) => true,
        _ => ["text/plain", "application/pdf"].contains(&media_type),
    }
}

fn is_text(bytes: &[u8]) -> bool {
    // The last character may be truncated.
    let whole = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    !whole
        .chars()
        .any(|char| char.is_control() && !matches!(char, '\t' | '\n' | '\r' | '\u{c}'))
}

/// True if files of this type are recognised by their content.
fn has_signature(media_type: &str) -> bool {
    ["image/", "audio/", "video/", "font/", "text/"]
        .iter()
        .any(|kind| media_type.starts_with(kind))
        || is_textual(media_type)
        || matches!(
            media_type,
            "application/pdf" | "application/zip" | "application/gzip"
        )
}

/// True if a field with this list of media types accepts this one; `image/*` matches all images.
pub fn is_allowed(media_type: &str, allowed: &[String]) -> bool {
    allowed.is_empty()
        || allowed
            .iter()
            .any(|allowed| match allowed.strip_suffix("/*") {
                Some(kind) => media_type.split('/').next() == Some(kind),
                None => allowed == media_type,
            })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_and_content_must_agree() {
        let png = b"\x89PNG\r\n\x1a\n0000";
        for (name, content, expected) in [
            ("a.png", png.as_slice(), "image/png"),
            ("a.txt", png, "image/png"),
            ("a.png", b"<script>", "text/html"),
            ("a.jpg", png, "image/png"),
            ("a.svg", b"<svg xmlns='x'/>", "image/svg+xml"),
            ("a.md", b"# Title", "text/markdown"),
            ("a", b"plain words", "text/plain"),
            ("a.bin", b"\x00\x01\x02", "application/octet-stream"),
            ("a.png", b"\x00\x01\x02", "application/octet-stream"),
            ("a.json", b"{}", "application/json"),
            (
                "a.docx",
                b"PK\x03\x04....",
                "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
            ),
            ("a.txt", b"", "text/plain"),
            ("a", b"", "application/octet-stream"),
        ] {
            assert_eq!(detect(name, content), expected, "{name}");
        }
    }

    #[test]
    fn text_is_served_as_utf_8_and_only_what_runs_nothing_is_shown() {
        for (media_type, is_utf8, is_shown) in [
            ("text/plain", true, true),
            ("text/csv", true, false),
            ("text/markdown", true, false),
            ("text/html", true, false),
            ("text/css", true, false),
            ("text/javascript", true, false),
            ("application/javascript", true, false),
            ("application/json", true, false),
            ("application/ld+json", true, false),
            ("image/svg+xml", true, false),
            ("text/xml", false, false),
            ("application/xhtml+xml", false, false),
            ("image/png", false, true),
            ("audio/mpeg", false, true),
            ("video/mp4", false, true),
            ("application/pdf", false, true),
            ("application/zip", false, false),
            ("application/octet-stream", false, false),
            ("", false, false),
        ] {
            let expected = match is_utf8 {
                true => format!("{media_type}; charset=utf-8"),
                false => media_type.to_owned(),
            };
            assert_eq!(content_type(media_type), expected);
            assert_eq!(is_passive(media_type), is_shown, "{media_type}");
        }
    }

    #[test]
    fn text_may_be_cut_inside_a_character() {
        assert_eq!(detect("a.txt", &"\u{e9}".as_bytes()[..1]), "text/plain");
        assert_eq!(detect("a.txt", b"\xff\xfe"), "application/octet-stream");
    }

    #[test]
    fn a_field_may_take_some_kinds_only() {
        let allowed = ["image/*".to_owned(), "text/plain".to_owned()];
        assert!(is_allowed("image/png", &allowed) && is_allowed("text/plain", &allowed));
        assert!(!is_allowed("text/html", &allowed) && is_allowed("text/html", &[]));
    }
}
