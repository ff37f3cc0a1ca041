//! Prices and rating: exact integers in, one rounding at the end.

use super::clock::Moment;
use super::ids::PriceId;
use super::money::{Nanos, div_half_even};
use super::provider_key::Provider;
use super::usage::{ServedAs, ServiceTier, Speed, TokenUsage};

/// Rates in picodollars (10⁻¹² US dollars) per token, and per search for `web_search`.
/// One dollar per million tokens is 1,000,000 picodollars per token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    pub input: i64,
    pub cache_read: i64,
    pub cache_write_5m: i64,
    pub cache_write_1h: i64,
    pub output: i64,
    pub web_search: i64,
    pub audio_input: i64,
    pub audio_output: i64,
}

/// One dated price: a model, a service tier and a prompt size, from a moment on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceRow {
    pub id: PriceId,
    pub provider: Provider,
    /// The model's id, or the id that dated snapshots of it begin with.
    pub model: String,
    pub tier: ServiceTier,
    pub valid_from: Moment,
    /// Holds for prompts of more tokens than this; 0 for the first tier.
    pub above_prompt_tokens: u64,
    pub rates: Rates,
    /// Thousandths by which tokens cost more when held to the United States (1,100 = ×1.1).
    pub us_permille: i64,
    /// Thousandths by which tokens cost more in fast mode.
    pub fast_permille: i64,
}

/// What a request cost, and by which price.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rated {
    pub price_id: PriceId,
    /// At list price, in millionths of a picodollar.
    exact: i128,
}

impl Rated {
    /// At a negotiated rate; rounded once, whatever the factors.
    #[must_use]
    pub fn cost(&self, rate: Multiplier) -> Nanos {
        rounded(self.exact, rate)
    }
}

/// What is paid of a list price, in thousandths of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Multiplier(pub i32);

impl Multiplier {
    /// The list price itself.
    pub const LIST: Self = Self(1_000);

    /// Reads a percentage of at most one decimal place from 0.1 to 1,000.
    #[must_use]
    pub fn parse_percent(text: &str) -> Option<Self> {
        let text = text.trim().trim_end_matches('%').trim_end();
        let (whole, tenth) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(tenth) || whole.len() > 4 || tenth.len() > 1 {
            return None;
        }
        let permille = whole.parse::<i32>().ok()? * 10 + tenth.parse::<i32>().ok()?;
        (1..=10_000).contains(&permille).then_some(Self(permille))
    }

    /// What something comes to at this rate, rounded half to even.
    #[must_use]
    pub fn of(self, list: Nanos) -> Nanos {
        let scaled = div_half_even(i128::from(list.0) * i128::from(self.0), 1_000);
        Nanos(i64::try_from(scaled).unwrap_or(i64::MAX))
    }

    /// The list price of what came to this much, to the nearest nanodollar that its rounding left.
    #[must_use]
    pub fn list_of(self, cost: Nanos) -> Nanos {
        if self == Self::LIST {
            return cost;
        }
        // As the sums of storage do.
        let list = (i128::from(cost.0) * 1_000 + i128::from(self.0) / 2) / i128::from(self.0.max(1));
        Nanos(i64::try_from(list).unwrap_or(i64::MAX))
    }

    /// As `parse_percent` reads it: `92.5`.
    #[must_use]
    pub fn percent(self) -> String {
        match self.0 % 10 {
            0 => format!("{}", self.0 / 10),
            tenth => format!("{}.{tenth}", self.0 / 10),
        }
    }
}

impl Default for Multiplier {
    fn default() -> Self {
        Self::LIST
    }
}

/// All prices in force, ready to be asked.
#[derive(Clone, Debug, Default)]
pub struct PriceBook {
    /// Sorted by model; within a model any order.
    rows: Vec<PriceRow>,
}

impl PriceBook {
    #[must_use]
    pub fn new(mut rows: Vec<PriceRow>) -> Self {
        rows.sort_by(|a, b| a.model.cmp(&b.model));
        Self { rows }
    }

    #[must_use]
    pub fn rows(&self) -> &[PriceRow] {
        &self.rows
    }

