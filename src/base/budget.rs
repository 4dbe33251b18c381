//! Budgets: bounds on what peers make this server hold, and on how much of it one of them may hold.
//!
//! Each [`Budget`] counts one resource (bytes, sockets, waiting queries). A [`Charge`] takes an
//! amount for a [`Payer`] and gives it back when it is dropped. An amount is granted only if it
//! fits three bounds at once: the total, the share of one [`Network`], and the share of all callers
//! without credentials together. So one network cannot take what others need, and strangers
//! together cannot take what callers with credentials need.
//!
//! Invariants, under the lock of a budget: `total` is the sum of `networks`; `anonymous <= total`;
//! a network that holds nothing has no entry, so the table is never larger than the number of
//! charges.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::base::error::{Error, Kind};
use crate::base::threads::lock;

/// The addresses that one customer of a provider usually has: an IPv4 address, or an IPv6 /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Network {
    V4(u32),
    V6(u64),
}

impl Network {
    /// The wider network that one customer of a provider may have: of an IPv6 address the /48.
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
    /// One network may hold half of it, rounded up so that each may hold some, and so may all callers without
    /// credentials.
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

/// Bytes of texts that sockets have not taken yet. The shares are large because the fullest outboxes make room.
const OUTBOX_BYTES: Bounds = Bounds {
    total: 64 << 20,
    network: 48 << 20,
    anonymous: 48 << 20,
};

/// Subscriptions of all connections.
const SUBSCRIPTIONS: u64 = 50_000;
/// Bytes that subscriptions and their prepared filters take up.
const FILTER_BYTES: u64 = 64 << 20;
/// Most password hashes that wait; each holds a worker.
const HASHES_MAX: u64 = 16;

/// Bytes of frames of workers that wait. A peer without credentials sends only its hello.
const FRAME_BYTES: Bounds = Bounds {
    total: 64 << 20,
    network: 48 << 20,
    anonymous: 4 << 20,
};

/// All budgets of the server.
pub struct Budgets {
    /// Sockets and streams of events, in number.
    pub sockets: Arc<Budget>,
    /// Bytes of texts that sockets and streams of events have not taken yet.
    pub outboxes: Arc<Budget>,
    /// Subscriptions to changes, in number.
    pub subscriptions: Arc<Budget>,
    /// Bytes that subscriptions and their prepared filters take up.
    pub filters: Arc<Budget>,
    /// Bytes of frames of workers that wait for the engine of workflows.
    pub frames: Arc<Budget>,
    pub queries: Arc<Queries>,
    /// Bytes of bodies that are received and parsed.
    pub bodies: Arc<Budget>,
    /// Bytes on the disk of files that are received.
    pub uploads: Arc<Budget>,
    /// Bytes of answers that are built, compressed and sent.
    pub answers: Arc<Budget>,
    /// Passwords that wait to be hashed, in number.
    pub hashes: Arc<Budget>,
}

/// The budgets of queries, in number.
pub struct Queries {
    /// Those that run for longer than a second.
    pub slow: Arc<Budget>,
    /// Those that wait for a reader that is late.
    pub waiting: Arc<Budget>,
}

impl Queries {
    /// The budgets for queries that `workers` threads ask. With all slow ones running, a third of the
    /// readers of a database is left to quick ones; with all waiting ones, half of the workers.
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

/// Whole mebibytes.
const fn mib(total: u64, network: u64, anonymous: u64) -> Bounds {
    Bounds {
        total: total << 20,
        network: network << 20,
        anonymous: anonymous << 20,
    }
}

const BODIES: Bounds = mib(64, 32, 40);
const ANSWERS: Bounds = mib(96, 48, 64);
/// Files that may be received at a time, of the largest that there may be.
const UPLOADS_MAX: u64 = 64;

impl Budgets {
    /// The budgets for `sockets_max` sockets, `workers` threads that answer requests, and uploads of
    /// `upload_bytes_max`.
    pub fn new(sockets_max: usize, workers: usize, upload_bytes_max: u64) -> Budgets {
        let uploads = Bounds {
            total: UPLOADS_MAX * upload_bytes_max,
            network: UPLOADS_MAX / 2 * upload_bytes_max,
            anonymous: UPLOADS_MAX / 4 * upload_bytes_max,
        };
        // One network may have all while no other wants any, see `auth::hasher`.
        let hashes = (workers as u64 / 2).clamp(1, HASHES_MAX);
        let hashes = Bounds {
            total: hashes,
            network: hashes,
            anonymous: hashes,
        };
        Budgets {
            sockets: Budget::new("sockets", Bounds::halves(sockets_max as u64)),
            outboxes: Budget::new("socket outboxes", OUTBOX_BYTES),
            subscriptions: Budget::new("subscriptions", Bounds::halves(SUBSCRIPTIONS)),
            filters: Budget::new("subscription filters", Bounds::halves(FILTER_BYTES)),
            frames: Budget::new("worker frames", FRAME_BYTES),
            queries: Arc::new(Queries::new(workers)),
            bodies: Budget::new("request bodies", BODIES),
            uploads: Budget::new("uploads", uploads),
            answers: Budget::new("answers", ANSWERS),
            hashes: Budget::new("password hashes", hashes),
        }
    }

