//! The replicas that ask this master: who they are, when they were last here, how far they have got
//! (VB-1, VB-2).
//!
//! Kept in memory and in `local.db`. An acknowledgement is written before it is answered; that
//! somebody was here is written once a minute.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use rusqlite::params;

use crate::base::clock;
use crate::base::error::{Error, Kind, Result};
use crate::base::threads::lock;
use crate::store::db::Database;

/// Replicas that are remembered; whoever can sign tokens could make up more.
const KNOWN_MAX: usize = 1000;
/// How long a visit need not be written down.
const UNWRITTEN_MS: i64 = 60_000;
/// Longest `X-Replica-Public-Url`.
const URL_BYTES_MAX: usize = 2048;

/// The known replicas of this master.
pub struct Replicas {
    local: Arc<Database>,
    known: Mutex<HashMap<String, Known>>,
}

/// What is known of one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    public_url: Option<String>,
    /// Milliseconds since 1970.
    seen_ms: i64,
    /// The same, as it was last written.
    written_ms: i64,
    /// It has every file up to this entry of the journal.
    files_acked: i64,
    /// The states of databases that it said it has, with the tags of their epochs; not kept on disk.
    databases: BTreeMap<String, (String, u64)>,
}

/// What the operator is told of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub id: String,
    pub public_url: Option<String>,
    /// Milliseconds since 1970.
    pub seen_ms: i64,
    pub files_acked: i64,
    pub databases: BTreeMap<String, (String, u64)>,
}

impl Replicas {
    /// Reads those that were here before.
    pub fn open(local: Arc<Database>) -> Result<Replicas> {
        let known = local.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT id, public_url, last_seen, files_acked FROM _known_replicas",
            )?;
            let rows = statement.query_map([], |row| {
                let seen: String = row.get(2)?;
                let seen_ms = clock::parse_datetime(&seen).unwrap_or(0);
                let known = Known {
                    public_url: row.get(1)?,
                    seen_ms,
                    written_ms: seen_ms,
                    files_acked: row.get(3)?,
                    databases: BTreeMap::new(),
                };
                Ok((row.get(0)?, known))
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })?;
        Ok(Replicas {
            local,
            known: Mutex::new(known),
        })
    }

    /// A replica is here.
    pub fn see(&self, id: &str, public_url: Option<&str>) -> Result<()> {
        if public_url.is_some_and(|url| url.len() > URL_BYTES_MAX) {
            return Err(Error::invalid("X-Replica-Public-Url is too long."));
        }
        let now_ms = clock::now_ms();
        let url = public_url.map(str::to_owned);
        let mut known = lock(&self.known);
        if !known.contains_key(id) && known.len() >= KNOWN_MAX {
            return Err(Error::new(
                Kind::TooMany,
                format!("The master knows {KNOWN_MAX} replicas already."),
            ));
        }
        let replica = known.entry(id.to_owned()).or_insert(Known {
            public_url: None,
            seen_ms: 0,
            written_ms: 0,
            files_acked: 0,
            databases: BTreeMap::new(),
        });
        // A clock that was set back must not silence it.
        let is_recent = (0..UNWRITTEN_MS).contains(&(now_ms - replica.written_ms));
        replica.seen_ms = now_ms;
        if is_recent && replica.public_url == url {
            return Ok(());
        }
        replica.public_url.clone_from(&url);
        replica.written_ms = now_ms;
        drop(known);
        let (id, now) = (id.to_owned(), clock::format_ms(now_ms));
        self.local.write(move |tx| {
            tx.prepare_cached(
                "INSERT INTO _known_replicas (id, public_url, first_seen, last_seen)
                 VALUES (?1, ?2, ?3, ?3)
                 ON CONFLICT (id) DO UPDATE SET public_url = ?2, last_seen = ?3",
            )?
            .execute(params![id, url, now])?;
            Ok(())
        })
    }

    /// A replica, which is here, has these states of databases.
    pub fn acknowledge_databases(
        &self,
        id: &str,
        databases: impl IntoIterator<Item = (String, (String, u64))>,
    ) {
        if let Some(replica) = lock(&self.known).get_mut(id) {
            replica.databases.extend(databases);
        }
    }

    /// A replica has nothing of a database.
    pub fn forget_database(&self, id: &str, name: &str) {
        if let Some(replica) = lock(&self.known).get_mut(id) {
            replica.databases.remove(name);
        }
    }

    /// All of them, by name.
    pub fn list(&self) -> Vec<Seen> {
        let mut list: Vec<Seen> = lock(&self.known)
            .iter()
            .map(|(id, known)| Seen {
                id: id.clone(),
                public_url: known.public_url.clone(),
                seen_ms: known.seen_ms,
                files_acked: known.files_acked,
                databases: known.databases.clone(),
            })
            .collect();
        list.sort_by(|a, b| a.id.cmp(&b.id));
        list
    }

    /// A replica, which is here, has every file up to this entry. What it said before stays true.
    pub fn acknowledge_files(&self, id: &str, entry: i64) -> Result<()> {
        let name = id.to_owned();
        self.local.write(move |tx| {
            tx.prepare_cached(
                "UPDATE _known_replicas SET files_acked = max(files_acked, ?2) WHERE id = ?1",
            )?
            .execute(params![name, entry])?;
            Ok(())
        })?;
        if let Some(replica) = lock(&self.known).get_mut(id) {
            replica.files_acked = replica.files_acked.max(entry);
        }
        Ok(())
    }

    /// The entry up to which every replica has its files that was here since then (milliseconds since
    /// 1970); none when none was.
    pub fn files_acknowledged(&self, since_ms: i64) -> Option<i64> {
        lock(&self.known)
            .values()
            .filter(|replica| replica.seen_ms >= since_ms)
            .map(|replica| replica.files_acked)
            .min()
    }

    /// Forgets those that were not here since then (milliseconds since 1970). Returns how many.
    pub fn forget_before(&self, seen_ms: i64) -> Result<usize> {
        let gone: Vec<String> = lock(&self.known)
            .extract_if(|_, replica| replica.seen_ms < seen_ms)
            .map(|(id, _)| id)
            .collect();
        let count = gone.len();
        if count > 0 {
            self.local.write(move |tx| {
                let mut statement =
                    tx.prepare_cached("DELETE FROM _known_replicas WHERE id = ?1")?;
                for id in &gone {
                    statement.execute([id])?;
                }
                Ok(())
            })?;
        }
        Ok(count)
    }

    /// Nothing that was acknowledged counts any more: the journal has begun anew.
    pub fn forget_acknowledgements(&self) -> Result<()> {
        self.local.write(|tx| {
            tx.execute("UPDATE _known_replicas SET files_acked = 0", [])?;
            Ok(())
        })?;
        for replica in lock(&self.known).values_mut() {
            replica.files_acked = 0;
        }
        Ok(())
    }
}
