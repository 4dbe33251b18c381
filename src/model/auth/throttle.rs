//! Rate limits for log-ins, failed log-ins, password hashes and requested mails.
//!
//! Attempts are counted by network (an IPv4 address, an IPv6 /64), by site (an IPv6 /48), by
//! account, and by account together with network or site. Each [`LimitScope`] with a limit has a
//! table of [`SLOTS`] times, indexed by a keyed hash. A slot is a leaky bucket in the form that
//! stores one time (generic cell rate algorithm, ITU-T I.371). The memory is fixed and no entry is
//! evicted, so a flood cannot displace other entries. Two names with the same slot share its
//! allowance; a client cannot choose such names without the hash key. The times are those of a
//! monotonic clock: with a clock that can be set back, all attempts would fail until it has caught
//! up.
//!
//! An attempt is counted before its password is checked, so that concurrent attempts gain nothing,
//! and refunded if the password was right. Unknown accounts are counted as known ones are.
//!
//! A network from which an account has logged in before is known for that account. Its attempts
//! count against the limit of the network only, not against the limit of the account. So a client
//! elsewhere cannot lock the owner out. The known networks are kept in memory, in a table of fixed
//! size, until a restart.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hash};
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::base::budget::Network;
use crate::base::clock;
use crate::base::error::{Error, Kind, Result};
use crate::base::threads::lock;

const SLOTS: usize = 1 << 15;
/// Groups of accounts, and known networks per group. Accounts share a group by chance alone, so it
/// takes some 100,000 other log-ins to displace the network of one account.
const KNOWN_GROUPS: usize = 1 << 14;
const KNOWN_NETWORKS: usize = 8;

/// The caller or account that a limit applies to. The discriminant is part of the hashed value.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum LimitScope {
    NetworkOnAccount,
    SiteOnAccount,
    Account,
    Network,
    Site,
}

impl LimitScope {
    const ALL: [LimitScope; 5] = [
        LimitScope::NetworkOnAccount,
        LimitScope::SiteOnAccount,
        LimitScope::Account,
        LimitScope::Network,
        LimitScope::Site,
    ];

    /// True if several networks share it.
    fn is_shared(self) -> bool {
        !matches!(self, LimitScope::NetworkOnAccount | LimitScope::Network)
    }
}

/// `burst` attempts at once, then one per pause.
#[derive(Clone, Copy)]
pub struct RateLimit {
    burst: i64,
    pause_ms: i64,
}

/// The limit of each scope, in the order of [`LimitScope::ALL`]. None means unlimited.
pub type RateLimits = [Option<RateLimit>; 5];

const fn limit(burst: i64, pause_ms: i64) -> Option<RateLimit> {
    Some(RateLimit { burst, pause_ms })
}

/// Failed log-ins: of a network on an account ten, then two a minute; of a site on an account
/// thirty, then six a minute; on an account a hundred, then thirty a minute; of a network sixty,
/// then sixty a minute; of a site 240, then 240 a minute.
pub const FAILURES: RateLimits = [
    limit(10, 30_000),
    limit(30, 10_000),
    limit(100, 2_000),
    limit(60, 1_000),
    limit(240, 250),
];
/// All log-ins: of a network on an account forty, then one a second; of a network 600, then ten a
/// second; of a site four times as many.
pub const LOG_INS: RateLimits = [
    limit(40, 1_000),
    None,
    None,
    limit(600, 100),
    limit(2400, 25),
];
/// Requested mails: of a network for an address three, then one in two minutes; for an address
/// five, then one in two minutes; of a network twenty, then six a minute; of a site four times as
/// many.
pub const MAILS: RateLimits = [
    limit(3, 120_000),
    None,
    limit(5, 120_000),
    limit(20, 10_000),
    limit(80, 2_500),
];
/// Changes of addresses, by which accounts send mail to others (`account_changes`): of an account,
/// and to an address, three, then six an hour; of a network twenty counts, then forty an hour, two
/// per change; of a site four times as many.
pub const ADDRESSES: RateLimits = [
    limit(3, 600_000),
    None,
    limit(3, 600_000),
    limit(20, 90_000),
    limit(80, 22_500),
];
/// New passwords in records: of a network sixty, then twenty a minute; of a site four times as
/// many.
pub const HASHES: RateLimits = [None, None, None, limit(60, 3_000), limit(240, 750)];

/// Counts attempts.
pub struct Throttle {
    limits: RateLimits,
    key: RandomState,
    tables: [Box<[AtomicI64]>; 5],
    known: KnownNetworks,
}