    /// Each of them, for metrics.
    pub fn all(&self) -> [&Budget; 11] {
        [
            &self.sockets,
            &self.outboxes,
            &self.subscriptions,
            &self.filters,
            &self.frames,
            &self.queries.slow,
            &self.queries.waiting,
            &self.bodies,
            &self.uploads,
            &self.answers,
            &self.hashes,
        ]
    }
}

/// One resource that peers make the server hold. See the module documentation for its invariants.
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
    /// The largest total since it was last asked for.
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

    /// The amount that all callers hold now.
    pub fn used(&self) -> u64 {
        lock(&self.used).total
    }

    /// The largest amount that callers have held since the last call.
    pub fn take_peak(&self) -> u64 {
        let mut used = lock(&self.used);
        let total = used.total;
        std::mem::replace(&mut used.peak, total)
    }

    /// Amounts refused since the start.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// A charge of nothing, to grow.
    pub fn empty(self: &Arc<Budget>, payer: Payer) -> Charge {
        Charge {
            budget: Arc::clone(self),
            payer,
            amount: 0,
        }
    }

    /// Takes an amount for a payer until the charge is dropped. An amount of 0 is always granted.
    pub fn charge(self: &Arc<Budget>, payer: Payer, amount: u64) -> Result<Charge, Exhausted> {
        let mut charge = self.empty(payer);
        charge.grow(amount)?;
        Ok(charge)
    }

