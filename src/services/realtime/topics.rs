//! The protocol of PocketBase over server-sent events, as its SDK speaks it.
//!
//! Topics are `posts/*` and `posts/RECORD_ID`, each optionally followed by
//! `?options={"query": {filter, fields, expand}}`. Written from the public documentation
//! (<https://pocketbase.io/docs/api-realtime/>).

use serde::Deserialize;

use super::frames::SubscribeRequest;
use crate::base::error::{Error, Result};
use crate::model::triggers::RecordAction;

const TOPIC_BYTES_MAX: usize = 2500;

/// A subscription of a client.
#[derive(Debug)]
pub struct Topic {
    /// The topic is also the name of the subscription, and events carry it.
    pub request: SubscribeRequest,
}

impl Topic {
    /// Parses a topic. `decode` decodes percent-encoding.
    pub fn parse(text: &str, decode: impl Fn(&str) -> Option<String>) -> Result<Topic> {
        #[derive(Default, Deserialize)]
        struct Options {
            #[serde(default)]
            query: Query,
        }
        #[derive(Default, Deserialize)]
        struct Query {
            #[serde(default)]
            filter: String,
            #[serde(default)]
            fields: String,
            #[serde(default)]
            expand: String,
        }
        let is_line = !text.is_empty() && !text.contains(['\n', '\r']);
        if !is_line || text.len() > TOPIC_BYTES_MAX {
            return Err(invalid(text));
        }
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        let options = query.split('&').find_map(|it| it.strip_prefix("options="));
        let options: Options = match options {
            None => Options::default(),
            Some(raw) => decode(raw)
                .and_then(|text| serde_json::from_str(&text).ok())
                .ok_or_else(|| invalid(text))?,
        };
        let (collection, id) = match path.split_once('/') {
            None | Some((_, "*" | "")) => (path.split('/').next().unwrap_or(path), None),
            Some((collection, id)) => (collection, Some(id.to_owned())),
        };
        Ok(Topic {
            request: SubscribeRequest {
                sub: text.to_owned(),
                collection: collection.to_owned(),
                id,
                filter: options.query.filter,
                fields: options.query.fields,
                expand: options.query.expand,
                ..SubscribeRequest::default()
            },
        })
    }
}

fn invalid(topic: &str) -> Error {
    let start: String = topic.chars().take(100).collect();
    Error::field(
        "subscriptions",
        "validation_invalid_value",
        format!("Invalid topic {start:?}."),
    )
}

/// The first event.
pub fn connected(client: &str) -> String {
    format!("id:{client}\nevent:PB_CONNECT\ndata:{{\"clientId\":\"{client}\"}}\n\n")
}

/// The topic on which a client waits for the code of its sign-in with a provider.
pub const SIGN_IN: &str = "@oauth2";

/// The code of a sign-in. `message` is JSON.
pub fn sign_in(message: &str) -> String {
    format!("event:{SIGN_IN}\ndata:{message}\n\n")
}

/// A change. `record` is JSON.
pub fn event(topic: &str, action: RecordAction, record: &str) -> String {
    let record = match record.contains(['\n', '\r']) {
        // Line breaks can occur in json fields, but only between tokens. Data must be one line.
        true => record.replace(['\n', '\r'], " "),
        false => record.to_owned(),
    };
    format!("event:{topic}\ndata:{{\"action\":\"{action}\",\"record\":{record}}}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<SubscribeRequest> {
        Topic::parse(text, |raw| Some(raw.replace("%22", "\""))).map(|topic| topic.request)
    }

    #[test]
    fn topics_are_those_of_the_sdk() {
        let request = parse("posts/*").unwrap();
        assert_eq!((request.collection.as_str(), request.id), ("posts", None));
        let request =
            parse("posts/abc?options={%22query%22:{%22expand%22:%22a%22},%22headers%22:{}}");
        let request = request.unwrap();
        assert_eq!(
            (request.id.as_deref(), request.expand.as_str()),
            (Some("abc"), "a")
        );
        assert_eq!(parse("posts").unwrap().id, None);
        for wrong in ["", "a\nb", "posts/*?options=nonsense", &"x".repeat(3000)] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_event_is_one_line_of_data() {
        let text = event("posts/*", RecordAction::Create, "{\"j\":{\n\"a\":1}}");
        assert_eq!(text.lines().count(), 3);
        assert!(text.ends_with("}}}\n\n") && text.starts_with("event:posts/*\ndata:{\"action\":"));
    }
}
