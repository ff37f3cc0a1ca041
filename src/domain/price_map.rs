//! The community price map: a JSON object of models with their prices in dollars per token, as it is
//! kept in `PyPI` `litellm` (`model_prices_and_context_window_backup.json`). Read exactly: its decimals
//! never pass through floating point.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::RawValue;

use super::clock::Moment;
use super::ids::PriceId;
use super::money::div_half_even;
use super::price::{PriceBook, PriceRow, Rates, without_snapshot};
use super::provider_key::Provider;
use super::usage::ServiceTier;

/// More than a dollar a token, or for a search, is a slip of somebody's decimal point.
const MOST: i128 = 1_000_000_000_000;
/// Problems that are told; a broken file has thousands.
const TOLD: usize = 10;

/// Why a file is not imported. Nothing of it is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    #[error("the file is not a JSON object of models")]
    Json,
    #[error("no model of a provider that Keyward knows is in the file")]
    Empty,
    #[error("{}", .0.join("\n"))]
    Problems(Vec<String>),
}

/// One price as the file has it: a model of a provider in a tier, from a prompt size on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub provider: Provider,
    pub model: String,
    pub tier: ServiceTier,
    pub above_prompt_tokens: u64,
    pub rates: Rates,
    /// Kinds that the file says nothing of: they stay as they were, where there was anything.
    pub untold: Vec<Kind>,
    /// Thousandths for the United States and for fast mode, where the file tells them.
    us_permille: Option<i64>,
    fast_permille: Option<i64>,
}

/// Kinds of token and unit that a file may leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    CacheRead,
    CacheWrite,
    LongCacheWrite,
    AudioIn,
    AudioOut,
    Search,
}

impl Kind {
    fn of(self, rates: &mut Rates) -> &mut i64 {
        match self {
            Self::CacheRead => &mut rates.cache_read,
            Self::CacheWrite => &mut rates.cache_write_5m,
            Self::LongCacheWrite => &mut rates.cache_write_1h,
            Self::AudioIn => &mut rates.audio_input,
            Self::AudioOut => &mut rates.audio_output,
            Self::Search => &mut rates.web_search,
        }
    }
}

/// What an import would do.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Prices of models that had none.
    pub new: Vec<PriceRow>,
    /// What holds now, and what would hold instead.
    pub changed: Vec<(PriceRow, PriceRow)>,
    pub unchanged: usize,
    /// Prices that hold now and are not in the file: they are kept.
    pub kept: usize,
}

impl Changes {
    /// Every row that would be written.
    pub fn rows(&self) -> impl Iterator<Item = &PriceRow> {
        self.new.iter().chain(self.changed.iter().map(|(_, row)| row))
    }
}

type Entry<'a> = BTreeMap<String, &'a RawValue>;

/// Reads the file's prices for the providers that Keyward knows.
///
/// # Errors
/// When it is no such file, or any of these prices cannot be read.
pub fn parse(json: &str) -> Result<Vec<Listed>, MapError> {
    let map: BTreeMap<String, &RawValue> = serde_json::from_str(json).map_err(|_| MapError::Json)?;
    let mut listed = Vec::new();
    let mut problems = Vec::new();
    for (name, entry) in map {
        let Ok(entry) = serde_json::from_str::<Entry<'_>>(entry.get()) else {
            problems.push(format!("{name}: is not an object"));
            continue;
        };
        let Some((provider, model)) = whose(&name, &entry) else { continue };
        match prices(provider, model, &entry) {
            Ok(more) => listed.extend(more),
            Err(problem) => problems.push(format!("{name}: {problem}")),
        }
    }
    if !problems.is_empty() {
        let more = problems.len().saturating_sub(TOLD);
        problems.truncate(TOLD);
        if more > 0 {
            problems.push(format!("and {more} more"));
        }
        return Err(MapError::Problems(problems));
    }
    if listed.is_empty() { Err(MapError::Empty) } else { Ok(listed) }
}