    /// The price of this id: what a usage row was rated with.
    #[must_use]
    pub fn by_id(&self, id: PriceId) -> Option<&PriceRow> {
        self.rows.iter().find(|row| row.id == id)
    }

    /// The price that held at `at`, or `None`: the model is unpriced. A dated or numbered snapshot
    /// (`…-20251001`, `…-2026-04-23`, `…@20251001`, `…-001`) without a price of its own takes its model's.
    #[must_use]
    pub fn find(
        &self,
        provider: Provider,
        model: &str,
        tier: ServiceTier,
        prompt_tokens: u64,
        at: Moment,
    ) -> Option<&PriceRow> {
        self.find_exact(provider, model, tier, prompt_tokens, at)
            .or_else(|| self.find_exact(provider, without_snapshot(model)?, tier, prompt_tokens, at))
    }

    fn find_exact(
        &self,
        provider: Provider,
        model: &str,
        tier: ServiceTier,
        prompt_tokens: u64,
        at: Moment,
    ) -> Option<&PriceRow> {
        let from = self.rows.partition_point(|row| row.model.as_str() < model);
        self.rows[from..]
            .iter()
            .take_while(|row| row.model == model)
            .filter(|row| {
                row.provider == provider
                    && row.tier == tier
                    && row.valid_from <= at
                    && (row.above_prompt_tokens == 0 || prompt_tokens > row.above_prompt_tokens)
            })
            // Each prompt size has a history of its own.
            .max_by_key(|row| (row.above_prompt_tokens, row.valid_from))
    }

    /// Rates one request. A service tier without prices of its own, such as capacity that is bought
    /// apart from the list, is rated at the standard ones; `None` means that the model has no price.
    #[must_use]
    pub fn rate(
        &self,
        provider: Provider,
        model: &str,
        tokens: &TokenUsage,
        served: ServedAs,
        at: Moment,
    ) -> Option<Rated> {
        let row = [served.tier, ServiceTier::Standard]
            .into_iter()
            .find_map(|tier| self.find(provider, model, tier, tokens.prompt(), at))?;
        Some(Rated { price_id: row.id, exact: exact(row, tokens, served) })
    }
}

/// The model of a snapshot: `claude-haiku-4-5` of `claude-haiku-4-5-20251001`.
#[must_use]
pub fn without_snapshot(model: &str) -> Option<&str> {
    let digits = |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_digit());
    if let Some((name, snapshot)) = model.split_once('@') {
        return (!name.is_empty() && !snapshot.is_empty()).then_some(name);
    }
    let (name, last) = model.rsplit_once('-')?;
    if digits(last, 8) || digits(last, 3) {
        return Some(name);
    }
    let (name, month) = name.rsplit_once('-')?;
    let (name, year) = name.rsplit_once('-')?;
    (digits(last, 2) && digits(month, 2) && digits(year, 4)).then_some(name)
}

/// One kind of token or unit of a request, rated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RatedKind {
    pub name: &'static str,
    pub count: u64,
    /// Picodollars for one.
    pub rate: i64,
    /// Thousandths by which it costs more for how the request was served: of region and of speed.
    pub permille: (i64, i64),
    /// In millionths of a picodollar (10⁻¹⁸ dollars), exact.
    pub amount: i128,
}

/// Every kind that a request used, rated apart. What `cost` sums and rounds, and pages explain.
#[must_use]
pub fn rated_kinds(row: &PriceRow, tokens: &TokenUsage, served: ServedAs) -> Vec<RatedKind> {
    all_kinds(row, tokens, served).into_iter().filter(|kind| kind.count > 0).collect()
}

