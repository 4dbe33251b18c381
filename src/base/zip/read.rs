//! Reads zip archives: stored and deflated entries, also of more than 4 GiB.
//!
//! The directory at the end of the archive is kept in memory: about 100 bytes for each entry, of
//! which there are at most [`ENTRIES_MAX`]. The length of each entry is checked while it is read.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Error as IoError, ErrorKind, Read, Result as IoResult, Take};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use flate2::read::DeflateDecoder;

use super::format::{END, END_64, ENTRY, LOCAL, LOCATOR_64};
use crate::base::error::{Error, Result};

const ENTRIES_MAX: u64 = 20_000_000;
/// The end of an archive with the longest comment, and the locator before it.
const TAIL_BYTES: u64 = 22 + 0xffff + 20;
const BUFFER_BYTES: usize = 64 << 10;

/// An open archive.
pub struct Zip {
    file: Arc<File>,
    entries: HashMap<String, Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    is_deflated: bool,
    packed: u64,
    size: u64,
    /// Position of its local head.
    at: u64,
}

impl Zip {
    /// Reads the directory of an archive.
    pub fn open(file: File) -> Result<Zip> {
        let length = file.metadata()?.len();
        let (start, bytes) = find_directory(&file, length)?;
        let mut reader = At::new(Arc::new(file), start, bytes);
        let mut entries = HashMap::new();
        while let Some((name, entry)) = read_entry(&mut reader)? {
            if entries.len() as u64 >= ENTRIES_MAX {
                return Err(damaged("it has too many entries"));
            }
            entries.insert(name, entry);
        }
        Ok(Zip {
            file: reader.inner.file,
            entries,
        })
    }

    /// The content of an entry; none if there is no such entry.
    pub fn read(&self, name: &str) -> Result<Option<Box<dyn Read + Send>>> {
        let Some(entry) = self.entries.get(name) else {
            return Ok(None);
        };
        let mut head = [0; 30];
        self.file.read_exact_at(&mut head, entry.at)?;
        if u32_at(&head, 0) != LOCAL {
            return Err(damaged("the head of an entry is missing"));
        }
        let skipped = 30 + u64::from(u16_at(&head, 26)) + u64::from(u16_at(&head, 28));
        let packed = At::new(Arc::clone(&self.file), entry.at + skipped, entry.packed);
        let content: Box<dyn Read + Send> = match entry.is_deflated {
            true => Box::new(DeflateDecoder::new(packed)),
            false => Box::new(packed),
        };
        Ok(Some(Box::new(Exactly {
            content,
            left: entry.size,
        })))
    }
}

/// Position and length of the directory.
fn find_directory(file: &File, length: u64) -> Result<(u64, u64)> {
    let start = length.saturating_sub(TAIL_BYTES);
    let mut tail = vec![0; usize::try_from(length - start).unwrap_or(0)];
    file.read_exact_at(&mut tail, start)?;
    let is_end = |at: &usize| u32_at(&tail, *at) == END;
    let end = (0..=tail.len().saturating_sub(22)).rev().find(is_end);
    let Some(end) = end.filter(|_| tail.len() >= 22) else {
        return Err(Error::invalid("The file is not a zip archive."));
    };
    let (bytes, at) = (u32_at(&tail, end + 12), u32_at(&tail, end + 16));
    let has_locator = end >= 20 && u32_at(&tail, end - 20) == LOCATOR_64;
    if !has_locator {
        return Ok((u64::from(at), u64::from(bytes)));
    }
    let mut record = [0; 56];
    file.read_exact_at(&mut record, u64_at(&tail, end - 12))?;
    match u32_at(&record, 0) == END_64 {
        true => Ok((u64_at(&record, 48), u64_at(&record, 40))),
        false => Err(damaged("its directory is missing")),
    }
}

