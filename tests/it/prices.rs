//! Prices: what Keyward rates equals fractions of any size, added up whole and rounded once, for every model of
//! its own list and of an imported map.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::str::FromStr as _;

use keyward::domain::clock::Moment;
use keyward::domain::price::{Multiplier, PriceBook};
use keyward::domain::provider_key::Provider;
use keyward::domain::usage::{ServedAs, ServiceTier, Speed, TokenUsage};
use keyward::domain::{price_list, price_map};
use num_rational::BigRational;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

/// Dollars of one model in one tier, from a prompt size on: a token of each kind, a search, and what the United
/// States and fast mode cost.
#[derive(Clone, Debug)]
struct Told {
    above: u64,
    dollars: BTreeMap<&'static str, BigRational>,
    us: BigRational,
    fast: BigRational,
}

/// By provider, model and tier.
type Prices = BTreeMap<(Provider, String, ServiceTier), Vec<Told>>;

const KINDS: [&str; 7] =
    ["input", "cache_read", "cache_write", "cache_write_long", "output", "audio_input", "audio_output"];

fn fraction(over: &str, under: &str) -> BigRational {
    BigRational::from_str(&format!("{over}/{under}")).unwrap()
}

fn whole(number: impl std::fmt::Display) -> BigRational {
    fraction(&number.to_string(), "1")
}

/// Nanodollars, half to even, by the definition of it.
fn expected(told: &Told, tokens: &TokenUsage, served: ServedAs, rate: Multiplier) -> i64 {
    let counts = [
        ("input", tokens.input + tokens.tool),
        ("cache_read", tokens.cache_read),
        ("cache_write", tokens.cache_write_5m),
        ("cache_write_long", tokens.cache_write_1h),
        ("output", tokens.output),
        ("audio_input", tokens.audio_input),
        ("audio_output", tokens.audio_output),
    ];
    let mut dollars = whole(0);
    for (kind, count) in counts {
        dollars += &told.dollars[kind] * whole(count);
    }
    if served.us_only {
        dollars *= &told.us;
    }
    if served.speed == Speed::Fast {
        dollars *= &told.fast;
    }
    dollars += &told.dollars["search"] * whole(tokens.web_searches);
    let nanos = dollars * fraction(&rate.0.to_string(), "1000") * whole(1_000_000_000);
    let below = nanos.floor();
    let rest = &nanos - &below;
    let half = fraction("1", "2");
    let is_odd = !(&below / whole(2)).is_integer();
    let up = rest > half || (rest == half && is_odd);
    let rounded = if up { below + whole(1) } else { below };
    rounded.to_integer().to_string().parse().unwrap()
}

fn tokens() -> impl Strategy<Value = TokenUsage> {
    // Prompts of a few tokens, and of more than the largest size.
    let counts = proptest::array::uniform8(prop_oneof![0_u64..50, 0..300_000_u64]);
    (counts, 0_u64..50).prop_map(
        |([input, read, short, long, output, tool, audio_in, audio_out], searches)| TokenUsage {
            input,
            cache_read: read,
            cache_write_5m: short,
            cache_write_1h: long,
            output,
            reasoning: output / 2,
            web_searches: searches,
            audio_input: audio_in,
            audio_output: audio_out,
            tool,
        },
    )
}

fn served() -> impl Strategy<Value = ServedAs> {
    let speed = prop_oneof![Just(Speed::Standard), Just(Speed::Fast)];
    (0..ServiceTier::ALL.len(), speed, any::<bool>()).prop_map(|(tier, speed, us_only)| ServedAs {
        tier: ServiceTier::ALL[tier],
        speed,
        us_only,
    })
}

/// Rates requests at random by every price, and holds each against the fractions.
fn all_agree(prices: &Prices, book: &PriceBook, runner: &mut TestRunner) {
    let requests = (tokens(), served(), 1_i32..=10_000);
    for (provider, model, _) in prices.keys() {
        for _ in 0..6 {
            let (tokens, served, rate) = requests.new_tree(runner).unwrap().current();
            let rate = Multiplier(rate);
            let of = |tier| prices.get(&(*provider, model.clone(), tier));
            let sizes = of(served.tier).or_else(|| of(ServiceTier::Standard)).unwrap();
            let prompt = tokens.prompt();
            let told = sizes.iter().filter(|told| told.above == 0 || prompt > told.above);
            let told = told.max_by_key(|told| told.above).unwrap();
            let rated = book.rate(*provider, model, &tokens, served, Moment(1)).unwrap();
            let context = format!("{provider} {model} {served:?} {tokens:?} at {rate:?}");
            assert_eq!(rated.cost(rate).0, expected(told, &tokens, served, rate), "{context}");
        }
    }
}

