//! Requests to an S3 server: signed, sent with a deadline, retried if that may help.
//!
//! Signatures are in the query (AWS signature version 4, as in a presigned URL), new for every
//! attempt. Data to be verified is sent as a signed header; the payload itself is not signed.
//! Errors and log lines contain no URL, because a URL is a permission.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};
use std::{fmt, io};

use jiff::Timestamp;
use rusty_s3::{Bucket, UrlStyle, signing};
use ureq::http::{Request, Response};
use ureq::{Agent, SendBody};

use super::xml::Element;
use crate::base::backoff::Backoff;
use crate::base::error::{Error, Result};
use crate::base::tls::Roots;
use crate::base::{clock, http_client, ids, log, threads, tls};

pub use rusty_s3::Method;

/// Lifetime of a signature; the clocks of both sides may differ by as much.
const SIGNATURE_LIFETIME: Duration = Duration::from_secs(900);
/// Smallest body that is sent with `Expect: 100-continue`.
const EXPECT_BYTES_MIN: u64 = 1 << 20;
/// Longest XML response; a list of 1000 keys of 1 KiB, escaped, is shorter.
const XML_BYTES_MAX: u64 = 8 << 20;

/// The location of the bucket, and the credentials.
#[derive(Clone)]
pub struct S3Settings {
    /// `http://` or `https://`, a host, perhaps a port and a path.
    pub endpoint: String,
    pub bucket: String,
    pub region: String,
    pub access_key: String,
    pub secret_key: String,
    /// The bucket is the first part of the path, not of the host name.
    pub path_style: bool,
    /// The certificate authorities that are trusted.
    pub roots: Roots,
}

impl fmt::Debug for S3Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Settings")
            .field("endpoint", &self.endpoint)
            .field("bucket", &self.bucket)
            .field("region", &self.region)
            .field("path_style", &self.path_style)
            .finish_non_exhaustive()
    }
}

/// Limits of time and size; tests use smaller ones.
#[derive(Clone, Debug)]
pub struct S3Limits {
    pub connect: Duration,
    /// Time of one attempt, from connecting to the last byte of the response.
    pub request: Duration,
    /// Most attempts of one request.
    pub attempts: u32,
    /// Pause before the second attempt; doubled for each further one.
    pub pause: Duration,
    /// Time after the first attempt in which others may begin.
    pub total: Duration,
    /// Bytes of a file requested at a time.
    pub range_bytes: u64,
    /// Entries of a list requested at a time.
    pub page: u32,
    /// Idle connections that are kept open.
    pub idle_connections: usize,
}

