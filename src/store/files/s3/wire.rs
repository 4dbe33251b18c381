//! Requests to an S3 server: signed, sent with a deadline, tried again when that may help.
//!
//! Signatures are those of the query (AWS signature version 4, as in a link), made anew for every
//! attempt. Whatever has to be verified goes along as a signed header; the payload itself is not signed.
//! No error and no log line has a URL in it, because a URL is a permission.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};
use std::{fmt, io};

use jiff::Timestamp;
use rusty_s3::{Bucket, UrlStyle, signing};
use ureq::http::{Request, Response};
use ureq::{Agent, SendBody};

use super::Settings;
use super::xml::Element;
use crate::base::error::{Error, Result};
use crate::base::threads::Stop;
use crate::base::tls::Roots;
use crate::base::{clock, ids, log, tls};

pub use rusty_s3::Method;

/// How long a signed request is good for, so that the clocks of both sides may differ by as much.
const SIGNATURE: Duration = Duration::from_secs(900);
/// From this size on the server is asked before the body is sent.
const ASK_FIRST_BYTES: u64 = 1 << 20;
/// A list of 1000 keys of 1 KiB, escaped, is below this.
const XML_BYTES_MAX: u64 = 8 << 20;
/// Bounds of time and size; tests have smaller ones.
#[derive(Clone, Debug)]
pub struct Limits {
    pub connect: Duration,
    /// One attempt, from the connection to the last byte of the answer.
    pub request: Duration,
    /// Most attempts of one request.
    pub attempts: u32,
    /// Before the second attempt; doubled for each further one.
    pub pause: Duration,
    /// No attempt begins later than this after the first.
    pub total: Duration,
    /// Bytes of a file asked for at a time.
    pub range_bytes: u64,
    /// Entries of a list asked for at a time.
    pub page: u32,
    /// Connections that are kept while nobody needs them.
    pub idle_connections: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connect: Duration::from_secs(5),
            request: Duration::from_secs(60),
            attempts: 4,
            pause: Duration::from_millis(100),
            total: Duration::from_secs(120),
            range_bytes: 8 << 20,
            page: 1000,
            idle_connections: 16,
        }
    }
}

/// A request, except for its signature.
pub struct Call<'a> {
    pub method: Method,
    /// None for one about the bucket.
    pub key: Option<&'a str>,
    pub query: &'a [(&'a str, &'a str)],
    /// Names in small letters; all of them are signed.
    pub headers: &'a [(&'a str, &'a str)],
    pub body: Body<'a>,
}

/// The body of a request.
#[derive(Clone, Copy)]
pub enum Body<'a> {
    None,
    Bytes(&'a [u8]),
    Piece(Piece<'a>),
}

/// A part of a file, read without moving its position.
#[derive(Clone, Copy)]
pub struct Piece<'a> {
    pub file: &'a File,
    pub start: u64,
    pub length: u64,
}

impl Read for Piece<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.length)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let length = self.file.read_at(&mut buffer[..most], self.start)?;
        if length == 0 && most > 0 {
            return Err(io::Error::other("the received file is too short"));
        }
        self.start += length as u64;
        self.length -= length as u64;
        Ok(length)
    }
}

/// The server, the bucket and the credentials.
pub struct Wire {
    agent: Agent,
    bucket: Bucket,
    access_key: String,
    secret_key: String,
    pub limits: Limits,
}

