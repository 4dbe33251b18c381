//! Files of records: downloads, and tokens for protected ones.

use std::sync::Arc;

use serde_json::json;

use super::answer::{json_response, no_store};
use super::call::Call;
use super::parameters::parameter;
use crate::base::error::{Error, Result};
use crate::base::ids;
use crate::model::collections::{Collection, Field};
use crate::model::records;
use crate::model::records::{FoundFile, RequestFacts, Scope};
use crate::model::rules::Operation;
use crate::net::http::range::ByteRange;
use crate::net::http::{Response, range};
use crate::store::db::Connection;
use crate::store::files;
use crate::store::files::{FilePath, RemoteFile, StoredFile, table};

/// An uploaded page may run nothing and load nothing but images and media of this server.
const POLICY: &str = "default-src 'none'; img-src 'self' data:; media-src 'self'; style-src \
                      'unsafe-inline'; sandbox";

pub fn get(call: &Call<'_>) -> Result<Response> {
    let (record, name) = (call.param("record"), call.param("file"));
    if !ids::is_valid_id(record) || !files::is_valid(name) {
        return Err(no_file());
    }
    let scope = call.scope()?;
    let collection = call.collection(&scope)?;
    let pairs = call.query()?;
    let database = call.database()?;
    let found = match collection.is_view() {
        false => database.look_up(|it| own_file(it, &collection, record, name))?,
        true => database.read_for(call.asker(), |it| {
            records::file_of_view(it, &scope, &collection, record, name)
        })?,
    };
    let FoundFile {
        collection: owner,
        record: owner_record,
        stored,
        is_protected,
    } = found.ok_or_else(no_file)?;
    if is_protected {
        let identity = call.identify_for_files(parameter(&pairs, "token"))?;
        let asker = call.asker_as(&identity);
        let facts = RequestFacts {
            context: "protectedFile",
            ..scope.facts
        };
        let scope = Scope {
            identity,
            facts,
            ..scope
        };
        let may = database.read_for(asker, |it| {
            records::is_allowed(Operation::View, it, &scope, &collection, record)
        })?;
        if !may {
            return Err(no_file());
        }
    }
    let path = FilePath {
        database: call.database.to_owned(),
        collection: owner.id.clone(),
        record: owner_record,
        name: name.to_owned(),
    };
    let is_download = parameter(&pairs, "download").is_some_and(|value| value != "0");
    let is_streamed = parameter(&pairs, "stream").is_some_and(|value| value != "0");
    if !is_streamed && let Some(response) = redirect(call, &path, &stored, is_download)? {
        let cache = match is_protected {
            true => "no-store",
            // Shorter than the lifetime of the link.
            false => "private, max-age=600",
        };
        return Ok(response.with_header("Cache-Control", cache));
    }
    let response = content(call, &path, &stored)?;
    Ok(with_headers(response, &stored, is_download, is_protected))
}

/// A file that a record of the collection names.
fn own_file(
    connection: &Connection,
    collection: &Arc<Collection>,
    record: &str,
    name: &str,
) -> Result<Option<FoundFile>> {
    let stored = table::find(connection, &collection.id, record, name)?;
    let field = records::field_of_file(connection, collection, record, name)?;
    let options = field.and_then(Field::file);
    Ok(stored.zip(options).map(|(stored, options)| FoundFile {
        collection: Arc::clone(collection),
        record: record.to_owned(),
        stored,
        is_protected: options.protected,
    }))
}

/// A redirect to the bucket that has the file; none with local storage.
fn redirect(
    call: &Call<'_>,
    path: &FilePath,
    stored: &StoredFile,
    is_download: bool,
) -> Result<Option<Response>> {
    let disposition = disposition(stored, is_download);
    let content_type = files::content_type(&stored.media_type);
    let storage = &call.app.files.storage;
    let link = storage.presigned_url(path, &content_type, &disposition)?;
    Ok(link.map(|link| Response::empty(307).with_header("Location", link)))
}

