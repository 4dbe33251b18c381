//! How often log-ins may fail and mails be asked for: per account and address, per account, and per address.
//!
//! Each of the three has a table of [`SLOTS`] times, picked by a keyed hash, and the leaky bucket in
//! its form with one time per slot (the generic cell rate algorithm, ITU-T I.371). The memory
//! is fixed and nothing is ever evicted, so no flood makes room for another. Two names that share
//! a slot share its allowance; nobody can choose them without knowing the key.
//!
//! An attempt is counted before its password is looked at, so that many at once gain nothing, and
//! given back when it was right. Unknown accounts are counted as known ones are.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::clock;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;

const SLOTS: usize = 1 << 15;

/// What one table allows: this many attempts at once, after that one per pause.
#[derive(Clone, Copy)]
pub struct Limit {
    burst: i64,
    pause_ms: i64,
}

/// Of an address on an account, of all addresses on an account, of an address on all accounts.
pub type Limits = [Limit; 3];

const fn limit(burst: i64, pause_ms: i64) -> Limit {
    Limit { burst, pause_ms }
}

/// Failed log-ins: ten, then two a minute; a hundred, then thirty; sixty, then sixty.
pub const LOG_INS: Limits = [limit(10, 30_000), limit(100, 2_000), limit(60, 1_000)];
/// Mails that are asked for: three, then one in two minutes; five, then as many; twenty, then six.
pub const MAILS: Limits = [limit(3, 120_000), limit(5, 120_000), limit(20, 10_000)];

/// Changes of addresses, by which accounts send mail to others, see `renewal`: of an account, and to an
/// address, three, then six an hour; of a network as many as twenty counts, then forty an hour, two for
/// each.
pub const ADDRESSES: Limits = [limit(3, 600_000), limit(3, 600_000), limit(20, 90_000)];

/// New passwords in records: sixty, then twenty a minute from an address; in all as many as come.
pub const HASHES: Limits = [limit(60, 3_000), limit(1_000_000, 1), limit(60, 3_000)];

/// Counts attempts.
pub struct Throttle {
    limits: Limits,
    key: RandomState,
    tables: [Box<[AtomicI64]>; 3],
}

/// An attempt that was counted.
pub struct Attempt<'a> {
    throttle: &'a Throttle,
    slots: [usize; 3],
}

impl Throttle {
    pub fn new(limits: Limits) -> Throttle {
        let table = || (0..SLOTS).map(|_| AtomicI64::new(0)).collect();
        Throttle {
            limits,
            key: RandomState::new(),
            tables: [table(), table(), table()],
        }
    }

    /// Counts an attempt from `address` on what is known as `account`, or refuses it.
    pub fn attempt(&self, account: &str, address: IpAddr) -> Result<Attempt<'_>> {
        self.attempt_at(account, address, clock::now_ms())
    }

    fn attempt_at(&self, account: &str, address: IpAddr, now: i64) -> Result<Attempt<'_>> {
        let address = network(address);
        let slots = [
            self.slot(&(0, account, address)),
            self.slot(&(1, account)),
            self.slot(&(2, address)),
        ];
        let mut attempt = Attempt {
            throttle: self,
            slots,
        };
        for (at, limit) in self.limits.iter().enumerate() {
            let slot = &self.tables[at][slots[at]];
            let count = |full_at: i64| {
                let full_at = full_at.max(now) + limit.pause_ms;
                (full_at - now <= limit.burst * limit.pause_ms).then_some(full_at)
            };
            if let Err(full_at) = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count) {
                attempt.give_back(at);
                let wait = full_at - now - (limit.burst - 1) * limit.pause_ms;
                let seconds = u64::try_from((wait + 999) / 1000).unwrap_or(1);
                let message = format!("Too many attempts; try again in {seconds} seconds.");
                return Err(Error::new(Kind::TooMany, message)
                    .with_retry_after(Duration::from_secs(seconds)));
            }
        }
        Ok(attempt)
    }

    fn slot(&self, name: &impl std::hash::Hash) -> usize {
        usize::try_from(self.key.hash_one(name) % SLOTS as u64).unwrap_or(0)
    }
}

impl Attempt<'_> {
    /// It was right, or its password was never looked at: it does not count.
    pub fn forgive(mut self) {
        self.give_back(self.slots.len());
    }

    /// Gives back what the first `tables` counted.
    fn give_back(&mut self, tables: usize) {
        for (at, slot) in self.slots.iter().enumerate().take(tables) {
            let pause = self.throttle.limits[at].pause_ms;
            self.throttle.tables[at][*slot].fetch_sub(pause, Ordering::Relaxed);
        }
    }
}

/// What one customer of a provider has: an IPv4 address, or the first 64 bits of an IPv6 one.
fn network(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(throttle: &Throttle, account: &str, address: &str, now: i64) -> bool {
        let address = address.parse().unwrap();
        throttle.attempt_at(account, address, now).is_err()
    }

    #[test]
    fn failures_of_one_address_on_one_account_run_out_and_come_back() {
        let throttle = Throttle::new(LOG_INS);
        for _ in 0..10 {
            assert!(!fails(&throttle, "a", "10.0.0.1", 0));
        }
        assert!(fails(&throttle, "a", "10.0.0.1", 0));
        assert!(!fails(&throttle, "b", "10.0.0.1", 0));
        assert!(!fails(&throttle, "a", "10.0.0.2", 0));
        assert!(fails(&throttle, "a", "10.0.0.1", 30_000 - 1));
        assert!(!fails(&throttle, "a", "10.0.0.1", 30_000));
        assert!(fails(&throttle, "a", "10.0.0.1", 30_000));
    }

    #[test]
    fn many_addresses_and_many_accounts_run_out_too() {
        let throttle = Throttle::new(LOG_INS);
        let refused = |count: usize, fails: &dyn Fn(usize) -> bool| {
            (0..count).filter(|at| fails(*at)).count()
        };
        let many = |at: usize| format!("10.1.{}.{}", at / 250, at % 250);
        let of_account = refused(200, &|at| fails(&throttle, "victim", &many(at), 0));
        assert_eq!(of_account, 100);
        let of_address = refused(100, &|at| fails(&throttle, &at.to_string(), "10.9.9.9", 0));
        assert!((38..=42).contains(&of_address), "{of_address}");
    }

    #[test]
    fn what_was_right_does_not_count() {
        let throttle = Throttle::new(LOG_INS);
        for _ in 0..1000 {
            let address = "::1".parse().unwrap();
            throttle.attempt_at("a", address, 0).unwrap().forgive();
        }
    }

    #[test]
    fn neighbours_in_one_network_are_one() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }
}
