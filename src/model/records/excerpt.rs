//! `fields=body:excerpt(100,true)`: the beginning of a text, without HTML markup.

/// The requested beginning of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// Maximum number of characters, at least 1.
    pub chars_max: usize,
    /// Appends `...` if the text is cut.
    pub has_ellipsis: bool,
}

/// Larger than any text.
const CHARS_MAX: usize = 1 << 30;
/// Elements whose content is not part of the text.
const HIDDEN: [&str; 16] = [
    "head", "style", "script", "iframe", "applet", "object", "svg", "picture", "dialog",
    "template", "button", "form", "textarea", "select", "option", "title",
];
/// Elements whose content is not parsed: only their own end tag ends them.
const RAW: [&str; 5] = ["style", "script", "iframe", "textarea", "title"];
/// Elements that do not separate words.
const INLINE: [&str; 22] = [
    "a", "abbr", "acronym", "b", "bdo", "big", "cite", "code", "em", "i", "label", "q", "small",
    "span", "strong", "strike", "sub", "sup", "time", "u", "s", "wbr",
];

impl Excerpt {
    /// Parses `excerpt(100)` or `excerpt(100,true)`.
    pub fn parse(text: &str) -> Option<Excerpt> {
        let values = text.strip_prefix("excerpt(")?.strip_suffix(')')?;
        let (chars, ellipsis) = match values.split_once(',') {
            Some((chars, ellipsis)) => (chars, ellipsis.trim()),
            None => (values, "false"),
        };
        let chars_max = chars.trim().parse().ok()?;
        let has_ellipsis = match ellipsis {
            "true" | "1" => true,
            "false" | "0" => false,
            _ => return None,
        };
        (1..=CHARS_MAX).contains(&chars_max).then_some(Excerpt {
            chars_max,
            has_ellipsis,
        })
    }

    /// Extracts the beginning of a text, HTML or plain. Reads no more of it than needed.
    pub fn apply(self, text: &str) -> String {
        let mut plain = PlainText::default();
        let mut rest = text;
        // One space and one character beyond the maximum tell that the text is cut.
        while !rest.is_empty() && plain.chars <= self.chars_max + 1 {
            rest = match rest.find(['<', '&']) {
                Some(0) if rest.starts_with('<') => skip_tag(rest, &mut plain),
                Some(0) => push_entity(rest, &mut plain),
                Some(at) => plain.push_text(rest, at, self.chars_max),
                None => plain.push_text(rest, rest.len(), self.chars_max),
            };
        }
        let shown = plain.text.trim_end();
        match shown.char_indices().nth(self.chars_max) {
            None => shown.to_owned(),
            Some((at, _)) => {
                let ellipsis = if self.has_ellipsis { "..." } else { "" };
                format!("{}{ellipsis}", shown[..at].trim_end())
            }
        }
    }
}

/// The extracted text. Runs of white space become one space.
#[derive(Default)]
struct PlainText {
    text: String,
    chars: usize,
}

impl PlainText {
    fn push(&mut self, char: char) {
        let char = if char.is_whitespace() { ' ' } else { char };
        if char == ' ' && (self.text.is_empty() || self.text.ends_with(' ')) {
            return;
        }
        self.text.push(char);
        self.chars += 1;
    }

    /// Appends the text before `end` until the maximum is exceeded; returns the rest.
    fn push_text<'a>(&mut self, rest: &'a str, end: usize, chars_max: usize) -> &'a str {
        for char in rest[..end].chars() {
            if self.chars > chars_max + 1 {
                return "";
            }
            self.push(char);
        }
        &rest[end..]
    }
}

/// Skips a tag, a comment, or an element with hidden content; returns the rest.
fn skip_tag<'a>(text: &'a str, plain: &mut PlainText) -> &'a str {
    if let Some(comment) = text.strip_prefix("<!--") {
        return comment.split_once("-->").map_or("", |(_, follows)| follows);
    }
    let is_end = text.starts_with("</");
    let name = name(&text[if is_end { 2 } else { 1 }..]);
    if name.is_empty() && !text.starts_with("<!") && !text.starts_with("<?") {
        plain.push('<');
        return &text[1..];
    }
    let follows = text.split_once('>').map_or("", |(_, follows)| follows);
    let name = name.to_ascii_lowercase();
    if !INLINE.contains(&name.as_str()) {
        plain.push(' ');
    }
    match !is_end && HIDDEN.contains(&name.as_str()) {
        true => skip_element(&name, follows),
        false => follows,
    }
}

