//! The table of options.

use std::fmt::Write as _;

/// A row of the table of options.
pub struct Opt {
    /// The name of the environment variable; the flag follows from it.
    pub variable: &'static str,
    /// The default; empty for none.
    pub default: &'static str,
    /// The accepted values, for errors and help.
    pub accepts: &'static str,
    /// A line for the help.
    pub help: &'static str,
}

impl Opt {
    /// The flag without its leading dashes: `data-dir` for `DATA_DIR`.
    pub fn flag(&self) -> String {
        self.variable.to_ascii_lowercase().replace('_', "-")
    }
}

const fn opt(
    variable: &'static str,
    default: &'static str,
    accepts: &'static str,
    help: &'static str,
) -> Opt {
    Opt {
        variable,
        default,
        accepts,
        help,
    }
}

/// All options: the source of the parser and of `vski help`. The README documents each of them.
pub const OPTIONS: [Opt; 36] = [
    opt("HOST", "127.0.0.1", "an IP address", "address to listen on"),
    opt(
        "PORT",
        "3000",
        "a number from 0 to 65535",
        "port to listen on; 0 chooses a free port",
    ),
    opt(
        "DATA_DIR",
        "./data",
        "a path",
        "databases, files and local state",
    ),
    opt(
        "ENV_FILE",
        "",
        "a path",
        "file with more settings, one NAME=value per line; flags and variables win",
    ),
    opt(
        "JWT_SECRET",
        "",
        "at least 32 bytes",
        "signs all tokens; generated into DATA_DIR/secret if not set",
    ),
    opt(
        "REPLICA_MODE",
        "master",
        "master or replica",
        "accept writes as a master, or follow one as a replica",
    ),
    opt(
        "MASTER_URL",
        "",
        "an http or https URL",
        "URL of the master, on a replica",
    ),
    opt(
        "SYNC_INTERVAL",
        "60",
        "seconds from 1 to 86400",
        "pause between sync cycles of a replica",
    ),
    opt(
        "REPLICA_ID",
        "",
        "1 to 64 of A-Z a-z 0-9 _ -",
        "name of this replica, shown by the master",
    ),
    opt(
        "PUBLIC_URL",
        "",
        "an http or https URL",
        "URL at which clients reach this server; links in mails begin with it",
    ),
    opt(
        "FILE_SYNC_RETENTION_DAYS",
        "7",
        "days from 1 to 3650",
        "days to keep file journal entries that not all replicas have acknowledged",
    ),
    opt(
        "WORKFLOW_RETENTION_DAYS",
        "30",
        "days from 1 to 3650",
        "days to keep finished workflow runs",
    ),
    opt(
        "WORKFLOW_LEASE_SECONDS",
        "30",
        "seconds from 2 to 3600",
        "seconds after which a silent worker loses its runs to others",
    ),
    opt(
        "STORAGE",
        "local",
        "local or s3",
        "where uploaded files are stored",
    ),
    opt("S3_ENDPOINT", "", "an http or https URL", "S3 server"),
    opt(
        "S3_BUCKET",
        "",
        "a name",
        "S3 bucket, used by this server only",
    ),
    opt("S3_REGION", "us-east-1", "a name", "S3 region"),
    opt("S3_ACCESS_KEY", "", "a key", "S3 access key"),
    opt("S3_SECRET_KEY", "", "a key", "S3 secret key"),
    opt(
        "S3_PATH_STYLE",
        "false",
        "true or false",
        "put the bucket name in the path of URLs",
    ),
    opt(
        "AUTH_COLLECTION",
        "_users",
        "a collection name",
        "auth collection of /api/auth",
    ),
    opt(
        "TOKEN_HOURS",
        "168",
        "hours from 1 to 87600",
        "lifetime of an admin or user token",
    ),
    opt(
        "SMTP_URL",
        "",
        "an smtp or smtps URL",
        "mail server; without one, the links in mails go to the log",
    ),
    opt(
        "MAIL_FROM",
        "",
        "an e-mail address or Name <address>",
        "sender of mails; required with SMTP_URL",
    ),
    opt(
        "THREADS",
        "64",
        "a number from 1 to 1024",
        "request threads; most wait for a commit to reach the disk",
    ),
    opt(
        "MAX_CONNECTIONS",
        "1024",
        "a number from 1 to 100000",
        "maximum number of open HTTP connections",
    ),
    opt(
        "MAX_SOCKETS",
        "10000",
        "a number from 1 to 100000",
        "maximum number of open WebSockets, besides the HTTP connections",
    ),
    opt(
        "MAX_BODY_MB",
        "64",
        "MiB from 1 to 10240",
        "largest upload; JSON bodies are at most 4 MiB",
    ),
    opt(
        "RESERVE_MB",
        "256",
        "MiB from 0 to 1048576",
        "free disk space that uploads and files from a master leave for databases",
    ),
    opt(
        "DB_SYNCHRONOUS",
        "full",
        "full or normal",
        "full: a 2xx answer is on disk; normal: a power failure may lose the last commits",
    ),
    opt(
        "CORS_ORIGINS",
        "",
        "comma-separated origins such as https://app.example, or *",
        "origins whose pages may call the API in a browser",
    ),
    opt("DASHBOARD", "on", "on or off", "serve the dashboard at /_/"),
    opt(
        "TRUSTED_PROXIES",
        "",
        "comma-separated IP addresses and networks such as 10.0.0.0/8",
        "proxies whose X-Forwarded-For is trusted",
    ),
    opt(
        "WEBHOOK_DENY_PRIVATE",
        "false",
        "true or false",
        "refuse webhooks to loopback, private and link-local addresses",
    ),
    opt(
        "SSL_CERT_FILE",
        "",
        "a path",
        "PEM file of trusted certificate authorities, instead of the built-in ones",
    ),
    opt(
        "LOG",
        "info",
        "error, warn, info or debug",
        "most detailed level that is logged to stderr",
    ),
];

/// The table of options as `vski help` prints it.
pub fn describe() -> String {
    let mut text = String::new();
    for option in &OPTIONS {
        let default = match option.default {
            "" => String::new(),
            default => format!(" [{default}]"),
        };
        let _ = writeln!(
            text,
            "  {:26} --{:27} {}{default}\n  {:26} {:29} accepts {}",
            option.variable,
            option.flag(),
            option.help,
            "",
            "",
            option.accepts
        );
    }
    text
}

/// The row of a variable.
pub fn option(variable: &str) -> &'static Opt {
    OPTIONS
        .iter()
        .find(|option| option.variable == variable)
        .expect("the variable is in the table of options")
}
