//! Records in request bodies, as JSON or as forms with files.
//!
//! A form has strings; the type of the field decides what each becomes. A repeated field is a list.
//! `@jsonPayload` holds further values as JSON. Files become the names in the value of their field,
//! so the modifiers of JSON bodies work for them: `doc` sets, `doc+` adds and `doc-` removes.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

use super::body::PAYLOAD;
use super::call::Call;
use super::multipart_body::{MultipartForm, UploadedFile, no_file_field};
use crate::base::error::{Error, Result};
use crate::base::ids;
use crate::model::collections::{Collection, Field, FieldKind};
use crate::model::records::{Draft, Modifier, NewFile, RawBody};
use crate::store::files::{FilePath, ReceivedFile, StagedFiles, StoredFile};

/// The values and files of a record in a request.
pub struct RecordInput<'a> {
    pub body: RawBody,
    /// The files, each with the name of its field.
    uploads: Vec<(String, &'a UploadedFile)>,
}

/// Reads the values and files for a record of this collection.
pub fn read<'a>(call: &Call<'a>, collection: &Collection) -> Result<RecordInput<'a>> {
    let Some(values) = call.form_values()? else {
        return Ok(RecordInput {
            body: call.body_to(1)?,
            uploads: Vec::new(),
        });
    };
    let uploads = match MultipartForm::of(call.request) {
        Some(form) => form.parts()?.1,
        None => &[],
    };
    let mut body = RawBody::new();
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, text) in values {
        if name == PAYLOAD {
            body.extend(call.json_to::<RawBody>(text.as_bytes(), 1)?);
        } else {
            texts.entry(name).or_default().push(text);
        }
    }
    for (name, texts) in texts {
        let field = field_of(collection, &name);
        let value = raw(&value(field, texts))?;
        body.insert(name, value);
    }
    let uploads = uploads.iter().map(|upload| (upload.field.as_str(), upload));
    RecordInput::new(collection, body, uploads.collect())
}

/// The field of a key, which may have a modifier.
fn field_of<'a>(collection: &'a Collection, key: &str) -> Option<&'a Field> {
    let plain = Modifier::split(key).map(|(name, _)| name);
    collection
        .field(key)
        .or_else(|| plain.and_then(|name| collection.field(name)))
}

/// Converts the strings of a form to the value of a field.
fn value(field: Option<&Field>, mut texts: Vec<String>) -> Value {
    let one = texts.last().cloned().unwrap_or_default();
    let parsed = || serde_json::from_str::<Value>(&one).ok();
    let Some(field) = field else {
        return Value::from(one);
    };
    if field.is_multiple() {
        return match parsed().filter(|it| texts.len() == 1 && it.is_array()) {
            Some(list) => list,
            None => {
                texts.retain(|text| !text.is_empty());
                Value::from(texts)
            }
        };
    }
    match field.kind {
        FieldKind::File(_) if texts.len() > 1 => Value::from(texts),
        FieldKind::Number { .. } => match parsed().filter(Value::is_number) {
            Some(number) => number,
            None if one.is_empty() => Value::Null,
            None => Value::from(one),
        },
        FieldKind::Bool => match one.as_str() {
            "" => Value::Null,
            "true" | "1" | "on" => Value::Bool(true),
            "false" | "0" => Value::Bool(false),
            _ => Value::from(one),
        },
        FieldKind::Json { .. } | FieldKind::GeoPoint => match parsed() {
            Some(json) => json,
            None if one.is_empty() => Value::Null,
            None => Value::from(one),
        },
        FieldKind::Text(_)
        | FieldKind::Email(_)
        | FieldKind::Url(_)
        | FieldKind::Editor { .. }
        | FieldKind::Date(_)
        | FieldKind::Datetime(_)
        | FieldKind::Select { .. }
        | FieldKind::Relation(_)
        | FieldKind::File(_)
        | FieldKind::Autodate { .. }
        | FieldKind::Password { .. } => Value::from(one),
    }
}

fn raw(value: &Value) -> Result<Box<RawValue>> {
    Ok(serde_json::value::to_raw_value(value)?)
}

impl<'a> RecordInput<'a> {
    /// Adds the names of files to a body, each under its key.
    pub fn new(
        collection: &Collection,
        mut body: RawBody,
        uploads: Vec<(&str, &'a UploadedFile)>,
    ) -> Result<RecordInput<'a>> {
        let mut files = Vec::new();
        for (key, upload) in uploads {
            let field = field_of(collection, key);
            let is_removal = Modifier::split(key).is_some_and(|(name, sign)| {
                sign == Modifier::Remove && collection.field(name).is_some()
            });
            let Some(field) = field.filter(|field| field.file().is_some() && !is_removal) else {
                return Err(no_file_field(key));
            };
            let before = body.get(key).map(|raw| serde_json::from_str(raw.get()));
            let mut names = match before.transpose()? {
                None | Some(Value::Null) => Vec::new(),
                Some(Value::Array(names)) => names,
                Some(one) => vec![one],
            };
            names.retain(|name| name != "");
            names.push(Value::from(upload.name.as_str()));
            let is_one = names.len() == 1 && !field.is_multiple();
            let value = match is_one {
                true => names.remove(0),
                false => Value::Array(names),
            };
            body.insert(key.to_owned(), raw(&value)?);
            files.push((field.name.clone(), upload));
        }
        Ok(RecordInput {
            body,
            uploads: files,
        })
    }

    pub fn has_files(&self) -> bool {
        !self.uploads.is_empty()
    }

    /// Attaches the files to a draft, which keeps those that its changes name.
    pub fn attach(&self, collection: &Collection, draft: &mut Draft) {
        let files = self.uploads.iter().map(|(field, upload)| NewFile {
            field: field.clone(),
            stored: StoredFile {
                name: upload.name.clone(),
                size: upload.size,
                sha256: upload.sha256.clone(),
                media_type: upload.media_type.clone(),
            },
        });
        draft.attach(collection, files.collect());
    }

    /// Stages the files that one of the drafts uses under the record with this id; none if no draft
    /// uses a file.
    pub fn place<'c>(
        &self,
        call: &'c Call<'_>,
        collection: &Collection,
        id: &str,
        drafts: &[&Draft],
    ) -> Result<Option<StagedFiles<'c>>> {
        if drafts.iter().all(|draft| draft.files().is_empty()) {
            return Ok(None);
        }
        drafts.iter().try_for_each(|draft| draft.check())?;
        if !ids::is_valid_id(id) {
            return Err(Error::not_found("There is no such record."));
        }
        let taken = drafts.iter().flat_map(|draft| draft.files());
        let is_taken = |name: &str| taken.clone().any(|file| file.stored.name == name);
        let received: Vec<_> = self
            .uploads
            .iter()
            .filter(|(_, upload)| is_taken(&upload.name))
            .map(|(_, upload)| ReceivedFile {
                path: FilePath {
                    database: call.database.to_owned(),
                    collection: collection.id.clone(),
                    record: id.to_owned(),
                    name: upload.name.clone(),
                },
                partial: &upload.partial,
                size: upload.size,
                sha256: &upload.sha256,
            })
            .collect();
        call.app.files.storage.stage(&received).map(Some)
    }
}
