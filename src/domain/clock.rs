//! Time as Keyward keeps it: signed 64-bit microseconds since the Unix epoch, and the one place
//! where the wall clock is read.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;
use jiff::tz::TimeZone;

pub const SECOND: i64 = 1_000_000;
pub const MINUTE: i64 = 60 * SECOND;
pub const HOUR: i64 = 60 * MINUTE;
pub const DAY: i64 = 24 * HOUR;

/// A moment: microseconds since the Unix epoch.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Moment(pub i64);

impl Moment {
    #[must_use]
    pub const fn plus(self, micros: i64) -> Self {
        Self(self.0.saturating_add(micros))
    }

    #[must_use]
    pub const fn minus(self, micros: i64) -> Self {
        Self(self.0.saturating_sub(micros))
    }

    /// Microseconds from `earlier` to `self`; negative when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment as jiff knows it; out-of-range values are clamped to the epoch.
    #[must_use]
    pub fn timestamp(self) -> Timestamp {
        Timestamp::from_microsecond(self.0).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    #[must_use]
    pub fn from_timestamp(timestamp: Timestamp) -> Self {
        Self(timestamp.as_microsecond())
    }

    /// RFC 3339 in UTC, to the second: `2026-11-20T09:30:00Z`.
    #[must_use]
    pub fn rfc3339(self) -> String {
        self.timestamp().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    /// The civil date at this moment in a time zone.
    #[must_use]
    pub fn date(self, zone: &TimeZone) -> jiff::civil::Date {
        self.timestamp().to_zoned(zone.clone()).date()
    }

    /// The first moment of a civil date in a time zone (not always midnight: some zones skip it).
    #[must_use]
    pub fn start_of(date: jiff::civil::Date, zone: &TimeZone) -> Self {
        date.to_zoned(zone.clone()).map_or(Self(0), |start| Self::from_timestamp(start.timestamp()))
    }
}

/// Where the time comes from: the system, or a test's own hand.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// Added to the system's time, in microseconds; shared by all clones.
    offset: Option<Arc<AtomicI64>>,
}

impl Clock {
    #[must_use]
    pub fn system() -> Self {
        Self { offset: None }
    }

    /// A clock that runs with the system's and can be moved by `advance`.
    #[must_use]
    pub fn adjustable() -> Self {
        Self { offset: Some(Arc::new(AtomicI64::new(0))) }
    }

    /// Moves an adjustable clock; a system clock stays where it is.
    pub fn advance(&self, micros: i64) {
        if let Some(offset) = &self.offset {
            offset.fetch_add(micros, Ordering::SeqCst);
        }
    }

    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place where the wall clock is read")]
    pub fn now(&self) -> Moment {
        let offset = self.offset.as_ref().map_or(0, |offset| offset.load(Ordering::SeqCst));
        Moment::from_timestamp(Timestamp::now()).plus(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adjustable_clock_moves_for_all_its_clones() {
        let clock = Clock::adjustable();
        let clone = clock.clone();
        let before = clock.now();
        clone.advance(DAY);
        assert!(clock.now().since(before) >= DAY);
    }

    #[test]
    fn days_start_where_the_zone_says() {
        let zone = TimeZone::get("Asia/Kathmandu").unwrap();
        let start = Moment::start_of(jiff::civil::date(2026, 11, 20), &zone);
        assert_eq!(start.rfc3339(), "2026-11-19T18:15:00Z");
        assert_eq!(start.date(&zone), jiff::civil::date(2026, 11, 20));
        assert_eq!(start.minus(1).date(&zone), jiff::civil::date(2026, 11, 19));
    }
}
