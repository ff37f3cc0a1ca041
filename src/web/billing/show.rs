//! The Billing page.

use actix_web::web::{Data, Query};
use askama::Template;
use serde::Deserialize;

use super::address;
use super::names::name_of;
use super::usage::note_of;
use crate::access::policy::Action;
use crate::domain::billing::{LimitPolicy, NoKeyPolicy, UsageMode};
use crate::domain::plan::Feature;
use crate::domain::usage::Dimension;
use crate::services::billing::Report;
use crate::services::usage::GroupLine;
use crate::storage::usage_report::Totals;
use crate::web::Console;
use crate::web::api_keys;
use crate::web::api_keys::show::status_banners;
use crate::web::banner::Banner;
use crate::web::chart::{self, Chart, Show};
use crate::web::figures::{change, count, counted, share, tokens};
use crate::web::page::{Answer, Chrome, Page};
use crate::web::place::Place;
use crate::web::prose::{Link, Prose, Tone};
use crate::web::spending;

/// What the page's tabs say. Unknown words mean the first tab.
#[derive(Deserialize)]
pub struct Asked {
    #[serde(default)]
    show: String,
    #[serde(default)]
    by: String,
}

#[derive(Template)]
#[template(path = "pages/billing.html")]
struct BillingPage {
    chrome: Chrome,
    address: String,
    keys: String,
    product: String,
    /// How use of the shared account is paid.
    paid: String,
    banners: Vec<Banner>,
    credentials: Vec<Credential>,
    mode: UsageMode,
    has_key: bool,
    no_key: NoKeyPolicy,
    on_limit: LimitPolicy,
    may_change: bool,
    sees_usage: bool,
    may_see_keys: bool,
    figures: Vec<Figure>,
    chart: Option<Chart>,
    show: Show,
    show_tabs: Vec<Tab>,
    days: Vec<DayRow>,
    unpriced: Option<Banner>,
    estimated: Option<String>,
    group: Dimension,
    group_tabs: Vec<Tab>,
    group_name: &'static str,
    groups: Vec<GroupRow>,
}

struct Credential {
    provider: &'static str,
    name: String,
    hint: String,
    tone: Tone,
    badge: String,
}

struct Figure {
    name: &'static str,
    value: String,
    note: String,
    extra: String,
}

struct Tab {
    href: String,
    label: &'static str,
    current: bool,
}

struct DayRow {
    date: String,
    requests: String,
    input: String,
    output: String,
    byok: String,
    managed: String,
    /// What the chart marks of the day.
    marks: String,
}

struct GroupRow {
    name: String,
    note: Option<&'static str>,
    requests: String,
    input: String,
    output: String,
    byok: String,
    managed: String,
}

pub async fn show(console: Data<Console>, place: Place, asked: Query<Asked>) -> Answer {
    let show = Show::parse(&asked.show).unwrap_or(Show::Dollars);
    let group = group_of(&asked.by);
    let services = &console.services;
    let standing = services.standing(&place.holder.scope).await?;
    let tenant = &standing.tenant.tenant;
    let report = services.billing_report(&place.viewer.actor, &place.holder.scope, tenant, group).await?;
    let keys = services.keys(place.holder).await?;
    let may_see_keys = place.may(Action::SeeKeyDetails);
    let features = &standing.platform.features;
    let mut banners = status_banners(&console, &place, &standing, keys.iter());
    banners.extend(spending::banners(&console, &place).await?);
    let page = BillingPage {
        chrome: place.chrome("Plan and usage", &address(&place)),
        address: address(&place),
        keys: api_keys::base(&place),
        product: services.options.product.clone(),
        banners,
        paid: spending::paid(standing.tenant.policy.funding, &standing.tenant.plan.name),
        credentials: keys
            .iter()
            .filter(|key| key.is_default)
            .map(|key| {
                let words = api_keys::Words::plain(key.state_at(place.times().now), key.provider.label());
                Credential {
                    provider: key.provider.label(),
                    name: key.name.to_string(),
                    hint: key.current.hint.clone(),
                    tone: words.tone,
                    badge: words.badge,
                }
            })
            .collect(),
        mode: standing.tenant.policy.mode,
        has_key: keys.iter().any(|key| key.is_default),
        no_key: standing.tenant.policy.no_key,
        on_limit: standing.tenant.policy.on_limit,
        may_change: place.may(Action::ChangeBilling),
        sees_usage: report.groups.is_some(),
        may_see_keys,
        figures: figures(&report),
        chart: (report.totals.requests > 0).then(|| chart::draw(&report, show, place.times())),
        show,
        show_tabs: Show::ALL.into_iter().map(|tab| show_tab(&place, tab, show, group)).collect(),
        days: report.days.iter().rev().map(day_row).collect(),
        unpriced: unpriced(&report, &console.services.options.product, place.may(Action::ManagePlatform)),
        estimated: (report.totals.estimated > 0).then(|| estimated(&report.totals)),
        group,
        group_tabs: GROUPS.into_iter().map(|tab| group_tab(&place, tab, show, group)).collect(),
        group_name: group.label(),
        groups: report
            .groups
            .iter()
            .flatten()
            .map(|line| group_row(line, group, features, &services.options.product))
            .collect(),
    };
    Page::new(page).answer()
}

