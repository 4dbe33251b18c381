//! The budget of send queues: which payer is charged, and which sockets are dropped when it is used
//! up.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rustix::net::sockopt;

use super::{
    Client, Hub, HubSettings, Message, Pair, SocketHandle, Text, connect_at, hub_of, payer, stop,
    streams, wait_until,
};
use crate::base::budget::Payer;

/// A socket whose client does not read, with minimal buffers in the system.
fn stalled(hub: &Hub, payer: Payer) -> Pair {
    let (ours, theirs) = streams();
    sockopt::set_socket_recv_buffer_size(&ours, 4096).unwrap();
    sockopt::set_socket_send_buffer_size(&theirs, 16 << 10).unwrap();
    let pair = connect_at(hub.reserve(payer).unwrap(), ours, theirs, Vec::new());
    pair.handle.send(text(100_000));
    pair
}

/// A client that reads from now on.
fn quick(pair: Pair) -> Client {
    sockopt::set_socket_recv_buffer_size(&pair.stream, 1 << 20).unwrap();
    pair.client().0
}

/// Pings are disabled in effect, because small buffers make clients slow.
fn without_pings(settings: &mut HubSettings) {
    settings.ping_every = Duration::from_secs(600);
}

fn text(bytes: usize) -> Text {
    "x".repeat(bytes).into()
}

/// A thousand anonymous clients that did not read made the server hold a megabyte for each. Now
/// send queues have a budget with a share for anonymous clients. When it is used up, the fullest
/// are dropped, and other clients are not affected.
#[test]
fn the_fullest_send_queue_makes_room() {
    let hub = hub_of(100, 2_000_000, without_pings);
    let full = stalled(&hub, payer(1, false));
    for _ in 0..4 {
        assert!(full.handle.send(text(100_000)));
    }
    let others: Vec<Pair> = (2..6).map(|it| stalled(&hub, payer(it, false))).collect();
    let member = stalled(&hub, payer(7, true));
    for _ in 0..5 {
        assert!(member.handle.send(text(100_000)));
    }
    assert_eq!(hub.counters().slow_closed, 0);
    // Anonymous clients hold 900,000 of 1,000,000 bytes.
    assert!(others[0].handle.send(text(150_000)));
    full.await_end();
    assert!(!full.handle.is_open());
    assert!(others.iter().all(|it| it.handle.is_open()) && member.handle.is_open());
    wait_until("it is counted", || hub.counters().slow_closed == 1);
    for pair in others.into_iter().chain([member]) {
        let expected = Message::text("x".repeat(100_000));
        assert_eq!(quick(pair).read().unwrap(), expected);
    }
    wait_until("all is released", || {
        hub.shared.send_queue_bytes.used() == 0
    });
    stop(&hub);
}

#[test]
fn a_text_that_waits_for_many_is_charged_once_and_given_back_once() {
    let hub = hub_of(100, 1_500_000, without_pings);
    let pairs: Vec<Pair> = (1..4)
        .map(|it| stalled(&hub, payer(it, it % 2 == 0)))
        .collect();
    let before = hub.shared.send_queue_bytes.used();
    let shared = text(120_000);
    for pair in &pairs {
        assert!(pair.handle.send(shared.clone()));
    }
    drop(shared);
    let used = hub.shared.send_queue_bytes.used();
    assert!(used > before && used < before + 121_000, "{before} {used}");
    assert_eq!(hub.counters().slow_closed, 0);
    for (at, pair) in pairs.into_iter().enumerate() {
        assert!(hub.shared.send_queue_bytes.used() >= 120_000, "{at}");
        let mut client = quick(pair);
        for size in [100_000, 120_000] {
            assert_eq!(client.read().unwrap().len(), size);
        }
    }
    wait_until("all is released", || {
        hub.shared.send_queue_bytes.used() == 0
    });
    stop(&hub);
}

/// Queue slots cost memory too: a short text that is queued ten thousand times is charged for them.
#[test]
fn many_short_texts_are_charged_for_their_places() {
    let hub = hub_of(100, 1_000_000, |_| {});
    let pair = stalled(&hub, payer(1, true));
    let before = hub.shared.send_queue_bytes.used();
    let short = text(1);
    for _ in 0..10_000 {
        assert!(pair.handle.send(short.clone()));
    }
    let used = hub.shared.send_queue_bytes.used() - before;
    assert!((100_000..300_000).contains(&used), "{used}");
    drop(pair);
    wait_until("all is released", || {
        hub.counters().open == 0 && hub.shared.send_queue_bytes.used() == 65
    });
    drop(short);
    assert_eq!(hub.shared.send_queue_bytes.used(), 0);
    stop(&hub);
}

#[test]
fn a_socket_is_charged_to_who_has_signed_in_and_closed_when_there_is_no_room_for_strangers() {
    let hub = hub_of(4, 1 << 20, |_| {});
    let connect = |network, has_credentials| {
        let (ours, theirs) = streams();
        let permit = hub.reserve(payer(network, has_credentials)).unwrap();
        connect_at(permit, ours, theirs, Vec::new())
    };
    let first = connect(1, false);
    let _second = connect(2, false);
    assert!(hub.reserve(payer(3, false)).is_err());
    first.handle.set_has_credentials(true);
    assert!(first.handle.payer().has_credentials);
    let _third = connect(3, false);
    first.handle.set_has_credentials(false);
    assert_eq!(super::close_code(&mut first.client().0), 1013);
    wait_until("its permit is free", || hub.counters().open == 2);
    drop(hub.reserve(payer(1, true)).unwrap());
    stop(&hub);
}

