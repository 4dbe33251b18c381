//! Storing a file: one request for a small one, a multipart upload for a large one.
//!
//! Each part of the file is hashed in a first pass and sent in a second, so that an upload of any
//! size needs little memory. The server gets the hash and must verify it; the hash of the whole
//! file is verified here before the file counts as stored.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use super::client::{Method, Piece, S3Body, S3Client, S3Error, S3Request, S3Response};
use super::xml;
use crate::base::crypto::Sha256Hasher;
use crate::base::error::{Error, Result};
use crate::base::{crypto, ids, log};

/// Largest file that is stored with one request.
const SINGLE_BYTES_MAX: u64 = 16 << 20;
const PART_BYTES: u64 = 8 << 20;
/// The limit of S3.
const PARTS_MAX: u64 = 10_000;
const BUFFER_BYTES: usize = 64 << 10;

/// The message for clients.
const REFUSED: &str = "The file cannot be stored; nothing was saved.";

const CHECKSUM: &str = "x-amz-checksum-sha256";

/// An upload of one file.
pub struct S3Upload<'a> {
    pub client: &'a S3Client,
    pub key: &'a str,
    pub source: &'a File,
    pub size: u64,
    pub sha256_hex: &'a str,
    pub checksums: &'a Checksums,
}

/// Checksum support of the server: assumed until the server refuses a checksum.
pub struct Checksums {
    single: AtomicBool,
    /// Some servers support checksums of single requests only.
    parts: AtomicBool,
}

impl Default for Checksums {
    fn default() -> Checksums {
        Checksums {
            single: AtomicBool::new(true),
            parts: AtomicBool::new(true),
        }
    }
}

/// A part that was uploaded.
struct Part {
    e_tag: String,
    checksum: Option<String>,
}

impl S3Upload<'_> {
    pub fn run(&self) -> Result<()> {
        let flag = match self.size {
            0..=SINGLE_BYTES_MAX => &self.checksums.single,
            _ => &self.checksums.parts,
        };
        let has_checksums = flag.load(Ordering::Relaxed);
        let result = match self.store(has_checksums) {
            Err(UploadError::Refused(error)) if error.is_of_checksums && has_checksums => {
                self.store(false).inspect(|()| {
                    flag.store(false, Ordering::Relaxed);
                    log::warn(format_args!(
                        "s3 does not support checksums, uploads are not verified: {error}"
                    ));
                })
            }
            result => result,
        };
        result.map_err(|error| self.error(error))
    }

    fn error(&self, error: UploadError) -> Error {
        let doing = format!("store {}", self.key);
        match error {
            UploadError::Refused(error) => error.into_error(REFUSED, &doing),
            UploadError::Damaged(what) => Error::unavailable(REFUSED)
                .context(format!("{doing}: the received file is damaged: {what}")),
        }
    }

    fn store(&self, has_checksums: bool) -> Result<(), UploadError> {
        if self.size <= SINGLE_BYTES_MAX {
            return self.store_single(has_checksums);
        }
        let id = self.begin(has_checksums)?;
        let result = self
            .send_parts(&id, has_checksums)
            .and_then(|parts| self.complete(&id, &parts));
        // One attempt: the caller has waited long enough, and stale uploads are aborted later.
        if result.is_err()
            && let Err(error) = abort(self.key, &id, |call| self.client.once(call))
        {
            log::warn(format_args!("s3 abort upload of {}: {error}", self.key));
        }
        result
    }

    fn store_single(&self, has_checksums: bool) -> Result<(), UploadError> {
        let mut whole = Sha256Hasher::new();
        let checksum = self.hash(0, self.size, &mut whole)?;
        self.verify(whole)?;
        let headers = [(CHECKSUM, checksum.as_str())];
        let call = S3Request {
            method: Method::Put,
            key: Some(self.key),
            query: &[],
            headers: if has_checksums { &headers } else { &[] },
            body: self.piece(0, self.size),
        };
        Ok(self.client.call(&call, S3Response::done)?)
    }

    fn piece(&self, start: u64, length: u64) -> S3Body<'_> {
        match length {
            0 => S3Body::Bytes(&[]),
            _ => S3Body::Piece(Piece {
                file: self.source,
                start,
                length,
            }),
        }
    }

    /// Hashes a part, and adds it to the hash of the whole file.
    fn hash(
        &self,
        start: u64,
        length: u64,
        whole: &mut Sha256Hasher,
    ) -> Result<String, UploadError> {
        let mut own = Sha256Hasher::new();
        let mut buffer = vec![0; BUFFER_BYTES.min(usize::try_from(length).unwrap_or(BUFFER_BYTES))];
        let (mut at, end) = (start, start + length);
        while at < end {
            let most = usize::try_from(end - at).unwrap_or(usize::MAX);
            let most = most.min(buffer.len());
            self.source
                .read_exact_at(&mut buffer[..most], at)
                .map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof => {
                        UploadError::Damaged("it is too short".to_owned())
                    }
                    _ => UploadError::Damaged(error.to_string()),
                })?;
            own.update(&buffer[..most]);
            whole.update(&buffer[..most]);
            at += most as u64;
        }
        Ok(crypto::base64(&own.finish()))
    }

    fn verify(&self, whole: Sha256Hasher) -> Result<(), UploadError> {
        if ids::hex(&whole.finish()) == self.sha256_hex {
            return Ok(());
        }
        Err(UploadError::Damaged("SHA-256 mismatch".to_owned()))
    }

    /// Begins a multipart upload; returns its id.
    fn begin(&self, has_checksums: bool) -> Result<String, UploadError> {
        let headers = [("x-amz-checksum-algorithm", "SHA256")];
        let call = S3Request {
            method: Method::Post,
            key: Some(self.key),
            query: &[("uploads", "")],
            headers: if has_checksums { &headers } else { &[] },
            body: S3Body::Bytes(&[]),
        };
        let id = self.client.call(&call, |response| {
            let id = response.xml()?.text_of("UploadId").map(str::to_owned);
            id.filter(|id| !id.is_empty())
                .ok_or_else(|| S3Error::invalid("an upload without an id"))
        })?;
        Ok(id)
    }

    fn send_parts(&self, id: &str, has_checksums: bool) -> Result<Vec<Part>, UploadError> {
        let part_bytes = part_bytes(self.size);
        let mut whole = Sha256Hasher::new();
        let mut parts = Vec::new();
        let mut at = 0;
        while at < self.size {
            let length = part_bytes.min(self.size - at);
            let checksum = self.hash(at, length, &mut whole)?;
            let headers = [(CHECKSUM, checksum.as_str())];
            let number = (parts.len() + 1).to_string();
            let call = S3Request {
                method: Method::Put,
                key: Some(self.key),
                query: &[("partNumber", &number), ("uploadId", id)],
                headers: if has_checksums { &headers } else { &[] },
                body: self.piece(at, length),
            };
            let e_tag = self.client.call(&call, |response| {
                let e_tag = response.header("etag").map(str::to_owned);
                response.done()?;
                e_tag.ok_or_else(|| S3Error::invalid("a part without an ETag"))
            })?;
            parts.push(Part {
                e_tag,
                checksum: has_checksums.then_some(checksum),
            });
            at += length;
        }
        self.verify(whole)?;
        Ok(parts)
    }

    fn complete(&self, id: &str, parts: &[Part]) -> Result<(), UploadError> {
        let body = completion(parts);
        let call = S3Request {
            method: Method::Post,
            key: Some(self.key),
            query: &[("uploadId", id)],
            headers: &[],
            body: S3Body::Bytes(body.as_bytes()),
        };
        match self.client.call(&call, |response| response.xml().map(drop)) {
            // An earlier attempt succeeded, and its response was lost.
            Err(error)
                if error.code == "NoSuchUpload" && error.attempts > 1 && self.is_stored() =>
            {
                Ok(())
            }
            result => Ok(result?),
        }
    }

    fn is_stored(&self) -> bool {
        let call = S3Request {
            method: Method::Head,
            key: Some(self.key),
            query: &[],
            headers: &[],
            body: S3Body::None,
        };
        let size = self.client.call(&call, |response| {
            Ok(response.header("content-length").map(str::to_owned))
        });
        matches!(size, Ok(Some(size)) if size == self.size.to_string())
    }
}