/// `attachment` for files that could run scripts: a bucket sends no content security policy.
fn disposition(stored: &StoredFile, is_download: bool) -> String {
    let is_shown = !is_download && files::is_passive(&stored.media_type);
    let form = if is_shown { "inline" } else { "attachment" };
    format!("{form}; filename={}", stored.name)
}

/// The requested range of a file; 304 if the client has the file, 412 if it expects another one.
pub fn content(call: &Call<'_>, path: &FilePath, stored: &StoredFile) -> Result<Response> {
    let response = part(call, path, stored)?;
    Ok(response
        .with_header("ETag", format!("\"{}\"", stored.sha256))
        .with_header("Accept-Ranges", "bytes"))
}

fn part(call: &Call<'_>, path: &FilePath, stored: &StoredFile) -> Result<Response> {
    let (header, tag) = (|name: &str| call.request.header(name), &stored.sha256);
    if range::is_mismatch(header("If-Match"), tag) {
        return Ok(Response::empty(412));
    }
    if range::is_match(header("If-None-Match"), tag) {
        return Ok(Response::empty(304));
    }
    let is_it = |known: &str| known.trim_matches('"') == tag && known.starts_with('"');
    let is_current = header("If-Range").is_none_or(is_it);
    let wanted = match header("Range").filter(|_| is_current) {
        Some(range) => range::parse(range, stored.size),
        None => ByteRange::Full,
    };
    let (status, start, length) = match wanted {
        ByteRange::Full => (200, 0, stored.size),
        ByteRange::Part(start, length) => (206, start, length),
        ByteRange::Unsatisfiable => {
            return Ok(Response::empty(416)
                .with_header("Content-Range", format!("bytes */{}", stored.size)));
        }
    };
    let storage = &call.app.files.storage;
    let content = match storage.read(path, stored, start, length)? {
        // This replica has not downloaded it yet.
        None if fetch(call, path, stored)? => storage.read(path, stored, start, length)?,
        content => content,
    };
    let Some(content) = content else {
        return Err(missing(call, path)?);
    };
    let response = Response::with_stream(status, content, length);
    Ok(match status {
        206 => {
            let last = start + length - 1;
            response.with_header(
                "Content-Range",
                format!("bytes {start}-{last}/{}", stored.size),
            )
        }
        _ => response,
    })
}

/// The error for a file that has a row but is missing in the storage.
fn missing(call: &Call<'_>, path: &FilePath) -> Result<Error> {
    let row = call
        .database()?
        .look_up(|it| table::find(it, &path.collection, &path.record, &path.name))?;
    Ok(match (row, call.app.replica()) {
        // It has been deleted since.
        (None, _) => no_file(),
        (Some(_), Some(_)) => {
            Error::unavailable("This replica has not received the file yet; try again later.")
        }
        (Some(_), None) => Error::unavailable("The file is not available yet; try again later.")
            .context(format!("file {path} is missing in the storage")),
    })
}

/// Downloads a file that this replica does not have yet; true if it has it then.
fn fetch(call: &Call<'_>, path: &FilePath, stored: &StoredFile) -> Result<bool> {
    let remote = RemoteFile {
        path: path.clone(),
        size: stored.size,
        sha256: stored.sha256.clone(),
    };
    match call.app.replica() {
        Some(replica) => replica.fetch_file(&remote),
        None => Ok(false),
    }
}

fn with_headers(
    response: Response,
    stored: &StoredFile,
    is_download: bool,
    is_protected: bool,
) -> Response {
    let cache = match is_protected {
        true => "private, no-cache",
        // The contents under a name never change.
        false => "public, max-age=2592000, immutable",
    };
    response
        .with_header("Content-Type", files::content_type(&stored.media_type))
        .with_header("Content-Disposition", disposition(stored, is_download))
        .with_header("Content-Security-Policy", POLICY)
        .with_header("Cache-Control", cache)
}

/// A token for the links of protected files, which cannot carry a header.
pub fn token(call: &Call<'_>) -> Result<Response> {
    let token = call.app.auth.file_token(&call.identity, call.database)?;
    Ok(no_store(json_response(200, &json!({ "token": token }))))
}

fn no_file() -> Error {
    Error::not_found("There is no such file.")
}
