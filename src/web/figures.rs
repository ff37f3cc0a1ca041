//! Numbers as pages show them.

use crate::domain::money::{compact, grouped};

fn positive(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

/// `41,208`.
pub fn count(count: i64) -> String {
    grouped(positive(count))
}

/// `96.4M`.
pub fn tokens(count: i64) -> String {
    compact(positive(count))
}

/// `1 request`, `2 requests`.
pub fn counted(number: i64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// A share in per cent: `0.3%`, `71%`.
pub fn share(part: i64, whole: i64) -> String {
    if whole <= 0 {
        return "0%".to_owned();
    }
    let tenths = (i128::from(part) * 1_000 + i128::from(whole) / 2) / i128::from(whole);
    match tenths {
        0 if part > 0 => "under 0.1%".to_owned(),
        0..=99 if tenths % 10 != 0 => format!("{}.{}%", tenths / 10, tenths % 10),
        _ => format!("{}%", (tenths + 5) / 10),
    }
}

/// Against the thirty days before: `+12% on the 30 days before`.
pub fn change(now: i64, before: i64) -> String {
    match (now, before) {
        (0, 0) => "None in the 30 days before either".to_owned(),
        (_, ..=0) => "None in the 30 days before".to_owned(),
        _ => {
            let difference = i128::from(now) - i128::from(before);
            let percent = crate::domain::money::div_half_even(difference * 100, i128::from(before));
            match percent {
                0 => "As in the 30 days before".to_owned(),
                1_000.. => "More than ten times the 30 days before".to_owned(),
                1.. => format!("+{percent}% on the 30 days before"),
                _ => format!("\u{2212}{}% on the 30 days before", percent.abs()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_said_in_words_where_a_number_would_mislead() {
        assert_eq!(change(112, 100), "+12% on the 30 days before");
        assert_eq!(change(50, 100), "\u{2212}50% on the 30 days before");
        assert_eq!(change(5, 0), "None in the 30 days before");
        assert_eq!(change(i64::MAX, 1), "More than ten times the 30 days before");
    }

    #[test]
    fn shares_show_a_decimal_only_where_it_matters() {
        assert_eq!(share(3, 1_000), "0.3%");
        assert_eq!(share(71, 100), "71%");
        assert_eq!(share(1, 100_000), "under 0.1%");
        assert_eq!(share(1, 0), "0%");
        assert_eq!(share(100, 100), "100%");
    }
}
