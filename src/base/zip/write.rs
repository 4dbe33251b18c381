//! Writes zip archives. Every entry has numbers of 64 bits, so no size is too large.
//!
//! The directory of the archive is kept in memory: about 100 bytes for each entry. An archive
//! without [`ZipWriter::finish`] has no directory, so no program takes it for a complete one.

use std::fs::File;
use std::io::{BufWriter, Read, Result, Write as _};
use std::os::unix::fs::FileExt as _;

use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};

use super::format::{END, END_64, ENTRY, LOCAL, LOCATOR_64};

const BUFFER_BYTES: usize = 128 << 10;
/// The version of the format that has numbers of 64 bits.
const VERSION: u16 = 45;
/// Names are in UTF-8.
const FLAGS: u16 = 1 << 11;
/// In place of a number that the extra field has.
const ELSEWHERE: u32 = u32::MAX;
/// January 1st, 1980: the time of an entry says nothing here.
const NO_DATE: u16 = 0x21;

/// See the module documentation.
pub struct ZipWriter {
    out: BufWriter<File>,
    /// Bytes written.
    at: u64,
    entries: Vec<WrittenEntry>,
}

struct WrittenEntry {
    name: String,
    method: u16,
    crc: u32,
    packed: u64,
    size: u64,
    at: u64,
}

impl WrittenEntry {
    /// Version, flags, method, date, checksum and sizes, which begin both heads of an entry.
    fn head(&self) -> Vec<u8> {
        let mut head = Vec::with_capacity(26);
        for number in [VERSION, FLAGS, self.method, 0, NO_DATE] {
            head.extend(number.to_le_bytes());
        }
        for number in [self.crc, ELSEWHERE, ELSEWHERE] {
            head.extend(number.to_le_bytes());
        }
        let name = u16::try_from(self.name.len()).unwrap_or(u16::MAX);
        head.extend(name.to_le_bytes());
        head
    }

    fn extra(&self, numbers: &[u64]) -> Vec<u8> {
        let mut extra = vec![1, 0];
        let bytes = u16::try_from(numbers.len() * 8).unwrap_or(0);
        extra.extend(bytes.to_le_bytes());
        for number in numbers {
            extra.extend(number.to_le_bytes());
        }
        extra
    }

    /// The head before the content.
    fn local(&self) -> Vec<u8> {
        let extra = self.extra(&[self.size, self.packed]);
        let mut head = LOCAL.to_le_bytes().to_vec();
        head.extend(self.head());
        head.extend(u16::try_from(extra.len()).unwrap_or(0).to_le_bytes());
        head.extend(self.name.as_bytes());
        head.extend(extra);
        head
    }

    /// The row of the directory.
    fn row(&self) -> Vec<u8> {
        let extra = self.extra(&[self.size, self.packed, self.at]);
        let mut row = ENTRY.to_le_bytes().to_vec();
        row.extend(VERSION.to_le_bytes());
        row.extend(self.head());
        row.extend(u16::try_from(extra.len()).unwrap_or(0).to_le_bytes());
        // No comment, the first disk, no attributes.
        row.extend([0; 10]);
        row.extend(ELSEWHERE.to_le_bytes());
        row.extend(self.name.as_bytes());
        row.extend(extra);
        row
    }
}

impl ZipWriter {
    /// Writes to an empty file.
    pub fn new(file: File) -> ZipWriter {
        ZipWriter {
            out: BufWriter::with_capacity(BUFFER_BYTES, file),
            at: 0,
            entries: Vec::new(),
        }
    }

