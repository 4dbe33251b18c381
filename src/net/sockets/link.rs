//! What waits to be sent to a socket, and who pays for it.
//!
//! A [`Text`] is kept once however many outboxes it waits in, and charged once, to the first of them. An outbox
//! pays for its places in line beside that. Where a charge is refused, the fullest outboxes that use up the
//! share are emptied and their sockets dropped, so that those who take what they are sent are not cut off by
//! those who do not.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use super::conn::TRY_LATER;
use super::{Core, Place};
use crate::base::budget::{Budget, Charge, Exhausted, Payer};
use crate::base::threads::lock;

/// Counted for each queued text beside its bytes, so that empty ones are bounded too.
const TEXT_COST: usize = 64;
/// Longest reason of a close (RFC 6455, section 5.5).
const REASON_BYTES_MAX: usize = 123;
/// Places in line that an outbox has without a charge; it pays for more of them by the step.
const PLACES_FREE: usize = 32;
const PLACES_STEP: usize = 64;
/// The cost of a place: a pointer, and what a queue that grows has in reserve.
const PLACE_BYTES: usize = 16;
/// An emptier outbox is not blamed for its payer's share, unless such outboxes hold half of it.
const BLAMED_BYTES: usize = 16 << 10;
/// A part of a budget that is made room for at a time.
const ROOM_PART: u64 = 16;
/// Attempts to make room for a text: one for each bound that may refuse it, and one to use what the last made.
const ROOM_ATTEMPTS: usize = 4;

/// A text to be sent. Copies are the same text.
#[derive(Clone)]
pub struct Text(Arc<Body>);

struct Body {
    text: Box<str>,
    /// Of the first outbox that it waits in.
    charge: OnceLock<Charge>,
}

impl From<String> for Text {
    fn from(text: String) -> Text {
        Text(Arc::new(Body {
            text: text.into_boxed_str(),
            charge: OnceLock::new(),
        }))
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Text {
        text.to_owned().into()
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0.text
    }
}

impl Text {
    fn charge(&self, budget: &Arc<Budget>, payer: Payer) -> Result<(), Exhausted> {
        if self.0.charge.get().is_none() {
            let charge = budget.charge(payer, cost(self) as u64)?;
            // If another thread was faster, that one pays.
            let _ = self.0.charge.set(charge);
        }
        Ok(())
    }
}

/// Bytes that a text counts for.
fn cost(text: &str) -> usize {
    text.len() + TEXT_COST
}

/// Sends to one socket, from any thread. The socket does not live longer because of it.
#[derive(Clone)]
pub struct Link(Arc<Outlet>);

struct Outlet {
    token: u64,
    core: Arc<Core>,
    outbox: Mutex<Outbox>,
}

/// The texts that wait to be sent.
struct Outbox {
    texts: VecDeque<Text>,
    /// The text that the hub is sending.
    sending: Option<Text>,
    /// Of the texts that are not yet wholly with the system, with what keeping them costs. Of a dropped socket what
    /// the hub still has to give back, less what [`Core::lend`] has lent.
    bytes: usize,
    payer: Payer,
    /// For the socket, until that has ended.
    socket: Option<Charge>,
    /// For places in line.
    places: Option<Charge>,
    is_open: bool,
    order: Option<Order>,
    reading: Reading,
    /// The hub knows that there is something.
    is_signalled: bool,
}

/// The hub's permission to read from the socket.
#[derive(PartialEq, Eq)]
enum Reading {
    /// It may.
    On,
    /// It may, and a hold by the call of the peer that runs now comes too late.
    Resumed,
    /// Not before a resume.
    Held,
}

/// An order to the hub about the socket.
pub enum Order {
    /// Send what is queued, then close with a code and a reason.
    Close(u16, String),
    /// Drop it: it is too slow.
    Drop,
}

/// The outcome for a text that was to be queued.
enum Queued {
    Yes,
    /// The socket is closed, or dropped because of this text.
    No,
    /// There is no room for it, and where not.
    Refused(Text, Payer, Exhausted),
}

impl Outbox {
    /// Pays for a text and its place in line.
    fn pay(&mut self, text: &Text, budget: &Arc<Budget>) -> Result<(), Exhausted> {
        text.charge(budget, self.payer)?;
        let taken = self.texts.len();
        if taken >= PLACES_FREE && (taken - PLACES_FREE).is_multiple_of(PLACES_STEP) {
            let step = (PLACES_STEP * PLACE_BYTES) as u64;
            match &mut self.places {
                Some(places) => places.grow(step)?,
                None => self.places = Some(budget.charge(self.payer, step)?),
            }
        }
        Ok(())
    }