/// The handle of a socket that the hub does not know, so that only the test empties its send queue.
fn unsent(hub: &Hub, payer: Payer) -> SocketHandle {
    let permit = hub.reserve(payer).unwrap();
    SocketHandle::new(hub.shared.tokens.fetch_add(1, Relaxed), permit)
}

/// Removes all texts from a send queue, as the hub does when the system accepts them.
fn take_all(handle: &SocketHandle) {
    let mut sent = None;
    while let Some(next) = handle.next(sent.as_deref()) {
        sent = Some(next);
    }
}

fn count_open(handles: &[SocketHandle]) -> usize {
    handles.iter().filter(|it| it.is_open()).count()
}

/// Ends these sockets and then the hub.
fn end(hub: &Hub, handles: impl Iterator<Item = SocketHandle>) {
    handles.for_each(|handle| handle.end());
    assert_eq!(hub.shared.send_queue_bytes.used(), 0);
    stop(hub);
}

/// Thousands of sockets with small send queues used up a share, and none of them was dropped.
/// Instead each further text dropped the fullest socket of another payer, and was queued beyond the
/// bound.
#[test]
fn many_small_send_queues_that_use_up_a_share_are_blamed() {
    let hub = hub_of(1000, 2_000_000, |_| {});
    let small: Vec<SocketHandle> = (0..80).map(|it| unsent(&hub, payer(it, false))).collect();
    for handle in &small {
        assert!(handle.send(text(12_000)));
    }
    let member = unsent(&hub, payer(100, true));
    assert!(member.send(text(300_000)));
    // Anonymous clients hold 965,120 of 1,000,000 bytes.
    let stranger = unsent(&hub, payer(101, false));
    assert!(stranger.send(text(40_000)));
    assert!(member.is_open());
    // Room is made for a sixteenth of the budget.
    assert_eq!(count_open(&small), 80 - 11);
    let used = 69 * 12_064 + 40_064 + 300_064;
    assert_eq!(hub.shared.send_queue_bytes.used(), used);
    // Now there is room for further texts.
    assert!(stranger.send(text(80_000)));
    assert_eq!(hub.shared.send_queue_bytes.used(), used + 80_064);
    assert_eq!(count_open(&small), 80 - 11);
    end(&hub, small.into_iter().chain([member, stranger]));
}

/// A text is charged to the first send queue that queues it, and may stay longer in those of other
/// payers.
#[test]
fn texts_that_are_charged_to_a_share_make_room_in_it_wherever_they_wait() {
    let hub = hub_of(1000, 2_000_000, |_| {});
    let quick = unsent(&hub, payer(1, false));
    let (holder, member) = (unsent(&hub, payer(2, true)), unsent(&hub, payer(3, true)));
    let shared = [text(480_000), text(480_000)];
    for text in &shared {
        assert!(quick.send(text.clone()) && holder.send(text.clone()));
    }
    take_all(&quick);
    for _ in 0..2 {
        assert!(member.send(text(485_000)));
    }
    drop(shared);
    // Anonymous clients are charged for 960,128 of 1,000,000 bytes.
    assert!(quick.send(text(60_000)));
    assert!(quick.is_open() && member.is_open() && !holder.is_open());
    assert_eq!(hub.shared.send_queue_bytes.used(), 970_128 + 60_064);
    end(&hub, [quick, holder, member].into_iter());
}

/// If no send queue holds the bytes that use up a share, the socket of that share without room is
/// dropped.
#[test]
fn a_text_is_not_queued_when_no_send_queue_can_make_room() {
    let hub = hub_of(1000, 2_000_000, |_| {});
    let (quick, member) = (unsent(&hub, payer(1, false)), unsent(&hub, payer(2, true)));
    let kept = [text(490_000), text(490_000)];
    for text in &kept {
        assert!(quick.send(text.clone()));
    }
    take_all(&quick);
    assert!(member.send(text(500_000)));
    assert!(!quick.send(text(60_000)));
    assert!(!quick.is_open() && member.is_open());
    drop(kept);
    assert_eq!(hub.shared.send_queue_bytes.used(), 500_064);
    end(&hub, [quick, member].into_iter());
}

/// A text that the hub is sending is released only after the hub has ended the socket. Until then,
/// as many bytes can be queued without a charge, and no further sockets are dropped.
#[test]
fn room_that_the_hub_is_about_to_give_back_is_used_once() {
    let hub = hub_of(1000, 2_000_000, |_| {});
    let slow: Vec<SocketHandle> = (0..9).map(|it| unsent(&hub, payer(it, false))).collect();
    let sending: Vec<Text> = slow
        .iter()
        .filter_map(|handle| {
            assert!(handle.send(text(100_000)));
            handle.next(None)
        })
        .collect();
    let used = 9 * 100_064;
    assert_eq!(
        (sending.len(), hub.shared.send_queue_bytes.used()),
        (9, used)
    );
    let quick = unsent(&hub, payer(10, false));
    // Two make room for two texts.
    for open in [7, 7, 5, 5, 3] {
        assert!(quick.send(text(100_000)));
        take_all(&quick);
        assert_eq!(count_open(&slow), open);
        assert_eq!(hub.shared.send_queue_bytes.used(), used);
    }
    drop(sending);
    end(&hub, slow.into_iter().chain([quick]));
}
