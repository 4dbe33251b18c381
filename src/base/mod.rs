//! The foundation: errors, time, logging, threads, budgets. No module here knows a database or a
//! socket.

pub mod backoff;
pub mod budget;
pub mod clock;
pub mod crypto;
pub mod error;
pub mod failpoints;
pub mod http_client;
pub mod ids;
pub mod json;
pub mod jws;
pub mod log;
pub mod lru;
pub mod malloc;
pub mod memory;
pub mod paging;
pub mod queue;
pub mod signal;
pub mod threads;
pub mod tls;
pub mod zip;
