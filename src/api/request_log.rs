//! The last requests, kept in memory.
//!
//! A ring of [`REQUESTS_MAX`] requests, of at most 1 KiB each; a restart empties it. It holds no
//! query strings, headers with credentials or bodies, so no tokens; of a path with a token in it,
//! it holds the pattern.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
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

/// The last requests. The slots are used in turns, each with the memory of its last text, so that a
/// request waits for no other and allocates nothing.
pub struct RequestLog {
    slots: Box<[Mutex<LoggedRequest>]>,
    /// Requests so far; the next one takes the slot of this number modulo [`REQUESTS_MAX`].
    count: AtomicUsize,
}

/// A slot; one without an id is empty.
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

impl Default for RequestLog {
    fn default() -> RequestLog {
        let empty = LoggedRequest {
            id: String::new(),
            created_ms: 0,
            method: Method::Get,
            path: String::new(),
            status: 0,
            took: Duration::ZERO,
            peer: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            client: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            user_agent: String::new(),
        };
        RequestLog {
            slots: (0..REQUESTS_MAX)
                .map(|_| Mutex::new(empty.clone()))
                .collect(),
            count: AtomicUsize::new(0),
        }
    }
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
        let at = self.count.fetch_add(1, Ordering::Relaxed) % REQUESTS_MAX;
        let mut slot = lock(&self.slots[at]);
        replace(&mut slot.id, request.id.as_str());
        replace(&mut slot.path, pattern.unwrap_or(&request.path));
        let user_agent = request.header("User-Agent").unwrap_or_default();
        replace(&mut slot.user_agent, user_agent);
        slot.created_ms = clock::now_ms();
        slot.method = request.method;
        slot.status = status;
        slot.took = took;
        slot.peer = request.peer.ip().to_canonical();
        slot.client = client;
    }

    /// Forgets all requests.
    pub fn clear(&self) {
        self.slots.iter().for_each(|slot| lock(slot).id.clear());
    }

    /// The requests as PocketBase shows them, newest first.
    pub fn entries(&self) -> Vec<Value> {
        let next = self.count.load(Ordering::Relaxed) % REQUESTS_MAX;
        let (newer, older) = self.slots.split_at(next);
        let newest_first = newer.iter().rev().chain(older.iter().rev());
        let kept = newest_first.map(|slot| lock(slot).clone());
        let is_used = |slot: &LoggedRequest| !slot.id.is_empty();
        kept.filter(is_used).map(|slot| slot.to_json()).collect()
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

/// Replaces a text by at most [`TEXT_BYTES_MAX`] bytes of another.
fn replace(text: &mut String, by: &str) {
    text.clear();
    let mut ends = (0..=TEXT_BYTES_MAX.min(by.len())).rev();
    let end = ends.find(|at| by.is_char_boundary(*at));
    text.push_str(&by[..end.unwrap_or(0)]);
}
