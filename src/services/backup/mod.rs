//! Backups of a data directory: create, verify and restore, also while a server runs.
//!
//! A backup is a directory:
//!
//! ```text
//! manifest.json         the current state and the hashes of its parts; replaced last, atomically
//! state-TIME/           each database as one file, and the secret
//! storage/              files of records, under the same paths as in the data directory
//! backup.lock           excludes concurrent backups, restores and checks
//! ```
//!
//! The next backup into the directory writes a new state beside the current one and adds files to
//! the storage. A file never changes under its name, so existing files serve both states. Then it
//! replaces the manifest, and finally removes the old state and unreferenced files. At every point
//! in between, the manifest names a complete state with all of its files.
//!
//! Each database is copied page by page from one read transaction. No writer waits for it, and it
//! ends even if writes never stop. The transaction is as short as possible, because the WAL cannot
//! be reset meanwhile.
//!
//! Files and databases agree because the files that a transaction sees are copied while it is open,
//! before its pages. Nearly all of them are copied before it begins, so this is quick. If one of
//! the rest has disappeared because its record was deleted since, the transaction is abandoned and
//! another one is opened.
//!
//! The databases agree with each other by the order of copies. A collection of a tenant has its
//! table there and its definition in `default.db`, which is copied after all tenants; tenants whose
//! definitions have changed since their copy are copied again before it. `local.db` is copied
//! before them and `workflows.db` after: work that `local.db` records as queued is then in
//! `workflows.db`; work that it does not record yet is queued again under the same key.

mod archive;
mod archives;
mod copy;
mod create;
mod directory;
mod file;
mod manifest;
pub mod missing;
mod owner;
pub mod restore;
mod source;
pub mod verify;

pub use archives::Archives;
pub use copy::BackupJob;
pub use create::run;
