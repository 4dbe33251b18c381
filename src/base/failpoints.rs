//! Failpoints: named points at which tests crash the process, with `VSKI_FAILPOINT=name`, or
//! `name:3` for the third time that the point is reached. Release builds have none.

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static ARMED: OnceLock<Option<(String, u32)>> = OnceLock::new();
    /// The number of times that the armed point was reached.
    static REACHED: AtomicU32 = AtomicU32::new(0);

    fn read() -> Option<(String, u32)> {
        let text = std::env::var("VSKI_FAILPOINT").ok()?;
        match text.split_once(':') {
            Some((name, count)) => Some((name.to_owned(), count.parse().ok()?)),
            None => Some((text, 1)),
        }
    }

    /// True if `VSKI_FAILPOINT` is `ACTION-PLACE` with this action and place. `ACTION` may be a
    /// list, separated by `+`.
    pub fn is_armed(action: &str, place: &str) -> bool {
        let armed = ARMED.get_or_init(read).as_ref();
        armed
            .and_then(|(name, _)| name.split_once('-'))
            .is_some_and(|(actions, armed)| {
                armed == place && actions.split('+').any(|it| it == action)
            })
    }

    /// Crashes the process if this point is armed and reached for the armed time.
    pub fn reach(name: &'static str) {
        let Some((armed, times)) = ARMED.get_or_init(read) else {
            return;
        };
        if armed != name {
            return;
        }
        if REACHED.fetch_add(1, Ordering::SeqCst) + 1 == *times {
            std::process::abort();
        }
    }
}

#[cfg(debug_assertions)]
pub use armed::is_armed;
#[cfg(debug_assertions)]
pub use armed::reach;

/// Always false in a release build.
#[cfg(not(debug_assertions))]
#[inline]
pub fn is_armed(_action: &str, _place: &str) -> bool {
    false
}

/// Does nothing in a release build.
#[cfg(not(debug_assertions))]
#[inline]
pub fn reach(_name: &'static str) {}
