//! The API keys page: banner, default key, other keys, and what each feature runs on.

use actix_web::web::Data;
use askama::Template;

use super::words::{Advice, Words};
use super::{base, title};
use crate::access::policy::Action;
use crate::domain::account::TenantState;
use crate::domain::billing::UsageMode;
use crate::domain::clock::DAY;
use crate::domain::plan::Feature;
use crate::domain::provider_key::{DisabledBy, KeyScope, KeyState, Provider, ProviderKey};
use crate::domain::resolve::Decision;
use crate::providers;
use crate::services::overview::{KeyLine, Standing};
use crate::services::provider_keys::short;
use crate::web::Console;
use crate::web::banner::{self, Banner, Subject};
use crate::web::figures::counted;
use crate::web::page::{Answer, Chrome, Page};
use crate::web::place::Place;
use crate::web::prose::{Prose, Tone};
use crate::web::spending;
use crate::web::time::When;

#[derive(Template)]
#[template(path = "pages/api_keys/show.html")]
struct ApiKeysPage {
    chrome: Chrome,
    base: String,
    heading: &'static str,
    lead: &'static str,
    banners: Vec<Banner>,
    defaults: Vec<KeyCard>,
    rows: Vec<KeyRow>,
    features: Vec<FeatureRow>,
    sees_details: bool,
    may_change: bool,
    sees_cost: bool,
    /// Origins that tenants' URLs may lead to by the operator's leave: for the platform's page alone.
    allowed: Vec<String>,
}

/// A key with everything that a panel shows of it.
pub struct KeyCard {
    pub name: String,
    pub href: String,
    pub title: &'static str,
    pub purpose: String,
    pub tone: Tone,
    pub badge: String,
    pub advice: Option<Advice>,
    pub facts: Vec<Fact>,
    pub added_by: String,
    pub paused: bool,
    /// It is disabled, and who looks at it may undo that.
    pub may_enable: bool,
}

pub struct Fact {
    pub term: &'static str,
    pub value: Prose,
    pub mono: bool,
}

struct KeyRow {
    name: String,
    label: Option<String>,
    provider: &'static str,
    hint: String,
    tone: Tone,
    badge: String,
    last_used: Option<When>,
    cost: String,
}

struct FeatureRow {
    name: String,
    description: String,
    runs_on: String,
    model: Option<String>,
    covered: bool,
    /// Why each closed gate is closed.
    closed: Vec<String>,
}

pub async fn show(console: Data<Console>, place: Place) -> Answer {
    let services = &console.services;
    let product = services.options.product.as_str();
    let sees_details = place.may(Action::SeeKeyDetails);
    let may_change = place.may(Action::ChangeKeys);
    let lines = services.key_lines(place.holder).await?;
    let standing = match place.view() {
        Some(_) => Some(services.standing(&place.holder.scope).await?),
        None => None,
    };
    let (mut defaults, others): (Vec<&KeyLine>, Vec<&KeyLine>) =
        lines.iter().partition(|line| line.key.is_default);
    defaults.sort_by_key(|line| line.key.provider);
    let mode = standing.as_ref().map(|standing| standing.tenant.policy.mode);
    let mut banners = standing
        .as_ref()
        .map(|standing| status_banners(&console, &place, standing, lines.iter().map(|line| &line.key)))
        .unwrap_or_default();
    if standing.is_some() {
        banners.extend(spending::banners(&console, &place).await?);
    }
    let page = ApiKeysPage {
        base: base(&place),
        heading: title(&place),
        lead: if place.view().is_some() {
            "Use your own provider accounts. Keys are encrypted, checked with a live call, and never shown again."
        } else {
            "The platform's own provider accounts, used by tenants in managed mode. Keys are encrypted, checked with a live call, and never shown again."
        },
        banners,
        defaults: defaults
            .iter()
            .map(|line| {
                let mut card = card(&place, line, mode, product, sees_details);
                if mode == Some(UsageMode::Byok) {
                    // The banner says it already.
                    card.advice = None;
                }
                card
            })
            .collect(),
        rows: others.iter().map(|line| row(&place, line)).collect(),
        features: standing.as_ref().map(|standing| features(standing, product)).unwrap_or_default(),
        sees_details,
        may_change,
        sees_cost: place.view().is_some(),
        allowed: match place.view() {
            Some(_) => Vec::new(),
            None => services.options.urls.allowed.clone(),
        },
        chrome: place.chrome(title(&place), &base(&place)),
    };
    Page::new(page).answer()
}

/// How many keys that are paused have a banner of their own; all of them have their state in the list.
const MOST_NAMED: usize = 3;