impl Default for S3Limits {
    fn default() -> S3Limits {
        S3Limits {
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

/// A request without its signature.
pub struct S3Request<'a> {
    pub method: Method,
    /// None for a request to the bucket.
    pub key: Option<&'a str>,
    pub query: &'a [(&'a str, &'a str)],
    /// Names in lower case; all headers are signed.
    pub headers: &'a [(&'a str, &'a str)],
    pub body: S3Body<'a>,
}

/// The body of a request.
#[derive(Clone, Copy)]
pub enum S3Body<'a> {
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
pub struct S3Client {
    agent: Agent,
    bucket: Bucket,
    access_key: String,
    secret_key: String,
    pub limits: S3Limits,
}

impl S3Client {
    pub fn new(settings: &S3Settings, limits: S3Limits, agent: Agent) -> Result<S3Client> {
        let invalid = |what: &dyn fmt::Display| {
            Error::invalid(format!(
                "S3_ENDPOINT is not an http or https URL of a server: {what}."
            ))
        };
        for (name, value) in [
            ("S3_BUCKET", &settings.bucket),
            ("S3_REGION", &settings.region),
            ("S3_ACCESS_KEY", &settings.access_key),
            ("S3_SECRET_KEY", &settings.secret_key),
        ] {
            if value.is_empty() {
                return Err(Error::invalid(format!(
                    "{name} is required for S3 storage."
                )));
            }
        }
        let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if !settings.bucket.bytes().all(is_of_name) || settings.bucket.starts_with('.') {
            return Err(Error::invalid("S3_BUCKET is not a valid bucket name."));
        }
        let endpoint = settings.endpoint.trim_end_matches('/');
        if endpoint.contains(['?', '#', '@']) {
            return Err(invalid(&"only a host, a port and a path are allowed"));
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
                    "S3_ENDPOINT cannot have the bucket as a subdomain ({error}); set \
                     S3_PATH_STYLE=true."
                )),
            })?;
        Ok(S3Client {
            agent,
            bucket,
            access_key: settings.access_key.clone(),
            secret_key: settings.secret_key.clone(),
            limits,
        })
    }

    pub fn bucket(&self) -> &str {
        self.bucket.name()
    }

    /// The host of the server.
    pub fn host(&self) -> &str {
        self.bucket.base_url().host_str().unwrap_or_default()
    }

    /// A presigned URL that is valid for `lifetime`.
    pub fn sign(&self, call: &S3Request<'_>, lifetime: Duration) -> Result<String> {
        let url = match call.key {
            Some(key) => self
                .bucket
                .object_url(check_key(key)?)
                .map_err(|error| Error::internal(format!("the key {key} makes no URL: {error}")))?,
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
        // The crate encodes spaces as `+`, which not every server decodes; a literal plus is %2B by
        // now.
        let query = url.query().unwrap_or_default().replace('+', "%20");
        url.set_query(Some(&query));
        Ok(url.into())
    }

    /// Sends a request, with retries, until it succeeds and `read` accepts the response, or the
    /// error is permanent.
    pub fn call<T>(
        &self,
        call: &S3Request<'_>,
        read: impl Fn(S3Response) -> Result<T, S3Error>,
    ) -> Result<T, S3Error> {
        let begun = Instant::now();
        let mut attempts = 1;
        loop {
            let mut error = match self.attempt(call).and_then(&read) {
                Ok(made) => return Ok(made),
                Err(error) => error,
            };
            error.attempts = attempts;
            let pause = self.pause(attempts);
            let is_late = begun.elapsed() + pause >= self.limits.total;
            if !error.is_transient || attempts >= self.limits.attempts || is_late {
                return Err(error);
            }
            log::debug(format_args!("s3 attempt={attempts} failed: {error}"));
            threads::pause(pause);
            attempts += 1;
        }
    }

    /// Sends a request once, without retries.
    pub fn once(&self, call: &S3Request<'_>) -> Result<(), S3Error> {
        self.attempt(call).and_then(S3Response::done)
    }

    /// The pause after this many attempts: doubled each time, with up to half of it removed at
    /// random, so that clients that failed together do not retry together.
    pub fn pause(&self, attempts: u32) -> Duration {
        let backoff = Backoff::doubling(self.limits.pause, self.limits.pause * 512);
        let longest = backoff.pause(attempts.max(1));
        let [random] = ids::random_bytes::<1>().unwrap_or([0]);
        longest - longest * u32::from(random) / 512
    }

    fn attempt(&self, call: &S3Request<'_>) -> Result<S3Response, S3Error> {
        let url = self
            .sign(call, SIGNATURE_LIFETIME)
            .map_err(S3Error::internal)?;
        let mut request = Request::builder().method(call.method.to_str()).uri(url);
        for (name, value) in call.headers {
            request = request.header(*name, *value);
        }
        if let S3Body::Piece(piece) = &call.body {
            request = request.header("content-length", piece.length);
            if piece.length >= EXPECT_BYTES_MIN {
                request = request.header("expect", "100-continue");
            }
        }
        let sent = match call.body {
            S3Body::None => self.run(request.body(SendBody::none())),
            S3Body::Bytes(bytes) => self.run(request.body(bytes)),
            S3Body::Piece(mut piece) => self.run(request.body(SendBody::from_reader(&mut piece))),
        };
        let response = S3Response(sent?);
        match response.0.status().as_u16() {
            200..300 => Ok(response),
            _ => Err(S3Error::from_response(response)),
        }
    }

    fn run(
        &self,
        request: Result<Request<impl ureq::AsSendBody>, ureq::http::Error>,
    ) -> Result<Response<ureq::Body>, S3Error> {
        let request = request
            .map_err(|error| S3Error::internal(Error::internal(format!("a request: {error}"))))?;
        self.agent
            .run(request)
            .map_err(|error| S3Error::transport(&error))
    }
}

/// The HTTP agent, which keeps connections.
pub fn agent(limits: &S3Limits, roots: &Roots) -> Agent {
    Agent::new_with_config(config(limits, roots))
}

pub fn config(limits: &S3Limits, roots: &Roots) -> ureq::config::Config {
    http_client::config(roots, limits.idle_connections)
        .proxy(None)
        .timeout_connect(Some(limits.connect))
        .timeout_global(Some(limits.request))
        .build()
}

/// Refuses a key that URL normalisation would change.
fn check_key(key: &str) -> Result<&str> {
    let is_part = |part: &str| !matches!(part, "" | "." | "..");
    if key.len() <= 1024 && key.split('/').all(is_part) {
        return Ok(key);
    }
    Err(Error::internal(format!("{key:?} is not a valid key")))
}

/// A response with a status of success.
pub struct S3Response(Response<ureq::Body>);

impl S3Response {
    pub fn status(&self) -> u16 {
        self.0.status().as_u16()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.0.headers().get(name)?.to_str().ok()
    }

    /// The body, which must be read within the deadline of the request.
    pub fn into_reader(self) -> Box<dyn Read + Send> {
        Box::new(self.0.into_body().into_reader())
    }

