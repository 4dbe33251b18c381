//! Answers for replicas: built once from one version, then immutable and shared by all readers.
//!
//! A read transaction prevents a reset of the WAL, so an answer is complete before it is sent.
//! Small answers stay in memory; larger ones go to unlinked files, which disappear with the
//! process.
//!
//! Bounds: [`ENTRIES_MAX`] answers, at most [`FILES_MAX`] of them in files. An unused answer is
//! removed after [`UNUSED_MAX`]. A reader keeps its answer until it is done.

use std::fs::File;
use std::io;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::base::error::{Result, ResultExt as _};
use crate::base::ids;
use crate::base::threads::lock;
use crate::store::db;

/// Limit on answers in memory.
const MEMORY_BYTES: usize = 1 << 20;
const ENTRIES_MAX: usize = 32;
const FILES_MAX: usize = 4;
const UNUSED_MAX: Duration = Duration::from_secs(60);

/// A stored answer.
pub struct Spool {
    /// A unique name.
    pub tag: String,
    pub bytes: u64,
    content: Content,
}

enum Content {
    Memory(Vec<u8>),
    File(File),
}

impl Spool {
    fn is_file(&self) -> bool {
        matches!(self.content, Content::File(_))
    }
}

/// Reads an answer from an offset.
pub struct SpoolReader {
    spool: Arc<Spool>,
    offset: u64,
    is_stopped: Arc<AtomicBool>,
}

impl Read for SpoolReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_stopped.load(Ordering::SeqCst) {
            return Err(io::Error::other("the server is stopping"));
        }
        let length = match &self.spool.content {
            Content::Memory(bytes) => {
                let offset = usize::try_from(self.offset)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                (&bytes[offset..]).read(buffer)?
            }
            Content::File(file) => file.read_at(buffer, self.offset)?,
        };
        self.offset += length as u64;
        Ok(length)
    }
}

/// Writes an answer that is being built.
pub struct SpoolWriter {
    dir: PathBuf,
    bytes: u64,
    memory: Vec<u8>,
    file: Option<File>,
}

impl Write for SpoolWriter {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.memory.extend_from_slice(piece);
        self.bytes += piece.len() as u64;
        if self.memory.len() > MEMORY_BYTES {
            self.flush()?;
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => anonymous_file(&self.dir)?,
        };
        file.write_all(&self.memory)?;
        self.memory.clear();
        self.file = Some(file);
        Ok(())
    }
}

/// Creates an unlinked file in a directory. It disappears when it is closed.
pub fn anonymous_file(dir: &Path) -> io::Result<File> {
    db::create_dir(dir).map_err(|error| io::Error::other(error.to_string()))?;
    let random = ids::random_bytes::<8>().map_err(|error| io::Error::other(error.to_string()))?;
    let path = dir.join(ids::hex(&random));
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// Recent answers.
pub struct Spools {
    dir: PathBuf,
    /// The server is stopping: reads fail. Replicas resume them later.
    is_stopped: Arc<AtomicBool>,
    list: Mutex<Vec<(Arc<Spool>, Instant)>>,
}

impl Spools {
    /// Stores files in `dir`.
    pub fn new(dir: PathBuf) -> Spools {
        Spools {
            dir,
            is_stopped: Arc::default(),
            list: Mutex::default(),
        }
    }

    /// The answer with this tag, if it is still stored.
    pub fn get(&self, tag: &str) -> Option<Arc<Spool>> {
        let mut list = lock(&self.list);
        let (spool, used) = list.iter_mut().find(|(spool, _)| spool.tag == tag)?;
        *used = Instant::now();
        Some(Arc::clone(spool))
    }

    /// Reads an answer from an offset.
    pub fn read(&self, spool: &Arc<Spool>, offset: u64) -> SpoolReader {
        SpoolReader {
            spool: Arc::clone(spool),
            offset,
            is_stopped: Arc::clone(&self.is_stopped),
        }
    }

    /// Fails all reads in progress.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::SeqCst);
    }

    /// Starts a new answer.
    pub fn begin(&self) -> SpoolWriter {
        SpoolWriter {
            dir: self.dir.clone(),
            bytes: 0,
            memory: Vec::new(),
            file: None,
        }
    }

    /// Stores a finished answer under a tag.
    pub fn insert(&self, tag: String, mut writer: SpoolWriter) -> Result<Arc<Spool>> {
        if writer.file.is_some() {
            writer.flush().context("spool an answer")?;
        }
        let content = match writer.file {
            Some(file) => Content::File(file),
            None => Content::Memory(writer.memory),
        };
        let spool = Arc::new(Spool {
            tag,
            bytes: writer.bytes,
            content,
        });
        let mut list = lock(&self.list);
        list.push((Arc::clone(&spool), Instant::now()));
        trim(&mut list);
        Ok(spool)
    }

    /// Removes unused answers.
    pub fn forget_unused(&self) {
        forget_unused(&mut lock(&self.list));
    }
}

/// A reader may have to request the rest, so an answer with readers counts as used.
fn forget_unused(list: &mut Vec<(Arc<Spool>, Instant)>) {
    for (spool, used) in list.iter_mut() {
        if Arc::strong_count(spool) > 1 {
            *used = Instant::now();
        }
    }
    list.retain(|(_, used)| used.elapsed() < UNUSED_MAX);
}

fn trim(list: &mut Vec<(Arc<Spool>, Instant)>) {
    forget_unused(list);
    while list.len() > ENTRIES_MAX {
        list.remove(0);
    }
    while list.iter().filter(|(spool, _)| spool.is_file()).count() > FILES_MAX {
        let Some(offset) = list.iter().position(|(spool, _)| spool.is_file()) else {
            return;
        };
        list.remove(offset);
    }
}
