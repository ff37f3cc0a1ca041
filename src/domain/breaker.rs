//! The breaker for unusual spend: an hour that costs several times what the busiest hours of other
//! days did.

use super::billing::OnReach;
use super::clock::{DAY, HOUR, Moment};
use super::money::Nanos;

/// Days that say what is usual.
pub const LOOKS_BACK: i64 = 14 * DAY;
/// Fewer days with use than this say nothing.
const NEEDS_DAYS: usize = 3;
/// What a tenant may choose.
pub const FACTORS: std::ops::RangeInclusive<i64> = 2..=100;

/// A tenant's breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// How many times the usual is unusual.
    pub factor: i64,
    /// An hour that costs less than this is never unusual.
    pub least: Nanos,
    pub on_trip: OnReach,
    /// When it was set or AI was resumed: what was spent before no longer counts.
    pub since: Moment,
    pub tripped: Option<Tripped>,
}

/// What the breaker tripped on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tripped {
    pub at: Moment,
    /// Within the hour before.
    pub spent: Nanos,
    /// The usual busiest hour; zero where there was none to tell by.
    pub usual: Nanos,
}

impl Breaker {
    /// Whether requests are refused.
    #[must_use]
    pub fn pauses(&self) -> bool {
        self.on_trip == OnReach::Pause && self.tripped.is_some()
    }

    /// Whether an hour's spend is unusual.
    #[must_use]
    pub fn trips(&self, spent: Nanos, usual: Nanos) -> bool {
        let most = i128::from(usual.0) * i128::from(self.factor);
        spent >= self.least && i128::from(spent.0) > most
    }

    /// From when on the present hour's spend is counted.
    #[must_use]
    pub fn counts_from(&self, now: Moment) -> Moment {
        now.minus(HOUR).max(self.since)
    }
}

/// The usual busiest hour: of the days with any use, each one's busiest, the one in the middle. So
/// neither a quiet night nor a single wild day says what is usual. `None` where too few days tell.
///
/// `hours` are hours of the past with what they cost.
#[must_use]
pub fn usual(hours: &[(Moment, Nanos)]) -> Option<Nanos> {
    let mut busiest = std::collections::BTreeMap::new();
    for (at, spent) in hours.iter().filter(|(_, spent)| spent.0 > 0) {
        let day: &mut Nanos = busiest.entry(at.0.div_euclid(DAY)).or_default();
        *day = (*day).max(*spent);
    }
    let mut peaks: Vec<Nanos> = busiest.into_values().collect();
    peaks.sort_unstable();
    (peaks.len() >= NEEDS_DAYS).then(|| peaks[peaks.len() / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_is_the_middle_of_the_days_peaks() {
        let hour = |day: i64, hour: i64, spent| (Moment(day * DAY + hour * HOUR), Nanos(spent));
        assert_eq!(usual(&[]), None);
        assert_eq!(usual(&[hour(1, 1, 5), hour(1, 2, 9), hour(2, 1, 7)]), None);
        let four =
            [hour(1, 1, 5), hour(1, 2, 9), hour(2, 1, 7), hour(3, 4, 1_000), hour(4, 1, 8), hour(5, 1, 0)];
        // Peaks 7, 8, 9 and 1,000: the wild day moves it by no more than a place.
        assert_eq!(usual(&four), Some(Nanos(9)));
    }

    #[test]
    fn what_is_small_never_trips_and_what_is_resumed_begins_anew() {
        let breaker = Breaker {
            factor: 5,
            least: Nanos(100),
            on_trip: OnReach::Pause,
            since: Moment(3 * HOUR),
            tripped: None,
        };
        assert!(!breaker.trips(Nanos(99), Nanos(1)));
        assert!(breaker.trips(Nanos(100), Nanos(1)));
        assert!(!breaker.trips(Nanos(500), Nanos(100)));
        assert!(breaker.trips(Nanos(501), Nanos(100)));
        assert!(!breaker.trips(Nanos(i64::MAX), Nanos(i64::MAX)));
        assert_eq!(breaker.counts_from(Moment(3 * HOUR + 5)), Moment(3 * HOUR));
        assert_eq!(breaker.counts_from(Moment(9 * HOUR)), Moment(8 * HOUR));
    }
}
