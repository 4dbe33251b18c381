//! The HTTP client of a replica.
//!
//! Every answer has a size limit and every wait ends. [`MasterClient::abort_if_stalled`], called
//! periodically, aborts a connection that delivers nothing within its time limit, and
//! [`MasterClient::stop`] aborts all at once. An interrupted stream resumes where it stopped, see
//! [`Download`].

use std::collections::BTreeMap;
use std::io;
use std::io::Read;
use std::ops::Deref;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use ureq::http::Response;
use ureq::{Agent, Body};

use super::epoch::Epoch;
use super::messages::{ComparisonReply, DatabaseList, JournalReply, ManifestPage};
use crate::base::backoff::Backoff;
use crate::base::error::{Error, Kind, NO_ENDPOINT, Result};
use crate::base::threads::{Stop, lock};
use crate::base::tls::Roots;
use crate::base::{clock, http_client, tls};

const CONNECT: Duration = Duration::from_secs(3);
/// Time limit for a connection that delivers nothing.
const STALL_TIMEOUT: Duration = Duration::from_secs(15);
/// The same if the master may have to hash every page before it answers.
const STALL_TIMEOUT_FOR_PAGES: Duration = Duration::from_secs(300);
/// The same if the server may have to write much before it answers.
const STALL_TIMEOUT_FOR_COMMANDS: Duration = Duration::from_secs(60);
/// Limit on answers that are read into memory.
const BODY_BYTES_MAX: u64 = 64 << 20;
const REFUSAL_BYTES_MAX: u64 = 16 << 10;
/// One for each thread that sends requests.
const IDLE_CONNECTIONS: usize = 8;
/// Attempts to resume a stream without receiving anything.
const TRIES: u32 = 8;
/// Pause before a retry; doubles up to the maximum.
const BACKOFF: Backoff = Backoff::doubling(Duration::from_millis(50), Duration::from_secs(4));

/// Creates the token of this replica.
pub type TokenSource = Box<dyn Fn() -> String + Send + Sync>;

/// A client for the API of one master.
pub struct MasterClient {
    /// Without a trailing slash.
    pub master_url: String,
    replica_id: String,
    public_url: Option<String>,
    token_source: TokenSource,
    pub roots: Roots,
    agent: Mutex<Agent>,
    /// For each request in progress, the time by which data must arrive.
    deadlines: Mutex<Deadlines>,
    stop: Stop,
}

/// The master's answer to a request for a file.
pub enum FileReply {
    /// Its bytes from the requested offset.
    Rest(Box<dyn Read + Send>),
    /// All of its bytes.
    Whole(Box<dyn Read + Send>),
    /// The file no longer exists.
    Gone,
}

/// The master's answer to a replica at some version.
pub enum PagesReply {
    UpToDate,
    /// The master does not know the version.
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

    /// Trusts these certificate authorities.
    pub fn with_roots(self, roots: &Roots) -> MasterClient {
        MasterClient {
            agent: Mutex::new(agent(roots)),
            roots: roots.clone(),
            ..self
        }
    }

    /// Lists the databases of the master.
    pub fn list(&self) -> Result<DatabaseList> {
        self.read_json(self.get("/api/replica/databases", None, STALL_TIMEOUT)?)
    }

    /// Requests one part of a bootstrap: the pages after `after`.
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

    /// Requests the pages that changed after a version.
    pub fn since(self: &Arc<Self>, name: &str, epoch: Epoch, version: u64) -> Result<PagesReply> {
        let path = format!("/api/replica/databases/{name}/pages?epoch={epoch}&since={version}");
        let response = self.get(&path, None, STALL_TIMEOUT_FOR_PAGES)?;
        self.reply(response)
    }

    /// Requests the replication status.
    pub fn status(&self) -> Result<Value> {
        self.read_json(self.get("/api/replica/status", None, STALL_TIMEOUT)?)
    }

    /// Sends a command of the command line and returns the JSON answer.
    pub fn command(&self, path: &str, body: &Value) -> Result<Value> {
        self.read_json(self.post(
            path,
            body.to_string().as_bytes(),
            STALL_TIMEOUT_FOR_COMMANDS,
        )?)
    }

    /// Compares groups of pages; `body` comes from `GroupHashes::to_bytes`.
    pub fn compare(&self, name: &str, body: &[u8]) -> Result<ComparisonReply> {
        let path = format!("/api/replica/databases/{name}/compare");
        self.read_json(self.post(&path, body, STALL_TIMEOUT_FOR_PAGES)?)
    }

    /// Requests the pages that changed after a version and the pages that differ; `body` comes from
    /// `comparison::wanted_bytes`.
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

    /// Requests the file journal after an entry. Returns `None` if the journal no longer has the
    /// entry or has another epoch.
    pub fn journal(&self, epoch: &str, since: i64) -> Result<Option<JournalReply>> {
        let path = format!("/api/replica/files?epoch={epoch}&since={since}");
        let response = self.get(&path, None, STALL_TIMEOUT)?;
        match response.status().as_u16() {
            410 => Ok(None),
            _ => self.read_json(response).map(Some),
        }
    }