/// The next entry of the directory; none at its end.
fn read_entry(reader: &mut At) -> Result<Option<(String, Entry)>> {
    let mut head = [0; 46];
    if reader.inner.left == 0 && reader.buffered() == 0 {
        return Ok(None);
    }
    reader.read_exact(&mut head)?;
    if u32_at(&head, 0) != ENTRY {
        return Err(damaged("its directory is damaged"));
    }
    let mut rest = |bytes: u16| -> Result<Vec<u8>> {
        let mut text = vec![0; usize::from(bytes)];
        reader.read_exact(&mut text)?;
        Ok(text)
    };
    let name = rest(u16_at(&head, 28))?;
    let extra = rest(u16_at(&head, 30))?;
    rest(u16_at(&head, 32))?;
    let is_deflated = match u16_at(&head, 10) {
        0 => false,
        8 => true,
        other => {
            return Err(damaged(&format!(
                "it uses method {other}; only stored and deflated entries can be read"
            )));
        }
    };
    if u16_at(&head, 8) & 1 == 1 {
        return Err(damaged("it is encrypted"));
    }
    let mut entry = Entry {
        is_deflated,
        packed: u64::from(u32_at(&head, 20)),
        size: u64::from(u32_at(&head, 24)),
        at: u64::from(u32_at(&head, 42)),
    };
    entry.widen(&extra);
    let name = String::from_utf8_lossy(&name).replace('\\', "/");
    Ok(Some((name, entry)))
}

impl Entry {
    /// Reads the numbers that need more than 32 bits.
    fn widen(&mut self, mut extra: &[u8]) {
        while extra.len() >= 4 {
            let (kind, length) = (u16_at(extra, 0), usize::from(u16_at(extra, 2)));
            let end = (4 + length).min(extra.len());
            let mut numbers = extra[4..end].chunks_exact(8).map(|it| u64_at(it, 0));
            if kind == 1 {
                for number in [&mut self.size, &mut self.packed, &mut self.at] {
                    if *number == u64::from(u32::MAX) {
                        *number = numbers.next().unwrap_or(*number);
                    }
                }
            }
            extra = &extra[end..];
        }
    }
}

/// A buffered part of a file, read without moving its position.
struct At {
    inner: Part,
    buffer: Vec<u8>,
    used: usize,
}

struct Part {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl At {
    fn new(file: Arc<File>, at: u64, left: u64) -> At {
        At {
            inner: Part { file, at, left },
            buffer: Vec::new(),
            used: 0,
        }
    }

    fn buffered(&self) -> usize {
        self.buffer.len() - self.used
    }
}

impl Read for At {
    fn read(&mut self, out: &mut [u8]) -> IoResult<usize> {
        if self.buffered() == 0 {
            let wanted = self.inner.left.min(BUFFER_BYTES as u64);
            self.buffer.resize(usize::try_from(wanted).unwrap_or(0), 0);
            self.used = 0;
            let read = self.inner.file.read_at(&mut self.buffer, self.inner.at)?;
            self.buffer.truncate(read);
            self.inner.at += read as u64;
            self.inner.left -= read as u64;
        }
        let length = self.buffered().min(out.len());
        out[..length].copy_from_slice(&self.buffer[self.used..self.used + length]);
        self.used += length;
        Ok(length)
    }
}

/// Fails unless the content has exactly this length.
struct Exactly {
    content: Box<dyn Read + Send>,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, out: &mut [u8]) -> IoResult<usize> {
        let mut content: Take<_> = (&mut self.content).take(self.left.saturating_add(1));
        let length = content.read(out)? as u64;
        if length > self.left || (length == 0 && self.left > 0 && !out.is_empty()) {
            let message = "an entry of the archive has another length than its directory says";
            return Err(IoError::new(ErrorKind::InvalidData, message));
        }
        self.left -= length;
        Ok(usize::try_from(length).unwrap_or(0))
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let pair = bytes.get(at..at + 2).and_then(|it| it.try_into().ok());
    pair.map_or(0, u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..at + 4).and_then(|it| it.try_into().ok());
    four.map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let eight = bytes.get(at..at + 8).and_then(|it| it.try_into().ok());
    eight.map_or(0, u64::from_le_bytes)
}

fn damaged(what: &str) -> Error {
    Error::invalid(format!("The zip archive cannot be read: {what}."))
}
