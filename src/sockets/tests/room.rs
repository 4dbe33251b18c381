//! The budget of what waits to be sent: who pays, and who is dropped when it is used up.

use std::time::Duration;

use rustix::net::sockopt;

use super::Client;
use super::Hub;
use super::Message;
use super::Pair;
use super::Settings;
use super::Text;
use super::connect_at;
use super::hub_of;
use super::payer;
use super::stop;
use super::streams;
use super::wait_until;
use crate::budget::Payer;

/// A socket of which nothing is read, with next to no room in the system.
fn stalled(hub: &Hub, payer: Payer) -> Pair {
    let (ours, theirs) = streams();
    sockopt::set_socket_recv_buffer_size(&ours, 4096).unwrap();
    sockopt::set_socket_send_buffer_size(&theirs, 16 << 10).unwrap();
    let pair = connect_at(hub.reserve(payer).unwrap(), ours, theirs, Vec::new());
    pair.link.send(text(100_000));
    pair
}

/// A client that takes what it is sent from now on.
fn quick(pair: Pair) -> Client {
    sockopt::set_socket_recv_buffer_size(&pair.stream, 1 << 20).unwrap();
    pair.client().0
}

/// Nobody is taken for dead because the small buffers are slow.
fn without_pings(settings: &mut Settings) {
    settings.ping_every = Duration::from_secs(600);
}

fn text(bytes: usize) -> Text {
    "x".repeat(bytes).into()
}

/// A thousand strangers that read nothing made the server hold a megabyte for each of them. Now all that waits
/// has a bound, and a share for strangers; where that is used up, those with the most are dropped, and the
/// others do not notice.
#[test]
fn the_fullest_outbox_makes_room() {
    let hub = hub_of(100, 2_000_000, without_pings);
    let full = stalled(&hub, payer(1, false));
    for _ in 0..4 {
        assert!(full.link.send(text(100_000)));
    }
    let others: Vec<Pair> = (2..6).map(|it| stalled(&hub, payer(it, false))).collect();
    let member = stalled(&hub, payer(7, true));
    for _ in 0..5 {
        assert!(member.link.send(text(100_000)));
    }
    assert_eq!(hub.counters().slow_closed, 0);
    // Strangers hold 900,000 of 1,000,000 bytes.
    assert!(others[0].link.send(text(150_000)));
    full.await_end();
    assert!(!full.link.is_open());
    assert!(others.iter().all(|it| it.link.is_open()) && member.link.is_open());
    wait_until("it is counted", || hub.counters().slow_closed == 1);
    for pair in others.into_iter().chain([member]) {
        let expected = Message::text("x".repeat(100_000));
        assert_eq!(quick(pair).read().unwrap(), expected);
    }
    wait_until("all is given back", || hub.core.outboxes.used() == 0);
    stop(&hub);
}

#[test]
fn a_text_that_waits_for_many_is_charged_once_and_given_back_once() {
    let hub = hub_of(100, 1_500_000, without_pings);
    let pairs: Vec<Pair> = (1..4)
        .map(|it| stalled(&hub, payer(it, it % 2 == 0)))
        .collect();
    let before = hub.core.outboxes.used();
    let shared = text(120_000);
    for pair in &pairs {
        assert!(pair.link.send(shared.clone()));
    }
    drop(shared);
    let used = hub.core.outboxes.used();
    assert!(used > before && used < before + 121_000, "{before} {used}");
    assert_eq!(hub.counters().slow_closed, 0);
    for (at, pair) in pairs.into_iter().enumerate() {
        assert!(hub.core.outboxes.used() >= 120_000, "{at}");
        let mut client = quick(pair);
        for size in [100_000, 120_000] {
            assert_eq!(client.read().unwrap().len(), size);
        }
    }
    wait_until("all is given back", || hub.core.outboxes.used() == 0);
    stop(&hub);
}

/// Places in line cost memory as well: a short text that waits ten thousand times is not for free.
#[test]
fn many_short_texts_are_charged_for_their_places() {
    let hub = hub_of(100, 1_000_000, |_| {});
    let pair = stalled(&hub, payer(1, true));
    let before = hub.core.outboxes.used();
    let short = text(1);
    for _ in 0..10_000 {
        assert!(pair.link.send(short.clone()));
    }
    let used = hub.core.outboxes.used() - before;
    assert!((100_000..300_000).contains(&used), "{used}");
    drop(pair);
    wait_until("all is given back", || {
        hub.counters().open == 0 && hub.core.outboxes.used() == 65
    });
    drop(short);
    assert_eq!(hub.core.outboxes.used(), 0);
    stop(&hub);
}

#[test]
fn a_socket_is_charged_to_who_has_signed_in_and_closed_when_there_is_no_room_for_strangers() {
    let hub = hub_of(4, 1 << 20, |_| {});
    let connect = |network, has_credentials| {
        let (ours, theirs) = streams();
        let place = hub.reserve(payer(network, has_credentials)).unwrap();
        connect_at(place, ours, theirs, Vec::new())
    };
    let first = connect(1, false);
    let _second = connect(2, false);
    assert!(hub.reserve(payer(3, false)).is_err());
    first.link.set_has_credentials(true);
    assert!(first.link.payer().has_credentials);
    let _third = connect(3, false);
    first.link.set_has_credentials(false);
    assert_eq!(super::close_code(&mut first.client().0), 1013);
    wait_until("its place is free", || hub.counters().open == 2);
    drop(hub.reserve(payer(1, true)).unwrap());
    stop(&hub);
}
