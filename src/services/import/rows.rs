//! Fills the tables of an import, inside the transaction that creates them.

use std::sync::{Arc, Mutex};

use rusqlite::types::{Value as Stored, ValueRef};
use rusqlite::{Connection, Row, params};

use super::definitions::SourceCollection;
use super::files::names;
use super::report::{ImportCounts, ImportProgress, Losses, ShowProgress};
use crate::base::error::{Error, Result, ResultExt as _};
use crate::base::threads::lock;
use crate::base::{clock, ids};
use crate::model::auth::admins;
use crate::model::collections::{Collection, Collections};
use crate::model::records::{FieldValue, ImportedRecord, insert_imported};
use crate::store::db::quote;
use crate::store::files::{StoredFile, table};

/// Names of columns that are not fields here.
const SYSTEM: [&str; 4] = ["id", "created", "updated", "tokenKey"];

/// Everything that the transaction needs.
pub struct RowCopy {
    pub source: Connection,
    pub collections: Vec<SourceCollection>,
    pub counts: Arc<Mutex<ImportCounts>>,
    pub losses: Losses,
    pub show: ShowProgress,
    /// The superusers become admins: of the whole server, so only with the default database.
    pub has_admins: bool,
    /// The files are not copied, so there are no rows for them.
    pub is_dry: bool,
}

/// A column of the source and the field for its values.
struct Target<'a> {
    column: usize,
    kind: &'a str,
    field: usize,
}

impl RowCopy {
    /// Copies all records, the rows of their files, external log-ins and superusers.
    pub fn run(&self, tx: &Connection, definitions: &Collections) -> Result<()> {
        for from in self.collections.iter().filter(|it| !it.is_view()) {
            let into = definitions.get(&from.name)?;
            self.copy_table(tx, definitions, from, into)
                .context(format!("import {}", from.name))?;
        }
        if !self.is_dry {
            self.add_file_rows(tx)?;
        }
        self.copy_external_auths(tx)?;
        match self.has_admins {
            true => self.copy_admins(tx),
            false => self.count_admins(),
        }
    }

    fn copy_table(
        &self,
        tx: &Connection,
        definitions: &Collections,
        from: &SourceCollection,
        into: &Collection,
    ) -> Result<()> {
        let table = quote(&from.name);
        let count = format!("SELECT count(*) FROM {table}");
        let total: i64 = self.source.query_row(&count, [], |row| row.get(0))?;
        let select = format!("SELECT * FROM {table} ORDER BY rowid");
        let mut statement = self.source.prepare(&select)?;
        let columns = Columns::of(&statement.column_names().collect::<Vec<_>>(), from, into);
        let mut rows = statement.query([])?;
        let mut done = 0;
        while let Some(row) = rows.next()? {
            done += 1;
            let Some(record) = self.record(row, &columns, from, into)? else {
                continue;
            };
            match insert_imported(tx, definitions, into, &record) {
                Ok(true) => lock(&self.counts).records += 1,
                Ok(false) => {
                    let reason = "Accounts whose id an account of another collection has";
                    self.losses
                        .add(reason, format!("{}/{}", from.name, record.id));
                }
                Err(error) => return Err(error.context(format!("record {}", record.id))),
            }
            (self.show)(&ImportProgress {
                part: "records",
                done,
                total: total.unsigned_abs(),
            });
        }
        Ok(())
    }

    /// The record of a row; none if its id is not possible here.
    fn record(
        &self,
        row: &Row<'_>,
        columns: &Columns<'_>,
        from: &SourceCollection,
        into: &Collection,
    ) -> Result<Option<ImportedRecord>> {
        let id = text_of(row, columns.id)?.unwrap_or_default();
        if !ids::is_valid_id(&id) {
            let reason = "Records whose id is not possible here (1 to 64 of A-Z a-z 0-9 _ -)";
            self.losses.add(reason, format!("{}/{id}", from.name));
            return Ok(None);
        }
        let time = |column| -> Result<Option<String>> {
            let text = text_of(row, column)?.unwrap_or_default();
            Ok(clock::parse_datetime(&text).map(clock::format_ms))
        };
        let created = time(columns.created)?.unwrap_or_else(clock::now);
        let updated = time(columns.updated)?.unwrap_or_else(|| created.clone());
        let mut values = Vec::with_capacity(columns.targets.len());
        for target in &columns.targets {
            let stored = row.get_ref(target.column)?;
            let field = &into.fields[target.field];
            let value = match target.kind {
                "file" => {
                    let named = names(&string_of(stored));
                    let kept = named.into_iter().filter_map(|name| {
                        self.is_taken(&from.new_id, &id, &name)
                            .map(|it| it.then_some(name))
                            .transpose()
                    });
                    FieldValue::from_list(field, kept.collect::<Result<_>>()?)
                }
                "select" | "relation" => FieldValue::from_list(field, names(&string_of(stored))),
                kind => FieldValue::Scalar(scalar(kind, stored)),
            };
            values.push((target.field, value));
        }
        Ok(Some(ImportedRecord {
            id,
            created,
            updated,
            values,
        }))
    }

