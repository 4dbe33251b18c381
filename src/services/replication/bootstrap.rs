//! Creates the local copy of a database: downloads all pages into a new file, which replaces the
//! old one when it is complete.
//!
//! The pages arrive in parts. Each part reflects the version that the master has at that moment, so
//! neither side needs space for a second copy and the master keeps no transaction open. While the
//! replica receives one part, the master prepares the next. At the end the replica compares hashes
//! and fetches the pages that changed meanwhile, until the file is one version and its checksum
//! equals the master's.
//!
//! A bootstrap resumes where it stopped when the process ends or the connection is lost.

use std::fs::File;
use std::io::{BufReader, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use super::client::{MasterClient, PagesReply};
use super::comparison::{epoch_changed, find_differing};
use super::epoch::Epoch;
use super::master::part_pages;
use super::wire::{StreamHeader, StreamReader};
use crate::base::error::{Error, Result, ResultExt as _};
use crate::base::{failpoints, log, threads};
use crate::store::db::pages;
use crate::store::db::pages::PageMap;

/// Size of a read from a connection.
pub const BUFFER_BYTES: usize = 256 << 10;
/// Extension of the new file until it is complete.
pub const NEW_EXTENSION: &str = "new";
/// Limit on comparisons with the master before the bootstrap starts over.
const COMPARISONS_MAX: u32 = 20;

/// Bytes left free on the disk for other writers.
const RESERVE_BYTES: u64 = 64 << 20;

/// Receives the name of a database, the bytes received and the total.
pub type ProgressFn = Box<dyn Fn(&str, u64, u64) + Send + Sync>;

/// A new database file in progress.
pub struct Bootstrap {
    client: Arc<MasterClient>,
    name: String,
    epoch: Epoch,
    path: PathBuf,
    file: File,
    map: PageMap,
    page_size: u32,
    step: Phase,
}

enum Phase {
    /// Receiving the part after this page; the request is already sent.
    Part(u32, PendingPart),
    /// Comparing with the master; the number of comparisons so far.
    Compare(u32),
}

/// A request for a part in progress.
type PendingPart = JoinHandle<Result<PagesReply>>;

impl Bootstrap {
    /// Opens the new file for the database at `path` and keeps the pages that it already has.
    pub fn open(
        client: &Arc<MasterClient>,
        name: &str,
        path: &Path,
        epoch: Epoch,
    ) -> Result<Bootstrap> {
        let path = path.with_extension(NEW_EXTENSION);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .context("make a new file")?;
        let mut whole = Bootstrap {
            client: Arc::clone(client),
            name: name.to_owned(),
            epoch,
            path,
            file,
            map: PageMap::default(),
            page_size: 0,
            step: Phase::Compare(0),
        };
        whole.hash_existing()?;
        // The last part may be incomplete.
        let step = part_pages(whole.page_size.max(512));
        let after = (whole.map.len() / step).saturating_sub(1) * step;
        whole.step = Phase::Part(after, whole.request_part(after)?);
        Ok(whole)
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Receives the next part or compares with the master. When the file is complete, returns its
    /// header and page hashes.
    pub fn advance(&mut self, progress: &ProgressFn) -> Result<Option<(StreamHeader, PageMap)>> {
        match std::mem::replace(&mut self.step, Phase::Compare(0)) {
            Phase::Part(after, pending) => {
                self.step = self.receive_part(after, pending, progress)?;
                Ok(None)
            }
            Phase::Compare(rounds) if rounds < COMPARISONS_MAX => {
                let header = self.catch_up()?;
                if self.map.checksum() != header.checksum {
                    self.step = Phase::Compare(rounds + 1);
                    return Ok(None);
                }
                self.file.sync_all().context("sync a new file")?;
                failpoints::reach("whole-written");
                Ok(Some((header, std::mem::take(&mut self.map))))
            }
            Phase::Compare(_) => {
                // A retry would not benefit from it either.
                self.discard();
                Err(Error::unavailable(
                    "The rebuilt database does not match the master's checksum.",
                ))
            }
        }
    }

    fn discard(&self) {
        let _ = std::fs::remove_file(&self.path);
    }

    /// Hashes the pages that an earlier attempt left.
    fn hash_existing(&mut self) -> Result<()> {
        let mut header = [0; 100];
        if self.file.read_at(&mut header, 0)? < header.len()
            || !header.starts_with(b"SQLite format 3\0")
        {
            return Ok(self.file.set_len(0)?);
        }
        self.page_size = match u32::from(u16::from_be_bytes([header[16], header[17]])) {
            1 => 65_536,
            size => size,
        };
        if !self.page_size.is_power_of_two() || self.page_size < 512 {
            self.page_size = 0;
            return Ok(self.file.set_len(0)?);
        }
        let mut page = vec![0; self.page_size as usize];
        let mut from = BufReader::with_capacity(BUFFER_BYTES, self.file.try_clone()?);
        let mut number = 0;
        while from.read_exact(&mut page).is_ok() {
            number += 1;
            self.set(number, &page);
        }
        log::info(format_args!(
            "replica of {}: resuming with {} MiB from an earlier attempt",
            self.name,
            (u64::from(number) * u64::from(self.page_size)) >> 20
        ));
        Ok(())
    }

    fn set(&mut self, number: u32, page: &[u8]) {
        if number != pages::lock_page(self.page_size) {
            let hash = pages::hash(self.epoch.seed(), number, page);
            self.map.set(number, hash);
        }
    }

    fn receive_part(
        &mut self,
        after: u32,
        pending: PendingPart,
        progress: &ProgressFn,
    ) -> Result<Phase> {
        let reply = pending.join();
        let reply = reply.map_err(|_| Error::internal("the request for a part panicked"))?;
        let PagesReply::Stream(download) = reply? else {
            return Err(epoch_changed());
        };
        let reader = StreamReader::new(BufReader::with_capacity(BUFFER_BYTES, download))?;
        let header = self.check_header(reader.header())?;
        let bytes = |pages: u32| u64::from(pages) * u64::from(header.page_size);
        self.check_space(header)?;
        let pages = part_pages(header.page_size);
        let is_last = u64::from(after) + u64::from(pages) >= u64::from(header.pages);
        // The master prepares the next part while this one arrives.
        let next = match is_last {
            true => Phase::Compare(0),
            false => Phase::Part(after + pages, self.request_part(after + pages)?),
        };
        self.write(reader)?;
        let (done, total) = (bytes(after.saturating_add(pages)), bytes(header.pages));
        progress(&self.name, done.min(total), total);
        failpoints::reach("part-written");
        Ok(next)
    }

    /// A database that does not fit must not stop the others.
    fn check_space(&self, header: StreamHeader) -> Result<()> {
        let missing =
            u64::from(header.pages.saturating_sub(self.map.len())) * u64::from(header.page_size);
        let disk = rustix::fs::fstatvfs(&self.file).map_err(std::io::Error::from)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if missing.saturating_add(RESERVE_BYTES) <= free {
            return Ok(());
        }
        self.discard();
        Err(Error::unavailable(format!(
            "The database needs {} MiB more, but the disk has {} MiB free, of which {} MiB are \
             reserved.",
            missing >> 20,
            free >> 20,
            RESERVE_BYTES >> 20
        )))
    }

    /// Requests a part without waiting for it.
    fn request_part(&self, after: u32) -> Result<PendingPart> {
        let (client, name, epoch) = (Arc::clone(&self.client), self.name.to_owned(), self.epoch);
        threads::spawn_for_result("prefetch", move || {
            MasterClient::part(&client, &name, epoch, after)
        })
    }

    /// Fetches the pages that differ from the master's.
    fn catch_up(&mut self) -> Result<StreamHeader> {
        let (client, map) = (&self.client, &self.map);
        let compared = find_differing(client, &self.name, self.epoch, self.page_size, map)?;
        let Some((version, body)) = compared else {
            return Err(epoch_changed());
        };
        let reply = client.differing(&self.name, self.epoch, version, &body)?;
        let PagesReply::Stream(download) = reply else {
            return Err(epoch_changed());
        };
        let reader = StreamReader::new(BufReader::with_capacity(BUFFER_BYTES, download))?;
        let header = self.check_header(reader.header())?;
        // Memory holds a hash for each page that the header states.
        self.check_space(header)?;
        self.write(reader)?;
        let bytes = u64::from(header.pages) * u64::from(header.page_size);
        self.file.set_len(bytes)?;
        self.map.resize(header.pages);
        Ok(header)
    }

    /// Accepts a stream only if it continues this file.
    fn check_header(&mut self, header: StreamHeader) -> Result<StreamHeader> {
        if header.epoch != self.epoch {
            return Err(epoch_changed());
        }
        if self.page_size != 0 && self.page_size != header.page_size {
            self.file.set_len(0)?;
            return Err(epoch_changed());
        }
        self.page_size = header.page_size;
        Ok(header)
    }

    /// Writes pages at their offsets. A corrupt page shows in the final comparison and is fetched
    /// again.
    fn write<R: std::io::Read>(&mut self, reader: StreamReader<R>) -> Result<()> {
        let page_size = u64::from(self.page_size);
        reader.pages(|number, page| {
            self.set(number, page);
            Ok(self
                .file
                .write_all_at(page, u64::from(number - 1) * page_size)?)
        })
    }
}