    fn take(&self, payer: Payer, amount: u64) -> Result<(), Exhausted> {
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

    /// Fails if a payer would not get one now.
    pub fn check_room(&self, payer: Payer) -> Result<(), Exhausted> {
        self.check(&lock(&self.used), payer, 1)
    }

    /// Counts a refusal that [`Budget::check_room`] was the reason for.
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

    /// An amount of an anonymous payer becomes one of a payer with credentials, or the reverse.
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

    fn give_back(&self, payer: Payer, amount: u64) {
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

/// An amount of a budget, given back when it is dropped.
pub struct Charge {
    budget: Arc<Budget>,
    payer: Payer,
    amount: u64,
}

impl Charge {
    pub fn payer(&self) -> Payer {
        self.payer
    }

    /// The amount that it holds.
    pub fn amount(&self) -> u64 {
        self.amount
    }

    /// Takes more. What the charge holds already stays when that is refused.
    pub fn grow(&mut self, more: u64) -> Result<(), Exhausted> {
        self.budget.take(self.payer, more)?;
        self.amount += more;
        Ok(())
    }

    /// Charges the same network, as a caller with or without credentials from now on. When that is refused,
    /// nothing changes.
    pub fn set_has_credentials(&mut self, has_credentials: bool) -> Result<(), Exhausted> {
        if has_credentials != self.payer.has_credentials {
            self.budget.move_anonymous(self.amount, has_credentials)?;
            self.payer.has_credentials = has_credentials;
        }
        Ok(())
    }

    /// Gives back all above `amount`.
    pub fn shrink_to(&mut self, amount: u64) {
        let less = self.amount.saturating_sub(amount);
        self.amount -= less;
        self.budget.give_back(self.payer, less);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

/// The charge for an answer while it is built and sent. Copies of it are one charge. The default counts
/// nothing.
#[derive(Clone, Default)]
pub struct Output(Option<Arc<Paid>>);

struct Paid {
    /// An answer up to this length needs no lock: the free part, or all that is charged.
    bytes: AtomicU64,
    charge: Mutex<Charge>,
}

/// Bytes of an answer that are free.
const OUTPUT_FREE_BYTES: u64 = 64 << 10;
/// Steps by which the charge of an answer grows.
const OUTPUT_STEP_BYTES: u64 = 256 << 10;

impl Output {
    /// An answer that grows within a budget.
    pub fn new(budget: &Arc<Budget>, payer: Payer) -> Output {
        Output(Some(Arc::new(Paid {
            bytes: AtomicU64::new(OUTPUT_FREE_BYTES),
            charge: Mutex::new(budget.empty(payer)),
        })))
    }

    /// Charges an answer that has, or is about to have, this length. Called for each value of it, so the
    /// lock is taken only when the charge grows.
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
        // A copy may have charged it meanwhile.
        let more = wanted.saturating_sub(charge.amount);
        let granted = charge.grow(more);
        granted.map_err(|exhausted| exhausted.into_error(charge.budget.name))?;
        paid.bytes.store(charge.amount, Ordering::Relaxed);
        Ok(())
    }
}

impl Exhausted {
    /// True if amounts of `other` count for the bound that refused one to `payer`.
    pub fn counts(self, payer: Payer, other: Payer) -> bool {
        match self {
            Exhausted::Total => true,
            Exhausted::Network => other.network == payer.network,
            Exhausted::Anonymous => !other.has_credentials,
        }
    }

    /// The answer to a request that needs more of `name` than there is: 429 where the caller's own
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
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        total: 100,
        network: 60,
        anonymous: 80,
    };

    fn from(address: &str, has_credentials: bool) -> Payer {
        let network = Network::of(address.parse().unwrap());
        Payer {
            network,
            has_credentials,
        }
    }

    #[test]
    fn each_of_the_three_bounds_refuses_by_itself() {
        let budget = Budget::new("bytes", BOUNDS);
        let (a, b) = (from("10.0.0.1", false), from("10.0.0.2", false));
        let known = from("10.0.0.3", true);
        let first = budget.charge(a, 60).unwrap();
        assert_eq!(budget.charge(a, 1).err(), Some(Exhausted::Network));
        let second = budget.charge(b, 20).unwrap();
        assert_eq!(budget.charge(b, 1).err(), Some(Exhausted::Anonymous));
        let third = budget.charge(known, 20).unwrap();
        assert_eq!(budget.charge(known, 1).err(), Some(Exhausted::Total));
        assert_eq!((budget.used(), budget.refused()), (100, 3));
        drop((first, second, third));
        assert_eq!(budget.used(), 0);
        assert!(lock(&budget.used).networks.is_empty());
        assert_eq!(lock(&budget.used).anonymous, 0);
    }

    /// Half of one socket was none: a server with `MAX_SOCKETS=1` refused all.
    #[test]
    fn the_smallest_numbers_leave_something_to_each() {
        for (sockets, share) in [(1, 1), (2, 1), (3, 2)] {
            let budgets = Budgets::new(sockets, 1, 1);
            let stranger = from("10.0.0.1", false);
            let granted: Vec<Charge> = (0..4)
                .map_while(|_| budgets.sockets.charge(stranger, 1).ok())
                .collect();
            assert_eq!(granted.len(), share);
            for budget in budgets.all() {
                let Bounds {
                    total,
                    network,
                    anonymous,
                } = budget.bounds;
                assert!(0 < network.min(anonymous), "{}", budget.name);
                assert!(network.max(anonymous) <= total, "{}", budget.name);
            }
        }
    }

    #[test]
    fn a_refused_growth_leaves_the_charge_as_it_was() {
        let budget = Budget::new("bytes", BOUNDS);
        let payer = from("10.0.0.1", true);
        let mut charge = budget.charge(payer, 50).unwrap();
        assert_eq!(charge.grow(11), Err(Exhausted::Network));
        assert_eq!(charge.grow(u64::MAX), Err(Exhausted::Total));
        assert_eq!(charge.amount, 50);
        charge.grow(10).unwrap();
        charge.shrink_to(5);
        assert_eq!((charge.amount, budget.used()), (5, 5));
    }

    #[test]
    fn a_charge_follows_who_signs_in_and_out() {
        let budget = Budget::new("bytes", BOUNDS);
        let mut charge = budget.charge(from("10.0.0.1", false), 50).unwrap();
        charge.set_has_credentials(true).unwrap();
        charge.set_has_credentials(true).unwrap();
        assert_eq!(lock(&budget.used).anonymous, 0);
        let other = budget.charge(from("10.0.0.2", false), 40).unwrap();
        assert_eq!(charge.set_has_credentials(false), Err(Exhausted::Anonymous));
        assert_eq!(lock(&budget.used).anonymous, 40);
        drop(other);
        charge.set_has_credentials(false).unwrap();
        assert_eq!(lock(&budget.used).anonymous, 50);
        drop(charge);
        assert_eq!((budget.used(), lock(&budget.used).anonymous), (0, 0));
    }

    #[test]
    fn an_answer_is_charged_in_steps_and_given_back_with_its_last_copy() {
        let bounds = Bounds {
            total: 3 * OUTPUT_STEP_BYTES,
            ..mib(1, 1, 1)
        };
        let budget = Budget::new("bytes", bounds);
        let output = Output::new(&budget, from("10.0.0.1", true));
        output.reach(64 << 10).unwrap();
        assert_eq!(budget.used(), 0);
        output.reach((64 << 10) + 1).unwrap();
        let copy = output.clone();
        copy.reach(256 << 10).unwrap();
        assert_eq!(budget.used(), 256 << 10);
        copy.reach((512 << 10) + 1).unwrap();
        assert!(output.reach((768 << 10) + 1).is_err());
        // What is charged needs the lock no more.
        let held = lock(&output.0.as_ref().unwrap().charge);
        copy.reach(768 << 10).unwrap();
        drop(held);
        assert_eq!(budget.used(), 768 << 10);
        drop(output);
        assert_eq!(budget.used(), 768 << 10);
        drop(copy);
        assert_eq!((budget.used(), budget.take_peak()), (0, 768 << 10));
        assert_eq!(budget.take_peak(), 0);
        Output::default().reach(usize::MAX).unwrap();
    }

    #[test]
    fn neighbours_in_one_network_are_one_payer() {
        let of = |text: &str| Network::of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }

    #[test]
    fn many_threads_give_back_all_that_they_take() {
        let budget = Budget::new("bytes", BOUNDS);
        std::thread::scope(|scope| {
            for at in 0..8 {
                let budget = &budget;
                scope.spawn(move || {
                    let payer = from(&format!("10.0.0.{}", at % 3), at % 2 == 0);
                    for amount in 0..2000 {
                        let charge = budget.charge(payer, amount % 40);
                        assert!(budget.used() <= BOUNDS.total);
                        drop(charge);
                    }
                });
            }
        });
        assert_eq!(budget.used(), 0);
        assert!(lock(&budget.used).networks.is_empty());
    }
}
