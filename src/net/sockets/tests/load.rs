//! Clients that break rules, do not read, send too much, or are many.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{
    Event, Silent, TIMEOUT, Text, connect, echo, frame, hub, reserve, stop, streams, wait_until,
};
use crate::base::threads::Stop;
use crate::base::{log, threads};

#[test]
fn a_slow_consumer_is_dropped_and_the_others_go_on() {
    let hub = hub(|_| {});
    let slow = connect(&hub);
    let (mut quick, ..) = connect(&hub).client();
    let text: Text = "x".repeat(100_000).into();
    let begun = Instant::now();
    while slow.handle.send(text.clone()) {
        echo(&mut quick, "still here");
        assert!(begun.elapsed() < TIMEOUT);
    }
    assert!(!slow.handle.is_open());
    slow.await_end();
    wait_until("the permit is free", || hub.counters().open == 1);
    assert_eq!(hub.counters().slow_closed, 1);
    echo(&mut quick, "and after");
    stop(&hub);
}

#[test]
fn faults_are_answered_with_their_code() {
    let hub = hub(|settings| settings.message_bytes_max = 1000);
    let mut split = frame(0x01, &[b'x'; 900]);
    split.extend(frame(0x80, &[b'x'; 101]));
    let mut unmasked = frame(0x81, b"");
    unmasked[1] = 0;
    for (bytes, code) in [
        (frame(0x81, &[b'x'; 1001]), 1009),
        (split, 1009),
        (frame(0x82, b"bytes"), 1003),
        (frame(0x81, &[0xff, 0xfe]), 1007),
        (unmasked, 1002),
        (frame(0x80, b"continues nothing"), 1002),
        (frame(0xf1, b"reserved bits"), 1002),
        (frame(0x83, b"no such frame"), 1002),
        (frame(0x09, b"a ping in parts"), 1002),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), 1002),
    ] {
        let mut pair = connect(&hub);
        pair.stream.write_all(&bytes).unwrap();
        let said = pair.rest();
        assert_eq!(said[0], 0x88, "{bytes:?}");
        assert_eq!(u16::from_be_bytes([said[2], said[3]]), code, "{bytes:?}");
        drop(pair.stream);
        assert_eq!(pair.events.recv_timeout(TIMEOUT).unwrap(), Event::Closed);
    }
    stop(&hub);
}

#[test]
fn who_keeps_sending_too_much_still_learns_why() {
    let hub = hub(|settings| settings.message_bytes_max = 1000);
    let mut pair = connect(&hub);
    pair.stream
        .write_all(&frame(0x81, &[b'x'; 8 << 20]))
        .unwrap();
    let said = pair.rest();
    assert_eq!(&said[..4], [0x88, said[1], 0x03, 0xf1]);
    stop(&hub);
}

#[test]
fn texts_before_a_fault_are_delivered() {
    let hub = hub(|_| {});
    let mut pair = connect(&hub);
    let bytes = [
        frame(0x81, b"good"),
        frame(0x82, b"bad"),
        frame(0x81, b"late"),
    ]
    .concat();
    pair.stream.write_all(&bytes).unwrap();
    assert_eq!(pair.next(), Event::Text("good".to_owned()));
    pair.rest();
    drop(pair.stream);
    assert_eq!(pair.events.recv_timeout(TIMEOUT).unwrap(), Event::Closed);
    stop(&hub);
}

