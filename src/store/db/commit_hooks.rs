//! Closures that a write job registers to run after its commit.
//!
//! The thread that runs the jobs of a batch collects them. They run after the commit, in the order
//! of registration, before the next commit of the same database; the hooks of a job or a batch that
//! is rolled back are dropped. A consumer that hooks notify therefore sees the changes of a
//! database in their order.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

type Hook = Box<dyn FnOnce()>;

thread_local! {
    static HOOKS: RefCell<Vec<Hook>> = const { RefCell::new(Vec::new()) };
}

/// Registers a closure to run after the commit of the current write job. The writers of the
/// database wait meanwhile, so it must not block. Outside of a job it never runs.
pub fn on_commit(hook: impl FnOnce() + 'static) {
    HOOKS.with_borrow_mut(|hooks| hooks.push(Box::new(hook)));
}

/// The hooks of one batch.
pub struct CommitHooks {
    /// The hooks of a batch of another database, one of whose jobs runs this batch.
    outer: Vec<Hook>,
}

impl CommitHooks {
    pub fn begin() -> CommitHooks {
        CommitHooks {
            outer: HOOKS.take(),
        }
    }

    /// The number of hooks so far, for [`CommitHooks::truncate`].
    pub fn len() -> usize {
        HOOKS.with_borrow(Vec::len)
    }

    /// Drops the hooks of a job that was rolled back: all after the first `len`.
    pub fn truncate(len: usize) {
        let dropped = HOOKS.with_borrow_mut(|hooks| hooks.split_off(len.min(hooks.len())));
        drop(dropped);
    }

    /// Runs the hooks if the batch was committed, and drops them otherwise.
    pub fn end(self, is_committed: bool) {
        let hooks = HOOKS.replace(self.outer);
        for hook in hooks.into_iter().filter(|_| is_committed) {
            // The panic handler logs a panic; the threads that wait for the commit must not fail
            // with it.
            let _ = catch_unwind(AssertUnwindSafe(hook));
        }
    }
}
