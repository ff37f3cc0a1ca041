//! Settings → AI features: on whose key and model each feature runs, which of its gates are open, what
//! it cost, and the tenant's master switches.

use std::collections::BTreeMap;

use actix_web::HttpRequest;
use actix_web::web::{self, Data, ServiceConfig};
use askama::Template;
use serde::Deserialize;

use super::error::WebError;
use super::figures::counted;
use super::form::Posted;
use super::page::{Answer, Chrome, Page};
use super::place::Place;
use super::prose::Link;
use super::time::When;
use super::{Console, confirm, read};
use crate::access::policy::Action;
use crate::domain::gate::{Closed, Gate};
use crate::domain::money::Nanos;
use crate::domain::plan::Feature;
use crate::domain::price::PriceBook;
use crate::domain::price_list::{self, Model};
use crate::domain::resolve::Decision;
use crate::domain::usage::{Dimension, ServiceTier};
use crate::services::features::way_out;
use crate::services::overview::Standing;
use crate::services::usage::{Days, UsageQuery};

pub fn routes(cfg: &mut ServiceConfig) {
    cfg.service(web::resource("/t/{tenant}/settings/ai").route(read().to(show)))
        .service(web::resource("/t/{tenant}/settings/ai/switch").route(web::post().to(switch)))
        .service(web::resource("/t/{tenant}/settings/ai/model").route(web::post().to(choose)));
}

fn address(place: &Place) -> String {
    format!("{}/settings/ai", place.root())
}

#[derive(Template)]
#[template(path = "pages/features.html")]
struct FeaturesPage {
    chrome: Chrome,
    action: String,
    heading: String,
    product: String,
    plan: String,
    cards: Vec<Card>,
    switches: Vec<SwitchRow>,
    prices: Vec<PriceLine>,
    may_change: bool,
    sees_cost: bool,
}

struct Card {
    slug: String,
    name: String,
    description: String,
    open: bool,
    badge: String,
    runs_on: String,
    key: Option<Link>,
    covered: bool,
    cost: String,
    requests: String,
    gates: Vec<GateLine>,
    /// What it runs on where a request names no model.
    model: String,
    note: Option<String>,
    choices: Vec<Choice>,
}

struct Choice {
    id: String,
    text: String,
    chosen: bool,
}

/// A gate as pages show it.
pub struct GateLine {
    open: bool,
    pub text: String,
    until: Option<When>,
    pub who: Option<String>,
    pub link: Option<Link>,
}

impl GateLine {
    pub fn closed(text: String) -> Self {
        Self { open: false, text, until: None, who: None, link: None }
    }
}

struct SwitchRow {
    name: String,
    on: bool,
    /// Off for everybody: the tenant's own does not matter then.
    off_for_all: bool,
    features: String,
}

struct PriceLine {
    name: String,
    id: String,
    input: String,
    cache_read: String,
    output: String,
    note: Option<String>,
}

async fn show(console: Data<Console>, place: Place) -> Answer {
    let services = &console.services;
    let standing = services.standing_with_money(&place.holder.scope).await?;
    let sees_cost = place.may(Action::SeeUsage);
    let costs = if sees_cost { costs(&console, &place).await? } else { BTreeMap::new() };
    let product = services.options.product.clone();
    let all = standing.features();
    let cards: Vec<Card> = all
        .iter()
        .map(|(feature, decision)| {
            let (cost, requests) = costs.get(&feature.slug).copied().unwrap_or_default();
            Card {
                cost: Nanos(cost).shown(),
                requests: counted(requests, "request", "requests"),
                ..card(feature, decision, &standing, &place, &product)
            }
        })
        .collect();
    let closed = cards.iter().filter(|card| !card.open).count();
    let page = FeaturesPage {
        chrome: place.chrome("AI features", &address(&place)),
        action: address(&place),
        heading: match closed {
            0 => "Every feature is open.".to_owned(),
            _ => format!("{} of {} cannot be used now.", closed, counted_features(cards.len())),
        },
        plan: standing.tenant.plan.name.clone(),
        switches: switches(&standing),
        prices: prices(&standing, services.clock.now().timestamp().to_string().as_str()),
        product,
        cards,
        may_change: place.may(Action::ChangeFeatures),
        sees_cost,
    };
    Page::new(page).answer()
}

fn counted_features(number: usize) -> String {
    counted(i64::try_from(number).unwrap_or(i64::MAX), "feature", "features")
}

