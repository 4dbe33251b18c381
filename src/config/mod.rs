//! Settings: a table of options, and [`Config`], plain values that are all checked at start.
//!
//! Each option is an environment variable and a flag of `serve`, which wins. The file named by
//! `ENV_FILE` supplies settings that neither gives. A [`Config`] needs no further checks.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::error::{Error, Result};
use crate::base::log::Level;
use crate::base::tls::Roots;
use crate::base::{ids, tls};
use crate::model::auth::SECRET_BYTES_MIN;
use crate::net::http::client_address::Prefix;
use crate::net::mail;
use crate::net::mail::{Relay, Sender};
use crate::services::{oauth, replication};
use crate::store::db::Synchronous;
use crate::store::files::S3Settings;

mod file;
mod in_force;
mod options;
mod typo;

pub use in_force::{OptionInForce, OptionSource};
use options::option;
pub use options::{OPTIONS, Opt, describe};
pub use typo::misspelled;

/// The settings of a server, checked.
pub struct Config {
    /// The address to listen on. Port 0 chooses a free port.
    pub listen: SocketAddr,
    /// The directory of the databases and files.
    pub data_dir: PathBuf,
    /// The secret for tokens, if given.
    pub jwt_secret: Option<String>,
    /// The settings of a replica; none on a master.
    pub replica: Option<replication::replica::ReplicaSettings>,
    /// Lifetime of an admin or user token, in hours.
    pub token_hours: u32,
    /// Bytes of the longest form with files.
    pub upload_bytes_max: u64,
    /// Bytes of the disk that files leave free.
    pub reserve_bytes: u64,
    /// The bucket for files; none with local storage.
    pub s3: Option<S3Settings>,
    /// Days after which entries of the file journal are deleted.
    pub file_sync_retention_days: u32,
    /// Days after which finished runs are deleted.
    pub workflow_retention_days: u32,
    /// Seconds after which a silent worker loses its runs.
    pub workflow_lease_seconds: u32,
    /// The auth collection of `/api/auth`.
    pub auth_collection: String,
    /// The URL at which clients reach this server, if given.
    public_url: Option<String>,
    /// Origins whose pages may call the API; `*` allows all.
    pub cors_origins: Vec<String>,
    /// Serve the dashboard at `/_/`.
    pub has_dashboard: bool,
    /// Proxies that are trusted to name the address of a client.
    pub trusted_proxies: Vec<Prefix>,
    /// The mail server; none if mails go to the log.
    pub mail: Option<mail::MailSettings>,
    /// Number of request threads.
    pub threads: usize,
    /// Limit on open HTTP connections.
    pub connections_max: usize,
    /// Limit on open WebSockets.
    pub sockets_max: usize,
    /// Durability of a commit.
    pub synchronous: Synchronous,
    /// Secrets of clients of OAuth2, by the names of their variables.
    pub provider_secrets: HashMap<String, String>,
    /// Refuses webhooks to private addresses.
    pub denies_private_webhooks: bool,
    /// Certificate authorities that this server trusts as a client.
    pub roots: Roots,
    /// The most detailed level that is logged.
    pub log: Level,
    /// Warnings about the settings, for the log.
    pub warnings: Vec<String>,
    /// All options, for administrators.
    pub options: Vec<OptionInForce>,
}

/// Options without effect while the other option has its default.
const DEPENDENT_OPTIONS: [(&str, &str); 5] = [
    ("MASTER_URL", "REPLICA_MODE"),
    ("REPLICA_ID", "REPLICA_MODE"),
    ("S3_ENDPOINT", "STORAGE"),
    ("S3_BUCKET", "STORAGE"),
    ("MAIL_FROM", "SMTP_URL"),
];

/// Options that should not be given as a flag.
const SECRETS: [&str; 3] = ["JWT_SECRET", "S3_SECRET_KEY", "SMTP_URL"];

