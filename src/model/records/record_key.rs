//! The key by which a plan finds its records, as a `FROM` clause.

use rusqlite::types::Value as Stored;

use super::columns::row_of_parameters;
use super::query::MAIN;
use crate::model::collections::Collection;
use crate::model::filter::Expr;
use crate::store::db::quote;

/// The key by which a plan finds its record.
pub enum RecordKey {
    Rowid,
    /// By rowid, for a record that the caller has just created: all its values are visible.
    New,
    /// By id, if the access of the plan admits the record.
    Id,
    /// All that name an id in the relation at this position in the definition, and that the access
    /// of the plan admits.
    Naming(usize),
    /// The record is not read but passed in, as the values of `events::State`. It is written if the
    /// access of the plan admits it and this filter of the caller matches.
    Values(Option<Expr>),
    /// All rows of a view that this clause admits. The parameters of the clause come first.
    Clause(String, Vec<Stored>),
}

/// The table or the row of a statement, and the condition that the key puts on it.
pub fn from_clause(collection: &Collection, key: &RecordKey) -> String {
    let table = collection.source();
    match key {
        RecordKey::Rowid | RecordKey::New => [
            " FROM ",
            &table,
            " AS ",
            MAIN,
            " WHERE ",
            MAIN,
            ".rowid = ?1",
        ]
        .concat(),
        RecordKey::Id => [" FROM ", &table, " AS ", MAIN, " WHERE ", MAIN, ".id = ?1"].concat(),
        RecordKey::Naming(at) => {
            let relation = &collection.fields[*at];
            let column = format!("{MAIN}.{}", quote(&relation.name));
            let names = match relation.is_multiple() {
                true => format!(
                    "EXISTS (SELECT 1 FROM json_each(coalesce({column}, '[]')) AS id_of \
                     WHERE id_of.value = ?1)"
                ),
                false => format!("{column} = ?1"),
            };
            format!(" FROM {table} AS {MAIN} WHERE {names}")
        }
        RecordKey::Values(_) => format!(
            " FROM ({}) AS {MAIN} WHERE TRUE",
            row_of_parameters(collection)
        ),
        // The clause has the rule already.
        RecordKey::Clause(clause, _) => [" FROM ", &table, " AS ", MAIN, clause].concat(),
    }
}