/// Cost and requests of the last thirty days, by feature.
pub async fn costs(console: &Console, place: &Place) -> Result<BTreeMap<String, (i64, i64)>, WebError> {
    let times = place.times();
    let query = UsageQuery {
        days: Days::read("", "", times.now, &times.zone),
        by: Dimension::Feature,
        then: None,
        filters: Vec::new(),
    };
    let tenant = &place.tenant()?.tenant;
    let services = &console.services;
    let report =
        services.usage_report(&place.viewer.actor, &place.holder.scope, tenant, &query, false).await?;
    let sums = report.lines.into_iter().map(|line| {
        let sum = line.sum();
        (line.name, (sum.cost, sum.requests))
    });
    Ok(sums.collect())
}

fn card(
    feature: &Feature,
    decision: &Decision<'_>,
    standing: &Standing,
    place: &Place,
    product: &str,
) -> Card {
    let shut = decision.gates.iter().filter(|gate| gate.closed.is_some()).count();
    let own_model = standing.platform.features.iter().find(|known| known.slug == feature.slug);
    let own_model = own_model.and_then(|known| known.default_model.clone());
    let (runs_on, key) = match &decision.outcome {
        Ok(chosen) if chosen.shared => (format!("{product}'s shared account"), None),
        Ok(chosen) => {
            let href = format!("{}/settings/api-keys/{}", place.root(), chosen.key.name);
            let link = Link::to(href, format!("{} ({})", chosen.key.name, chosen.key.provider.label()));
            ("Your own key".to_owned(), place.may(Action::SeeKeyDetails).then_some(link))
        }
        Err(_) => ("Nothing now".to_owned(), None),
    };
    let today = place.times().now.timestamp().to_string();
    let found = feature.default_model.as_deref().and_then(price_list::find);
    Card {
        slug: feature.slug.clone(),
        name: feature.name.clone(),
        description: feature.description.clone(),
        open: decision.outcome.is_ok(),
        badge: match shut {
            0 => "Open".to_owned(),
            1 => "1 gate closed".to_owned(),
            many => format!("{many} gates closed"),
        },
        runs_on,
        key,
        covered: feature.covered,
        cost: String::new(),
        requests: String::new(),
        gates: decision.gates.iter().map(|gate| gate_line(gate, standing, place)).collect(),
        model: found.map_or_else(
            || feature.default_model.clone().unwrap_or_else(|| "The one that a request names".to_owned()),
            |model| model.name.clone(),
        ),
        note: found.and_then(|model| ending(model, standing, &today)),
        choices: choices(feature, own_model.as_deref(), standing),
    }
}

pub fn gate_line(gate: &Gate, standing: &Standing, place: &Place) -> GateLine {
    let label = gate.kind.label();
    let slug = standing.tenant.tenant.slug.as_str();
    let until = gate.until.map(|at| place.times().day(at.minus(1)));
    let Some(Closed { why, opener }) = &gate.closed else {
        return GateLine { open: true, text: label.to_owned(), until, who: None, link: None };
    };
    let out = way_out(*opener, slug);
    let link = out.as_ref().and_then(|out| {
        let to = out.to.clone()?;
        match out.needs {
            None => place.may(Action::SeeKeyDetails).then(|| Link::out(to, out.words)),
            Some(needs) => can_follow(needs, place).then(|| Link::to(to, "Open it")),
        }
    });
    let who = match &out {
        None => Some("It opens by itself.".to_owned()),
        Some(out) if link.is_none() => Some(format!("{}.", out.words)),
        Some(_) => None,
    };
    GateLine { open: false, text: format!("{label}: {why}"), until, who, link }
}

fn can_follow(needs: Action, place: &Place) -> bool {
    match needs {
        Action::ManagePlatform => place.viewer.actor.is_super_admin(),
        needs => place.may(needs),
    }
}

