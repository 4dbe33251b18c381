//! The language of filters, rules and sorts: lexer, parser and syntax tree. It is independent of
//! SQL and of collections; `records::query` turns a tree into SQL.
//!
//! ```text
//! or         = and { ("||" | OR) and }
//! and        = not { ("&&" | AND) not }
//! not        = (NOT | "!") not | "(" or ")" | comparison
//! comparison = operand op operand | operand [NOT] IN "(" literal {"," literal} ")"
//!            | operand IS [NOT] NULL
//! op         = "=" | "==" | "!=" | "<>" | ">" | ">=" | "<" | "<=" | "~" | "!~", each also after
//!              "?", which means: any of several values, where the plain form means all of them
//! operand    = string in '' or "" | number | true | false | null | path
//!            | function "(" operand {"," operand} ")"
//! path       = ["@"] name [":" modifier] {"." name [":" modifier]}
//! ```
//!
//! `//` begins a comment, which ends with the line.
//!
//! Inside a string `\'`, `\"` and `\\` stand for the second character, and a doubled quote for one
//! quote. Keywords are case-insensitive. Bounds: `parser::{BYTES_MAX, COMPARISONS_MAX, DEPTH_MAX}`.

pub use parser::{parse, parse_sort, parse_within};
pub use parts::{FilterPart, FilterPartKind, parts, replace};
pub use tree::{COLLECTION, Comparison, Expr, Function, Literal, Op, Operand, REQUEST, SortTerm};

mod lexer;
mod parser;
mod parts;
#[cfg(test)]
mod tests;
mod tree;
