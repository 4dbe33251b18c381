//! Named points at which tests end the process as a crash would: `VSKI_FAILPOINT=name`, or `name:3` for
//! the third time it is reached. Programs that are built for use have none.

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static ARMED: OnceLock<Option<(String, u32)>> = OnceLock::new();
    /// How often the armed point was reached.
    static REACHED: AtomicU32 = AtomicU32::new(0);

    fn read() -> Option<(String, u32)> {
        let text = std::env::var("VSKI_FAILPOINT").ok()?;
        match text.split_once(':') {
            Some((name, count)) => Some((name.to_owned(), count.parse().ok()?)),
            None => Some((text, 1)),
        }
    }

    /// True if `VSKI_FAILPOINT` is `WHAT-WHERE`, where `WHAT` may be one of several with `+` between them.
    pub fn is_armed(what: &str, place: &str) -> bool {
        let armed = ARMED.get_or_init(read).as_ref();
        armed
            .and_then(|(name, _)| name.split_once('-'))
            .is_some_and(|(whats, armed)| armed == place && whats.split('+').any(|it| it == what))
    }

    /// Ends the process here, if it is armed for this point and this time.
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

/// False.
#[cfg(not(debug_assertions))]
#[inline]
pub fn is_armed(_what: &str, _where: &str) -> bool {
    false
}

/// Nothing.
#[cfg(not(debug_assertions))]
#[inline]
pub fn reach(_name: &'static str) {}