#[test]
fn every_model_of_the_list_is_rated_as_fractions_are() {
    let mut prices = Prices::new();
    let mut lines =
        csv::Reader::from_path(concat!(env!("CARGO_MANIFEST_DIR"), "/src/domain/price_list.csv")).unwrap();
    for line in lines.deserialize::<BTreeMap<String, String>>() {
        let line = line.unwrap();
        let per_token = |kind: &str| fraction(&line[kind], "1000000000000");
        let mut dollars = BTreeMap::from([("search", per_token("web_search"))]);
        for kind in KINDS {
            // Audio costs what text does where nothing is said of it.
            let named = if line[kind].is_empty() { kind.trim_start_matches("audio_") } else { kind };
            dollars.insert(kind, per_token(named));
        }
        let told = Told {
            above: line["above_prompt_tokens"].parse().unwrap(),
            dollars,
            us: fraction(&line["us_permille"], "1000"),
            fast: fraction(&line["fast_permille"], "1000"),
        };
        for provider in line["providers"].split('+') {
            let tier = ServiceTier::parse(&line["tier"]).unwrap();
            let key = (Provider::parse(provider).unwrap(), line["model"].clone(), tier);
            prices.entry(key).or_default().push(told.clone());
        }
    }
    assert!(prices.len() > 100, "{}", prices.len());
    all_agree(&prices, &PriceBook::new(price_list::list()), &mut TestRunner::default());
}

/// A decimal as the map has them: `1.25e-06`, `0.01`, `3E-7`. Twelve places at most.
fn decimal() -> impl Strategy<Value = (String, BigRational)> {
    (1_u64..100_000, 6_u32..=12, 0..3_u8).prop_map(|(digits, places, style)| {
        let text = match style {
            0 => format!("{digits}e-{places}"),
            1 => {
                let digits = digits.to_string();
                let (first, rest) = digits.split_at(1);
                let rest = if rest.is_empty() { "0" } else { rest };
                let power = i64::from(places) - i64::try_from(digits.len()).unwrap() + 1;
                format!("{first}.{rest}E-{power:02}")
            }
            _ => {
                let under = usize::try_from(places).unwrap();
                let padded = format!("{digits:0>width$}", width = under + 1);
                let (before, after) = padded.split_at(padded.len() - under);
                format!("{before}.{after}")
            }
        };
        (text, fraction(&digits.to_string(), &10_u64.pow(places).to_string()))
    })
}

#[test]
fn every_model_of_an_imported_map_is_rated_as_fractions_are() {
    let mut runner = TestRunner::default();
    let mut price = || decimal().new_tree(&mut runner).unwrap().current();
    let mut map = Vec::new();
    let mut prices = Prices::new();
    let providers = [
        (Provider::Anthropic, "anthropic"),
        (Provider::Openai, "openai"),
        (Provider::Google, "gemini"),
        (Provider::Vertex, "vertex_ai"),
        (Provider::Azure, "azure"),
    ];
    let tiers = [
        (ServiceTier::Standard, ""),
        (ServiceTier::Batch, "_batches"),
        (ServiceTier::Flex, "_flex"),
        (ServiceTier::Priority, "_priority"),
    ];
    let fields = [
        ("input", "input_cost_per_token"),
        ("cache_read", "cache_read_input_token_cost"),
        ("cache_write", "cache_creation_input_token_cost"),
        ("cache_write_long", "cache_creation_input_token_cost_above_1hr"),
        ("output", "output_cost_per_token"),
        ("audio_input", "input_cost_per_audio_token"),
        ("audio_output", "output_cost_per_audio_token"),
    ];
    for (i, (provider, named)) in (0..60).flat_map(|i| providers.map(|provider| (i, provider))) {
        let model = format!("model-{i}-of-{provider}");
        let (us, fast) = ([("1.0", "1"), ("1.1", "1.1")][i % 2], ["1", "6.0", "2.5"][i % 3]);
        let decimal_of = |text: &str| {
            let (before, after) = text.split_once('.').unwrap_or((text, ""));
            fraction(
                &format!("{before}{after}"),
                &10_u64.pow(u32::try_from(after.len()).unwrap()).to_string(),
            )
        };
        let (search, per_search) = price();
        // Text, as a file has it: nothing of it may pass through floating point here.
        let mut entry = format!(
            r#""litellm_provider":"{named}","mode":"chat","provider_specific_entry":{{"us":{},"fast":{fast}}},
               "search_context_cost_per_query":{{"search_context_size_medium":{search}}}"#,
            us.0
        );
        for (tier, suffix) in tiers.into_iter().take(1 + i % 4) {
            for above in [0, 128_000, 200_000].into_iter().take(1 + i % 3) {
                let size =
                    if above == 0 { String::new() } else { format!("_above_{}k_tokens", above / 1_000) };
                let mut dollars = BTreeMap::from([("search", per_search.clone())]);
                for (kind, field) in fields {
                    let (text, value) = price();
                    let _ = write!(entry, r#","{field}{size}{suffix}":{text}"#);
                    dollars.insert(kind, value);
                }
                let told = Told { above, dollars, us: decimal_of(us.1), fast: decimal_of(fast) };
                prices.entry((provider, model.clone(), tier)).or_default().push(told);
            }
        }
        map.push(format!(r#""{model}":{{{entry}}}"#));
    }
    let listed = price_map::parse(&format!("{{{}}}", map.join(","))).unwrap();
    let changes = price_map::changes(listed, &PriceBook::new(Vec::new()), Moment(0)).unwrap();
    all_agree(&prices, &PriceBook::new(changes.rows().cloned().collect()), &mut runner);
}
