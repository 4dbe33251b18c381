//! The order in which queries get a reader.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{IN_TURN, KNOWN, READERS, ReaderUse, Readers};
use crate::base::threads::lock;
use crate::base::{ids, threads};
use crate::store::db::{ConnectionSettings, Role, Synchronous};

/// While slow queries used all readers, new queries overtook a waiting one each time that a
/// reader was returned: some of 64 connections waited for more than a second, most for a tenth
/// of one.
#[test]
fn a_query_that_waits_is_not_passed_by() {
    let path = std::env::temp_dir().join(ids::record_id().unwrap());
    let settings = ConnectionSettings {
        role: Role::Master,
        synchronous: Synchronous::Normal,
        prepare: |_, _| Ok(()),
    };
    File::create(&path).unwrap();
    let readers = Readers::new(&path, settings);
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
