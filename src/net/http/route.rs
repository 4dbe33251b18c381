//! Path patterns and their payloads.
//!
//! A pattern consists of literal segments, `{name}` for one segment that is not empty, and
//! optionally `*name` at the end for the rest of the path. Patterns are merged into a tree once; a
//! lookup walks it segment by segment and allocates only the parameters. A literal takes precedence
//! over a parameter, and a parameter over a wildcard, but only among patterns with the requested
//! method. Literals are compared with the raw path. Parameters are percent-decoded and may contain
//! any character.

use std::borrow::Cow;

use crate::net::http::Method;
use crate::net::http::query::percent_decode;

/// Maps a method and a path to a payload.
pub struct Router<T> {
    root: Node<T>,
}

/// The result of [`Router::find`].
pub enum RouteMatch<'r, 'p, T> {
    /// The payload and the parameters.
    Found(&'r T, Params<'r, 'p>),
    /// The path exists with these methods only.
    MethodNotAllowed(Vec<Method>),
    /// No pattern matches the path.
    NotFound,
}

/// The decoded parameters of a path.
#[derive(Debug)]
pub struct Params<'r, 'p> {
    names: &'r [String],
    values: Vec<Cow<'p, str>>,
}

struct Node<T> {
    literals: Vec<(String, Node<T>)>,
    param: Option<Box<Node<T>>>,
    /// Patterns that end here.
    ends: Vec<End<T>>,
    /// Patterns that end here with a wildcard.
    rests: Vec<End<T>>,
}

struct End<T> {
    method: Method,
    names: Vec<String>,
    payload: T,
}

impl<T> Router<T> {
    pub fn new() -> Router<T> {
        Router { root: Node::new() }
    }

    /// Adds a pattern. Panics if it is invalid or already present with this method, since patterns
    /// are constants of the program.
    pub fn add(&mut self, method: Method, pattern: &str, payload: T) {
        let segments = pattern.strip_prefix('/');
        assert!(
            segments.is_some(),
            "a pattern must begin with a slash: {pattern}"
        );
        let mut node = &mut self.root;
        let mut names = Vec::new();
        let mut rest = false;
        for segment in segments
            .into_iter()
            .flat_map(|segments| segments.split('/'))
        {
            assert!(!rest, "a wildcard must end a pattern: {pattern}");
            if let Some(name) = segment.strip_prefix('*') {
                names.push(name.to_owned());
                rest = true;
            } else if let Some(name) = segment.strip_prefix('{') {
                names.push(name.trim_end_matches('}').to_owned());
                node = node.param.get_or_insert_with(|| Box::new(Node::new()));
            } else {
                node = node.literal(segment);
            }
        }
        let ends = if rest {
            &mut node.rests
        } else {
            &mut node.ends
        };
        assert!(
            ends.iter().all(|end| end.method != method),
            "duplicate pattern: {method} {pattern}"
        );
        ends.push(End {
            method,
            names,
            payload,
        });
    }

    /// Finds the pattern for a raw path.
    pub fn find<'r, 'p>(&'r self, method: Method, path: &'p str) -> RouteMatch<'r, 'p, T> {
        let Some(segments) = path.strip_prefix('/') else {
            return RouteMatch::NotFound;
        };
        let mut search = Search {
            method,
            values: Vec::new(),
            allowed: Vec::new(),
        };
        if let Some(end) = search.walk(&self.root, Some(segments)) {
            let params = search.values.iter().map(|raw| percent_decode(raw));
            return match params.collect() {
                Some(values) => {
                    let names = &end.names;
                    RouteMatch::Found(&end.payload, Params { names, values })
                }
                None => RouteMatch::NotFound,
            };
        }
        if search.allowed.is_empty() {
            RouteMatch::NotFound
        } else {
            RouteMatch::MethodNotAllowed(search.allowed)
        }
    }
}

impl<T> Default for Router<T> {
    fn default() -> Router<T> {
        Router::new()
    }
}

impl Params<'_, '_> {
    /// The value of a parameter; empty if the pattern has no such name.
    pub fn get(&self, name: &str) -> &str {
        let at = self.names.iter().position(|found| found == name);
        at.map_or("", |at| &self.values[at])
    }
}

impl<T> Node<T> {
    fn new() -> Node<T> {
        Node {
            literals: Vec::new(),
            param: None,
            ends: Vec::new(),
            rests: Vec::new(),
        }
    }

    fn literal(&mut self, segment: &str) -> &mut Node<T> {
        let at = self.literals.iter().position(|(text, _)| text == segment);
        let at = at.unwrap_or_else(|| {
            self.literals.push((segment.to_owned(), Node::new()));
            self.literals.len() - 1
        });
        &mut self.literals[at].1
    }
}

struct Search<'p> {
    method: Method,
    values: Vec<&'p str>,
    /// Methods of patterns that match except for the method.
    allowed: Vec<Method>,
}