/// A counted attempt.
pub struct CountedAttempt<'a> {
    throttle: &'a Throttle,
    network: Network,
    account: u64,
    /// None if the attempt does not count in that table.
    slots: [Option<usize>; 5],
    /// The largest used share of a limit, in thousandths.
    load: u32,
}

impl Throttle {
    pub fn new(limits: RateLimits) -> Throttle {
        let table = |limit: Option<RateLimit>| {
            let slots = limit.map_or(0, |_| SLOTS);
            (0..slots).map(|_| AtomicI64::new(0)).collect()
        };
        Throttle {
            limits,
            key: RandomState::new(),
            tables: limits.map(table),
            known: KnownNetworks::default(),
        }
    }

    /// Counts an attempt from `address` on the account with this name, or refuses it.
    pub fn attempt(&self, account: &str, address: IpAddr) -> Result<CountedAttempt<'_>> {
        self.attempt_at(account, address, clock::uptime_ms())
    }

    fn attempt_at(&self, account: &str, address: IpAddr, now: i64) -> Result<CountedAttempt<'_>> {
        let network = Network::of(address);
        let account = self.key.hash_one(account);
        let is_known = self
            .known
            .contains(account, self.fingerprint(account, network));
        let slots = LimitScope::ALL.map(|scope| {
            let is_free = self.tables[scope as usize].is_empty() || is_known && scope.is_shared();
            let site = || network.site();
            match scope {
                _ if is_free => None,
                LimitScope::NetworkOnAccount => Some(self.slot(&(scope, account, network))),
                LimitScope::SiteOnAccount => site().map(|site| self.slot(&(scope, account, site))),
                LimitScope::Account => Some(self.slot(&(scope, account))),
                LimitScope::Network => Some(self.slot(&(scope, network))),
                LimitScope::Site => site().map(|site| self.slot(&(scope, site))),
            }
        });
        let mut attempt = CountedAttempt {
            throttle: self,
            network,
            account,
            slots,
            load: 0,
        };
        for (at, (slot, limit)) in slots.into_iter().zip(self.limits).enumerate() {
            let (Some(slot), Some(limit)) = (slot, limit) else {
                continue;
            };
            let count = |full_at: i64| {
                let full_at = full_at.max(now) + limit.pause_ms;
                (full_at - now <= limit.burst * limit.pause_ms).then_some(full_at)
            };
            let slot = &self.tables[at][slot];
            let counted = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count);
            if let Ok(full_at) = counted {
                let used = (full_at.max(now) - now) * 1000 / (limit.burst * limit.pause_ms);
                attempt.load = attempt.load.max(u32::try_from(used).unwrap_or(0));
            }
            if let Err(full_at) = counted {
                attempt.refund_first(at);
                let wait = full_at - now - (limit.burst - 1) * limit.pause_ms;
                let seconds = u64::try_from((wait + 999) / 1000).unwrap_or(1);
                let message = format!("Too many attempts; try again in {seconds} seconds.");
                return Err(Error::new(Kind::TooMany, message)
                    .with_retry_after(Duration::from_secs(seconds)));
            }
        }
        Ok(attempt)
    }

    fn slot(&self, name: &impl Hash) -> usize {
        usize::try_from(self.key.hash_one(name) % SLOTS as u64).unwrap_or(0)
    }

    /// The fingerprint that is stored for a known network of an account.
    fn fingerprint(&self, account: u64, network: Network) -> u64 {
        self.key.hash_one((account, network)).max(1)
    }
}

impl CountedAttempt<'_> {
    /// The share of its limits that the caller had used, in thousandths. It is 0 without recent
    /// attempts.
    pub fn load(&self) -> u32 {
        self.load
    }

    /// Refunds an attempt whose password was not checked.
    pub fn refund(mut self) {
        self.refund_first(self.slots.len());
    }

    /// Refunds an attempt whose password was right, and makes the network known for the account.
    pub fn succeed(self) {
        let fingerprint = self.throttle.fingerprint(self.account, self.network);
        self.throttle.known.add(self.account, fingerprint);
        self.refund();
    }

    /// Refunds what the first `tables` counted.
    fn refund_first(&mut self, tables: usize) {
        let counted = self.slots.iter().zip(self.throttle.limits).enumerate();
        for (at, (slot, limit)) in counted.take(tables) {
            if let (Some(slot), Some(limit)) = (slot, limit) {
                self.throttle.tables[at][*slot].fetch_sub(limit.pause_ms, Ordering::Relaxed);
            }
        }
    }
}

/// Fingerprints of the networks from which accounts have logged in; 0 is an empty entry. The latest
/// of a group is first. Allocated at the first log-in.
#[derive(Default)]
struct KnownNetworks(Mutex<Vec<[u64; KNOWN_NETWORKS]>>);