    /// Takes nothing more. What was queued is for the caller to drop, when the lock is free again.
    fn empty(&mut self) -> VecDeque<Text> {
        self.is_open = false;
        self.places = None;
        self.bytes = self.sending.as_deref().map_or(0, cost);
        std::mem::take(&mut self.texts)
    }

    /// Bytes of texts in it that count for the bound that refused some to a payer.
    fn shared(&self, payer: Payer, bound: Exhausted) -> usize {
        let texts = self.texts.iter().chain(&self.sending);
        let counted = texts.filter(|text| {
            let charge = text.0.charge.get();
            charge.is_some_and(|charge| bound.counts(payer, charge.payer()))
        });
        counted.map(|text| cost(text)).sum()
    }
}

impl Link {
    pub fn new(token: u64, place: Place) -> Link {
        let Place {
            core,
            payer,
            charge,
        } = place;
        let link = Link(Arc::new(Outlet {
            token,
            core: Arc::clone(&core),
            outbox: Mutex::new(Outbox {
                texts: VecDeque::new(),
                sending: None,
                bytes: 0,
                payer,
                socket: Some(charge),
                places: None,
                is_open: true,
                order: None,
                reading: Reading::On,
                is_signalled: false,
            }),
        }));
        lock(&core.outlets).insert(token, link.clone());
        link
    }

    /// Queues a text and never waits. False when the socket is closed, or is dropped because of
    /// this text: more would be waiting than the bound, so the peer is too slow, or there is no room for it
    /// and no other socket to blame. A text is queued without a charge only for what dropped sockets still hold.
    pub fn send(&self, text: Text) -> bool {
        let mut queued = self.queue(text, true);
        for _ in 0..ROOM_ATTEMPTS {
            let Queued::Refused(text, payer, bound) = queued else {
                break;
            };
            let (core, needed) = (&self.0.core, cost(&text));
            if core.lend(payer, bound, needed) {
                queued = self.queue(text, false);
                break;
            }
            let has_room = core.make_room(payer, bound, needed);
            queued = self.queue(text, true);
            if !has_room {
                break;
            }
        }
        if let Queued::Refused(..) = queued {
            self.drop_slow();
        }
        matches!(queued, Queued::Yes)
    }

    fn queue(&self, text: Text, is_paid: bool) -> Queued {
        let mut cleared = VecDeque::new();
        let queued = self.0.tell(|outbox| {
            if !outbox.is_open {
                return (Queued::No, false);
            }
            let bytes = outbox.bytes + cost(&text);
            // One message is always taken: how long that may be is up to whoever sends.
            if outbox.bytes > 0 && bytes > self.0.core.settings.outbox_bytes_max {
                outbox.order = Some(Order::Drop);
                cleared = outbox.empty();
                return (Queued::No, true);
            }
            if is_paid && let Err(bound) = outbox.pay(&text, &self.0.core.outboxes) {
                return (Queued::Refused(text, outbox.payer, bound), false);
            }
            outbox.bytes = bytes;
            outbox.texts.push_back(text);
            (Queued::Yes, true)
        });
        drop(cleared);
        queued
    }

