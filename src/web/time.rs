//! Times as people read them: relative in words, exact on hover. The script in `times.js` keeps
//! the words true while a page is open, so both use the same ones.

use std::fmt;

use askama::filters::HtmlSafe;
use jiff::tz::TimeZone;

use crate::domain::clock::{DAY, HOUR, MINUTE, Moment, SECOND};

/// The moment and the zone that a page is written in.
#[derive(Clone, Debug)]
pub struct Times {
    pub now: Moment,
    pub zone: TimeZone,
}

impl Times {
    /// "3 minutes ago", with the exact time on hover.
    pub fn when(&self, at: Moment) -> When {
        When { at, words: relative(at, self.now), exact: exact(at, &self.zone), relative: true }
    }

    /// "12 Oct 2026", with the exact time on hover.
    pub fn day(&self, at: Moment) -> When {
        let words = at.timestamp().to_zoned(self.zone.clone()).strftime("%-d %b %Y").to_string();
        When { at, words, exact: exact(at, &self.zone), relative: false }
    }

    /// "31 Oct".
    pub fn short_day(&self, at: Moment) -> String {
        at.timestamp().to_zoned(self.zone.clone()).strftime("%-d %b").to_string()
    }
}

/// One time on a page: a `<time>` element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct When {
    at: Moment,
    words: String,
    exact: String,
    relative: bool,
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Nothing here comes from outside: a zone's abbreviation is from the zone database.
        let mark = if self.relative { " data-relative" } else { "" };
        write!(
            f,
            "<time datetime=\"{}\"{mark} title=\"{}\">{}</time>",
            self.at.rfc3339(),
            self.exact,
            self.words
        )
    }
}

impl HtmlSafe for When {}

fn exact(at: Moment, zone: &TimeZone) -> String {
    at.timestamp().to_zoned(zone.clone()).strftime("%-d %b %Y, %H:%M:%S %Z").to_string()
}

/// Under ten seconds either way "just now", then whole units: rounded down for what is past, to the
/// nearest for what is to come.
fn relative(at: Moment, now: Moment) -> String {
    let since = now.since(at);
    let distance = since.saturating_abs();
    if distance < 10 * SECOND {
        return "just now".to_owned();
    }
    let units = [(DAY, "day"), (HOUR, "hour"), (MINUTE, "minute"), (SECOND, "second")];
    let (unit, name) = units.into_iter().find(|(unit, _)| distance >= *unit).unwrap_or((SECOND, "second"));
    // What is still to come is rounded to the nearest: a day that has just begun is not 23 hours.
    let count = if since > 0 { distance / unit } else { (distance + unit / 2) / unit };
    let plural = if count == 1 { "" } else { "s" };
    if since > 0 { format!("{count} {name}{plural} ago") } else { format!("in {count} {name}{plural}") }
}

/// "3 minutes", for how long to wait.
pub fn span(seconds: i64) -> String {
    match seconds {
        ..=1 => "1 second".to_owned(),
        2..=119 => format!("{seconds} seconds"),
        _ => format!("{} minutes", (seconds + 59) / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_script() {
        let now = Moment(100 * DAY);
        let ago = |micros| relative(now.minus(micros), now);
        assert_eq!(ago(9 * SECOND), "just now");
        assert_eq!(ago(18 * SECOND), "18 seconds ago");
        assert_eq!(ago(119 * SECOND), "1 minute ago");
        assert_eq!(ago(2 * HOUR + 59 * MINUTE), "2 hours ago");
        assert_eq!(ago(-51 * DAY - HOUR), "in 51 days");
        assert_eq!(ago(-DAY + SECOND), "in 24 hours");
        assert_eq!(ago(-30 * DAY + MINUTE), "in 30 days");
    }

    #[test]
    fn a_time_carries_its_exact_form() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let at = Moment::from_timestamp("2026-11-20T09:30:00Z".parse().unwrap());
        let times = Times { now: at.plus(MINUTE), zone };
        assert_eq!(
            times.when(at).to_string(),
            "<time datetime=\"2026-11-20T09:30:00Z\" data-relative title=\"20 Nov 2026, 10:30:00 CET\">1 minute ago</time>"
        );
    }
}
