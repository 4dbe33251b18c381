//! The master's side of replication: lists the databases and serves their changes.
//!
//! The master stores nothing per replica except answers that a replica may request again, so an
//! idle replica costs nothing. The first request for a database creates its [`Source`]. A database
//! that was created again under the same name is another file and gets another source.
//!
//! Lock order: the map of sources, then one source, then what is known of it. No thread holds two
//! sources.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::comparison::{GROUP_PAGES, GroupHashes, WantedGroups};
use super::epoch::Epoch;
use super::source::{Source, VersionedSnapshot};
use super::spool::{Spool, Spools};
use super::wire::{StreamHeader, StreamWriter};
use crate::base::error::Result;
use crate::base::threads::lock;
use crate::base::{failpoints, ids, log};
use crate::store::db::{Databases, Synchronous};

/// Sources that keep a connection open; the others check only their files.
const OPEN_MAX: usize = 64;

/// Time limit for a request that waits for writes in progress.
const WRITER_WAIT: Duration = Duration::from_secs(5);

/// Time for which a stream serves other replicas too.
const SHARED_FOR: Duration = Duration::from_millis(20);

/// Bytes of pages in a part of a bootstrap; small in debug builds so that tests have many parts.
const PART_BYTES: u32 = if cfg!(debug_assertions) {
    256 << 10
} else {
    32 << 20
};

/// Pages in a part of a bootstrap.
pub fn part_pages(page_size: u32) -> u32 {
    PART_BYTES / page_size
}

/// The databases that this server offers to replicas.
pub struct Master {
    databases: Arc<Databases>,
    is_durable: bool,
    sources: Mutex<HashMap<String, CachedSource>>,
    pub spools: Spools,
    /// Number of messages by which replicas were told of changes.
    announced: AtomicU64,
}

#[derive(Clone)]
struct CachedSource {
    source: Arc<Mutex<Source>>,
    /// Epoch and version at the last look.
    known: Arc<Mutex<(Epoch, u64)>>,
    latest: Arc<Mutex<Option<LatestAnswer>>>,
}

/// The last stream that was built. Replicas that follow together ask for the same one: it serves
/// all of them, although commits have followed, which the next message announces.
struct LatestAnswer {
    epoch: Epoch,
    since: u64,
    tag: String,
    /// [`Master::announced`] before its snapshot was opened.
    announced: u64,
    built: Instant,
}

/// An entry of the list of databases.
pub struct ListedDatabase {
    pub name: String,
    pub epoch: Epoch,
    /// The version that a request would lead to now.
    pub version: u64,
}

/// The answer to a replica at some version.
pub enum PagesAnswer {
    /// The replica has the current version.
    UpToDate,
    /// The version is not one of this epoch.
    UnknownVersion,
    Stream(Arc<Spool>),
}

/// The groups that differ from those of the replica.
pub struct GroupComparison {
    pub epoch: Epoch,
    pub version: u64,
    /// Group numbers from 0. `None` if the page sizes differ: the replica then needs every page.
    pub groups: Option<Vec<u32>>,
}

impl Master {
    /// Spools large answers in `data_dir`.
    pub fn new(databases: Arc<Databases>, data_dir: &Path, synchronous: Synchronous) -> Master {
        Master {
            databases,
            is_durable: synchronous == Synchronous::Full,
            sources: Mutex::default(),
            spools: Spools::new(data_dir.join("spool")),
            announced: AtomicU64::new(0),
        }
    }

    /// Every database and its current version.
    pub fn list(&self) -> Result<Vec<ListedDatabase>> {
        let names = self.databases.list()?;
        lock(&self.sources).retain(|name, _| names.contains(name));
        let mut list = Vec::new();
        for name in names {
            let entry = match self.entry(&name) {
                Ok(entry) => entry,
                // Deleted meanwhile.
                Err(_) if !self.databases.file(&name).exists() => continue,
                Err(error) => return Err(error),
            };
            // If the source is in use, the next list has its new version.
            if let Ok(source) = entry.source.try_lock() {
                match source.version() {
                    Ok(version) => *lock(&entry.known) = (source.epoch(), version),
                    // One unreadable database must not hide the others.
                    Err(error) => log::warn(format_args!("read the version of {name}: {error}")),
                }
            }
            let (epoch, version) = *lock(&entry.known);
            list.push(ListedDatabase {
                name,
                epoch,
                version,
            });
        }
        Ok(list)
    }

