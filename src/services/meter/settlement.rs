//! What a call's end makes of its pending row.

use crate::domain::billing::{Funding, UsageMode};
use crate::domain::clock::Moment;
use crate::domain::money::Nanos;
use crate::domain::price::PriceBook;
use crate::domain::usage::{TokenUsage, UsageRow, UsageState};
use crate::providers::Report;
use crate::providers::is_error_code;

/// How an answer ended, as the gateway saw it.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    pub status: Option<u16>,
    /// Keyward's own code, or the provider's for an error answer.
    pub error_code: Option<String>,
    pub first_byte_us: Option<i64>,
    /// Stopped before its end: by the upstream, or by Keyward after the client had left.
    pub cut: bool,
    /// Nothing reached the provider, or nothing that it took.
    pub unsent: bool,
}

/// Tokens of one kind beyond this are no report of a provider: contexts hold a few million.
const MOST_TOKENS: u64 = 100_000_000;
/// Names and codes that a provider gives, in bytes.
const LONGEST_NAME: usize = 128;
const LONGEST_RAW: usize = 16 * 1_024;

/// Turns a pending row into its settlement. What the provider says of itself is held to bounds: a
/// tenant's own endpoint can say anything.
#[must_use]
pub fn settle(
    mut row: UsageRow,
    report: Report,
    ending: Ending,
    prices: &PriceBook,
    now: Moment,
) -> UsageRow {
    let refused = ending.status.is_some_and(|status| status >= 300);
    row.ended_at = Some(now);
    row.total_us = Some(now.since(row.started_at).max(0));
    row.first_byte_us = ending.first_byte_us;
    row.status = ending.status;
    row.model_served = report.model.filter(|model| is_name(model));
    row.served_as = report.served_as;
    row.raw_usage = report.raw.filter(|raw| is_plain_usage(raw));
    row.error_code = ending.error_code.or(report.error_code.filter(|code| is_error_code(code)));
    let seen = (report.output_chars / 4).min(MOST_TOKENS);
    (row.tokens, row.state) = match report.tokens.filter(believable) {
        Some(tokens) if report.complete && !ending.cut => (tokens, UsageState::Final),
        // The last word on output may be missing; what was seen of it is the least there was.
        Some(tokens) => (TokenUsage { output: tokens.output.max(seen), ..tokens }, UsageState::Partial),
        // An error is not charged for, and what was never sent used nothing.
        None if refused || ending.unsent => (TokenUsage::default(), UsageState::Final),
        None => {
            let output = if seen == 0 { row.tokens.output } else { seen };
            let state = if ending.cut { UsageState::Partial } else { UsageState::Estimated };
            (TokenUsage { output, ..row.tokens }, state)
        }
    };
    rate(row, prices)
}

/// Whether a usage object holds nothing but numbers under names. What could be a key that was sent back
/// is not kept: a page shows the object, and the database does not seal it.
fn is_plain_usage(raw: &str) -> bool {
    let raw = raw.as_bytes();
    if raw.len() > LONGEST_RAW {
        return false;
    }
    let mut began = None;
    for (at, byte) in raw.iter().enumerate() {
        match (byte, began) {
            (b'\0' | b'\\', _) => return false,
            (b'"', None) => began = Some(at + 1),
            (b'"', Some(from)) => {
                if !is_plain_word(&raw[from..at]) {
                    return false;
                }
                began = None;
            }
            _ => {}
        }
    }
    began.is_none_or(|from| is_plain_word(&raw[from..]))
}

/// What stands between quotes in a usage object: a name, or a word.
fn is_plain_word(word: &[u8]) -> bool {
    match word.len() {
        0..=24 => word.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b':')),
        25..=48 => {
            word.iter().all(|b| b.is_ascii_alphabetic() || *b == b'_')
                || (word.contains(&b'_')
                    && word.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'_'))
        }
        _ => false,
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= LONGEST_NAME && text.bytes().all(|b| b.is_ascii_graphic())
}

fn believable(tokens: &TokenUsage) -> bool {
    tokens.all().iter().all(|count| *count <= MOST_TOKENS)
}

/// Settles a row whose process died: by the estimate that it was opened with.
#[must_use]
pub fn settle_orphan(mut row: UsageRow, prices: &PriceBook, now: Moment) -> UsageRow {
    row.ended_at = Some(now);
    row.state = UsageState::Estimated;
    row.error_code = Some("keyward_interrupted".to_owned());
    rate(row, prices)
}

/// Rates a row by the price that held when it ran.
#[must_use]
pub fn rate(mut row: UsageRow, prices: &PriceBook) -> UsageRow {
    let nothing = row.tokens == TokenUsage::default();
    // An alias has a price where the snapshot that served has none.
    let rated = [row.model(), &row.model_asked]
        .into_iter()
        .find_map(|model| prices.rate(row.provider, model, &row.tokens, row.served_as, row.started_at));
    match rated {
        Some(rated) => {
            row.price_id = Some(rated.price_id);
            row.cost = rated.cost(row.rate);
            row.billed = match (row.mode, row.funding) {
                (UsageMode::Managed, Funding::Metered | Funding::Credits) => row.cost,
                _ => Nanos::ZERO,
            };
        }
        None => row.unpriced = !nothing,
    }
    row
}

