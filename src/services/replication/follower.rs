//! One database of a replica: fetches changes, verifies them, applies them and verifies the result.
//!
//! [`Follower::fetch`] downloads changes to memory or disk but does not touch the database;
//! [`Follower::apply`] applies them as one transaction. Page hashes describe the local file. They
//! are read from the file itself and never from a stored position: after a start, and when the
//! master begins another epoch, the whole file is hashed once.
//!
//! There are three sync methods. Each is the fallback if the previous one did not lead to the
//! master's checksum: pages that changed after the local version; pages whose hashes differ; all
//! pages, into a new file.

use std::fs::File;
use std::io::{BufReader, Read, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bootstrap::{BUFFER_BYTES, Bootstrap, NEW_EXTENSION, ProgressFn};
use super::client::{Download, MasterClient, PagesReply};
use super::comparison::{epoch_changed, find_differing};
use super::epoch::Epoch;
use super::messages::DatabaseEntry;
use super::positions::Position;
use super::spool::anonymous_file;
use super::wire::{StreamHeader, StreamReader};
use crate::base::error::{Error, Result, ResultExt as _};
use crate::base::{failpoints, log};
use crate::model::collections::Catalog;
use crate::store::db;
use crate::store::db::pages::{PageMap, PageReader};
use crate::store::db::{Checkpoints, Databases, PageWriter, pages};

/// Limit on streams that are kept in memory until they are applied.
const MEMORY_BYTES: u64 = 4 << 20;
/// Longest time that a read transaction can last; queries end earlier.
const READING: Duration = Duration::from_secs(30);
/// The services that a follower uses.
pub struct SyncContext {
    pub client: Arc<MasterClient>,
    pub databases: Arc<Databases>,
    pub catalog: Arc<Catalog>,
    /// Directory for streams.
    pub spool: PathBuf,
    /// Reports the progress of a stream.
    pub progress: ProgressFn,
}

/// A database that follows the master.
pub struct Follower {
    name: String,
    path: PathBuf,
    local: Option<LocalState>,
    /// Method of the next sync.
    method: SyncMethod,
    checkpoints: Checkpoints,
    /// Last time when the SQL schema changed.
    schema_changed: Option<Instant>,
    /// A new file in progress.
    bootstrap: Option<Bootstrap>,
}

/// The result of a fetch.
pub enum FetchResult {
    /// Changes to apply.
    Newer(FetchedVersion),
    /// The file is current, at this position.
    UpToDate(Position),
    /// A new file that needs more parts.
    Loading,
}

/// The content of the local file.
struct LocalState {
    /// The epoch that seeds the hashes.
    epoch: Epoch,
    page_size: u32,
    map: PageMap,
    schema: u64,
    definitions: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SyncMethod {
    Incremental,
    Compare,
    Full,
}

/// A fetched version that is not yet applied.
pub struct FetchedVersion {
    header: StreamHeader,
    /// Hashes of its pages.
    hashes: Vec<(u32, u64)>,
    content: Content,
}

enum Content {
    Memory(Vec<u8>),
    File(File),
    /// The whole database in a new file beside the old one, with the hashes of all pages.
    NewFile(PageMap),
}

impl Follower {
    pub fn new(name: &str, databases: &Databases) -> Follower {
        Follower {
            name: name.to_owned(),
            path: databases.file(name),
            local: None,
            method: SyncMethod::Incremental,
            checkpoints: Checkpoints::default(),
            schema_changed: None,
            bootstrap: None,
        }
    }

    /// Reports whether the file and the master are both known to be at this position.
    pub fn is_at(&self, position: &Position, entry: &DatabaseEntry) -> bool {
        let local = self
            .local
            .as_ref()
            .filter(|_| self.method == SyncMethod::Incremental);
        local.is_some_and(|local| {
            local.epoch == position.epoch
                && local.map.checksum() == position.checksum
                && entry.epoch().is_ok_and(|epoch| epoch == position.epoch)
                && entry.version == position.version
        })
    }

    /// Fetches what the local file lacks. For a new file, fetches one part.
    pub fn fetch(
        &mut self,
        context: &SyncContext,
        entry: &DatabaseEntry,
        position: Option<&Position>,
    ) -> Result<FetchResult> {
        let epoch = entry.epoch()?;
        let result = self.try_fetch(context, epoch, position);
        if let Err(error) = &result {
            self.handle_error(error);
        }
        result.context(format!("fetch {}", self.name))
    }

    fn try_fetch(
        &mut self,
        context: &SyncContext,
        epoch: Epoch,
        position: Option<&Position>,
    ) -> Result<FetchResult> {
        if !self.path.exists() || self.method == SyncMethod::Full {
            return self.fetch_all(context, epoch);
        }
        let local = match self.local.take() {
            Some(local) if local.epoch == epoch => local,
            _ => self.hash_pages(epoch)?,
        };
        let local = self.local.insert(local);
        let known = position.filter(|position| {
            position.epoch == epoch && position.checksum == local.map.checksum()
        });
        if let Some(position) = known.filter(|_| self.method == SyncMethod::Incremental) {
            match context.client.since(&self.name, epoch, position.version)? {
                PagesReply::UpToDate => return Ok(FetchResult::UpToDate(position.clone())),
                PagesReply::Stream(download) => {
                    let fetched = self.receive(context, download, epoch)?;
                    return Ok(FetchResult::Newer(fetched));
                }
                PagesReply::UnknownVersion => {}
            }
        }
        self.fetch_differing(context, epoch, position)
    }

    fn fetch_all(&mut self, context: &SyncContext, epoch: Epoch) -> Result<FetchResult> {
        self.local = None;
        let mut bootstrap = match self.bootstrap.take() {
            Some(bootstrap) if bootstrap.epoch() == epoch => bootstrap,
            _ => Bootstrap::open(&context.client, &self.name, &self.path, epoch)?,
        };
        if let Some((header, map)) = bootstrap.advance(&context.progress)? {
            return Ok(FetchResult::Newer(FetchedVersion {
                header,
                hashes: Vec::new(),
                content: Content::NewFile(map),
            }));
        }
        self.bootstrap = Some(bootstrap);
        Ok(FetchResult::Loading)
    }

    fn fetch_differing(
        &mut self,
        context: &SyncContext,
        epoch: Epoch,
        position: Option<&Position>,
    ) -> Result<FetchResult> {
        let Some(local) = &self.local else {
            return Err(Error::internal("nothing to compare"));
        };
        let client = &context.client;
        let compared = find_differing(client, &self.name, epoch, local.page_size, &local.map)?;
        let Some((version, body)) = compared else {
            // Stay with the method for all parts, so that the old file is not hashed before each
            // one.
            self.method = SyncMethod::Full;
            return self.fetch_all(context, epoch);
        };
        if body.is_empty() {
            let checksum = local.map.checksum();
            self.method = SyncMethod::Incremental;
            let next = Position::next(position, epoch, version, checksum);
            return Ok(FetchResult::UpToDate(next));
        }
        let reply = context
            .client
            .differing(&self.name, epoch, version, &body)?;
        match reply {
            PagesReply::Stream(download) => {
                Ok(FetchResult::Newer(self.receive(context, download, epoch)?))
            }
            PagesReply::UpToDate | PagesReply::UnknownVersion => Err(epoch_changed()),
        }
    }

    /// Hashes all pages of the file.
    fn hash_pages(&self, epoch: Epoch) -> Result<LocalState> {
        let reader = PageReader::open(&self.path)?;
        let snapshot = reader.snapshot()?;
        Ok(LocalState {
            epoch,
            page_size: snapshot.page_size,
            map: snapshot.map(epoch.seed())?,
            schema: snapshot.schema_hash()?,
            definitions: snapshot.definitions_hash()?,
        })
    }

    /// Receives and verifies a complete stream before any of its pages is used.
    fn receive(
        &self,
        context: &SyncContext,
        download: Download,
        epoch: Epoch,
    ) -> Result<FetchedVersion> {
        let keep = match download.length <= MEMORY_BYTES {
            true => Content::Memory(Vec::new()),
            false => Content::File(anonymous_file(&context.spool).context("spool a stream")?),
        };
        let mut tee = Tee {
            progress: ProgressReader::new(context, &self.name, download),
            keep,
        };
        let reader = StreamReader::new(BufReader::with_capacity(BUFFER_BYTES, &mut tee))?;
        let (header, mut hashes) = (reader.header(), Vec::new());
        reader.pages(|number, page| {
            hashes.push((number, pages::hash(epoch.seed(), number, page)));
            failpoints::reach("page-received");
            Ok(())
        })?;
        Ok(FetchedVersion {
            header: checked(header, epoch)?,
            hashes,
            content: tee.keep,
        })
    }

    /// Applies a fetched version. Returns the new position.
    pub fn apply(
        &mut self,
        context: &SyncContext,
        fetched: FetchedVersion,
        position: Option<&Position>,
    ) -> Result<Position> {
        let header = fetched.header;
        let result = match fetched.content {
            Content::NewFile(map) => self.apply_new_file(context, header, map),
            content => {
                let fetched = FetchedVersion { content, ..fetched };
                self.apply_pages(context, fetched, position)
            }
        };
        match result.context(format!("apply {}", self.name)) {
            Ok(local) => {
                let position =
                    Position::next(position, header.epoch, header.version, local.map.checksum());
                self.local = Some(local);
                self.method = SyncMethod::Incremental;
                Ok(position)
            }
            Err(error) => {
                self.handle_error(&error);
                Err(error)
            }
        }
    }

    /// Discards the hashes after an error, so that the file is hashed again. A damaged file is
    /// replaced.
    fn handle_error(&mut self, error: &Error) {
        self.local = None;
        if db::is_damaged(error) {
            self.method = SyncMethod::Compare;
            self.escalate("the file is damaged");
        }
    }

    fn apply_new_file(
        &mut self,
        context: &SyncContext,
        header: StreamHeader,
        map: PageMap,
    ) -> Result<LocalState> {
        let new = self.path.with_extension(NEW_EXTENSION);
        let is_default = self.name == db::DEFAULT;
        let replace = || match is_default || self.path.exists() {
            true => {
                let database = context.databases.get(&self.name)?;
                database.with_exclusive_access(|| db::replace_file(&new, &self.path))
            }
            false => db::replace_file(&new, &self.path),
        };
        context.catalog.replace(&self.name, replace)?;
        self.schema_changed = Some(Instant::now());
        Ok(LocalState {
            epoch: header.epoch,
            page_size: header.page_size,
            map,
            schema: header.schema,
            definitions: header.definitions,
        })
    }

    fn apply_pages(
        &mut self,
        context: &SyncContext,
        fetched: FetchedVersion,
        position: Option<&Position>,
    ) -> Result<LocalState> {
        let header = fetched.header;
        let Some(before) = self.local.take() else {
            return Err(Error::internal("pages for a file without hashes"));
        };
        // All new pages except the lock-byte page must be in the stream, so the stated page count
        // alone cannot grow the file.
        let new = header.pages.saturating_sub(before.map.len());
        if new as usize > fetched.hashes.len() + 1 {
            return Err(self.escalate("pages are missing"));
        }
        let mut map = before.map.clone();
        map.resize(header.pages);
        for (number, hash) in &fetched.hashes {
            map.set(*number, *hash);
        }
        if map.checksum() != header.checksum {
            return Err(self.escalate("the pages do not match the master's checksum"));
        }
        let after = LocalState {
            epoch: header.epoch,
            page_size: header.page_size,
            map,
            schema: header.schema,
            definitions: header.definitions,
        };
        let apply = PageWriter::begin(&self.path)?;
        if apply.page_size() != header.page_size {
            self.method = SyncMethod::Full;
            return Err(epoch_changed());
        }
        let hashes = fetched.hashes;
        write_pages(&apply, fetched.content)?;
        failpoints::reach("pages-written");
        let is_other_history = position.is_none_or(|position| position.epoch != header.epoch);
        self.commit(context, &apply, &before, &after, is_other_history)?;
        failpoints::reach("committed");
        drop(apply);
        self.verify(&hashes, &after)?;
        Ok(after)
    }

    /// Commits so that readers see the new schema and definitions.
    fn commit(
        &mut self,
        context: &SyncContext,
        apply: &PageWriter,
        before: &LocalState,
        after: &LocalState,
        is_other_history: bool,
    ) -> Result<()> {
        let database = context.databases.get(&self.name)?;
        let is_other_schema = before.schema != after.schema;
        if is_other_schema {
            self.schema_changed = Some(Instant::now());
        }
        // SQLite identifies schemas by a counter, and another epoch may have used the same numbers.
        // A transaction in progress may rely on a schema older than the local one.
        let is_recent = |changed: Instant| changed.elapsed() < READING;
        let is_alone = is_other_history && self.schema_changed.is_some_and(is_recent);
        if is_other_history {
            database.renew_readers();
        }
        let commit = || match is_alone {
            true => database.with_exclusive_access(|| apply.commit(after.map.len())),
            false => apply.commit(after.map.len()),
        };
        match before.definitions != after.definitions {
            true => context.catalog.replace(&self.name, commit),
            false => commit(),
        }
    }

    /// Verifies the written pages.
    fn verify(&mut self, hashes: &[(u32, u64)], after: &LocalState) -> Result<()> {
        let reader = PageReader::open(&self.path)?;
        let snapshot = reader.snapshot()?;
        let seed = after.epoch.seed();
        for (number, hash) in hashes {
            let found = snapshot.page(*number, |page| Ok(pages::hash(seed, *number, page)))?;
            if found != *hash {
                return Err(self.escalate("a page differs from what was written"));
            }
        }
        match snapshot.pages == after.map.len() {
            true => Ok(()),
            false => Err(self.escalate("the file does not have the length that was written")),
        }
    }

    /// Checkpoints the WAL if it is large.
    pub fn checkpoint(&mut self) -> Result<()> {
        PageReader::open(&self.path)?.checkpoint_when_due(&mut self.checkpoints)
    }

    /// Switches to the next sync method.
    fn escalate(&mut self, why: &str) -> Error {
        self.method = match self.method {
            SyncMethod::Incremental => SyncMethod::Compare,
            SyncMethod::Compare | SyncMethod::Full => SyncMethod::Full,
        };
        let next = match self.method {
            SyncMethod::Full => "fetching all pages",
            _ => "comparing pages",
        };
        log::error(format_args!("replica of {}: {why}; {next}", self.name));
        Error::unavailable(format!("Replica check failed: {why}."))
    }

    /// Removes a new file in progress.
    pub fn discard(self) {
        drop(self.bootstrap);
        let _ = std::fs::remove_file(self.path.with_extension(NEW_EXTENSION));
    }

    /// Reports whether a repair is in progress.
    pub fn is_repairing(&self) -> bool {
        self.method != SyncMethod::Incremental
    }
}

fn checked(header: StreamHeader, epoch: Epoch) -> Result<StreamHeader> {
    match header.epoch == epoch {
        true => Ok(header),
        false => Err(epoch_changed()),
    }
}

fn write_pages(apply: &PageWriter, content: Content) -> Result<()> {
    match content {
        Content::Memory(bytes) => {
            StreamReader::new(&bytes[..])?.pages(|number, page| apply.write(number, page))
        }
        Content::File(mut file) => {
            file.rewind()?;
            let reader = StreamReader::new(BufReader::with_capacity(BUFFER_BYTES, file))?;
            reader.pages(|number, page| apply.write(number, page))
        }
        Content::NewFile(_) => Err(Error::internal("a whole file is not applied page by page")),
    }
}

/// Removes new files whose database already exists. Other new files are resumed.
pub fn remove_leftovers(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let is_new = path
            .extension()
            .is_some_and(|extension| extension == NEW_EXTENSION);
        if is_new && path.with_extension("db").exists() {
            std::fs::remove_file(&path).context(format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Reports the progress of a download.
struct ProgressReader<'a> {
    download: Download,
    context: &'a SyncContext,
    name: &'a str,
    done: u64,
}

impl<'a> ProgressReader<'a> {
    fn new(context: &'a SyncContext, name: &'a str, download: Download) -> ProgressReader<'a> {
        ProgressReader {
            download,
            context,
            name,
            done: 0,
        }
    }
}

impl Read for ProgressReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.download.read(buffer)?;
        self.done += length as u64;
        (self.context.progress)(self.name, self.done, self.download.length);
        Ok(length)
    }
}

/// Stores everything that is read.
struct Tee<'a> {
    progress: ProgressReader<'a>,
    keep: Content,
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.progress.read(buffer)?;
        match &mut self.keep {
            Content::Memory(bytes) => bytes.extend_from_slice(&buffer[..length]),
            Content::File(file) => file.write_all(&buffer[..length])?,
            Content::NewFile(_) => {}
        }
        Ok(length)
    }
}
