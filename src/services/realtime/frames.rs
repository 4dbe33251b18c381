//! The frames of a WebSocket: JSON objects with their type in `t`.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::base::error::Error;
use crate::model::triggers::RecordAction;

/// Longest name of a subscription or a group.
const NAME_BYTES_MAX: usize = 100;

/// What a client says.
#[derive(Debug)]
pub struct ClientFrame {
    /// Repeated in the answer; null when there was none.
    pub reference: Value,
    pub body: FrameBody,
}

#[derive(Debug)]
pub enum FrameBody {
    /// Signs in; without a token, out.
    Auth(Option<String>),
    Subscribe(Box<SubscribeRequest>),
    Unsubscribe(String),
    Ping,
}

/// A frame, or what is wrong with it.
pub type FrameResult = Result<ClientFrame, (Value, &'static str)>;

/// What a client wants to hear of.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct SubscribeRequest {
    /// Its name for it.
    #[serde(default)]
    pub sub: String,
    #[serde(default)]
    pub collection: String,
    /// One record.
    pub id: Option<String>,
    #[serde(default)]
    pub filter: String,
    #[serde(default)]
    pub fields: String,
    #[serde(default)]
    pub expand: String,
    /// Shares the events with others of this name (RT-5).
    pub group: Option<String>,
    /// The last event that it knows of.
    pub after: Option<String>,
}

impl SubscribeRequest {
    /// Bytes of all that it says.
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

/// Reads a frame; what is wrong with it comes with what an answer repeats.
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
    let wrong = |what| (Value::Null, what);
    let head: Head = serde_json::from_str(text)
        .map_err(|_| wrong("A frame is a JSON object with its type in t, and texts are texts."))?;
    let reference = match head.reference {
        value @ (Value::Null | Value::Number(_)) => value,
        Value::String(text) if text.len() <= NAME_BYTES_MAX => Value::String(text),
        _ => return Err(wrong("A ref is a number or a short text.")),
    };
    let refuse = |what| Err((reference.clone(), what));
    let body = match head.t.as_str() {
        "auth" => FrameBody::Auth(head.token.filter(|token| !token.is_empty())),
        "unsubscribe" => FrameBody::Unsubscribe(head.sub.unwrap_or_default()),
        "ping" => FrameBody::Ping,
        "subscribe" => match serde_json::from_str::<SubscribeRequest>(text) {
            Ok(request) => {
                let is_bad = |name: &String| name.is_empty() || name.len() > NAME_BYTES_MAX;
                if is_bad(&request.sub) || request.group.as_ref().is_some_and(is_bad) {
                    return refuse("sub and group are texts of 1 to 100 bytes.");
                }
                FrameBody::Subscribe(Box::new(request))
            }
            Err(_) => return refuse("A subscription says sub, collection and texts."),
        },
        _ => return refuse("There is no frame of this type."),
    };
    Ok(ClientFrame { reference, body })
}

/// The first frame.
pub fn welcome(resume_ms: u128) -> String {
    json!({"t": "welcome", "resume_ms": resume_ms}).to_string()
}

/// What was asked for is so.
pub fn ok(reference: &Value) -> String {
    json!({"t": "ok", "ref": reference}).to_string()
}

/// A subscription holds for all that is committed from now on; `last` stands for what was before.
pub fn subscribed(reference: &Value, sub: &str, last: &str) -> String {
    json!({"t": "ok", "ref": reference, "sub": sub, "last": last}).to_string()
}

/// What was asked for is refused.
pub fn refused(reference: &Value, error: &Error) -> String {
    let (status, message) = (error.kind().status(), error.message());
    json!({"t": "no", "ref": reference, "status": status, "message": message}).to_string()
}

/// Events may be missing: what the client has of the records is to be read again.
pub fn resync(sub: &str, last: &str) -> String {
    json!({"t": "resync", "sub": sub, "last": last}).to_string()
}

/// A subscription has ended, and why.
pub fn ended(sub: &str, error: &Error) -> String {
    let (status, message) = (error.kind().status(), error.message());
    json!({"t": "ended", "sub": sub, "status": status, "message": message}).to_string()
}

/// A change; `record` is JSON.
pub fn event(sub: &str, id: &str, action: RecordAction, record: &str) -> String {
    // Texts in front are short, and `{:?}` is no JSON.
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
                && matches!(body, FrameBody::Subscribe(request) if request.collection == "posts")
        );
        assert!(matches!(
            parse(r#"{"t":"auth","token":""}"#).unwrap().body,
            FrameBody::Auth(None)
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
