//! Budgets: bounds on the resources that clients make this server hold, in total and per client.
//!
//! Each [`Budget`] counts one resource (bytes, sockets, waiting queries). A [`Charge`] reserves an
//! amount for a [`Payer`] and releases it when it is dropped. An amount is granted only if it fits
//! three bounds at once: the total, the share of one [`Network`], and the share of all callers
//! without credentials together. One network therefore cannot starve others, and anonymous callers
//! cannot starve callers with credentials.
//!
//! Invariants, under the lock of a budget: `total` is the sum of `networks`; `anonymous <= total`;
//! a network without a charge has no entry, so the table is never larger than the number of
//! charges.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::base::error::{Error, Kind};
use crate::base::threads::lock;

/// The addresses that one customer of a provider usually has: one IPv4 address, or one IPv6 /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Network {
    V4(u32),
    V6(u64),
}

impl Network {
    /// The larger network that one customer of a provider may have: the /48 of an IPv6 address.
    pub fn site(self) -> Option<u64> {
        match self {
            Network::V4(_) => None,
            Network::V6(bits) => Some(bits >> 16),
        }
    }

    /// The network of an address. An IPv4 address inside an IPv6 one counts as IPv4.
    pub fn of(address: IpAddr) -> Network {
        match address.to_canonical() {
            IpAddr::V4(address) => Network::V4(address.to_bits()),
            IpAddr::V6(address) => Network::V6((address.to_bits() >> 64) as u64),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Network::V4(bits) => Ipv4Addr::from_bits(*bits).fmt(f),
            Network::V6(bits) => Ipv6Addr::from_bits(u128::from(*bits) << 64).fmt(f),
        }
    }
}

/// The caller that an amount is charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payer {
    pub network: Network,
    /// False for callers without valid credentials, who share one allowance.
    pub has_credentials: bool,
}

/// The bounds of a budget, all in its unit.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// All callers together.
    pub total: u64,
    /// One network.
    pub network: u64,
    /// All callers without credentials together.
    pub anonymous: u64,
}

impl Bounds {
    /// One network may hold half of the total, rounded up so that it is never 0; the same holds for
    /// all callers without credentials.
    const fn halves(total: u64) -> Bounds {
        Bounds {
            total,
            network: total.div_ceil(2),
            anonymous: total.div_ceil(2),
        }
    }
}

/// The bound that refused an amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exhausted {
    Total,
    Network,
    Anonymous,
}

/// Bytes of messages that sockets have not sent yet. The shares are large because the fullest
/// send queues are emptied to make room.
const SEND_QUEUE_BYTES: Bounds = Bounds {
    total: 64 << 20,
    network: 48 << 20,
    anonymous: 48 << 20,
};

/// Subscriptions of all connections.
const SUBSCRIPTIONS: u64 = 50_000;
/// Bytes of subscriptions and their prepared filters.
const FILTER_BYTES: u64 = 64 << 20;
/// Most waiting password hashes; each blocks a worker.
const HASHES_MAX: u64 = 16;

/// Bytes of waiting frames of workers. A peer without credentials sends only its hello.
const FRAME_BYTES: Bounds = Bounds {
    total: 64 << 20,
    network: 48 << 20,
    anonymous: 4 << 20,
};

/// All budgets of the server.
pub struct Budgets {
    /// Number of sockets and event streams.
    pub sockets: Arc<Budget>,
    /// Bytes of messages that sockets and event streams have not sent yet.
    pub send_queues: Arc<Budget>,
    /// Number of subscriptions to changes.
    pub subscriptions: Arc<Budget>,
    /// Bytes of subscriptions and their prepared filters.
    pub filters: Arc<Budget>,
    /// Bytes of frames that wait for the workflow engine.
    pub frames: Arc<Budget>,
    pub queries: Arc<Queries>,
    /// Bytes of bodies that are being received or parsed.
    pub bodies: Arc<Budget>,
    /// Bytes on disk of files that are being received.
    pub uploads: Arc<Budget>,
    /// Bytes of responses that are being built, compressed or sent.
    pub answers: Arc<Budget>,
    /// Number of passwords that wait to be hashed.
    pub hashes: Arc<Budget>,
    /// Number of sign-ins that ask a provider.
    pub sign_ins: Arc<Budget>,
}

