//! Records against a second, naive implementation, on random input.
//!
//! `world` makes collections and records of every type and keeps them as plain Rust values;
//! `store` puts the same into a real database. `callers` are those who ask, `grants` what they may
//! do. `model` says which records a condition means, by the words of `query` and `filter` and
//! without their code, with `compare` for single values and `request` for what a request brings;
//! `show` says what an answer looks like, `writes` and `values` what a change leads to, `column_access` which columns a
//! condition speaks of. `filters`, `bodies` and `fuzz_inputs` make what is asked. The tests:
//!
//! - `fuzz`: whatever the text, reading it is quick and harmless, and the SQL made from it touches
//!   only what its author may see.
//! - `lists`: single records and pages of them, for anybody, under random filters, sorts, rules,
//!   field rules, fields and expansions.
//! - `view`: what subscribers are shown of changes, against lists.
//! - `sequences`: random creates, changes and deletions by anybody, under random rules and field
//!   rules; no relation ever dangles.
//!
//! A failure prints the seed that replays it: see `tests::rng`.

mod bodies;
mod callers;
mod column_access;
mod compare;
mod filters;
mod fuzz;
mod fuzz_inputs;
mod grants;
mod lists;
mod model;
mod request;
mod sequences;
mod show;
mod store;
mod values;
mod view;
mod world;
mod writes;
