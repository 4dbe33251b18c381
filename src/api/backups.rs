//! `/api/backups`: backups of this server as zip archives, as PocketBase's clients manage them.

use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{forbidden, json_response, no_store};
use super::call::Call;
use super::multipart_body::MultipartForm;
use super::parameters::parameter;
use crate::base::clock;
use crate::base::error::{Error, Result};
use crate::model::rules::Identity;
use crate::net::http::Response;

/// The field of a form that has an archive.
pub const FIELD: &str = "file";

#[derive(Default, Deserialize)]
struct NewBackup {
    #[serde(default)]
    name: String,
}

pub fn list(call: &Call<'_>) -> Result<Response> {
    let archives = call.app.archives.list()?;
    let items = archives.into_iter().map(|it| {
        let modified = clock::format_ms(it.modified_ms);
        json!({"key": it.key, "size": it.size, "modified": modified})
    });
    Ok(no_store(json_response(200, &items.collect::<Value>())))
}

/// Answers when the backup is complete.
pub fn create(call: &Call<'_>) -> Result<Response> {
    let NewBackup { name } = match call.has_body() {
        true => call.body()?,
        false => NewBackup::default(),
    };
    let name = Some(name.as_str()).filter(|name| !name.is_empty());
    call.app.archives.create(name)?;
    Ok(Response::empty(204))
}

pub fn upload(call: &Call<'_>) -> Result<Response> {
    let required = || Error::field(FIELD, "validation_required", "Cannot be blank.");
    let form = MultipartForm::of(call.request).ok_or_else(required)?;
    let (_, files) = form.parts()?;
    let file = files.iter().find(|it| it.field == FIELD);
    let file = file.ok_or_else(required)?;
    if file.media_type != "application/zip" {
        let message = "The type of the file must be application/zip.";
        return Err(Error::field(FIELD, "validation_invalid_mime_type", message));
    }
    let content = file.partial.reopen()?;
    call.app.archives.accept(&file.sent_name, content)?;
    Ok(Response::empty(204))
}

/// By the token of an admin for files: a link cannot carry a header.
pub fn download(call: &Call<'_>) -> Result<Response> {
    let pairs = call.query()?;
    let token = parameter(&pairs, "token").unwrap_or_default();
    let auth = &call.app.auth;
    let identity = auth.identify_by_file_token(token, call.database);
    if !matches!(identity, Ok(Identity::Admin(_))) {
        return Err(forbidden("The link needs the token of an admin for files."));
    }
    let key = call.param("key");
    let Some((file, size)) = call.app.archives.find(key)? else {
        return Err(Error::not_found("There is no such backup."));
    };
    let disposition = format!("attachment; filename=\"{key}\"");
    Ok(no_store(Response::with_stream(200, Box::new(file), size))
        .with_header("Content-Type", "application/zip")
        .with_header("Content-Disposition", disposition))
}

pub fn delete(call: &Call<'_>) -> Result<Response> {
    match call.app.archives.delete(call.param("key"))? {
        true => Ok(Response::empty(204)),
        false => Err(Error::invalid("There is no such backup.")),
    }
}

/// Refused: a restore replaces the files of databases, which this process has open.
pub fn restore(call: &Call<'_>) -> Result<Response> {
    let key = call.param("key");
    if call.app.archives.find(key)?.is_none() {
        return Err(Error::invalid("Missing or invalid backup file."));
    }
    Err(Error::invalid(format!(
        "A running server cannot be restored: stop it and run vski restore DATA_DIR/backups/{key} --replace."
    )))
}
