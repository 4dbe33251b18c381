//! A scripted SMTP server.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use crate::base::threads;

/// Longer than any test needs on a busy machine.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// The behaviour of the server on one connection.
#[derive(Clone, Copy)]
pub enum Script {
    Accept,
    /// Offers STARTTLS, and behaves as `Accept` if the client does not use it.
    AcceptWithTls,
    AnswerRcpt(&'static str),
    AnswerData(&'static str),
    /// Sends nothing until the client disconnects.
    Silent,
}

/// The commands and data of one connection.
#[derive(Debug, Default)]
pub struct Session {
    pub commands: Vec<String>,
    pub data: String,
}

impl Session {
    pub fn has(&self, start: &str) -> bool {
        self.commands.iter().any(|line| line.starts_with(start))
    }

    /// The value of a header, folded lines joined.
    pub fn header(&self, name: &str) -> String {
        let head = self.data.split("\r\n\r\n").next().unwrap();
        let head = head.replace("\r\n ", " ");
        let start = format!("{name}: ");
        let found: Vec<&str> = head
            .split("\r\n")
            .filter_map(|line| line.strip_prefix(&start))
            .collect();
        assert_eq!(found.len(), 1, "{name}: {}", self.data);
        found[0].to_owned()
    }
}

pub struct FakeServer {
    pub port: u16,
    pub accepted: mpsc::Receiver<()>,
    sessions: mpsc::Receiver<Session>,
}

impl FakeServer {
    /// Accepts one connection per script, one after another.
    pub fn start(scripts: &[Script]) -> FakeServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (accepts, accepted) = mpsc::channel();
        let (sender, sessions) = mpsc::channel();
        let scripts = scripts.to_vec();
        // Not joined: the thread ends with its last connection.
        drop(threads::spawn("fake-smtp", move || {
            for script in scripts {
                let (stream, _) = listener.accept().unwrap();
                // A test that has ended no longer receives.
                let _ = accepts.send(());
                let _ = sender.send(serve(&stream, script));
            }
        }));
        FakeServer {
            port,
            accepted,
            sessions,
        }
    }

    #[track_caller]
    pub fn session(&self) -> Session {
        self.sessions.recv_timeout(TIMEOUT).unwrap()
    }
}

fn serve(stream: &TcpStream, script: Script) -> Session {
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut lines = BufReader::new(stream);
    let mut session = Session::default();
    let say = |text: &str| {
        // The client may have disconnected; the test then misses the answer.
        let _ = (&mut &*stream).write_all(format!("{text}\r\n").as_bytes());
    };
    if !matches!(script, Script::Silent) {
        say("220 fake");
    }
    loop {
        let mut line = String::new();
        if !matches!(lines.read_line(&mut line), Ok(1..)) {
            return session;
        }
        let command = line.trim_end().to_owned();
        let answer = match command.split(' ').next().unwrap() {
            _ if matches!(script, Script::Silent) => continue,
            "EHLO" if matches!(script, Script::AcceptWithTls) => "250-fake\r\n250 STARTTLS",
            "EHLO" => "250-fake\r\n250-AUTH PLAIN\r\n250-SMTPUTF8\r\n250 8BITMIME",
            "RCPT" => match script {
                Script::AnswerRcpt(answer) => answer,
                _ => "250 ok",
            },
            "DATA" => {
                say("354 go on");
                session.data = read_data(&mut lines);
                match script {
                    Script::AnswerData(answer) => answer,
                    _ => "250 taken",
                }
            }
            "AUTH" => "235 welcome",
            "QUIT" => "221 bye",
            _ => "250 ok",
        };
        session.commands.push(command);
        say(answer);
    }
}

/// Reads up to the final dot and removes dot-stuffing.
fn read_data(lines: &mut BufReader<&TcpStream>) -> String {
    let mut data = String::new();
    let mut line = String::new();
    while lines.read_line(&mut line).unwrap() > 0 && line != ".\r\n" {
        assert!(line.ends_with("\r\n"), "a bare line feed: {line:?}");
        data.push_str(line.strip_prefix('.').unwrap_or(&line));
        line.clear();
    }
    data
}
