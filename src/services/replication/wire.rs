//! The stream of pages from a master to a replica.
//!
//! ```text
//! header   80 bytes, see `StreamHeader`
//! chunks   length of the pages, stored length (4 bytes each), the pages, LZ4 if shorter
//! end      a chunk of length 0 (4 bytes)
//! trailer  SHA-256 of everything before it
//! ```
//!
//! In a chunk, each page is its number (4 bytes) and its bytes. Page 1 is the last page of the
//! stream. All numbers are little-endian. The reader never allocates more than [`CHUNK_BYTES_MAX`]
//! because of a length that the peer states.

use std::io::{Read, Write};

use super::epoch::Epoch;
use crate::base::crypto::Sha256Hasher;
use crate::base::error::{Error, Result};

/// The format and its version.
const MAGIC: [u8; 8] = *b"vskipag1";
pub const HEADER_BYTES: usize = 80;
/// Size at which pages are compressed as a chunk.
const CHUNK_BYTES: usize = 256 << 10;
/// Limit on chunks; a page has at most 64 KiB.
const CHUNK_BYTES_MAX: usize = CHUNK_BYTES + (128 << 10);

/// The header of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamHeader {
    pub epoch: Epoch,
    /// The version that the stream starts from; 0 if it has every page.
    pub since: u64,
    /// The version that it leads to.
    pub version: u64,
    /// In bytes.
    pub page_size: u32,
    /// Pages of the database at that version.
    pub pages: u32,
    /// Pages in the stream.
    pub count: u32,
    /// Version of the system tables.
    pub user_version: i32,
    /// Checksum of all pages at that version.
    pub checksum: u64,
    /// Hash of the SQL schema.
    pub schema: u64,
    /// Hash of the definitions of collections.
    pub definitions: u64,
}

impl StreamHeader {
    fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut at = 0;
        let mut put = |part: &[u8]| {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        };
        put(&MAGIC);
        put(&self.epoch.0.to_le_bytes());
        put(&self.since.to_le_bytes());
        put(&self.version.to_le_bytes());
        put(&self.page_size.to_le_bytes());
        put(&self.pages.to_le_bytes());
        put(&self.count.to_le_bytes());
        put(&self.user_version.to_le_bytes());
        put(&self.checksum.to_le_bytes());
        put(&self.schema.to_le_bytes());
        put(&self.definitions.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Result<StreamHeader> {
        let u32_at = |at: usize| u32::from_le_bytes(part(bytes, at));
        let u64_at = |at: usize| u64::from_le_bytes(part(bytes, at));
        if bytes[..8] != MAGIC {
            return Err(corrupt("the format is unknown"));
        }
        let header = StreamHeader {
            epoch: Epoch(u128::from_le_bytes(part(bytes, 8))),
            since: u64_at(24),
            version: u64_at(32),
            page_size: u32_at(40),
            pages: u32_at(44),
            count: u32_at(48),
            user_version: i32::from_le_bytes(part(bytes, 52)),
            checksum: u64_at(56),
            schema: u64_at(64),
            definitions: u64_at(72),
        };
        let is_size =
            header.page_size.is_power_of_two() && (512..=65_536).contains(&header.page_size);
        match is_size && header.pages > 0 && header.count > 0 && header.count <= header.pages {
            true => Ok(header),
            false => Err(corrupt("the header is invalid")),
        }
    }
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&bytes[at..at + N]);
    part
}

fn corrupt(why: &str) -> Error {
    Error::unavailable(format!("The master sent an invalid stream: {why}."))
}

/// Writes a stream.
pub struct StreamWriter<W> {
    to: W,
    hasher: Sha256Hasher,
    chunk: Vec<u8>,
    packed: Vec<u8>,
}

impl<W: Write> StreamWriter<W> {
    pub fn new(to: W, header: StreamHeader) -> Result<StreamWriter<W>> {
        let mut writer = StreamWriter {
            to,
            hasher: Sha256Hasher::new(),
            chunk: Vec::new(),
            packed: Vec::new(),
        };
        writer.put(&header.to_bytes())?;
        Ok(writer)
    }

    pub fn page(&mut self, number: u32, page: &[u8]) -> Result<()> {
        self.chunk.extend_from_slice(&number.to_le_bytes());
        self.chunk.extend_from_slice(page);
        match self.chunk.len() >= CHUNK_BYTES {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Writes what is left and the trailer.
    pub fn finish(mut self) -> Result<W> {
        self.flush()?;
        self.put(&0_u32.to_le_bytes())?;
        self.to.write_all(&self.hasher.finish())?;
        Ok(self.to)
    }

    fn flush(&mut self) -> Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::take(&mut self.chunk);
        let mut packed = std::mem::take(&mut self.packed);
        packed.resize(lz4_flex::block::get_maximum_output_size(chunk.len()), 0);
        let length = lz4_flex::block::compress_into(&chunk, &mut packed).unwrap_or(chunk.len());
        // A small gain is not worth the time to decompress.
        let stored = match length < chunk.len() - chunk.len() / 16 {
            true => &packed[..length],
            false => &chunk[..],
        };
        let lengths = [chunk.len(), stored.len()].map(|it| u32::try_from(it).unwrap_or(0));
        self.put(&lengths[0].to_le_bytes())?;
        self.put(&lengths[1].to_le_bytes())?;
        self.put(stored)?;
        (self.chunk, self.packed) = (chunk, packed);
        self.chunk.clear();
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        Ok(self.to.write_all(bytes)?)
    }
}

/// Reads a stream.
pub struct StreamReader<R> {
    from: R,
    hasher: Sha256Hasher,
    header: StreamHeader,
    stored: Vec<u8>,
    chunk: Vec<u8>,
}

impl<R: Read> StreamReader<R> {
    pub fn new(mut from: R) -> Result<StreamReader<R>> {
        let mut bytes = [0; HEADER_BYTES];
        fill(&mut from, &mut bytes)?;
        let mut hasher = Sha256Hasher::new();
        hasher.update(&bytes);
        Ok(StreamReader {
            from,
            hasher,
            header: StreamHeader::from_bytes(&bytes)?,
            stored: Vec::new(),
            chunk: Vec::new(),
        })
    }

