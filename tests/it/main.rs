//! The one test target: the built program, met as its users meet it.
//!
//! Every test starts its own server on its own directory and a free port of the loopback, and ends
//! it when it is done. What belongs where:

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

/// Commands, options, and what they print.
mod cli;
/// Databases, collections and records over REST, and their refusals.
mod data;
/// Hostile clients: bodies, headers, connections, slow peers.
mod limits;
/// A stop is prompt, work in flight ends, the exit code, the second signal.
mod shutdown;
/// Rules about the source itself.
mod tidy;
