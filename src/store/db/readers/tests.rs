//! The order in which queries get a reader.

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{GROW_WAIT, IN_TURN, KNOWN, READERS, ReaderUse, Readers};
use crate::base::threads::lock;
use crate::base::{ids, threads};
use crate::store::db::{ConnectionSettings, Role, Synchronous};

/// The readers of an empty file, and its path.
fn open() -> (Readers, PathBuf) {
    let path = std::env::temp_dir().join(ids::record_id().unwrap());
    let settings = ConnectionSettings {
        role: Role::Master,
        synchronous: Synchronous::Normal,
        prepare: |_, _| Ok(()),
    };
    File::create(&path).unwrap();
    (Readers::new(&path, settings), path)
}

/// While slow queries used all readers, new queries overtook a waiting one each time that a
/// reader was returned: some of 64 connections waited for more than a second, most for a tenth
/// of one.
#[test]
fn a_query_that_waits_is_not_passed_by() {
    let (readers, path) = open();
    let mut taken: Vec<_> = (0..READERS)
        .map(|_| readers.acquire(ReaderUse::Internal).unwrap())
        .collect();
    let has_had_its_turn = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _reader = readers.acquire(ReaderUse::Internal).unwrap();
            has_had_its_turn.store(true, Ordering::SeqCst);
        });
        while lock(&readers.state).waiting[KNOWN] == 0 {
            threads::pause(IN_TURN);
        }
        threads::pause(IN_TURN * 2);
        drop(taken.pop());
        let _next = readers.acquire(ReaderUse::Internal).unwrap();
        assert!(has_had_its_turn.load(Ordering::SeqCst));
    });
    let state = lock(&readers.state);
    assert_eq!((state.waiting[KNOWN], state.promised), (0, 0));
    drop(state);
    drop(taken);
    let _ = std::fs::remove_file(path);
}

/// Many quick queries at a time made the pool open readers with small caches, which then read whole
/// tables from the file each time.
#[test]
fn readers_are_added_for_slow_queries_only_and_closed_after_them() {
    let (readers, path) = open();
    let take = || readers.acquire(ReaderUse::Internal).unwrap();
    let mut taken: Vec<_> = (0..READERS).map(|_| take()).collect();
    threads::pause(GROW_WAIT);
    // All are slow: each of these gets one more.
    let more = [take(), take()];
    assert_eq!(lock(&readers.state).open, READERS + 2);
    taken.clear();
    drop(more);
    assert_eq!(lock(&readers.state).open, READERS);
    assert!(lock(&readers.state).begun.is_empty());

    // A query that waits while the others are returned in turns gets one of those.
    let first: Vec<_> = (0..READERS).map(|_| take()).collect();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| drop(take()));
        for reader in first {
            threads::pause(GROW_WAIT / 4);
            drop(reader);
        }
        waits.join().unwrap();
    });
    assert_eq!(lock(&readers.state).open, READERS);
    let _ = std::fs::remove_file(path);
}
