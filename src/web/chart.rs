//! The usage chart as numbers for an SVG: stacked bars by mode and day, and where the mode
//! changed. Pure; the template only writes it down, the style sheet paints it.

use super::figures::{count, counted, tokens};
use super::time::Times;
use crate::domain::billing::{ModeChange, UsageMode};
use crate::domain::clock::Moment;
use crate::domain::money::{Nanos, div_half_even};
use crate::services::billing::{Day, Report};
use crate::storage::usage_report::Totals;

/// What the bars measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    Dollars,
    Requests,
    Tokens,
}

impl Show {
    pub const ALL: [Self; 3] = [Self::Dollars, Self::Requests, Self::Tokens];

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|show| show.as_str() == text)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dollars => "dollars",
            Self::Requests => "requests",
            Self::Tokens => "tokens",
        }
    }

    pub fn label(self) -> &'static str {
        match self {
            Self::Dollars => "Dollars",
            Self::Requests => "Requests",
            Self::Tokens => "Tokens",
        }
    }

    fn all_of(self, totals: &Totals) -> i64 {
        match self {
            Self::Dollars => totals.cost,
            Self::Requests => totals.requests,
            Self::Tokens => totals.prompt_tokens() + totals.output_tokens,
        }
    }

    /// The part that is an estimate, where the rollups tell it.
    fn estimated_of(self, totals: &Totals) -> i64 {
        match self {
            Self::Dollars => totals.estimated_cost,
            Self::Requests => totals.estimated,
            Self::Tokens => 0,
        }
    }
}

/// Lengths are in the units of the drawing: 1,000 wide, 260 high.
pub struct Chart {
    pub grid: Vec<Grid>,
    pub bars: Vec<DayBars>,
    pub markers: Vec<Marker>,
    pub has_estimated: bool,
    pub has_unpriced: bool,
    pub has_fallback: bool,
}

pub struct Grid {
    pub y: String,
    pub text_y: String,
    pub label: String,
    pub is_axis: bool,
}

pub struct DayBars {
    pub hit_x: String,
    pub hit_width: String,
    pub parts: Vec<Part>,
    /// Where the ring of unpriced use is drawn.
    pub unpriced_y: Option<String>,
    /// A notch in the axis, as a path: some requests fell back to the shared account.
    pub fallback: Option<String>,
    pub middle: String,
    /// The date under the bar, on every seventh day and the last.
    pub label: Option<(String, &'static str)>,
    pub read: String,
}

pub struct Part {
    pub class: &'static str,
    pub x: String,
    pub y: String,
    pub width: String,
    pub height: String,
}

pub struct Marker {
    pub x: String,
    pub text_x: String,
    pub text_y: String,
    pub anchor: &'static str,
    pub label: String,
}

const LEFT: f64 = 64.0;
const RIGHT: f64 = 1_000.0;
const TOP: f64 = 24.0;
pub const BOTTOM: f64 = 232.0;
const STEPS: i64 = 4;

pub fn draw(report: &Report, show: Show, times: &Times) -> Chart {
    let highest =
        report.days.iter().map(|day| show.all_of(&day.byok) + show.all_of(&day.managed)).max().unwrap_or(0);
    let step = nice_step(highest, if show == Show::Dollars { 1_000 } else { 1 });
    let top = step * STEPS;
    let column = (RIGHT - LEFT) / report.days.len().max(1) as f64;
    let height = |value: i64| value as f64 / top as f64 * (BOTTOM - TOP);
    let last = report.days.len().saturating_sub(1);
    let bars = report
        .days
        .iter()
        .enumerate()
        .map(|(index, day)| {
            let hit_x = LEFT + column * index as f64;
            let width = column * 0.7;
            let x = hit_x + column * 0.15;
            let mut floor = BOTTOM;
            let mut parts = Vec::new();
            for (mode, totals) in [(UsageMode::Byok, &day.byok), (UsageMode::Managed, &day.managed)] {
                let estimated = show.estimated_of(totals).min(show.all_of(totals));
                for (value, class) in [
                    (show.all_of(totals) - estimated, class_of(mode, false)),
                    (estimated, class_of(mode, true)),
                ] {
                    if value <= 0 {
                        continue;
                    }
                    // Thin, but never gone: something was used.
                    let tall = height(value).max(1.0);
                    floor -= tall;
                    parts.push(Part {
                        class,
                        x: number(x),
                        y: number(floor),
                        width: number(width),
                        height: number(tall),
                    });
                }
            }
            let unpriced = day.byok.unpriced + day.managed.unpriced > 0;
            let middle = hit_x + column / 2.0;
            let label = match index {
                index if index == last => Some("end"),
                index if (last - index).is_multiple_of(7) => Some("middle"),
                _ => None,
            };
            DayBars {
                hit_x: number(hit_x),
                hit_width: number(column),
                parts,
                unpriced_y: unpriced.then(|| number((floor - 9.0).max(8.0))),
                fallback: (day.managed.fallbacks > 0)
                    .then(|| format!("M{} {}l5 7h-10z", number(middle), number(BOTTOM + 2.0))),
                middle: number(middle),
                label: label.map(|anchor| (day.date.strftime("%-d %b").to_string(), anchor)),
                read: read_out(day),
            }
        })
        .collect();
    Chart {
        grid: (0..=STEPS)
            .map(|line| {
                let y = BOTTOM - height(step * line);
                Grid {
                    y: number(y),
                    text_y: number(y + 4.0),
                    label: axis_label(step * line, step, show),
                    is_axis: line == 0,
                }
            })
            .collect(),
        bars,
        markers: markers(report, times),
        has_estimated: report.totals.estimated > 0,
        has_unpriced: report.totals.unpriced > 0,
        has_fallback: report.totals.fallbacks > 0,
    }
}

fn class_of(mode: UsageMode, estimated: bool) -> &'static str {
    match (mode, estimated) {
        (UsageMode::Byok, false) => "bar byok",
        (UsageMode::Byok, true) => "bar byok estimated",
        (UsageMode::Managed, false) => "bar managed",
        (UsageMode::Managed, true) => "bar managed estimated",
    }
}