impl Config {
    /// Checks the given flags (by variable name) and the environment.
    pub fn load(flags: &HashMap<&'static str, String>) -> Result<Config> {
        let raw = RawSettings::new(flags)?;
        let roots = raw.roots()?;
        Ok(Config {
            warnings: raw.warnings()?,
            options: raw.in_force()?,
            listen: raw.listen()?,
            data_dir: raw.data_dir()?,
            jwt_secret: raw.secret()?,
            replica: raw.replica()?,
            token_hours: raw.number("TOKEN_HOURS", 1, 87_600)?,
            upload_bytes_max: raw.number::<u64>("MAX_BODY_MB", 1, 10_240)? << 20,
            reserve_bytes: raw.number::<u64>("RESERVE_MB", 0, 1 << 20)? << 20,
            s3: raw.s3(&roots)?,
            file_sync_retention_days: raw.number("FILE_SYNC_RETENTION_DAYS", 1, 3650)?,
            workflow_retention_days: raw.number("WORKFLOW_RETENTION_DAYS", 1, 3650)?,
            workflow_lease_seconds: raw.number("WORKFLOW_LEASE_SECONDS", 2, 3600)?,
            auth_collection: raw.parse("AUTH_COLLECTION", |text| {
                (!text.is_empty()).then(|| text.to_owned())
            })?,
            public_url: raw.url("PUBLIC_URL")?,
            cors_origins: raw.list("CORS_ORIGINS", |text| {
                (text == "*" || (is_origin(text) && !has_user(text)))
                    .then(|| text.trim_end_matches('/').to_owned())
            })?,
            has_dashboard: raw.parse("DASHBOARD", |text| match text {
                "on" => Some(true),
                "off" => Some(false),
                _ => None,
            })?,
            trusted_proxies: raw.list("TRUSTED_PROXIES", Prefix::parse)?,
            mail: raw.mail(&roots)?,
            threads: raw.number("THREADS", 1, 1024)?,
            connections_max: raw.number("MAX_CONNECTIONS", 1, 100_000)?,
            sockets_max: raw.number("MAX_SOCKETS", 1, 100_000)?,
            synchronous: raw.parse("DB_SYNCHRONOUS", |text| match text {
                "full" => Some(Synchronous::Full),
                "normal" => Some(Synchronous::Normal),
                _ => None,
            })?,
            provider_secrets: raw.provider_secrets(),
            denies_private_webhooks: raw.parse("WEBHOOK_DENY_PRIVATE", |text| text.parse().ok())?,
            roots,
            log: raw.parse("LOG", |text| {
                Level::NAMES
                    .iter()
                    .find(|(name, _)| *name == text)
                    .map(|(_, level)| *level)
            })?,
        })
    }

    /// The URL at which clients reach this server; the address it listens on, if none was given.
    pub fn public_url(&self) -> String {
        let here = || format!("http://{}", self.listen);
        self.public_url.clone().unwrap_or_else(here)
    }

    /// The URL at which clients reach this server, if one was given.
    pub fn given_public_url(&self) -> Option<String> {
        self.public_url.clone()
    }

    /// Only the storage of files, for commands that do not serve.
    pub fn load_s3(flags: &HashMap<&'static str, String>) -> Result<Option<S3Settings>> {
        let raw = RawSettings::new(flags)?;
        raw.s3(&raw.roots()?)
    }

    /// Only the address of the server and its secret, for commands that send it a request.
    pub fn load_address(
        flags: &HashMap<&'static str, String>,
    ) -> Result<(SocketAddr, Option<String>)> {
        let raw = RawSettings::new(flags)?;
        let addr = raw.listen()?;
        let ip = match addr.ip() {
            ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            ip => ip,
        };
        Ok((SocketAddr::new(ip, addr.port()), raw.secret()?))
    }

    /// Only the data directory, for commands that do not serve.
    pub fn load_data_dir(flags: &HashMap<&'static str, String>) -> Result<PathBuf> {
        RawSettings::new(flags)?.data_dir()
    }
}

/// Settings as strings: a flag, else the environment, else the file, else the default.
struct RawSettings<'a> {
    flags: &'a HashMap<&'static str, String>,
    file: HashMap<String, String>,
}

