//! Storage: databases, files of records, settings of this node, known replicas.

pub mod db;
pub mod files;
pub mod node;
pub mod replicas;
