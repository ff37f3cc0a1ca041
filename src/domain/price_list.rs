//! The list prices that Keyward ships with, and the models that they belong to: `price_list.csv`,
//! a line for each model, service tier and prompt size, in picodollars per token, and per search
//! for web search. A provider after a `+` sells the model at the same price.
//!
//! Sources, read on 20 November 2026: the pricing page of the Claude documentation
//! (platform.claude.com/docs/en/about-claude/pricing), and for the others the community price map
//! in `PyPI` `litellm` 1.109.1, which names developers.openai.com/api/docs/pricing and
//! ai.google.dev/gemini-api/docs/pricing. A price changes by a new dated row, never by an edit.

use std::sync::LazyLock;

use serde::Deserialize;

use super::clock::Moment;
use super::ids::PriceId;
use super::price::{PriceRow, Rates, without_snapshot};
use super::provider_key::Provider;
use super::usage::ServiceTier;

/// The models that a provider says it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub provider: Provider,
    pub models: std::collections::BTreeSet<String>,
}

impl Listed {
    /// Whether a model is among them, by its id or by one of its snapshots.
    #[must_use]
    pub fn has(&self, model: &str) -> bool {
        self.models.iter().any(|known| known == model || without_snapshot(known) == Some(model))
    }
}

/// A model of the list: its limits, and the day on which the provider retires it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// Who sells it, its maker first.
    pub providers: Vec<Provider>,
    pub id: String,
    pub name: String,
    pub max_input: u64,
    /// 0 for a model that writes nothing, such as one for embeddings.
    pub max_output: u64,
    /// `YYYY-MM-DD`, where a retirement is announced.
    pub retires: Option<String>,
}

impl Model {
    /// Whoever makes it.
    #[must_use]
    pub fn maker(&self) -> Provider {
        self.providers.first().copied().unwrap_or(Provider::Custom)
    }
}

#[derive(Deserialize)]
struct Line {
    providers: String,
    model: String,
    name: String,
    max_input: u64,
    max_output: u64,
    retires: Option<String>,
    us_permille: i64,
    fast_permille: i64,
    web_search: i64,
    tier: String,
    above_prompt_tokens: u64,
    input: i64,
    cache_read: i64,
    cache_write: i64,
    cache_write_long: i64,
    output: i64,
    /// As for text where it is absent.
    audio_input: Option<i64>,
    audio_output: Option<i64>,
}

impl Line {
    fn providers(&self) -> Vec<Provider> {
        self.providers.split('+').filter_map(Provider::parse).collect()
    }
}

struct List {
    models: Vec<Model>,
    rows: Vec<PriceRow>,
}

static LIST: LazyLock<List> = LazyLock::new(|| {
    let mut list = List { models: Vec::new(), rows: Vec::new() };
    let mut reader = csv::Reader::from_reader(include_bytes!("price_list.csv").as_slice());
    // A test holds every line to be readable.
    for line in reader.deserialize::<Line>().flatten() {
        let Some(tier) = ServiceTier::parse(&line.tier) else { continue };
        let providers = line.providers();
        list.rows.extend(providers.iter().map(|provider| price(*provider, tier, &line)));
        if list.models.last().is_none_or(|last| last.id != line.model) {
            list.models.push(Model {
                providers,
                id: line.model,
                name: line.name,
                max_input: line.max_input,
                max_output: line.max_output,
                retires: line.retires,
            });
        }
    }
    list
});

/// Every model with a price, those of one maker together, newest first.
#[must_use]
pub fn models() -> &'static [Model] {
    &LIST.models
}

/// The list as price rows that hold from the beginning. Ids are derived from what a row is for,
/// so that seeding twice writes nothing twice.
#[must_use]
pub fn list() -> Vec<PriceRow> {
    LIST.rows.clone()
}

