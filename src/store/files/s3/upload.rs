//! Storing a file: one request for a small one, a multipart upload for a large one.
//!
//! Each piece of the file is hashed in a first pass and sent in a second, so that an upload needs little
//! memory however large it is. The server is given the hash and must compare it; the hash of the whole is
//! compared here before the file counts as stored.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use super::wire::{Answer, Body, Call, Failure, Method, Piece, Wire};
use super::xml;
use crate::base::crypto::Hasher;
use crate::base::error::{Error, Result};
use crate::base::{crypto, ids, log};

/// Up to here a file is stored with one request.
const SINGLE_BYTES_MAX: u64 = 16 << 20;
const PART_BYTES: u64 = 8 << 20;
/// S3 takes no more.
const PARTS_MAX: u64 = 10_000;
const BUFFER_BYTES: usize = 64 << 10;

const CHECKSUM: &str = "x-amz-checksum-sha256";

/// A file on its way to the storage.
pub struct Upload<'a> {
    pub wire: &'a Wire,
    pub key: &'a str,
    pub source: &'a File,
    pub size: u64,
    pub sha256_hex: &'a str,
    pub checksums: &'a Checksums,
}

/// Whether the server verifies checksums: taken for granted until it says that it does not.
pub struct Checksums {
    at_once: AtomicBool,
    /// Some know them of whole files only.
    of_parts: AtomicBool,
}

impl Default for Checksums {
    fn default() -> Checksums {
        Checksums {
            at_once: AtomicBool::new(true),
            of_parts: AtomicBool::new(true),
        }
    }
}

/// A part that the server has.
struct Part {
    e_tag: String,
    checksum: Option<String>,
}

