//! The last requests, kept in memory.
//!
//! A ring of [`REQUESTS_MAX`] requests, of at most 1 KiB each; a restart empties it. It holds no
//! query strings, headers with credentials or bodies, so no tokens; of a path with a token in it,
//! it holds the pattern.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};

use crate::base::clock;
use crate::base::threads::lock;
use crate::net::http::{Method, Request};

/// Largest number of requests that are kept.
pub const REQUESTS_MAX: usize = 1000;
/// Longest path and longest name of a program, in bytes.
const TEXT_BYTES_MAX: usize = 300;
/// Levels of PocketBase: information, warning, error.
const LEVELS: [i64; 3] = [0, 4, 8];

/// The last requests, oldest first.
#[derive(Default)]
pub struct RequestLog(Mutex<VecDeque<LoggedRequest>>);

#[derive(Clone)]
struct LoggedRequest {
    id: String,
    created_ms: i64,
    method: Method,
    path: String,
    status: u16,
    took: Duration,
    peer: IpAddr,
    client: IpAddr,
    user_agent: String,
}

impl RequestLog {
    /// Adds a request. `pattern` replaces a path that must not be kept.
    pub fn add(
        &self,
        request: &Request,
        pattern: Option<&str>,
        status: u16,
        took: Duration,
        client: IpAddr,
    ) {
        let logged = LoggedRequest {
            id: request.id.as_str().to_owned(),
            created_ms: clock::now_ms(),
            method: request.method,
            path: shortened(pattern.unwrap_or(&request.path)),
            status,
            took,
            peer: request.peer.ip().to_canonical(),
            client,
            user_agent: shortened(request.header("User-Agent").unwrap_or_default()),
        };
        let mut ring = lock(&self.0);
        if ring.len() >= REQUESTS_MAX {
            ring.pop_front();
        }
        ring.push_back(logged);
    }

    /// Forgets all requests.
    pub fn clear(&self) {
        lock(&self.0).clear();
    }

    /// The requests as PocketBase shows them, newest first.
    pub fn entries(&self) -> Vec<Value> {
        let kept: Vec<LoggedRequest> = lock(&self.0).iter().rev().cloned().collect();
        kept.iter().map(LoggedRequest::to_json).collect()
    }
}

impl LoggedRequest {
    fn to_json(&self) -> Value {
        let level = match self.status {
            500.. => LEVELS[2],
            400.. => LEVELS[1],
            _ => LEVELS[0],
        };
        json!({
            "id": self.id,
            "created": clock::format_ms(self.created_ms),
            "level": level,
            "message": format!("{} {}", self.method, self.path),
            "data": {
                "type": "request",
                "method": self.method.as_str(),
                "url": self.path,
                "status": self.status,
                "execTime": self.took.as_secs_f64() * 1000.0,
                "remoteIP": self.peer.to_string(),
                "userIP": self.client.to_string(),
                "userAgent": self.user_agent,
                "referer": "",
                "auth": "",
            },
        })
    }
}

fn shortened(text: &str) -> String {
    let end = (0..=TEXT_BYTES_MAX.min(text.len())).rev();
    let end = end.into_iter().find(|at| text.is_char_boundary(*at));
    text[..end.unwrap_or(0)].to_owned()
}