fn price(provider: Provider, tier: ServiceTier, line: &Line) -> PriceRow {
    PriceRow {
        id: stable_id(provider, &line.model, tier, line.above_prompt_tokens),
        provider,
        model: line.model.clone(),
        tier,
        valid_from: Moment(0),
        above_prompt_tokens: line.above_prompt_tokens,
        rates: Rates {
            input: line.input,
            cache_read: line.cache_read,
            cache_write_5m: line.cache_write,
            cache_write_1h: line.cache_write_long,
            output: line.output,
            web_search: line.web_search,
            audio_input: line.audio_input.unwrap_or(line.input),
            audio_output: line.audio_output.unwrap_or(line.output),
        },
        us_permille: line.us_permille,
        fast_permille: line.fast_permille,
    }
}

fn stable_id(provider: Provider, model: &str, tier: ServiceTier, above: u64) -> PriceId {
    use sha2::{Digest, Sha256};
    // Anthropic was the first, when there was nothing to tell apart.
    let of = if provider == Provider::Anthropic { String::new() } else { format!("{provider}\0") };
    let digest = Sha256::digest(format!("keyward list price\0{of}{model}\0{tier}\0{above}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    PriceId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

/// The listed model of this id, or the one of which it is a snapshot.
#[must_use]
pub fn find(id: &str) -> Option<&'static Model> {
    let exact = |id: &str| models().iter().find(|model| model.id == id);
    exact(id).or_else(|| exact(without_snapshot(id)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_readable() {
        let lines = include_str!("price_list.csv").lines().count() - 1;
        let mut reader = csv::Reader::from_reader(include_bytes!("price_list.csv").as_slice());
        let read: Vec<Line> = reader.deserialize().collect::<Result<_, _>>().unwrap();
        assert_eq!(read.len(), lines);
        for line in &read {
            assert_eq!(line.providers().len(), line.providers.split('+').count(), "{}", line.providers);
            assert!(ServiceTier::parse(&line.tier).is_some(), "{}", line.tier);
            assert!(line.input > 0 && line.us_permille >= 1_000 && line.fast_permille >= 1_000);
        }
        assert_eq!(list().len(), read.iter().map(|line| line.providers().len()).sum::<usize>());
    }

    #[test]
    fn ids_are_distinct_and_stay_as_they_were() {
        let mut ids: Vec<uuid::Uuid> = list().iter().map(|row| row.id.0).collect();
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all);
        let haiku = stable_id(Provider::Anthropic, "claude-haiku-4-5", ServiceTier::Standard, 0);
        assert_eq!(haiku.0.to_string(), "4c95d008-12d2-812e-b15b-ef271bb6b386");
    }

    #[test]
    fn batches_of_claude_cost_half() {
        let of = |model: &str, tier, above| {
            list()
                .into_iter()
                .find(|row| {
                    (row.provider, row.model.as_str(), row.tier, row.above_prompt_tokens)
                        == (Provider::Anthropic, model, tier, above)
                })
                .unwrap()
                .rates
        };
        for row in list().iter().filter(|row| row.provider == Provider::Anthropic) {
            let above = row.above_prompt_tokens;
            let (whole, half) =
                (of(&row.model, ServiceTier::Standard, above), of(&row.model, ServiceTier::Batch, above));
            assert_eq!((whole.input, whole.output), (half.input * 2, half.output * 2), "{}", row.model);
        }
    }

    #[test]
    fn snapshots_are_found_by_their_model() {
        for (id, model) in [
            ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
            ("claude-haiku-4-5@20251001", "claude-haiku-4-5"),
            ("claude-opus-5-5", "claude-opus-5-5"),
            ("gpt-4o-2024-08-06", "gpt-4o"),
            ("gemini-2.5-flash-001", "gemini-2.5-flash"),
        ] {
            assert_eq!(find(id).unwrap().id, model);
        }
        assert!(find("claude-opus-5-x").is_none());
        assert!(find("gpt-4o-2024-08-6").is_none());
    }
}