impl Upload<'_> {
    pub fn run(&self) -> Result<()> {
        let flag = match self.size {
            0..=SINGLE_BYTES_MAX => &self.checksums.at_once,
            _ => &self.checksums.of_parts,
        };
        let has_checksums = flag.load(Ordering::Relaxed);
        let result = match self.store(has_checksums) {
            Err(Problem::Refused(failure)) if failure.is_of_checksums && has_checksums => {
                self.store(false).inspect(|()| {
                    flag.store(false, Ordering::Relaxed);
                    log::warn(format_args!("s3 cannot verify what it stores: {failure}"));
                })
            }
            result => result,
        };
        result.map_err(|problem| self.error(problem))
    }

    fn error(&self, problem: Problem) -> Error {
        let doing = format!("store {}", self.key);
        match problem {
            Problem::Refused(failure) => failure.into_error(REFUSED, &doing),
            Problem::Damaged(what) => Error::unavailable(REFUSED)
                .context(format!("{doing}: the received file is damaged: {what}")),
        }
    }

    fn store(&self, has_checksums: bool) -> Result<(), Problem> {
        if self.size <= SINGLE_BYTES_MAX {
            return self.store_at_once(has_checksums);
        }
        let id = self.begin(has_checksums)?;
        let result = self
            .send_parts(&id, has_checksums)
            .and_then(|parts| self.complete(&id, &parts));
        // Once only: the caller has waited long enough, and what is left is found later.
        if result.is_err()
            && let Err(failure) = abort(self.key, &id, |call| self.wire.once(call))
        {
            log::warn(format_args!("s3 abort upload of {}: {failure}", self.key));
        }
        result
    }

    fn store_at_once(&self, has_checksums: bool) -> Result<(), Problem> {
        let mut whole = Hasher::new();
        let checksum = self.hash(0, self.size, &mut whole)?;
        self.verify(whole)?;
        let headers = [(CHECKSUM, checksum.as_str())];
        let call = Call {
            method: Method::Put,
            key: Some(self.key),
            query: &[],
            headers: if has_checksums { &headers } else { &[] },
            body: self.piece(0, self.size),
        };
        Ok(self.wire.call(&call, Answer::done)?)
    }

    fn piece(&self, start: u64, length: u64) -> Body<'_> {
        match length {
            0 => Body::Bytes(&[]),
            _ => Body::Piece(Piece {
                file: self.source,
                start,
                length,
            }),
        }
    }

    /// Hashes a piece for the server, and for the hash of the whole.
    fn hash(&self, start: u64, length: u64, whole: &mut Hasher) -> Result<String, Problem> {
        let mut own = Hasher::new();
        let mut buffer = vec![0; BUFFER_BYTES.min(usize::try_from(length).unwrap_or(BUFFER_BYTES))];
        let (mut at, end) = (start, start + length);
        while at < end {
            let most = usize::try_from(end - at).unwrap_or(usize::MAX);
            let most = most.min(buffer.len());
            self.source
                .read_exact_at(&mut buffer[..most], at)
                .map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof => Problem::Damaged("it is too short".to_owned()),
                    _ => Problem::Damaged(error.to_string()),
                })?;
            own.update(&buffer[..most]);
            whole.update(&buffer[..most]);
            at += most as u64;
        }
        Ok(base64(&own.finish()))
    }

    fn verify(&self, whole: Hasher) -> Result<(), Problem> {
        if ids::hex(&whole.finish()) == self.sha256_hex {
            return Ok(());
        }
        Err(Problem::Damaged("its SHA-256 is another".to_owned()))
    }

    /// Begins a multipart upload; its id.
    fn begin(&self, has_checksums: bool) -> Result<String, Problem> {
        let headers = [("x-amz-checksum-algorithm", "SHA256")];
        let call = Call {
            method: Method::Post,
            key: Some(self.key),
            query: &[("uploads", "")],
            headers: if has_checksums { &headers } else { &[] },
            body: Body::Bytes(&[]),
        };
        let id = self.wire.call(&call, |answer| {
            let id = answer.xml()?.text_of("UploadId").map(str::to_owned);
            id.filter(|id| !id.is_empty())
                .ok_or_else(|| Failure::invalid("an upload without an id"))
        })?;
        Ok(id)
    }

    fn send_parts(&self, id: &str, has_checksums: bool) -> Result<Vec<Part>, Problem> {
        let part_bytes = part_bytes(self.size);
        let mut whole = Hasher::new();
        let mut parts = Vec::new();
        let mut at = 0;
        while at < self.size {
            let length = part_bytes.min(self.size - at);
            let checksum = self.hash(at, length, &mut whole)?;
            let headers = [(CHECKSUM, checksum.as_str())];
            let number = (parts.len() + 1).to_string();
            let call = Call {
                method: Method::Put,
                key: Some(self.key),
                query: &[("partNumber", &number), ("uploadId", id)],
                headers: if has_checksums { &headers } else { &[] },
                body: self.piece(at, length),
            };
            let e_tag = self.wire.call(&call, |answer| {
                let e_tag = answer.header("etag").map(str::to_owned);
                answer.done()?;
                e_tag.ok_or_else(|| Failure::invalid("a part without an ETag"))
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

    fn complete(&self, id: &str, parts: &[Part]) -> Result<(), Problem> {
        let body = completion(parts);
        let call = Call {
            method: Method::Post,
            key: Some(self.key),
            query: &[("uploadId", id)],
            headers: &[],
            body: Body::Bytes(body.as_bytes()),
        };
        match self.wire.call(&call, |answer| answer.xml().map(drop)) {
            // An earlier attempt had success, and its answer was lost.
            Err(failure)
                if failure.code == "NoSuchUpload" && failure.attempts > 1 && self.is_stored() =>
            {
                Ok(())
            }
            result => Ok(result?),
        }
    }

    fn is_stored(&self) -> bool {
        let call = Call {
            method: Method::Head,
            key: Some(self.key),
            query: &[],
            headers: &[],
            body: Body::None,
        };
        let size = self.wire.call(&call, |answer| {
            Ok(answer.header("content-length").map(str::to_owned))
        });
        matches!(size, Ok(Some(size)) if size == self.size.to_string())
    }
}

/// What a client is told.
const REFUSED: &str = "The file cannot be stored; nothing was saved.";

/// Why a file was not stored.
enum Problem {
    Refused(Failure),
    /// The file that was to be sent is not what arrived here.
    Damaged(String),
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Problem {
        Problem::Refused(failure)
    }
}

/// Ends a multipart upload and frees its parts; one that is not there is fine.
pub fn abort(
    key: &str,
    id: &str,
    send: impl FnOnce(&Call<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let call = Call {
        method: Method::Delete,
        key: Some(key),
        query: &[("uploadId", id)],
        headers: &[],
        body: Body::None,
    };
    match send(&call) {
        Err(failure) if failure.code == "NoSuchUpload" => Ok(()),
        result => result,
    }
}

/// Whole mebibytes, as few as the number of parts allows.
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

/// Base64 with the standard alphabet and padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    let mut text = crypto::base64url(bytes).replace('-', "+").replace('_', "/");
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
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
        assert_eq!(base64(b"\xfb\xff\xfe"), "+//+");
        assert_eq!(base64(b"a"), "YQ==");
    }
}