#[test]
fn a_text_may_come_byte_by_byte() {
    let hub = hub(|_| {});
    let mut pair = connect(&hub);
    let text = "\u{e9}\u{1f600} x".repeat(20);
    let (first, second) = text.as_bytes().split_at(5);
    let bytes = [frame(0x01, first), frame(0x89, b"p"), frame(0x80, second)].concat();
    for byte in bytes {
        pair.stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(pair.next(), Event::Text(text));
    stop(&hub);
}

#[test]
fn a_burst_is_read_to_its_end_without_more_coming() {
    const TEXTS: usize = 20_000;
    let hub = hub(|_| {});
    let mut pair = connect(&hub);
    let burst: Vec<u8> = (0..TEXTS)
        .flat_map(|text| frame(0x81, text.to_string().as_bytes()))
        .collect();
    pair.stream.write_all(&burst).unwrap();
    for text in 0..TEXTS {
        assert_eq!(pair.next(), Event::Text(text.to_string()));
    }
    stop(&hub);
}

#[test]
fn who_talks_without_end_does_not_starve_others() {
    let hub = hub(|_| {});
    let stop_talking = Stop::new();
    let talkers: Vec<_> = [frame(0x81, b"x"), frame(0x00, b""), frame(0x89, b"")]
        .into_iter()
        .map(|said| {
            let (mut ours, theirs) = streams();
            let permit = reserve(&hub).unwrap();
            // The first fragment opens a message; empty ones continue it.
            let early = if said[0] == 0 {
                frame(0x01, b"")
            } else {
                Vec::new()
            };
            permit.register(Arc::new(theirs), early, Box::new(Silent));
            let stop = stop_talking.clone();
            let mut ears = ours.try_clone().unwrap();
            threads::spawn("ears", move || {
                while ears.read(&mut [0; 4096]).is_ok_and(|it| it > 0) {}
            })
            .unwrap();
            threads::spawn("talker", move || {
                let burst = said.repeat(5000);
                let mut rounds = 0;
                while !stop.is_set() && ours.write_all(&burst).is_ok() {
                    rounds += 1;
                }
                rounds
            })
            .unwrap()
        })
        .collect();
    let (mut client, ..) = connect(&hub).client();
    for round in 0..30 {
        let begun = Instant::now();
        echo(&mut client, &round.to_string());
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "{:?}",
            begun.elapsed()
        );
    }
    stop_talking.set();
    for talker in talkers {
        assert!(talker.join().unwrap() > 0);
    }
    stop(&hub);
}

#[test]
fn unfinished_large_messages_are_bounded_together() {
    let hub = hub(|settings| settings.large_bytes_max = 2 << 20);
    let announced = frame(0x81, &[b'x'; 1 << 20]);
    let mut pairs: Vec<_> = (0..4).map(|_| connect(&hub)).collect();
    for pair in &mut pairs {
        pair.stream.write_all(&announced[..800_000]).unwrap();
    }
    wait_until("some are closed", || {
        pairs.iter().filter(|pair| pair.handle.is_open()).count() == 2
    });
    // Complete messages release their room.
    for pair in pairs.iter_mut().filter(|pair| pair.handle.is_open()) {
        pair.stream.write_all(&announced[800_000..]).unwrap();
        assert!(matches!(pair.next(), Event::Text(_)));
    }
    for _ in 0..10 {
        let mut pair = connect(&hub);
        pair.stream.write_all(&announced).unwrap();
        assert!(matches!(pair.next(), Event::Text(_)));
        let (mut client, ..) = pair.client();
        echo(&mut client, "with new buffers");
    }
    stop(&hub);
}

#[test]
#[ignore = "measures; alone, optimised, with enough descriptors"]
fn memory_of_idle_sockets() {
    fn resident_kib() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
    const SOCKETS: usize = 2000;
    let hub = hub(|_| {});
    let connections: Vec<_> = (0..SOCKETS).map(|_| streams()).collect();
    let before = resident_kib();
    let mut ours = Vec::new();
    for (stream, theirs) in connections {
        let permit = reserve(&hub).unwrap();
        permit.register(Arc::new(theirs), Vec::new(), Box::new(Silent));
        ours.push(stream);
    }
    wait_until("all are registered", || {
        hub.counters().opened == SOCKETS as u64
    });
    let idle = resident_kib();
    let report = |what: &str, kib: usize| {
        let each = (kib - before) as f64 / SOCKETS as f64;
        log::error(format_args!("{what}: {each:.2} KiB per socket"));
    };
    report("fresh", idle);
    for stream in &mut ours {
        stream.write_all(&frame(0x81, &[b'x'; 300])).unwrap();
        stream.write_all(&frame(0x89, b"ping")).unwrap();
    }
    for stream in &mut ours {
        assert_eq!(stream.read(&mut [0; 99]).unwrap(), 6);
    }
    report("after a text and a ping", resident_kib());
    for (at, stream) in ours.iter_mut().enumerate() {
        stream.write_all(&frame(0x81, &[b'x'; 500_000])).unwrap();
        wait_until("it has arrived", || {
            hub.counters().messages_in > (SOCKETS + at) as u64
        });
    }
    report("after a large text", resident_kib());
    stop(&hub);
}
