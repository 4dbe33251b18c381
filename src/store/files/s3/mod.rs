//! The storage on an S3 server: files under keys of one bucket.
//!
//! What is stored is verified by the server (SHA-256 of every piece) as long as it knows checksums; what
//! is read can be verified by the caller ([`Verified`]). Requests have deadlines and are tried again a
//! few times (`wire`), so every call ends, with success or an error that says what the server answered.
//! Nothing here knows records: to whom a key belongs is the business of the caller.
//!
//! One [`S3`] is shared by all threads. It starts none and holds nothing but idle connections. (A new
//! connection has its host's address looked up by a thread of ureq, so that this can be given up.)

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock;
use crate::base::error::{Error, Result};
use crate::base::tls::Roots;

use read::Reader;
use upload::{Checksums, Upload};
use wire::{Answer, Body, Call, Failure, Limits, Method, Wire};
use xml::Element;

pub use read::Verified;

mod read;
mod upload;
mod wire;
mod xml;

/// A link lives no longer: signatures of this kind do not.
const LINK_LIFETIME_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

const NO_ANSWER: &str = "The storage of files does not answer.";

/// Where the bucket is, and who we are there.
#[derive(Clone)]
pub struct Settings {
    /// `http://` or `https://`, a host, perhaps a port and a path.
    pub endpoint: String,
    pub bucket: String,
    pub region: String,
    pub access_key: String,
    pub secret_key: String,
    /// The bucket is the first part of the path, and not of the host's name.
    pub path_style: bool,
    /// By whom the server is trusted.
    pub roots: Roots,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("endpoint", &self.endpoint)
            .field("bucket", &self.bucket)
            .field("region", &self.region)
            .field("path_style", &self.path_style)
            .finish_non_exhaustive()
    }
}

/// A stored file, as a list has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub key: String,
    pub size: u64,
    /// Milliseconds since 1970.
    pub modified_ms: i64,
}

/// A bucket on an S3 server.
pub struct S3 {
    wire: Arc<Wire>,
    checksums: Checksums,
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3")
            .field("host", &self.wire.host())
            .field("bucket", &self.wire.bucket())
            .finish_non_exhaustive()
    }
}

impl S3 {
    /// Reads the settings; nothing is sent yet.
    pub fn open(settings: &Settings) -> Result<S3> {
        let limits = Limits::default();
        let agent = wire::agent(&limits, &settings.roots);
        Ok(S3::of_wire(Wire::new(settings, limits, agent)?))
    }

    fn of_wire(wire: Wire) -> S3 {
        S3 {
            wire: Arc::new(wire),
            checksums: Checksums::default(),
        }
    }

    /// Whether the bucket is there and may be used; the error is for the operator.
    pub fn check(&self) -> Result<()> {
        let call = of_bucket(&[("list-type", "2"), ("max-keys", "1")]);
        let answer = self.wire.call(&call, Answer::xml);
        answer.map(drop).map_err(|failure| self.explain(&failure))
    }

    fn explain(&self, failure: &Failure) -> Error {
        let (host, bucket) = (self.wire.host(), self.wire.bucket());
        Error::unavailable(match (failure.status, failure.code.as_str()) {
            (0, _) => format!("S3 at {host} (S3_ENDPOINT) cannot be used: {failure}."),
            (_, "NoSuchBucket") => format!("S3 at {host} has no bucket {bucket} (S3_BUCKET)."),
            (_, "InvalidAccessKeyId" | "NotSignedUp") => {
                format!("S3 at {host} does not know the key S3_ACCESS_KEY ({failure}).")
            }
            (_, "SignatureDoesNotMatch") => {
                format!("S3 at {host} refuses the signature: S3_SECRET_KEY is wrong ({failure}).")
            }
            (301 | 307 | 308, _) | (_, "AuthorizationHeaderMalformed" | "PermanentRedirect") => {
                format!("The bucket {bucket} is not in this S3_REGION at {host} ({failure}).")
            }
            (_, "RequestTimeTooSkewed") => {
                format!("The clocks of this machine and of S3 at {host} differ ({failure}).")
            }
            (401 | 403, _) => {
                format!("S3 at {host} does not let S3_ACCESS_KEY list {bucket} ({failure}).")
            }
            _ => format!("The bucket {bucket} on S3 at {host} cannot be used: {failure}."),
        })
    }

    /// Stores the first `size` bytes of a file, whose hash is known.
    pub fn put(&self, key: &str, source: &File, size: u64, sha256_hex: &str) -> Result<()> {
        let upload = Upload {
            wire: &self.wire,
            key,
            source,
            size,
            sha256_hex,
            checksums: &self.checksums,
        };
        upload.run()
    }

    /// Reads a part of a stored file; none when it is not there. The reader gives `length` bytes or
    /// fails.
    pub fn get(&self, key: &str, start: u64, length: u64) -> Result<Option<Box<dyn Read + Send>>> {
        let reader = Reader::open(Arc::clone(&self.wire), key, start, length)?;
        Ok(reader.map(|reader| Box::new(reader) as Box<dyn Read + Send>))
    }

    /// Reads a whole stored file, which fails near its end if it is not the one of that hash.
    pub fn get_verified(
        &self,
        key: &str,
        size: u64,
        sha256_hex: &str,
    ) -> Result<Option<Verified<Box<dyn Read + Send>>>> {
        let reader = self.get(key, 0, size)?;
        Ok(reader.map(|reader| Verified::new(reader, size, sha256_hex)))
    }