/// Why a file was not stored.
enum UploadError {
    Refused(S3Error),
    /// The received file no longer has its hash.
    Damaged(String),
}

impl From<S3Error> for UploadError {
    fn from(error: S3Error) -> UploadError {
        UploadError::Refused(error)
    }
}

/// Aborts a multipart upload and frees its parts; succeeds if it does not exist.
pub fn abort(
    key: &str,
    id: &str,
    send: impl FnOnce(&S3Request<'_>) -> Result<(), S3Error>,
) -> Result<(), S3Error> {
    let call = S3Request {
        method: Method::Delete,
        key: Some(key),
        query: &[("uploadId", id)],
        headers: &[],
        body: S3Body::None,
    };
    match send(&call) {
        Err(error) if error.code == "NoSuchUpload" => Ok(()),
        result => result,
    }
}

/// The size of parts: whole MiB, as small as the limit of parts permits.
fn part_bytes(size: u64) -> u64 {
    PART_BYTES.max(size.div_ceil(PARTS_MAX).next_multiple_of(1 << 20))
}

fn completion(parts: &[Part]) -> String {
    let mut body =
        String::from("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for (at, part) in parts.iter().enumerate() {
        body.push_str("<Part>");
        if let Some(checksum) = &part.checksum {
            body.push_str(&format!("<ChecksumSHA256>{checksum}</ChecksumSHA256>"));
        }
        let (e_tag, number) = (xml::escape(&part.e_tag), at + 1);
        body.push_str(&format!(
            "<ETag>{e_tag}</ETag><PartNumber>{number}</PartNumber></Part>"
        ));
    }
    body.push_str("</CompleteMultipartUpload>");
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_never_too_many() {
        assert_eq!(part_bytes(40 << 20), 8 << 20);
        assert_eq!(part_bytes(10_000 * (8 << 20)), 8 << 20);
        assert_eq!(part_bytes(10_000 * (8 << 20) + 1), 9 << 20);
        let largest: u64 = 5 << 40;
        assert!(largest.div_ceil(part_bytes(largest)) <= PARTS_MAX);
    }

    #[test]
    fn checksums_are_padded() {
        assert_eq!(crypto::base64(b"\xfb\xff\xfe"), "+//+");
        assert_eq!(crypto::base64(b"a"), "YQ==");
    }
}