impl Wire {
    pub fn new(settings: &Settings, limits: Limits, agent: Agent) -> Result<Wire> {
        let invalid = |what: &dyn fmt::Display| {
            Error::invalid(format!(
                "S3_ENDPOINT is no http or https URL of a server: {what}."
            ))
        };
        for (name, value) in [
            ("S3_BUCKET", &settings.bucket),
            ("S3_REGION", &settings.region),
            ("S3_ACCESS_KEY", &settings.access_key),
            ("S3_SECRET_KEY", &settings.secret_key),
        ] {
            if value.is_empty() {
                return Err(Error::invalid(format!("{name} is needed for S3 storage.")));
            }
        }
        let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if !settings.bucket.bytes().all(is_of_name) || settings.bucket.starts_with('.') {
            return Err(Error::invalid("S3_BUCKET is no name of a bucket."));
        }
        let endpoint = settings.endpoint.trim_end_matches('/');
        if endpoint.contains(['?', '#', '@']) {
            return Err(invalid(&"it has more than a host, a port and a path"));
        }
        let style = match settings.path_style {
            true => UrlStyle::Path,
            false => UrlStyle::VirtualHost,
        };
        let url = format!("{endpoint}/")
            .parse()
            .map_err(|error| invalid(&error))?;
        let (name, region) = (settings.bucket.clone(), settings.region.clone());
        let bucket =
            Bucket::new(url, style, name, region).map_err(|error| match settings.path_style {
                true => invalid(&error),
                false => Error::invalid(format!(
                    "S3_ENDPOINT cannot have the bucket before its host ({error}); \
                     S3_PATH_STYLE puts it behind."
                )),
            })?;
        Ok(Wire {
            agent,
            bucket,
            access_key: settings.access_key.clone(),
            secret_key: settings.secret_key.clone(),
            limits,
        })
    }

    /// The name of the bucket.
    pub fn bucket(&self) -> &str {
        self.bucket.name()
    }

    /// The host that is talked to.
    pub fn host(&self) -> &str {
        self.bucket.base_url().host_str().unwrap_or_default()
    }

    /// A URL that whoever has it may use for `lifetime`.
    pub fn sign(&self, call: &Call<'_>, lifetime: Duration) -> Result<String> {
        let url = match call.key {
            Some(key) => self.bucket.object_url(checked(key)?).map_err(|error| {
                Error::internal(format!("the key {key} makes no address: {error}"))
            })?,
            None => self.bucket.base_url().clone(),
        };
        let (mut query, mut headers) = (call.query.to_vec(), call.headers.to_vec());
        query.sort_unstable();
        headers.sort_unstable();
        let now = Timestamp::from_millisecond(clock::now_ms())
            .map_err(|error| Error::internal(format!("the time: {error}")))?;
        let mut url = signing::sign(
            &now,
            call.method,
            url,
            &self.access_key,
            &self.secret_key,
            None,
            self.bucket.region(),
            lifetime.as_secs(),
            query.iter().copied(),
            headers.iter().copied(),
        );
        // It writes blanks as forms do, which not every server reads so; a plus of ours is %2B by now.
        let query = url.query().unwrap_or_default().replace('+', "%20");
        url.set_query(Some(&query));
        Ok(url.into())
    }

    /// Sends a request until it is answered with success and `read` has made something of the answer,
    /// or it is clear that it will not be.
    pub fn call<T>(
        &self,
        call: &Call<'_>,
        read: impl Fn(Answer) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let begun = Instant::now();
        let mut attempts = 1;
        loop {
            let mut failure = match self.attempt(call).and_then(&read) {
                Ok(made) => return Ok(made),
                Err(failure) => failure,
            };
            failure.attempts = attempts;
            let pause = self.pause(attempts);
            let is_late = begun.elapsed() + pause >= self.limits.total;
            if !failure.may_pass || attempts >= self.limits.attempts || is_late {
                return Err(failure);
            }
            log::debug(format_args!("s3 attempt={attempts} failed: {failure}"));
            Stop::new().wait(pause);
            attempts += 1;
        }
    }

    /// Sends a request whose answer does not matter, and does not try again.
    pub fn once(&self, call: &Call<'_>) -> Result<(), Failure> {
        self.attempt(call).and_then(Answer::done)
    }

    /// The pause after so many attempts: doubled each time, and up to half of it left away, so that
    /// those who failed together do not come back together.
    pub fn pause(&self, attempts: u32) -> Duration {
        let longest = self.limits.pause * (1 << attempts.clamp(1, 10).saturating_sub(1));
        let [random] = ids::random_bytes::<1>().unwrap_or([0]);
        longest - longest * u32::from(random) / 512
    }