    /// Deletes a stored file, if it is there.
    pub fn remove(&self, key: &str) -> Result<()> {
        let call = Call {
            method: Method::Delete,
            key: Some(key),
            query: &[],
            headers: &[],
            body: Body::None,
        };
        match self.wire.call(&call, Answer::done) {
            Err(failure) if failure.is_not_there() => Ok(()),
            result => {
                result.map_err(|failure| failure.into_error(NO_ANSWER, &format!("delete {key}")))
            }
        }
    }

    /// Calls `found` with every stored file whose key begins with `prefix`, in the order of the keys;
    /// stops at the first error.
    pub fn list(&self, prefix: &str, found: &mut dyn FnMut(Object) -> Result<()>) -> Result<()> {
        let page = self.wire.limits.page.to_string();
        let mut token: Option<String> = None;
        loop {
            let mut query = vec![
                ("list-type", "2"),
                ("max-keys", page.as_str()),
                ("prefix", prefix),
            ];
            if let Some(token) = &token {
                query.push(("continuation-token", token));
            }
            let (objects, next) = self
                .wire
                .call(&of_bucket(&query), |answer| {
                    let root = answer.xml()?;
                    let next = next_page(&root, &["NextContinuationToken"])?;
                    Ok((objects(&root)?, next))
                })
                .map_err(|failure| failure.into_error(NO_ANSWER, "list the stored files"))?;
            for object in objects {
                found(object)?;
            }
            let Some([next]) = next.as_deref() else {
                return Ok(());
            };
            if token.as_ref() == Some(next) {
                return Err(endless("list the stored files"));
            }
            token = Some(next.clone());
        }
    }

    /// A URL under which anybody can read the file for that long (at most a week), as that media type
    /// and with that `Content-Disposition`.
    pub fn link(
        &self,
        key: &str,
        lifetime: Duration,
        media_type: &str,
        disposition: &str,
    ) -> Result<String> {
        let call = Call {
            method: Method::Get,
            key: Some(key),
            query: &[
                ("response-content-type", media_type),
                ("response-content-disposition", disposition),
            ],
            headers: &[],
            body: Body::None,
        };
        let shortest = Duration::from_secs(1);
        self.wire
            .sign(&call, lifetime.clamp(shortest, LINK_LIFETIME_MAX))
    }

    /// Ends the multipart uploads of the bucket that were begun before that moment, which is what a
    /// crash leaves; their number. A server without a list of them has none, as far as we can tell.
    pub fn abort_stale_uploads(&self, before_ms: i64) -> Result<usize> {
        const DOING: &str = "end uploads that were left";
        let page = self.wire.limits.page.to_string();
        let mut markers: Option<Vec<String>> = None;
        let mut count = 0;
        loop {
            let mut query = vec![("uploads", ""), ("max-uploads", page.as_str())];
            if let Some([key, id]) = markers.as_deref() {
                query.push(("key-marker", key));
                query.push(("upload-id-marker", id));
            }
            let listed = self.wire.call(&of_bucket(&query), |answer| {
                let root = answer.xml()?;
                let next = next_page(&root, &["NextKeyMarker", "NextUploadIdMarker"])?;
                Ok((stale(&root, before_ms)?, next))
            });
            let (uploads, next) = match listed {
                Err(failure) if matches!(failure.status, 405 | 501) => return Ok(count),
                listed => listed.map_err(|failure| failure.into_error(NO_ANSWER, DOING))?,
            };
            for (key, id) in uploads {
                upload::abort(&key, &id, |call| self.wire.call(call, Answer::done))
                    .map_err(|failure| failure.into_error(NO_ANSWER, DOING))?;
                count += 1;
            }
            if next.is_none() {
                return Ok(count);
            }
            if next == markers {
                return Err(endless(DOING));
            }
            markers = next;
        }
    }
}

/// A question about the bucket.
fn of_bucket<'a>(query: &'a [(&'a str, &'a str)]) -> Call<'a> {
    Call {
        method: Method::Get,
        key: None,
        query,
        headers: &[],
        body: Body::None,
    }
}

/// What the next page is asked for with, by the names of its elements; none after the last page.
fn next_page(root: &Element, names: &[&str]) -> Result<Option<Vec<String>>, Failure> {
    if root.text_of("IsTruncated") != Some("true") {
        return Ok(None);
    }
    let values: Option<Vec<String>> = names
        .iter()
        .map(|name| root.text_of(name).map(str::to_owned))
        .collect();
    match values {
        Some(values) => Ok(Some(values)),
        None => Err(Failure::invalid("a list that does not say how to go on")),
    }
}

fn objects(root: &Element) -> Result<Vec<Object>, Failure> {
    root.all("Contents")
        .map(|entry| {
            let made = || {
                Some(Object {
                    key: entry.text_of("Key")?.to_owned(),
                    size: entry.text_of("Size")?.parse().ok()?,
                    modified_ms: clock::parse_datetime(entry.text_of("LastModified")?)?,
                })
            };
            made().ok_or_else(|| Failure::invalid("a list entry without key, size or time"))
        })
        .collect()
}

/// Key and id of the uploads that were begun before that moment.
fn stale(root: &Element, before_ms: i64) -> Result<Vec<(String, String)>, Failure> {
    let mut found = Vec::new();
    for entry in root.all("Upload") {
        let made = || {
            let begun = clock::parse_datetime(entry.text_of("Initiated")?)?;
            let (key, id) = (entry.text_of("Key")?, entry.text_of("UploadId")?);
            Some((begun, key.to_owned(), id.to_owned()))
        };
        match made() {
            Some((begun, key, id)) if begun < before_ms => found.push((key, id)),
            Some(_) => {}
            None => return Err(Failure::invalid("an upload without key, id or time")),
        }
    }
    Ok(found)
}

fn endless(doing: &str) -> Error {
    Failure::fatal("its list does not end").into_error(NO_ANSWER, doing)
}

#[cfg(test)]
mod tests;
