//! Rules about the source itself, so that nobody has to remember them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Which of our modules a module may import: the layers of `docs/architecture.md`.
const LAYERS: [(&str, &[&str]); 6] = [
    (
        "ground",
        &[
            "budget",
            "clock",
            "config",
            "crypto",
            "error",
            "failpoints",
            "ids",
            "log",
            "paging",
            "threads",
            "tls",
        ],
    ),
    ("mechanism", &["db", "http", "mail", "sockets"]),
    (
        "domain",
        &[
            "node",
            "replicas",
            "stats",
            "files",
            "filter",
            "rules",
            "triggers",
            "collections",
            "events",
            "records",
            "check",
            "auth",
            "replication",
            "workflows",
            "realtime",
            "webhooks",
            "cron",
            "backup",
        ],
    ),
    ("whole", &["app"]),
    ("surface", &["api"]),
    ("process", &["server", "malloc", "cli", "main", "tests"]),
];

/// Imports against the layers, each with its reason. One that is no longer needed fails.
const LAYER_EXCEPTIONS: [(&str, &str); 5] = [
    // The settings of a replica are those of the one that follows.
    ("src/config.rs", "replication"),
    // The settings of S3 are those of the one who uses them.
    ("src/config.rs", "files"),
    // The type of one option is the one that `db` understands.
    ("src/config.rs", "db"),
    // What `mail` needs is read by the crate that will use it, so that nothing is left to refuse.
    ("src/config.rs", "mail"),
    // Networks of proxies are read into what `http` compares addresses with.
    ("src/config.rs", "http"),
];

/// Outside crates and the only places that may name them.
const CRATES: [(&str, &[&str]); 23] = [
    ("tiny_http", &["src/http/server.rs"]),
    ("threadpool", &["src/http/server.rs"]),
    ("flate2", &["src/http/gzip.rs"]),
    ("memchr", &["src/http/multipart.rs", "src/records/like.rs"]),
    ("infer", &["src/files/media.rs"]),
    ("mime_guess", &["src/files/media.rs"]),
    ("rusty_s3", &["src/files/s3/wire.rs"]),
    ("jiff", &["src/cron/zone.rs", "src/files/s3/wire.rs"]),
    (
        "ureq",
        &[
            "src/files/s3/wire.rs",
            "src/files/s3/tests.rs",
            "src/replication/client.rs",
            "src/tls.rs",
            "src/webhooks/send.rs",
        ],
    ),
    ("rustls", &["src/tls.rs"]),
    (
        "xxhash_rust",
        &["src/db/pages.rs", "src/records/version.rs"],
    ),
    ("lz4_flex", &["src/replication/wire.rs"]),
    ("lettre", &["src/mail.rs"]),
    (
        "tungstenite",
        &[
            "src/sockets/conn.rs",
            "src/sockets/talk.rs",
            "src/sockets/tests.rs",
            "src/sockets/tests/strain.rs",
            "src/replication/wakeup.rs",
        ],
    ),
    ("getopts", &["src/cli.rs"]),
    ("signal_hook", &["src/server.rs"]),
    ("sha2", &["src/crypto.rs"]),
    ("hmac", &["src/crypto.rs"]),
    ("base64", &["src/crypto.rs"]),
    ("argon2", &["src/auth/password.rs"]),
    ("uuid", &["src/ids.rs"]),
    ("getrandom", &["src/ids.rs"]),
    (
        "regex_lite",
        &["src/collections/mod.rs", "src/collections/field.rs"],
    ),
];

/// Where SQL may live.
const SQL_PLACES: [&str; 17] = [
    "src/cron/",
    "src/replication/positions.rs",
    "src/tests/",
    "src/db/",
    "src/collections/",
    "src/records/",
    "src/auth/admins.rs",
    "src/auth/keys.rs",
    "src/error.rs",
    "src/files/",
    "src/node.rs",
    "src/replicas.rs",
    "src/stats/",
    "src/events.rs",
    "src/triggers/outbox.rs",
    "src/webhooks/",
    "src/workflows/",
];

const LINES_MAX: usize = 600;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// All Rust files below a folder: path relative to the root, and text.
fn sources(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path
                    .strip_prefix(root())
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// The part of a file that is not tests.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests")
        .next()
        .unwrap()
        .split("#[cfg(test)]\n#[expect")
        .next()
        .unwrap()
}

fn is_test_file(path: &str) -> bool {
    path.contains("tests")
}

#[track_caller]
fn none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

