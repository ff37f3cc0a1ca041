//! Money as integers: nanodollars (billionths of a US dollar) for amounts, picodollars for rates.

/// An amount in nanodollars. `Nanos(1_000_000_000)` is one US dollar.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Nanos(pub i64);

const PER_DOLLAR: i128 = 1_000_000_000;
/// Ten million dollars: more is a slip of the finger.
const MOST_TYPED: i64 = 10_000_000 * 1_000_000_000;

impl Nanos {
    pub const ZERO: Self = Self(0);

    /// An amount as a person types it: dollars with at most two decimal places, `1250`, `$1,250.50`.
    /// `None` for everything else: signs, exponents, other separators, more places, more than the
    /// books can hold.
    #[must_use]
    pub fn parse_dollars(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix('$').unwrap_or(text);
        let (whole, cents) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(cents) || cents.len() > 2 || whole.len() > 15 {
            return None;
        }
        let mut groups = whole.split(',');
        let first = groups.next()?;
        let grouped = whole.contains(',');
        let regular = digits(first) && (!grouped || first.len() <= 3);
        if !regular || !groups.all(|group| digits(group) && group.len() == 3) {
            return None;
        }
        let dollars: i64 = whole.replace(',', "").parse().ok()?;
        let cents: i64 = format!("{cents:0<2}").parse().ok()?;
        let nanos = dollars.checked_mul(1_000_000_000)?.checked_add(cents.checked_mul(10_000_000)?)?;
        (nanos <= MOST_TYPED).then_some(Self(nanos))
    }

    /// Whole cents as nanodollars; `None` beyond what the books can hold.
    #[must_use]
    pub fn of_cents(cents: i64) -> Option<Self> {
        cents.checked_mul(10_000_000).map(Self)
    }

    /// In whole cents; a fraction of one is dropped.
    #[must_use]
    pub fn cents(self) -> i64 {
        self.0 / 10_000_000
    }

    /// As `parse_dollars` reads it: `1250.50`.
    #[must_use]
    pub fn typed(self) -> String {
        let text = self.dollars().replace(['$', ','], "");
        text.strip_suffix(".00").map_or(text.clone(), str::to_owned)
    }

    #[must_use]
    pub fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Dollars and cents with grouped thousands, rounded half to even: `$1,284.20`.
    #[must_use]
    pub fn dollars(self) -> String {
        self.fixed(2)
    }

    /// To the micro-dollar, for single requests: `$0.001284`.
    #[must_use]
    pub fn micro_dollars(self) -> String {
        self.fixed(6)
    }

    /// As pages show amounts: to the cent from a dollar on, and below it to the micro-dollar as far
    /// as there is anything to show: `$17.33`, `$0.84`, `$0.000227`.
    #[must_use]
    pub fn shown(self) -> String {
        if self.0.abs() >= 1_000_000_000 {
            return self.dollars();
        }
        let full = self.fixed(6);
        let cents = full.len() - 4;
        let shown = full.trim_end_matches('0').len().max(cents);
        full[..shown].to_owned()
    }

    /// To the last place that is not zero, two at least: `$0.000256`, `$17.30`.
    #[must_use]
    pub fn precise(self) -> String {
        let full = self.fixed(9);
        let cents = full.len() - 7;
        let shown = full.trim_end_matches('0').len().max(cents);
        full[..shown].to_owned()
    }

    /// All nine places without a currency sign, for machines: `0.001284500`.
    #[must_use]
    pub fn exact(self) -> String {
        let sign = if self.0 < 0 { "-" } else { "" };
        let value = i128::from(self.0).abs();
        format!("{sign}{}.{:09}", value / PER_DOLLAR, value % PER_DOLLAR)
    }

    fn fixed(self, places: u32) -> String {
        let unit = 10_i128.pow(9 - places);
        let rounded = div_half_even(i128::from(self.0).abs(), unit);
        let scale = 10_i128.pow(places);
        let sign = if self.0 < 0 && rounded != 0 { "-" } else { "" };
        let whole = u64::try_from(rounded / scale).unwrap_or(u64::MAX);
        format!("{sign}${}.{:0width$}", grouped(whole), rounded % scale, width = places as usize)
    }
}

