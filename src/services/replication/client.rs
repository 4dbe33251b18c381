//! Questions to the master.
//!
//! Every answer is bounded and every wait ends: a connection that brings nothing for [`STALL_TIMEOUT`] is cut
//! by whoever calls [`MasterClient::abort_if_stalled`] now and then, and [`MasterClient::stop`] cuts it at once. A
//! stream that was cut goes on where it was, see [`Download`].

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::io::Read;
use std::ops::Deref;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use ureq::http::Response;
use ureq::{Agent, Body};

use super::epoch::Epoch;
use super::positions::Position;
use crate::base::backoff::Backoff;
use crate::base::error::{Error, Kind, Result};
use crate::base::threads::{Stop, lock};
use crate::base::tls::Roots;
use crate::base::{clock, tls};

const CONNECT: Duration = Duration::from_secs(3);
/// How long nothing may come.
const STALL_TIMEOUT: Duration = Duration::from_secs(15);
/// The same where the master may have to look at every page before it answers.
const STALL_TIMEOUT_FOR_PAGES: Duration = Duration::from_secs(300);
/// The same where a server may have much to write before it answers.
const STALL_TIMEOUT_FOR_COMMANDS: Duration = Duration::from_secs(60);
/// The longest answer that is read whole.
const BODY_BYTES_MAX: u64 = 64 << 20;
const REFUSAL_BYTES_MAX: u64 = 16 << 10;
/// As many as ask at a time: the sync thread and the downloads.
const IDLE_CONNECTIONS: usize = 8;
/// How often a stream is gone on with after it was cut without bringing anything.
const TRIES: u32 = 8;
/// Before the second try; doubled up to the longest.
const BACKOFF: Backoff = Backoff::doubling(Duration::from_millis(50), Duration::from_secs(4));

/// Makes the token of this replica.
pub type TokenSource = Box<dyn Fn() -> String + Send + Sync>;

/// The master, as this replica sees it.
pub struct MasterClient {
    /// Without a slash at the end.
    pub master_url: String,
    replica_id: String,
    public_url: Option<String>,
    token_source: TokenSource,
    pub roots: Roots,
    agent: Mutex<Agent>,
    /// Until when something has to come, in milliseconds since 1970, for each request under way.
    deadlines: Mutex<Deadlines>,
    stop: Stop,
}

/// What the master says there is.
#[derive(Debug, Deserialize)]
pub struct DatabaseList {
    /// Version of the system tables of `default.db` and of tenants.
    pub schema: (i64, i64),
    pub databases: Vec<DatabaseEntry>,
    /// Where the journal of files ends; none when the master has none.
    pub files: Option<JournalEnd>,
}

/// Where a journal of files ends.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct JournalEnd {
    pub epoch: String,
    pub last: i64,
}

/// What came and went.
#[derive(Debug, Deserialize)]
pub struct JournalPage {
    pub entries: Vec<JournalEntry>,
    /// What to go on behind.
    pub next: i64,
    pub last: i64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct JournalEntry {
    pub op: String,
    pub path: String,
    pub size: u64,
    pub sha256: String,
}

/// Files that there are.
#[derive(Debug, Deserialize)]
pub struct ManifestPage {
    pub epoch: String,
    /// The end of the journal before this was read.
    pub last: i64,
    pub entries: Vec<ManifestEntry>,
    /// The databases of the master after the entries were read.
    pub databases: BTreeSet<String>,
    pub next: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct ManifestEntry {
    pub path: String,
    pub size: u64,
    pub sha256: String,
}

/// What the master has of a file.
pub enum FileReply {
    /// Its bytes from the place that was asked for.
    Rest(Box<dyn Read + Send>),
    /// All of its bytes.
    Whole(Box<dyn Read + Send>),
    /// There is no such file any more.
    Gone,
}

#[derive(Clone, Debug, Deserialize)]
pub struct DatabaseEntry {
    pub name: String,
    epoch: String,
    pub version: u64,
    /// It is from the master's list, and the version is the present one.
    #[serde(skip, default = "yes")]
    pub is_listed: bool,
}

fn yes() -> bool {
    true
}

impl DatabaseEntry {
    /// For a database of which only this is known, and that there may be more.
    pub fn after(name: &str, position: &Position) -> DatabaseEntry {
        DatabaseEntry {
            name: name.to_owned(),
            epoch: position.epoch.to_string(),
            version: position.version,
            is_listed: false,
        }
    }

