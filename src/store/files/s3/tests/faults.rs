//! The S3 client behind a faulty proxy: which faults it recovers from, and how it fails with the
//! others.

use std::io::{ErrorKind, Read as _};
use std::time::{Duration, Instant};

use super::proxy::{Fault, Proxy};
use super::server::S3Server;
use super::{MIB, S3, S3Limits, bytes, client, file, hash, keys, put, quick, read, same, server};
use crate::base::threads;

const SLOW_DOWN: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 36\r\n\r\n\
                         <Error><Code>SlowDown</Code></Error>";
const FAULT: &str = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n";
const ERROR_IN_SUCCESS: &str = "HTTP/1.1 200 OK\r\ncontent-length: 41\r\n\r\n\
                                <Error><Code>InternalError</Code></Error>";

const NO_CHECKSUMS: &str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 132\r\n\r\n\
                            <Error><Code>InvalidArgument</Code><Message>Unsupported header \
                            'x-amz-checksum-sha256' received for this API call.</Message></Error>";

/// A server, a proxy in front of it and a client of the proxy.
fn relayed(faults: &[Fault], limits: S3Limits) -> (S3Server, Proxy, S3) {
    let server = S3Server::start();
    let proxy = Proxy::start(server.addr(), faults);
    let s3 = client(proxy.endpoint(), limits);
    (server, proxy, s3)
}

#[test]
fn passing_faults_are_not_noticed() {
    let fault = Fault::S3Response(FAULT);
    let (server, proxy, s3) = relayed(&[], quick());
    let small = bytes(5000);
    let again = [fault, fault, Fault::S3Response(SLOW_DOWN), Fault::Pass];
    proxy.then(&again);
    put(&s3, &server, "small", &small).unwrap();
    proxy.then(&again);
    same(&read(&s3, "small", 0, 5000).unwrap(), &small);
    proxy.then(&again);
    assert_eq!(keys(&s3, ""), ["small"]);
    // One at each step of a multipart upload, and finally a success status with an error in its
    // body.
    let large = bytes(17 * MIB);
    let refused = Fault::S3Response(ERROR_IN_SUCCESS);
    proxy.then(&[
        fault,
        Fault::Pass,
        fault,
        Fault::Pass,
        Fault::CutRequest(3 * MIB as u64),
        Fault::Pass,
        Fault::Pass,
        refused,
        Fault::Pass,
    ]);
    put(&s3, &server, "large", &large).unwrap();
    assert_eq!(proxy.connections(), 9);
    proxy.then(&[Fault::Pass]);
    same(&read(&s3, "large", 0, 17 * MIB as u64).unwrap(), &large);
    proxy.then(&again);
    s3.remove("large").unwrap();
    proxy.then(&again);
    assert_eq!(s3.abort_stale_uploads(i64::MAX).unwrap(), 0);
}