#[test]
fn every_file_says_what_it_is_and_is_short() {
    let mut wrong = Vec::new();
    for (path, text) in sources("src").into_iter().chain(sources("tests")) {
        if !text.starts_with("//! ") {
            wrong.push(format!("{path}: no module documentation"));
        }
        let lines = without_tests(&text).lines().count();
        if lines > LINES_MAX {
            wrong.push(format!("{path}: {lines} lines"));
        }
        for (at, line) in text.lines().enumerate() {
            if line.contains('\t') || line.ends_with(' ') || !line.is_ascii() {
                wrong.push(format!(
                    "{path}:{}: tab, trailing blank or not ASCII",
                    at + 1
                ));
            }
            let lower = line.to_lowercase();
            if ["fixme", concat!("to", "do:"), "xxx"]
                .iter()
                .any(|mark| lower.contains(mark))
                && path != "tests/it/tidy.rs"
            {
                wrong.push(format!("{path}:{}: a mark of unfinished work", at + 1));
            }
        }
    }
    none("files", &wrong);
}

fn layer_of(module: &str) -> usize {
    LAYERS
        .iter()
        .position(|(_, modules)| modules.contains(&module))
        .unwrap_or_else(|| {
            panic!("the module {module} is in no layer: add it to LAYERS and docs/architecture.md")
        })
}

#[test]
fn imports_point_downwards() {
    let (mut wrong, mut used) = (Vec::new(), BTreeSet::new());
    for (path, text) in sources("src") {
        let module = path["src/".len()..].split(['/', '.']).next().unwrap();
        for line in without_tests(&text)
            .lines()
            .filter(|_| !is_test_file(&path))
        {
            let Some(rest) = line.trim_start().strip_prefix("use crate::") else {
                continue;
            };
            let target = rest.split([':', ';']).next().unwrap();
            assert!(
                !target.starts_with('{'),
                "{path}: one use per module: {line}"
            );
            if LAYER_EXCEPTIONS.contains(&(path.as_str(), target)) {
                used.insert((path.clone(), target.to_owned()));
                continue;
            }
            let (own, other) = (layer_of(module), layer_of(target));
            let is_peer_mechanism = own == 1 && other == 1 && module != target;
            if other > own || is_peer_mechanism {
                wrong.push(format!("{path} imports {target}"));
            }
        }
    }
    none("imports against the layers", &wrong);
    assert_eq!(
        used.len(),
        LAYER_EXCEPTIONS.len(),
        "an exception is no longer needed"
    );
}

/// What pages of other sites may not read they do not have, so each header of ours is named to browsers.
#[test]
fn every_header_of_answers_is_exposed_to_pages() {
    // What callers send, and what is for proxies and browsers themselves.
    let others = [
        "X-API-Key",
        "X-Accel-Buffering",
        "X-Forwarded-For",
        "X-Frame-Options",
        "X-Real-IP",
        "X-Replica-Public-Url",
        "X-Setup-Token",
    ];
    let cors = read("src/api/cors.rs");
    let exposed = cors.split_once("const EXPOSED").unwrap().1;
    let exposed = exposed.split_once(';').unwrap().0;
    let is_exposed = |name: &str| exposed.contains(name) || others.contains(&name);
    let mut count = 0;
    for (path, text) in sources("src") {
        if !path.starts_with("src/api/") {
            continue;
        }
        for part in text.split("\"X-").skip(1) {
            let name = format!("X-{}", part.split('"').next().unwrap());
            assert!(
                is_exposed(name.split(',').next().unwrap()),
                "{path}: {name}"
            );
            count += 1;
        }
    }
    assert!(count > 5, "{count}");
}

/// Among the domain modules the order of `LAYERS` counts.
#[test]
fn domain_modules_import_leftwards() {
    let domain = LAYERS[2].1;
    let mut wrong = Vec::new();
    for (path, text) in sources("src") {
        let module = path["src/".len()..].split(['/', '.']).next().unwrap();
        let Some(own) = domain.iter().position(|name| *name == module) else {
            continue;
        };
        for (at, other) in domain.iter().enumerate() {
            if at > own && without_tests(&text).contains(&format!("use crate::{other}::")) {
                wrong.push(format!("{path} imports {other}"));
            }
        }
        if without_tests(&text).contains("crate::http") {
            wrong.push(format!("{path} knows http"));
        }
    }
    none("domain imports", &wrong);
}

