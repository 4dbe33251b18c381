//! What is kept: databases, files of records, facts about this server and its replicas.

pub mod db;
pub mod files;
pub mod node;
pub mod replicas;
