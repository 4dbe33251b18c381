//! Reading a file of runs line by line, and checking it.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _};

use serde_json::{Map, Value};

use crate::base::crypto::Sha256Hasher;
use crate::base::error::{Error, Result, ResultExt as _};
use crate::base::ids;
use crate::services::workflows::transfer::format::{END, ExportTable, FORMAT, TABLES, VERSION};

/// The longest line: the largest payload with every character escaped, and some more.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// The facts about a file that the import needs before its first row.
#[derive(Default)]
pub struct ExportIndex {
    pub node: String,
    pub time: String,
    pub runs: Vec<IncomingRun>,
    /// Tokens of live hooks: the number of the run, and the token.
    pub tokens: Vec<(i64, String)>,
}

pub struct IncomingRun {
    pub number: i64,
    pub run: String,
    pub workflow: String,
    pub idempotency_key: Option<String>,
    /// The topmost run above it.
    pub root: i64,
}

impl ExportIndex {
    /// Reads a whole file; refuses a damaged one.
    pub fn read(file: &mut File) -> Result<ExportIndex> {
        let mut reader = LineReader::new(file)?;
        let mut content = ExportIndex::default();
        let mut hasher = Sha256Hasher::new();
        let noted = ["runs", "hooks"].map(|table| format!(r#"{{"table":"{table}""#));
        while let Some(line) = reader.next()? {
            if let Some(rest) = line.strip_prefix(END) {
                let hash = format!("\"{}\"}}", ids::hex(&hasher.finish()));
                return match rest.trim_end() == hash && reader.next()?.is_none() {
                    true => Ok(content),
                    false => Err(Error::invalid(
                        "The file is damaged: its SHA-256 differs from the one in its last line.",
                    )),
                };
            }
            hasher.update(line.as_bytes());
            if reader.number == 1 {
                content.read_head(&line)?;
            } else if noted.iter().any(|begin| line.starts_with(begin))
                && let Some(row) = reader.row(&line)?
            {
                content
                    .add_row(&row)
                    .map_err(|error| reader.locate(error))?;
            }
        }
        Err(Error::invalid(
            "The file is truncated: its last line is missing.",
        ))
    }

    fn read_head(&mut self, line: &str) -> Result<()> {
        let head: Value = serde_json::from_str(line).unwrap_or_default();
        if head["format"] != FORMAT {
            return Err(Error::invalid(
                "The file was not written by vski workflows export.",
            ));
        }
        if head["version"] != VERSION {
            return Err(Error::invalid(format!(
                "The file has format {}, and this version of vski reads format {VERSION}.",
                head["version"]
            )));
        }
        self.node = head["node"].as_str().unwrap_or_default().to_owned();
        self.time = head["time"].as_str().unwrap_or_default().to_owned();
        Ok(())
    }

    fn add_row(&mut self, row: &ExportRow) -> Result<()> {
        if row.table.name == "hooks" {
            if row.some_int("disposed")?.is_none() {
                self.tokens.push((row.int("run")?, row.text("token")?));
            }
            return Ok(());
        }
        let number = row.int("number")?;
        self.runs.push(IncomingRun {
            number,
            run: row.text("run")?,
            workflow: row.text("workflow")?,
            idempotency_key: row.some_text("idempotency_key")?,
            root: row.some_int("root")?.unwrap_or(number),
        });
        Ok(())
    }
}

/// A line with a row of a table.
pub struct ExportRow {
    pub table: &'static ExportTable,
    pub fields: Map<String, Value>,
}

impl ExportRow {
    pub fn field(&self, name: &str) -> Result<&Value> {
        let field = self.fields.get(name);
        field.ok_or_else(|| Error::invalid(format!("The column {name} is missing.")))
    }

    pub fn set(&mut self, name: &str, value: Value) {
        self.fields.insert(name.to_owned(), value);
    }

    pub fn some_int(&self, name: &str) -> Result<Option<i64>> {
        match self.field(name)? {
            Value::Null => Ok(None),
            value => match value.as_i64() {
                Some(number) => Ok(Some(number)),
                None => Err(Error::invalid(format!("{name} cannot be {value}."))),
            },
        }
    }

    pub fn int(&self, name: &str) -> Result<i64> {
        let number = self.some_int(name)?;
        number.ok_or_else(|| Error::invalid(format!("{name} cannot be null.")))
    }

    pub fn some_text(&self, name: &str) -> Result<Option<String>> {
        match self.field(name)? {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text.clone())),
            value => Err(Error::invalid(format!("{name} cannot be {value}."))),
        }
    }

    pub fn text(&self, name: &str) -> Result<String> {
        let text = self.some_text(name)?;
        text.ok_or_else(|| Error::invalid(format!("{name} cannot be null.")))
    }
}

pub struct LineReader<'a> {
    file: BufReader<&'a mut File>,
    /// The number of the last line read, from 1.
    number: usize,
}

impl<'a> LineReader<'a> {
    pub fn new(file: &'a mut File) -> Result<LineReader<'a>> {
        file.rewind().context("read")?;
        Ok(LineReader {
            file: BufReader::with_capacity(256 << 10, file),
            number: 0,
        })
    }

    /// The next line, including its line break.
    pub fn next(&mut self) -> Result<Option<String>> {
        let mut line = Vec::new();
        let mut limited = self.file.by_ref().take(LINE_BYTES_MAX);
        limited.read_until(b'\n', &mut line).context("read")?;
        self.number += 1;
        if line.is_empty() {
            return Ok(None);
        }
        let text = String::from_utf8(line);
        text.map(Some)
            .map_err(|_| self.locate(Error::invalid("The line is not valid UTF-8.")))
    }

    /// Parses the row of a line; none for the head.
    pub fn row(&self, line: &str) -> Result<Option<ExportRow>> {
        if self.number == 1 {
            return Ok(None);
        }
        let wrong = || self.locate(Error::invalid("The line is not a row of a known table."));
        let mut fields: Map<String, Value> = serde_json::from_str(line).map_err(|_| wrong())?;
        let name = fields.remove("table").unwrap_or_default();
        let table = TABLES.iter().find(|table| name == table.name);
        let table = table.ok_or_else(wrong)?;
        Ok(Some(ExportRow { table, fields }))
    }

    pub fn locate(&self, error: Error) -> Error {
        error.context(format!("line {}", self.number))
    }
}
