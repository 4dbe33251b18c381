//! Documents of providers, kept for an hour: what an issuer says of itself, and its keys.
//!
//! At most [`ENTRIES_MAX`] documents are kept; the one that was used longest ago goes first. One
//! thread fetches a document while others wait for it, with a time limit. A failure is remembered
//! for [`FAILURE_PAUSE`], in which an older document is used if there is one.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::fetch::{Deadline, unavailable};
use crate::base::error::Result;
use crate::base::lru::LruMap;
use crate::base::threads;

const ENTRIES_MAX: usize = 256;
/// A document is fetched again after this time.
const KEPT: Duration = Duration::from_secs(3600);
/// Pause after a failure.
const FAILURE_PAUSE: Duration = Duration::from_secs(10);
/// Least age of a document that does not have what is looked for, before it is fetched again.
pub const RENEWAL_PAUSE: Duration = Duration::from_secs(10);

/// Documents by URL.
pub struct DocumentCache<T> {
    entries: Mutex<LruMap<Arc<Entry<T>>>>,
}

struct Entry<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

/// Invariant: `is_fetching` is set while exactly one thread fetches, which clears it in any case.
struct State<T> {
    document: Option<(Arc<T>, Instant)>,
    failed: Option<Instant>,
    is_fetching: bool,
}

impl<T> Default for DocumentCache<T> {
    fn default() -> DocumentCache<T> {
        DocumentCache {
            entries: Mutex::default(),
        }
    }
}

impl<T> DocumentCache<T> {
    /// The document at this URL, at most an hour old.
    pub fn get(
        &self,
        url: &str,
        until: Deadline,
        fetch: impl FnOnce() -> Result<T>,
    ) -> Result<Arc<T>> {
        self.get_if(url, until, |_, age| age < KEPT, fetch)
    }

    /// The document at this URL if it is good enough by its age, else a new one.
    pub fn get_if(
        &self,
        url: &str,
        until: Deadline,
        is_good: impl Fn(&T, Duration) -> bool,
        fetch: impl FnOnce() -> Result<T>,
    ) -> Result<Arc<T>> {
        let entry = self.entry(url);
        let mut state = threads::lock(&entry.state);
        loop {
            if let Some((document, at)) = &state.document
                && is_good(document, at.elapsed())
            {
                return Ok(Arc::clone(document));
            }
            if state.failed.is_some_and(|at| at.elapsed() < FAILURE_PAUSE) {
                return state.last();
            }
            if !state.is_fetching {
                break;
            }
            if until.left().is_zero() {
                return state.last();
            }
            state = threads::wait_timeout(&entry.changed, state, until.left());
        }
        state.is_fetching = true;
        drop(state);
        let fetching = Fetching(&entry);
        let fetched = fetch();
        let mut state = threads::lock(&entry.state);
        let result = match fetched {
            Ok(document) => {
                let document = Arc::new(document);
                state.document = Some((Arc::clone(&document), Instant::now()));
                state.failed = None;
                Ok(document)
            }
            Err(error) => {
                state.failed = Some(Instant::now());
                state.last().map_err(|_| error)
            }
        };
        drop(state);
        drop(fetching);
        result
    }

    fn entry(&self, url: &str) -> Arc<Entry<T>> {
        let mut entries = threads::lock(&self.entries);
        if let Some(found) = entries.get(url) {
            return Arc::clone(found);
        }
        if entries.len() >= ENTRIES_MAX {
            entries.evict(|_| true);
        }
        let made = Arc::new(Entry {
            state: Mutex::new(State {
                document: None,
                failed: None,
                is_fetching: false,
            }),
            changed: Condvar::new(),
        });
        entries.insert(url, Arc::clone(&made));
        made
    }
}

impl<T> State<T> {
    /// The last document, however old.
    fn last(&self) -> Result<Arc<T>> {
        let last = self.document.as_ref();
        last.map(|(document, _)| Arc::clone(document))
            .ok_or_else(|| unavailable().context("the last attempt has just failed"))
    }
}

/// Clears `is_fetching` when it is dropped, also by a panic.
struct Fetching<'a, T>(&'a Entry<T>);

impl<T> Drop for Fetching<'_, T> {
    fn drop(&mut self) {
        threads::lock(&self.0.state).is_fetching = false;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn one_thread_fetches_for_all() {
        let (cache, fetched) = (DocumentCache::default(), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let got = cache.get("a", Deadline::new(), || {
                        threads::pause(Duration::from_millis(20));
                        Ok(fetched.fetch_add(1, Ordering::Relaxed))
                    });
                    assert_eq!(*got.unwrap(), 0);
                });
            }
        });
        assert_eq!(fetched.into_inner(), 1);
    }

    #[test]
    fn a_failure_is_remembered_and_an_older_document_is_used() {
        let cache = DocumentCache::default();
        let until = Deadline::new();
        let failure = || Err(unavailable());
        assert!(cache.get("a", until, failure).is_err());
        let mut calls = 0;
        let again = cache.get("a", until, || {
            calls += 1;
            Ok(1)
        });
        assert!(again.is_err() && calls == 0);
        assert_eq!(*cache.get("b", until, || Ok(2)).unwrap(), 2);
        let renewed = cache.get_if("b", until, |_, _| false, failure);
        assert_eq!(*renewed.unwrap(), 2);
    }

    #[test]
    fn the_number_of_documents_is_bounded() {
        let cache = DocumentCache::default();
        for at in 0..2 * ENTRIES_MAX {
            cache
                .get(&at.to_string(), Deadline::new(), || Ok(at))
                .unwrap();
        }
        assert_eq!(threads::lock(&cache.entries).len(), ENTRIES_MAX);
    }
}
