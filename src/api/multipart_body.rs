//! Multipart forms while they arrive: values stay in memory, files are hashed and written to disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::answer::body_too_large;
use crate::base::budget::Charge;
use crate::base::crypto::Sha256Hasher;
use crate::base::error::{Error, Result};
use crate::base::ids;
use crate::model::records::{Modifier, batch_error};
use crate::net::http::multipart::PartEvent;
use crate::net::http::{BodySink, FREE_BYTES, Request, multipart};
use crate::store::files;
use crate::store::files::{Partial, Storage};

/// Limit on the values of a form, together.
const VALUES_BYTES_MAX: usize = 4 << 20;

/// Limits on a form, decided before it is received.
pub struct Allowance {
    pub bytes_max: u64,
    /// The fields that accept files, each with the size limit of a file in bytes.
    pub files: BTreeMap<String, u64>,
    /// Names of files begin with the position of a request.
    pub is_batch: bool,
    /// The charge for values, which stay in memory.
    pub values: Charge,
    /// The charge for files, which are written to disk.
    pub uploads: Charge,
    pub storage: Arc<Storage>,
}

/// A form that is being received or has been received.
pub struct MultipartForm {
    allowance: Option<Allowance>,
    parser: multipart::Parser,
    bytes: u64,
    values: Vec<FormValue>,
    values_bytes: usize,
    uploads: Vec<UploadedFile>,
    /// The part that is being received.
    state: PartState,
    error: Option<Error>,
}

/// A field of the form and its value.
pub type FormValue = (String, Vec<u8>);

enum PartState {
    Nowhere,
    Value,
    /// A file without a name. If no bytes follow, it is an input of a page that was left empty.
    Untouched(String),
    File {
        hasher: Sha256Hasher,
        bytes_max: u64,
    },
}

/// A received file.
pub struct UploadedFile {
    /// The field of the form.
    pub field: String,
    /// The name that the client sent.
    pub sent_name: String,
    /// The name that it is stored under.
    pub name: String,
    pub size: u64,
    /// The hash, in hexadecimal.
    pub sha256: String,
    pub media_type: String,
    pub partial: Partial,
    first_bytes: Vec<u8>,
}

impl MultipartForm {
    pub fn new(allowance: Allowance, boundary: &str) -> MultipartForm {
        MultipartForm {
            allowance: Some(allowance),
            parser: multipart::Parser::new(boundary),
            bytes: 0,
            values: Vec::new(),
            values_bytes: 0,
            uploads: Vec::new(),
            state: PartState::Nowhere,
            error: None,
        }
    }

    /// A form that is not received because of this error.
    pub fn refused(error: Error) -> MultipartForm {
        MultipartForm {
            allowance: None,
            parser: multipart::Parser::new("-"),
            bytes: 0,
            values: Vec::new(),
            values_bytes: 0,
            uploads: Vec::new(),
            state: PartState::Nowhere,
            error: Some(error),
        }
    }

    /// The form that a request brought, if its body was one.
    pub fn of(request: &Request) -> Option<&MultipartForm> {
        request.sink.as_ref()?.get::<MultipartForm>()
    }

    /// Values and files in the order of the form. An error if the form is incomplete.
    pub fn parts(&self) -> Result<(&[FormValue], &[UploadedFile])> {
        if let Some(error) = &self.error {
            return Err(error.without_source());
        }
        if !self.parser.is_done() {
            return Err(Error::invalid("The form is incomplete."));
        }
        Ok((&self.values, &self.uploads))
    }

    fn receive(&mut self, allowance: &mut Allowance, piece: &[u8]) -> Result<()> {
        self.bytes += piece.len() as u64;
        if self.bytes > allowance.bytes_max {
            return Err(body_too_large(allowance.bytes_max));
        }
        let mut parser = std::mem::replace(&mut self.parser, multipart::Parser::new("-"));
        let result = parser.feed(piece, |event| self.event(allowance, event));
        self.parser = parser;
        result
    }

    fn event(&mut self, allowance: &mut Allowance, event: PartEvent<'_>) -> Result<()> {
        match event {
            PartEvent::Begin(part) => match part.file_name.as_deref() {
                None => {
                    self.grow_values(allowance, part.name.len())?;
                    self.values.push((part.name, Vec::new()));
                    self.state = PartState::Value;
                    Ok(())
                }
                Some("") => {
                    self.state = PartState::Untouched(part.name);
                    Ok(())
                }
                Some(file_name) => self.begin_file(allowance, part.name, file_name),
            },
            PartEvent::Data(data) => self.data(allowance, data),
            PartEvent::End => self.end(),
        }
    }