    fn attempt(&self, call: &Call<'_>) -> Result<Answer, Failure> {
        let url = self.sign(call, SIGNATURE).map_err(Failure::of_ours)?;
        let mut request = Request::builder().method(call.method.to_str()).uri(url);
        for (name, value) in call.headers {
            request = request.header(*name, *value);
        }
        if let Body::Piece(piece) = &call.body {
            request = request.header("content-length", piece.length);
            if piece.length >= ASK_FIRST_BYTES {
                request = request.header("expect", "100-continue");
            }
        }
        let sent = match call.body {
            Body::None => self.run(request.body(SendBody::none())),
            Body::Bytes(bytes) => self.run(request.body(bytes)),
            Body::Piece(mut piece) => self.run(request.body(SendBody::from_reader(&mut piece))),
        };
        let answer = Answer(sent?);
        match answer.0.status().as_u16() {
            200..300 => Ok(answer),
            _ => Err(Failure::of_answer(answer)),
        }
    }

    fn run(
        &self,
        request: Result<Request<impl ureq::AsSendBody>, ureq::http::Error>,
    ) -> Result<Response<ureq::Body>, Failure> {
        let request = request
            .map_err(|error| Failure::of_ours(Error::internal(format!("a request: {error}"))))?;
        self.agent
            .run(request)
            .map_err(|error| Failure::of_transport(&error))
    }
}

/// What sends requests and keeps connections.
pub fn agent(limits: &Limits, roots: &Roots) -> Agent {
    Agent::new_with_config(config(limits, roots))
}

pub fn config(limits: &Limits, roots: &Roots) -> ureq::config::Config {
    Agent::config_builder()
        .http_status_as_error(false)
        // What is signed for one host is not for another.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .tls_config(roots.for_requests())
        .user_agent("vski")
        .accept_encoding("identity")
        .timeout_connect(Some(limits.connect))
        .timeout_global(Some(limits.request))
        .max_idle_connections(limits.idle_connections)
        .max_idle_connections_per_host(limits.idle_connections)
        .build()
}

/// Keys are paths of ours. One that a URL would shorten is a fault.
fn checked(key: &str) -> Result<&str> {
    let is_part = |part: &str| !matches!(part, "" | "." | "..");
    if key.len() <= 1024 && key.split('/').all(is_part) {
        return Ok(key);
    }
    Err(Error::internal(format!("{key:?} is no key of a file")))
}

/// An answer that says success.
pub struct Answer(Response<ureq::Body>);

impl Answer {
    pub fn status(&self) -> u16 {
        self.0.status().as_u16()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.0.headers().get(name)?.to_str().ok()
    }

    /// The body, to be read within the deadline of the request.
    pub fn into_reader(self) -> Box<dyn Read + Send> {
        Box::new(self.0.into_body().into_reader())
    }

    /// The body as XML; an answer that says failure in there is one.
    pub fn xml(self) -> Result<Element, Failure> {
        let text = self.text().map_err(|error| Failure::of_cut(&error))?;
        match Element::parse(&text) {
            Some(root) if root.name == "Error" => Err(Failure::of_xml(200, Some(&root))),
            Some(root) => Ok(root),
            None => Err(Failure::invalid("its XML cannot be read")),
        }
    }

    fn text(self) -> io::Result<String> {
        let mut text = String::new();
        let length = self
            .into_reader()
            .take(XML_BYTES_MAX + 1)
            .read_to_string(&mut text)?;
        if length as u64 > XML_BYTES_MAX {
            return Err(io::Error::other("the answer is too long"));
        }
        Ok(text)
    }

    /// Reads the body to its end, so that the connection can be used again.
    pub fn done(self) -> Result<(), Failure> {
        match io::copy(&mut self.into_reader().take(XML_BYTES_MAX), &mut io::sink()) {
            Ok(_) => Ok(()),
            Err(error) => Err(Failure::of_cut(&error)),
        }
    }
}

/// Why a request had no success.
#[derive(Debug)]
pub struct Failure {
    /// 0 when there was no answer.
    pub status: u16,
    /// The code of the S3 error, or empty.
    pub code: String,
    /// The server does not know, or does not want, checksums.
    pub is_of_checksums: bool,
    /// How often it was tried.
    pub attempts: u32,
    /// What happened, when there was no answer that says it.
    detail: String,
    /// Another attempt may have success.
    may_pass: bool,
}

