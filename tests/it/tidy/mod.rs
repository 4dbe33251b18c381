//! Rules about the source itself, so that nobody has to remember them.

mod paths;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use paths::{Graph, Module};

/// The storeys of `docs/architecture.md`, from the ground up. A file uses its own folder and lower storeys.
const STOREYS: [&[&str]; 8] = [
    &["base"],
    &["store", "net"],
    &["model"],
    &["services"],
    &["config"],
    &["app"],
    &["api"],
    &["server", "cli", "main"],
];

/// Outside crates and the only places that may name them.
const CRATES: [(&str, &[&str]); 29] = [
    ("bcrypt", &["src/model/auth/password.rs"]),
    ("httpdate", &["src/base/clock.rs"]),
    ("percent_encoding", &["src/net/http/query.rs"]),
    ("ring", &["src/base/jws.rs", "src/base/tls.rs"]),
    (
        "url",
        &[
            "src/model/triggers/http_call.rs",
            "src/model/providers/urls.rs",
        ],
    ),
    ("data_encoding", &["src/base/ids.rs"]),
    ("tiny_http", &["src/net/http/server.rs"]),
    ("threadpool", &["src/net/http/server.rs"]),
    (
        "flate2",
        &[
            "src/net/http/gzip.rs",
            "src/base/zip/read.rs",
            "src/base/zip/write.rs",
        ],
    ),
    (
        "memchr",
        &[
            "src/net/http/multipart.rs",
            "src/model/records/query/like.rs",
        ],
    ),
    ("infer", &["src/store/files/media.rs"]),
    ("mime_guess", &["src/store/files/media.rs"]),
    ("rusty_s3", &["src/store/files/s3/client.rs"]),
    (
        "jiff",
        &["src/services/cron/zone.rs", "src/store/files/s3/client.rs"],
    ),
    (
        "ureq",
        &[
            "src/store/files/s3/client.rs",
            "src/store/files/s3/tests/mod.rs",
            "src/services/replication/client.rs",
            "src/base/http_client.rs",
            "src/base/tls.rs",
            "src/services/webhooks/send.rs",
            "src/services/oauth/fetch.rs",
        ],
    ),
    ("rustls", &["src/base/tls.rs"]),
    (
        "xxhash_rust",
        &["src/store/db/pages.rs", "src/model/records/version.rs"],
    ),
    ("lz4_flex", &["src/services/replication/wire.rs"]),
    (
        "lettre",
        &[
            "src/net/mail/mod.rs",
            "src/net/mail/message.rs",
            "src/net/mail/queue.rs",
            "src/net/mail/relay.rs",
        ],
    ),
    (
        "tungstenite",
        &[
            "src/net/sockets/conn.rs",
            "src/net/sockets/transport.rs",
            "src/net/sockets/tests/mod.rs",
            "src/net/sockets/tests/load.rs",
            "src/services/replication/notifications.rs",
        ],
    ),
    ("getopts", &["src/cli/arguments.rs"]),
    ("signal_hook", &["src/server.rs"]),
    ("sha2", &["src/base/crypto.rs"]),
    ("hmac", &["src/base/crypto.rs"]),
    ("base64", &["src/base/crypto.rs"]),
    ("argon2", &["src/model/auth/password.rs"]),
    ("uuid", &["src/base/ids.rs"]),
    ("getrandom", &["src/base/ids.rs"]),
    (
        "regex_lite",
        &[
            "src/model/collections/field.rs",
            "src/model/collections/field_kind.rs",
            "src/model/collections/pattern.rs",
        ],
    ),
];

/// Where SQL may live.
const SQL_PLACES: [&str; 19] = [
    "src/services/import/",
    "src/services/cron/",
    "src/services/replication/positions.rs",
    "src/tests/",
    "src/store/db/",
    "src/model/collections/",
    "src/model/records/",
    "src/model/auth/admins.rs",
    "src/model/auth/keys.rs",
    "src/base/error.rs",
    "src/store/files/",
    "src/store/node.rs",
    "src/store/replicas.rs",
    "src/services/stats/",
    "src/model/events.rs",
    "src/model/triggers/changes.rs",
    "src/model/triggers/outbox.rs",
    "src/services/webhooks/",
    "src/services/workflows/",
];

const LINES_MAX: usize = 600;
const COMMENT_COLUMNS_MAX: usize = 100;

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
                && path != "tests/it/tidy/mod.rs"
            {
                wrong.push(format!("{path}:{}: a mark of unfinished work", at + 1));
            }
        }
    }
    none("files", &wrong);
}