fn all_kinds(row: &PriceRow, tokens: &TokenUsage, served: ServedAs) -> [RatedKind; 9] {
    let rates = &row.rates;
    let us = if served.us_only { row.us_permille } else { 1_000 };
    let fast = if served.speed == Speed::Fast { row.fast_permille } else { 1_000 };
    let rated = |name, count: u64, rate: i64, (a, b): (i64, i64)| {
        let exact = i128::from(count) * i128::from(rate);
        RatedKind {
            name,
            count,
            rate,
            permille: (a, b),
            amount: exact.saturating_mul(i128::from(a) * i128::from(b)),
        }
    };
    let by_token = |name, count, rate| rated(name, count, rate, (us, fast));
    [
        by_token("Input", tokens.input, rates.input),
        by_token("Read from cache", tokens.cache_read, rates.cache_read),
        by_token("Written to cache for 5 minutes", tokens.cache_write_5m, rates.cache_write_5m),
        by_token("Written to cache for an hour", tokens.cache_write_1h, rates.cache_write_1h),
        by_token("Output", tokens.output, rates.output),
        by_token("Results of tools", tokens.tool, rates.input),
        by_token("Audio in", tokens.audio_input, rates.audio_input),
        by_token("Audio out", tokens.audio_output, rates.audio_output),
        // Searches cost the same wherever and however fast.
        rated("Web searches", tokens.web_searches, rates.web_search, (1_000, 1_000)),
    ]
}

/// At list price, in millionths of a picodollar.
fn exact(row: &PriceRow, tokens: &TokenUsage, served: ServedAs) -> i128 {
    all_kinds(row, tokens, served).iter().fold(0_i128, |sum, kind| sum.saturating_add(kind.amount))
}

/// At a negotiated rate in nanodollars, rounded half to even.
fn rounded(exact: i128, rate: Multiplier) -> Nanos {
    let nanos = div_half_even(exact.saturating_mul(i128::from(rate.0)), PER_NANO * 1_000);
    Nanos(i64::try_from(nanos).unwrap_or(i64::MAX))
}

/// Millionths of a picodollar in a nanodollar.
const PER_NANO: i128 = 1_000_000_000;