impl<'p> Search<'p> {
    /// Walks the tree. `rest` is the path below this node, none at its end. The depth is bounded by
    /// the patterns.
    fn walk<'r, T>(&mut self, node: &'r Node<T>, rest: Option<&'p str>) -> Option<&'r End<T>> {
        let Some(rest) = rest else {
            return self.pick(&node.ends);
        };
        let (segment, below) = match rest.split_once('/') {
            Some((segment, below)) => (segment, Some(below)),
            None => (rest, None),
        };
        let literal = node.literals.iter().find(|(text, _)| text == segment);
        if let Some(end) = literal.and_then(|(_, child)| self.walk(child, below)) {
            return Some(end);
        }
        let depth = self.values.len();
        if let Some(child) = node.param.as_deref().filter(|_| !segment.is_empty()) {
            self.values.push(segment);
            if let Some(end) = self.walk(child, below) {
                return Some(end);
            }
            self.values.truncate(depth);
        }
        let end = self.pick(&node.rests)?;
        self.values.push(rest);
        Some(end)
    }

    fn pick<'r, T>(&mut self, ends: &'r [End<T>]) -> Option<&'r End<T>> {
        let end = ends.iter().find(|end| end.method == self.method);
        if end.is_none() {
            for end in ends {
                if !self.allowed.contains(&end.method) {
                    self.allowed.push(end.method);
                }
            }
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router() -> Router<&'static str> {
        let mut router = Router::new();
        for (method, pattern) in [
            (Method::Get, "/"),
            (Method::Get, "/api/health"),
            (Method::Get, "/api/collections/{collection}/records"),
            (Method::Post, "/api/collections/{collection}/records"),
            (Method::Get, "/api/collections/{collection}/records/{id}"),
            (Method::Post, "/api/collections/{collection}/records/bulk"),
            (Method::Delete, "/api/collections/{name}"),
            (Method::Get, "/files/*path"),
            (Method::Get, "/files/index"),
        ] {
            router.add(method, pattern, pattern);
        }
        router
    }

    fn check(method: Method, path: &str, expected: &str) {
        let router = router();
        let found = match router.find(method, path) {
            RouteMatch::Found(pattern, params) => {
                let values: Vec<&str> = params.values.iter().map(|value| &**value).collect();
                format!("{pattern} {values:?}")
            }
            RouteMatch::MethodNotAllowed(methods) => format!("{methods:?}"),
            RouteMatch::NotFound => "none".to_owned(),
        };
        assert_eq!(found, expected, "{method} {path}");
    }

    #[test]
    fn paths_are_matched_segment_by_segment() {
        let get = Method::Get;
        check(get, "/", "/ []");
        check(get, "/api/health", "/api/health []");
        check(get, "/api/health/", "none");
        check(get, "/api", "none");
        check(get, "", "none");
        check(get, "*", "none");
        let records = "/api/collections/{collection}/records";
        check(
            get,
            "/api/collections/posts/records",
            &format!("{records} [\"posts\"]"),
        );
        check(
            get,
            "/api/collections/posts/records/7",
            &format!("{records}/{{id}} [\"posts\", \"7\"]"),
        );
        check(get, "/api/collections//records", "none");
        check(get, "/api/collections/posts/records/", "none");
        check(get, "/api/collections/posts/records/7/8", "none");
    }

    #[test]
    fn methods_decide_among_patterns_that_match() {
        check(
            Method::Get,
            "/api/collections/posts/records/bulk",
            "/api/collections/{collection}/records/{id} [\"posts\", \"bulk\"]",
        );
        check(
            Method::Post,
            "/api/collections/posts/records/bulk",
            "/api/collections/{collection}/records/bulk [\"posts\"]",
        );
        check(
            Method::Put,
            "/api/collections/posts/records/bulk",
            "[Post, Get]",
        );
        check(Method::Put, "/api/collections/posts/records", "[Get, Post]");
        check(Method::Get, "/api/collections/posts", "[Delete]");
    }

    #[test]
    fn a_rest_takes_everything_else() {
        check(Method::Get, "/files/a/b%20c", "/files/*path [\"a/b c\"]");
        check(Method::Get, "/files/", "/files/*path [\"\"]");
        check(Method::Get, "/files/index", "/files/index []");
        check(Method::Get, "/files/index/x", "/files/*path [\"index/x\"]");
        check(Method::Get, "/files", "none");
        check(Method::Post, "/files/a", "[Get]");
    }

    #[test]
    fn parameters_are_decoded() {
        let router = router();
        let path = "/api/collections/a%2Fb/records/%00%c3%a9";
        let RouteMatch::Found(_, params) = router.find(Method::Get, path) else {
            panic!("no match");
        };
        assert_eq!(params.get("collection"), "a/b");
        assert_eq!(params.get("id"), "\0\u{e9}");
        assert_eq!(params.get("other"), "");
        check(Method::Delete, "/api/collections/%ff", "none");
    }
}
