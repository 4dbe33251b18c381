//! The language of filters, rules and sorts: lexer, parser, syntax tree. It knows no SQL and no
//! collection; `records::query` gives a tree its meaning.
//!
//! ```text
//! or         = and { ("||" | OR) and }
//! and        = not { ("&&" | AND) not }
//! not        = (NOT | "!") not | "(" or ")" | comparison
//! comparison = operand op operand | operand [NOT] IN "(" literal {"," literal} ")"
//!            | operand IS [NOT] NULL
//! op         = "=" | "==" | "!=" | "<>" | ">" | ">=" | "<" | "<=" | "~" | "!~", each also after
//!              "?", which means: any of several values, where the plain form means all of them
//! operand    = text in '' or "" | number | true | false | null | path | @path
//! ```
//!
//! Inside a text `\'`, `\"` and `\\` stand for the second character and a doubled quote for one.
//! Words are recognised in any case. Bounds: `parser::{BYTES_MAX, COMPARISONS_MAX, DEPTH_MAX}`.

pub use parser::{parse, parse_sort, parse_within};
pub use tree::{Comparison, Expr, Literal, Op, Operand, REQUEST, SortTerm};

mod lexer;
mod parser;
#[cfg(test)]
mod tests;
mod tree;
