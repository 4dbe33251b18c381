//! A real S3 server for tests: the crate `tests/s3-server`, built when it is first needed.
//!
//! This file is part of two programs, the tests of `tests/it` and those inside the product
//! (`src/store/files/s3/tests/mod.rs`), and so needs nothing but the standard library.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

pub const ACCESS_KEY: &str = "test-access-key";
pub const SECRET_KEY: &str = "test-secret-key";
pub const REGION: &str = "us-east-1";
/// The one bucket that is there.
pub const BUCKET: &str = "files";
/// The host to which virtual-host style adds the name of the bucket. No resolver knows it.
pub const DOMAIN: &str = "s3.test";

/// A server on a directory of its own; both end in `Drop`.
pub struct S3Server {
    child: Child,
    addr: SocketAddr,
    dir: PathBuf,
}

impl S3Server {
    /// A server that verifies checksums.
    pub fn start() -> S3Server {
        S3Server::with(&[])
    }

    /// A server from before there were checksums.
    pub fn start_plain() -> S3Server {
        S3Server::with(&["plain"])
    }

    fn with(more: &[&str]) -> S3Server {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("s3-{}-{count}", std::process::id());
        let dir = target_dir().join("tmp").join(name);
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join(BUCKET)).unwrap();
        let mut child = Command::new(binary())
            .arg(&dir)
            .args([ACCESS_KEY, SECRET_KEY, DOMAIN])
            .args(more)
            // It ends when this pipe closes, even if the test was killed.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let addr = line.trim().parse().unwrap();
        S3Server { child, addr, dir }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The value of `S3_ENDPOINT` with path style.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Where the files of the bucket are: each key is a path below.
    pub fn bucket_dir(&self) -> PathBuf {
        self.dir.join(BUCKET)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// The target directory of the running test: it is `TARGET/PROFILE/deps/TEST`.
fn target_dir() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(3).unwrap().to_owned()
}

/// The built server. Test processes that build it at the same time wait for each other: cargo locks
/// the directory.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/s3-server/Cargo.toml");
        let target = target_dir().join("s3-server");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["build", "--locked", "--manifest-path"])
            .arg(manifest)
            .arg("--target-dir")
            .arg(&target)
            .env_remove("CARGO_BUILD_TARGET")
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tests/s3-server: {log}");
        target.join("debug").join("s3-server")
    })
}