    pub fn epoch(&self) -> Result<Epoch> {
        Epoch::parse(&self.epoch).ok_or_else(|| Error::unavailable("The master's list is broken."))
    }
}

/// Which groups of pages the master has otherwise.
#[derive(Debug, Deserialize)]
pub struct ComparisonReply {
    pub epoch: String,
    pub version: u64,
    /// None: they cannot be compared.
    pub groups: Option<Vec<u32>>,
}

/// What the master has for a state.
pub enum PagesReply {
    UpToDate,
    /// The state is not one of its own.
    UnknownVersion,
    Stream(Download),
}

impl MasterClient {
    pub fn new(
        master_url: &str,
        replica_id: &str,
        public_url: Option<String>,
        token_source: TokenSource,
    ) -> MasterClient {
        MasterClient {
            master_url: master_url.trim_end_matches('/').to_owned(),
            replica_id: replica_id.to_owned(),
            public_url,
            token_source,
            agent: Mutex::new(agent(&Roots::default())),
            roots: Roots::default(),
            deadlines: Mutex::default(),
            stop: Stop::new(),
        }
    }

    /// The same, trusting these authorities.
    pub fn with_roots(self, roots: &Roots) -> MasterClient {
        MasterClient {
            agent: Mutex::new(agent(roots)),
            roots: roots.clone(),
            ..self
        }
    }

    /// Every database of the master.
    pub fn list(&self) -> Result<DatabaseList> {
        self.read_json(self.get("/api/replica/databases", None, STALL_TIMEOUT)?)
    }

    /// Some of all pages, those after this one.
    pub fn part(
        client: &Arc<MasterClient>,
        name: &str,
        epoch: Epoch,
        after: u32,
    ) -> Result<PagesReply> {
        let path =
            format!("/api/replica/databases/{name}/pages?epoch={epoch}&since=0&after={after}");
        let response = client.get(&path, None, STALL_TIMEOUT_FOR_PAGES)?;
        client.reply(response)
    }

    /// What changed after a state.
    pub fn since(self: &Arc<Self>, name: &str, epoch: Epoch, version: u64) -> Result<PagesReply> {
        let path = format!("/api/replica/databases/{name}/pages?epoch={epoch}&since={version}");
        let response = self.get(&path, None, STALL_TIMEOUT_FOR_PAGES)?;
        self.reply(response)
    }

    /// What the server says of replication.
    pub fn status(&self) -> Result<serde_json::Value> {
        self.read_json(self.get("/api/replica/status", None, STALL_TIMEOUT)?)
    }

    /// What the command line wants done; answered with JSON.
    pub fn command(&self, path: &str, body: &serde_json::Value) -> Result<serde_json::Value> {
        self.read_json(self.post(
            path,
            body.to_string().as_bytes(),
            STALL_TIMEOUT_FOR_COMMANDS,
        )?)
    }

    /// Compares groups of pages; `body` as `comparison::GroupHashes` writes it.
    pub fn compare(&self, name: &str, body: &[u8]) -> Result<ComparisonReply> {
        let path = format!("/api/replica/databases/{name}/compare");
        self.read_json(self.post(&path, body, STALL_TIMEOUT_FOR_PAGES)?)
    }