const GROUPS: [Dimension; 4] = [Dimension::Feature, Dimension::Model, Dimension::Key, Dimension::Endpoint];

fn group_of(word: &str) -> Dimension {
    Dimension::parse(word).filter(|group| GROUPS.contains(group)).unwrap_or(Dimension::Feature)
}

fn show_tab(place: &Place, tab: Show, current: Show, group: Dimension) -> Tab {
    let href = format!("{}?show={}&by={}#usage", address(place), tab.as_str(), group);
    Tab { href, label: tab.label(), current: tab == current }
}

fn group_tab(place: &Place, tab: Dimension, show: Show, current: Dimension) -> Tab {
    let href = format!("{}?show={}&by={}#breakdown", address(place), show.as_str(), tab);
    Tab { href, label: tab.label(), current: tab == current }
}

fn figures(report: &Report) -> Vec<Figure> {
    let (now, before) = (&report.totals, &report.previous);
    let figure = |name, value, now, before, extra| Figure { name, value, note: change(now, before), extra };
    let failed =
        if now.requests > 0 { format!("{} failed", share(now.failed, now.requests)) } else { String::new() };
    let cached = if now.prompt_tokens() > 0 {
        format!("{} read from cache", share(now.cache_read_tokens, now.prompt_tokens()))
    } else {
        String::new()
    };
    vec![
        figure("Spend", now.cost().shown(), now.cost, before.cost, String::new()),
        figure("Requests", count(now.requests), now.requests, before.requests, failed),
        figure(
            "Input tokens",
            tokens(now.prompt_tokens()),
            now.prompt_tokens(),
            before.prompt_tokens(),
            cached,
        ),
        figure(
            "Output tokens",
            tokens(now.output_tokens),
            now.output_tokens,
            before.output_tokens,
            String::new(),
        ),
    ]
}

fn day_row(day: &crate::services::billing::Day) -> DayRow {
    let sum = day.byok.plus(&day.managed);
    DayRow {
        date: day.date.strftime("%-d %b %Y").to_string(),
        requests: count(sum.requests),
        input: tokens(sum.prompt_tokens()),
        output: tokens(sum.output_tokens),
        byok: day.byok.cost().shown(),
        managed: day.managed.cost().shown(),
        marks: [
            (sum.fallbacks, "fell back"),
            (sum.estimated, "estimated"),
            (sum.unpriced, "without a price"),
        ]
        .into_iter()
        .filter(|(requests, _)| *requests > 0)
        .map(|(requests, what)| format!("{} {what}", count(requests)))
        .collect::<Vec<_>>()
        .join(", "),
    }
}

/// Use without a price is said, never shown as nothing. Whose models they were is not for
/// everybody's eyes, and only the operator sets prices.
fn unpriced(report: &Report, product: &str, may_set: bool) -> Option<Banner> {
    let total: i64 = report.unpriced.iter().map(|(_, requests)| requests).sum();
    if total == 0 {
        return None;
    }
    let models = match &report.groups {
        Some(_) => {
            let models: Vec<&str> = report.unpriced.iter().map(|(model, _)| model.as_str()).collect();
            format!(": {}", models.join(", "))
        }
        None => String::new(),
    };
    let requests = counted(total, "request", "requests");
    let detail = if may_set {
        "Their cost is in no sum until there is one.".to_owned()
    } else {
        format!("Their cost is in no sum until {product} sets one.")
    };
    Some(Banner {
        tone: Tone::Warn,
        sentence: format!("{requests} ran on models without a price{models}."),
        detail: Prose::of(detail),
        link: may_set.then(|| Link::to("/platform/prices", "Set a price")),
    })
}

fn estimated(totals: &Totals) -> String {
    let requests = counted(totals.estimated, "request", "requests");
    let cost = crate::domain::money::Nanos(totals.estimated_cost).shown();
    format!("{requests} ended without the provider's report; {cost} of the spend is estimated.")
}

fn group_row(line: &GroupLine, group: Dimension, features: &[Feature], product: &str) -> GroupRow {
    let sum = line.byok.plus(&line.managed);
    GroupRow {
        name: name_of(&line.name, group, features, product),
        note: note_of(&sum),
        requests: count(sum.requests),
        input: tokens(sum.prompt_tokens()),
        output: tokens(sum.output_tokens),
        byok: line.byok.cost().shown(),
        managed: line.managed.cost().shown(),
    }
}