/// The modules of `src` and what they use.
fn graph() -> Graph {
    let graph = Graph::new(&sources("src"));
    assert!(graph.uses.len() > 200, "{}", graph.uses.len());
    graph
}

/// Words that a reader would have to translate, and doc comments that ask instead of saying.
#[test]
fn the_language_is_plain() {
    const WORDS: [&str; 5] = ["nobody", "somebody", "whoever", "whom", "anew"];
    const OPENINGS: [&str; 5] = ["What ", "Who ", "Whether ", "Whoever ", "How "];
    let mut texts = sources("src");
    for path in ["README.md", "CONTRIBUTING.md"] {
        texts.push((path.to_owned(), read(path)));
    }
    for entry in std::fs::read_dir(root().join("docs")).unwrap() {
        let path = format!("docs/{}", entry.unwrap().file_name().to_str().unwrap());
        // Beside the documents are folders of their pictures.
        if path.ends_with(".md") {
            texts.push((path.clone(), read(&path)));
        }
    }
    let mut wrong = Vec::new();
    for (path, text) in texts {
        for (at, line) in text.lines().enumerate() {
            let lower = line.to_lowercase();
            let mut words = lower.split(|it: char| !it.is_alphanumeric());
            // A word in quotes is an example.
            let found =
                words.find(|it| WORDS.contains(it) && !lower.contains(&format!("\"{it}\"")));
            let comment = line.trim_start();
            let opening = comment
                .strip_prefix("/// ")
                .or(comment.strip_prefix("//! "));
            let opens = opening.and_then(|it| OPENINGS.iter().find(|word| it.starts_with(**word)));
            let is_long = comment.starts_with("//") && line.chars().count() > COMMENT_COLUMNS_MAX;
            if found.is_some() || opens.is_some() || is_long {
                wrong.push(format!("{path}:{}: {comment}", at + 1));
            }
        }
    }
    none("not plain, or a comment of more than 100 columns", &wrong);
}

/// The folder directly below `src`, and its storey; of `src/main.rs` "main".
fn storey(module: &Module) -> (&str, usize) {
    let folder = module.first().map_or("main", String::as_str);
    let storey = STOREYS.iter().position(|folders| folders.contains(&folder));
    let storey = storey.unwrap_or_else(|| {
        panic!("src/{folder} is in no storey: add it to STOREYS and docs/architecture.md")
    });
    (folder, storey)
}

#[test]
fn paths_point_downwards() {
    let mut wrong = Vec::new();
    let top = STOREYS.len() - 1;
    for (module, used) in graph().uses {
        for other in used {
            let ((folder, own), (lower, below)) = (storey(&module), storey(&other));
            let is_peer = own == below && folder != lower && own < top;
            let is_http = other.starts_with(&["net".to_owned(), "http".to_owned()]);
            let knows_http = is_http && ["store", "model", "services"].contains(&folder);
            if below > own || is_peer || knows_http {
                wrong.push(format!("{} uses {}", module.join("/"), other.join("/")));
            }
        }
    }
    none("paths against the storeys", &wrong);
}

#[test]
fn files_use_each_other_in_no_circle() {
    let graph = graph();
    let circles = graph.circles();
    let circles: Vec<String> = circles
        .iter()
        .map(|circle| {
            let names: Vec<String> = circle.iter().map(|it| it.join("/")).collect();
            names.join(", ")
        })
        .collect();
    none("circles", &circles);
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

/// True if the code names the crate; `String::` does not name `ring`.
fn names_crate(code: &str, name: &str) -> bool {
    let wanted = format!("{name}::");
    let mut places = code.match_indices(&wanted);
    places.any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
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
            if names_crate(&code, name) && !places.contains(&path.as_str()) {
                wrong.push(format!("{path} names {name}"));
            }
        }
        let has_sql = code.contains("rusqlite::");
        if has_sql && !SQL_PLACES.iter().any(|place| path.starts_with(place)) {
            wrong.push(format!("{path} names rusqlite"));
        }
        if code.contains("::*;") && !is_test_file(&path) {
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
        "bcrypt",
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
        "httpdate",
        "percent-encoding",
        "url",
        "data-encoding",
        "rusty-s3",
        "jiff",
        "ureq",
        "rustls",
        "ring",
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
