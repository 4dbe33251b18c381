//! Time of the realtime thread that collections and networks have used lately.
//!
//! One thread evaluates all changes, so time spent on one collection delays the others. While
//! changes of others wait, a collection may use [`TIME_MAX`] at a time, and half of the time in the
//! long run. Once all collections together have used that much, each may use [`SHARE`]. One
//! expensive collection, or many, therefore delay the others by about a second.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Longest time for which a collection delays others.
pub const TIME_MAX: Duration = Duration::from_secs(1);
/// The same limit once all collections together have used that time.
const SHARE: Duration = Duration::from_millis(100);
/// Shorter times are not counted.
const COUNTED_MIN: Duration = Duration::from_millis(1);

/// Time spent per key, as a leaky bucket: it decreases by half of the time that passes.
pub struct TimeUsage<K>(HashMap<K, (Duration, Instant)>);

impl<K> Default for TimeUsage<K> {
    fn default() -> TimeUsage<K> {
        TimeUsage(HashMap::new())
    }
}

impl<K: Eq + Hash> TimeUsage<K> {
    /// Adds time that was spent until now.
    pub fn add(&mut self, key: K, spent: Duration, now: Instant) {
        if spent >= COUNTED_MIN {
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

    /// Time allowed for a change of this key while others wait; zero if the change must be skipped.
    pub fn allowance<Q: Eq + Hash + ?Sized>(&self, key: &Q, now: Instant) -> Duration
    where
        K: std::borrow::Borrow<Q>,
    {
        let all: Duration = self.0.values().map(|entry| left(entry, now)).sum();
        let share = match all >= TIME_MAX {
            true => SHARE,
            false => TIME_MAX,
        };
        share.saturating_sub(self.of(key, now))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Removes keys without time that still counts.
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
        assert_eq!(usage.allowance("a", start), TIME_MAX);
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
