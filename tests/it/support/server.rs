//! A running server: the built binary on a directory of its own.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use super::api::Api;
use super::{Dir, wait_until};

/// The binary under test.
pub const VSKI: &str = env!("CARGO_BIN_EXE_vski");

/// A server; ended in `Drop`. Its log is printed when the test fails.
pub struct Server {
    child: Child,
    addr: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
    dir: Arc<Dir>,
    settings: Vec<(String, String)>,
}

impl Server {
    /// A server with defaults.
    pub fn start() -> Server {
        Server::with(&[])
    }

    /// A server with these environment variables.
    pub fn with(settings: &[(&str, &str)]) -> Server {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Server::spawn(Arc::new(Dir::new()), settings.iter().map(owned).collect())
    }

    /// A server on the same directory with the same settings, after this one has ended.
    pub fn restart(self) -> Server {
        let (dir, settings) = (Arc::clone(&self.dir), self.settings.clone());
        drop(self);
        Server::spawn(dir, settings)
    }

    /// The same with one setting changed or added.
    pub fn restart_with(mut self, name: &str, value: &str) -> Server {
        self.settings.retain(|(other, _)| other != name);
        self.settings.push((name.to_owned(), value.to_owned()));
        self.restart()
    }

    /// Ends it in the orderly way, if it has not ended yet; what is left to start another on.
    pub fn into_parts(mut self) -> (Arc<Dir>, Vec<(String, String)>) {
        if self.child.try_wait().unwrap().is_none() {
            self.signal("TERM");
            self.wait();
        }
        (Arc::clone(&self.dir), self.settings.clone())
    }

    /// Starts another on what is left of one that has ended.
    pub fn from_parts((dir, settings): (Arc<Dir>, Vec<(String, String)>)) -> Server {
        Server::spawn(dir, settings)
    }

    fn spawn(dir: Arc<Dir>, settings: Vec<(String, String)>) -> Server {
        let mut command = command(dir.path());
        command
            .arg("serve")
            .env("PORT", "0")
            .envs(settings.iter().cloned());
        Server::from_command(command, dir, settings)
    }

    /// Starts a command that ends up as `vski serve` on `dir`.
    pub fn from_command(
        mut command: Command,
        dir: Arc<Dir>,
        settings: Vec<(String, String)>,
    ) -> Server {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let lines = Arc::clone(&log);
        gather(stderr, lines);
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let addr = line
            .split("http://")
            .nth(1)
            .and_then(|rest| rest.split(',').next());
        let Some(addr) = addr.and_then(|addr| addr.parse().ok()) else {
            let _ = child.wait();
            panic!(
                "no ready line but {line:?}; log: {:#?}",
                log.lock().unwrap()
            );
        };
        Server {
            child,
            addr,
            log,
            dir,
            settings,
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Requests without credentials.
    pub fn api(&self) -> Api {
        Api::new(self.addr)
    }

    /// Requests of the first admin, who is made when there is none yet.
    pub fn admin(&self) -> Api {
        let api = self.api();
        let body = r#"{"email":"admin@example.com","password":"password-1"}"#;
        let reply = api.post("/api/admins/init", body);
        let reply = match reply.status {
            200 => reply,
            _ => api.post("/api/admins/login", body).expect(200),
        };
        api.with_token(reply.text("/token"))
    }

    /// All log lines so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Kilobytes of memory in use, by the name of the line in /proc (`VmRSS`, `VmHWM`).
    pub fn memory_kb(&self, name: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args(["-s", name, &self.pid().to_string()])
            .status();
        assert!(status.unwrap().success());
    }

    /// Ends it at once, as a power cut would (but for the system's cache).
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("the server ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Stops it in the orderly way.
    pub fn stop(mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self
                .log
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let from = log.len().saturating_sub(50);
            let mut stderr = std::io::stderr().lock();
            let _ = writeln!(
                stderr,
                "data: {}\n{}",
                self.dir.path().display(),
                log[from..].join("\n")
            );
        }
    }
}

/// `vski` with an environment of its own and the data directory given.
pub fn command(dir: &Path) -> Command {
    let mut command = Command::new(VSKI);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("DATA_DIR", dir.join("data"));
    command
}

#[expect(clippy::disallowed_methods, reason = "tests have no Stop to share")]
fn gather(stderr: impl std::io::Read + Send + 'static, lines: Arc<Mutex<Vec<String>>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines() {
            let Ok(line) = line else { return };
            lines
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .push(line);
        }
    });
}
