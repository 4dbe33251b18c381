//! The files of the dashboard: addresses, caching, policy, sizes, and the libraries beside their hashes.
//! `scripts/ui-check.sh` tests the screens in a browser.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::support::api::{Api, Reply};
use crate::support::server::Server;

/// Bytes of all files, and of those that the first screen loads, as they are sent.
const ALL_BYTES_MAX: usize = 350 << 10;
const FIRST_SCREEN_BYTES_MAX: usize = 60 << 10;

fn body(reply: &Reply) -> String {
    String::from_utf8(reply.body.clone()).unwrap()
}

fn page(api: &Api) -> String {
    body(&api.get("/_/").expect(200))
}

fn hex(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The address of each file that the page names.
fn addresses(page: &str) -> Vec<String> {
    let parts = page.split('"').filter(|part| part.starts_with("/_/"));
    parts.map(str::to_owned).collect()
}

#[test]
fn the_page_is_never_cached_and_its_files_are_for_ever() {
    let server = Server::start();
    let api = server.api();
    for path in ["/_/", "/_/records/posts", "/_/collections/a?tab=rules"] {
        let page = api.get(path).expect(200);
        assert_eq!(page.header("Cache-Control"), Some("no-cache"), "{path}");
        assert_eq!(page.header("X-Frame-Options"), Some("DENY"));
        let policy = page.header("Content-Security-Policy").unwrap();
        assert!(
            policy.starts_with("default-src 'self';") && !policy.contains("unsafe"),
            "{policy}"
        );
    }
    let page = page(&api);
    let files = addresses(&page);
    assert!(files.len() > 4, "{page}");
    for path in files {
        let file = api.get(&path).expect(200);
        assert!(
            file.header("Cache-Control").unwrap().contains("immutable"),
            "{path}"
        );
        let tag = file.header("ETag").unwrap().to_owned();
        api.with_header("If-None-Match", &tag)
            .get(&path)
            .expect(304);
    }
}

#[test]
fn a_file_of_another_version_or_outside_the_dashboard_is_not_found() {
    let server = Server::start();
    let api = server.api();
    let page = page(&api);
    let file = &addresses(&page)[0];
    let revision = file.split('/').nth(2).unwrap();
    let other = file.replace(revision, "0123456789abcdef");
    assert!(
        api.get(&other)
            .expect(404)
            .text("/message")
            .contains("reload the page")
    );
    for path in [
        "ui/app/none.js",
        "../Cargo.toml",
        "..%2fCargo.toml",
        "ui/README.md",
        "",
    ] {
        api.get(&format!("/_/{revision}/{path}")).expect(404);
    }
}

#[test]
fn a_browser_at_the_root_is_led_to_the_dashboard_and_a_program_is_not() {
    let server = Server::start();
    let api = server.api();
    let browser = api.with_header("Accept", "text/html,application/xhtml+xml");
    assert_eq!(browser.get("/").expect(302).header("Location"), Some("/_/"));
    assert_eq!(
        api.get("/installer").expect(302).header("Location"),
        Some("/_/")
    );
    assert!(body(&api.get("/").expect(200)).contains("vski is running"));
}

#[test]
fn the_dashboard_can_be_switched_off() {
    let server = Server::with(&[("DASHBOARD", "off")]);
    let api = server.api();
    api.with_header("Accept", "text/html").get("/").expect(200);
    for path in ["/_/", "/_/records/posts", "/installer"] {
        api.get(path).expect(404);
    }
}

#[test]
fn the_files_stay_small() {
    let server = Server::start();
    let api = server.api();
    let page = page(&api);
    let revision = addresses(&page)[0].split('/').nth(2).unwrap().to_owned();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let length = |path: &str| {
        let gzip = api.with_header("Accept-Encoding", "gzip");
        let answer = gzip.get(&format!("/_/{revision}/{path}")).expect(200);
        assert_eq!(answer.header("Content-Encoding"), Some("gzip"), "{path}");
        answer.body.len()
    };
    let mut all = BTreeSet::new();
    collect(&root.join("ui"), root, &mut all);
    let total: usize = all.iter().map(|path| length(path)).sum();
    assert!(total <= ALL_BYTES_MAX, "{total}");
    let mut first = BTreeSet::new();
    let entry = addresses(&page).into_iter();
    for path in entry.filter_map(|path| {
        path.strip_prefix(&format!("/_/{revision}/"))
            .map(str::to_owned)
    }) {
        follow(&path, root, &mut first);
    }
    let loaded: usize = first.iter().map(|path| length(path)).sum();
    assert!(
        loaded <= FIRST_SCREEN_BYTES_MAX,
        "{loaded} bytes in {first:?}"
    );
}

/// The files of a folder that are served.
fn collect(folder: &Path, root: &Path, files: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, root, files);
        } else if path.parent() != Some(&root.join("ui"))
            && ["js", "css", "svg"]
                .contains(&path.extension().unwrap_or_default().to_str().unwrap())
        {
            files.insert(
                path.strip_prefix(root)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned(),
            );
        }
    }
}

/// A module and everything that it imports at once.
fn follow(path: &str, root: &Path, seen: &mut BTreeSet<String>) {
    if !seen.insert(path.to_owned()) || !path.ends_with(".js") {
        return;
    }
    let text = fs::read_to_string(root.join(path)).unwrap();
    let imports = text
        .lines()
        .filter(|line| line.starts_with("import") || path.starts_with("ui/vendor"));
    for part in imports.flat_map(|line| line.split("from").skip(1)) {
        let quoted = part.trim_start().strip_prefix(['\'', '"']);
        let name = quoted.and_then(|quoted| quoted.split(['\'', '"']).next());
        if let Some(name) = name.filter(|name| name.starts_with('.')) {
            let folder = Path::new(path).parent().unwrap();
            follow(&normal(&folder.join(name)), root, seen);
        }
    }
}

fn normal(path: &Path) -> String {
    let mut parts = Vec::new();
    for part in path.iter().map(|part| part.to_str().unwrap()) {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[test]
fn the_libraries_are_the_ones_that_were_pinned() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("ui/vendor");
    let sums = fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
    let mut named = BTreeSet::new();
    for line in sums.lines() {
        let (sum, name) = line.split_once("  ").unwrap();
        let bytes = fs::read(folder.join(name)).unwrap();
        assert_eq!(hex(&bytes), sum, "{name}");
        assert!(
            bytes.starts_with(b"/*!"),
            "{name} has no licence at its top"
        );
        named.insert(name.to_owned());
    }
    for entry in fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name == "SHA256SUMS" || named.contains(&name), "{name}");
    }
}