/// The provider and model of an entry that is rated by token; `None` for all others.
fn whose<'a>(name: &'a str, entry: &Entry<'_>) -> Option<(Provider, &'a str)> {
    let text = |field: &str| serde_json::from_str::<String>(entry.get(field)?.get()).ok();
    if !matches!(text("mode")?.as_str(), "chat" | "completion" | "responses" | "embedding") {
        return None;
    }
    let (provider, prefix) = match text("litellm_provider")?.as_str() {
        "anthropic" => (Provider::Anthropic, "anthropic/"),
        "openai" | "text-completion-openai" => (Provider::Openai, "openai/"),
        "gemini" => (Provider::Google, "gemini/"),
        "vertex_ai"
        | "vertex_ai-language-models"
        | "vertex_ai-anthropic_models"
        | "vertex_ai-embedding-models" => (Provider::Vertex, "vertex_ai/"),
        "azure" => (Provider::Azure, "azure/"),
        _ => return None,
    };
    let model = name.strip_prefix(prefix).unwrap_or(name);
    // What is left with a slash is priced by region or by size of picture. `@default` is its model.
    let model = model.strip_suffix("@default").unwrap_or(model);
    let plain = !model.contains('/') && model.len() <= 128 && model.bytes().all(|b| b.is_ascii_graphic());
    (plain && entry.contains_key("input_cost_per_token")).then_some((provider, model))
}

fn prices(provider: Provider, model: &str, entry: &Entry<'_>) -> Result<Vec<Listed>, String> {
    let rate =
        |field: &str| entry.get(field).filter(|raw| raw.get() != "null").map(|raw| pico(field, raw.get()));
    let rate = |field: String| rate(&field).transpose();
    let searches = match entry.get("search_context_cost_per_query") {
        Some(raw) => {
            let by_size: Entry<'_> =
                serde_json::from_str(raw.get()).map_err(|_| "its searches cannot be read")?;
            let medium = by_size.get("search_context_size_medium");
            medium.map(|raw| pico("search_context_size_medium", raw.get())).transpose()?
        }
        None => None,
    };
    let specific: Entry<'_> = match entry.get("provider_specific_entry") {
        Some(raw) => {
            serde_json::from_str(raw.get()).map_err(|_| "its provider_specific_entry cannot be read")?
        }
        None => Entry::new(),
    };
    let permille = |field: &str| {
        let told = specific
            .get(field)
            .map(|raw| decimal(raw.get(), 3).filter(|value| (1_000..=100_000).contains(value)));
        told.map(|value| {
            value.and_then(|value| i64::try_from(value).ok()).ok_or(format!("{field} is no multiplier"))
        })
    };
    let (us_permille, fast_permille) = (permille("us").transpose()?, permille("fast").transpose()?);
    let (base_input, base_output) =
        (rate("input_cost_per_token".to_owned())?, rate("output_cost_per_token".to_owned())?);
    let base_input = base_input.unwrap_or(0);
    let mut all = Vec::new();
    for (tier, suffix) in [
        (ServiceTier::Standard, ""),
        (ServiceTier::Batch, "_batches"),
        (ServiceTier::Flex, "_flex"),
        (ServiceTier::Priority, "_priority"),
    ] {
        for above in sizes(entry, suffix) {
            let size = if above == 0 { String::new() } else { format!("_above_{}k_tokens", above / 1_000) };
            let field = |name: &str| rate(format!("{name}{size}{suffix}"));
            let Some(input) = field("input_cost_per_token")? else { continue };
            // What this tier does not tell is as the standard one has it, in proportion.
            let like = |name: &str| -> Result<Option<i64>, String> {
                let standard = rate(name.to_owned())?;
                Ok(standard.map(|rate| scaled(rate, input, base_input)))
            };
            let or_like = |name: &str| match field(name)? {
                Some(rate) => Ok::<Option<i64>, String>(Some(rate)),
                None => like(name),
            };
            let output = match field("output_cost_per_token")? {
                Some(output) => output,
                None => base_output.map_or(0, |output| scaled(output, input, base_input)),
            };
            let cache_read = or_like("cache_read_input_token_cost")?;
            let cache_write = or_like("cache_creation_input_token_cost")?;
            let long_cache_write = or_like("cache_creation_input_token_cost_above_1hr")?;
            let audio_in = or_like("input_cost_per_audio_token")?;
            let audio_out = or_like("output_cost_per_audio_token")?;
            let untold = [
                (Kind::CacheRead, cache_read),
                (Kind::CacheWrite, cache_write),
                (Kind::LongCacheWrite, long_cache_write),
                (Kind::AudioIn, audio_in),
                (Kind::AudioOut, audio_out),
                (Kind::Search, searches),
            ];
            let untold =
                untold.into_iter().filter(|(_, told)| told.is_none()).map(|(kind, _)| kind).collect();
            let cache_write_5m = cache_write.unwrap_or(input);
            let rates = Rates {
                input,
                cache_read: cache_read.unwrap_or(input),
                cache_write_5m,
                cache_write_1h: long_cache_write.unwrap_or(cache_write_5m),
                output,
                web_search: searches.unwrap_or(0),
                audio_input: audio_in.unwrap_or(input),
                audio_output: audio_out.unwrap_or(output),
            };
            let model = model.to_owned();
            all.push(Listed {
                provider,
                model,
                tier,
                above_prompt_tokens: above,
                rates,
                untold,
                us_permille,
                fast_permille,
            });
        }
    }
    Ok(all)
}

