//! Tests of the whole server from within: a master and its replicas in one process, where a test
//! can do to a database what no request can.
//!
//! - `replication`: random changes of every kind while replicas follow and readers read.
//! - `cluster`: nodes that are started, stopped and given other data.
//! - `rng`: seeded random numbers, and rounds that can be replayed.

mod cluster;
mod replication;
pub mod rng;
