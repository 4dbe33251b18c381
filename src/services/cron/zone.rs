//! Time zones: what the clocks on the wall show, and back.
//!
//! Wall times are milliseconds since 1970-01-01T00:00 on the wall, so that the calendar of `clock` counts them
//! too. The rules of the zones are those of the system (`/usr/share/zoneinfo`), as they are when a [`Zone`] is made, or
//! where it has none the copy in this binary.

use jiff::Timestamp;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};

/// Longest name.
const NAME_BYTES_MAX: usize = 64;

/// A time zone.
#[derive(Clone, Debug)]
pub struct Zone(TimeZone);

impl Zone {
    pub const UTC: Zone = Zone(TimeZone::UTC);

    /// The zone of a name of the IANA's; UTC of an empty one.
    pub fn parse(name: &str) -> Option<Zone> {
        if name.is_empty() {
            return Some(Zone::UTC);
        }
        if name.len() > NAME_BYTES_MAX {
            return None;
        }
        TimeZone::get(name).ok().map(Zone)
    }

    /// What the wall shows at a moment. None: far outside of the calendar.
    pub fn local_time(&self, ms: i64) -> Option<i64> {
        let at = Timestamp::from_millisecond(ms).ok()?;
        Some(ms + offset_ms(self.0.to_offset(at)))
    }

    /// When the clocks are changed next, after a moment.
    pub fn next_change(&self, ms: i64) -> Option<i64> {
        let at = Timestamp::from_millisecond(ms).ok()?;
        let change = self.0.following(at).next()?;
        Some(change.timestamp().as_millisecond())
    }

    /// When the wall shows this: of two times the first; of none, because the clocks jump over it, the
    /// moment of the jump.
    pub fn to_utc(&self, local_ms: i64) -> Option<i64> {
        let local = Timestamp::from_millisecond(local_ms).ok()?;
        let found = self
            .0
            .to_ambiguous_timestamp(Offset::UTC.to_datetime(local))
            .offset();
        match found {
            AmbiguousOffset::Unambiguous { offset } => Some(local_ms - offset_ms(offset)),
            AmbiguousOffset::Fold { before, .. } => Some(local_ms - offset_ms(before)),
            AmbiguousOffset::Gap { after, .. } => {
                // With the new offset the wall showed less before the jump than it would have to.
                let earlier = Timestamp::from_millisecond(local_ms - offset_ms(after)).ok()?;
                let mut changes = self.0.following(earlier);
                let jump = changes.find(|change| change.offset() == after)?;
                Some(jump.timestamp().as_millisecond())
            }
        }
    }
}

fn offset_ms(offset: Offset) -> i64 {
    i64::from(offset.seconds()) * 1000
}
