//! What reading usage from a stream as it passes by costs, as a share of all the processor time that
//! the stream costs; and what choosing among many keys costs beside choosing the only one.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use keyward::domain::account::{Slug, TenantState};
use keyward::domain::billing::{Funding, LimitPolicy, NoKeyPolicy, PaymentPolicy, UsageMode};
use keyward::domain::clock::Moment;
use keyward::domain::ids::{KeyId, PlanId};
use keyward::domain::plan::{Feature, Plan};
use keyward::domain::price::Multiplier;
use keyward::domain::provider_key::Keys;
use keyward::domain::provider_key::{KeyScope, KeyStatus, KeyView, Provider, Verdict};
use keyward::domain::resolve::{Ask, Situation, Spent, resolve};
use keyward::domain::usage::Dialect;
use keyward::providers::openai::UsageFilter;
use keyward::providers::{self, Endpoint};

use super::calls::Kind;
use super::report::{self, Aim, median};

const ROUNDS: usize = 21;
const EACH: usize = 200;

/// Reads a stream event by event, as it comes. `processor`: what the stream costs in all, in µs.
pub fn measure(kind: Kind, stream: &str, processor: f64, aims: &mut Vec<Aim>) {
    let (provider, endpoint) = match kind {
        Kind::OpenaiStream => (Provider::Openai, Endpoint::ChatCompletions),
        Kind::GeminiStream => (Provider::Google, Endpoint::Generate { model: String::new(), stream: true }),
        Kind::Json | Kind::Stream => (Provider::Anthropic, Endpoint::Messages),
    };
    let blank = if stream.contains("\r\n\r\n") { "\r\n\r\n" } else { "\n\n" };
    let events: Vec<Bytes> =
        stream.split_inclusive(blank).map(|event| Bytes::from(event.to_owned())).collect();
    let took = median((0..ROUNDS).map(|_| {
        let begun = Instant::now();
        for _ in 0..EACH {
            let mut reader = providers::of(provider).stream_reader(&endpoint);
            let mut filter = (kind == Kind::OpenaiStream).then(UsageFilter::default);
            for event in &events {
                reader.push(event);
                if let Some(filter) = &mut filter {
                    black_box(filter.push(event.clone()));
                }
            }
            black_box(reader.finish());
        }
        begun.elapsed().as_secs_f64() * 1e6 / EACH as f64
    }));
    let share = 100.0 * took / processor;
    println!(
        "\nReading the usage of one such stream takes {took:.0} µs of the {processor:.0} µs that it costs."
    );
    aims.push(Aim::at_most(
        format!("{}: reading their usage, of all processor time", stream_name(kind)),
        5.0,
        share,
        "%",
    ));
}

fn stream_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Json | Kind::Stream => "Anthropic streams",
        Kind::OpenaiStream => "OpenAI streams",
        Kind::GeminiStream => "Gemini streams",
    }
}

/// Chooses a key among one and among a hundred, by default and by name.
pub fn resolution(aims: &mut Vec<Aim>) {
    let features: Vec<Feature> = (0..12)
        .map(|at| Feature {
            slug: format!("feature-{at}"),
            name: format!("Feature {at}"),
            switch: format!("ai_feature_{at}_enabled"),
            ..Feature::general().clone()
        })
        .collect();
    let time = |keys: &Keys, name: Option<&str>, feature: Option<&str>| {
        let plan = Plan {
            id: PlanId::new(),
            slug: String::new(),
            name: String::new(),
            // All but the last, which is closed.
            features: features.iter().take(11).map(|feature| feature.slug.clone()).collect(),
            models: BTreeSet::new(),
        };
        let situation = Situation {
            now: Moment(0),
            tenant_state: TenantState::Active,
            policy: PaymentPolicy {
                mode: UsageMode::Byok,
                funding: Funding::Included,
                no_key: NoKeyPolicy::Block,
                on_limit: LimitPolicy::Pause,
                rate: Multiplier::LIST,
            },
            plan: &plan,
            features: &features,
            switched_off: &[],
            off_for_all: &[],
            exceptions: &[],
            models: &[],
            tripped: false,
            spent: Spent::default(),
            keys,
            shared_keys: &[],
        };
        let ask = Ask { dialect: Dialect::Anthropic, feature, key_name: name, provider: None, model: None };
        median((0..ROUNDS).map(|_| {
            let begun = Instant::now();
            for _ in 0..10_000 {
                black_box(resolve(black_box(&ask), black_box(&situation)));
            }
            begun.elapsed().as_secs_f64() * 1e9 / 10_000.0
        }))
    };
    let keys = |count: usize| Keys::new((0..count).filter_map(key).collect());
    let (one, many) = (keys(1), keys(100));
    let rows = [("the default key", None, None), ("a named key", Some("key-0"), Some("key-57"))];
    let mut table = Vec::new();
    for (what, alone, among) in rows {
        let (first, second) = (time(&one, alone, None), time(&many, among, None));
        table.push(vec![what.to_owned(), format!("{first:.0}"), format!("{second:.0}")]);
        let more = (second - first) / 1e3;
        aims.push(Aim::at_most(format!("{what} among 100 over among one"), 0.1, more, "µs"));
    }
    report::table("Choosing a key, ns", &["", "of one", "of 100"], &table);
    let mut table = Vec::new();
    for (what, feature) in [("all open", "feature-10"), ("one closed", "feature-11")] {
        let gates = time(&one, None, Some(feature));
        table.push(vec![what.to_owned(), format!("{gates:.0}")]);
        aims.push(Aim::at_most(format!("gates of a feature, {what}"), 5.0, gates / 1e3, "µs"));
    }
    report::table("Gates of one of twelve features and its key, ns", &["", ""], &table);
}

fn key(at: usize) -> Option<KeyView> {
    Some(KeyView {
        id: KeyId::new(),
        name: Slug::parse(&format!("key-{at}"))?,
        provider: Provider::Anthropic,
        version: 1,
        status: KeyStatus::from_check(Verdict::Works, Moment(0)),
        disabled: None,
        is_default: at == 0,
        fingerprint: String::new(),
        scope: KeyScope::default(),
        rate: Multiplier::LIST,
    })
}
