//! What a write job wants to be done once it is durable.
//!
//! Notes are kept by the thread that runs the jobs of a batch. They run after the commit, in the order in
//! which they were made, before the next commit of the same database; those of a job or a batch that was
//! undone are dropped. So whoever is told by notes hears of the changes of a database in their order.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

type Note = Box<dyn FnOnce()>;

thread_local! {
    static NOTES: RefCell<Vec<Note>> = const { RefCell::new(Vec::new()) };
}

/// Has something done after the commit of the write job that this is called in. The writers of the
/// database wait meanwhile, so it must not block. Outside of a job it is never done.
pub fn after_commit(note: impl FnOnce() + 'static) {
    NOTES.with_borrow_mut(|notes| notes.push(Box::new(note)));
}

/// The notes of one batch.
pub struct Batch {
    /// Those of a batch of another database whose job has led here.
    outer: Vec<Note>,
}

impl Batch {
    pub fn begin() -> Batch {
        Batch {
            outer: NOTES.take(),
        }
    }

    /// Where the notes of the next job begin.
    pub fn mark() -> usize {
        NOTES.with_borrow(Vec::len)
    }

    /// The job is undone that began at a mark.
    pub fn undo(mark: usize) {
        let undone = NOTES.with_borrow_mut(|notes| notes.split_off(mark.min(notes.len())));
        drop(undone);
    }

    /// Does what was noted if it was committed.
    pub fn end(self, is_committed: bool) {
        let notes = NOTES.replace(self.outer);
        for note in notes.into_iter().filter(|_| is_committed) {
            // It is logged where panics are; those who wait for the commit must not suffer from it.
            let _ = catch_unwind(AssertUnwindSafe(note));
        }
    }
}
