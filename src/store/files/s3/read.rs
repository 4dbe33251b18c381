//! Reading a stored file: range by range, each with its own deadline, resumed where a response
//! broke off.
//!
//! The deadline is that of a request, and a caller (a client with a slow connection) may take
//! longer. The rest of the range is then requested again; only attempts that yield no bytes count
//! as failures.

use std::io;
use std::io::Read;
use std::sync::Arc;
use std::time::Instant;

use super::client::{Method, S3Body, S3Client, S3Error, S3Request, S3Response};
use crate::base::crypto::Sha256Hasher;
use crate::base::error::Result;
use crate::base::{ids, threads};

const UNREADABLE: &str = "The file cannot be read now; try again later.";

/// A reader of a range of a stored file.
pub struct RangeReader {
    client: Arc<S3Client>,
    key: String,
    /// The version of the file at the first response.
    e_tag: Option<String>,
    at: u64,
    end: u64,
    range: Option<Range>,
    /// Consecutive attempts without bytes, and the time of the first.
    failures: u32,
    failing_since: Instant,
}

/// A response that is being read.
struct Range {
    body: Box<dyn Read + Send>,
    left: u64,
    has_yielded: bool,
}

impl RangeReader {
    /// Requests the first range; none if the file does not exist.
    pub fn open(
        client: Arc<S3Client>,
        key: &str,
        start: u64,
        length: u64,
    ) -> Result<Option<RangeReader>> {
        let mut reader = RangeReader {
            client,
            key: key.to_owned(),
            e_tag: None,
            at: start,
            end: start.saturating_add(length),
            range: None,
            failures: 0,
            failing_since: Instant::now(),
        };
        match reader.open_range() {
            Ok(range) => {
                // An empty range is not read.
                reader.range = Some(range).filter(|_| length > 0);
                Ok(Some(reader))
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into_error(UNREADABLE, &format!("read {key}"))),
        }
    }

    fn open_range(&mut self) -> Result<Range, S3Error> {
        let last = self
            .end
            .min(self.at.saturating_add(self.client.limits.range_bytes));
        let left = last - self.at;
        let range = format!("bytes={}-{}", self.at, last.saturating_sub(1));
        let mut headers = Vec::new();
        if left > 0 {
            headers.push(("range", range.as_str()));
        }
        if let Some(e_tag) = &self.e_tag {
            headers.push(("if-match", e_tag));
        }
        let call = S3Request {
            method: Method::Get,
            key: Some(&self.key),
            query: &[],
            headers: &headers,
            body: S3Body::None,
        };
        let check = |response| self.check(response, left);
        let response = self
            .client
            .call(&call, check)
            .map_err(|error| match error.status {
                412 => S3Error::fatal("the file changed while it was read"),
                416 => S3Error::fatal("the file is too short"),
                _ => error,
            })?;
        if self.e_tag.is_none() {
            // A weak ETag does not guarantee equal bytes.
            let e_tag = response.header("etag").filter(|tag| tag.starts_with('"'));
            self.e_tag = e_tag.map(str::to_owned);
        }
        Ok(Range {
            body: response.into_reader(),
            left,
            has_yielded: false,
        })
    }

    /// Checks that the response contains exactly the requested range.
    fn check(&self, response: S3Response, left: u64) -> Result<S3Response, S3Error> {
        let too_short = || S3Error::fatal("the file is too short");
        if response.status() == 206 {
            let stated = response
                .header("content-range")
                .and_then(parse_content_range);
            let (first, last, total) =
                stated.ok_or_else(|| S3Error::invalid("no Content-Range"))?;
            return match (first, last + 1) {
                _ if total.is_some_and(|total| total < self.end) => Err(too_short()),
                (first, end) if first == self.at && end - first == left => Ok(response),
                _ => Err(S3Error::invalid("a different range than requested")),
            };
        }
        if self.at > 0 && left > 0 {
            return Err(S3Error::fatal("the server does not support ranges"));
        }
        let length = response.header("content-length");
        match length.and_then(|length| length.parse::<u64>().ok()) {
            Some(length) if length < self.end => Err(too_short()),
            _ => Ok(response),
        }
    }

