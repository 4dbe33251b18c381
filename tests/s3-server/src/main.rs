//! A real S3 server on a directory, for the tests of vski: `s3s` (protocol, signatures) over `s3s-fs` (storage).
//!
//! `s3-server DIRECTORY ACCESS_KEY SECRET_KEY DOMAIN [plain]` listens on a free port of 127.0.0.1, prints the
//! address as its only line and ends when its standard input is closed, so that it never outlives a test.
//! Buckets are the folders of the directory. A request to `BUCKET.DOMAIN` is one of virtual-host style, any
//! other of path style.
//!
//! What `s3s-fs` lacks is added (`strict`). With `plain` it is an old server: it knows no checksums and no
//! list of uploads, and says so.

mod strict;

use std::{env, io};
use std::error::Error;
use std::io::{Read as _, Write as _};

use hyper_util::rt::TokioIo;
use s3s::S3Result;
use s3s::auth::SimpleAuth;
use s3s::host::{S3Host, VirtualHost};
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;

use strict::{Checksums, Strict};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let (settings, checksums) = match args.as_slice() {
        [settings @ .., plain] if plain == "plain" => (settings, Checksums::Refused),
        settings => (settings, Checksums::Verified),
    };
    let [directory, access_key, secret_key, domain] = settings else {
        return Err("usage: s3-server DIRECTORY ACCESS_KEY SECRET_KEY DOMAIN [plain]".into());
    };
    let mut builder = S3ServiceBuilder::new(Strict::new(directory, checksums)?);
    builder.set_auth(SimpleAuth::from_single(
        access_key.clone(),
        secret_key.clone(),
    ));
    builder.set_host(Host(format!(".{domain}")));
    let service = builder.build();
    std::thread::spawn(end_with_input);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, serve(service))
}

async fn serve(service: S3Service) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("{}", listener.local_addr()?);
    io::stdout().flush()?;
    loop {
        let (socket, _) = listener.accept().await?;
        let service = service.clone();
        tokio::task::spawn_local(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service);
            // What fails here is the business of the test at the other end.
            let _ = connection.await;
        });
    }
}

fn end_with_input() {
    let mut input = io::stdin();
    let mut buffer = [0; 64];
    while matches!(input.read(&mut buffer), Ok(length) if length > 0) {}
    std::process::exit(0);
}

/// The domain of virtual-host style, with a dot before it.
struct Host(String);

impl S3Host for Host {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let name = host.split(':').next().unwrap_or(host);
        Ok(match name.strip_suffix(&self.0) {
            Some(bucket) => VirtualHost::new(&self.0[1..]).with_bucket(bucket),
            None => VirtualHost::new(host),
        })
    }
}
