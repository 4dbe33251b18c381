//! The table of options.

use std::fmt::Write as _;

/// One row of the option table.
pub struct Opt {
    /// Name of the environment variable; the flag is derived from it.
    pub variable: &'static str,
    /// What holds when it is not given; empty for none.
    pub default: &'static str,
    /// What it accepts, for errors and help.
    pub accepts: &'static str,
    /// One line for people.
    pub help: &'static str,
}

impl Opt {
    /// The long flag without its dashes: `DATA_DIR` is `data-dir`.
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

/// All options: the source of the parser, of `vski help` and of the table in the README.
pub const OPTIONS: [Opt; 35] = [
    opt("HOST", "127.0.0.1", "an IP address", "address to listen on"),
    opt(
        "PORT",
        "3000",
        "a number from 0 to 65535",
        "port to listen on; 0 accepts a free one",
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
        "file with more settings, NAME=value a line; what is set elsewhere wins",
    ),
    opt(
        "JWT_SECRET",
        "",
        "at least 32 bytes",
        "signs all tokens; made and kept in DATA_DIR/secret when not given",
    ),
    opt(
        "REPLICA_MODE",
        "master",
        "master or replica",
        "whether this server accepts writes or follows a master",
    ),
    opt(
        "MASTER_URL",
        "",
        "an http or https URL",
        "the master, on a replica",
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
        "name of this replica to the master",
    ),
    opt(
        "PUBLIC_URL",
        "",
        "an http or https URL",
        "where clients reach this server; links in mails begin with it",
    ),
    opt(
        "FILE_SYNC_RETENTION_DAYS",
        "7",
        "days from 1 to 3650",
        "age at which entries of the file journal go at the latest, followed by replicas or not",
    ),
    opt(
        "WORKFLOW_RETENTION_DAYS",
        "30",
        "days from 1 to 3650",
        "age at which runs of workflows go that have ended",
    ),
    opt(
        "WORKFLOW_LEASE_SECONDS",
        "30",
        "seconds from 2 to 3600",
        "a worker that is silent for so long loses its runs to others",
    ),
    opt(
        "STORAGE",
        "local",
        "local or s3",
        "where uploaded files are kept",
    ),
    opt("S3_ENDPOINT", "", "an http or https URL", "S3 server"),
    opt("S3_BUCKET", "", "a name", "S3 bucket, of this server alone"),
    opt("S3_REGION", "us-east-1", "a name", "S3 region"),
    opt("S3_ACCESS_KEY", "", "a key", "S3 access key"),
    opt("S3_SECRET_KEY", "", "a key", "S3 secret key"),
    opt(
        "S3_PATH_STYLE",
        "false",
        "true or false",
        "address the bucket in the path",
    ),
    opt(
        "AUTH_COLLECTION",
        "_users",
        "a collection name",
        "auth collection that /api/auth is about",
    ),
    opt(
        "TOKEN_HOURS",
        "168",
        "hours from 1 to 87600",
        "life of an admin or user token",
    ),
    opt(
        "SMTP_URL",
        "",
        "an smtp or smtps URL",
        "server that accepts our mails; without one the links in them go to the log",
    ),
    opt(
        "MAIL_FROM",
        "",
        "an e-mail address or Name <address>",
        "whom mails are from; needed with SMTP_URL",
    ),
    opt(
        "THREADS",
        "64",
        "a number from 1 to 1024",
        "request threads; most of them wait for a commit to reach the disk",
    ),
    opt(
        "MAX_CONNECTIONS",
        "1024",
        "a number from 1 to 100000",
        "HTTP connections at a time",
    ),
    opt(
        "MAX_SOCKETS",
        "10000",
        "a number from 1 to 100000",
        "WebSockets at a time, beside the HTTP connections",
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
        "room on the disk that uploads and files from a master leave to databases",
    ),
    opt(
        "DB_SYNCHRONOUS",
        "full",
        "full or normal",
        "full: a 2xx is on disk; normal: a power cut may take the last commits",
    ),
    opt(
        "CORS_ORIGINS",
        "",
        "comma-separated origins such as https://app.example, or *",
        "origins that browsers may call from",
    ),
    opt(
        "TRUSTED_PROXIES",
        "",
        "comma-separated IP addresses and networks such as 10.0.0.0/8",
        "proxies whose X-Forwarded-For says where a request came from",
    ),
    opt(
        "WEBHOOK_DENY_PRIVATE",
        "false",
        "true or false",
        "refuse webhooks that lead to loopback, private or link-local addresses",
    ),
    opt(
        "SSL_CERT_FILE",
        "",
        "a path",
        "PEM file of the authorities that servers are trusted by, in place of the ones inside",
    ),
    opt(
        "LOG",
        "info",
        "error, warn, info or debug",
        "how much is logged to stderr",
    ),
];

/// The text of the option table, as `vski help` prints it.
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
        .expect("only variables of the table are asked for")
}