    fn is_taken(&self, collection: &str, record: &str, name: &str) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM temp.taken_files
                                  WHERE collection = ?1 AND record = ?2 AND name = ?3)";
        let mut statement = self.source.prepare_cached(sql)?;
        Ok(statement.query_row([collection, record, name], |row| row.get(0))?)
    }

    fn add_file_rows(&self, tx: &Connection) -> Result<()> {
        let sql = "SELECT collection, record, name, size, sha256, type FROM temp.taken_files";
        let mut statement = self.source.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (collection, record): (String, String) = (row.get(0)?, row.get(1)?);
            let size: i64 = row.get(3)?;
            let file = StoredFile {
                name: row.get(2)?,
                size: size.unsigned_abs(),
                sha256: row.get(4)?,
                media_type: row.get(5)?,
            };
            table::add(tx, &collection, &record, &file)?;
        }
        Ok(())
    }

    fn copy_external_auths(&self, tx: &Connection) -> Result<()> {
        let sql = "SELECT id, collectionRef, recordRef, provider, providerId, created, updated
                   FROM _externalAuths";
        let mut statement = self.source.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let text = |at| row.get::<_, String>(at);
            let collection = text(1)?;
            let found = self.collections.iter().find(|it| it.id == collection);
            let Some(found) = found else { continue };
            tx.prepare_cached(
                "INSERT INTO _external_auths
                     (id, collection, record, provider, provider_id, created, updated)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                text(0)?,
                found.new_id,
                text(2)?,
                text(3)?,
                text(4)?,
                text(5)?,
                text(6)?
            ])?;
            lock(&self.counts).external_auths += 1;
        }
        Ok(())
    }

    fn copy_admins(&self, tx: &Connection) -> Result<()> {
        let sql = "SELECT id, email, password, created, updated FROM _superusers";
        let mut statement = self.source.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let email: String = row.get(1)?;
            let time = |at| -> Result<String> {
                let text: String = row.get(at)?;
                Ok(clock::parse_datetime(&text).map_or_else(clock::now, clock::format_ms))
            };
            let (created, updated) = (time(3)?, time(4)?);
            match admins::import(tx, row.get(0)?, &email, row.get(2)?, created, updated)? {
                true => lock(&self.counts).admins += 1,
                false => {
                    let reason = "Superusers whose address an admin here already has; the admin is unchanged";
                    self.losses.add(reason, email);
                }
            }
        }
        Ok(())
    }

    fn count_admins(&self) -> Result<()> {
        let sql = "SELECT email FROM _superusers";
        let mut statement = self.source.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let reason = "Superusers, who would be admins of the whole server here";
            self.losses.add(reason, row.get::<_, String>(0)?);
        }
        Ok(())
    }
}

/// The places of the columns of a table.
struct Columns<'a> {
    id: Option<usize>,
    created: Option<usize>,
    updated: Option<usize>,
    targets: Vec<Target<'a>>,
}

impl<'a> Columns<'a> {
    fn of(names: &[&str], from: &'a SourceCollection, into: &Collection) -> Columns<'a> {
        let column = |name: &str| names.iter().position(|it| *it == name);
        let fields = from
            .fields
            .iter()
            .filter(|it| !SYSTEM.contains(&it.name.as_str()));
        let targets = fields.filter_map(|field| {
            Some(Target {
                column: column(&field.name)?,
                kind: &field.kind,
                field: into.fields.iter().position(|it| it.name == field.name)?,
            })
        });
        Columns {
            id: column("id"),
            created: column("created"),
            updated: column("updated"),
            targets: targets.collect(),
        }
    }
}

fn text_of(row: &Row<'_>, column: Option<usize>) -> Result<Option<String>> {
    match column {
        Some(column) => Ok(Some(string_of(row.get_ref(column)?))),
        None => Ok(None),
    }
}

/// The text of a value, whatever its storage class.
fn string_of(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => String::new(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(text) | ValueRef::Blob(text) => String::from_utf8_lossy(text).into_owned(),
    }
}

/// The stored form of a single value. Text that is empty is unset.
fn scalar(kind: &str, value: ValueRef<'_>) -> Stored {
    match (kind, value) {
        (_, ValueRef::Null) => match kind {
            "bool" => Stored::Integer(0),
            _ => Stored::Null,
        },
        ("bool", value) => Stored::Integer(i64::from(!matches!(
            string_of(value).as_str(),
            "" | "0" | "false"
        ))),
        ("number", ValueRef::Integer(number)) => Stored::Integer(number),
        ("number", ValueRef::Real(number)) => Stored::Real(number),
        ("number", value) => string_of(value)
            .parse()
            .map_or(Stored::Integer(0), Stored::Real),
        ("date" | "autodate", value) => {
            let time = clock::parse_datetime(&string_of(value));
            time.map_or(Stored::Null, |ms| Stored::Text(clock::format_ms(ms)))
        }
        ("json", value) => json(string_of(value)),
        (_, value) => match string_of(value) {
            text if text.is_empty() => Stored::Null,
            // SQLite's text functions stop at NUL.
            text => Stored::Text(text.replace('\0', "")),
        },
    }
}

/// JSON text. Text that is no JSON becomes a JSON string.
fn json(text: String) -> Stored {
    if text.is_empty() || text == "null" {
        return Stored::Null;
    }
    match serde_json::from_str::<serde::de::IgnoredAny>(&text) {
        Ok(_) => Stored::Text(text),
        Err(_) => Stored::Text(serde_json::Value::from(text).to_string()),
    }
}

/// The error that ends a dry run, so that its transaction is rolled back.
pub fn dry_run_is_over() -> Error {
    Error::conflict("The dry run is over.")
}