    /// Has the socket dropped as one that is too slow.
    fn drop_slow(&self) {
        let cleared = self.0.tell(|outbox| {
            if !outbox.is_open {
                return (VecDeque::new(), false);
            }
            outbox.order = Some(Order::Drop);
            (outbox.empty(), true)
        });
        drop(cleared);
    }

    /// Sends what is queued, then closes; after this nothing more is sent or received. The reason
    /// is cut to what a close can carry.
    pub fn close(&self, code: u16, reason: &str) {
        self.0.tell(|outbox| {
            if !outbox.is_open {
                return ((), false);
            }
            let mut end = reason.len().min(REASON_BYTES_MAX);
            while !reason.is_char_boundary(end) {
                end -= 1;
            }
            outbox.is_open = false;
            outbox.order = Some(Order::Close(code, reason[..end].to_owned()));
            ((), true)
        });
    }

    /// Lets a held socket be read again; harmless at any time, from any thread, and as often as one
    /// likes. Which hold it ends is told at [`super::Flow::Hold`].
    pub fn resume(&self) {
        self.0.tell(|outbox| {
            let before = std::mem::replace(&mut outbox.reading, Reading::Resumed);
            ((), before == Reading::Held)
        });
    }

    /// True if much more could be queued, or nothing can be queued any more.
    pub fn has_room(&self) -> bool {
        let outbox = lock(&self.0.outbox);
        !outbox.is_open || outbox.bytes < self.0.core.settings.outbox_bytes_max / 2
    }

    /// True if a text would still be queued.
    #[cfg_attr(not(test), expect(dead_code, reason = "no peer asks yet"))]
    pub fn is_open(&self) -> bool {
        lock(&self.0.outbox).is_open
    }

    #[cfg(test)]
    pub fn is_held(&self) -> bool {
        lock(&self.0.outbox).reading == Reading::Held
    }

    /// The payer for what the peer makes the server hold.
    pub fn payer(&self) -> Payer {
        lock(&self.0.outbox).payer
    }

    /// Says whether the peer has shown valid credentials. A socket for which there is no room among those
    /// without is closed.
    pub fn set_has_credentials(&self, has_credentials: bool) {
        let mut outbox = lock(&self.0.outbox);
        outbox.payer.has_credentials = has_credentials;
        let Outbox { socket, places, .. } = &mut *outbox;
        let mut charges = socket.iter_mut().chain(places);
        let is_refused = charges.any(|charge| charge.set_has_credentials(has_credentials).is_err());
        drop(outbox);
        if is_refused {
            self.close(TRY_LATER, "too many sockets without credentials");
        }
    }

    /// Takes nothing more and forgets what is queued.
    pub fn shut(&self) {
        let mut outbox = lock(&self.0.outbox);
        let left = (outbox.empty(), outbox.sending.take());
        outbox.bytes = 0;
        drop(outbox);
        drop(left);
    }

    /// The socket has ended.
    pub fn end(&self) {
        self.shut();
        lock(&self.0.outbox).socket = None;
        lock(&self.0.core.outlets).remove(&self.0.token);
    }

    /// The order to the hub, given once, and true if the socket is held. From here on news
    /// are announced again.
    pub fn take_news(&self) -> (Option<Order>, bool) {
        let mut outbox = lock(&self.0.outbox);
        outbox.is_signalled = false;
        (outbox.order.take(), outbox.reading == Reading::Held)
    }

    /// Called before the peer is given a text: a resume from here on counts against its hold.
    /// False when the peer must not be given any.
    pub fn begin_delivery(&self) -> bool {
        let mut outbox = lock(&self.0.outbox);
        outbox.reading = Reading::On;
        outbox.is_open
    }

    /// Holds the socket; false when it has been resumed since the delivery began.
    pub fn hold(&self) -> bool {
        let mut outbox = lock(&self.0.outbox);
        if outbox.reading == Reading::On {
            outbox.reading = Reading::Held;
        }
        outbox.reading == Reading::Held
    }