/// Prompt sizes from which a tier costs something else; 0 for its first price.
fn sizes(entry: &Entry<'_>, suffix: &str) -> BTreeSet<u64> {
    let size = |field: &String| {
        let rest = field.strip_prefix("input_cost_per_token_above_")?.strip_suffix(suffix)?;
        rest.strip_suffix("k_tokens")?.parse::<u64>().ok().map(|thousands| thousands * 1_000)
    };
    entry.keys().filter_map(size).chain([0]).collect()
}

fn scaled(rate: i64, input: i64, base: i64) -> i64 {
    if base == 0 || input == base {
        return rate;
    }
    let exact = div_half_even(i128::from(rate) * i128::from(input), i128::from(base));
    i64::try_from(exact).unwrap_or(i64::MAX)
}

/// Dollars as picodollars.
fn pico(field: &str, text: &str) -> Result<i64, String> {
    let value = decimal(text, 12).filter(|value| (0..=MOST).contains(value));
    let value = value.and_then(|value| i64::try_from(value).ok());
    value.ok_or_else(|| format!("{field} is no price: {}", text.chars().take(40).collect::<String>()))
}

/// A JSON number times ten to the power of `places`, rounded half to even. What is not nothing is never
/// rounded to nothing.
fn decimal(text: &str, places: i32) -> Option<i128> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or((1, mantissa), |rest| (-1, rest));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || digits.len() > 30 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: i128 = digits.parse().ok()?;
    let exponent: i32 = exponent.parse().ok()?;
    let shift = exponent.checked_add(places)?.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let power = |by: i32| 10_i128.checked_pow(by.unsigned_abs());
    let value = if shift >= 0 {
        digits.checked_mul(power(shift)?)?
    } else {
        let rounded = power(shift).map_or(0, |divisor| div_half_even(digits, divisor));
        if rounded == 0 && digits != 0 {
            return None;
        }
        rounded
    };
    Some(sign * value)
}

