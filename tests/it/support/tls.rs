//! TLS in front of a server without it: a proxy with one of the certificates of `tests/it/tls`.

use std::io;
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Time limit of a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Time to wait for bytes of one side before reading from the other.
const TURN: Duration = Duration::from_millis(2);

/// The file of a certificate or key.
pub fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/it/tls")
        .join(name)
}

/// The value of `SSL_CERT_FILE`.
pub fn variable(name: &str) -> (&'static str, String) {
    ("SSL_CERT_FILE", file(name).to_str().unwrap().to_owned())
}

/// Listens on a port of its own, for as long as the tests run.
pub struct TlsProxy {
    addr: SocketAddr,
    accepted: Arc<AtomicUsize>,
}

impl TlsProxy {
    /// Passes on what comes to `to`, as the server of this certificate.
    #[expect(clippy::disallowed_methods, reason = "tests have no Stop to share")]
    pub fn start(to: SocketAddr, certificate: &str) -> TlsProxy {
        let chain = CertificateDer::pem_file_iter(file(certificate)).unwrap();
        let key = PrivateKeyDer::from_pem_file(file("server.key")).unwrap();
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain.map(Result::unwrap).collect(), key);
        let config = Arc::new(config.unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (config, count) = (Arc::clone(&config), Arc::clone(&count));
                std::thread::spawn(move || serve(client, to, config, &count));
            }
        });
        TlsProxy { addr, accepted }
    }

    /// By a name that the certificate is for, if it is for any here.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.addr.port())
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Connections whose handshake was complete.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

fn serve(
    mut client: TcpStream,
    to: SocketAddr,
    config: Arc<ServerConfig>,
    accepted: &AtomicUsize,
) -> Option<()> {
    client.set_nodelay(true).ok()?;
    client.set_read_timeout(Some(HANDSHAKE)).ok()?;
    let mut connection = ServerConnection::new(config).ok()?;
    while connection.is_handshaking() {
        connection.complete_io(&mut client).ok()?;
    }
    accepted.fetch_add(1, Ordering::Relaxed);
    let mut server = TcpStream::connect(to).ok()?;
    server.set_nodelay(true).ok()?;
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(TURN)).ok()?;
    }
    let mut client = StreamOwned::new(connection, client);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = turn(&mut client, &mut buffer)?;
        server.write_all(&buffer[..length]).ok()?;
        let Some(length) = turn(&mut server, &mut buffer) else {
            client.conn.send_close_notify();
            return client.flush().ok();
        };
        client.write_all(&buffer[..length]).ok()?;
        client.flush().ok()?;
    }
}

/// The bytes that can be read now; none at the end.
fn turn(from: &mut impl Read, buffer: &mut [u8]) -> Option<usize> {
    match from.read(buffer) {
        Ok(0) => None,
        Ok(length) => Some(length),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
            ) =>
        {
            Some(0)
        }
        Err(_) => None,
    }
}
