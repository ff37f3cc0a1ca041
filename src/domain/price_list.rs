//! The list prices that Keyward ships with, and the models that they belong to.
//!
//! Sources, read on 20 November 2026: the pricing page of the Claude documentation
//! (platform.claude.com/docs/en/about-claude/pricing) and the community price map in `PyPI`
//! `litellm` 1.109.1. A price changes by a new dated row, never by an edit.

use super::clock::Moment;
use super::ids::PriceId;
use super::price::{PriceRow, Rates};
use super::provider_key::Provider;
use super::usage::ServiceTier;

/// A model of the list: its limits, and the day on which the provider retires it.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    pub provider: Provider,
    pub id: &'static str,
    pub name: &'static str,
    pub max_input: u64,
    pub max_output: u64,
    /// `YYYY-MM-DD`, where a retirement is announced.
    pub retires: Option<&'static str>,
    prices: &'static [Tier],
    us_permille: i64,
    fast_permille: i64,
}

/// Dollars per billion tokens for input, cache read, 5-minute write, 1-hour write and output.
#[derive(Clone, Copy, Debug)]
struct Tier {
    above_prompt_tokens: u64,
    rates: [i64; 5],
}

const fn tier(above_prompt_tokens: u64, rates: [i64; 5]) -> Tier {
    Tier { above_prompt_tokens, rates }
}

const fn claude(id: &'static str, name: &'static str, prices: &'static [Tier]) -> Model {
    Model {
        provider: Provider::Anthropic,
        id,
        name,
        max_input: 1_000_000,
        max_output: 128_000,
        retires: None,
        prices,
        us_permille: 1_100,
        fast_permille: 1_000,
    }
}

const fn small(mut model: Model) -> Model {
    model.max_input = 200_000;
    model.max_output = 64_000;
    model.us_permille = 1_000;
    model
}

const fn fast(mut model: Model) -> Model {
    model.fast_permille = 2_000;
    model
}

const fn retires(mut model: Model, day: &'static str) -> Model {
    model.retires = Some(day);
    model
}

const OPUS: &[Tier] = &[tier(0, [5_000, 500, 6_250, 10_000, 25_000])];
const SONNET: &[Tier] = &[tier(0, [3_000, 300, 3_750, 6_000, 15_000])];
const FABLE: &[Tier] = &[tier(0, [10_000, 1_000, 12_500, 20_000, 50_000])];
const FABLE_5_1: &[Tier] = &[tier(0, [10_000, 250, 12_500, 20_000, 50_000])];

/// Every model with a price, newest first.
pub const MODELS: &[Model] = &[
    claude(
        "claude-haiku-5-5",
        "Claude Haiku 5.5",
        &[tier(0, [100, 10, 125, 200, 500]), tier(100_000, [500, 50, 625, 1_000, 2_500])],
    ),
    claude("claude-sonnet-5-5", "Claude Sonnet 5.5", &[tier(0, [2_000, 100, 2_500, 4_000, 10_000])]),
    fast(claude("claude-opus-5-5", "Claude Opus 5.5", &[tier(0, [4_000, 200, 5_000, 8_000, 20_000])])),
    claude("claude-fable-5-1", "Claude Fable 5.1", FABLE_5_1),
    claude("claude-mythos-5-1", "Claude Mythos 5.1", FABLE_5_1),
    claude("claude-fable-5", "Claude Fable 5", FABLE),
    claude("claude-mythos-5", "Claude Mythos 5", FABLE),
    claude("claude-sonnet-5", "Claude Sonnet 5", &[tier(0, [2_000, 200, 2_500, 4_000, 10_000])]),
    fast(claude("claude-opus-5", "Claude Opus 5", OPUS)),
    fast(claude("claude-opus-4-8", "Claude Opus 4.8", OPUS)),
    claude("claude-opus-4-7", "Claude Opus 4.7", OPUS),
    claude("claude-opus-4-6", "Claude Opus 4.6", OPUS),
    claude("claude-sonnet-4-6", "Claude Sonnet 4.6", SONNET),
    small(claude("claude-opus-4-5", "Claude Opus 4.5", OPUS)),
    small(claude("claude-haiku-4-5", "Claude Haiku 4.5", &[tier(0, [1_000, 100, 1_250, 2_000, 5_000])])),
    retires(small(claude("claude-sonnet-4-5", "Claude Sonnet 4.5", SONNET)), "2026-11-30"),
];

/// Web search: 10 US dollars per thousand searches, for every Claude model.
const WEB_SEARCH_PICODOLLARS: i64 = 10_000_000_000;

/// The list as price rows that hold from the beginning. Ids are derived from what a row is for,
/// so that seeding twice writes nothing twice.
#[must_use]
pub fn list() -> Vec<PriceRow> {
    MODELS
        .iter()
        .flat_map(|model| {
            model.prices.iter().flat_map(|tier| {
                [
                    row(model, tier, ServiceTier::Standard, 1, WEB_SEARCH_PICODOLLARS),
                    row(model, tier, ServiceTier::Batch, 2, WEB_SEARCH_PICODOLLARS),
                ]
            })
        })
        .collect()
}

fn row(model: &Model, tier: &Tier, service: ServiceTier, divisor: i64, web_search: i64) -> PriceRow {
    // Dollars per billion tokens are thousands of picodollars per token.
    let [input, cache_read, cache_write_5m, cache_write_1h, output] =
        tier.rates.map(|rate| rate * 1_000 / divisor);
    PriceRow {
        id: stable_id(model.id, service, tier.above_prompt_tokens),
        provider: model.provider,
        model: model.id.to_owned(),
        tier: service,
        valid_from: Moment(0),
        above_prompt_tokens: tier.above_prompt_tokens,
        rates: Rates { input, cache_read, cache_write_5m, cache_write_1h, output, web_search },
        us_permille: model.us_permille,
        fast_permille: model.fast_permille,
    }
}

fn stable_id(model: &str, service: ServiceTier, above: u64) -> PriceId {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(format!("keyward list price\0{model}\0{service}\0{above}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    PriceId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

/// The listed model of this id, or the one of which it is a dated snapshot.
#[must_use]
pub fn find(id: &str) -> Option<&'static Model> {
    MODELS.iter().find(|model| {
        id == model.id
            || id
                .strip_prefix(model.id)
                .and_then(|rest| rest.strip_prefix('-'))
                .is_some_and(|date| date.len() == 8 && date.bytes().all(|b| b.is_ascii_digit()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_stable_and_distinct() {
        let (first, second) = (list(), list());
        assert_eq!(first, second);
        let mut ids: Vec<uuid::Uuid> = first.iter().map(|row| row.id.0).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), first.len());
    }

    #[test]
    fn batch_costs_half() {
        for pair in list().chunks(2) {
            assert_eq!(pair[0].rates.input, pair[1].rates.input * 2, "{}", pair[0].model);
            assert_eq!(pair[0].rates.output, pair[1].rates.output * 2, "{}", pair[0].model);
        }
    }

    #[test]
    fn snapshots_are_found_by_their_model() {
        assert_eq!(find("claude-haiku-4-5-20251001").unwrap().id, "claude-haiku-4-5");
        assert_eq!(find("claude-opus-5-5").unwrap().id, "claude-opus-5-5");
        assert!(find("claude-opus-5-x").is_none());
    }
}
