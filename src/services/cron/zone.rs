//! Conversion between UTC and the local time of a time zone.
//!
//! Local times are milliseconds since 1970-01-01T00:00 local time, so that the calendar functions
//! of `clock` apply. The rules come from the system (`/usr/share/zoneinfo`) when a [`Zone`] is
//! created, or from the copy in this binary.

use jiff::Timestamp;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};

/// Limit on names.
const NAME_BYTES_MAX: usize = 64;

#[derive(Clone, Debug)]
pub struct Zone(TimeZone);

impl Zone {
    pub const UTC: Zone = Zone(TimeZone::UTC);

    /// Looks up an IANA name; an empty name is UTC.
    pub fn parse(name: &str) -> Option<Zone> {
        if name.is_empty() {
            return Some(Zone::UTC);
        }
        if name.len() > NAME_BYTES_MAX {
            return None;
        }
        TimeZone::get(name).ok().map(Zone)
    }

    /// The local time at a moment. `None` far outside the calendar.
    pub fn local_time(&self, ms: i64) -> Option<i64> {
        let at = Timestamp::from_millisecond(ms).ok()?;
        Some(ms + offset_ms(self.0.to_offset(at)))
    }

    /// The next change of the UTC offset after a moment.
    pub fn next_change(&self, ms: i64) -> Option<i64> {
        let at = Timestamp::from_millisecond(ms).ok()?;
        let change = self.0.following(at).next()?;
        Some(change.timestamp().as_millisecond())
    }

    /// The moment of a local time. A local time that occurs twice means the first; a local time
    /// that is skipped means the moment of the jump.
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
                // By the new offset, this moment is before the jump.
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