    fn begin_file(&mut self, allowance: &Allowance, field: String, file_name: &str) -> Result<()> {
        let bytes_max = allowance.bytes_of_file(&field)?;
        self.uploads.push(UploadedFile {
            field,
            sent_name: file_name.to_owned(),
            name: files::new_name(file_name)?,
            size: 0,
            sha256: String::new(),
            media_type: String::new(),
            partial: allowance.storage.receive()?,
            first_bytes: Vec::new(),
        });
        let hasher = Sha256Hasher::new();
        self.state = PartState::File { hasher, bytes_max };
        Ok(())
    }

    fn data(&mut self, allowance: &mut Allowance, data: &[u8]) -> Result<()> {
        if let PartState::Untouched(field) = &mut self.state {
            let field = std::mem::take(field);
            self.begin_file(allowance, field, "")?;
        }
        match &mut self.state {
            PartState::Value => {
                self.grow_values(allowance, data.len())?;
                if let Some((_, value)) = self.values.last_mut() {
                    value.extend_from_slice(data);
                }
            }
            PartState::File { hasher, bytes_max } => {
                let Some(upload) = self.uploads.last_mut() else {
                    return Err(Error::internal("multipart data outside of a file"));
                };
                hasher.update(data);
                upload.size += data.len() as u64;
                if upload.size > *bytes_max {
                    return Err(file_too_large(&upload.field, *bytes_max));
                }
                let granted = allowance.uploads.grow(data.len() as u64);
                granted.map_err(|exhausted| exhausted.into_error("uploads"))?;
                let wanted = files::SNIFF_BYTES - upload.first_bytes.len().min(files::SNIFF_BYTES);
                upload
                    .first_bytes
                    .extend_from_slice(&data[..wanted.min(data.len())]);
                upload.partial.write(data)?;
            }
            PartState::Nowhere | PartState::Untouched(_) => {}
        }
        Ok(())
    }

    /// Charges bytes that stay in memory. The first ones are free, as with other bodies.
    fn grow_values(&mut self, allowance: &mut Allowance, bytes: usize) -> Result<()> {
        let charged = |bytes: usize| bytes.saturating_sub(FREE_BYTES) as u64;
        let before = charged(self.values_bytes);
        self.values_bytes += bytes;
        if self.values_bytes > VALUES_BYTES_MAX {
            return Err(body_too_large(VALUES_BYTES_MAX as u64));
        }
        let granted = allowance.values.grow(charged(self.values_bytes) - before);
        granted.map_err(|exhausted| exhausted.into_error("request bodies"))
    }

    fn end(&mut self) -> Result<()> {
        let at = std::mem::replace(&mut self.state, PartState::Nowhere);
        if let (PartState::File { hasher, .. }, Some(upload)) = (at, self.uploads.last_mut()) {
            upload.sha256 = ids::hex(&hasher.finish());
            upload.media_type = files::detect(&upload.name, &upload.first_bytes);
            upload.partial.finish()?;
        }
        Ok(())
    }
}

impl Allowance {
    /// The size limit of a file with this name, in bytes.
    fn bytes_of_file(&self, name: &str) -> Result<u64> {
        let key = match self.is_batch {
            true => split_batch_name(name).map(|(_, key)| key),
            false => Some(name),
        };
        let field = |key: &str| self.files.get(key).copied();
        let found = key.and_then(|key| match Modifier::split(key) {
            _ if self.files.contains_key(key) => field(key),
            Some((_, Modifier::Remove)) | None => None,
            Some((plain, _)) => field(plain),
        });
        found.ok_or_else(|| no_file_field(name))
    }
}

/// The error for a file in a field that accepts none.
pub fn no_file_field(name: &str) -> Error {
    let message = "Does not accept files.".to_owned();
    file_error(name, "validation_not_a_file_field", message)
}

/// The error of a file, in a batch as that of its request.
fn file_error(name: &str, code: &'static str, message: String) -> Error {
    match split_batch_name(name) {
        Some((at, key)) => batch_error(Error::field(key, code, message), at),
        None => Error::field(name, code, message),
    }
}

fn file_too_large(name: &str, bytes_max: u64) -> Error {
    let message = format!("Must have at most {bytes_max} bytes.");
    file_error(name, "validation_file_size_limit", message)
}

/// Splits the name of a file in a batch, such as `requests.3.title`, into the position of its
/// request and its key there.
pub fn split_batch_name(field: &str) -> Option<(usize, &str)> {
    let rest = field.strip_prefix("requests")?;
    let (at, key) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once("].")?,
        None => rest.strip_prefix('.')?.split_once('.')?,
    };
    Some((at.parse().ok()?, key))
}

impl BodySink for MultipartForm {
    fn write(&mut self, piece: &[u8]) -> bool {
        let Some(mut allowance) = self.allowance.take() else {
            return false;
        };
        match self.receive(&mut allowance, piece) {
            Ok(()) => self.allowance = Some(allowance),
            Err(error) => {
                self.error = Some(error);
                // Frees memory and disk at once: the client may go on sending.
                self.uploads.clear();
                self.values.clear();
            }
        }
        self.error.is_none()
    }
}
