//! Texts that wait to be sent to one socket, and their charges.
//!
//! A [`Text`] is stored once for all send queues that hold it, and charged once, to the payer of
//! the first of them. Each send queue also pays for its queue slots. When a charge is refused, the
//! fullest send queues that use up the share are emptied and their sockets dropped. Clients that
//! read what they are sent are therefore not disconnected because of clients that do not.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::{Arc, Mutex, OnceLock};

use crate::base::budget::{Budget, Charge, Exhausted, Payer};
use crate::base::threads::lock;

/// Added to the bytes of each queued text, so that the number of empty texts is bounded too.
const TEXT_COST: usize = 64;
/// Queue slots of a send queue that are not charged. Further slots are charged in steps.
pub const SLOTS_FREE: usize = 32;
const SLOTS_STEP: usize = 64;
/// Bytes charged for a slot: a pointer, and the spare capacity of a growing queue.
const SLOT_BYTES: usize = 16;
/// A smaller send queue is dropped only if all send queues of the share together hold half of it.
const DROPPED_BYTES_MIN: usize = 16 << 10;
/// Making room frees at least this part (1/16) of the budget at a time.
const ROOM_PART: u64 = 16;

/// A text to send. Clones share the same bytes.
#[derive(Clone)]
pub struct Text(Arc<TextInner>);

struct TextInner {
    text: Box<str>,
    /// Paid by the first send queue that queued the text.
    charge: OnceLock<Charge>,
}

