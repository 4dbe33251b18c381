//! Renaming of collections and fields: everything in the database that mentions a name follows.
//!
//! A collection or field is the same as before if its id is, whatever its name. [`Renames`] has the
//! names that differ. `definition` rewrites the definitions that mention them, with `paths` (rules,
//! filters and sorts) and `statement` (SQL of views), by the places of names in the text. `tables`
//! renames tables and columns. `references` has the rows elsewhere: webhooks, API keys, and the
//! jobs whose scripts cannot be rewritten and refuse a rename.
//!
//! All of it happens in the transaction that changes the tables, or is derived from it.

pub use definition::Renamer;
pub use names::{NamePair, REFUSED, Renames};

mod definition;
mod names;
mod paths;
pub mod references;
mod statement;
pub mod tables;
#[cfg(test)]
mod tests;