impl KnownNetworks {
    fn contains(&self, account: u64, fingerprint: u64) -> bool {
        let groups = lock(&self.0);
        groups
            .get(group(account))
            .is_some_and(|group| group.contains(&fingerprint))
    }

    fn add(&self, account: u64, fingerprint: u64) {
        let mut groups = lock(&self.0);
        if groups.is_empty() {
            groups.resize(KNOWN_GROUPS, [0; KNOWN_NETWORKS]);
        }
        let group = &mut groups[group(account)];
        let at = group.iter().position(|it| *it == fingerprint);
        let last = at.unwrap_or(KNOWN_NETWORKS - 1);
        group[..=last].rotate_right(1);
        group[0] = fingerprint;
    }
}

fn group(account: u64) -> usize {
    usize::try_from(account % KNOWN_GROUPS as u64).unwrap_or(0)
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
        let throttle = Throttle::new(FAILURES);
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
        let throttle = Throttle::new(FAILURES);
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
    fn an_attempt_knows_the_share_of_the_limits_that_is_used() {
        let throttle = Throttle::new(LOG_INS);
        let load = |account, address: &str, now| {
            let attempt = throttle.attempt_at(account, address.parse().unwrap(), now);
            attempt.ok().map(|attempt| attempt.load())
        };
        assert_eq!(load("a", "10.0.0.1", 0), Some(0));
        assert_eq!(load("a", "10.0.0.1", 0), Some(25));
        for _ in 2..40 {
            load("a", "10.0.0.1", 0);
        }
        assert_eq!(load("a", "10.0.0.1", 0), None);
        assert_eq!(load("a", "10.0.0.1", 1_000), Some(975));
        // Forty of the network's six hundred, less the ten that a second gives back.
        assert_eq!(load("b", "10.0.0.1", 1_000), Some(51));
        assert_eq!(load("a", "10.0.0.2", 1_000), Some(0));
    }

    #[test]
    fn what_was_right_does_not_count() {
        let throttle = Throttle::new(FAILURES);
        for _ in 0..1000 {
            let address = "::1".parse().unwrap();
            throttle.attempt_at("a", address, 0).unwrap().refund();
        }
    }

    #[test]
    fn a_site_does_not_use_up_what_all_may_try_on_an_account() {
        let throttle = Throttle::new(FAILURES);
        let of_site = |at: usize| format!("2001:db8:7:{at:x}::1");
        let tried = (0..500).filter(|at| !fails(&throttle, "victim", &of_site(*at), 0));
        assert_eq!(tried.count(), 30);
        assert!(!fails(&throttle, "victim", "2001:db8:8::1", 0));
        let tried = (500..1000).filter(|at| !fails(&throttle, &at.to_string(), &of_site(*at), 0));
        assert_eq!(tried.count(), 240 - 30);
    }

    #[test]
    fn a_network_that_has_logged_in_cannot_be_locked_out_from_elsewhere() {
        let throttle = Throttle::new(FAILURES);
        let home = "2001:db8:7:1::1";
        let log_in = |address: &str, now| {
            let attempt = throttle.attempt_at("victim", address.parse().unwrap(), now);
            attempt.map(CountedAttempt::succeed)
        };
        log_in(home, 0).unwrap();
        let many = |at: usize| format!("10.1.{}.{}", at / 250, at % 250);
        for at in 0..200 {
            let _refused = fails(&throttle, "victim", &many(at), 0);
            let _refused = fails(&throttle, "victim", &format!("2001:db8:7:{at:x}00::1"), 0);
        }
        assert!(log_in("192.0.2.1", 0).is_err());
        log_in(home, 0).unwrap();
        // It may fail no more often than any other network.
        let wrong = (0..20).filter(|_| !fails(&throttle, "victim", home, 0));
        assert_eq!(wrong.count(), 10);
        // For other accounts it is not known.
        let throttle = Throttle::new(FAILURES);
        for at in 0..100 {
            let _refused = fails(&throttle, "other", &many(at), 0);
        }
        assert!(fails(&throttle, "other", home, 0));
    }

    #[test]
    fn the_networks_that_an_account_used_last_are_known() {
        let known = KnownNetworks::default();
        assert!(!known.contains(5, 1));
        for mark in 1..=8 {
            known.add(5, mark);
        }
        known.add(5, 1);
        known.add(5, 9);
        assert!(known.contains(5, 1) && known.contains(5, 9));
        assert!(!known.contains(5, 2) && known.contains(5, 3));
        assert!(!known.contains(6, 1));
    }
}
