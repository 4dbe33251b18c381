//! Replication of databases: replicas pull from the master what has changed, page by page
//! (REP-1 to REP-5; how it works and what it promises: `docs/replication.md`).
//!
//! On the master `source` numbers the states of one database, `master` answers with `wire` streams that
//! `spool` keeps. On a replica `client` asks, `follower` brings one database along
//! (`whole` from nothing), `cycle` all of
//! them, `positions` remembers how far each has come and `replica` tells it. `wakeup` is how it hears
//! of changes at once. `files` follows the journal of files, with the threads of `downloads`.
//!
//! A replica trusts nothing that it cannot check: every stream has a hash over all of it, and after
//! applying it the checksum over all pages must be the master's. Whenever the two cannot know that they
//! talk about the same history (another epoch, a crash, a damaged file) they compare hashes of pages,
//! and what differs is sent.

mod bootstrap;
mod client;
pub mod comparison;
pub mod downloads;
mod epoch;
pub mod file_sync;
mod follower;
pub mod master;
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
