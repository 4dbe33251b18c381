//! A parser for the XML of S3 responses: elements and text. It skips attributes, strips namespace
//! prefixes, and rejects a document type, so that entities cannot expand.

/// Greater than the depth of any response.
const DEPTH_MAX: usize = 16;

/// An element with the text directly in it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Element {
    pub name: String,
    text: String,
    children: Vec<Element>,
}

impl Element {
    /// Parses a document; none if it is not well-formed.
    pub fn parse(document: &str) -> Option<Element> {
        // The first element encloses the root.
        let mut open = vec![Element::default()];
        let mut rest = document.trim_start_matches('\u{feff}');
        while let Some((text, markup)) = rest.split_once('<') {
            push_text(&mut open, text)?;
            rest = if let Some(comment) = markup.strip_prefix("!--") {
                comment.split_once("-->")?.1
            } else if let Some(data) = markup.strip_prefix("![CDATA[") {
                let (data, rest) = data.split_once("]]>")?;
                open.last_mut()?.text.push_str(data);
                rest
            } else if let Some(instruction) = markup.strip_prefix('?') {
                instruction.split_once("?>")?.1
            } else if let Some(end) = markup.strip_prefix('/') {
                let (name, rest) = end.split_once('>')?;
                close(&mut open, local(name.trim_end()))?;
                rest
            } else {
                begin(&mut open, markup)?
            };
        }
        push_text(&mut open, rest)?;
        let mut around = open.pop().filter(|_| open.is_empty())?;
        let root = around.children.pop()?;
        (around.children.is_empty() && around.text.trim().is_empty()).then_some(root)
    }

    /// The children of that name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The text of the first child of that name.
    pub fn text_of(&self, name: &str) -> Option<&str> {
        let child = self.children.iter().find(|child| child.name == name)?;
        Some(&child.text)
    }
}

/// Opens an element; `markup` begins after its `<`. Returns what follows the tag.
fn begin<'a>(open: &mut Vec<Element>, markup: &'a str) -> Option<&'a str> {
    let end = end_of_tag(markup)?;
    let (tag, rest) = (&markup[..end], &markup[end + 1..]);
    let (tag, is_empty) = match tag.strip_suffix('/') {
        Some(tag) => (tag, true),
        None => (tag, false),
    };
    let name = tag.split([' ', '\t', '\r', '\n']).next()?;
    let is_name = |letter: char| letter.is_alphanumeric() || "-_.:".contains(letter);
    if name.is_empty() || !name.chars().all(is_name) || open.len() > DEPTH_MAX {
        return None;
    }
    open.push(Element {
        name: local(name).to_owned(),
        ..Element::default()
    });
    if is_empty {
        close(open, local(name))?;
    }
    Some(rest)
}

/// Where a tag ends: at the first `>` outside of quotes.
fn end_of_tag(markup: &str) -> Option<usize> {
    let mut quote = None;
    for (at, byte) in markup.bytes().enumerate() {
        match (quote, byte) {
            (None, b'>') => return Some(at),
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(begun), _) if begun == byte => quote = None,
            _ => {}
        }
    }
    None
}

fn close(open: &mut Vec<Element>, name: &str) -> Option<()> {
    let element = open.pop().filter(|element| element.name == name)?;
    open.last_mut()?.children.push(element);
    Some(())
}

/// Appends text to the innermost element, with its references replaced.
fn push_text(open: &mut [Element], mut text: &str) -> Option<()> {
    let into = &mut open.last_mut()?.text;
    while let Some((plain, rest)) = text.split_once('&') {
        into.push_str(plain);
        let (reference, rest) = rest.split_once(';')?;
        into.push(character(reference)?);
        text = rest;
    }
    into.push_str(text);
    Some(())
}

fn character(reference: &str) -> Option<char> {
    match reference {
        "lt" => Some('<'),
        "gt" => Some('>'),
        "amp" => Some('&'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let number = reference.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(digits) => u32::from_str_radix(digits, 16),
                None => number.parse(),
            };
            char::from_u32(code.ok()?)
        }
    }
}

/// A name without its namespace prefix.
fn local(name: &str) -> &str {
    name.rsplit(':').next().unwrap_or(name)
}

/// Escapes text for the content of an element.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_servers_write() {
        let text = "\u{feff}<?xml version=\"1.0\"?>\n<!-- <a> --><s:List xmlns:s='a>b'>\
                    <s:Key>a &amp;&#x20;b&#228;</s:Key ><Key><![CDATA[<&>]]></Key><Empty/>\n</s:List>";
        let root = Element::parse(text).unwrap();
        assert_eq!(root.name, "List");
        let keys: Vec<&str> = root.all("Key").map(|key| key.text.as_str()).collect();
        assert_eq!(keys, ["a & b\u{e4}", "<&>"]);
        assert_eq!(root.text_of("Empty"), Some(""));
        assert_eq!(root.text_of("Other"), None);
        let again = Element::parse(&format!("<a>{}</a>", escape("<\"&amp;>")));
        assert_eq!(again.unwrap().text, "<\"&amp;>");
    }

    #[test]
    fn refuses_what_is_not_well_formed() {
        for text in [
            "",
            "text",
            "<a>",
            "<a></b>",
            "</a>",
            "<a/><b/>",
            "<a/>text",
            "<a>&unknown;</a>",
            "<a>&lt</a>",
            "<a>&#xd800;</a>",
            "<a",
            "<a b=\">",
            "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>",
            "<html><br></html>",
            &"<a>".repeat(1_000_000),
        ] {
            assert_eq!(
                Element::parse(text),
                None,
                "{}",
                &text[..text.len().min(40)]
            );
        }
    }
}