    /// What changed after a state, and the pages that differ; `body` as `WantedGroups::to_bytes`
    /// writes it.
    pub fn differing(
        self: &Arc<Self>,
        name: &str,
        epoch: Epoch,
        version: u64,
        body: &[u8],
    ) -> Result<PagesReply> {
        let path = format!("/api/replica/databases/{name}/pages?epoch={epoch}&since={version}");
        let response = self.post(&path, body, STALL_TIMEOUT_FOR_PAGES)?;
        self.reply(response)
    }

    /// The journal of files behind an entry; none when that is too far back, or of another journal.
    pub fn journal(&self, epoch: &str, since: i64) -> Result<Option<JournalPage>> {
        let path = format!("/api/replica/files?epoch={epoch}&since={since}");
        let response = self.get(&path, None, STALL_TIMEOUT)?;
        match response.status().as_u16() {
            410 => Ok(None),
            _ => self.read_json(response).map(Some),
        }
    }

    /// The files that there are, behind a path.
    pub fn manifest(&self, after: &str) -> Result<ManifestPage> {
        self.read_json(self.get(
            &format!("/api/replica/files/manifest?after={after}"),
            None,
            STALL_TIMEOUT,
        )?)
    }

    /// The bytes of a file from some place on.
    pub fn file(self: &Arc<Self>, path: &str, from: u64) -> Result<FileReply> {
        let range = (from > 0).then_some(from);
        let response = self.get(&format!("/api/replica/file/{path}"), range, STALL_TIMEOUT)?;
        let status = response.status().as_u16();
        let body = |response: Response<Body>| {
            Box::new(StallGuard {
                client: Arc::clone(self),
                body: response.into_body().into_reader(),
            })
        };
        match status {
            200 => Ok(FileReply::Whole(body(response))),
            206 => Ok(FileReply::Rest(body(response))),
            // Not 404, which whatever is in between may answer.
            410 => Ok(FileReply::Gone),
            _ => Err(self.refused(response)),
        }
    }

    /// Tells the master that every file up to an entry of the journal is here, safely.
    pub fn acknowledge_files(&self, epoch: &str, id: i64) -> Result<()> {
        let body = serde_json::json!({"epoch": epoch, "id": id}).to_string();
        let response = self.post("/api/replica/files/ack", body.as_bytes(), STALL_TIMEOUT)?;
        self.read_json::<serde_json::Value>(response).map(drop)
    }

    /// Tells the master how far this replica has come.
    pub fn acknowledge(&self, body: &serde_json::Value) -> Result<()> {
        let response = self.post(
            "/api/replica/ack",
            body.to_string().as_bytes(),
            STALL_TIMEOUT,
        )?;
        self.read_json::<serde_json::Value>(response).map(drop)
    }

    /// Cuts a connection that has brought nothing for too long. True: it was cut.
    pub fn abort_if_stalled(&self) -> bool {
        let now_ms = clock::uptime_ms();
        let mut deadlines = lock(&self.deadlines);
        if deadlines
            .until_ms
            .values()
            .all(|until_ms| now_ms < *until_ms)
        {
            return false;
        }
        deadlines.until_ms.clear();
        drop(deadlines);
        self.abort();
        true
    }

    /// Cuts what is under way and lets nothing begin.
    pub fn stop(&self) {
        self.stop.set();
        self.abort();
    }

    fn pause(&self, time: Duration) {
        self.stop.wait(time);
    }

    fn abort(&self) {
        std::mem::replace(&mut *lock(&self.agent), agent(&self.roots)).shutdown();
    }

    fn get(&self, path: &str, range: Option<u64>, limit: Duration) -> Result<Response<Body>> {
        let agent = self.agent()?;
        let mut request = agent.get(format!("{}{path}", self.master_url));
        for (name, value) in self.headers() {
            request = request.header(name, value);
        }
        if let Some(from) = range {
            request = request.header("Range", format!("bytes={from}-"));
        }
        let _deadline = self.deadline(limit);
        let result = request.call();
        result.map_err(|error| self.unreachable(&error))
    }

