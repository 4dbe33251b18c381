//! The master's side: which databases there are, and what has changed in them.
//!
//! Nothing is kept for a replica but answers it may ask for again; what it does not ask for costs
//! nothing. The first question about a database makes its [`Source`]; a database that was made anew
//! under the same name is another file and gets another.
//!
//! Lock order: the table of sources, then one source; no two sources at a time.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::Epoch;
use super::source::{Cut, GROUP, Source};
use super::spool::{Spool, Spools};
use super::wire::{Head, Writer};
use crate::base::error::{Error, Result};
use crate::base::threads::lock;
use crate::base::{failpoints, ids, log};
use crate::store::db::{Databases, Synchronous};

/// Databases that are looked at through a connection of their own; the others by their files.
const OPEN_MAX: usize = 64;

/// How long a replica waits for the writes that run when it asks.
const WRITER_WAIT: Duration = Duration::from_secs(5);

/// Bytes of pages in a part of all; few in tests, so that there are many parts.
const PART_BYTES: u32 = if cfg!(debug_assertions) {
    256 << 10
} else {
    32 << 20
};

/// Pages in a part of all, for pages of this size.
pub fn part_pages(page_size: u32) -> u32 {
    PART_BYTES / page_size
}

/// The databases of this server for its replicas.
pub struct Master {
    databases: Arc<Databases>,
    is_synced: bool,
    sources: Mutex<HashMap<String, Entry>>,
    pub spools: Spools,
}

#[derive(Clone)]
struct Entry {
    source: Arc<Mutex<Source>>,
    /// As it was when somebody looked last.
    known: Arc<Mutex<(Epoch, u64)>>,
}

/// One line of the list.
pub struct Listed {
    pub name: String,
    pub epoch: Epoch,
    /// The state that an answer of now would lead to.
    pub version: u64,
}

/// What there is for a replica that has a state.
pub enum Answer {
    /// It is the present one.
    Same,
    /// It is of another epoch.
    Other,
    Stream(Arc<Spool>),
}

/// What a replica has, as hashes of groups of pages.
pub struct Groups {
    pub page_size: u32,
    pub pages: u32,
    pub hashes: Vec<u64>,
}

/// Which groups are not as the replica has them.
pub struct Compared {
    pub epoch: Epoch,
    pub version: u64,
    /// Their numbers, from 0 on; none: nothing can be compared, it needs every page.
    pub groups: Option<Vec<u32>>,
}

/// The hashes of the pages of some groups, as a replica has them. A group without hashes: it wants
/// all of its pages.
pub type Wanted = BTreeMap<u32, Vec<u64>>;

impl Master {
    /// Larger answers go to files in `data_dir`.
    pub fn new(databases: Arc<Databases>, data_dir: &Path, synchronous: Synchronous) -> Master {
        Master {
            databases,
            is_synced: synchronous == Synchronous::Full,
            sources: Mutex::default(),
            spools: Spools::new(data_dir.join("spool")),
        }
    }

