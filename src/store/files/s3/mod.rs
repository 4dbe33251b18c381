//! Storage on an S3 server: files under keys of one bucket.
//!
//! The server verifies uploads (SHA-256 of every part) if it supports checksums; the caller can
//! verify downloads ([`VerifiedReader`]). Requests have deadlines and a few retries (`client`), so
//! every call ends, with success or an error that contains the server's answer. This module does
//! not know records or what a key means.
//!
//! All threads share one [`S3`]. It starts no thread and holds only idle connections. (ureq
//! resolves the host of a new connection on a thread of its own, so that the look-up can time out.)

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock;
use crate::base::error::{Error, Result};

use client::{Method, S3Body, S3Client, S3Error, S3Limits, S3Request, S3Response};
use read::RangeReader;
use upload::{Checksums, S3Upload};
use xml::Element;

pub use client::S3Settings;
pub use read::VerifiedReader;

mod client;
mod read;
mod upload;
mod xml;

/// Longest lifetime of a presigned URL that AWS signature version 4 permits.
const URL_LIFETIME_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

const NO_ANSWER: &str = "The file storage does not respond.";

/// An entry of a list of objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Object {
    pub key: String,
    pub size: u64,
    /// Milliseconds since 1970.
    pub modified_ms: i64,
}

/// A bucket on an S3 server.
pub struct S3 {
    client: Arc<S3Client>,
    checksums: Checksums,
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3")
            .field("host", &self.client.host())
            .field("bucket", &self.client.bucket())
            .finish_non_exhaustive()
    }
}

impl S3 {
    /// Checks the settings; sends no request.
    pub fn open(settings: &S3Settings) -> Result<S3> {
        let limits = S3Limits::default();
        let agent = client::agent(&limits, &settings.roots);
        Ok(S3::of_client(S3Client::new(settings, limits, agent)?))
    }

    fn of_client(client: S3Client) -> S3 {
        S3 {
            client: Arc::new(client),
            checksums: Checksums::default(),
        }
    }

    /// Fails if the bucket does not exist or cannot be used; the error is for the operator.
    pub fn check(&self) -> Result<()> {
        let call = bucket_request(&[("list-type", "2"), ("max-keys", "1")]);
        let answer = self.client.call(&call, S3Response::xml);
        answer.map(drop).map_err(|error| self.explain(&error))
    }

    fn explain(&self, error: &S3Error) -> Error {
        let (host, bucket) = (self.client.host(), self.client.bucket());
        Error::unavailable(match (error.status, error.code.as_str()) {
            (0, _) => format!("S3 at {host} (S3_ENDPOINT) cannot be used: {error}."),
            (_, "NoSuchBucket") => format!("S3 at {host} has no bucket {bucket} (S3_BUCKET)."),
            (_, "InvalidAccessKeyId" | "NotSignedUp") => {
                format!("S3 at {host} does not know S3_ACCESS_KEY ({error}).")
            }
            (_, "SignatureDoesNotMatch") => {
                format!("S3 at {host} rejects the signature; S3_SECRET_KEY is wrong ({error}).")
            }
            (301 | 307 | 308, _) | (_, "AuthorizationHeaderMalformed" | "PermanentRedirect") => {
                format!(
                    "The bucket {bucket} at {host} is in another region than S3_REGION ({error})."
                )
            }
            (_, "RequestTimeTooSkewed") => {
                format!("The clocks of this machine and of S3 at {host} differ too much ({error}).")
            }
            (401 | 403, _) => {
                format!("S3_ACCESS_KEY lacks the permission to list {bucket} at {host} ({error}).")
            }
            _ => format!("The bucket {bucket} on S3 at {host} cannot be used: {error}."),
        })
    }

    /// Stores the first `size` bytes of a file with this hash.
    pub fn put(&self, key: &str, source: &File, size: u64, sha256_hex: &str) -> Result<()> {
        let upload = S3Upload {
            client: &self.client,
            key,
            source,
            size,
            sha256_hex,
            checksums: &self.checksums,
        };
        upload.run()
    }

    /// Opens a range of a stored file; none if the file does not exist. The reader yields `length`
    /// bytes or fails.
    pub fn get(&self, key: &str, start: u64, length: u64) -> Result<Option<Box<dyn Read + Send>>> {
        let reader = RangeReader::open(Arc::clone(&self.client), key, start, length)?;
        Ok(reader.map(|reader| Box::new(reader) as Box<dyn Read + Send>))
    }

    /// Opens a whole stored file. The reader fails near the end if the hash differs.
    pub fn get_verified(
        &self,
        key: &str,
        size: u64,
        sha256_hex: &str,
    ) -> Result<Option<VerifiedReader<Box<dyn Read + Send>>>> {
        let reader = self.get(key, 0, size)?;
        Ok(reader.map(|reader| VerifiedReader::new(reader, size, sha256_hex)))
    }