/// The budgets of queries, counted in queries.
pub struct Queries {
    /// Queries that run for longer than a second.
    pub slow: Arc<Budget>,
    /// Queries that wait for a reader for too long.
    pub waiting: Arc<Budget>,
}

impl Queries {
    /// The budgets for the queries of `workers` threads. The slow queries leave a third of the
    /// readers of a database to quick ones; the waiting queries leave half of the workers free.
    pub fn new(workers: usize) -> Queries {
        let workers = workers as u64;
        let slow = Bounds {
            total: 8,
            network: 4,
            anonymous: 4,
        };
        let waiting = Bounds {
            total: (workers / 2).max(1),
            network: (workers * 3 / 8).max(1),
            anonymous: (workers * 3 / 8).max(1),
        };
        Queries {
            slow: Budget::new("slow queries", slow),
            waiting: Budget::new("waiting queries", waiting),
        }
    }
}

/// Bounds in MiB.
const fn mib(total: u64, network: u64, anonymous: u64) -> Bounds {
    Bounds {
        total: total << 20,
        network: network << 20,
        anonymous: anonymous << 20,
    }
}

const BODIES: Bounds = mib(64, 32, 40);
const ANSWERS: Bounds = mib(96, 48, 64);
/// Files of the largest permitted size that may be received at a time.
const UPLOADS_MAX: u64 = 64;

impl Budgets {
    /// The budgets for `sockets_max` sockets, `workers` threads that answer requests, and uploads
    /// of `upload_bytes_max`.
    pub fn new(sockets_max: usize, workers: usize, upload_bytes_max: u64) -> Budgets {
        let uploads = Bounds {
            total: UPLOADS_MAX * upload_bytes_max,
            network: UPLOADS_MAX / 2 * upload_bytes_max,
            anonymous: UPLOADS_MAX / 4 * upload_bytes_max,
        };
        // One network may use all of it while no other needs any, see `auth::hasher`.
        let hashes = (workers as u64 / 2).clamp(1, HASHES_MAX);
        let hashes = Bounds {
            total: hashes,
            network: hashes,
            anonymous: hashes,
        };
        Budgets {
            sockets: Budget::new("sockets", Bounds::halves(sockets_max as u64)),
            send_queues: Budget::new("socket outboxes", SEND_QUEUE_BYTES),
            subscriptions: Budget::new("subscriptions", Bounds::halves(SUBSCRIPTIONS)),
            filters: Budget::new("subscription filters", Bounds::halves(FILTER_BYTES)),
            frames: Budget::new("worker frames", FRAME_BYTES),
            queries: Arc::new(Queries::new(workers)),
            bodies: Budget::new("request bodies", BODIES),
            uploads: Budget::new("uploads", uploads),
            answers: Budget::new("answers", ANSWERS),
            hashes: Budget::new("password hashes", hashes),
            sign_ins: Budget::new("sign-ins", Bounds::halves((workers as u64 / 4).max(2))),
        }
    }

    /// All budgets, for metrics.
    pub fn all(&self) -> [&Budget; 12] {
        [
            &self.sockets,
            &self.send_queues,
            &self.subscriptions,
            &self.filters,
            &self.frames,
            &self.queries.slow,
            &self.queries.waiting,
            &self.bodies,
            &self.uploads,
            &self.answers,
            &self.hashes,
            &self.sign_ins,
        ]
    }
}

/// The bounds and the use of one resource. The module documentation has its invariants.
pub struct Budget {
    /// The name in metrics and messages, such as `request bodies`.
    name: &'static str,
    bounds: Bounds,
    used: Mutex<Used>,
    refused: AtomicU64,
}