    fn post(&self, path: &str, body: &[u8], limit: Duration) -> Result<Response<Body>> {
        let agent = self.agent()?;
        let mut request = agent.post(format!("{}{path}", self.master_url));
        for (name, value) in self.headers() {
            request = request.header(name, value);
        }
        let _deadline = self.deadline(limit);
        let result = request.send(body);
        result.map_err(|error| self.unreachable(&error))
    }

    fn agent(&self) -> Result<Agent> {
        // Whoever stops sets the mark first and takes the agent away then.
        let agent = lock(&self.agent);
        match self.stop.is_set() {
            true => Err(Error::unavailable("This replica is stopping.")),
            false => Ok(agent.clone()),
        }
    }

    /// By which the master knows this replica.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let url = self.public_url.clone();
        let url = url.map(|url| ("X-Replica-Public-Url", url));
        let id = ("X-Replica-Id", self.replica_id.clone());
        let token = ("Authorization", format!("Bearer {}", (self.token_source)()));
        [id, token].into_iter().chain(url).collect()
    }

    /// Something has to come within `limit`, until the result is dropped.
    fn deadline(&self, limit: Duration) -> DeadlineGuard<'_> {
        let limit_ms = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
        let mut deadlines = lock(&self.deadlines);
        deadlines.count += 1;
        let number = deadlines.count;
        let until_ms = clock::uptime_ms().saturating_add(limit_ms);
        deadlines.until_ms.insert(number, until_ms);
        DeadlineGuard {
            client: self,
            number,
        }
    }

    fn reply(self: &Arc<Self>, response: Response<Body>) -> Result<PagesReply> {
        match response.status().as_u16() {
            304 => Ok(PagesReply::UpToDate),
            409 => Ok(PagesReply::UnknownVersion),
            200 => {
                let header = |name: &str| response.headers().get(name)?.to_str().ok();
                let tag = header("ETag").map(|tag| tag.trim_matches('"').to_owned());
                let length = header("Content-Length").and_then(|length| length.parse().ok());
                let (Some(tag), Some(length)) = (tag, length) else {
                    return Err(Error::unavailable("The master's answer has no length."));
                };
                Ok(PagesReply::Stream(Download {
                    client: Arc::clone(self),
                    tag,
                    length,
                    offset: 0,
                    body: Some(Box::new(response.into_body().into_reader())),
                }))
            }
            _ => Err(self.refused(response)),
        }
    }

    fn read_json<T: DeserializeOwned>(&self, response: Response<Body>) -> Result<T> {
        // 202: it has begun.
        if ![200, 202].contains(&response.status().as_u16()) {
            return Err(self.refused(response));
        }
        let text = self.read(response, BODY_BYTES_MAX);
        let text =
            text.map_err(|error| Error::unavailable(format!("The master is gone: {error}.")))?;
        serde_json::from_slice(&text)
            .map_err(|error| Error::unavailable(format!("The master's answer is broken: {error}.")))
    }

    /// The beginning of a body. Each piece of it has to come in time, as the head had.
    fn read(&self, response: Response<Body>, bytes_max: u64) -> io::Result<Vec<u8>> {
        let body = response.into_body().into_reader();
        let mut text = Vec::new();
        let mut guarded = StallGuard { client: self, body }.take(bytes_max);
        guarded.read_to_end(&mut text)?;
        Ok(text)
    }

    /// What the master says against it.
    fn refused(&self, response: Response<Body>) -> Error {
        #[derive(Deserialize)]
        struct Refusal {
            message: String,
            /// The URL of its own master, from a replica.
            master: Option<String>,
        }
        let status = response.status().as_u16();
        let body = self.read(response, REFUSAL_BYTES_MAX);
        let refusal: Option<Refusal> = body
            .ok()
            .and_then(|body| serde_json::from_slice(&body).ok());
        let (message, master) = refusal.map_or_else(Default::default, |it| (it.message, it.master));
        let hint = match (status, master) {
            (401, _) => {
                " JWT_SECRET must be the same on both servers, and their clocks differ by less than \
                 minutes."
                    .to_owned()
            }
            (403, Some(master)) => format!(" MASTER_URL must be that of a master, here {master}."),
            (404, _)
                if message.is_empty() || message.starts_with("There is nothing offset this path") =>
            {
                " Is this the address of a vski, without a path?".to_owned()
            }
            _ => String::new(),
        };
        let message = match message.as_str() {
            "" => "nothing that vski would say.",
            message => message,
        };
        Error::unavailable(format!("The server answers {status}: {message}{hint}"))
    }

