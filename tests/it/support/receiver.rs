//! A receiver of webhooks: records the calls, and answers as the test says.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::wait_until;

/// A request that came.
#[derive(Clone, Debug)]
pub struct Received {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
    pub at: Instant,
}

impl Received {
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        match self.find(name) {
            Some(value) => value,
            None => panic!("no header {name} in {self:?}"),
        }
    }

    pub fn find(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// The answer to a request, given the number of earlier ones: a status line with header lines, or
/// nothing ever.
pub type Answer = fn(&Received, usize) -> Option<String>;

pub struct Receiver {
    addr: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Receiver {
    /// One that is content with everything.
    pub fn content() -> Receiver {
        Receiver::start(|_, _| Some("200 OK".to_owned()))
    }

    #[expect(clippy::disallowed_methods, reason = "tests have no Stop to share")]
    pub fn start(answer: Answer) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let receiver = Receiver {
            addr: listener.local_addr().unwrap(),
            received: Arc::default(),
        };
        let received = Arc::clone(&receiver.received);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let received = Arc::clone(&received);
                std::thread::spawn(move || serve(stream, &received, answer));
            }
        });
        receiver
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    pub fn received(&self) -> Vec<Received> {
        let received = self.received.lock();
        received.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until so many have come.
    #[track_caller]
    pub fn wait_for(&self, count: usize) -> Vec<Received> {
        wait_until(&format!("{count} calls"), || self.received().len() >= count);
        self.received()
    }
}

fn serve(stream: TcpStream, received: &Mutex<Vec<Received>>, answer: Answer) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    if stream.read_line(&mut line).is_err() || line.is_empty() {
        return;
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.push((name.to_owned(), value.trim().to_owned())),
            None => break,
        }
    }
    let mut request = Received {
        method,
        path,
        headers,
        body: String::new(),
        at: Instant::now(),
    };
    let length = request.find("Content-Length").map(|it| it.parse().unwrap());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).unwrap();
    request.body = String::from_utf8(body).unwrap();
    let before = {
        let mut received = received.lock().unwrap_or_else(PoisonError::into_inner);
        received.push(request.clone());
        received.len() - 1
    };
    match answer(&request, before) {
        Some(head) => {
            let text = "the answer";
            let head = format!(
                "HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{text}",
                text.len()
            );
            let _ = stream.get_mut().write_all(head.as_bytes());
        }
        None => {
            // Until the caller has enough.
            let _ = stream.read(&mut [0; 1]);
        }
    }
}