impl<'a> RawSettings<'a> {
    fn new(flags: &'a HashMap<&'static str, String>) -> Result<RawSettings<'a>> {
        let file = HashMap::new();
        let mut raw = RawSettings { flags, file };
        let path = raw.get("ENV_FILE")?;
        if !path.is_empty() {
            raw.file = file::read(Path::new(&path))?;
        }
        Ok(raw)
    }

    fn get(&self, variable: &'static str) -> Result<String> {
        Ok(match self.given(variable)? {
            Some(value) => value,
            None => option(variable).default.to_owned(),
        })
    }

    fn given(&self, variable: &'static str) -> Result<Option<String>> {
        if let Some(value) = self.flags.get(variable) {
            return Ok(Some(value.clone()));
        }
        let file = self.file.get(variable).filter(|value| !value.is_empty());
        match std::env::var(variable) {
            Ok(value) if !value.is_empty() => Ok(Some(value)),
            Ok(_) | Err(std::env::VarError::NotPresent) => Ok(file.cloned()),
            Err(std::env::VarError::NotUnicode(_)) => Err(refuse(variable, "(not UTF-8)")),
        }
    }

    fn source(&self, variable: &str) -> OptionSource {
        let is_set = |value: String| !value.is_empty();
        if self.flags.contains_key(variable) {
            OptionSource::Flag
        } else if std::env::var(variable).is_ok_and(is_set) {
            OptionSource::Environment
        } else if self.file.get(variable).is_some_and(|it| !it.is_empty()) {
            OptionSource::File
        } else {
            OptionSource::Default
        }
    }

    /// All options in the order of their table.
    fn in_force(&self) -> Result<Vec<OptionInForce>> {
        let of = |option: &'static Opt| {
            let Opt { variable, .. } = option;
            let value = self.get(variable)?;
            let is_secret = SECRETS.contains(variable);
            let source = self.source(variable);
            Ok(OptionInForce::new(option, source, value, is_secret))
        };
        OPTIONS.iter().map(of).collect()
    }

    /// The secrets of clients of OAuth2; see `services::oauth`.
    fn provider_secrets(&self) -> HashMap<String, String> {
        let file = self.file.clone().into_iter();
        let environment = std::env::vars_os();
        let environment = environment.filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        let all = file.chain(environment);
        all.filter(|(name, value)| name.starts_with(oauth::SECRET_PREFIX) && !value.is_empty())
            .collect()
    }

    /// Warnings about settings without effect, where most likely another one was forgotten, and
    /// about secrets on the command line.
    fn warnings(&self) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        for variable in SECRETS {
            if self.flags.contains_key(variable) {
                warnings.push(format!(
                    "--{} can be read in the list of processes; set {variable} in the environment \
                     or in the file that ENV_FILE names",
                    option(variable).flag()
                ));
            }
        }
        for (variable, needed) in DEPENDENT_OPTIONS {
            let default = option(needed).default;
            if self.given(variable)?.is_some() && self.get(needed)? == default {
                let state = if default.is_empty() {
                    "not set"
                } else {
                    default
                };
                warnings.push(format!("{variable} has no effect: {needed} is {state}"));
            }
        }
        Ok(warnings)
    }

    fn parse<T>(&self, variable: &'static str, read: impl Fn(&str) -> Option<T>) -> Result<T> {
        let value = self.get(variable)?;
        read(&value).ok_or_else(|| refuse(variable, &value))
    }

    fn number<T>(&self, variable: &'static str, min: T, max: T) -> Result<T>
    where
        T: std::str::FromStr + PartialOrd + Copy,
    {
        self.parse(variable, |text| {
            text.parse()
                .ok()
                .filter(|number| (min..=max).contains(number))
        })
    }

    /// Comma-separated values, all of which must be valid.
    fn list<T>(&self, variable: &'static str, read: impl Fn(&str) -> Option<T>) -> Result<Vec<T>> {
        self.parse(variable, |text| {
            let parts = text.split(',').map(str::trim);
            parts.filter(|part| !part.is_empty()).map(&read).collect()
        })
    }

    /// A URL that others can see, so a password in it is an error, which does not print it.
    fn url(&self, variable: &'static str) -> Result<Option<String>> {
        let url = self.get(variable)?;
        if has_user(&url) {
            return Err(Error::invalid(format!(
                "{variable} must not contain a user name or password, because others can see it \
                 (value not shown); it must be {}",
                option(variable).accepts
            )));
        }
        match url.as_str() {
            "" => Ok(None),
            _ if is_origin(&url) => Ok(Some(url)),
            _ => Err(refuse(variable, &url)),
        }
    }

    fn listen(&self) -> Result<SocketAddr> {
        let ip = self.parse("HOST", |text| match text {
            "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            _ => text.parse().ok(),
        })?;
        Ok(SocketAddr::new(
            ip,
            self.parse("PORT", |text| text.parse().ok())?,
        ))
    }

    fn data_dir(&self) -> Result<PathBuf> {
        self.parse("DATA_DIR", |text| {
            (!text.is_empty()).then(|| PathBuf::from(text))
        })
    }

    /// The secret is never printed, not even in an error.
    fn secret(&self) -> Result<Option<String>> {
        match self.get("JWT_SECRET")? {
            secret if secret.is_empty() => Ok(None),
            secret if secret.len() < SECRET_BYTES_MIN => Err(refuse(
                "JWT_SECRET",
                &format!("(a secret of {} bytes)", secret.len()),
            )),
            secret => Ok(Some(secret)),
        }
    }

    /// Reads the file of authorities.
    fn roots(&self) -> Result<Roots> {
        match self.get(tls::VARIABLE)? {
            path if path.is_empty() => Ok(Roots::default()),
            path => Roots::read(Path::new(&path)),
        }
    }

    /// The URL contains a password and is never printed.
    fn mail(&self, roots: &Roots) -> Result<Option<mail::MailSettings>> {
        let from = match self.get("MAIL_FROM")? {
            from if from.is_empty() => None,
            from => Some(Sender::parse(&from).ok_or_else(|| refuse("MAIL_FROM", &from))?),
        };
        let relay = match self.get("SMTP_URL")? {
            url if url.is_empty() => return Ok(None),
            url => Relay::parse(&url).ok_or_else(|| refuse("SMTP_URL", "(not shown)"))?,
        };
        let from = from.ok_or_else(|| refuse("MAIL_FROM", "(not set, but SMTP_URL is)"))?;
        let relay = relay.trusting(roots)?;
        Ok(Some(mail::MailSettings { relay, from }))
    }

    fn s3(&self, roots: &Roots) -> Result<Option<S3Settings>> {
        let is_s3 = self.parse("STORAGE", |text| match text {
            "local" => Some(false),
            "s3" => Some(true),
            _ => None,
        })?;
        if !is_s3 {
            return Ok(None);
        }
        let given = |name| match self.get(name)? {
            text if text.is_empty() => Err(Error::invalid(format!("STORAGE=s3 needs {name}."))),
            text => Ok(text),
        };
        Ok(Some(S3Settings {
            endpoint: self
                .url("S3_ENDPOINT")?
                .map_or_else(|| given("S3_ENDPOINT"), Ok)?,
            bucket: given("S3_BUCKET")?,
            region: given("S3_REGION")?,
            access_key: given("S3_ACCESS_KEY")?,
            secret_key: given("S3_SECRET_KEY")?,
            path_style: self.parse("S3_PATH_STYLE", |text| text.parse().ok())?,
            roots: roots.clone(),
        }))
    }

    /// A replica checks the tokens of its master, so it needs the secret.
    fn replica(&self) -> Result<Option<replication::replica::ReplicaSettings>> {
        let master_url = self.url("MASTER_URL")?;
        let interval = Duration::from_secs(self.number("SYNC_INTERVAL", 1, 86_400)?);
        let id = self.parse("REPLICA_ID", |text| match text {
            "" => Some(None),
            id => ids::is_valid_id(id).then(|| Some(id.to_owned())),
        })?;
        let is_replica = self.parse("REPLICA_MODE", |text| match text {
            "master" => Some(false),
            "replica" => Some(true),
            _ => None,
        })?;
        if !is_replica {
            return Ok(None);
        }
        let needs = |name| Error::invalid(format!("REPLICA_MODE=replica needs {name}."));
        self.secret()?
            .ok_or_else(|| needs("the JWT_SECRET of the master"))?;
        Ok(Some(replication::replica::ReplicaSettings {
            master_url: master_url.ok_or_else(|| needs("MASTER_URL"))?,
            interval,
            waiters_max: (self.number::<usize>("THREADS", 1, 1024)? / 4).max(1),
            id,
        }))
    }
}

