//! The collections of a PocketBase, as its API exports them.

use std::collections::HashMap;

use rusqlite::{Connection, Row};
use serde_json::{Map, Value, json};

use crate::base::error::Result;
use crate::base::ids;

/// Collections that PocketBase keeps for itself.
const SYSTEM: [&str; 5] = [
    "_superusers",
    "_externalAuths",
    "_mfas",
    "_otps",
    "_authOrigins",
];
const RULES: [&str; 5] = [
    "listRule",
    "viewRule",
    "createRule",
    "updateRule",
    "deleteRule",
];

/// A collection of the source.
pub struct SourceCollection {
    pub id: String,
    /// Its id here: another one if a collection of another database has that.
    pub new_id: String,
    pub name: String,
    /// `base`, `auth` or `view`.
    pub kind: String,
    pub fields: Vec<SourceField>,
    /// Everything, as the API of PocketBase exports it.
    pub export: Value,
}

/// A field of the source whose values are read.
pub struct SourceField {
    pub name: String,
    pub kind: String,
}

impl SourceCollection {
    pub fn is_view(&self) -> bool {
        self.kind == "view"
    }

    /// The names of the fields that hold file names.
    pub fn file_fields(&self) -> impl Iterator<Item = &str> {
        let files = self.fields.iter().filter(|field| field.kind == "file");
        files.map(|field| field.name.as_str())
    }
}

/// Gives new ids to collections whose id is taken here, also where relations name them. Returns the
/// names of these collections.
pub fn renew_ids(
    collections: &mut [SourceCollection],
    is_free: impl Fn(&str) -> Result<bool>,
) -> Result<Vec<String>> {
    let mut renewed = HashMap::new();
    for collection in &mut *collections {
        if !is_free(&collection.id)? {
            collection.new_id = ids::record_id()?;
            renewed.insert(collection.id.clone(), collection.new_id.clone());
        }
    }
    for collection in &mut *collections {
        collection.export["id"] = json!(collection.new_id);
        let fields = collection.export["fields"].as_array_mut();
        for field in fields.into_iter().flatten() {
            let target = field["collectionId"]
                .as_str()
                .and_then(|id| renewed.get(id));
            if let Some(id) = target {
                field["collectionId"] = json!(id);
            }
        }
    }
    let has_new = |it: &&SourceCollection| it.id != it.new_id;
    let names = collections.iter().filter(has_new);
    Ok(names.map(|it| it.name.clone()).collect())
}

/// The collections of the application.
pub fn collections(source: &Connection) -> Result<Vec<SourceCollection>> {
    let sql =
        "SELECT id, name, type, CAST(fields AS TEXT), CAST(indexes AS TEXT), CAST(options AS TEXT),
                      created, updated,
                      listRule, viewRule, createRule, updateRule, deleteRule
               FROM _collections ORDER BY rowid";
    let mut statement = source.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let collection = read(row)?;
        if !SYSTEM.contains(&collection.name.as_str()) {
            found.push(collection);
        }
    }
    Ok(found)
}

fn read(row: &Row<'_>) -> Result<SourceCollection> {
    let json = |at: usize| -> Result<Value> {
        let text: String = row.get(at)?;
        Ok(serde_json::from_str(&text)?)
    };
    let (id, name, kind): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
    // Options stand beside the other attributes.
    let mut export = match json(5)? {
        Value::Object(options) => options,
        _ => Map::new(),
    };
    let fields = json(3)?;
    let text = |field: &Value, name: &str| field[name].as_str().unwrap_or_default().to_owned();
    let list = fields.as_array().map(Vec::as_slice).unwrap_or_default();
    let list = list.iter().map(|field| SourceField {
        name: text(field, "name"),
        kind: text(field, "type"),
    });
    let list = list.collect();
    let (created, updated): (String, String) = (row.get(6)?, row.get(7)?);
    for (name, value) in [
        ("id", json!(id)),
        ("name", json!(name)),
        ("type", json!(kind)),
        ("system", json!(false)),
        ("fields", fields),
        ("indexes", json(4)?),
        ("created", json!(created)),
        ("updated", json!(updated)),
    ] {
        export.insert(name.to_owned(), value);
    }
    for (at, rule) in RULES.into_iter().enumerate() {
        let text: Option<String> = row.get(8 + at)?;
        export.insert(rule.to_owned(), json!(text));
    }
    Ok(SourceCollection {
        new_id: id.clone(),
        id,
        name,
        kind,
        fields: list,
        export: Value::Object(export),
    })
}
