//! One database of a replica: fetched, checked, applied, checked again.
//!
//! [`Follower::fetch`] gets what the master has more, onto the disk but not into the database;
//! [`Follower::apply`] brings it in as one transaction. What is here is known by the hashes of its pages,
//! which are read from the file and never from a note: after a start, and when the master has
//! begun another epoch, the whole file is read once.
//!
//! Ways to come along, each the remedy when the one before it did not lead to the master's checksum:
//! the pages that changed after our state; the pages whose hashes differ; every page, into a new file.

use std::fs::File;
use std::io::{BufReader, Read, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Epoch;
use super::client::{Client, Download, Entry, Reply};
use super::master::{Groups, Wanted, wanted_bytes};
use super::positions::Position;
use super::source::GROUP;
use super::spool::nameless_file;
use super::whole::{NEW, Whole};
use super::wire::{Head, Reader};
use crate::base::error::{Error, Result, ResultExt as _};
use crate::base::{failpoints, log};
use crate::model::collections::Catalog;
use crate::store::db;
use crate::store::db::pages::{PageMap, PageReader};
use crate::store::db::{Apply, Checkpoints, Databases, pages};

/// Streams up to this size are kept in memory until they are applied.
const MEMORY_BYTES: u64 = 4 << 20;
/// Of what is read from a connection at a time.
pub const BUFFER_BYTES: usize = 256 << 10;
/// How long a reader may have been reading: queries end before.
const READING: Duration = Duration::from_secs(30);
/// Groups whose hashes are sent at a time; of further ones every page is wanted.
const GROUPS_MAX: usize = 1500;

/// Hears the name of a database, how much of its stream has come and how much there is, in bytes.
pub type Told = Box<dyn Fn(&str, u64, u64) + Send + Sync>;

/// What following needs besides the database itself.
pub struct Context {
    pub client: Arc<Client>,
    pub databases: Arc<Databases>,
    pub catalog: Arc<Catalog>,
    /// Where streams wait.
    pub spool: PathBuf,
    /// Told how much of a stream has come and how much there is, in bytes.
    pub progress: Told,
}

/// One database.
pub struct Follower {
    name: String,
    path: PathBuf,
    have: Option<Have>,
    /// How to come along the next time.
    way: Way,
    checkpoints: Checkpoints,
    /// When tables or indexes were last seen to change.
    schema_changed: Option<Instant>,
    /// A new file that is being received.
    whole: Option<Whole>,
}

/// What there is of a database.
pub enum Found {
    /// Something to apply.
    Newer(Fetched),
    /// The file has everything, which is this state.
    Same(Position),
    /// A new file, of which more is to come.
    Loading,
}

/// What the file has.
struct Have {
    /// That the hashes are made with.
    epoch: Epoch,
    page_size: u32,
    map: PageMap,
    schema: u64,
    definitions: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Newer,
    Compare,
    Everything,
}

/// What was fetched and waits to be applied.
pub struct Fetched {
    head: Head,
    /// The hashes of its pages.
    hashes: Vec<(u32, u64)>,
    content: Content,
}

enum Content {
    Memory(Vec<u8>),
    File(File),
    /// The whole database, in a new file beside the old one; the hashes of all pages.
    Whole(PageMap),
}

impl Follower {
    pub fn new(name: &str, databases: &Databases) -> Follower {
        Follower {
            name: name.to_owned(),
            path: databases.file(name),
            have: None,
            way: Way::Newer,
            checkpoints: Checkpoints::default(),
            schema_changed: None,
            whole: None,
        }
    }

    /// Whether the file is known to be in this state, and the master too.
    pub fn is_at(&self, position: &Position, entry: &Entry) -> bool {
        let have = self.have.as_ref().filter(|_| self.way == Way::Newer);
        have.is_some_and(|have| {
            have.epoch == position.epoch
                && have.map.checksum() == position.checksum
                && entry.epoch().is_ok_and(|epoch| epoch == position.epoch)
                && entry.version == position.version
        })
    }

    /// Gets what the master has more than our file. Of a new file one part.
    pub fn fetch(
        &mut self,
        context: &Context,
        entry: &Entry,
        position: Option<&Position>,
    ) -> Result<Found> {
        let epoch = entry.epoch()?;
        let result = self.try_fetch(context, epoch, position);
        if let Err(error) = &result {
            self.recover(error);
        }
        result.context(format!("fetch {}", self.name))
    }

    fn try_fetch(
        &mut self,
        context: &Context,
        epoch: Epoch,
        position: Option<&Position>,
    ) -> Result<Found> {
        if !self.path.exists() || self.way == Way::Everything {
            return self.fetch_everything(context, epoch);
        }
        let have = match self.have.take() {
            Some(have) if have.epoch == epoch => have,
            _ => self.look(epoch)?,
        };
        let have = self.have.insert(have);
        let known = position
            .filter(|position| position.epoch == epoch && position.checksum == have.map.checksum());
        if let Some(position) = known.filter(|_| self.way == Way::Newer) {
            match context.client.since(&self.name, epoch, position.version)? {
                Reply::Same => return Ok(Found::Same(position.clone())),
                Reply::Stream(download) => {
                    let fetched = self.receive(context, download, epoch)?;
                    return Ok(Found::Newer(fetched));
                }
                Reply::Other => {}
            }
        }
        self.fetch_differing(context, epoch, position)
    }

    fn fetch_everything(&mut self, context: &Context, epoch: Epoch) -> Result<Found> {
        self.have = None;
        let mut whole = match self.whole.take() {
            Some(whole) if whole.epoch() == epoch => whole,
            _ => Whole::open(&context.client, &self.name, &self.path, epoch)?,
        };
        if let Some((head, map)) = whole.advance(&context.progress)? {
            return Ok(Found::Newer(Fetched {
                head,
                hashes: Vec::new(),
                content: Content::Whole(map),
            }));
        }
        self.whole = Some(whole);
        Ok(Found::Loading)
    }

    fn fetch_differing(
        &mut self,
        context: &Context,
        epoch: Epoch,
        position: Option<&Position>,
    ) -> Result<Found> {
        let Some(have) = &self.have else {
            return Err(Error::internal("nothing to compare"));
        };
        let client = &context.client;
        let compared = wanted_groups(client, &self.name, epoch, have.page_size, &have.map)?;
        let Some((version, body)) = compared else {
            // For all parts of it, so that the old file is not looked at before each.
            self.way = Way::Everything;
            return self.fetch_everything(context, epoch);
        };
        if body.is_empty() {
            let checksum = have.map.checksum();
            self.way = Way::Newer;
            let next = Position::next(position, epoch, version, checksum);
            return Ok(Found::Same(next));
        }
        let reply = context
            .client
            .differing(&self.name, epoch, version, &body)?;
        match reply {
            Reply::Stream(download) => Ok(Found::Newer(self.receive(context, download, epoch)?)),
            Reply::Same | Reply::Other => Err(changed_meanwhile()),
        }
    }

    /// Reads the hashes of all pages of the file.
    fn look(&self, epoch: Epoch) -> Result<Have> {
        let reader = PageReader::open(&self.path)?;
        let snapshot = reader.snapshot()?;
        Ok(Have {
            epoch,
            page_size: snapshot.page_size,
            map: snapshot.map(epoch.seed())?,
            schema: snapshot.schema_hash()?,
            definitions: snapshot.definitions_hash()?,
        })
    }

    /// Takes a stream whole and checks it, before any page of it is used.
    fn receive(&self, context: &Context, download: Download, epoch: Epoch) -> Result<Fetched> {
        let keep = match download.length <= MEMORY_BYTES {
            true => Content::Memory(Vec::new()),
            false => Content::File(nameless_file(&context.spool).context("spool a stream")?),
        };
        let mut tee = Tee {
            progress: Progress::new(context, &self.name, download),
            keep,
        };
        let reader = Reader::new(BufReader::with_capacity(BUFFER_BYTES, &mut tee))?;
        let (head, mut hashes) = (reader.head(), Vec::new());
        reader.pages(|number, page| {
            hashes.push((number, pages::hash(epoch.seed(), number, page)));
            failpoints::reach("page-received");
            Ok(())
        })?;
        Ok(Fetched {
            head: checked(head, epoch)?,
            hashes,
            content: tee.keep,
        })
    }

    /// Brings in what was fetched. Returns the position that this leads to.
    pub fn apply(
        &mut self,
        context: &Context,
        fetched: Fetched,
        position: Option<&Position>,
    ) -> Result<Position> {
        let head = fetched.head;
        let result = match fetched.content {
            Content::Whole(map) => self.apply_whole(context, head, map),
            content => {
                let fetched = Fetched { content, ..fetched };
                self.apply_pages(context, fetched, position)
            }
        };
        match result.context(format!("apply {}", self.name)) {
            Ok(have) => {
                let position =
                    Position::next(position, head.epoch, head.version, have.map.checksum());
                self.have = Some(have);
                self.way = Way::Newer;
                Ok(position)
            }
            Err(error) => {
                self.recover(&error);
                Err(error)
            }
        }
    }

    /// After an error the hashes of the file are read anew; what cannot be read is replaced.
    fn recover(&mut self, error: &Error) {
        self.have = None;
        if db::is_damaged(error) {
            self.way = Way::Compare;
            self.escalate("the file is damaged");
        }
    }

    fn apply_whole(&mut self, context: &Context, head: Head, map: PageMap) -> Result<Have> {
        let new = self.path.with_extension(NEW);
        let is_default = self.name == db::DEFAULT;
        let replace = || match is_default || self.path.exists() {
            true => {
                let database = context.databases.get(&self.name)?;
                database.alone(|| db::replace_file(&new, &self.path))
            }
            false => db::replace_file(&new, &self.path),
        };
        context.catalog.replace(&self.name, replace)?;
        self.schema_changed = Some(Instant::now());
        Ok(Have {
            epoch: head.epoch,
            page_size: head.page_size,
            map,
            schema: head.schema,
            definitions: head.definitions,
        })
    }

    fn apply_pages(
        &mut self,
        context: &Context,
        fetched: Fetched,
        position: Option<&Position>,
    ) -> Result<Have> {
        let head = fetched.head;
        let Some(before) = self.have.take() else {
            return Err(Error::internal("pages for a file that was not looked at"));
        };
        // All new pages but the one of locks are among those that came: what the master says of their number makes
        // nothing grow by itself.
        let new = head.pages.saturating_sub(before.map.len());
        if new as usize > fetched.hashes.len() + 1 {
            return Err(self.escalate("pages are missing"));
        }
        let mut map = before.map.clone();
        map.resize(head.pages);
        for (number, hash) in &fetched.hashes {
            map.set(*number, *hash);
        }
        if map.checksum() != head.checksum {
            return Err(self.escalate("the pages do not lead to the master's state"));
        }
        let after = Have {
            epoch: head.epoch,
            page_size: head.page_size,
            map,
            schema: head.schema,
            definitions: head.definitions,
        };
        let apply = Apply::begin(&self.path)?;
        if apply.page_size() != head.page_size {
            self.way = Way::Everything;
            return Err(changed_meanwhile());
        }
        let hashes = fetched.hashes;
        write_pages(&apply, fetched.content)?;
        failpoints::reach("pages-written");
        let is_other_history = position.is_none_or(|position| position.epoch != head.epoch);
        self.commit(context, &apply, &before, &after, is_other_history)?;
        failpoints::reach("committed");
        drop(apply);
        self.verify(&hashes, &after)?;
        Ok(after)
    }

    /// Commits with nobody misled: who reads has to notice another schema and other definitions.
    fn commit(
        &mut self,
        context: &Context,
        apply: &Apply,
        before: &Have,
        after: &Have,
        is_other_history: bool,
    ) -> Result<()> {
        let database = context.databases.get(&self.name)?;
        let is_other_schema = before.schema != after.schema;
        if is_other_schema {
            self.schema_changed = Some(Instant::now());
        }
        // SQLite tells schemas apart by a counter, which another history may have counted otherwise.
        // Somebody who is reading may know a schema that is older than ours.
        let is_recent = |changed: Instant| changed.elapsed() < READING;
        let is_alone = is_other_history && self.schema_changed.is_some_and(is_recent);
        if is_other_history {
            database.renew_readers();
        }
        let commit = || match is_alone {
            true => database.alone(|| apply.commit(after.map.len())),
            false => apply.commit(after.map.len()),
        };
        match before.definitions != after.definitions {
            true => context.catalog.replace(&self.name, commit),
            false => commit(),
        }
    }

    /// Reads back what was written.
    fn verify(&mut self, hashes: &[(u32, u64)], after: &Have) -> Result<()> {
        let reader = PageReader::open(&self.path)?;
        let snapshot = reader.snapshot()?;
        let seed = after.epoch.seed();
        for (number, hash) in hashes {
            let found = snapshot.page(*number, |page| Ok(pages::hash(seed, *number, page)))?;
            if found != *hash {
                return Err(self.escalate("a page is not what was written"));
            }
        }
        match snapshot.pages == after.map.len() {
            true => Ok(()),
            false => Err(self.escalate("the file has not the length that was written")),
        }
    }

    /// Folds the log of the file in, when there is much of it.
    pub fn fold(&mut self) -> Result<()> {
        PageReader::open(&self.path)?.fold_when_due(&mut self.checkpoints)
    }

    /// Takes the next remedy from now on.
    fn escalate(&mut self, why: &str) -> Error {
        self.way = match self.way {
            Way::Newer => Way::Compare,
            Way::Compare | Way::Everything => Way::Everything,
        };
        let next = match self.way {
            Way::Everything => "getting every page anew",
            _ => "comparing pages",
        };
        log::error(format_args!("replica of {}: {why}; {next}", self.name));
        Error::unavailable(format!("The replica was not right: {why}."))
    }

    /// Removes what has come of a new file.
    pub fn discard(self) {
        drop(self.whole);
        let _ = std::fs::remove_file(self.path.with_extension(NEW));
    }

    /// Whether it has had to mend itself and has not succeeded yet.
    pub fn is_mending(&self) -> bool {
        self.way != Way::Newer
    }
}

/// Compares hashes of pages with the master's. Returns the state that it was in, and what to ask it for;
/// nothing when all are the same, none when nothing can be compared.
pub fn wanted_groups(
    client: &Client,
    name: &str,
    epoch: Epoch,
    page_size: u32,
    map: &PageMap,
) -> Result<Option<(u64, Vec<u8>)>> {
    let groups = Groups {
        page_size,
        pages: map.len(),
        hashes: map.groups(GROUP),
    };
    let compared = client.compare(name, &groups.to_bytes())?;
    if Epoch::parse(&compared.epoch) != Some(epoch) {
        return Err(changed_meanwhile());
    }
    let Some(groups) = compared.groups else {
        return Ok(None);
    };
    let wanted: Wanted = (0..)
        .zip(groups)
        .map(|(count, group)| {
            let hashes = map.group(group as usize, GROUP);
            let hashes = if count < GROUPS_MAX { hashes } else { &[] };
            (group, hashes.to_vec())
        })
        .collect();
    Ok(Some((compared.version, wanted_bytes(&wanted))))
}

/// The master is not the one that the list was from.
pub fn changed_meanwhile() -> Error {
    Error::unavailable("The master has begun another history meanwhile; trying again.")
}

fn checked(head: Head, epoch: Epoch) -> Result<Head> {
    match head.epoch == epoch {
        true => Ok(head),
        false => Err(changed_meanwhile()),
    }
}

fn write_pages(apply: &Apply, content: Content) -> Result<()> {
    match content {
        Content::Memory(bytes) => {
            Reader::new(&bytes[..])?.pages(|number, page| apply.write(number, page))
        }
        Content::File(mut file) => {
            file.rewind()?;
            let reader = Reader::new(BufReader::with_capacity(BUFFER_BYTES, file))?;
            reader.pages(|number, page| apply.write(number, page))
        }
        Content::Whole(_) => Err(Error::internal("a whole file is not applied page by page")),
    }
}

/// Removes new files that were to take the place of one that is there after all. The others are gone
/// on with.
pub fn remove_leftovers(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let is_new = path.extension().is_some_and(|extension| extension == NEW);
        if is_new && path.with_extension("db").exists() {
            std::fs::remove_file(&path).context(format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Tells how much of a download has come.
struct Progress<'a> {
    download: Download,
    context: &'a Context,
    name: &'a str,
    done: u64,
}

impl<'a> Progress<'a> {
    fn new(context: &'a Context, name: &'a str, download: Download) -> Progress<'a> {
        Progress {
            download,
            context,
            name,
            done: 0,
        }
    }
}

impl Read for Progress<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.download.read(buffer)?;
        self.done += length as u64;
        (self.context.progress)(self.name, self.done, self.download.length);
        Ok(length)
    }
}

/// Keeps what passes.
struct Tee<'a> {
    progress: Progress<'a>,
    keep: Content,
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.progress.read(buffer)?;
        match &mut self.keep {
            Content::Memory(bytes) => bytes.extend_from_slice(&buffer[..length]),
            Content::File(file) => file.write_all(&buffer[..length])?,
            Content::Whole(_) => {}
        }
        Ok(length)
    }
}
