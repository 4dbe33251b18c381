//! How much of the thread's time collections and networks have used lately.
//!
//! One thread checks at all changes, so what it spends on one collection delays the others. A collection may
//! use [`LOOK_MAX`] at a time while changes of others wait, and half of the time in the long run; when all
//! together have used that much, each of them may use [`SHARE`]. So one that is expensive to look at, or many,
//! delay the others by about a second.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Longest time for which a collection delays others.
pub const LOOK_MAX: Duration = Duration::from_secs(1);
/// The same when others have used that time up.
const SHARE: Duration = Duration::from_millis(100);
/// Less than this is not noted.
const NOTED: Duration = Duration::from_millis(1);

/// Time spent for each of some keys; half of the time that passes is taken off again.
pub struct TimeUsage<K>(HashMap<K, (Duration, Instant)>);

impl<K> Default for TimeUsage<K> {
    fn default() -> TimeUsage<K> {
        TimeUsage(HashMap::new())
    }
}

impl<K: Eq + Hash> TimeUsage<K> {
    /// Notes time that was spent until now.
    pub fn add(&mut self, key: K, spent: Duration, now: Instant) {
        if spent >= NOTED {
            let entry = self.0.entry(key).or_insert((Duration::ZERO, now));
            *entry = (left(entry, now) + spent, now);
        }
    }

    /// The part of the time spent that still counts.
    pub fn of<Q: Eq + Hash + ?Sized>(&self, key: &Q, now: Instant) -> Duration
    where
        K: std::borrow::Borrow<Q>,
    {
        self.0
            .get(key)
            .map_or(Duration::ZERO, |entry| left(entry, now))
    }

    /// For how long a change may be looked at while others wait; zero: not at all.
    pub fn allowance<Q: Eq + Hash + ?Sized>(&self, key: &Q, now: Instant) -> Duration
    where
        K: std::borrow::Borrow<Q>,
    {
        let all: Duration = self.0.values().map(|entry| left(entry, now)).sum();
        let share = match all >= LOOK_MAX {
            true => SHARE,
            false => LOOK_MAX,
        };
        share.saturating_sub(self.of(key, now))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets those of whom nothing counts any more.
    pub fn forget(&mut self, now: Instant) {
        self.0.retain(|_, entry| !left(entry, now).is_zero());
    }
}

fn left((spent, at): &(Duration, Instant), now: Instant) -> Duration {
    spent.saturating_sub(now.saturating_duration_since(*at) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_used_much_gets_little_and_the_others_go_on() {
        let (mut usage, start) = (TimeUsage::<&str>::default(), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        assert_eq!(usage.allowance("a", start), LOOK_MAX);
        usage.add("a", Duration::from_micros(10), start);
        assert!(usage.is_empty());
        usage.add("a", Duration::from_millis(600), start);
        assert_eq!(usage.allowance("a", start), Duration::from_millis(400));
        usage.add("a", Duration::from_millis(400), start);
        assert_eq!(usage.allowance("a", start), Duration::ZERO);
        // Others together do not get around that.
        assert_eq!(usage.allowance("b", start), SHARE);
        usage.add("b", SHARE, start);
        assert_eq!(usage.allowance("b", start), Duration::ZERO);
        assert_eq!(usage.allowance("c", start), SHARE);
        assert_eq!(
            usage.allowance("a", after(1000)),
            Duration::from_millis(500)
        );
        usage.forget(after(1999));
        assert!(!usage.is_empty());
        usage.forget(after(2000));
        assert!(usage.is_empty());
    }
}