#[test]
fn outside_crates_are_named_in_one_place() {
    let mut wrong = Vec::new();
    for (path, text) in sources("src") {
        let code: String = without_tests(&text)
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .map(|line| format!("{line}\n"))
            .collect();
        for (name, places) in CRATES {
            if code.contains(&format!("{name}::")) && !places.contains(&path.as_str()) {
                wrong.push(format!("{path} names {name}"));
            }
        }
        let has_sql = code.contains("rusqlite::");
        if has_sql && !SQL_PLACES.iter().any(|place| path.starts_with(place)) {
            wrong.push(format!("{path} names rusqlite"));
        }
        if code.contains("::*;") {
            wrong.push(format!("{path} imports everything of a module"));
        }
    }
    none("crates", &wrong);
}

#[test]
fn dependencies_are_those_agreed_on() {
    let text = read("Cargo.toml");
    let section = text
        .split("[dependencies]")
        .nth(1)
        .unwrap()
        .split("\n[")
        .next()
        .unwrap();
    let names: Vec<&str> = section
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(" = ").map(|(name, _)| name))
        .collect();
    let agreed = [
        "tiny_http",
        "threadpool",
        "rusqlite",
        "serde",
        "serde_json",
        "signal-hook",
        "getopts",
        "sha2",
        "hmac",
        "base64",
        "argon2",
        "getrandom",
        "uuid",
        "regex-lite",
        "mime_guess",
        "infer",
        "memchr",
        "flate2",
        "xxhash-rust",
        "lz4_flex",
        "lettre",
        "idna_adapter",
        "rusty-s3",
        "jiff",
        "ureq",
        "rustls",
        "rustix",
        "tungstenite",
    ];
    assert_eq!(names, agreed);
}

#[test]
fn every_option_is_in_the_readme() {
    let readme = read("README.md");
    let wrong: Vec<String> = option_names()
        .into_iter()
        .filter(|name| !readme.contains(&format!("`{name}`")))
        .collect();
    none("options that the README lacks", &wrong);
}

/// The variables of the option table, from its source.
fn option_names() -> Vec<String> {
    let text = read("src/config/options.rs");
    let table = text.split("pub const OPTIONS").nth(1).unwrap();
    let table = table.split("];").next().unwrap();
    let names: Vec<String> = table
        .split("opt(")
        .skip(1)
        .map(|call| call.split('"').nth(1).unwrap().to_owned())
        .collect();
    assert!(names.len() > 20, "{names:?}");
    names
}

#[test]
fn every_endpoint_is_in_the_api_document_and_the_reverse() {
    let source = read("src/api/routes.rs");
    let routes: BTreeSet<String> = source
        .lines()
        .filter_map(|line| {
            // `small(route(...))` and the like.
            let (before, rest) = line.trim_start().split_once("route(")?;
            (before.is_empty() || before.ends_with(['(', ' ']) && before.contains('('))
                .then_some(rest)
        })
        .filter_map(|rest| {
            let mut parts = rest.splitn(3, ',');
            let method = parts.next()?.trim().to_uppercase();
            Some(format!(
                "{method} {}",
                parts.next()?.trim().trim_matches('"')
            ))
        })
        .collect();
    assert!(routes.len() >= 20, "{routes:?}");
    let document = read("docs/api.md");
    let documented: BTreeSet<String> = document
        .lines()
        .filter_map(|line| line.strip_prefix("### `"))
        .map(|rest| rest.split('`').next().unwrap().to_owned())
        .collect();
    assert_eq!(
        documented, routes,
        "docs/api.md has a heading ### `METHOD PATH` for each endpoint"
    );
}

#[test]
fn every_thread_is_in_the_architecture_document() {
    let document = read("docs/architecture.md");
    let mut wrong = Vec::new();
    for (path, text) in sources("src") {
        if is_test_file(&path) {
            continue;
        }
        for call in without_tests(&text).split("threads::spawn(\"").skip(1) {
            let name = call.split('"').next().unwrap();
            if !document.contains(&format!("`{name}`")) {
                wrong.push(format!("{path}: {name}"));
            }
        }
    }
    none("threads", &wrong);
}

#[test]
fn documents_stay_within_their_limits_and_the_version_has_a_heading() {
    for (path, most) in [("README.md", 300), ("docs/architecture.md", 280)] {
        let lines = read(path).lines().count();
        assert!(lines <= most, "{path} has {lines} lines");
    }
    let heading = format!("## {}", env!("CARGO_PKG_VERSION"));
    assert!(read("CHANGELOG.md").contains(&heading), "{heading}");
}

#[test]
fn the_vendored_crate_says_what_was_changed() {
    assert!(
        Path::new(&root())
            .join("vendor/tiny_http/PATCHES.md")
            .is_file()
    );
}