impl Failure {
    fn new(detail: String, may_pass: bool) -> Failure {
        Failure {
            status: 0,
            code: String::new(),
            is_of_checksums: false,
            attempts: 1,
            detail,
            may_pass,
        }
    }

    /// The server answered something that is no S3.
    pub fn invalid(what: &str) -> Failure {
        Failure::new(format!("an answer of S3 is invalid: {what}"), true)
    }

    /// The server answered what makes it pointless to go on.
    pub fn fatal(what: &str) -> Failure {
        Failure::new(what.to_owned(), false)
    }

    /// The answer ended in the middle.
    pub fn of_cut(error: &io::Error) -> Failure {
        Failure::new(format!("an answer of S3 broke off: {error}"), true)
    }

    #[expect(clippy::needless_pass_by_value, reason = "for map_err")]
    fn of_ours(error: Error) -> Failure {
        Failure::new(error.to_string(), false)
    }

    fn of_transport(error: &ureq::Error) -> Failure {
        use ureq::Error as Cause;
        let (what, may_pass) = match error {
            // A certificate that is not trusted comes as invalid data.
            Cause::Io(cause) => {
                let may_pass = cause.kind() != io::ErrorKind::InvalidData;
                let objection = tls::objection(cause);
                (objection.unwrap_or_else(|| cause.to_string()), may_pass)
            }
            Cause::Timeout(_) => ("it takes too long".to_owned(), true),
            Cause::HostNotFound | Cause::ConnectionFailed | Cause::Protocol(_) => {
                (error.to_string(), true)
            }
            // These have the URL in their text.
            Cause::BadUri(_) | Cause::RequireHttpsOnly(_) => {
                ("the address is refused".to_owned(), false)
            }
            _ => (error.to_string(), false),
        };
        Failure::new(format!("no answer from S3: {what}"), may_pass)
    }

    fn of_answer(answer: Answer) -> Failure {
        let status = answer.status();
        let text = answer.text().unwrap_or_default();
        Failure::of_xml(status, Element::parse(&text).as_ref())
    }

    /// A refusal with the `Error` element that came with it.
    fn of_xml(status: u16, error: Option<&Element>) -> Failure {
        let text = |name| error.and_then(|error| error.text_of(name)).unwrap_or("");
        let is_plain = |letter: &char| letter.is_ascii_alphanumeric();
        let code: String = text("Code").chars().filter(is_plain).take(64).collect();
        let about = text("Message").to_ascii_lowercase();
        // Not about what was asked but about how it arrived, or about the moment.
        let may_pass = matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
            || (status == 200)
            || matches!(
                code.as_str(),
                "BadDigest"
                    | "IncompleteBody"
                    | "InvalidDigest"
                    | "RequestTimeout"
                    | "XAmzContentChecksumMismatch"
                    | "XAmzContentSHA256Mismatch"
            );
        // Cloudflare R2 says 501, Backblaze B2 400 with the name of the header.
        let is_of_checksums =
            status == 501 || (status == 400 && !may_pass && about.contains("checksum"));
        Failure {
            status,
            code,
            is_of_checksums,
            attempts: 1,
            detail: String::new(),
            may_pass,
        }
    }

    /// There is no such file (and there is the bucket).
    pub fn is_not_there(&self) -> bool {
        self.status == 404 && self.code == "NoSuchKey"
    }

    /// For the caller: what is not possible now, and for the log what was being done.
    pub fn into_error(self, message: &str, doing: &str) -> Error {
        Error::unavailable(message).context(format!("{doing}: {self}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            0 => write!(f, "{}", self.detail)?,
            status => {
                write!(f, "S3 answers {status}")?;
                if !self.code.is_empty() {
                    write!(f, " {}", self.code)?;
                }
            }
        }
        match self.attempts {
            0 | 1 => Ok(()),
            attempts => write!(f, " ({attempts} attempts)"),
        }
    }
}
