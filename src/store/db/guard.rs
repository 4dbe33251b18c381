//! What statements may do, asked by SQLite whenever one is prepared.
//!
//! Raw pages are refused everywhere and always. [`watched`] refuses more, for the statements that this
//! thread prepares meanwhile: those of somebody else's script. Statements of our own that are cached on
//! the connection are not prepared anew by that, and what is prepared under guard is not cached.

use std::cell::RefCell;

use rusqlite::hooks::Authorization;
pub use rusqlite::hooks::{AuthAction, AuthContext};

/// Says what may not be done: a phrase for whoever wrote the script.
pub type Judge = Box<dyn Fn(&AuthContext<'_>) -> Option<String>>;

#[derive(Default)]
struct Watch {
    judge: Option<Judge>,
    refused: Option<String>,
}

thread_local! {
    static WATCH: RefCell<Watch> = RefCell::default();
}

/// Runs `body`; what it prepares is refused when `judge` has something to say. Returns with the result
/// what it said first.
pub fn watched<T>(judge: Judge, body: impl FnOnce() -> T) -> (T, Option<String>) {
    /// Ends it, also when `body` panics.
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            WATCH.take();
        }
    }
    WATCH.with_borrow_mut(|watch| watch.judge = Some(judge));
    let end = End;
    let result = body();
    let refused = WATCH.with_borrow_mut(|watch| watch.refused.take());
    drop(end);
    (result, refused)
}

/// The authorizer of every connection.
pub fn authorize(context: AuthContext<'_>) -> Authorization {
    // They show what was deleted and what other tables hold: no statement of ours reads them, and
    // none of anybody else shall.
    if let AuthAction::Read { table_name, .. } = context.action
        && table_name.eq_ignore_ascii_case("sqlite_dbpage")
    {
        return Authorization::Deny;
    }
    WATCH.with_borrow_mut(|watch| {
        let refused = watch.judge.as_ref().and_then(|judge| judge(&context));
        match refused {
            None => Authorization::Allow,
            Some(phrase) => {
                watch.refused.get_or_insert(phrase);
                Authorization::Deny
            }
        }
    })
}