    /// One part of a bootstrap: the pages after `after`, as they are now.
    pub fn part(&self, name: &str, epoch: Epoch, after: u32) -> Result<PagesAnswer> {
        self.with_snapshot(name, |current| {
            let state = current.state;
            if epoch != state.epoch {
                return Ok(PagesAnswer::UnknownVersion);
            }
            let tag = format!("{}-part-{after}-{}", epoch.tag(), state.version);
            if let Some(spool) = self.spools.get(&tag) {
                return Ok(PagesAnswer::Stream(spool));
            }
            let last = after.saturating_add(part_pages(current.snapshot.page_size));
            let numbers = state.select(|number, _| number > after && number <= last);
            self.stream(current, tag, 0, &numbers)
        })
    }

    /// To be called before replicas are told of changes.
    pub fn announce(&self) {
        self.announced.fetch_add(1, Ordering::SeqCst);
    }

    /// The pages that changed after the version `since`.
    pub fn pages(&self, name: &str, epoch: Epoch, since: u64) -> Result<PagesAnswer> {
        let announced = self.announced.load(Ordering::SeqCst);
        self.databases.get(name)?;
        let entry = self.entry(name)?;
        if let Some(spool) = self.shared(&entry, epoch, since) {
            return Ok(PagesAnswer::Stream(spool));
        }
        self.with_snapshot(name, |current| {
            let state = current.state;
            if epoch != state.epoch || since == 0 || since > state.version {
                return Ok(PagesAnswer::UnknownVersion);
            }
            if since == state.version {
                return Ok(PagesAnswer::UpToDate);
            }
            let tag = format!("{}-{since}-{}", epoch.tag(), state.version);
            if let Some(spool) = self.spools.get(&tag) {
                return Ok(PagesAnswer::Stream(spool));
            }
            let answer = self.stream(current, tag.clone(), since, &state.since(since))?;
            *lock(&entry.latest) = Some(LatestAnswer {
                epoch,
                since,
                tag,
                announced,
                built: Instant::now(),
            });
            Ok(answer)
        })
    }

    /// A stream that was built for another replica after the last message, and just now.
    fn shared(&self, entry: &CachedSource, epoch: Epoch, since: u64) -> Option<Arc<Spool>> {
        // One that is being built is worth the wait.
        let _source = lock(&entry.source);
        let latest = lock(&entry.latest);
        let latest = latest.as_ref().filter(|it| {
            it.epoch == epoch
                && it.since == since
                && it.announced == self.announced.load(Ordering::SeqCst)
                && it.built.elapsed() < SHARED_FOR
        })?;
        self.spools.get(&latest.tag)
    }

    /// Compares the page groups of a replica with the current version.
    pub fn compare(&self, name: &str, theirs: &GroupHashes) -> Result<GroupComparison> {
        self.with_snapshot(name, |current| {
            let state = current.state;
            let ours = state.map.groups(GROUP_PAGES);
            let is_other = |group: &usize| theirs.hashes.get(*group) != ours.get(*group);
            let groups = (0..ours.len()).filter(is_other);
            let numbers = groups.map(|group| u32::try_from(group).unwrap_or(u32::MAX));
            Ok(GroupComparison {
                epoch: state.epoch,
                version: state.version,
                groups: (theirs.page_size == current.snapshot.page_size).then(|| numbers.collect()),
            })
        })
    }

