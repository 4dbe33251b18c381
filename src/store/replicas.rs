//! The replicas of this master: when each last connected, and the states and files that it has.
//!
//! They are kept in memory and in `local.db`. An acknowledgement is written before it is answered;
//! the time of a visit is written once a minute.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use rusqlite::params;

use crate::base::clock;
use crate::base::error::{Error, Kind, Result};
use crate::base::threads::lock;
use crate::store::db::Database;

/// Replicas that are remembered; a client that can sign tokens could invent more.
const KNOWN_MAX: usize = 1000;
/// Time between two writes of the last visit.
const WRITE_INTERVAL_MS: i64 = 60_000;
/// Longest `X-Replica-Public-Url`, in bytes.
const URL_BYTES_MAX: usize = 2048;

/// The known replicas of this master.
pub struct Replicas {
    local: Arc<Database>,
    known: Mutex<HashMap<String, Known>>,
}

/// One replica, in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    public_url: Option<String>,
    /// Milliseconds since 1970.
    seen_ms: i64,
    /// `seen_ms` as last written to `local.db`.
    written_ms: i64,
    /// The replica has every file up to this entry of the journal.
    files_acked: i64,
    /// Per database, the tag of the epoch and the state that the replica acknowledged; not kept on
    /// disk.
    databases: BTreeMap<String, (String, u64)>,
}

/// One replica, as shown to the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaInfo {
    pub id: String,
    pub public_url: Option<String>,
    /// Milliseconds since 1970.
    pub seen_ms: i64,
    pub files_acked: i64,
    pub databases: BTreeMap<String, (String, u64)>,
}

impl Replicas {
    /// Reads the known replicas from `local.db`.
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

    /// Records a visit of a replica.
    pub fn record_visit(&self, id: &str, public_url: Option<&str>) -> Result<()> {
        if public_url.is_some_and(|url| url.len() > URL_BYTES_MAX) {
            return Err(Error::invalid("X-Replica-Public-Url is too long."));
        }
        let now_ms = clock::now_ms();
        let url = public_url.map(str::to_owned);
        let mut known = lock(&self.known);
        if !known.contains_key(id) && known.len() >= KNOWN_MAX {
            return Err(Error::new(
                Kind::TooMany,
                format!("The master already knows {KNOWN_MAX} replicas."),
            ));
        }
        let replica = known.entry(id.to_owned()).or_insert(Known {
            public_url: None,
            seen_ms: 0,
            written_ms: 0,
            files_acked: 0,
            databases: BTreeMap::new(),
        });
        // If the clock was set back, the visit is written.
        let is_recent = (0..WRITE_INTERVAL_MS).contains(&(now_ms - replica.written_ms));
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

    /// Records the states of databases that a connected replica has.
    pub fn acknowledge_databases(
        &self,
        id: &str,
        databases: impl IntoIterator<Item = (String, (String, u64))>,
    ) {
        if let Some(replica) = lock(&self.known).get_mut(id) {
            replica.databases.extend(databases);
        }
    }

    /// Records that a replica lacks a database.
    pub fn forget_database(&self, id: &str, name: &str) {
        if let Some(replica) = lock(&self.known).get_mut(id) {
            replica.databases.remove(name);
        }
    }

    /// All replicas, sorted by id.
    pub fn list(&self) -> Vec<ReplicaInfo> {
        let mut list: Vec<ReplicaInfo> = lock(&self.known)
            .iter()
            .map(|(id, known)| ReplicaInfo {
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

    /// Records that a connected replica has every file up to this entry. A smaller entry has no
    /// effect.
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

    /// The entry up to which every replica that connected since `since_ms` (milliseconds since
    /// 1970) has its files; none if no replica has connected.
    pub fn files_acknowledged(&self, since_ms: i64) -> Option<i64> {
        lock(&self.known)
            .values()
            .filter(|replica| replica.seen_ms >= since_ms)
            .map(|replica| replica.files_acked)
            .min()
    }

    /// Forgets replicas that last connected before `seen_ms` (milliseconds since 1970). Returns
    /// their number.
    pub fn delete_before(&self, seen_ms: i64) -> Result<usize> {
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

    /// Resets all acknowledged entries: the journal has begun an epoch.
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