fn number(value: f64) -> String {
    format!("{value:.1}")
}

/// A step of 1, 2, 3, 5 or 6 times a power of ten, four of which hold the highest bar.
fn nice_step(highest: i64, least: i64) -> i64 {
    let needed = (highest + STEPS - 1) / STEPS;
    let mut power = least;
    while power <= i64::MAX / 100 {
        for factor in [1, 2, 3, 5, 6] {
            if power * factor >= needed {
                return power * factor;
            }
        }
        power *= 10;
    }
    needed.max(1)
}

fn axis_label(value: i64, step: i64, show: Show) -> String {
    match show {
        Show::Requests => count(value),
        Show::Tokens => compact_axis(value),
        Show::Dollars => {
            // As many decimals as the step needs, no more.
            let mut places: u32 = 0;
            while places < 6 && step % 10_i64.pow(9 - places) != 0 {
                places += 1;
            }
            if places == 1 {
                places = 2;
            }
            let scaled = div_half_even(i128::from(value), 10_i128.pow(9 - places));
            let scale = 10_i128.pow(places);
            let whole = count(i64::try_from(scaled / scale).unwrap_or(i64::MAX));
            if places == 0 || value == 0 {
                format!("${whole}")
            } else {
                format!("${whole}.{:0width$}", scaled % scale, width = places as usize)
            }
        }
    }
}

/// Round numbers without the decimals that make them long: `60M`, `1.2B`.
fn compact_axis(value: i64) -> String {
    let (unit, suffix) = match value {
        ..=9_999 => return count(value),
        10_000..=999_999 => (1_000, "K"),
        1_000_000..=999_999_999 => (1_000_000, "M"),
        _ => (1_000_000_000, "B"),
    };
    if value % unit == 0 { format!("{}{suffix}", count(value / unit)) } else { tokens(value) }
}

/// "31 Oct: $17.44, 1,403 requests. Your own key $14.07, managed $3.37."
fn read_out(day: &Day) -> String {
    let sum = day.byok.plus(&day.managed);
    let date = day.date.strftime("%-d %b");
    if sum.requests == 0 {
        return format!("{date}: nothing used");
    }
    let mut sentences = vec![format!(
        "{date}: {}, {}, {} tokens",
        Nanos(sum.cost).precise(),
        counted(sum.requests, "request", "requests"),
        tokens(sum.prompt_tokens() + sum.output_tokens)
    )];
    if day.byok.requests > 0 && day.managed.requests > 0 {
        let (byok, managed) = (day.byok.cost().precise(), day.managed.cost().precise());
        sentences.push(format!("Your own key {byok}, managed {managed}"));
    }
    if sum.fallbacks > 0 {
        sentences.push(format!("{} fell back to the shared account", count(sum.fallbacks)));
    }
    if sum.estimated > 0 {
        sentences.push(format!("{} estimated", count(sum.estimated)));
    }
    if sum.unpriced > 0 {
        sentences.push(format!("{} without a price", count(sum.unpriced)));
    }
    sentences.join(". ")
}

/// Where the usage mode was switched. Labels of neighbours stand on rows of their own.
fn markers(report: &Report, times: &Times) -> Vec<Marker> {
    let span = report.to.since(report.from).max(1) as f64;
    let at = |moment: Moment| LEFT + (RIGHT - LEFT) * (moment.since(report.from) as f64 / span);
    report
        .mode_changes
        .iter()
        .filter(|change| change.at >= report.from)
        .enumerate()
        .map(|(index, change): (usize, &ModeChange)| {
            let x = at(change.at);
            let right = x < 700.0;
            Marker {
                x: number(x),
                text_x: number(if right { x + 6.0 } else { x - 6.0 }),
                text_y: number(12.0 + 14.0 * (index % 3) as f64),
                anchor: if right { "start" } else { "end" },
                label: format!(
                    "Switched to {}, {}",
                    match change.mode {
                        UsageMode::Byok => "own key",
                        UsageMode::Managed => "managed",
                    },
                    times.short_day(change.at)
                ),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_and_hold_the_highest_bar() {
        for highest in [0, 1, 3, 17, 4_000, 23_999_999_999, i64::MAX / 1_000] {
            let step = nice_step(highest, 1);
            assert!(step * STEPS >= highest, "{highest}");
            assert!(highest < 8 || step * STEPS <= highest * 3, "{highest}: {step}");
        }
        assert_eq!(nice_step(23_000_000_000, 1_000), 6_000_000_000);
    }

    #[test]
    fn the_axis_has_as_many_decimals_as_it_needs() {
        let label = |value, step| axis_label(value, step, Show::Dollars);
        assert_eq!(label(12_000_000_000, 6_000_000_000), "$12");
        assert_eq!(label(0, 500_000_000), "$0");
        assert_eq!(label(500_000_000, 500_000_000), "$0.50");
        assert_eq!(label(4_000_000, 2_000_000), "$0.004");
        assert_eq!(axis_label(60_000_000, 20_000_000, Show::Tokens), "60M");
        assert_eq!(axis_label(1_500, 500, Show::Requests), "1,500");
    }
}