    /// Parses the body as XML; an `Error` element is an error.
    pub fn xml(self) -> Result<Element, S3Error> {
        let text = self.text().map_err(|error| S3Error::truncated(&error))?;
        match Element::parse(&text) {
            Some(root) if root.name == "Error" => Err(S3Error::from_xml(200, Some(&root))),
            Some(root) => Ok(root),
            None => Err(S3Error::invalid("malformed XML")),
        }
    }

    fn text(self) -> io::Result<String> {
        let mut text = String::new();
        let length = self
            .into_reader()
            .take(XML_BYTES_MAX + 1)
            .read_to_string(&mut text)?;
        if length as u64 > XML_BYTES_MAX {
            return Err(io::Error::other("the response is too long"));
        }
        Ok(text)
    }

    /// Reads the body to its end, so that the connection can be used again.
    pub fn done(self) -> Result<(), S3Error> {
        match io::copy(&mut self.into_reader().take(XML_BYTES_MAX), &mut io::sink()) {
            Ok(_) => Ok(()),
            Err(error) => Err(S3Error::truncated(&error)),
        }
    }
}

/// The error of a request.
#[derive(Debug)]
pub struct S3Error {
    /// 0 without a response.
    pub status: u16,
    /// The code of the S3 error, or empty.
    pub code: String,
    /// The server does not support checksums.
    pub is_of_checksums: bool,
    /// Number of attempts.
    pub attempts: u32,
    /// The cause, if the response does not contain it.
    detail: String,
    /// Another attempt may succeed.
    is_transient: bool,
}

impl S3Error {
    fn new(detail: String, is_transient: bool) -> S3Error {
        S3Error {
            status: 0,
            code: String::new(),
            is_of_checksums: false,
            attempts: 1,
            detail,
            is_transient,
        }
    }

    /// The response is not valid S3.
    pub fn invalid(what: &str) -> S3Error {
        S3Error::new(format!("invalid response from S3: {what}"), true)
    }

    /// A permanent error.
    pub fn fatal(what: &str) -> S3Error {
        S3Error::new(what.to_owned(), false)
    }

    /// The response ended early.
    pub fn truncated(error: &io::Error) -> S3Error {
        S3Error::new(format!("the response from S3 broke off: {error}"), true)
    }

    #[expect(clippy::needless_pass_by_value, reason = "for map_err")]
    fn internal(error: Error) -> S3Error {
        S3Error::new(error.to_string(), false)
    }

    fn transport(error: &ureq::Error) -> S3Error {
        use ureq::Error as Cause;
        let (what, is_transient) = match error {
            // ureq reports an untrusted certificate as invalid data.
            Cause::Io(cause) => {
                let is_transient = cause.kind() != io::ErrorKind::InvalidData;
                let objection = tls::certificate_error(cause);
                (objection.unwrap_or_else(|| cause.to_string()), is_transient)
            }
            Cause::Timeout(_) => ("timed out".to_owned(), true),
            Cause::HostNotFound | Cause::ConnectionFailed | Cause::Protocol(_) => {
                (error.to_string(), true)
            }
            // The text of these contains the URL.
            Cause::BadUri(_) | Cause::RequireHttpsOnly(_) => {
                ("the URL is refused".to_owned(), false)
            }
            _ => (error.to_string(), false),
        };
        S3Error::new(format!("no response from S3: {what}"), is_transient)
    }

    fn from_response(response: S3Response) -> S3Error {
        let status = response.status();
        let text = response.text().unwrap_or_default();
        S3Error::from_xml(status, Element::parse(&text).as_ref())
    }

    /// A error from the status and the `Error` element of a response.
    fn from_xml(status: u16, error: Option<&Element>) -> S3Error {
        let text = |name| error.and_then(|error| error.text_of(name)).unwrap_or("");
        let is_plain = |letter: &char| letter.is_ascii_alphanumeric();
        let code: String = text("Code").chars().filter(is_plain).take(64).collect();
        let about = text("Message").to_ascii_lowercase();
        // Errors of transmission or of the moment, not of the request.
        let is_transient = matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
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
        // Cloudflare R2 answers 501, Backblaze B2 400 with the name of the header.
        let is_of_checksums =
            status == 501 || (status == 400 && !is_transient && about.contains("checksum"));
        S3Error {
            status,
            code,
            is_of_checksums,
            attempts: 1,
            detail: String::new(),
            is_transient,
        }
    }

    /// True if the key does not exist in an existing bucket.
    pub fn is_not_found(&self) -> bool {
        self.status == 404 && self.code == "NoSuchKey"
    }

    /// An error with a message for the client, and the failed operation for the log.
    pub fn into_error(self, message: &str, doing: &str) -> Error {
        Error::unavailable(message).context(format!("{doing}: {self}"))
    }
}

impl fmt::Display for S3Error {
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
