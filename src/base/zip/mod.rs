//! Zip archives, read and written as far as backups need them; a crate of six packages would do it
//! otherwise.

mod format;
mod read;
mod write;

pub use read::Zip;
pub use write::ZipWriter;