    pub fn header(&self) -> StreamHeader {
        self.header
    }

    /// Visits every page, then verifies the trailer. The pages are valid only if this succeeds.
    pub fn pages(mut self, mut visit: impl FnMut(u32, &[u8]) -> Result<()>) -> Result<()> {
        let page_size = self.header.page_size as usize;
        let (mut count, mut last) = (0_u32, 0);
        while self.next_chunk()? {
            for page in self.chunk.chunks(4 + page_size) {
                if page.len() != 4 + page_size {
                    return Err(corrupt("a page is incomplete"));
                }
                let number = u32::from_le_bytes(part(page, 0));
                let is_next = match number {
                    1 => count + 1 == self.header.count,
                    _ => number > last,
                };
                if !is_next || number > self.header.pages {
                    return Err(corrupt("pages are out of order"));
                }
                (count, last) = (count + 1, number);
                visit(number, &page[4..])?;
            }
        }
        if count != self.header.count || last != 1 {
            return Err(corrupt("pages are missing"));
        }
        let mut trailer = [0; 32];
        fill(&mut self.from, &mut trailer)?;
        match trailer == self.hasher.finish() && self.from.read(&mut [0])? == 0 {
            true => Ok(()),
            false => Err(corrupt("the checksum does not match")),
        }
    }

    /// Returns false at the end.
    fn next_chunk(&mut self) -> Result<bool> {
        let length = self.length()?;
        if length == 0 {
            return Ok(false);
        }
        let stored = self.length()?;
        if length > CHUNK_BYTES_MAX || stored > length {
            return Err(corrupt("a chunk length is invalid"));
        }
        self.stored.resize(stored, 0);
        fill(&mut self.from, &mut self.stored)?;
        self.hasher.update(&self.stored);
        if stored == length {
            std::mem::swap(&mut self.stored, &mut self.chunk);
            return Ok(true);
        }
        self.chunk.resize(length, 0);
        match lz4_flex::block::decompress_into(&self.stored, &mut self.chunk) {
            Ok(found) if found == length => Ok(true),
            _ => Err(corrupt("a chunk cannot be decompressed")),
        }
    }

    fn length(&mut self) -> Result<usize> {
        let mut bytes = [0; 4];
        fill(&mut self.from, &mut bytes)?;
        self.hasher.update(&bytes);
        Ok(u32::from_le_bytes(bytes) as usize)
    }
}

fn fill(from: &mut impl Read, buffer: &mut [u8]) -> Result<()> {
    from.read_exact(buffer).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => corrupt("it is truncated"),
        _ => Error::from(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> StreamHeader {
        StreamHeader {
            epoch: Epoch(0x1234_5678_9abc_def0_1122_3344_5566_7788),
            since: 3,
            version: 9,
            page_size: 512,
            pages: 1000,
            count: 700,
            user_version: -4,
            checksum: 77,
            schema: 88,
            definitions: 99,
        }
    }

    /// 700 pages; every second page is incompressible.
    fn stream() -> Vec<u8> {
        let mut writer = StreamWriter::new(Vec::new(), header()).unwrap();
        for number in (2..=700).chain([1]) {
            writer.page(number, &page(number)).unwrap();
        }
        writer.finish().unwrap()
    }

    fn page(number: u32) -> Vec<u8> {
        let mut state = u64::from(number) | 1;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        };
        match number % 2 {
            0 => vec![number as u8; 512],
            _ => (0..512).map(|_| next()).collect(),
        }
    }

    fn read(bytes: &[u8]) -> Result<u32> {
        let reader = StreamReader::new(bytes)?;
        assert_eq!(reader.header(), header());
        let mut count = 0;
        reader.pages(|number, bytes| {
            assert_eq!(bytes, page(number));
            count += 1;
            Ok(())
        })?;
        Ok(count)
    }

    #[test]
    fn what_was_written_is_read() {
        let bytes = stream();
        assert!(bytes.len() < 700 * 516, "half of it can be compressed");
        assert_eq!(read(&bytes).unwrap(), 700);
    }

    #[test]
    fn cut_anywhere_or_longer_it_is_refused() {
        let bytes = stream();
        for length in (0..bytes.len())
            .step_by(97)
            .chain(bytes.len() - 40..bytes.len())
        {
            assert!(read(&bytes[..length]).is_err(), "{length}");
        }
        assert!(read(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn no_flipped_bit_gets_through() {
        let mut bytes = stream();
        for at in (0..bytes.len())
            .step_by(211)
            .chain(bytes.len() - 40..bytes.len())
        {
            bytes[at] ^= 1 << (at % 8);
            let result = std::panic::catch_unwind(|| read(&bytes));
            // The assertions of `read` may fail first.
            assert!(!matches!(result, Ok(Ok(_))), "{at}");
            bytes[at] ^= 1 << (at % 8);
        }
    }
}
