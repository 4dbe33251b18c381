//! Forms with files, while they arrive: values are kept, files go to the disk and are hashed on the way.

use std::sync::Arc;

use crate::crypto::Hasher;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::files;
use crate::files::Partial;
use crate::files::Storage;
use crate::http::BodySink;
use crate::http::multipart;
use crate::http::multipart::Event;
use crate::ids;

/// All values of a form together.
const VALUES_BYTES_MAX: usize = 4 << 20;

/// A form that arrives, and that has arrived.
pub struct Form {
    storage: Arc<Storage>,
    parser: multipart::Parser,
    bytes: u64,
    bytes_max: u64,
    values: Vec<Value>,
    values_bytes: usize,
    uploads: Vec<Upload>,
    /// The part that is being received.
    at: At,
    error: Option<Error>,
}

/// A field of the form and its value.
pub type Value = (String, Vec<u8>);

enum At {
    Nowhere,
    Value,
    File(Hasher),
}

/// A received file.
pub struct Upload {
    /// The field of the form.
    pub field: String,
    /// The name that it is stored under.
    pub name: String,
    pub size: u64,
    /// In hexadecimal.
    pub sha256: String,
    pub media_type: String,
    pub partial: Partial,
    beginning: Vec<u8>,
}

impl Form {
    /// Receives a form of at most `bytes_max`.
    pub fn new(storage: Arc<Storage>, boundary: &str, bytes_max: u64) -> Form {
        Form {
            storage,
            parser: multipart::Parser::new(boundary),
            bytes: 0,
            bytes_max,
            values: Vec::new(),
            values_bytes: 0,
            uploads: Vec::new(),
            at: At::Nowhere,
            error: None,
        }
    }

    /// Receives nothing; answers this.
    pub fn refused(storage: Arc<Storage>, error: Error) -> Form {
        let mut form = Form::new(storage, "-", 0);
        form.error = Some(error);
        form
    }

    /// Values and files, in the order in which they came, once all of it is here.
    pub fn parts(&self) -> Result<(&[Value], &[Upload])> {
        if let Some(error) = &self.error {
            return Err(error.again());
        }
        if !self.parser.is_done() {
            return Err(Error::invalid("The form is not whole."));
        }
        Ok((&self.values, &self.uploads))
    }

    fn take(&mut self, piece: &[u8]) -> Result<()> {
        self.bytes += piece.len() as u64;
        if self.bytes > self.bytes_max {
            return Err(too_large(self.bytes_max));
        }
        let mut parser = std::mem::replace(&mut self.parser, multipart::Parser::new("-"));
        let result = parser.feed(piece, |event| self.event(event));
        self.parser = parser;
        result
    }

    fn event(&mut self, event: Event<'_>) -> Result<()> {
        match event {
            Event::Begin(part) => {
                let Some(file_name) = part.file_name else {
                    self.values.push((part.name, Vec::new()));
                    self.at = At::Value;
                    return Ok(());
                };
                self.uploads.push(Upload {
                    field: part.name,
                    name: files::new_name(&file_name)?,
                    size: 0,
                    sha256: String::new(),
                    media_type: String::new(),
                    partial: self.storage.receive()?,
                    beginning: Vec::new(),
                });
                self.at = At::File(Hasher::new());
                Ok(())
            }
            Event::Data(data) => self.data(data),
            Event::End => self.end(),
        }
    }

    fn data(&mut self, data: &[u8]) -> Result<()> {
        match (
            &mut self.at,
            self.values.last_mut(),
            self.uploads.last_mut(),
        ) {
            (At::Value, Some((_, value)), _) => {
                self.values_bytes += data.len();
                if self.values_bytes > VALUES_BYTES_MAX {
                    return Err(too_large(VALUES_BYTES_MAX as u64));
                }
                value.extend_from_slice(data);
            }
            (At::File(hasher), _, Some(upload)) => {
                hasher.update(data);
                upload.size += data.len() as u64;
                let wanted = files::LOOK_BYTES - upload.beginning.len().min(files::LOOK_BYTES);
                upload
                    .beginning
                    .extend_from_slice(&data[..wanted.min(data.len())]);
                upload.partial.write(data)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let at = std::mem::replace(&mut self.at, At::Nowhere);
        if let (At::File(hasher), Some(upload)) = (at, self.uploads.last_mut()) {
            upload.sha256 = ids::hex(&hasher.finish());
            upload.media_type = files::judge(&upload.name, &upload.beginning);
            upload.partial.finish()?;
        }
        Ok(())
    }
}

impl BodySink for Form {
    fn write(&mut self, piece: &[u8]) -> bool {
        if self.error.is_some() {
            return false;
        }
        if let Err(error) = self.take(piece) {
            self.error = Some(error);
            // Room on the disk is for those who can be served.
            self.uploads.clear();
        }
        self.error.is_none()
    }
}

fn too_large(bytes_max: u64) -> Error {
    Error::new(
        Kind::TooLarge,
        format!("This takes at most {} MiB.", bytes_max >> 20),
    )
}