impl From<String> for Text {
    fn from(text: String) -> Text {
        Text(Arc::new(TextInner {
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
            // If another thread was faster, its charge stays and this one is released.
            let _ = self.0.charge.set(charge);
        }
        Ok(())
    }
}

/// Bytes that a text counts for.
pub fn cost(text: &str) -> usize {
    text.len() + TEXT_COST
}

/// The send queue of one socket, shared by its handles and the hub thread.
pub struct SendQueue {
    pub token: u64,
    pub state: Mutex<SendQueueState>,
}

pub struct SendQueueState {
    pub texts: VecDeque<Text>,
    /// The text that the hub is sending.
    pub sending: Option<Text>,
    /// Cost of the texts that the system does not have completely. For a dropped socket, the bytes
    /// that the hub has yet to release, less those that [`borrow_from_dropped`] has taken.
    pub bytes: usize,
    pub payer: Payer,
    /// For the socket itself, until it has ended.
    pub socket: Option<Charge>,
    /// For queue slots above [`SLOTS_FREE`].
    pub slots: Option<Charge>,
    pub is_open: bool,
    pub order: Option<Order>,
    pub reading: Reading,
    /// The hub has been notified and has not looked yet.
    pub is_signalled: bool,
}

/// The hub's permission to read from the socket.
#[derive(PartialEq, Eq)]
pub enum Reading {
    Allowed,
    /// Allowed, and a pause requested by the handler call in progress is ignored.
    Resumed,
    /// Not allowed until a resume.
    Paused,
}

/// An order to the hub about the socket.
pub enum Order {
    /// Send what is queued, then close with a code and a reason.
    Close(u16, String),
    /// Drop the socket: it is too slow.
    Drop,
}

impl SendQueue {
    pub fn new(token: u64, payer: Payer, socket: Charge) -> SendQueue {
        SendQueue {
            token,
            state: Mutex::new(SendQueueState {
                texts: VecDeque::new(),
                sending: None,
                bytes: 0,
                payer,
                socket: Some(socket),
                slots: None,
                is_open: true,
                order: None,
                reading: Reading::Allowed,
                is_signalled: false,
            }),
        }
    }
}

impl SendQueueState {
    /// Charges a text and its queue slot.
    pub fn pay(&mut self, text: &Text, budget: &Arc<Budget>) -> Result<(), Exhausted> {
        text.charge(budget, self.payer)?;
        let used = self.texts.len();
        if used >= SLOTS_FREE && (used - SLOTS_FREE).is_multiple_of(SLOTS_STEP) {
            let step = (SLOTS_STEP * SLOT_BYTES) as u64;
            match &mut self.slots {
                Some(slots) => slots.grow(step)?,
                None => self.slots = Some(budget.charge(self.payer, step)?),
            }
        }
        Ok(())
    }

    /// Closes the send queue and returns the queued texts. The caller drops them after releasing
    /// the lock.
    pub fn close(&mut self) -> VecDeque<Text> {
        self.is_open = false;
        self.slots = None;
        self.bytes = self.sending.as_deref().map_or(0, cost);
        std::mem::take(&mut self.texts)
    }

    /// Bytes of the texts here that count for the bound which refused a charge to `payer`.
    fn counted_bytes(&self, payer: Payer, bound: Exhausted) -> usize {
        let texts = self.texts.iter().chain(&self.sending);
        let counted = texts.filter(|text| {
            let charge = text.0.charge.get();
            charge.is_some_and(|charge| bound.counts(payer, charge.payer()))
        });
        counted.map(|text| cost(text)).sum()
    }
}

/// Takes `needed` bytes from what dropped sockets of a share still hold and the hub is about to
/// release. Returns false if they hold less.
pub fn borrow_from_dropped(
    mut send_queues: Vec<Arc<SendQueue>>,
    payer: Payer,
    bound: Exhausted,
    needed: usize,
) -> bool {
    let mut held = 0;
    send_queues.retain(|send_queue| {
        let state = lock(&send_queue.state);
        let is_over = !state.is_open && state.texts.is_empty();
        let lends = is_over && state.bytes > 0 && bound.counts(payer, state.payer);
        if lends {
            held += state.bytes;
        }
        lends
    });
    if held < needed {
        return false;
    }
    let mut missing = needed;
    for send_queue in send_queues {
        let mut state = lock(&send_queue.state);
        let lent = state.bytes.min(missing);
        state.bytes -= lent;
        missing -= lent;
    }
    true
}

/// Selects the send queues to drop so that `needed` bytes of a share become free, fullest first.
///
/// More are selected until a part of the budget becomes free, so that this is not repeated for each
/// text. Send queues of other payers are selected only if those of the share hold less than half of
/// it, and only for texts that are charged to the share. The second value is false if dropping all
/// of them would not free enough.
pub fn select_to_drop(
    send_queues: Vec<Arc<SendQueue>>,
    budget: &Budget,
    payer: Payer,
    bound: Exhausted,
    needed: usize,
) -> (Vec<Arc<SendQueue>>, bool) {
    let part = usize::try_from(budget.total() / ROOM_PART).unwrap_or(usize::MAX);
    let mut held = 0;
    let (mut full, mut others) = (Vec::new(), Vec::new());
    for send_queue in send_queues {
        let state = lock(&send_queue.state);
        let is_of_share = bound.counts(payer, state.payer);
        let (is_open, bytes) = (state.is_open, state.bytes);
        drop(state);
        if is_of_share {
            held += bytes;
        }
        match (is_open && bytes > 0, is_of_share) {
            (true, true) => full.push((bytes, send_queue, true)),
            (true, false) => others.push(send_queue),
            (false, _) => {}
        }
    }
    let is_share_half_used = held as u64 >= budget.share(bound) / 2;
    for (bytes, _, comes_first) in &mut full {
        *comes_first = is_share_half_used || *bytes >= DROPPED_BYTES_MIN;
    }
    if !is_share_half_used {
        for send_queue in others {
            let bytes = lock(&send_queue.state).counted_bytes(payer, bound);
            if bytes > 0 {
                full.push((bytes, send_queue, false));
            }
        }
    }
    full.sort_by_key(|(bytes, _, comes_first)| Reverse((*comes_first, *bytes)));
    let mut freed = 0;
    let mut selected = Vec::new();
    for (bytes, send_queue, comes_first) in full {
        if freed >= needed.max(part) || (freed >= needed && !comes_first) {
            break;
        }
        freed += bytes;
        selected.push(send_queue);
    }
    (selected, freed >= needed)
}