/// The element name at the start of the string.
fn name(text: &str) -> &str {
    let is_part = |char: char| char.is_ascii_alphanumeric();
    let is_name = text.starts_with(|first: char| first.is_ascii_alphabetic());
    let end = text.find(|char| !is_part(char)).unwrap_or(text.len());
    if is_name { &text[..end] } else { "" }
}

/// The rest after the end tag of an element, which may contain elements of the same name.
fn skip_element<'a>(element: &str, mut text: &'a str) -> &'a str {
    let mut depth = 1;
    while let Some(at) = text.find('<') {
        text = &text[at + 1..];
        let is_end = text.starts_with('/');
        if !name(&text[usize::from(is_end)..]).eq_ignore_ascii_case(element) {
            continue;
        }
        match is_end {
            true => depth -= 1,
            false if RAW.contains(&element) => {}
            false => depth += 1,
        }
        if depth == 0 {
            return text.split_once('>').map_or("", |(_, follows)| follows);
        }
    }
    ""
}

/// Appends the character of an entity, or a plain `&`; returns the rest.
fn push_entity<'a>(text: &'a str, plain: &mut PlainText) -> &'a str {
    const BYTES_MAX: usize = 12;
    let end = text.bytes().take(BYTES_MAX).position(|byte| byte == b';');
    let found = end.and_then(|end| Some((char_of(&text[1..end])?, end)));
    match found {
        Some((char, end)) => {
            plain.push(char);
            &text[end + 1..]
        }
        None => {
            plain.push('&');
            &text[1..]
        }
    }
}

fn char_of(name: &str) -> Option<char> {
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => ' ',
        _ => {
            let number = name.strip_prefix('#')?;
            let number = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16),
                None => number.parse(),
            };
            char::from_u32(number.ok()?).filter(|char| *char != '\0')?
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(excerpt: &str, text: &str, expected: &str) {
        assert_eq!(Excerpt::parse(excerpt).unwrap().apply(text), expected);
    }

    #[test]
    fn the_beginning_of_the_text_is_shown() {
        check("excerpt(5)", "abcdefgh", "abcde");
        check("excerpt(5,true)", "abcdefgh", "abcde...");
        check("excerpt(8,true)", "abcdefgh", "abcdefgh");
        check("excerpt( 4 , 1 )", "abc defgh", "abc...");
        check(
            "excerpt(3)",
            "\u{fc}\u{fc}\u{fc}\u{fc}",
            "\u{fc}\u{fc}\u{fc}",
        );
        check("excerpt(9)", " a \n\t b ", "a b");
        check("excerpt(9,true)", "", "");
    }

    #[test]
    fn markup_is_left_out() {
        check(
            "excerpt(99)",
            "<p>Hello <b>wo</b>rld</p><p>again</p>",
            "Hello world again",
        );
        check(
            "excerpt(7,true)",
            "<h1>Hello</h1><p>world</p>",
            "Hello w...",
        );
        check(
            "excerpt(99)",
            "a<script>if (1 < 2) '<script>'</script>b",
            "a b",
        );
        check(
            "excerpt(99)",
            "<svg><svg></svg>x</svg>a<img src='x'>b",
            "a b",
        );
        check("excerpt(99)", "a<!-- <p>b</p> -->c<!doctype html>", "ac");
        check(
            "excerpt(99)",
            "1 &lt; 2 &amp;&nbsp;3 &#65;&#x42; &no; &",
            "1 < 2 & 3 AB &no; &",
        );
        check("excerpt(99)", "1 < 2 <3 <", "1 < 2 <3 <");
        check("excerpt(99)", "open <p never closed", "open");
        check("excerpt(99)", "<style>p{}", "");
    }

    #[test]
    fn what_is_no_excerpt_is_none() {
        for wrong in [
            "excerpt",
            "excerpt()",
            "excerpt(0)",
            "excerpt(x)",
            "excerpt(-1)",
            "excerpt(5,maybe)",
            "excerpt(5,true,1)",
            "excerpt(5",
            "each",
        ] {
            assert_eq!(Excerpt::parse(wrong), None, "{wrong}");
        }
    }
}