/// The models that the plan offers, and the present one whatever the plan says.
fn choices(feature: &Feature, own: Option<&str>, standing: &Standing) -> Vec<Choice> {
    let present = feature.default_model.as_deref();
    let mut choices: Vec<Choice> = standing
        .tenant
        .plan
        .choices(feature.provider())
        .map(|model| Choice {
            id: model.id.clone(),
            text: match own {
                Some(own) if own == model.id => format!("{} (usual)", model.name),
                _ => model.name.clone(),
            },
            chosen: present == Some(model.id.as_str()),
        })
        .collect();
    for model in [present, own].into_iter().flatten() {
        if !choices.iter().any(|choice| choice.id == model) {
            let usual = if own == Some(model) { " (usual)" } else { "" };
            let name = price_list::find(model).map_or(model, |known| known.name.as_str());
            let chosen = present == Some(model);
            choices.push(Choice { id: model.to_owned(), text: format!("{name}{usual}"), chosen });
        }
    }
    choices
}

fn switches(standing: &Standing) -> Vec<SwitchRow> {
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for feature in &standing.platform.features {
        groups.entry(&feature.switch).or_default().push(&feature.name);
    }
    let off = |list: &[String], name: &str| list.iter().any(|off| off == name);
    groups
        .into_iter()
        .map(|(name, features)| SwitchRow {
            on: !off(&standing.tenant.switched_off, name),
            off_for_all: off(&standing.platform.switched_off, name),
            name: name.to_owned(),
            features: features.join(", "),
        })
        .collect()
}

/// What is known of a model's end: what its provider has announced, or that it lists it no longer.
/// `today` begins with a date.
fn ending(model: &Model, standing: &Standing, today: &str) -> Option<String> {
    let (name, provider) = (&model.name, model.maker());
    let listed = standing.platform.listed.iter().find(|listed| listed.provider == provider);
    let gone = listed.is_some_and(|listed| !listed.has(&model.id));
    match model.retires.as_deref() {
        Some(day) if day <= today.get(..10)? => Some(format!("{name} was retired on {day}: choose another.")),
        _ if gone => Some(format!("{} does not list {name} any more: choose another.", provider.label())),
        Some(day) => Some(format!("{name} is deprecated and retires on {day}.")),
        None => None,
    }
}

fn prices(standing: &Standing, today: &str) -> Vec<PriceLine> {
    let mut providers: Vec<_> = standing.platform.features.iter().map(Feature::provider).collect();
    providers.sort_unstable();
    providers.dedup();
    let offered = providers.iter().flat_map(|provider| standing.tenant.plan.choices(*provider));
    offered.filter_map(|model| price_line(model, &standing.platform.prices, standing, today)).collect()
}

fn price_line(model: &Model, prices: &PriceBook, standing: &Standing, today: &str) -> Option<PriceLine> {
    let row = prices.find(model.maker(), &model.id, ServiceTier::Standard, 0, standing.now)?;
    let million = |rate: i64| Nanos(rate.saturating_mul(1_000)).precise();
    Some(PriceLine {
        name: model.name.clone(),
        id: model.id.clone(),
        input: million(row.rates.input),
        cache_read: million(row.rates.cache_read),
        output: million(row.rates.output),
        note: ending(model, standing, today),
    })
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SwitchForm {
    switch: String,
    on: bool,
}

async fn switch(
    console: Data<Console>,
    mut place: Place,
    request: HttpRequest,
    posted: Posted<SwitchForm>,
) -> Answer {
    let (SwitchForm { switch, on }, posted) = posted.split();
    let (tenant, scope, back) = (place.tenant()?.tenant.clone(), place.holder.scope, address(&place));
    let chrome = place.chrome("Confirm it's you", &back);
    let asking = (chrome, "Switch", back.as_str());
    confirm::press(&console, &mut place.viewer, &request, asking, posted, async |services, actor| {
        services.switch_features(actor, &scope, &tenant, &switch, on).await?;
        let now = if on { "on" } else { "off: its features are refused" };
        Ok((true, format!("{switch} is {now}.")))
    })
    .await
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ModelForm {
    feature: String,
    model: String,
}

async fn choose(
    console: Data<Console>,
    mut place: Place,
    request: HttpRequest,
    posted: Posted<ModelForm>,
) -> Answer {
    let (ModelForm { feature, model }, posted) = posted.split();
    let (tenant, scope, back) = (place.tenant()?.tenant.clone(), place.holder.scope, address(&place));
    let chrome = place.chrome("Confirm it's you", &back);
    let asking = (chrome, "Save model", back.as_str());
    confirm::press(&console, &mut place.viewer, &request, asking, posted, async |services, actor| {
        services.choose_model(actor, &scope, &tenant, &feature, &model).await?;
        Ok((true, "Model saved. Requests that name no model use it from now on.".to_owned()))
    })
    .await
}