#[derive(Default)]
struct Used {
    total: u64,
    /// The largest total since [`Budget::take_peak`].
    peak: u64,
    anonymous: u64,
    networks: HashMap<Network, u64>,
}

impl Budget {
    pub fn new(name: &'static str, bounds: Bounds) -> Arc<Budget> {
        Arc::new(Budget {
            name,
            bounds,
            used: Mutex::default(),
            refused: AtomicU64::new(0),
        })
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The bound of all callers together.
    pub fn total(&self) -> u64 {
        self.bounds.total
    }

    /// The amount that a bound allows.
    pub fn share(&self, bound: Exhausted) -> u64 {
        match bound {
            Exhausted::Total => self.bounds.total,
            Exhausted::Network => self.bounds.network,
            Exhausted::Anonymous => self.bounds.anonymous,
        }
    }

    /// The amount that all callers hold.
    pub fn used(&self) -> u64 {
        lock(&self.used).total
    }

    /// The largest amount that callers have held since the last call.
    pub fn take_peak(&self) -> u64 {
        let mut used = lock(&self.used);
        let total = used.total;
        std::mem::replace(&mut used.peak, total)
    }

    /// Number of refusals since the start.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// A charge of amount 0.
    pub fn empty(self: &Arc<Budget>, payer: Payer) -> Charge {
        Charge {
            budget: Arc::clone(self),
            payer,
            amount: 0,
        }
    }

    /// Reserves an amount for a payer until the charge is dropped. An amount of 0 is always
    /// granted.
    pub fn charge(self: &Arc<Budget>, payer: Payer, amount: u64) -> Result<Charge, Exhausted> {
        let mut charge = self.empty(payer);
        charge.grow(amount)?;
        Ok(charge)
    }

    fn reserve(&self, payer: Payer, amount: u64) -> Result<(), Exhausted> {
        if amount == 0 {
            return Ok(());
        }
        let mut used = lock(&self.used);
        if let Err(exhausted) = self.check(&used, payer, amount) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(exhausted);
        }
        used.total += amount;
        used.peak = used.peak.max(used.total);
        *used.networks.entry(payer.network).or_default() += amount;
        if !payer.has_credentials {
            used.anonymous += amount;
        }
        Ok(())
    }

    /// Fails if an amount of 1 would be refused to a payer.
    pub fn check_room(&self, payer: Payer) -> Result<(), Exhausted> {
        self.check(&lock(&self.used), payer, 1)
    }

    /// Counts a refusal after [`Budget::check_room`] has failed.
    pub fn count_refusal(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    fn check(&self, used: &Used, payer: Payer, amount: u64) -> Result<(), Exhausted> {
        let of_network = used.networks.get(&payer.network).copied().unwrap_or(0);
        let exceeds = |used: u64, bound: u64| used.saturating_add(amount) > bound;
        if exceeds(used.total, self.bounds.total) {
            Err(Exhausted::Total)
        } else if exceeds(of_network, self.bounds.network) {
            Err(Exhausted::Network)
        } else if !payer.has_credentials && exceeds(used.anonymous, self.bounds.anonymous) {
            Err(Exhausted::Anonymous)
        } else {
            Ok(())
        }
    }

    /// Moves an amount from the anonymous share to payers with credentials, or back.
    fn move_anonymous(&self, amount: u64, has_credentials: bool) -> Result<(), Exhausted> {
        let mut used = lock(&self.used);
        if has_credentials {
            used.anonymous -= amount;
        } else if used.anonymous.saturating_add(amount) > self.bounds.anonymous {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Exhausted::Anonymous);
        } else {
            used.anonymous += amount;
        }
        Ok(())
    }

    fn release(&self, payer: Payer, amount: u64) {
        if amount == 0 {
            return;
        }
        let mut used = lock(&self.used);
        used.total -= amount;
        if !payer.has_credentials {
            used.anonymous -= amount;
        }
        if let Some(of_network) = used.networks.get_mut(&payer.network) {
            *of_network -= amount;
            if *of_network == 0 {
                used.networks.remove(&payer.network);
            }
        }
    }
}