impl std::iter::Sum for Nanos {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Self::saturating_add)
    }
}

/// Divides and rounds half to even. The divisor must be positive.
#[must_use]
pub fn div_half_even(value: i128, divisor: i128) -> i128 {
    let quotient = value.div_euclid(divisor);
    let twice = value.rem_euclid(divisor) * 2;
    match twice.cmp(&divisor) {
        std::cmp::Ordering::Less => quotient,
        std::cmp::Ordering::Greater => quotient + 1,
        std::cmp::Ordering::Equal => quotient + (quotient & 1),
    }
}

/// A count with its thousands grouped: `41,208`.
#[must_use]
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A large count in three or four figures: `812`, `9,870`, `96.4M`, `1.02B`.
#[must_use]
pub fn compact(count: u64) -> String {
    let (unit, suffix) = match count {
        0..=9_999 => return grouped(count),
        10_000..=999_949 => (1_000_u64, "K"),
        999_950..=999_949_999 => (1_000_000, "M"),
        _ => (1_000_000_000, "B"),
    };
    let hundredths = div_half_even(i128::from(count) * 100, i128::from(unit));
    let (whole, part) = (hundredths / 100, hundredths % 100);
    match whole {
        0..=9 => format!("{whole}.{part:02}{suffix}"),
        10..=999 => {
            let tenths = div_half_even(i128::from(count) * 10, i128::from(unit));
            format!("{}.{}{suffix}", tenths / 10, tenths % 10)
        }
        _ => format!("{}{suffix}", grouped(u64::try_from(whole).unwrap_or(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollars_round_half_to_even() {
        assert_eq!(Nanos(5_000_000).dollars(), "$0.00");
        assert_eq!(Nanos(15_000_000).dollars(), "$0.02");
        assert_eq!(Nanos(1_284_204_999_999).dollars(), "$1,284.20");
        assert_eq!(Nanos(-5_000_001).dollars(), "-$0.01");
        assert_eq!(Nanos(-1).dollars(), "$0.00");
        assert_eq!(Nanos(1_500).micro_dollars(), "$0.000002");
        assert_eq!(Nanos(1_284_500).exact(), "0.001284500");
        assert_eq!(Nanos(227_400).shown(), "$0.000227");
        assert_eq!(Nanos(840_000_000).shown(), "$0.84");
        assert_eq!(Nanos(17_334_900_000).shown(), "$17.33");
        assert_eq!(Nanos(0).shown(), "$0.00");
        assert_eq!(Nanos(256_000).precise(), "$0.000256");
        assert_eq!(Nanos(1_017_300_000_000).precise(), "$1,017.30");
        assert_eq!(Nanos(0).precise(), "$0.00");
        assert_eq!(Nanos(-1).precise(), "-$0.000000001");
    }

    #[test]
    fn typed_amounts_are_read_exactly_or_not_at_all() {
        for (text, nanos) in [
            ("0", 0),
            ("250", 250_000_000_000),
            (" $1,250.5 ", 1_250_500_000_000),
            ("0.01", 10_000_000),
            ("10,000,000.00", MOST_TYPED),
        ] {
            let read = Nanos::parse_dollars(text);
            assert_eq!(read, Some(Nanos(nanos)), "{text}");
            assert_eq!(read.and_then(|amount| Nanos::parse_dollars(&amount.typed())), read, "{text}");
        }
        for text in [
            "",
            "$",
            "-1",
            "+1",
            "1e3",
            "NaN",
            "inf",
            "0x10",
            "1.",
            ".5",
            "1.005",
            "1,25",
            "12,34.5",
            ",100",
            "1,2345",
            "1 000",
            "1.5.5",
            "10000000.01",
            "99999999999999999999",
            "१",
            "0,100.",
            "1_000",
            "1,,000",
        ] {
            assert_eq!(Nanos::parse_dollars(text), None, "{text}");
        }
    }

    #[test]
    fn counts_are_grouped_and_shortened() {
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(compact(9_999), "9,999");
        assert_eq!(compact(96_400_000), "96.4M");
        assert_eq!(compact(8_120_000), "8.12M");
        assert_eq!(compact(999_999), "1.00M");
        assert_eq!(compact(12_345), "12.3K");
    }
}
