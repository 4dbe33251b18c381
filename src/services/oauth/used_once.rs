//! Values that can be used once: codes of providers, states of sign-ins.
//!
//! A value is remembered for [`KEPT`], which is longer than a provider accepts a code. At most
//! [`VALUES_MAX`] are remembered, as hashes; the oldest goes first. The provider and the cookie of
//! the browser bound such a value too, so a forgotten one is not enough to repeat a sign-in.

use std::collections::{HashSet, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::base::crypto;
use crate::base::threads::lock;

const KEPT: Duration = Duration::from_secs(1200);
const VALUES_MAX: usize = 1 << 16;

type Hash = [u8; 16];

/// Invariant: `values` has exactly the hashes of `order`.
#[derive(Default)]
pub struct UsedOnce(Mutex<Used>);

#[derive(Default)]
struct Used {
    values: HashSet<Hash>,
    order: VecDeque<(Instant, Hash)>,
}

impl UsedOnce {
    /// True for the first caller with these parts of a value, and for no other.
    pub fn take(&self, parts: &[&str]) -> bool {
        self.take_at(parts, Instant::now())
    }

    fn take_at(&self, parts: &[&str], now: Instant) -> bool {
        let hash = crypto::sha256(parts.join("\0").as_bytes());
        let mut short = Hash::default();
        short.copy_from_slice(&hash[..16]);
        let mut used = lock(&self.0);
        while let Some((at, oldest)) = used.order.front().copied()
            && (now.saturating_duration_since(at) >= KEPT || used.order.len() >= VALUES_MAX)
        {
            used.order.pop_front();
            used.values.remove(&oldest);
        }
        let is_first = used.values.insert(short);
        if is_first {
            used.order.push_back((now, short));
        }
        is_first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_used_once_while_it_is_remembered() {
        let (used, now) = (UsedOnce::default(), Instant::now());
        assert!(used.take_at(&["a", "b"], now));
        assert!(!used.take_at(&["a", "b"], now + KEPT / 2));
        assert!(used.take_at(&["a", "c"], now));
        assert!(used.take_at(&["a", "b"], now + KEPT));
        let state = lock(&used.0);
        assert_eq!(state.values.len(), state.order.len());
    }

    #[test]
    fn of_many_threads_one_wins() {
        let used = UsedOnce::default();
        let wins: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(|| used.take(&["a"]))).collect();
            threads
                .into_iter()
                .map(|it| usize::from(it.join().unwrap()))
                .sum()
        });
        assert_eq!(wins, 1);
    }

    #[test]
    fn the_number_of_values_is_bounded() {
        let (used, now) = (UsedOnce::default(), Instant::now());
        for at in 0..VALUES_MAX + 10 {
            assert!(used.take_at(&[&at.to_string()], now));
        }
        assert_eq!(lock(&used.0).values.len(), VALUES_MAX);
    }
}