/// An exact amount of `RatedKind` in dollars with as many places as it takes, nine at least.
#[must_use]
pub fn exact_dollars(amount: i128) -> String {
    let (whole, rest) = (amount / (PER_NANO * PER_NANO), amount % (PER_NANO * PER_NANO));
    let text = format!("${whole}.{rest:018}");
    let least = text.len() - 9;
    text[..text.trim_end_matches('0').len().max(least)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::price_list;

    fn book() -> PriceBook {
        PriceBook::new(price_list::list())
    }

    fn cost_of(model: &str, tokens: TokenUsage, served: ServedAs) -> i64 {
        book().rate(Provider::Anthropic, model, &tokens, served, Moment(1)).unwrap().cost(Multiplier::LIST).0
    }

    #[test]
    fn kinds_are_rated_apart() {
        let tokens = TokenUsage {
            input: 1_000,
            cache_read: 10_000,
            cache_write_5m: 100,
            cache_write_1h: 10,
            output: 500,
            reasoning: 300,
            web_searches: 2,
            ..TokenUsage::default()
        };
        // Haiku 4.5: $1, $0.10, $1.25, $2 and $5 per million tokens; $10 per thousand searches.
        let expected = 1_000_000 + 1_000_000 + 125_000 + 20_000 + 2_500_000 + 20_000_000;
        assert_eq!(cost_of("claude-haiku-4-5", tokens, ServedAs::default()), expected);
        assert_eq!(cost_of("claude-haiku-4-5-20251001", tokens, ServedAs::default()), expected);
    }

    #[test]
    fn the_kinds_explain_the_cost() {
        let tokens = TokenUsage { input: 1_001, output: 3, web_searches: 1, ..TokenUsage::default() };
        let served = ServedAs { us_only: true, ..ServedAs::default() };
        let book = book();
        let row =
            book.find(Provider::Anthropic, "claude-opus-5-5", ServiceTier::Standard, 0, Moment(1)).unwrap();
        let kinds = rated_kinds(row, &tokens, served);
        assert_eq!(
            kinds.iter().map(|kind| kind.name).collect::<Vec<_>>(),
            ["Input", "Output", "Web searches"]
        );
        // $4 a million × 1.1, and a search at $10 a thousand.
        assert_eq!(exact_dollars(kinds[0].amount), "$0.004404400");
        assert_eq!(exact_dollars(kinds[2].amount), "$0.010000000");
        let sum: i128 = kinds.iter().map(|kind| kind.amount).sum();
        assert_eq!(
            div_half_even(sum, PER_NANO),
            i128::from(rounded(exact(row, &tokens, served), Multiplier::LIST).0)
        );
    }

    #[test]
    fn a_large_prompt_moves_every_token_to_the_next_tier() {
        let at = |input| TokenUsage { input, output: 1_000, ..TokenUsage::default() };
        // Haiku 5.5: $0.10 and $0.50 up to 100,000 prompt tokens, $0.50 and $2.50 above.
        assert_eq!(cost_of("claude-haiku-5-5", at(100_000), ServedAs::default()), 10_000_000 + 500_000);
        assert_eq!(cost_of("claude-haiku-5-5", at(100_001), ServedAs::default()), 50_000_500 + 2_500_000);
    }

    #[test]
    fn multipliers_touch_tokens_and_not_searches() {
        let tokens = TokenUsage { input: 1_000, web_searches: 1, ..TokenUsage::default() };
        let us = ServedAs { us_only: true, ..ServedAs::default() };
        assert_eq!(cost_of("claude-opus-5-5", tokens, us), 4_400_000 + 10_000_000);
        let fast = ServedAs { speed: Speed::Fast, us_only: true, ..ServedAs::default() };
        assert_eq!(cost_of("claude-opus-5-5", tokens, fast), 8_800_000 + 10_000_000);
    }

    #[test]
    fn later_prices_hold_from_their_date() {
        let mut rows = price_list::list();
        let mut later = rows.iter().find(|row| row.model == "claude-opus-5").unwrap().clone();
        later.id = PriceId::new();
        later.valid_from = Moment(1_000);
        later.rates.input = 1;
        rows.push(later.clone());
        let book = PriceBook::new(rows);
        let tier = ServiceTier::Standard;
        let find = |at| book.find(Provider::Anthropic, "claude-opus-5", tier, 0, Moment(at)).unwrap();
        assert_ne!(find(999).id, later.id);
        assert_eq!(find(1_000).id, later.id);
    }

    #[test]
    fn a_new_price_of_small_prompts_leaves_that_of_large_ones() {
        let mut rows = price_list::list();
        let base =
            rows.iter().find(|row| row.model == "claude-haiku-5-5" && row.above_prompt_tokens == 0).unwrap();
        let later = PriceRow { id: PriceId::new(), valid_from: Moment(1_000), ..base.clone() };
        rows.push(later.clone());
        let book = PriceBook::new(rows);
        let find = |tokens| {
            book.find(Provider::Anthropic, "claude-haiku-5-5", later.tier, tokens, Moment(2_000)).unwrap()
        };
        assert_eq!(find(10).id, later.id);
        assert_eq!(find(100_001).above_prompt_tokens, 100_000);
    }

    #[test]
    fn a_rate_is_undone_to_the_nanodollar_that_its_rounding_left() {
        for permille in [1, 850, 925, 1_000, 1_205, 10_000] {
            let rate = Multiplier(permille);
            for list in [0, 1, 999, 3_900_000, 123_456_789_012] {
                let back = rate.list_of(rate.of(Nanos(list))).0;
                assert!((back - list).abs() <= i64::from(500 / permille + 1), "{permille} {list} {back}");
            }
        }
    }

    #[test]
    fn percentages_are_read_or_refused() {
        for (text, permille) in
            [("85", 850), ("92.5%", 925), ("0.1", 1), ("1000", 10_000), (" 100 % ", 1_000)]
        {
            assert_eq!(Multiplier::parse_percent(text), Some(Multiplier(permille)), "{text}");
        }
        assert_eq!(Multiplier(925).percent(), "92.5");
        assert_eq!(Multiplier::LIST.percent(), "100");
        for bad in ["", "0", "-5", "1000.1", "85.55", "1e2", "NaN", "+85", "85,5"] {
            assert_eq!(Multiplier::parse_percent(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_unknown_model_has_no_price() {
        assert!(
            book().find(Provider::Anthropic, "claude-none", ServiceTier::Standard, 1, Moment(1)).is_none()
        );
    }
}
