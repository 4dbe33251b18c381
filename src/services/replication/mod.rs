//! Replication of databases: replicas pull changed pages from the master. `docs/replication.md`
//! describes the protocol and its guarantees.
//!
//! On the master, `source` numbers the versions of one database and `master` answers requests with
//! `wire` streams, which `spool` stores. On a replica, `client` sends the requests (`messages` are
//! their bodies), `follower` updates one database (`bootstrap` creates it from nothing),
//! `sync_loop` updates all of them, `positions` stores how far each one is, and `replica` reports
//! it. `notifications` tells a replica about changes at once. `file_sync` follows the journal of
//! files with the threads of `downloads`. `comparison` finds the pages that differ.
//!
//! A replica verifies everything it receives. Every stream ends with a hash of its content, and
//! after a replica applies a stream, the checksum of all pages must equal the master's. When the
//! two sides cannot know that they share a history (after an epoch change, a crash or damage to a
//! file), they compare hashes of pages, and the master sends what differs.

mod bootstrap;
mod client;
pub mod comparison;
pub mod downloads;
mod epoch;
pub mod file_sync;
mod follower;
pub mod master;
mod messages;
pub mod notifications;
pub mod positions;
pub mod replica;
mod source;
pub mod spool;
mod sync_loop;
mod wire;

pub use client::MasterClient;
pub use epoch::Epoch;
pub use master::Master;
pub use notifications::Notifier;
pub use replica::Replica;
pub use sync_loop::SyncLoop;