/// What an import would change from `from` on.
///
/// # Errors
/// When a price would become nothing that is something now.
pub fn changes(listed: Vec<Listed>, book: &PriceBook, from: Moment) -> Result<Changes, MapError> {
    let mut changes = Changes::default();
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    let current = |one: &Listed, model: &str| {
        let rows = book.rows().iter().filter(|row| {
            (row.provider, row.model.as_str(), row.tier, row.above_prompt_tokens)
                == (one.provider, model, one.tier, one.above_prompt_tokens)
                && row.valid_from <= from
        });
        rows.max_by_key(|row| row.valid_from)
    };
    for one in listed {
        if !seen.insert((
            one.provider.as_str(),
            one.model.clone(),
            one.tier.as_str(),
            one.above_prompt_tokens,
        )) {
            continue;
        }
        let before = current(&one, &one.model);
        // A snapshot that gets a price of its own had its model's until now.
        let like = before.or_else(|| current(&one, without_snapshot(&one.model)?));
        let mut rates = one.rates;
        if let Some(like) = like {
            for kind in &one.untold {
                *kind.of(&mut rates) = *kind.of(&mut like.rates.clone());
            }
        }
        let row = PriceRow {
            id: PriceId::new(),
            provider: one.provider,
            model: one.model.clone(),
            tier: one.tier,
            valid_from: from,
            above_prompt_tokens: one.above_prompt_tokens,
            rates,
            us_permille: one.us_permille.or(like.map(|row| row.us_permille)).unwrap_or(1_000),
            fast_permille: one.fast_permille.or(like.map(|row| row.fast_permille)).unwrap_or(1_000),
        };
        if let Some(kind) = like.and_then(|like| zeroed(&like.rates, &row.rates)) {
            let (provider, model, tier) = (row.provider, &row.model, row.tier);
            problems.push(format!("{provider} {model} ({tier}): its price for {kind} would become nothing"));
        }
        match before {
            None if row.rates.input == 0 && row.rates.output == 0 => {}
            None => changes.new.push(row),
            Some(before) if same(before, &row) => changes.unchanged += 1,
            Some(before) => changes.changed.push((before.clone(), row)),
        }
    }
    let in_file = |row: &&PriceRow| {
        !seen.contains(&(
            row.provider.as_str(),
            row.model.clone(),
            row.tier.as_str(),
            row.above_prompt_tokens,
        ))
    };
    let mut kept: Vec<_> = book
        .rows()
        .iter()
        .filter(in_file)
        .map(|row| (row.provider.as_str(), &row.model, row.tier.as_str(), row.above_prompt_tokens))
        .collect();
    kept.dedup();
    changes.kept = kept.len();
    if problems.is_empty() { Ok(changes) } else { Err(MapError::Problems(problems)) }
}

fn same(a: &PriceRow, b: &PriceRow) -> bool {
    (a.rates, a.us_permille, a.fast_permille) == (b.rates, b.us_permille, b.fast_permille)
}

