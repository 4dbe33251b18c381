//! The rows that the `?` comparisons of a condition share, written from the documentation: a
//! condition holds if one choice of rows meets all of it. A NOT has a choice of its own.

use super::compare::Scalar;

/// A row of a path: a record by its position in its table, or a value of a list.
#[derive(Clone, Debug)]
pub enum Row {
    Record(Option<usize>),
    Value(Scalar),
}

/// The rows chosen so far, by the names of their paths.
#[derive(Debug, Default)]
pub struct Rows {
    is_on: bool,
    pub chosen: Vec<(String, Row)>,
    /// The first path whose row is not chosen yet, and the rows that it has.
    pub wanted: Option<(String, Vec<Row>)>,
}

impl Rows {
    pub fn shared() -> Rows {
        Rows {
            is_on: true,
            ..Rows::default()
        }
    }

    /// The rows to look at, of all that a path has; none until one is chosen.
    pub fn narrow(&mut self, key: &str, all: Vec<Row>) -> Vec<Row> {
        if !self.is_on {
            return all;
        }
        if let Some((_, row)) = self.chosen.iter().find(|(chosen, _)| chosen == key) {
            return vec![row.clone()];
        }
        self.wanted.get_or_insert((key.to_owned(), all));
        Vec::new()
    }
}
