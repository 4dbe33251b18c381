//! A connection to a server through something that can fail: cut, flip bits, hold back.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::pause;

/// The fault that the proxy applies to bytes of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// The next answer ends after so many bytes, once.
    Cut(usize),
    /// Every answer ends after so many bytes.
    CutAlways(usize),
    /// This byte of the next answer has a flipped bit, once.
    Flip(usize),
    /// The next answer stalls so many bytes after its head, once.
    Stall(usize),
    /// A few bytes at a time.
    Trickle,
    /// Connections are closed at once.
    Refuse,
}

struct Shared {
    /// Port of the server.
    to: u16,
    fault: Fault,
    /// Only answers longer than this meet it, so that short ones get through.
    longer_than: usize,
    /// The number of times the fault was applied.
    struck: usize,
}

/// Listens on a port of its own.
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

impl Proxy {
    /// Passes everything on to the server on this port.
    #[expect(clippy::disallowed_methods, reason = "tests have no Stop to share")]
    pub fn start(to: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Mutex::new(Shared {
            to,
            fault: Fault::None,
            longer_than: 0,
            struck: 0,
        }));
        let accepted = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&accepted);
                std::thread::spawn(move || serve(client, &shared));
            }
        });
        Proxy { addr, shared }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// From now on.
    pub fn set(&self, fault: Fault, longer_than: usize) {
        let mut shared = self.shared.lock().unwrap();
        (shared.fault, shared.longer_than) = (fault, longer_than);
    }

    /// The number of faults so far.
    pub fn struck(&self) -> usize {
        self.shared.lock().unwrap().struck
    }
}

#[expect(clippy::disallowed_methods, reason = "tests have no Stop to share")]
fn serve(client: TcpStream, shared: &Arc<Mutex<Shared>>) {
    let (to, fault) = {
        let shared = shared.lock().unwrap();
        (shared.to, shared.fault)
    };
    if fault == Fault::Refuse {
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else {
        return;
    };
    let (mut from, mut into) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        while let Ok(length) = from.read(&mut buffer) {
            if length == 0 || into.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = into.shutdown(std::net::Shutdown::Write);
    });
    answer(&client, server, shared);
    let _ = client.shutdown(std::net::Shutdown::Both);
}

/// Passes answers on. One that follows on a pause of the server is a new one.
fn answer(mut client: &TcpStream, mut server: TcpStream, shared: &Mutex<Shared>) {
    let mut buffer = vec![0; 256 << 10];
    loop {
        let Ok(length @ 1..) = server.read(&mut buffer) else {
            return;
        };
        let bytes = &mut buffer[..length];
        let fault = {
            let mut shared = shared.lock().unwrap();
            let fault = match length > shared.longer_than {
                true => shared.fault,
                false => Fault::None,
            };
            if fault != Fault::None {
                shared.struck += 1;
            }
            if matches!(fault, Fault::Cut(_) | Fault::Flip(_) | Fault::Stall(_)) {
                shared.fault = Fault::None;
            }
            fault
        };
        let sent = match fault {
            Fault::None => client.write_all(bytes),
            Fault::Cut(at) | Fault::CutAlways(at) => {
                let _ = client.write_all(&bytes[..at.min(length)]);
                return;
            }
            Fault::Flip(at) => {
                bytes[at % length] ^= 1 << (at % 8);
                client.write_all(bytes)
            }
            Fault::Stall(at) => {
                // Without its head an answer has not begun, and may take the master minutes.
                let head = bytes.windows(4).position(|it| it == b"\r\n\r\n");
                let at = head.map_or(0, |it| it + 4) + at;
                let _ = client.write_all(&bytes[..at.min(length)]);
                pause(Duration::from_secs(60));
                return;
            }
            Fault::Trickle => bytes.chunks(100).try_for_each(|piece| {
                pause(Duration::from_millis(1));
                client.write_all(piece)
            }),
            Fault::Refuse => return,
        };
        if sent.is_err() {
            return;
        }
    }
}
