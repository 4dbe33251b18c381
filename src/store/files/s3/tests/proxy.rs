//! A proxy in front of a server, with one fault per connection.

use std::collections::VecDeque;
use std::io;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::base::threads;
use crate::base::threads::lock;

/// Longer than any test on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The fault of a connection.
#[derive(Clone, Copy)]
pub enum Fault {
    /// No fault.
    Pass,
    /// This response instead of the server's.
    S3Response(&'static str),
    /// No response until the client disconnects.
    Stall,
    /// The response stalls after this many bytes, until the client disconnects.
    StallAnswer(u64),
    /// The connection ends after this many bytes of the response.
    CutAnswer(u64),
    /// The connection ends after this many bytes of the request.
    CutRequest(u64),
    /// A flipped bit in this byte of the response.
    FlipAnswer(u64),
    /// A flipped bit in this byte of the request.
    FlipRequest(u64),
}

/// The proxy; its threads end with the process.
pub struct Proxy {
    pub addr: SocketAddr,
    connections: Arc<AtomicU32>,
    faults: Arc<Mutex<VecDeque<Fault>>>,
}

impl Proxy {
    /// Faults of the first connections; all further ones have the last fault.
    pub fn start(server: SocketAddr, faults: &[Fault]) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy {
            addr: listener.local_addr().unwrap(),
            connections: Arc::default(),
            faults: Arc::default(),
        };
        proxy.then(faults);
        let (connections, faults) = (Arc::clone(&proxy.connections), Arc::clone(&proxy.faults));
        let accept = move || {
            for client in listener.incoming() {
                connections.fetch_add(1, Ordering::Relaxed);
                let fault = next(&mut lock(&faults));
                let relay = move || relay(client?, server, fault);
                threads::spawn("proxy", relay).unwrap();
            }
        };
        threads::spawn("proxy", accept).unwrap();
        proxy
    }

    /// Replaces the faults, for the connections from now on.
    pub fn then(&self, faults: &[Fault]) {
        *lock(&self.faults) = faults.iter().copied().collect();
        self.connections.store(0, Ordering::Relaxed);
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Number of connections since the faults were set.
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }
}

fn next(faults: &mut VecDeque<Fault>) -> Fault {
    match faults.len() {
        0 | 1 => faults.front().copied().unwrap_or(Fault::Pass),
        _ => faults.pop_front().unwrap(),
    }
}

fn relay(mut client: TcpStream, server: SocketAddr, fault: Fault) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    match fault {
        Fault::S3Response(answer) => {
            receive(&mut client)?;
            client.write_all(answer.as_bytes())?;
            return client.shutdown(Shutdown::Both);
        }
        Fault::Stall => return io::copy(&mut client, &mut io::sink()).map(drop),
        _ => {}
    }
    let server = TcpStream::connect(server)?;
    server.set_read_timeout(Some(PATIENCE))?;
    let (from_client, to_server) = (client.try_clone()?, server.try_clone()?);
    let up = move || {
        let (cut, flip) = match fault {
            Fault::CutRequest(at) => (Some(at), None),
            Fault::FlipRequest(at) => (None, Some(at)),
            _ => (None, None),
        };
        forward(from_client, to_server, cut, flip)
    };
    let up = threads::spawn("proxy", up).unwrap();
    if let Fault::StallAnswer(at) = fault {
        io::copy(&mut server.take(at), &mut client)?;
        return up.join().unwrap();
    }
    let (cut, flip) = match fault {
        Fault::CutAnswer(at) => (Some(at), None),
        Fault::FlipAnswer(at) => (None, Some(at)),
        _ => (None, None),
    };
    let result = forward(server, client, cut, flip);
    let _ = up.join();
    result
}

/// Reads a request, without its body if the client waits for `100 Continue`.
fn receive(client: &mut TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let value = |name: &str| {
        let rest = head.split(name).nth(1)?;
        Some(rest.split("\r\n").next()?.trim().to_owned())
    };
    let length = value("\r\ncontent-length:").map_or(0, |value| value.parse().unwrap());
    if value("\r\nexpect:").is_none() {
        io::copy(&mut client.take(length), &mut io::sink())?;
    }
    Ok(())
}

fn forward(
    mut from: TcpStream,
    mut to: TcpStream,
    cut: Option<u64>,
    flip: Option<u64>,
) -> io::Result<()> {
    let mut buffer = [0; 16 << 10];
    let mut at = 0;
    loop {
        let length = from.read(&mut buffer).unwrap_or(0) as u64;
        let mut kept = length;
        if let Some(cut) = cut {
            kept = kept.min(cut - at);
        }
        if let Some(flip) = flip
            && (at..at + kept).contains(&flip)
        {
            buffer[usize::try_from(flip - at).unwrap()] ^= 1;
        }
        let sent = to.write_all(&buffer[..usize::try_from(kept).unwrap()]);
        at += kept;
        if length == 0 || kept < length || cut == Some(at) || sent.is_err() {
            // The end of one direction ends the connection, except that a server may close it after
            // its response.
            let _ = to.shutdown(Shutdown::Both);
            let _ = from.shutdown(Shutdown::Both);
            return sent;
        }
    }
}