/// The banners, as API keys and Billing show them: one for each provider that there is a key of, but
/// where all is well with several, one for all of these. Then those of keys that only some requests use.
pub fn status_banners<'a>(
    console: &Console,
    place: &Place,
    standing: &Standing,
    keys: impl Iterator<Item = &'a ProviderKey>,
) -> Vec<Banner> {
    let keys: Vec<&ProviderKey> = keys.collect();
    let root = place.root();
    let subject = |provider: Provider| Subject {
        standing,
        provider,
        key: keys.iter().find(|key| key.provider == provider && key.is_default).copied(),
        other_keys: keys.iter().any(|key| key.provider == provider && !key.is_default),
        product: &console.services.options.product,
        times: place.times(),
        root: &root,
        hand: place.hand(&console.services.options.product),
        may_change_billing: place.may(Action::ChangeBilling),
    };
    let of = |provider: Provider| banner::of(&subject(provider));
    let by_default = standing.tenant.policy.mode == UsageMode::Byok;
    let mut named: Vec<&&ProviderKey> = keys.iter().filter(|key| !(by_default && key.is_default)).collect();
    // What lasts comes before what is over in a moment.
    named.sort_by_key(|key| key.state_at(place.times().now) == KeyState::RateLimited);
    let named: Vec<Banner> = match standing.tenant.tenant.state {
        // Nothing runs there, whatever it names.
        TenantState::Suspended => Vec::new(),
        TenantState::Active => {
            let of_them = named.iter().filter_map(|key| banner::of_named(&subject(key.provider), key));
            let mut all: Vec<Banner> = of_them.collect();
            let more = all.len().saturating_sub(MOST_NAMED);
            all.truncate(MOST_NAMED);
            all.extend((more > 0).then(|| banner::of_more(more, &root)));
            all
        }
    };
    let mut providers: Vec<Provider> = Vec::new();
    if by_default {
        providers.extend(Provider::ALL.iter().filter(|one| keys.iter().any(|key| key.provider == **one)));
    }
    if providers.is_empty() {
        // The shared account of a provider that they know, or of any: a key of their own says of no shared one
        // that it is down.
        let shared = |one: &&Provider| standing.platform.keys.views.iter().any(|key| key.provider == **one);
        let own = |one: &&Provider| keys.iter().any(|key| key.provider == **one);
        let all = || Provider::ALL.iter();
        let known = all().filter(own).find(shared).or_else(|| all().find(shared)).or_else(|| all().find(own));
        let managed = of(known.copied().unwrap_or(Provider::Anthropic));
        return std::iter::once(managed).chain(named).collect();
    }
    let (good, bad): (Vec<_>, Vec<_>) = providers
        .into_iter()
        .map(|provider| (provider, of(provider)))
        .partition(|(_, banner)| banner.tone == Tone::Good);
    let names: Vec<&str> = good.iter().map(|(provider, _)| provider.label()).collect();
    let together = match names.as_slice() {
        [] | [_] => None,
        [rest @ .., last] => Some(format!("Using your own {} and {last} keys.", rest.join(", "))),
    };
    let mut good: Vec<Banner> = good.into_iter().map(|(_, banner)| banner).collect();
    if let Some(sentence) = together {
        good.truncate(1);
        good[0].sentence = sentence;
        good[0].detail =
            Prose::of("Each request goes to the provider whose dialect it speaks, or that it names.");
    }
    bad.into_iter().map(|(_, banner)| banner).chain(good).chain(named).collect()
}

/// The panel of one key. Without `details` it holds names and states only.
pub fn card(place: &Place, line: &KeyLine, mode: Option<UsageMode>, product: &str, details: bool) -> KeyCard {
    let key = &line.key;
    let words = Words::of(place, key, product);
    let use_of_it = match (key.is_default, mode) {
        (true, Some(UsageMode::Byok)) => "used when a request to this provider names no other key",
        (true, None) => "used for managed requests",
        (true, Some(UsageMode::Managed)) => {
            "the default key; in managed mode used only when a request names it"
        }
        (false, _) => "used when a request names it",
    };
    KeyCard {
        name: key.name.to_string(),
        href: format!("{}/{}", base(place), key.name),
        title: providers::of(key.provider).spec().title,
        purpose: format!("{} · {use_of_it}", key.name),
        tone: words.tone,
        badge: words.badge,
        advice: words.advice,
        facts: if details { facts(place, line) } else { Vec::new() },
        added_by: key.created_by_name.clone(),
        paused: key.state_at(place.times().now).is_limit(),
        may_enable: key.disabled.is_some() && may_switch(place, key),
    }
}