/// What is left of a settlement that the database will not have.
pub(super) fn without_numbers(row: UsageRow) -> UsageRow {
    UsageRow {
        tokens: TokenUsage::default(),
        cost: Nanos::ZERO,
        billed: Nanos::ZERO,
        model_served: None,
        raw_usage: None,
        error_code: Some("keyward_unreadable_usage".to_owned()),
        unpriced: true,
        state: UsageState::Estimated,
        ..row
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::domain::ids::{InstanceId, KeyId, RequestId, TenantId};
    use crate::domain::price::Multiplier;
    use crate::domain::price_list;
    use crate::domain::provider_key::Provider;
    use crate::domain::usage::{Dialect, Labels, ServedAs, estimate};

    pub fn pending() -> UsageRow {
        UsageRow {
            id: RequestId::new(),
            tenant_id: TenantId::new(),
            instance: InstanceId::new(),
            started_at: Moment(1),
            ended_at: None,
            feature: "general".into(),
            provider: Provider::Anthropic,
            dialect: Dialect::Anthropic,
            key_id: KeyId::new(),
            key_name: "production".into(),
            key_version: 1,
            mode: UsageMode::Byok,
            funding: Funding::Included,
            fallback: None,
            model_asked: "claude-haiku-4-5".into(),
            model_served: None,
            labels: Labels::default(),
            tokens: estimate(400, Some(10)),
            served_as: ServedAs::default(),
            raw_usage: None,
            price_id: None,
            rate: Multiplier::LIST,
            cost: Nanos::ZERO,
            billed: Nanos::ZERO,
            held: Nanos::ZERO,
            unpriced: false,
            state: UsageState::Pending,
            status: None,
            error_code: None,
            first_byte_us: None,
            total_us: None,
        }
    }

    #[test]
    fn a_usage_object_that_could_hold_a_key_is_not_kept() {
        for plain in [
            r#"{"input_tokens":7,"cache_creation":{"ephemeral_5m_input_tokens":0},"service_tier":"standard"}"#,
            r#"{"prompt_tokens_details":{"cached_tokens":0},"accepted_prediction_tokens":1}"#,
            r#"{"promptTokenCount":3,"toolUsePromptTokensDetails":[{"modality":"TEXT","tokenCount":3}]}"#,
            r#"{"server_tool_use":{"web_search_requests":1},"inference_geo":"us","iterations":[{"type":"compaction"}]}"#,
            "{}",
        ] {
            assert!(is_plain_usage(plain), "{plain}");
        }
        for key in [
            "sk-ant-api03-sandbox-ok-0001-AAAA",
            "sk-proj-abcdefghijklmnopqrstuvwxyz012345",
            "AIzaSyA1234567890abcdefghijklmnopqrstuv",
            "0123456789abcdef0123456789abcdef",
            "kwt_TnfsuaBpUkPidRKwiZQ2LT4ZeUuC9jsjaDMURnEjqThAn70I2",
        ] {
            assert!(!is_plain_usage(&format!(r#"{{"input_tokens":7,"note":"{key}"}}"#)), "{key}");
            assert!(!is_plain_usage(&format!(r#"{{"{key}":7}}"#)), "{key}");
        }
        assert!(!is_plain_usage(r#"{"note":"\u0073k-ant"}"#));
    }

    /// How a call may end, and what its row then says: state, input, output.
    #[test]
    fn every_ending_is_settled_as_what_it_is() {
        let told = |complete| Report {
            tokens: Some(TokenUsage { input: 7, output: 3, ..TokenUsage::default() }),
            complete,
            output_chars: 40,
            ..Report::default()
        };
        let silent = |output_chars| Report { output_chars, ..Report::default() };
        let ending = |status| Ending { status, ..Ending::default() };
        let cut = |status| Ending { cut: true, ..ending(status) };
        let unsent = Ending { unsent: true, ..Ending::default() };
        let absurd = Report {
            tokens: Some(TokenUsage { output: u64::MAX, ..TokenUsage::default() }),
            complete: true,
            ..Report::default()
        };
        for (what, report, ending, expected) in [
            ("a whole answer", told(true), ending(Some(200)), (UsageState::Final, 7, 3)),
            ("half a stream", told(false), ending(Some(200)), (UsageState::Partial, 7, 10)),
            ("cut by Keyward in a stream", told(true), cut(Some(200)), (UsageState::Partial, 7, 10)),
            ("an error of the provider", silent(0), ending(Some(529)), (UsageState::Final, 0, 0)),
            ("a redirect", silent(0), ending(Some(302)), (UsageState::Final, 0, 0)),
            ("never sent", silent(0), unsent, (UsageState::Final, 0, 0)),
            ("no answer in time", silent(0), ending(None), (UsageState::Estimated, 100, 10)),
            ("left before the answer", silent(0), cut(None), (UsageState::Partial, 100, 10)),
            ("an answer without usage", silent(80), ending(Some(200)), (UsageState::Estimated, 100, 20)),
            ("an absurd report", absurd, ending(Some(200)), (UsageState::Estimated, 100, 10)),
        ] {
            let prices = PriceBook::new(price_list::list());
            let row = settle(pending(), report, ending, &prices, Moment(2));
            assert_eq!((row.state, row.tokens.input, row.tokens.output), expected, "{what}");
            assert_eq!(row.cost.0 > 0, expected.1 > 0, "{what}");
            assert!(!row.unpriced, "{what}");
        }
    }
}