    /// The next text to send, when the one before (if any) is with the system.
    pub fn next(&self, before: Option<&str>) -> Option<Text> {
        let mut outbox = lock(&self.0.outbox);
        if let Some(text) = before {
            outbox.bytes = outbox.bytes.saturating_sub(cost(text));
        }
        let text = outbox.texts.pop_front();
        outbox.sending = text.clone();
        if text.is_none() {
            if outbox.texts.capacity() > PLACES_FREE {
                outbox.texts = VecDeque::new();
            }
            outbox.places = None;
        }
        text
    }
}

impl Outlet {
    /// Changes the outbox; the hub is told when that says so and it does not know already.
    fn tell<T>(&self, change: impl FnOnce(&mut Outbox) -> (T, bool)) -> T {
        let mut outbox = lock(&self.outbox);
        let (value, has_news) = change(&mut outbox);
        let must_signal = has_news && !outbox.is_signalled;
        outbox.is_signalled |= has_news;
        drop(outbox);
        if must_signal {
            self.core.post(|inbox| {
                inbox.signals.push(self.token);
                inbox.signalled.get_or_insert_with(Instant::now);
            });
        }
        value
    }
}

impl Core {
    fn links(&self) -> Vec<Link> {
        lock(&self.outlets).values().cloned().collect()
    }

    /// Takes bytes from what dropped sockets still hold of a share, which the hub gives back in a moment. False if
    /// they hold less.
    fn lend(&self, payer: Payer, bound: Exhausted, needed: usize) -> bool {
        let mut lenders = self.links();
        let mut held = 0;
        lenders.retain(|link| {
            let outbox = lock(&link.0.outbox);
            let is_over = !outbox.is_open && outbox.texts.is_empty();
            let lends = is_over && outbox.bytes > 0 && bound.counts(payer, outbox.payer);
            if lends {
                held += outbox.bytes;
            }
            lends
        });
        if held < needed {
            return false;
        }
        let mut missing = needed;
        for link in lenders {
            let mut outbox = lock(&link.0.outbox);
            let lent = outbox.bytes.min(missing);
            outbox.bytes -= lent;
            missing -= lent;
        }
        true
    }

    /// Drops the sockets with the fullest outboxes of a share until as much waits less as is needed, and a part
    /// of the budget beside, so that this is not done for each text. Sockets of other payers are dropped only
    /// if those of the share hold less than half of it, and only for texts that are charged to it. False when so
    /// much does not wait.
    fn make_room(&self, payer: Payer, bound: Exhausted, needed: usize) -> bool {
        let part = usize::try_from(self.outboxes.total() / ROOM_PART).unwrap_or(usize::MAX);
        let mut held = 0;
        let (mut full, mut others) = (Vec::new(), Vec::new());
        for link in self.links() {
            let outbox = lock(&link.0.outbox);
            let is_meant = bound.counts(payer, outbox.payer);
            let (is_open, bytes) = (outbox.is_open, outbox.bytes);
            drop(outbox);
            if is_meant {
                held += bytes;
            }
            match (is_open && bytes > 0, is_meant) {
                (true, true) => full.push((bytes, link, true)),
                (true, false) => others.push(link),
                (false, _) => {}
            }
        }
        let are_all_blamed = held as u64 >= self.outboxes.share(bound) / 2;
        for (bytes, _, is_blamed) in &mut full {
            *is_blamed = are_all_blamed || *bytes >= BLAMED_BYTES;
        }
        if !are_all_blamed {
            for link in others {
                let bytes = lock(&link.0.outbox).shared(payer, bound);
                if bytes > 0 {
                    full.push((bytes, link, false));
                }
            }
        }
        full.sort_by_key(|(bytes, _, is_blamed)| Reverse((*is_blamed, *bytes)));
        let mut freed = 0;
        for (bytes, link, is_blamed) in full {
            if freed >= needed.max(part) || (freed >= needed && !is_blamed) {
                break;
            }
            link.drop_slow();
            freed += bytes;
        }
        freed >= needed
    }
}