/// Whether the person may disable a tenant's key, or enable it: what the operator disabled, only the operator can.
pub fn may_switch(place: &Place, key: &ProviderKey) -> bool {
    place.view().is_some()
        && place.may(Action::DisableKeys)
        && (place.viewer.actor.is_super_admin() || key.disabled != Some(DisabledBy::Operator))
}

fn facts(place: &Place, line: &KeyLine) -> Vec<Fact> {
    let times = place.times();
    let (key, current) = (&line.key, &line.key.current);
    let fact = |term, value| Fact { term, value, mono: false };
    let never = |at: Option<_>, word: &str| match at {
        Some(at) => Prose::default().when(&times.when(at)),
        None => Prose::of(word),
    };
    let act = if current.version == 1 { "added" } else { "rotated" };
    let version = Prose::of(format!("{}, {act} ", current.version)).when(&times.day(current.created_at));
    let mut facts = vec![
        Fact { term: "Key", value: Prose::of(&current.hint), mono: true },
        Fact { term: "Fingerprint", value: Prose::of(fingerprint(&current.fingerprint)), mono: true },
        fact("Version", version),
        fact("Last used", never(key.last_used_at, "Not yet")),
        fact("Last check", never(current.checked_at, "Not yet")),
    ];
    if let Some(view) = place.view() {
        let age = times.now.since(current.created_at).max(0) / DAY;
        facts.push(fact("Age", Prose::of(age_in_words(age, view.tenant.rotation_days))));
    }
    if place.view().is_some() {
        facts.push(fact("Last 30 days", Prose::of(format!("{} on your account", line.cost_30d.shown()))));
    }
    if let Some(label) = &key.label {
        facts.push(fact("Label", Prose::of(label)));
    }
    if let Some(url) = &current.custom_url {
        facts.push(Fact { term: "URL", value: Prose::of(url), mono: true });
    }
    for field in providers::of(key.provider).spec().fields {
        if let Some(value) = current.settings.get(field.name) {
            facts.push(Fact { term: field.label, value: Prose::of(value), mono: !field.is_switch });
        }
    }
    if !key.scope.is_everything() {
        facts.push(fact("Only for", Prose::of(scope_in_words(&key.scope))));
    }
    facts
}

/// How many days a key has been in use, and when it is due for rotation; `due` is 0 for never.
fn age_in_words(age: i64, due: i64) -> String {
    let days = counted(age, "day", "days");
    match due - age {
        _ if due == 0 => days,
        left @ 1.. => format!("{days}; due for rotation in {}", counted(left, "day", "days")),
        _ => format!("{days}; due for rotation"),
    }
}

/// "the features drafts, chat; the models m".
fn scope_in_words(scope: &KeyScope) -> String {
    let list = |what: &str, names: &Option<std::collections::BTreeSet<String>>| {
        names.as_ref().map(|names| format!("{what} {}", names.iter().cloned().collect::<Vec<_>>().join(", ")))
    };
    let parts = [list("features", &scope.features), list("models", &scope.models)];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// The first 12 digits in groups of four, as people compare them.
pub fn fingerprint(full: &str) -> String {
    let digits: Vec<char> = short(full).chars().collect();
    digits.chunks(4).map(|group| group.iter().collect::<String>()).collect::<Vec<_>>().join(" ")
}

fn row(place: &Place, line: &KeyLine) -> KeyRow {
    let key: &ProviderKey = &line.key;
    let words = Words::plain(key.state_at(place.times().now), key.provider.label());
    KeyRow {
        name: key.name.to_string(),
        label: key.label.clone(),
        provider: key.provider.label(),
        hint: key.current.hint.clone(),
        tone: words.tone,
        badge: words.badge,
        last_used: key.last_used_at.map(|at| place.times().when(at)),
        cost: line.cost_30d.shown(),
    }
}

fn features(standing: &Standing, product: &str) -> Vec<FeatureRow> {
    let all = standing.features();
    all.iter().map(|(feature, decision)| feature_row(feature, decision, product)).collect()
}

fn feature_row(feature: &Feature, decision: &Decision<'_>, product: &str) -> FeatureRow {
    let runs_on = match &decision.outcome {
        Ok(chosen) if chosen.shared => format!("{product}'s shared account"),
        Ok(chosen) => format!("Your {} key", chosen.key.provider.label()),
        Err(_) => "Nothing now".to_owned(),
    };
    let closed = decision.gates.iter().filter_map(|gate| gate.closed.as_ref());
    FeatureRow {
        name: feature.name.clone(),
        description: feature.description.clone(),
        runs_on,
        model: feature.default_model.clone(),
        covered: feature.covered,
        closed: closed.map(|closed| closed.why.clone()).collect(),
    }
}