/// True for an http or https URL with a host.
fn is_origin(url: &str) -> bool {
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"));
    rest.is_some_and(|rest| {
        !rest.is_empty()
            && !rest.starts_with(['/', ':'])
            && !rest
                .contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '*' | ','))
    })
}

/// True if a URL has a user name or password before its host.
fn has_user(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#', '\\']).next();
    authority.is_some_and(|it| it.contains('@'))
}

fn refuse(variable: &'static str, value: &str) -> Error {
    let accepts = option(variable).accepts;
    Error::invalid(format!("{variable}={value}: must be {accepts}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(flags: &[(&'static str, &str)]) -> Result<Config> {
        Config::load(
            &flags
                .iter()
                .map(|(name, value)| (*name, (*value).to_owned()))
                .collect(),
        )
    }

    #[test]
    fn defaults_are_valid_and_flags_are_read() {
        let config = load(&[("PORT", "0"), ("THREADS", "2")]).unwrap();
        assert_eq!(config.listen.port(), 0);
        assert_eq!(config.threads, 2);
    }

    #[test]
    fn every_refusal_names_the_variable_and_what_it_takes() {
        for (variable, value) in [
            ("HOST", "example"),
            ("PORT", "65536"),
            ("PORT", "-1"),
            ("TOKEN_HOURS", "0"),
            ("THREADS", "many"),
            ("MAX_CONNECTIONS", "0"),
            ("MAX_SOCKETS", "100001"),
            ("DB_SYNCHRONOUS", "off"),
            ("LOG", "INFO"),
            ("DATA_DIR", ""),
            ("JWT_SECRET", "short"),
            ("SMTP_URL", "mail.example.com"),
            ("PUBLIC_URL", "app.example"),
            ("REPLICA_MODE", "slave"),
            ("MASTER_URL", "master.example"),
            ("SYNC_INTERVAL", "0"),
            ("REPLICA_ID", "a b"),
            ("CORS_ORIGINS", "https://a.example,b.example"),
            ("CORS_ORIGINS", "https://*.example"),
            ("TRUSTED_PROXIES", "127.0.0.1,proxy"),
            ("TRUSTED_PROXIES", "10.0.0.0/33"),
            ("MAIL_FROM", "nobody"),
        ] {
            let message = load(&[(variable, value)]).err().unwrap().to_string();
            assert!(message.starts_with(&format!("{variable}=")), "{message}");
            assert!(message.contains(option(variable).accepts), "{message}");
        }
    }

    #[test]
    fn urls_that_others_see_have_no_password_which_is_never_printed() {
        let bucket = [
            ("STORAGE", "s3"),
            ("S3_ENDPOINT", "https://s3.example"),
            ("S3_BUCKET", "b"),
            ("S3_ACCESS_KEY", "a"),
            ("S3_SECRET_KEY", "s"),
        ];
        for variable in ["MASTER_URL", "PUBLIC_URL", "S3_ENDPOINT"] {
            for url in [
                "http://ops:hunter2@host",
                "https://hunter2@host:3000/x",
                "https://:hunter2@host?x",
                "ops:hunter2@host",
                "ftp://ops:hunter2@host",
            ] {
                let flags = [&bucket[..], &[(variable, url)]].concat();
                let message = load(&flags).err().unwrap().to_string();
                assert!(
                    message.starts_with(&format!("{variable} must")),
                    "{message}"
                );
                assert!(!message.contains("hunter2"), "{message}");
            }
            let flags = [&bucket[..], &[(variable, "https://host:3000/a@b?c@d")]];
            assert!(load(&flags.concat()).is_ok(), "{variable}");
        }
        assert!(load(&[("CORS_ORIGINS", "https://ops@app.example")]).is_err());
    }

    #[test]
    fn secrets_among_the_flags_are_warned_of() {
        let secret = "0123456789abcdef0123456789abcdef";
        let config = load(&[("JWT_SECRET", secret)]).unwrap();
        assert!(config.warnings[0].starts_with("--jwt-secret can be read"));
        assert!(!config.warnings.concat().contains(secret));
        assert!(load(&[("PORT", "0")]).unwrap().warnings.is_empty());
    }

    #[test]
    fn a_secret_is_never_printed() {
        let message = load(&[("JWT_SECRET", "hunter2")])
            .err()
            .unwrap()
            .to_string();
        assert!(!message.contains("hunter2"), "{message}");
    }

    #[test]
    fn a_mail_server_needs_a_sender_and_its_url_is_never_printed() {
        let url = "smtps://user:hunter2@mail.example.com";
        let from = ("MAIL_FROM", "vski <vski@example.com>");
        let config = load(&[("SMTP_URL", url), from]).unwrap();
        assert!(config.mail.is_some());
        assert!(load(&[from]).unwrap().mail.is_none());

        let message = load(&[("SMTP_URL", url)]).err().unwrap().to_string();
        assert!(
            message.starts_with("MAIL_FROM=(not set, but SMTP_URL is): must be"),
            "{message}"
        );
        let wrong = format!("{url}:port");
        let message = load(&[("SMTP_URL", &wrong), from])
            .err()
            .unwrap()
            .to_string();
        assert!(message.starts_with("SMTP_URL="), "{message}");
        assert!(!message.contains("hunter2"), "{message}");
    }

    #[test]
    fn a_replica_needs_its_master_and_the_secret() {
        let secret = ("JWT_SECRET", "0123456789abcdef0123456789abcdef");
        let master = ("MASTER_URL", "http://127.0.0.1:3000");
        let mode = ("REPLICA_MODE", "replica");
        let replica = load(&[mode, secret, master]).unwrap().replica.unwrap();
        assert_eq!(replica.interval, Duration::from_secs(60));
        assert!(load(&[secret, master]).unwrap().replica.is_none());
        for (given, missing) in [
            ([mode, secret], "MASTER_URL"),
            ([mode, master], "JWT_SECRET"),
        ] {
            let message = load(&given).err().unwrap().to_string();
            assert!(message.contains(missing), "{message}");
        }
    }
}
