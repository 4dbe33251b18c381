//! Every bound of the server, as plain values, and the calls it makes to its owner.
//!
//! New file. Upstream has no limits.

use std::io;
use std::time::Duration;

use crate::request::HeadView;
use crate::sink::{Destination, Meter};

/// Bounds on the resources and time that a peer can use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Live connections. A newcomer above it makes room at the cost of the longest-waiting one.
    pub max_connections: usize,
    /// Requests of one connection that are parsed but not answered yet.
    pub max_unanswered: usize,
    /// Bytes of a request line and headers together.
    pub head_bytes_max: usize,
    /// Header lines of one request.
    pub headers_max: usize,
    /// Bytes of a body that is read before the request is delivered; a longer one is delivered unread.
    pub body_buffer_max: usize,
    /// Bytes of each body that no meter counts, so that stalled large bodies leave room for small ones.
    pub body_free: usize,
    /// Bytes of all answers together that peers have not taken yet.
    pub answer_budget: usize,
    /// Threads that write what a socket did not take at once.
    pub max_writers: usize,
    /// Time that a connection may stay open between requests.
    pub idle_time: Duration,
    /// Time from the first byte of a request to the end of its headers.
    pub head_time: Duration,
    /// Bytes that a body must bring, or a peer must take of an answer, in each `progress_time`.
    pub progress_bytes: usize,
    /// The window for `progress_bytes`.
    pub progress_time: Duration,
    /// The same window while other answers wait for a writer.
    pub contended_time: Duration,
    /// Longest single wait on a socket; the precision of the times above.
    pub slice: Duration,
    /// Bytes read and discarded after a malformed request, before the connection is closed.
    pub drain_bytes: usize,
    /// The same for a body that was not read.
    pub drain_body_bytes: usize,
    /// Time for discarding.
    pub drain_time: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_connections: 1024,
            max_unanswered: 4,
            head_bytes_max: 64 << 10,
            headers_max: 100,
            body_buffer_max: 4 << 20,
            body_free: 16 << 10,
            answer_budget: 64 << 20,
            max_writers: 256,
            // Longer than the 60 s after which nginx and the load balancers of clouds stop using a connection: when both
            // ends have the same time, one closes while the other sends.
            idle_time: Duration::from_secs(75),
            head_time: Duration::from_secs(10),
            progress_bytes: 16 << 10,
            progress_time: Duration::from_secs(30),
            contended_time: Duration::from_secs(1),
            slice: Duration::from_secs(5),
            drain_bytes: 64 << 10,
            drain_body_bytes: 256 << 20,
            drain_time: Duration::from_secs(2),
        }
    }
}

/// The owner's part in the work of the server. The calls come from the server's threads and must not block, except `body`
/// and `meter`.
pub struct Hooks {
    /// The whole answer, head and body, to a request that is refused with this status before it could be delivered
    /// (400, 408, 417, 431, 500, 503, 505). It must say `Connection: close`.
    pub refusal: Box<dyn Fn(u16) -> Vec<u8> + Send + Sync>,
    /// A connection could not be accepted or given a thread. Called for each failure; limit the rate yourself.
    pub accept_failed: Box<dyn Fn(&io::Error) + Send + Sync>,
    /// Where the body of a request goes. Called for each body that is not empty, by a thread in `recv()` before any
    /// of it is read; what it waits for is waited for by that thread.
    pub body: Box<dyn Fn(&HeadView<'_>) -> Destination + Send + Sync>,
    /// True if the answer to this `GET`, which has no body and asks for no WebSocket, may have no end. Then nothing
    /// can follow it on the connection, and the request may be upgraded.
    pub endless: Box<dyn Fn(&HeadView<'_>) -> bool + Send + Sync>,
    /// Makes the meter that counts the memory of a body. Called for each body in memory that is longer than
    /// `Limits::body_free`, as soon as it is, by a thread in `recv()`. It may block, as `body` may.
    pub meter: Box<dyn Fn(&HeadView<'_>) -> Box<dyn Meter> + Send + Sync>,
}

/// Totals since the start, except `connections`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Connections open now.
    pub connections: usize,
    /// Connections accepted.
    pub accepted: u64,
    /// Requests delivered.
    pub requests: u64,
    /// Requests refused before delivery.
    pub refused: u64,
    /// Connections closed to make room for a newcomer.
    pub evicted: u64,
    /// Connections closed because the peer was too slow in sending or taking.
    pub slow_closed: u64,
    /// Newcomers turned away because every connection had a request in hand.
    pub turned_away: u64,
    /// Failures to accept a connection or to start a thread for it.
    pub accept_errors: u64,
    /// Bytes of answers that peers have not taken yet.
    pub answer_bytes: usize,
}