    /// Deletes a stored file, if it exists.
    pub fn remove(&self, key: &str) -> Result<()> {
        let call = S3Request {
            method: Method::Delete,
            key: Some(key),
            query: &[],
            headers: &[],
            body: S3Body::None,
        };
        match self.client.call(&call, S3Response::done) {
            Err(error) if error.is_not_found() => Ok(()),
            result => result.map_err(|error| error.into_error(NO_ANSWER, &format!("delete {key}"))),
        }
    }

    /// Calls `found` with every object whose key begins with `prefix`, in the order of the keys;
    /// stops at the first error.
    pub fn list(&self, prefix: &str, found: &mut dyn FnMut(S3Object) -> Result<()>) -> Result<()> {
        let page = self.client.limits.page.to_string();
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
                .client
                .call(&bucket_request(&query), |answer| {
                    let root = answer.xml()?;
                    let next = next_page(&root, &["NextContinuationToken"])?;
                    Ok((objects(&root)?, next))
                })
                .map_err(|error| error.into_error(NO_ANSWER, "list the stored files"))?;
            for object in objects {
                found(object)?;
            }
            let Some([next]) = next.as_deref() else {
                return Ok(());
            };
            if token.as_ref() == Some(next) {
                return Err(endless_list("list the stored files"));
            }
            token = Some(next.clone());
        }
    }

    /// A presigned URL: it permits anyone to download the file for `lifetime` (at most a week),
    /// with this media type and `Content-Disposition`.
    pub fn presigned_url(
        &self,
        key: &str,
        lifetime: Duration,
        media_type: &str,
        disposition: &str,
    ) -> Result<String> {
        let call = S3Request {
            method: Method::Get,
            key: Some(key),
            query: &[
                ("response-content-type", media_type),
                ("response-content-disposition", disposition),
            ],
            headers: &[],
            body: S3Body::None,
        };
        let shortest = Duration::from_secs(1);
        self.client
            .sign(&call, lifetime.clamp(shortest, URL_LIFETIME_MAX))
    }

    /// Aborts the multipart uploads that were begun before `before_ms`, which a crash leaves.
    /// Returns their number; 0 if the server cannot list them.
    pub fn abort_stale_uploads(&self, before_ms: i64) -> Result<usize> {
        const DOING: &str = "abort stale uploads";
        let page = self.client.limits.page.to_string();
        let mut markers: Option<Vec<String>> = None;
        let mut count = 0;
        loop {
            let mut query = vec![("uploads", ""), ("max-uploads", page.as_str())];
            if let Some([key, id]) = markers.as_deref() {
                query.push(("key-marker", key));
                query.push(("upload-id-marker", id));
            }
            let listed = self.client.call(&bucket_request(&query), |answer| {
                let root = answer.xml()?;
                let next = next_page(&root, &["NextKeyMarker", "NextUploadIdMarker"])?;
                Ok((stale_uploads(&root, before_ms)?, next))
            });
            let (uploads, next) = match listed {
                Err(error) if matches!(error.status, 405 | 501) => return Ok(count),
                listed => listed.map_err(|error| error.into_error(NO_ANSWER, DOING))?,
            };
            for (key, id) in uploads {
                upload::abort(&key, &id, |call| self.client.call(call, S3Response::done))
                    .map_err(|error| error.into_error(NO_ANSWER, DOING))?;
                count += 1;
            }
            if next.is_none() {
                return Ok(count);
            }
            if next == markers {
                return Err(endless_list(DOING));
            }
            markers = next;
        }
    }
}

/// A GET request to the bucket.
fn bucket_request<'a>(query: &'a [(&'a str, &'a str)]) -> S3Request<'a> {
    S3Request {
        method: Method::Get,
        key: None,
        query,
        headers: &[],
        body: S3Body::None,
    }
}

/// The markers of the next page, from the elements of these names; none after the last page.
fn next_page(root: &Element, names: &[&str]) -> Result<Option<Vec<String>>, S3Error> {
    if root.text_of("IsTruncated") != Some("true") {
        return Ok(None);
    }
    let values: Option<Vec<String>> = names
        .iter()
        .map(|name| root.text_of(name).map(str::to_owned))
        .collect();
    match values {
        Some(values) => Ok(Some(values)),
        None => Err(S3Error::invalid("a truncated list without a continuation")),
    }
}

fn objects(root: &Element) -> Result<Vec<S3Object>, S3Error> {
    root.all("Contents")
        .map(|entry| {
            let made = || {
                Some(S3Object {
                    key: entry.text_of("Key")?.to_owned(),
                    size: entry.text_of("Size")?.parse().ok()?,
                    modified_ms: clock::parse_datetime(entry.text_of("LastModified")?)?,
                })
            };
            made().ok_or_else(|| S3Error::invalid("a list entry without key, size or time"))
        })
        .collect()
}

/// Key and id of the uploads that were begun before `before_ms`.
fn stale_uploads(root: &Element, before_ms: i64) -> Result<Vec<(String, String)>, S3Error> {
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
            None => return Err(S3Error::invalid("an upload without key, id or time")),
        }
    }
    Ok(found)
}

fn endless_list(doing: &str) -> Error {
    S3Error::fatal("its list does not end").into_error(NO_ANSWER, doing)
}

#[cfg(test)]
mod tests;
