//! Bodies of records, as JSON or as forms with files.
//!
//! A form has a text for each value, which becomes what the field makes of it; a field that is there
//! several times has several values. `@jsonPayload` holds further ones as JSON. The files of a field
//! take the place of its value, so all that is said of JSON bodies holds for them too: `doc` sets, `doc+`
//! adds, and `doc-` takes names away.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use serde_json::value::RawValue;

use super::Api;
use super::Call;
use super::form::Form;
use super::form::Upload;
use super::json_body;
use crate::collections::Collection;
use crate::collections::Field;
use crate::collections::FieldKind;
use crate::error::Error;
use crate::error::Result;
use crate::files::FilePath;
use crate::files::Placed;
use crate::files::Stored;
use crate::http::BodySink;
use crate::http::Request;
use crate::http::multipart;
use crate::records::Body;
use crate::records::Draft;
use crate::records::Modifier;
use crate::records::NewFile;

/// The field of a form that holds values as JSON.
pub const PAYLOAD: &str = "@jsonPayload";

/// What a request says of a record.
pub struct Input<'a> {
    pub body: Body,
    uploads: &'a [Upload],
}

/// Receives a form for an endpoint that takes them, from whoever may call it.
pub fn receive(api: &Api, request: &Request, length: Option<u64>) -> Option<Box<dyn BodySink>> {
    let media_type = request.header("Content-Type").unwrap_or_default();
    let boundary = multipart::boundary(media_type)?;
    let local = api.app.files.local();
    let bytes_max = api.settings.upload_bytes_max;
    Some(Box::new(match api.may_upload(request, length) {
        Ok(()) => Form::new(Arc::clone(local), &boundary, bytes_max),
        Err(error) => Form::refused(Arc::clone(local), error),
    }))
}

/// The values and files for a record of this collection.
pub fn input<'a>(call: &Call<'a>, collection: &Collection) -> Result<Input<'a>> {
    let Some(form) = call
        .request
        .sunk
        .as_ref()
        .and_then(|sunk| sunk.get::<Form>())
    else {
        return Ok(Input {
            body: call.body()?,
            uploads: &[],
        });
    };
    let (values, uploads) = form.parts()?;
    let mut body = Body::new();
    let mut texts: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, value) in values {
        if name == PAYLOAD {
            body.extend(json_body::<Body>(value)?);
            continue;
        }
        let text = String::from_utf8(value.clone())
            .map_err(|_| Error::invalid(format!("The value of {name} is not UTF-8.")))?;
        texts.entry(name).or_default().push(text);
    }
    for upload in uploads {
        let names = texts.entry(&upload.field).or_default();
        names.retain(|name| !name.is_empty());
        names.push(upload.name.clone());
    }
    for (name, texts) in texts {
        let field = field_of(collection, name);
        body.insert(name.to_owned(), raw(&value(field, texts))?);
    }
    Ok(Input { body, uploads })
}

/// The field that a key is about, with or without a sign.
fn field_of<'a>(collection: &'a Collection, key: &str) -> Option<&'a Field> {
    let plain = Modifier::split(key).map(|(name, _)| name);
    collection
        .field(key)
        .or_else(|| plain.and_then(|name| collection.field(name)))
}

/// The texts of a form as the value of a field.
fn value(field: Option<&Field>, mut texts: Vec<String>) -> Value {
    let one = texts.last().cloned().unwrap_or_default();
    let parsed = || serde_json::from_str::<Value>(&one).ok();
    match field.map(|field| (&field.kind, field.is_multiple())) {
        Some((_, true)) => match parsed().filter(|it| texts.len() == 1 && it.is_array()) {
            Some(list) => list,
            None => {
                texts.retain(|text| !text.is_empty());
                Value::from(texts)
            }
        },
        Some((FieldKind::File(_), false)) if texts.len() > 1 => Value::from(texts),
        Some((FieldKind::Number { .. }, _)) => match parsed().filter(Value::is_number) {
            Some(number) => number,
            None if one.is_empty() => Value::Null,
            None => Value::from(one),
        },
        Some((FieldKind::Bool, _)) => match one.as_str() {
            "" => Value::Null,
            "true" | "1" | "on" => Value::Bool(true),
            "false" | "0" => Value::Bool(false),
            _ => Value::from(one),
        },
        Some((FieldKind::Json { .. }, _)) => match parsed() {
            Some(json) => json,
            None if one.is_empty() => Value::Null,
            None => Value::from(one),
        },
        _ => Value::from(one),
    }
}

fn raw(value: &Value) -> Result<Box<RawValue>> {
    Ok(serde_json::value::to_raw_value(value)?)
}

impl Input<'_> {
    /// Lets a draft take along the files that its changes name.
    pub fn attach(&self, collection: &Collection, draft: &mut Draft) {
        let files = self.uploads.iter().map(|upload| NewFile {
            field: field_of(collection, &upload.field)
                .map_or_else(|| upload.field.clone(), |field| field.name.clone()),
            stored: Stored {
                name: upload.name.clone(),
                size: upload.size,
                sha256: upload.sha256.clone(),
                media_type: upload.media_type.clone(),
            },
        });
        draft.attach(collection, files.collect());
    }

    /// Gives the files of a draft their places, those of the record with this id.
    pub fn place<'c>(
        &self,
        call: &'c Call<'_>,
        collection: &Collection,
        id: &str,
        draft: &Draft,
    ) -> Result<Placed<'c>> {
        let is_taken = |name: &str| draft.files().iter().any(|file| file.stored.name == name);
        let files: Vec<_> = self
            .uploads
            .iter()
            .filter(|upload| is_taken(&upload.name))
            .map(|upload| {
                let path = FilePath {
                    database: call.database.to_owned(),
                    collection: collection.id.clone(),
                    record: id.to_owned(),
                    name: upload.name.clone(),
                };
                (path, &upload.partial)
            })
            .collect();
        call.app.files.local().place(&files)
    }
}