    /// Handles a response that ended early: pauses before the next attempt, or fails after too
    /// many.
    fn failed(&mut self, error: S3Error) -> io::Result<()> {
        let had_yielded = self.range.take().is_some_and(|range| range.has_yielded);
        if had_yielded {
            self.failures = 0;
            return Ok(());
        }
        if self.failures == 0 {
            self.failing_since = Instant::now();
        }
        self.failures += 1;
        let is_late = self.failing_since.elapsed() >= self.client.limits.total;
        if self.failures >= self.client.limits.attempts || is_late {
            return Err(self.error(error));
        }
        threads::pause(self.client.pause(self.failures));
        Ok(())
    }

    fn error(&self, error: S3Error) -> io::Error {
        let doing = format!("read {} at {}", self.key, self.at);
        io::Error::other(error.into_error(UNREADABLE, &doing))
    }
}

impl Read for RangeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at < self.end && !buffer.is_empty() {
            if self.range.is_none() {
                self.range = Some(self.open_range().map_err(|error| self.error(error))?);
            }
            let Some(range) = &mut self.range else {
                continue;
            };
            let most = usize::try_from(range.left).unwrap_or(usize::MAX);
            let most = most.min(buffer.len());
            match range.body.read(&mut buffer[..most]) {
                Ok(0) => self.failed(S3Error::truncated(&io::ErrorKind::UnexpectedEof.into()))?,
                Err(error) => self.failed(S3Error::truncated(&error))?,
                Ok(length) => {
                    self.at += length as u64;
                    range.left -= length as u64;
                    range.has_yielded = true;
                    if range.left == 0 {
                        // Read to its end, the connection can be used again. What may be wrong with
                        // it does not matter any more.
                        let _ = range.body.read(&mut [0]);
                        self.range = None;
                        self.failures = 0;
                    }
                    return Ok(length);
                }
            }
        }
        Ok(0)
    }
}

/// Parses `bytes FIRST-LAST/TOTAL`; the total is `*` if unknown.
fn parse_content_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    let total = match total {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    (first <= last && last < u64::MAX).then_some((first, last, total))
}

/// A reader of a whole file with a known hash. If the hash differs, it fails before it has yielded
/// the last bytes.
pub struct VerifiedReader<R> {
    inner: R,
    left: u64,
    sha256_hex: String,
    /// None after the comparison.
    hasher: Option<Sha256Hasher>,
}

impl<R: Read> VerifiedReader<R> {
    pub fn new(inner: R, size: u64, sha256_hex: &str) -> VerifiedReader<R> {
        VerifiedReader {
            inner,
            left: size,
            sha256_hex: sha256_hex.to_owned(),
            hasher: Some(Sha256Hasher::new()),
        }
    }
}

impl<R: Read> Read for VerifiedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        let length = self.inner.read(&mut buffer[..most])?;
        self.left -= length as u64;
        if length == 0 && self.left > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..length]);
        }
        if self.left == 0
            && let Some(hasher) = self.hasher.take()
            && ids::hex(&hasher.finish()) != self.sha256_hex
        {
            // Later reads must fail too, not signal the end.
            self.left = 1;
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the stored file is damaged: SHA-256 mismatch",
            ));
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_strictly() {
        let cases = [
            ("bytes 0-9/10", Some((0, 9, Some(10)))),
            ("bytes 5-5/*", Some((5, 5, None))),
            ("bytes 9-5/10", None),
            ("bytes */10", None),
            ("0-9/10", None),
            ("bytes 0-18446744073709551615/*", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_content_range(text), expected, "{text}");
        }
    }

    #[test]
    fn a_wrong_hash_is_noticed_before_the_last_bytes() {
        let hash = ids::hex(&crate::base::crypto::sha256(b"hello"));
        let read = |bytes: &'static [u8], size, hash: &str| {
            let mut out = Vec::new();
            let mut verified = VerifiedReader::new(bytes, size, hash);
            let mut buffer = [0; 2];
            loop {
                match verified.read(&mut buffer) {
                    Ok(0) => return (out, true),
                    Ok(length) => out.extend_from_slice(&buffer[..length]),
                    Err(_) => {
                        assert!(verified.read(&mut buffer).is_err());
                        return (out, false);
                    }
                }
            }
        };
        assert_eq!(read(b"hello", 5, &hash), (b"hello".to_vec(), true));
        assert_eq!(read(b"hullo", 5, &hash), (b"hull".to_vec(), false));
        assert_eq!(read(b"hell", 5, &hash), (b"hell".to_vec(), false));
        assert_eq!(read(b"", 0, &hash), (Vec::new(), false));
        let empty = ids::hex(&crate::base::crypto::sha256(b""));
        assert_eq!(read(b"", 0, &empty), (Vec::new(), true));
    }
}
