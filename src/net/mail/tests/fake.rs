//! A scripted SMTP server.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use crate::base::threads;

/// More than any test takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What the server does on one connection.
#[derive(Clone, Copy)]
pub enum Script {
    Take,
    /// Offers STARTTLS and does as `Take` when nobody asks for it.
    TakeWithTls,
    AnswerRcpt(&'static str),
    AnswerData(&'static str),
    /// Says nothing at all until the other side goes away.
    Silent,
}

/// What one connection brought.
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

pub struct Fake {
    pub port: u16,
    pub accepted: mpsc::Receiver<()>,
    sessions: mpsc::Receiver<Session>,
}

impl Fake {
    /// One connection for each script, one after the other.
    pub fn start(scripts: &[Script]) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (accepts, accepted) = mpsc::channel();
        let (sender, sessions) = mpsc::channel();
        let scripts = scripts.to_vec();
        // Not joined: it ends with its last connection, and nothing waits for it.
        drop(threads::spawn("fake-smtp", move || {
            for script in scripts {
                let (stream, _) = listener.accept().unwrap();
                // A test that is over does not listen any more.
                let _ = accepts.send(());
                let _ = sender.send(serve(&stream, script));
            }
        }));
        Fake {
            port,
            accepted,
            sessions,
        }
    }

    #[track_caller]
    pub fn session(&self) -> Session {
        self.sessions.recv_timeout(PATIENCE).unwrap()
    }
}

fn serve(stream: &TcpStream, script: Script) -> Session {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut lines = BufReader::new(stream);
    let mut session = Session::default();
    let say = |text: &str| {
        // The other side may be gone already; the test sees it by what is missing.
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
            "EHLO" if matches!(script, Script::TakeWithTls) => "250-fake\r\n250 STARTTLS",
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

/// Everything up to the lone dot, stuffed dots taken off.
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
