//! SQLite's authorizer: it is asked about each action of a statement when the statement is
//! prepared.
//!
//! Reading raw pages is always denied. [`with_policy`] denies more, for the statements that this
//! thread prepares meanwhile, such as those of a cron script. Our own statements that the
//! connection has cached are not prepared again under the policy, and a statement that is prepared
//! under it is not cached.

use std::cell::RefCell;

use rusqlite::hooks::Authorization;
pub use rusqlite::hooks::{AuthAction, AuthContext};

/// Returns why an action is denied, as a phrase for the author of the script; none allows it.
pub type Policy = Box<dyn Fn(&AuthContext<'_>) -> Option<String>>;

#[derive(Default)]
struct Current {
    policy: Option<Policy>,
    denial: Option<String>,
}

thread_local! {
    static CURRENT: RefCell<Current> = RefCell::default();
}

/// Runs `body` under a policy. Returns its result and the first denial.
pub fn with_policy<T>(policy: Policy, body: impl FnOnce() -> T) -> (T, Option<String>) {
    /// Removes the policy, also when `body` panics.
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            CURRENT.take();
        }
    }
    CURRENT.with_borrow_mut(|current| current.policy = Some(policy));
    let reset = Reset;
    let result = body();
    let denial = CURRENT.with_borrow_mut(|current| current.denial.take());
    drop(reset);
    (result, denial)
}

/// The reason why a policy for statements of others denies a function.
pub fn denied_function(name: &str) -> Option<String> {
    name.eq_ignore_ascii_case("load_extension")
        .then(|| "call load_extension".to_owned())
}

/// The authorizer callback of every connection.
pub fn authorize(context: AuthContext<'_>) -> Authorization {
    // Raw pages show deleted rows and every other table. Our statements do not read them, so no
    // statement may.
    if let AuthAction::Read { table_name, .. } = context.action
        && table_name.eq_ignore_ascii_case("sqlite_dbpage")
    {
        return Authorization::Deny;
    }
    CURRENT.with_borrow_mut(|current| {
        let denial = current.policy.as_ref().and_then(|policy| policy(&context));
        match denial {
            None => Authorization::Allow,
            Some(phrase) => {
                current.denial.get_or_insert(phrase);
                Authorization::Deny
            }
        }
    })
}