    /// What to say when a connection failed for the certificate, or for having none.
    pub fn tls_error(&self, error: &io::Error) -> Option<Error> {
        if tls::is_other_protocol(error) {
            return Some(Error::unavailable(format!(
                "The server {} does not answer in TLS; its address may begin with http:.",
                self.master_url
            )));
        }
        let why = tls::certificate_error(error)?;
        let message = format!("The server {} is not trusted: {why}.", self.master_url);
        Some(Error::unavailable(message))
    }

    fn unreachable(&self, error: &ureq::Error) -> Error {
        if let ureq::Error::Io(cause) = error
            && let Some(error) = self.tls_error(cause)
        {
            return error;
        }
        let message = format!("The server {} cannot be reached.", self.master_url);
        Error::new(Kind::Unavailable, message).context(error.to_string())
    }
}

#[derive(Default)]
struct Deadlines {
    count: u64,
    until_ms: BTreeMap<u64, i64>,
}

struct DeadlineGuard<'a> {
    client: &'a MasterClient,
    number: u64,
}

impl Drop for DeadlineGuard<'_> {
    fn drop(&mut self) {
        lock(&self.client.deadlines).until_ms.remove(&self.number);
    }
}

fn agent(roots: &Roots) -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        // A token is for one host.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent("vski")
        .accept_encoding("identity")
        .timeout_connect(Some(CONNECT))
        .tls_config(roots.for_requests())
        .max_idle_connections(IDLE_CONNECTIONS)
        .max_idle_connections_per_host(IDLE_CONNECTIONS)
        .build();
    Agent::new_with_config(config)
}

/// A body that is cut when it stalls.
struct StallGuard<C, R> {
    client: C,
    body: R,
}

impl<C: Deref<Target = MasterClient>, R: Read> Read for StallGuard<C, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let _deadline = self.client.deadline(STALL_TIMEOUT);
        self.body.read(buffer)
    }
}

/// A stream from the master. What was cut is asked for again from where it was.
pub struct Download {
    client: Arc<MasterClient>,
    tag: String,
    /// Bytes in all.
    pub length: u64,
    offset: u64,
    body: Option<Box<dyn Read + Send>>,
}

impl Download {
    fn read_once(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let body = match &mut self.body {
            Some(body) => body,
            None => {
                let path = format!("/api/replica/answers/{}", self.tag);
                let response = self
                    .client
                    .get(&path, Some(self.offset), STALL_TIMEOUT)
                    .map_err(io::Error::other)?;
                if response.status().as_u16() != 206 {
                    return Err(io::Error::other(self.client.refused(response)));
                }
                self.body
                    .insert(Box::new(response.into_body().into_reader()))
            }
        };
        let result = {
            let _deadline = self.client.deadline(STALL_TIMEOUT);
            body.read(buffer)
        };
        match result {
            Ok(0) if self.offset < self.length => Err(io::ErrorKind::UnexpectedEof.into()),
            result => result,
        }
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut tries = 0;
        loop {
            match self.read_once(buffer) {
                Ok(length) => {
                    self.offset += length as u64;
                    return Ok(length);
                }
                Err(error) => {
                    self.body = None;
                    tries += 1;
                    let is_stopped = self.client.stop.is_set();
                    if tries == TRIES || is_stopped {
                        return Err(error);
                    }
                    self.client.pause(BACKOFF.pause(tries));
                }
            }
        }
    }
}