    /// The pages that changed after the version `since`, and of the wanted groups the pages that
    /// differ.
    pub fn differing(
        &self,
        name: &str,
        epoch: Epoch,
        since: u64,
        wanted: &WantedGroups,
    ) -> Result<PagesAnswer> {
        self.with_snapshot(name, |current| {
            let state = current.state;
            if epoch != state.epoch || since == 0 || since > state.version {
                return Ok(PagesAnswer::UnknownVersion);
            }
            let differs = |number: u32| {
                let at = number as usize - 1;
                let hashes = wanted.get(&u32::try_from(at / GROUP_PAGES).unwrap_or(u32::MAX));
                hashes.is_some_and(|it| it.get(at % GROUP_PAGES) != Some(&state.map.get(number)))
            };
            let numbers = state.select(|number, changed| changed > since || differs(number));
            let tag = format!("{}-{}", epoch.tag(), ids::hex(&ids::random_bytes::<8>()?));
            self.stream(current, tag, since, &numbers)
        })
    }

    fn stream(
        &self,
        current: &VersionedSnapshot<'_>,
        tag: String,
        since: u64,
        numbers: &[u32],
    ) -> Result<PagesAnswer> {
        let VersionedSnapshot { snapshot, state } = current;
        let header = StreamHeader {
            epoch: state.epoch,
            since,
            version: state.version,
            page_size: snapshot.page_size,
            pages: snapshot.pages,
            count: u32::try_from(numbers.len()).unwrap_or(u32::MAX),
            user_version: i32::try_from(snapshot.user_version()?).unwrap_or(i32::MAX),
            checksum: state.map.checksum(),
            schema: snapshot.schema_hash()?,
            definitions: snapshot.definitions_hash()?,
        };
        let mut writer = StreamWriter::new(self.spools.begin(), header)?;
        for number in numbers {
            snapshot.page(*number, |page| writer.page(*number, page))?;
        }
        let spool = self.spools.insert(tag, writer.finish()?)?;
        failpoints::reach("spooled");
        Ok(PagesAnswer::Stream(spool))
    }

    /// Runs `body` with the current version of a database.
    fn with_snapshot<T>(
        &self,
        name: &str,
        body: impl FnOnce(&VersionedSnapshot<'_>) -> Result<T>,
    ) -> Result<T> {
        let database = self.databases.get(name)?;
        let entry = self.entry(name)?;
        // A cron script may hold the writer for minutes. The replica then retries and syncs other
        // databases meanwhile.
        database.wait_for_writer(WRITER_WAIT)?;
        let mut source = lock(&entry.source);
        let result = {
            let current = source.snapshot(&database, self.is_durable)?;
            *lock(&entry.known) = (current.state.epoch, current.state.version);
            failpoints::reach("cut");
            body(&current)
        };
        drop(source);
        drop(database);
        self.close_some(name);
        result
    }

    fn entry(&self, name: &str) -> Result<CachedSource> {
        let mut sources = lock(&self.sources);
        if let Some(entry) = sources.get(name) {
            let is_same = entry
                .source
                .try_lock()
                .map_or(true, |source| source.is_same_file());
            if is_same {
                return Ok(entry.clone());
            }
        }
        let source = Source::new(name, self.databases.file(name))?;
        let entry = CachedSource {
            known: Arc::new(Mutex::new((source.epoch(), 1))),
            source: Arc::new(Mutex::new(source)),
            latest: Arc::default(),
        };
        sources.insert(name.to_owned(), entry.clone());
        Ok(entry)
    }

    /// Closes connections above the limit, but not the one in use.
    fn close_some(&self, used: &str) {
        let sources: Vec<Arc<Mutex<Source>>> = lock(&self.sources)
            .iter()
            .filter(|(name, _)| *name != used)
            .map(|(_, entry)| Arc::clone(&entry.source))
            .collect();
        let open = sources
            .iter()
            .filter_map(|source| source.try_lock().ok())
            .filter(|source| source.is_open());
        for mut source in open.skip(OPEN_MAX - 1) {
            source.close();
        }
    }

    /// Forgets a database, because its name may be reused.
    pub fn forget(&self, name: &str) {
        lock(&self.sources).remove(name);
        self.databases.changes.forget(name);
    }
}
