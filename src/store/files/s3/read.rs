//! Reading a stored file: range after range, each with a deadline of its own, taken up again where an
//! answer broke off.
//!
//! The deadline is that of a request, and a caller may well be slower than that (a client behind a thin
//! line). Then the rest of the range is asked for again; what counts against the storage are only attempts
//! that bring nothing.

use std::io;
use std::io::Read;
use std::sync::Arc;
use std::time::Instant;

use super::wire::{Answer, Body, Call, Failure, Method, Wire};
use crate::base::crypto::Hasher;
use crate::base::error::Result;
use crate::base::ids;
use crate::base::threads::Stop;

const UNREADABLE: &str = "The file cannot be read at the moment.";

/// A part of a stored file.
pub struct Reader {
    wire: Arc<Wire>,
    key: String,
    /// Which version of the file was begun with.
    e_tag: Option<String>,
    at: u64,
    end: u64,
    range: Option<Range>,
    /// Attempts in a row that brought nothing, and since when.
    failures: u32,
    failing_since: Instant,
}

/// An answer that is being read.
struct Range {
    body: Box<dyn Read + Send>,
    left: u64,
    has_brought: bool,
}

impl Reader {
    /// Asks for the first range; none when the file is not there.
    pub fn open(wire: Arc<Wire>, key: &str, start: u64, length: u64) -> Result<Option<Reader>> {
        let mut reader = Reader {
            wire,
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
                // Of an empty part nothing will be read.
                reader.range = Some(range).filter(|_| length > 0);
                Ok(Some(reader))
            }
            Err(failure) if failure.is_not_there() => Ok(None),
            Err(failure) => Err(failure.into_error(UNREADABLE, &format!("read {key}"))),
        }
    }

    fn open_range(&mut self) -> Result<Range, Failure> {
        let last = self
            .end
            .min(self.at.saturating_add(self.wire.limits.range_bytes));
        let left = last - self.at;
        let range = format!("bytes={}-{}", self.at, last.saturating_sub(1));
        let mut headers = Vec::new();
        if left > 0 {
            headers.push(("range", range.as_str()));
        }
        if let Some(e_tag) = &self.e_tag {
            headers.push(("if-match", e_tag));
        }
        let call = Call {
            method: Method::Get,
            key: Some(&self.key),
            query: &[],
            headers: &headers,
            body: Body::None,
        };
        let check = |answer| self.check(answer, left);
        let answer = self
            .wire
            .call(&call, check)
            .map_err(|failure| match failure.status {
                412 => Failure::fatal("the file has changed while it was read"),
                416 => Failure::fatal("the file is too short"),
                _ => failure,
            })?;
        if self.e_tag.is_none() {
            // A weak one does not say that the bytes are the same.
            let e_tag = answer.header("etag").filter(|tag| tag.starts_with('"'));
            self.e_tag = e_tag.map(str::to_owned);
        }
        Ok(Range {
            body: answer.into_reader(),
            left,
            has_brought: false,
        })
    }

    /// Whether it is the part that was asked for, and all of it.
    fn check(&self, answer: Answer, left: u64) -> Result<Answer, Failure> {
        let too_short = || Failure::fatal("the file is too short");
        if answer.status() == 206 {
            let stated = answer.header("content-range").and_then(parse_content_range);
            let (first, last, total) = stated.ok_or_else(|| Failure::invalid("no range"))?;
            return match (first, last + 1) {
                _ if total.is_some_and(|total| total < self.end) => Err(too_short()),
                (first, end) if first == self.at && end - first == left => Ok(answer),
                _ => Err(Failure::invalid("another range")),
            };
        }
        if self.at > 0 && left > 0 {
            return Err(Failure::fatal("it does not know ranges"));
        }
        let length = answer.header("content-length");
        match length.and_then(|length| length.parse::<u64>().ok()) {
            Some(length) if length < self.end => Err(too_short()),
            _ => Ok(answer),
        }
    }

    /// An attempt brought too little. Says whether there is to be another.
    fn failed(&mut self, failure: Failure) -> io::Result<()> {
        let had_brought = self.range.take().is_some_and(|range| range.has_brought);
        if had_brought {
            self.failures = 0;
            return Ok(());
        }
        if self.failures == 0 {
            self.failing_since = Instant::now();
        }
        self.failures += 1;
        let is_late = self.failing_since.elapsed() >= self.wire.limits.total;
        if self.failures >= self.wire.limits.attempts || is_late {
            return Err(self.error(failure));
        }
        Stop::new().wait(self.wire.pause(self.failures));
        Ok(())
    }

    fn error(&self, failure: Failure) -> io::Error {
        let doing = format!("read {} at {}", self.key, self.at);
        io::Error::other(failure.into_error(UNREADABLE, &doing))
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at < self.end && !buffer.is_empty() {
            if self.range.is_none() {
                self.range = Some(self.open_range().map_err(|failure| self.error(failure))?);
            }
            let Some(range) = &mut self.range else {
                continue;
            };
            let most = usize::try_from(range.left).unwrap_or(usize::MAX);
            let most = most.min(buffer.len());
            match range.body.read(&mut buffer[..most]) {
                Ok(0) => self.failed(Failure::of_cut(&io::ErrorKind::UnexpectedEof.into()))?,
                Err(error) => self.failed(Failure::of_cut(&error))?,
                Ok(length) => {
                    self.at += length as u64;
                    range.left -= length as u64;
                    range.has_brought = true;
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

/// `bytes FIRST-LAST/TOTAL`, the total being `*` when it is not known.
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

/// A whole file whose hash is known: with another hash it fails before it has given out all of it.
pub struct Verified<R> {
    inner: R,
    left: u64,
    sha256_hex: String,
    /// None once it was compared.
    hasher: Option<Hasher>,
}

impl<R: Read> Verified<R> {
    pub fn new(inner: R, size: u64, sha256_hex: &str) -> Verified<R> {
        Verified {
            inner,
            left: size,
            sha256_hex: sha256_hex.to_owned(),
            hasher: Some(Hasher::new()),
        }
    }
}

impl<R: Read> Read for Verified<R> {
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
            // Whoever reads on shall not take it for the end.
            self.left = 1;
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the stored file is damaged: its SHA-256 is another",
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
            let mut verified = Verified::new(bytes, size, hash);
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