fn zeroed(before: &Rates, after: &Rates) -> Option<&'static str> {
    [
        ("input", before.input, after.input),
        ("output", before.output, after.output),
        ("cache reads", before.cache_read, after.cache_read),
        ("cache writes", before.cache_write_5m, after.cache_write_5m),
        ("long cache writes", before.cache_write_1h, after.cache_write_1h),
        ("audio in", before.audio_input, after.audio_input),
        ("audio out", before.audio_output, after.audio_output),
        ("searches", before.web_search, after.web_search),
    ]
    .into_iter()
    .find_map(|(kind, before, after)| (before > 0 && after == 0).then_some(kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::price_list;

    fn one(name: &str, entry: &str) -> Result<Vec<Listed>, MapError> {
        parse(&format!("{{ {}: {entry} }}", serde_json::Value::from(name)))
    }

    #[test]
    fn decimals_are_exact() {
        for (text, places, value) in [
            ("3e-06", 12, Some(3_000_000)),
            ("1.25e-07", 12, Some(125_000)),
            ("0.00000015", 12, Some(150_000)),
            ("1.0000000000000001e-07", 12, Some(100_000)),
            ("1.1", 3, Some(1_100)),
            ("0", 12, Some(0)),
            ("-3e-06", 12, Some(-3_000_000)),
            ("1e-14", 12, None),
            ("1e400", 12, None),
            ("NaN", 12, None),
            ("\"3e-06\"", 12, None),
            ("true", 12, None),
            ("", 12, None),
        ] {
            assert_eq!(decimal(text, places), value, "{text}");
        }
    }

    #[test]
    fn tiers_and_sizes_of_a_model_are_read() {
        let listed = one(
            "claude-test",
            r#"{ "litellm_provider": "anthropic", "mode": "chat",
                 "input_cost_per_token": 1e-06, "output_cost_per_token": 5e-06,
                 "input_cost_per_token_batches": 5e-07, "output_cost_per_token_batches": 2.5e-06,
                 "input_cost_per_token_above_200k_tokens": 2e-06, "output_cost_per_token_above_200k_tokens": 7.5e-06,
                 "cache_read_input_token_cost": 1e-07, "cache_creation_input_token_cost": 1.25e-06,
                 "cache_creation_input_token_cost_above_1hr": 2e-06,
                 "search_context_cost_per_query": { "search_context_size_medium": 0.01 },
                 "provider_specific_entry": { "us": 1.1, "fast": 6.0 } }"#,
        )
        .unwrap();
        let of = |tier, above| {
            let found = listed.iter().find(|one| (one.tier, one.above_prompt_tokens) == (tier, above));
            found.unwrap().rates
        };
        assert_eq!(listed.len(), 3);
        let standard = of(ServiceTier::Standard, 0);
        assert_eq!(
            (standard.input, standard.output, standard.web_search),
            (1_000_000, 5_000_000, 10_000_000_000)
        );
        assert_eq!(
            (standard.cache_read, standard.cache_write_5m, standard.cache_write_1h),
            (100_000, 1_250_000, 2_000_000)
        );
        // What a tier leaves out is in proportion.
        assert_eq!(of(ServiceTier::Batch, 0).cache_write_1h, 1_000_000);
        assert_eq!(of(ServiceTier::Standard, 200_000).cache_read, 200_000);
        assert_eq!(of(ServiceTier::Standard, 200_000).output, 7_500_000);
        assert_eq!((listed[0].us_permille, listed[0].fast_permille), (Some(1_100), Some(6_000)));
    }

    #[test]
    fn names_are_those_that_requests_use() {
        let entry = |provider: &str| {
            format!(
                r#"{{ "litellm_provider": "{provider}", "mode": "chat", "input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6 }}"#
            )
        };
        for (name, provider, expected) in [
            ("claude-x", "anthropic", Some((Provider::Anthropic, "claude-x"))),
            ("gemini/gemini-x", "gemini", Some((Provider::Google, "gemini-x"))),
            (
                "vertex_ai/claude-x@default",
                "vertex_ai-anthropic_models",
                Some((Provider::Vertex, "claude-x")),
            ),
            ("azure/gpt-x", "azure", Some((Provider::Azure, "gpt-x"))),
            ("azure/eu/gpt-x", "azure", None),
            ("bedrock/x", "bedrock", None),
        ] {
            let found =
                one(name, &entry(provider)).ok().map(|listed| (listed[0].provider, listed[0].model.clone()));
            assert_eq!(found, expected.map(|(provider, model)| (provider, model.to_owned())), "{name}");
        }
    }

    #[test]
    fn a_broken_file_is_refused_whole() {
        assert_eq!(parse("[]"), Err(MapError::Json));
        assert_eq!(parse("{"), Err(MapError::Json));
        assert_eq!(parse("{}"), Err(MapError::Empty));
        for wrong in ["-1e-06", "\"1e-06\"", "5", "true", "{}", "1e-30"] {
            let entry = format!(
                r#"{{ "litellm_provider": "openai", "mode": "chat", "input_cost_per_token": {wrong}, "output_cost_per_token": 1e-6 }}"#
            );
            assert!(matches!(one("gpt-x", &entry), Err(MapError::Problems(_))), "{wrong}");
        }
    }

    #[test]
    fn changes_are_told_from_what_stays_and_nothing_becomes_free() {
        let book = PriceBook::new(price_list::list());
        let entry = |input: &str| {
            one(
                "claude-opus-4-5",
                &format!(
                    r#"{{ "litellm_provider": "anthropic", "mode": "chat", "input_cost_per_token": {input}, "output_cost_per_token": 2.5e-05,
                          "cache_read_input_token_cost": 5e-07, "cache_creation_input_token_cost": 6.25e-06,
                          "cache_creation_input_token_cost_above_1hr": 1e-05,
                          "search_context_cost_per_query": {{ "search_context_size_medium": 0.01 }} }}"#
                ),
            )
            .unwrap()
        };
        let same = changes(entry("5e-06"), &book, Moment(10)).unwrap();
        assert_eq!((same.new.len(), same.changed.len(), same.unchanged), (0, 0, 1));
        let dearer = changes(entry("6e-06"), &book, Moment(10)).unwrap();
        let (before, after) = &dearer.changed[0];
        assert_eq!(
            (before.rates.input, after.rates.input, after.valid_from),
            (5_000_000, 6_000_000, Moment(10))
        );
        assert!(matches!(changes(entry("0"), &book, Moment(10)), Err(MapError::Problems(_))));
        let new = one(
            "claude-new",
            r#"{ "litellm_provider": "anthropic", "mode": "chat", "input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6 }"#,
        );
        assert_eq!(changes(new.unwrap(), &book, Moment(10)).unwrap().new.len(), 1);
    }
}
