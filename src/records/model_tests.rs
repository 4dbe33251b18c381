//! Records against a second, naive implementation, on random input.
//!
//! `world` makes collections and records of every type and keeps them as plain Rust values;
//! `store` puts the same into a real database. `model` says which records a condition means, by
//! the words of `query` and `filter` and without their code; `show` what an answer looks like;
//! `writes` what a change leads to. The tests:
//!
//! - `fuzz`: whatever the text, reading it is quick and harmless, and the SQL made from it touches
//!   only what its author may see.
//! - `lists`: pages of records under random filters, sorts, rules, fields and expansions.
//! - `sequences`: random creates, changes and deletions; no relation ever dangles.
//!
//! A failure prints the seed that replays it: see `rng`.

mod filters;
mod fuzz;
mod lists;
mod model;
mod rng;
mod sequences;
mod show;
mod soup;
mod store;
mod world;
mod writes;
