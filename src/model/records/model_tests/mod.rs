//! Tests records against a second, naive implementation (the model) on random input.
//!
//! `world` generates collections and records of every type and keeps them as plain Rust values;
//! `store` writes the same to a real database. `callers` are the identities of requests, `grants`
//! their access. `model` evaluates conditions as documented in `query` and `filter`, without their
//! code, with `compare` for single values, `rows` for the rows that comparisons share and `request`
//! for `@request` paths; `show` computes responses, `writes` and `values` the results of changes,
//! `column_access` the columns that a condition names. `filters`, `bodies` and `fuzz_inputs`
//! generate requests. The tests:
//!
//! - `fuzz`: any text parses quickly and without harm, and the SQL compiled from it reads only what
//!   its author may see.
//! - `lists`: single records and pages for every caller, under random filters, sorts, rules, field
//!   rules, fields and expansions.
//! - `view`: changes as subscribers see them, compared with lists.
//! - `sequences`: random creates, updates and deletes by every caller, under random rules and field
//!   rules; no relation ever dangles.
//!
//! A failure prints the seed that replays it, see `tests::rng`.

mod bodies;
mod callers;
mod column_access;
mod compare;
mod filters;
mod fuzz;
mod fuzz_inputs;
mod grants;
mod lists;
mod literals;
mod model;
mod request;
mod rows;
mod sequences;
mod show;
mod store;
mod values;
mod view;
mod world;
mod writes;
