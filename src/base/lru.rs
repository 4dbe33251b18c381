//! A map that knows which of its entries was used longest ago, for caches and for files that can be
//! closed and opened again.
//!
//! Each operation takes time in proportion to the logarithm of the number of entries.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Entries by name. Invariant: `order` has each entry once, by the time of its last use.
pub struct LruMap<V> {
    entries: HashMap<Arc<str>, Entry<V>>,
    order: BTreeMap<u64, Arc<str>>,
    /// Counts the uses; it is the time here.
    uses: u64,
}

struct Entry<V> {
    value: V,
    used: u64,
}

impl<V> Default for LruMap<V> {
    fn default() -> LruMap<V> {
        LruMap {
            entries: HashMap::new(),
            order: BTreeMap::new(),
            uses: 0,
        }
    }
}

impl<V> LruMap<V> {
    /// The entry of this name, which is then the last one used.
    pub fn get(&mut self, name: &str) -> Option<&V> {
        let entry = self.entries.get_mut(name)?;
        if entry.used != self.uses
            && let Some(name) = self.order.remove(&entry.used)
        {
            self.uses += 1;
            entry.used = self.uses;
            self.order.insert(self.uses, name);
        }
        Some(&entry.value)
    }

    /// Adds an entry as the last one used; returns the one that it replaces.
    pub fn insert(&mut self, name: &str, value: V) -> Option<V> {
        let before = self.remove(name);
        self.uses += 1;
        let (name, used): (Arc<str>, u64) = (name.into(), self.uses);
        self.order.insert(used, Arc::clone(&name));
        self.entries.insert(name, Entry { value, used });
        before
    }

    pub fn remove(&mut self, name: &str) -> Option<V> {
        let entry = self.entries.remove(name)?;
        self.order.remove(&entry.used);
        Some(entry.value)
    }

    /// Removes the entry that was used longest ago of those that may go. Also takes time in
    /// proportion to the older ones that may not.
    pub fn evict(&mut self, may_go: impl Fn(&V) -> bool) -> Option<(Arc<str>, V)> {
        self.evict_before(u64::MAX, may_go)
    }

    /// Like [`LruMap::evict`], of the entries that have not been used since [`LruMap::uses`] was
    /// `limit`.
    pub fn evict_before(
        &mut self,
        limit: u64,
        may_go: impl Fn(&V) -> bool,
    ) -> Option<(Arc<str>, V)> {
        let (_, name) = self.order.range(..=limit).find(|(_, name)| {
            let entry = self.entries.get(*name);
            entry.is_some_and(|entry| may_go(&entry.value))
        })?;
        let name = Arc::clone(name);
        let value = self.remove(&name)?;
        Some((name, value))
    }

    /// The number of uses so far.
    pub fn uses(&self) -> u64 {
        self.uses
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.values().map(|entry| &entry.value)
    }

    pub fn into_values(self) -> impl Iterator<Item = V> {
        self.entries.into_values().map(|entry| entry.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evicted(map: &mut LruMap<u8>) -> Option<String> {
        map.evict(|_| true).map(|(name, _)| name.to_string())
    }

    #[test]
    fn the_entry_used_longest_ago_goes_first() {
        let mut map = LruMap::default();
        for name in ["a", "b", "c", "d"] {
            map.insert(name, 0);
        }
        for name in ["b", "a", "a", "b"] {
            map.get(name);
        }
        assert!(map.get("e").is_none());
        for name in ["c", "d", "a", "b"] {
            assert_eq!(evicted(&mut map).as_deref(), Some(name));
        }
        assert_eq!(evicted(&mut map), None);
        assert_eq!((map.len(), map.order.len()), (0, 0));
    }

    #[test]
    fn an_entry_in_use_stays() {
        let mut map = LruMap::default();
        map.insert("a", 1);
        map.insert("b", 2);
        let found = map.evict(|value| *value != 1);
        assert_eq!(found.map(|(_, value)| value), Some(2));
        assert!(map.evict(|value| *value != 1).is_none());
        assert_eq!((map.len(), map.order.len()), (1, 1));
    }

    #[test]
    fn a_name_can_be_removed_and_come_back() {
        let mut map = LruMap::default();
        map.insert("a", 1);
        map.insert("b", 2);
        assert_eq!((map.remove("a"), map.remove("a")), (Some(1), None));
        map.insert("a", 3);
        assert_eq!(map.insert("b", 4), Some(2));
        assert_eq!((map.len(), map.order.len()), (2, 2));
        assert_eq!(evicted(&mut map).as_deref(), Some("a"));
    }

    #[test]
    fn only_what_was_not_used_since_a_moment_goes() {
        let mut map = LruMap::default();
        map.insert("a", 1);
        map.insert("b", 2);
        let moment = map.uses();
        map.get("a");
        let mut next = || map.evict_before(moment, |_| true).map(|(_, value)| value);
        assert_eq!((next(), next()), (Some(2), None));
    }
}