    /// Requests the list of all files after a path.
    pub fn manifest(&self, after: &str) -> Result<ManifestPage> {
        self.read_json(self.get(
            &format!("/api/replica/files/manifest?after={after}"),
            None,
            STALL_TIMEOUT,
        )?)
    }

    /// Requests the bytes of a file from an offset.
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
            // Not 404, because a proxy may send that.
            410 => Ok(FileReply::Gone),
            _ => Err(self.refused(response)),
        }
    }

    /// Acknowledges that this replica has stored every file up to an entry of the journal.
    pub fn acknowledge_files(&self, epoch: &str, id: i64) -> Result<()> {
        let body = json!({"epoch": epoch, "id": id}).to_string();
        let response = self.post("/api/replica/files/ack", body.as_bytes(), STALL_TIMEOUT)?;
        self.read_json::<Value>(response).map(drop)
    }

    /// Acknowledges the positions of this replica.
    pub fn acknowledge(&self, body: &Value) -> Result<()> {
        let response = self.post(
            "/api/replica/ack",
            body.to_string().as_bytes(),
            STALL_TIMEOUT,
        )?;
        self.read_json::<Value>(response).map(drop)
    }

    /// Aborts the connections if a request has waited too long. Returns whether it did.
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

    /// Aborts all requests and refuses new ones.
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
        // `stop` sets the flag before it replaces the agent.
        let agent = lock(&self.agent);
        match self.stop.is_set() {
            true => Err(Error::unavailable("This replica is stopping.")),
            false => Ok(agent.clone()),
        }
    }

    /// The headers that identify this replica.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let url = self.public_url.clone();
        let url = url.map(|url| ("X-Replica-Public-Url", url));
        let id = ("X-Replica-Id", self.replica_id.clone());
        let token = ("Authorization", format!("Bearer {}", (self.token_source)()));
        [id, token].into_iter().chain(url).collect()
    }

    /// Requires data within `limit`, until the result is dropped.
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
        // 202: accepted and in progress.
        if ![200, 202].contains(&response.status().as_u16()) {
            return Err(self.refused(response));
        }
        let text = self.read(response, BODY_BYTES_MAX);
        let text = text.map_err(|error| {
            Error::unavailable(format!("Lost the connection to the master: {error}."))
        })?;
        serde_json::from_slice(&text).map_err(|error| {
            Error::unavailable(format!("The master sent an invalid answer: {error}."))
        })
    }

    /// Reads at most `bytes_max` bytes of a body. Each read has the stall time limit.
    fn read(&self, response: Response<Body>, bytes_max: u64) -> io::Result<Vec<u8>> {
        let body = response.into_body().into_reader();
        let mut text = Vec::new();
        let mut guarded = StallGuard { client: self, body }.take(bytes_max);
        guarded.read_to_end(&mut text)?;
        Ok(text)
    }

    /// Turns an error response of the master into an error.
    fn refused(&self, response: Response<Body>) -> Error {
        #[derive(Deserialize)]
        struct Refusal {
            message: String,
            /// If the server is a replica, the URL of its master.
            master: Option<String>,
            #[serde(default)]
            data: Value,
        }
        let status = response.status().as_u16();
        let body = self.read(response, REFUSAL_BYTES_MAX);
        let refusal: Option<Refusal> = body
            .ok()
            .and_then(|body| serde_json::from_slice(&body).ok());
        let is_vski = refusal
            .as_ref()
            .is_some_and(|it| it.data["path"]["code"] != NO_ENDPOINT);
        let (message, master) = refusal.map_or_else(Default::default, |it| (it.message, it.master));
        let kind = match status {
            401 => Kind::WrongServer,
            404 if !is_vski => Kind::WrongServer,
            _ => Kind::Unavailable,
        };
        let hint = match (status, master) {
            (401, _) => {
                " JWT_SECRET must be the same on both servers, and their clocks must not differ by \
                 minutes."
                    .to_owned()
            }
            (403, Some(master)) => {
                format!(" MASTER_URL must be the URL of a master, here {master}.")
            }
            (404, _) if !is_vski => " Is this the address of a vski, without a path?".to_owned(),
            _ => String::new(),
        };
        let message = match message.as_str() {
            "" => "no message from vski.",
            message => message,
        };
        Error::new(
            kind,
            format!("The server answers {status}: {message}{hint}"),
        )
    }

    /// Explains a connection that failed because of TLS.
    pub fn tls_error(&self, error: &io::Error) -> Option<Error> {
        if tls::is_other_protocol(error) {
            return Some(Error::unavailable(format!(
                "The server {} does not speak TLS; try an address that begins with http:.",
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
        Error::new(Kind::WrongServer, message).context(error.to_string())
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
    let config = http_client::config(roots, IDLE_CONNECTIONS)
        .timeout_connect(Some(CONNECT))
        .build();
    Agent::new_with_config(config)
}

/// A body that is aborted when it stalls.
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

/// A stream from the master. After an interruption it resumes at its offset.
pub struct Download {
    client: Arc<MasterClient>,
    tag: String,
    /// Total bytes.
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
