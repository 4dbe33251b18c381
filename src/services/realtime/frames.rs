//! The frames of a WebSocket: JSON objects with their type in `t`.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::base::error::Error;
use crate::model::triggers::RecordAction;

/// Longest name of a subscription or a consumer group.
const NAME_BYTES_MAX: usize = 100;

/// A frame from a client.
#[derive(Debug)]
pub struct ClientFrame {
    /// Repeated in the answer; null if the client gave none.
    pub reference: Value,
    pub body: FrameRequest,
}

#[derive(Debug)]
pub enum FrameRequest {
    /// Signs in, or out if there is no token.
    Auth(Option<String>),
    Subscribe(Box<SubscribeRequest>),
    Unsubscribe(String),
    Ping,
}

/// A frame, or the reference to repeat and an error message.
pub type FrameResult = Result<ClientFrame, (Value, &'static str)>;

/// A request for a subscription.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct SubscribeRequest {
    /// The name that the client gives the subscription.
    #[serde(default)]
    pub sub: String,
    #[serde(default)]
    pub collection: String,
    /// Only changes of this record.
    pub id: Option<String>,
    #[serde(default)]
    pub filter: String,
    #[serde(default)]
    pub fields: String,
    #[serde(default)]
    pub expand: String,
    /// The consumer group: each event is sent to one of its members.
    pub group: Option<String>,
    /// The last event that the client has received.
    pub after: Option<String>,
}

impl SubscribeRequest {
    /// Bytes of all strings in it.
    pub fn bytes(&self) -> usize {
        let optional =
            [&self.id, &self.group, &self.after].map(|it| it.as_ref().map_or(0, String::len));
        let texts = [
            &self.sub,
            &self.collection,
            &self.filter,
            &self.fields,
            &self.expand,
        ];
        let texts = texts.map(|it| it.len());
        optional.iter().chain(&texts).sum()
    }
}

/// Parses a frame. An error carries the reference to repeat in the answer.
pub fn parse(text: &str) -> FrameResult {
    #[derive(Deserialize)]
    struct Head {
        #[serde(default)]
        t: String,
        #[serde(default, rename = "ref")]
        reference: Value,
        token: Option<String>,
        sub: Option<String>,
    }
    let invalid = |message| (Value::Null, message);
    let head: Head = serde_json::from_str(text)
        .map_err(|_| invalid("A frame must be a JSON object with a string field \"t\"."))?;
    let reference = match head.reference {
        value @ (Value::Null | Value::Number(_)) => value,
        Value::String(text) if text.len() <= NAME_BYTES_MAX => Value::String(text),
        _ => {
            return Err(invalid(
                "\"ref\" must be a number or a string of at most 100 bytes.",
            ));
        }
    };
    let refuse = |message| Err((reference.clone(), message));
    let body = match head.t.as_str() {
        "auth" => FrameRequest::Auth(head.token.filter(|token| !token.is_empty())),
        "unsubscribe" => FrameRequest::Unsubscribe(head.sub.unwrap_or_default()),
        "ping" => FrameRequest::Ping,
        "subscribe" => match serde_json::from_str::<SubscribeRequest>(text) {
            Ok(request) => {
                let is_bad = |name: &String| name.is_empty() || name.len() > NAME_BYTES_MAX;
                if is_bad(&request.sub) || request.group.as_ref().is_some_and(is_bad) {
                    return refuse("\"sub\" and \"group\" must have 1 to 100 bytes.");
                }
                FrameRequest::Subscribe(Box::new(request))
            }
            Err(_) => {
                return refuse(
                    "A subscription needs \"sub\" and \"collection\"; its options must be strings.",
                );
            }
        },
        _ => return refuse("Unknown frame type."),
    };
    Ok(ClientFrame { reference, body })
}

/// The first frame.
pub fn welcome(resume_ms: u128) -> String {
    json!({"t": "welcome", "resume_ms": resume_ms}).to_string()
}

/// A request has succeeded.
pub fn ok(reference: &Value) -> String {
    json!({"t": "ok", "ref": reference}).to_string()
}

/// A subscription is active for all changes committed from now on. `last` is the event before them.
pub fn subscribed(reference: &Value, sub: &str, last: &str) -> String {
    json!({"t": "ok", "ref": reference, "sub": sub, "last": last}).to_string()
}

/// A request has failed.
pub fn refused(reference: &Value, error: &Error) -> String {
    let (status, message) = (error.kind().status(), error.message());
    json!({"t": "no", "ref": reference, "status": status, "message": message}).to_string()
}

/// Events may be missing: the client must read the records again.
pub fn resync(sub: &str, last: &str) -> String {
    json!({"t": "resync", "sub": sub, "last": last}).to_string()
}

/// A subscription has ended with an error.
pub fn ended(sub: &str, error: &Error) -> String {
    let (status, message) = (error.kind().status(), error.message());
    json!({"t": "ended", "sub": sub, "status": status, "message": message}).to_string()
}

/// A change. `record` is JSON.
pub fn event(sub: &str, id: &str, action: RecordAction, record: &str) -> String {
    // `{:?}` of a string is not JSON. Encoding the name is cheap; the record is not encoded again.
    let sub = Value::from(sub);
    format!(r#"{{"t":"event","sub":{sub},"id":"{id}","action":"{action}","record":{record}}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_and_what_is_none_is_told_with_its_ref() {
        let frame = parse(r#"{"t":"subscribe","ref":7,"sub":"a","collection":"posts","new":1}"#);
        let ClientFrame { reference, body } = frame.unwrap();
        assert!(
            reference == 7
                && matches!(body, FrameRequest::Subscribe(request) if request.collection == "posts")
        );
        assert!(matches!(
            parse(r#"{"t":"auth","token":""}"#).unwrap().body,
            FrameRequest::Auth(None)
        ));
        for (text, reference) in [
            ("", Value::Null),
            ("[]", Value::Null),
            (r#"{"t":"auth","ref":{}}"#, Value::Null),
            (r#"{"t":"nonsense","ref":"r"}"#, json!("r")),
            (
                r#"{"t":"subscribe","ref":1,"collection":"posts"}"#,
                json!(1),
            ),
            (
                r#"{"t":"subscribe","ref":1,"sub":"a","group":""}"#,
                json!(1),
            ),
            (
                r#"{"t":"subscribe","ref":1,"sub":"a","filter":2}"#,
                json!(1),
            ),
        ] {
            assert_eq!(parse(text).unwrap_err().0, reference, "{text}");
        }
    }

    #[test]
    fn events_are_json_whatever_the_name() {
        let text = event("a\"\u{1}b", "e.1", RecordAction::Update, r#"{"id":"x"}"#);
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["sub"], "a\"\u{1}b");
        assert_eq!(
            (&json["action"], &json["record"]["id"]),
            (&json!("update"), &json!("x"))
        );
    }
}