/// An amount of a budget; dropping it releases the amount.
pub struct Charge {
    budget: Arc<Budget>,
    payer: Payer,
    amount: u64,
}

impl Charge {
    pub fn payer(&self) -> Payer {
        self.payer
    }

    pub fn amount(&self) -> u64 {
        self.amount
    }

    /// Reserves more. A refusal leaves the charge unchanged.
    pub fn grow(&mut self, more: u64) -> Result<(), Exhausted> {
        self.budget.reserve(self.payer, more)?;
        self.amount += more;
        Ok(())
    }

    /// Moves the charge to a payer with or without credentials in the same network. A refusal
    /// leaves the charge unchanged.
    pub fn set_has_credentials(&mut self, has_credentials: bool) -> Result<(), Exhausted> {
        if has_credentials != self.payer.has_credentials {
            self.budget.move_anonymous(self.amount, has_credentials)?;
            self.payer.has_credentials = has_credentials;
        }
        Ok(())
    }

    /// Releases the part above `amount`.
    pub fn shrink_to(&mut self, amount: u64) {
        let less = self.amount.saturating_sub(amount);
        self.amount -= less;
        self.budget.release(self.payer, less);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

/// The charge for a response while it is built and sent. Clones share one charge. The default is
/// free.
#[derive(Clone, Default)]
pub struct OutputCharge(Option<Arc<Paid>>);

struct Paid {
    /// A response up to this length needs no lock: the free part, or the charged length.
    bytes: AtomicU64,
    charge: Mutex<Charge>,
}

/// Bytes of a response that are free.
const OUTPUT_FREE_BYTES: u64 = 64 << 10;
/// Bytes by which the charge of a response grows at a time.
const OUTPUT_STEP_BYTES: u64 = 256 << 10;

impl OutputCharge {
    /// The charge of a response that grows within a budget.
    pub fn new(budget: &Arc<Budget>, payer: Payer) -> OutputCharge {
        OutputCharge(Some(Arc::new(Paid {
            bytes: AtomicU64::new(OUTPUT_FREE_BYTES),
            charge: Mutex::new(budget.empty(payer)),
        })))
    }

    /// Charges a response that has, or is about to have, this length. Called for each of its
    /// values, so it locks only when the charge grows.
    pub fn reach(&self, bytes: usize) -> Result<(), Error> {
        let bytes = bytes as u64;
        let Some(paid) = &self.0 else {
            return Ok(());
        };
        if bytes <= paid.bytes.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut charge = lock(&paid.charge);
        let wanted = bytes.next_multiple_of(OUTPUT_STEP_BYTES);
        // A clone may have charged it meanwhile.
        let more = wanted.saturating_sub(charge.amount);
        let granted = charge.grow(more);
        granted.map_err(|exhausted| exhausted.into_error(charge.budget.name))?;
        paid.bytes.store(charge.amount, Ordering::Relaxed);
        Ok(())
    }
}

impl Exhausted {
    /// True if amounts of `other` count towards the bound that was exhausted for `payer`.
    pub fn counts(self, payer: Payer, other: Payer) -> bool {
        match self {
            Exhausted::Total => true,
            Exhausted::Network => other.network == payer.network,
            Exhausted::Anonymous => !other.has_credentials,
        }
    }

    /// The error for a request that needs more of `name` than is free: 429 if the caller's own
    /// network holds the rest, else 503.
    pub fn into_error(self, name: &str) -> Error {
        let (kind, message) = match self {
            Exhausted::Network => (
                Kind::TooMany,
                format!("Your network has used its share of {name}; try again later."),
            ),
            Exhausted::Anonymous => (
                Kind::Unavailable,
                format!(
                    "Callers without credentials have used their share of {name}; try again later."
                ),
            ),
            Exhausted::Total => (
                Kind::Unavailable,
                format!("The server's budget for {name} is used up; try again later."),
            ),
        };
        Error::new(kind, message).with_retry_after(Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests;