    /// Every database, and the state that it is in.
    pub fn list(&self) -> Result<Vec<Listed>> {
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
            // Somebody is busy with it; what is new then is said the next time.
            if let Ok(source) = entry.source.try_lock() {
                match source.version() {
                    Ok(version) => *lock(&entry.known) = (source.epoch(), version),
                    // The others are none the worse for it.
                    Err(error) => log::warn(format_args!("look at {name}: {error}")),
                }
            }
            let (epoch, version) = *lock(&entry.known);
            list.push(Listed {
                name,
                epoch,
                version,
            });
        }
        Ok(list)
    }

    /// Some of all pages as they are now, those after this one.
    pub fn part(&self, name: &str, epoch: Epoch, after: u32) -> Result<Answer> {
        self.with_cut(name, |cut| {
            let state = cut.state;
            if epoch != state.epoch {
                return Ok(Answer::Other);
            }
            let tag = format!("{}-part-{after}-{}", epoch.tag(), state.version);
            if let Some(spool) = self.spools.get(&tag) {
                return Ok(Answer::Stream(spool));
            }
            let last = after.saturating_add(part_pages(cut.snapshot.page_size));
            let numbers = state.select(|number, _| number > after && number <= last);
            self.stream(cut, tag, 0, &numbers)
        })
    }

    /// The pages that changed after the state `since`.
    pub fn pages(&self, name: &str, epoch: Epoch, since: u64) -> Result<Answer> {
        self.with_cut(name, |cut| {
            let state = cut.state;
            if epoch != state.epoch || since == 0 || since > state.version {
                return Ok(Answer::Other);
            }
            if since == state.version {
                return Ok(Answer::Same);
            }
            let tag = format!("{}-{since}-{}", epoch.tag(), state.version);
            if let Some(spool) = self.spools.get(&tag) {
                return Ok(Answer::Stream(spool));
            }
            self.stream(cut, tag, since, &state.since(since))
        })
    }

    /// Which groups of pages differ from those of a replica.
    pub fn compare(&self, name: &str, theirs: &Groups) -> Result<Compared> {
        self.with_cut(name, |cut| {
            let state = cut.state;
            let ours = state.map.groups(GROUP);
            let is_other = |group: &usize| theirs.hashes.get(*group) != ours.get(*group);
            let groups = (0..ours.len()).filter(is_other);
            let numbers = groups.map(|group| u32::try_from(group).unwrap_or(u32::MAX));
            Ok(Compared {
                epoch: state.epoch,
                version: state.version,
                groups: (theirs.page_size == cut.snapshot.page_size).then(|| numbers.collect()),
            })
        })
    }

    /// The pages that changed after the state `since`, which the replica has but for the wanted
    /// groups, and those of these groups that differ.
    pub fn differing(
        &self,
        name: &str,
        epoch: Epoch,
        since: u64,
        wanted: &Wanted,
    ) -> Result<Answer> {
        self.with_cut(name, |cut| {
            let state = cut.state;
            if epoch != state.epoch || since == 0 || since > state.version {
                return Ok(Answer::Other);
            }
            let differs = |number: u32| {
                let at = number as usize - 1;
                let hashes = wanted.get(&u32::try_from(at / GROUP).unwrap_or(u32::MAX));
                hashes.is_some_and(|it| it.get(at % GROUP) != Some(&state.map.get(number)))
            };
            let numbers = state.select(|number, changed| changed > since || differs(number));
            let tag = format!("{}-{}", epoch.tag(), ids::hex(&ids::random_bytes::<8>()?));
            self.stream(cut, tag, since, &numbers)
        })
    }

    fn stream(&self, cut: &Cut<'_>, tag: String, since: u64, numbers: &[u32]) -> Result<Answer> {
        let Cut { snapshot, state } = cut;
        let head = Head {
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
        let mut writer = Writer::new(self.spools.begin(), head)?;
        for number in numbers {
            snapshot.page(*number, |page| writer.page(*number, page))?;
        }
        let spool = self.spools.keep(tag, writer.finish()?)?;
        failpoints::reach("spooled");
        Ok(Answer::Stream(spool))
    }

    /// Runs `body` with the present state of a database.
    fn with_cut<T>(&self, name: &str, body: impl FnOnce(&Cut<'_>) -> Result<T>) -> Result<T> {
        let database = self.databases.get(name)?;
        let entry = self.entry(name)?;
        // A script of a job may run for minutes: replicas come back then, and get the others meanwhile.
        database.wait_for_writer(WRITER_WAIT)?;
        let mut source = lock(&entry.source);
        let result = {
            let cut = source.cut(&database, self.is_synced)?;
            *lock(&entry.known) = (cut.state.epoch, cut.state.version);
            failpoints::reach("cut");
            body(&cut)
        };
        drop(source);
        drop(database);
        self.close_some(name);
        result
    }

    fn entry(&self, name: &str) -> Result<Entry> {
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
        let entry = Entry {
            known: Arc::new(Mutex::new((source.epoch(), 1))),
            source: Arc::new(Mutex::new(source)),
        };
        sources.insert(name.to_owned(), entry.clone());
        Ok(entry)
    }

    /// Closes connections above the limit, other than the one just used.
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

    /// Forgets a database: its name may come to mean another one.
    pub fn forget(&self, name: &str) {
        lock(&self.sources).remove(name);
        self.databases.changes.forget(name);
    }
}

impl Groups {
    /// Reads the body of a request: size of a page, number of pages (4 bytes each), a hash (8 bytes)
    /// for each group, little-endian.
    pub fn parse(body: &[u8]) -> Result<Groups> {
        let (head, hashes) = body.split_at_checked(8).ok_or_else(no_hashes)?;
        let (page_size, pages) = (number(head, 0), number(head, 4));
        let hashes = parse_hashes(hashes)?;
        match hashes.len() == (pages as usize).div_ceil(GROUP) {
            true => Ok(Groups {
                page_size,
                pages,
                hashes,
            }),
            false => Err(no_hashes()),
        }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(8 + 8 * self.hashes.len());
        body.extend_from_slice(&self.page_size.to_le_bytes());
        body.extend_from_slice(&self.pages.to_le_bytes());
        body.extend(self.hashes.iter().flat_map(|hash| hash.to_le_bytes()));
        body
    }
}

/// Reads the body of a request: per group its number, how many hashes follow (4 bytes each), the
/// hashes of its pages (8 bytes each), little-endian.
pub fn parse_wanted(body: &[u8]) -> Result<Wanted> {
    let (mut wanted, mut rest) = (Wanted::new(), body);
    while !rest.is_empty() {
        let (head, tail) = rest.split_at_checked(8).ok_or_else(no_hashes)?;
        let count = number(head, 4) as usize;
        if count > GROUP {
            return Err(no_hashes());
        }
        let (hashes, tail) = tail.split_at_checked(8 * count).ok_or_else(no_hashes)?;
        wanted.insert(number(head, 0), parse_hashes(hashes)?);
        rest = tail;
    }
    Ok(wanted)
}

/// The body that [`parse_wanted`] reads.
pub fn wanted_bytes(wanted: &Wanted) -> Vec<u8> {
    let mut body = Vec::new();
    for (group, hashes) in wanted {
        body.extend_from_slice(&group.to_le_bytes());
        body.extend_from_slice(&u32::try_from(hashes.len()).unwrap_or(0).to_le_bytes());
        body.extend(hashes.iter().flat_map(|hash| hash.to_le_bytes()));
    }
    body
}

fn number(head: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([0, 1, 2, 3].map(|i| head[at + i]))
}

fn parse_hashes(bytes: &[u8]) -> Result<Vec<u64>> {
    if !bytes.len().is_multiple_of(8) {
        return Err(no_hashes());
    }
    let hash = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
    Ok(bytes.chunks_exact(8).map(hash).collect())
}

fn no_hashes() -> Error {
    Error::invalid("The body is not the hashes of pages.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_read_as_they_were_written_and_nothing_else_is() {
        let groups = Groups {
            page_size: 4096,
            pages: 300,
            hashes: vec![5, u64::MAX],
        };
        let bytes = groups.to_bytes();
        let read = Groups::parse(&bytes).unwrap();
        assert_eq!(
            (read.page_size, read.pages, read.hashes),
            (4096, 300, vec![5, u64::MAX])
        );
        let wanted = Wanted::from([(0, vec![1, 2]), (7, Vec::new())]);
        assert_eq!(parse_wanted(&wanted_bytes(&wanted)).unwrap(), wanted);
        for length in 0..bytes.len() {
            assert!(Groups::parse(&bytes[..length]).is_err(), "{length}");
        }
        assert!(parse_wanted(&[1]).is_err());
        assert!(parse_wanted(&[0, 0, 0, 0, 1, 1, 0, 0]).is_err());
        assert!(parse_wanted(&[0, 0, 0, 0, 1, 0, 0, 0]).is_err());
    }
}
