//! Compresses the files of the dashboard and the JavaScript client into the program.
//!
//! Writes into `OUT_DIR`: `assets.rs` with `ASSETS`, sorted by path, and `REVISION`, a digest of all
//! files, which is part of their addresses, so that browsers can keep them for ever; and `sdk.rs`
//! with `SDK`, the client as one module, and its digest `SDK_REVISION`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use flate2::Compression;
use flate2::write::GzEncoder;

#[path = "../sdk/js/join.rs"]
mod join;

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// The folders whose files are served.
const FOLDERS: [&str; 5] = ["ui/app", "ui/parts", "ui/screens", "ui/style", "ui/vendor"];

fn main() -> io::Result<()> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?);
    let out = PathBuf::from(env::var("OUT_DIR").map_err(io::Error::other)?);
    let mut files = BTreeMap::new();
    for folder in FOLDERS {
        println!("cargo::rerun-if-changed={folder}");
        collect(&root, &root.join(folder), &mut files)?;
    }
    println!("cargo::rerun-if-changed=ui/index.html");
    let revision = digest(&files);
    let page = fs::read_to_string(root.join("ui/index.html"))?.replace("REVISION", &revision);
    files.insert("index.html".to_owned(), page.into_bytes());
    let mut code = format!("const REVISION: &str = \"{revision}\";\n");
    let _ = writeln!(code, "const ASSETS: [Asset; {}] = [", files.len());
    for (number, (path, bytes)) in files.iter().enumerate() {
        let Some(media_type) = media_type(path) else {
            continue;
        };
        let asset = asset(&out, &format!("{number}.gz"), path, media_type, bytes)?;
        let _ = writeln!(code, "    {asset},");
    }
    code.push_str("];\n");
    fs::write(out.join("assets.rs"), code)?;
    write_sdk(&root, &out)
}

fn write_sdk(root: &Path, out: &Path) -> io::Result<()> {
    let folder = root.join("sdk/js/src");
    println!("cargo::rerun-if-changed=sdk/js/src");
    let module = join::join(&folder)?.into_bytes();
    let asset = asset(out, "sdk.gz", "sdk.js", JAVASCRIPT, &module)?;
    let revision = digest(&BTreeMap::from([("sdk.js".to_owned(), module)]));
    let code = format!("const SDK: Asset = {asset};\nconst SDK_REVISION: &str = \"{revision}\";\n");
    fs::write(out.join("sdk.rs"), code)
}

/// Compresses a file to `name` in `out`. Returns the expression of its `Asset`.
fn asset(out: &Path, name: &str, path: &str, media_type: &str, bytes: &[u8]) -> io::Result<String> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    fs::write(out.join(name), encoder.finish()?)?;
    Ok(format!(
        "Asset {{ path: {path:?}, media_type: {media_type:?}, gzip: \
         include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}\")) }}"
    ))
}

/// Adds the files of a folder and its subfolders that have a media type.
fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<String, Vec<u8>>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            collect(root, &path, files)?;
            continue;
        }
        let name = path.strip_prefix(root).map_err(io::Error::other)?;
        let name = name.to_string_lossy().into_owned();
        if media_type(&name).is_some() {
            files.insert(name, fs::read(&path)?);
        }
    }
    Ok(())
}

fn media_type(path: &str) -> Option<&'static str> {
    match path.rsplit_once('.')?.1 {
        "html" => Some("text/html; charset=utf-8"),
        "js" => Some(JAVASCRIPT),
        "css" => Some("text/css; charset=utf-8"),
        "svg" => Some("image/svg+xml"),
        _ => None,
    }
}

/// FNV-1a over paths and contents, 64 bits: it tells versions apart and protects nothing.
fn digest(files: &BTreeMap<String, Vec<u8>>) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for (path, bytes) in files {
        for byte in path.bytes().chain([0]).chain(bytes.iter().copied()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    format!("{hash:016x}")
}