#[test]
fn lasting_faults_end_in_time_with_an_error_that_says_which() {
    let (server, proxy, s3) = relayed(&[Fault::S3Response(SLOW_DOWN)], quick());
    let begun = Instant::now();
    for size in [5, 2 * MIB, 17 * MIB] {
        proxy.then(&[Fault::S3Response(SLOW_DOWN)]);
        let error = put(&s3, &server, "key", &bytes(size))
            .unwrap_err()
            .to_string();
        let logged = "store key: S3 answers 503 SlowDown (4 attempts)";
        assert!(error.contains(logged), "{error}");
        for secret in [server::SECRET_KEY, "X-Amz", "http"] {
            assert!(!error.contains(secret), "{error}");
        }
        assert_eq!(proxy.connections(), 4);
    }
    assert!(s3.get("key", 0, 1).is_err());
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn stalls_end_with_the_deadline() {
    let limits = S3Limits {
        request: Duration::from_millis(500),
        ..quick()
    };
    let (server, proxy, s3) = relayed(&[Fault::Stall], limits);
    let begun = Instant::now();
    let error = put(&s3, &server, "key", b"x").unwrap_err().to_string();
    assert!(error.contains("timed out (4 attempts)"), "{error}");
    assert_eq!(proxy.connections(), 4);
    assert!(begun.elapsed() < Duration::from_secs(15));
    proxy.then(&[Fault::Stall, Fault::Pass]);
    let sent = bytes(100_000);
    put(&s3, &server, "key", &sent).unwrap();
    // In the middle of a response, and then before its first byte.
    proxy.then(&[
        Fault::StallAnswer(50_000),
        Fault::StallAnswer(10),
        Fault::Pass,
    ]);
    same(&read(&s3, "key", 0, 100_000).unwrap(), &sent);
    assert!(proxy.connections() >= 3);
}

#[test]
fn answers_that_break_off_are_taken_up_again() {
    let limits = S3Limits {
        range_bytes: MIB as u64,
        ..quick()
    };
    let (server, proxy, s3) = relayed(&[], limits);
    let sent = bytes(3 * MIB);
    put(&s3, &server, "key", &sent).unwrap();
    // In the header, in the body, and then after every half MiB.
    proxy.then(&[
        Fault::CutAnswer(20),
        Fault::CutAnswer(100_000),
        Fault::CutAnswer(MIB as u64 / 2),
    ]);
    same(&read(&s3, "key", 0, 3 * MIB as u64).unwrap(), &sent);
    assert!(proxy.connections() >= 8);

    // Empty bodies: the header is complete, with less than 1,000 bytes.
    proxy.then(&[Fault::S3Response(
        "HTTP/1.1 206 Partial Content\r\ncontent-length: 10\r\n\
         content-range: bytes 0-9/10\r\n\r\n",
    )]);
    let error = read(&s3, "key", 0, 10).unwrap_err().to_string();
    assert!(error.contains("response from S3 broke off"), "{error}");
    assert_eq!(proxy.connections(), 4);
}

#[test]
fn slow_callers_get_everything() {
    let limits = S3Limits {
        request: Duration::from_millis(500),
        ..quick()
    };
    let (server, proxy, s3) = relayed(&[], limits);
    let sent = bytes(8 * MIB);
    std::fs::write(server.bucket_dir().join("key"), &sent).unwrap();
    let mut reader = s3.get("key", 0, sent.len() as u64).unwrap().unwrap();
    let mut received = vec![0; sent.len()];
    for piece in received.chunks_mut(3 * MIB) {
        threads::pause(Duration::from_millis(600));
        reader.read_exact(piece).unwrap();
    }
    same(&received, &sent);
    assert!(proxy.connections() > 1);
}

#[test]
fn a_file_that_changes_while_it_is_read_is_an_error() {
    let limits = S3Limits {
        range_bytes: 1000,
        ..quick()
    };
    let (server, _proxy, s3) = relayed(&[], limits);
    put(&s3, &server, "key", &bytes(5000)).unwrap();
    let mut reader = s3.get("key", 0, 5000).unwrap().unwrap();
    reader.read_exact(&mut [0; 500]).unwrap();
    put(&s3, &server, "key", &[7; 5000]).unwrap();
    let error = reader.read_to_end(&mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("the file changed"), "{error}");
}

#[test]
fn flipped_bits_on_the_way_there_are_refused_and_sent_again() {
    let (server, proxy, s3) = relayed(&[], quick());
    for size in [50_000, 3 * MIB] {
        let sent = bytes(size);
        proxy.then(&[Fault::FlipRequest(20_000), Fault::Pass]);
        put(&s3, &server, "key", &sent).unwrap();
        assert_eq!(proxy.connections(), 2);
        same(&read(&s3, "key", 0, size as u64).unwrap(), &sent);
    }
    // In the second part.
    let sent = bytes(17 * MIB);
    proxy.then(&[
        Fault::Pass,
        Fault::Pass,
        Fault::FlipRequest(MIB as u64),
        Fault::Pass,
    ]);
    put(&s3, &server, "key", &sent).unwrap();
    assert_eq!(proxy.connections(), 6);
    same(&read(&s3, "key", 0, 17 * MIB as u64).unwrap(), &sent);
    // Every time: an error, and nothing is stored.
    proxy.then(&[Fault::FlipRequest(20_000)]);
    let error = put(&s3, &server, "other", &bytes(50_000)).unwrap_err();
    assert!(
        error.to_string().contains("400 BadDigest (4 attempts)"),
        "{error}"
    );
    proxy.then(&[Fault::Pass]);
    assert_eq!(keys(&s3, ""), ["key"]);
}

#[test]
fn flipped_bits_on_the_way_back_are_noticed_before_the_end() {
    let (server, proxy, s3) = relayed(&[], quick());
    let sent = bytes(100_000);
    put(&s3, &server, "key", &sent).unwrap();
    proxy.then(&[Fault::FlipAnswer(50_000)]);
    let verified = s3.get_verified("key", 100_000, &hash(&sent)).unwrap();
    let mut received = Vec::new();
    let error = verified.unwrap().read_to_end(&mut received).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    assert!(received.len() < sent.len());
}

#[test]
fn a_damaged_source_is_not_stored() {
    let (server, _proxy, s3) = relayed(&[], quick());
    for size in [10, 17 * MIB] {
        let sent = bytes(size);
        let source = file(&server, &sent);
        let wrong = s3.put("key", &source, size as u64, &hash(b"other"));
        let error = wrong.unwrap_err().to_string();
        assert!(error.contains("the received file is damaged"), "{error}");
        let long = s3.put("key", &source, size as u64 + 1, &hash(&sent));
        assert!(long.unwrap_err().to_string().contains("too short"));
    }
    assert_eq!(keys(&s3, ""), [""; 0]);
    assert_eq!(s3.abort_stale_uploads(i64::MAX).unwrap(), 0);
}

#[test]
fn the_lost_answer_to_a_completed_upload_is_no_failure() {
    let (server, proxy, s3) = relayed(&[], quick());
    let sent = bytes(17 * MIB);
    let pass = Fault::Pass;
    proxy.then(&[pass, pass, pass, pass, Fault::CutAnswer(5), pass]);
    put(&s3, &server, "key", &sent).unwrap();
    same(&read(&s3, "key", 0, 17 * MIB as u64).unwrap(), &sent);
}

#[test]
fn a_server_that_refuses_checksums_is_asked_only_once() {
    let (server, proxy, s3) = relayed(&[], quick());
    let refused = Fault::S3Response(NO_CHECKSUMS);
    proxy.then(&[refused, Fault::Pass]);
    put(&s3, &server, "small", &bytes(1000)).unwrap();
    assert_eq!(proxy.connections(), 2);
    // It may still support checksums of parts; here it does, except for the second part.
    proxy.then(&[Fault::Pass, Fault::Pass, refused, Fault::Pass]);
    put(&s3, &server, "large", &bytes(17 * MIB)).unwrap();
    assert_eq!(proxy.connections(), 3 + 1 + 5);
    assert_eq!(s3.abort_stale_uploads(i64::MAX).unwrap(), 0);
    proxy.then(&[Fault::Pass]);
    put(&s3, &server, "small", &bytes(2000)).unwrap();
    assert_eq!(proxy.connections(), 1);
}