    /// Adds a file. `before_piece` is called before each piece of its content, and can end the work
    /// with an error.
    pub fn add(
        &mut self,
        name: &str,
        mut content: impl Read,
        is_deflated: bool,
        before_piece: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        let mut entry = WrittenEntry {
            name: name.to_owned(),
            method: if is_deflated { 8 } else { 0 },
            crc: 0,
            packed: 0,
            size: 0,
            at: self.at,
        };
        let start = self.write(&entry.local())?;
        let mut crc = Crc::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut deflated =
            is_deflated.then(|| DeflateEncoder::new(Vec::new(), Compression::fast()));
        loop {
            before_piece()?;
            let length = content.read(&mut buffer)?;
            let piece = &buffer[..length];
            if length == 0 {
                break;
            }
            crc.update(piece);
            entry.size += length as u64;
            match &mut deflated {
                None => drop(self.write(piece)?),
                Some(deflated) => {
                    deflated.write_all(piece)?;
                    let packed = std::mem::take(deflated.get_mut());
                    self.write(&packed)?;
                }
            }
        }
        if let Some(deflated) = deflated {
            self.write(&deflated.finish()?)?;
        }
        entry.crc = crc.sum();
        entry.packed = self.at - start;
        self.out.flush()?;
        self.out.get_ref().write_all_at(&entry.local(), entry.at)?;
        self.entries.push(entry);
        Ok(())
    }

    /// Writes the directory. The file is then an archive; it is not synced.
    pub fn finish(mut self) -> Result<File> {
        let start = self.at;
        let entries = std::mem::take(&mut self.entries);
        for entry in &entries {
            self.write(&entry.row())?;
        }
        let (end, count) = (self.at, entries.len() as u64);
        let mut tail = END_64.to_le_bytes().to_vec();
        tail.extend(44_u64.to_le_bytes());
        tail.extend(VERSION.to_le_bytes());
        tail.extend(VERSION.to_le_bytes());
        tail.extend([0; 8]);
        for number in [count, count, end - start, start] {
            tail.extend(number.to_le_bytes());
        }
        tail.extend(LOCATOR_64.to_le_bytes());
        tail.extend([0; 4]);
        tail.extend(end.to_le_bytes());
        tail.extend(1_u32.to_le_bytes());
        tail.extend(END.to_le_bytes());
        tail.extend([0; 4]);
        tail.extend([0xff; 12]);
        tail.extend([0; 2]);
        self.write(&tail)?;
        Ok(self.out.into_inner()?)
    }

    /// Appends bytes; returns the position behind them.
    fn write(&mut self, bytes: &[u8]) -> Result<u64> {
        self.out.write_all(bytes)?;
        self.at += bytes.len() as u64;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Zip;
    use super::*;

    fn written(entries: &[(&str, &[u8], bool)]) -> File {
        let path = std::env::temp_dir().join(format!("vski-zip-{}", std::process::id()));
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path);
        let mut zip = ZipWriter::new(file.unwrap());
        for (name, content, is_deflated) in entries {
            zip.add(name, *content, *is_deflated, &|| Ok(())).unwrap();
        }
        let file = zip.finish().unwrap();
        std::fs::remove_file(path).unwrap();
        file
    }

    #[test]
    fn an_archive_is_read_as_it_was_written() {
        let long = vec![7; 300_000];
        let file = written(&[
            ("manifest.json", b"{}", true),
            ("storage/a/b.txt", b"hello", false),
            ("state/default.db", &long, true),
            ("empty", b"", false),
        ]);
        assert!(file.metadata().unwrap().len() < 5000);
        let zip = Zip::open(file).unwrap();
        let read = |name: &str| {
            let mut content = Vec::new();
            let mut entry = zip.read(name).unwrap().unwrap();
            entry.read_to_end(&mut content).unwrap();
            content
        };
        assert_eq!(read("manifest.json"), b"{}");
        assert_eq!(read("storage/a/b.txt"), b"hello");
        assert_eq!(read("state/default.db"), long);
        assert_eq!(read("empty"), b"");
        assert!(zip.read("none").unwrap().is_none());
    }

    #[test]
    fn an_error_before_a_piece_ends_the_work() {
        let path = std::env::temp_dir().join(format!("vski-zip-ended-{}", std::process::id()));
        let mut zip = ZipWriter::new(File::create(&path).unwrap());
        let refuse = || Err(std::io::Error::other("stopping"));
        assert!(zip.add("a", &b"a"[..], false, &refuse).is_err());
        std::fs::remove_file(path).unwrap();
    }
}
