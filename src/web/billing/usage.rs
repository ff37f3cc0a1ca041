//! Billing → Usage: any range of days, grouped by one dimension or two, down to single requests.

use actix_web::web::{Data, Path, Query};
use askama::Template;
use serde::Deserialize;

use super::names::name_of;
use crate::access::policy::Action;
use crate::domain::clock::Moment;
use crate::domain::ids::RequestId;
use crate::domain::money::Nanos;
use crate::domain::plan::Feature;
use crate::domain::price::{Multiplier, PriceRow, exact_dollars, rated_kinds};
use crate::domain::usage::{Dimension, Filter, UsageRow, UsageState};
use crate::services::usage::{Days, GroupLine, UsageQuery};
use crate::storage::adjustments::Adjustment;
use crate::storage::usage_report::Totals;
use crate::web::figures::{count, tokens};
use crate::web::page::{Answer, Chrome, Page};
use crate::web::place::Place;
use crate::web::time::When;
use crate::web::{Console, error::WebError};

/// Groups on a page; a download has all.
const SHOWN: usize = 200;
const REQUESTS: usize = 50;

/// What an address asks for. Words that are unknown ask for nothing.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    from: String,
    to: String,
    by: String,
    then: String,
    feature: Option<String>,
    model: Option<String>,
    key: Option<String>,
    endpoint: Option<String>,
    session: Option<String>,
    prompt: Option<String>,
    mode: Option<String>,
    before: String,
}

impl Asked {
    fn filter(&self, of: Dimension) -> Option<&String> {
        match of {
            Dimension::Feature => self.feature.as_ref(),
            Dimension::Model => self.model.as_ref(),
            Dimension::Key => self.key.as_ref(),
            Dimension::Endpoint => self.endpoint.as_ref(),
            Dimension::Session => self.session.as_ref(),
            Dimension::Prompt => self.prompt.as_ref(),
            Dimension::Mode => self.mode.as_ref(),
        }
    }

    pub fn query(&self, place: &Place) -> UsageQuery {
        let times = place.times();
        let by = Dimension::parse(&self.by).unwrap_or(Dimension::Feature);
        let filters = Dimension::ALL.iter().filter_map(|of| Some((*of, self.filter(*of)?.clone())));
        UsageQuery {
            days: Days::read(&self.from, &self.to, times.now, &times.zone),
            by,
            then: Dimension::parse(&self.then).filter(|then| *then != by),
            filters: filters.collect(),
        }
    }
}

/// The address of a query, with other filters in place of its own.
fn href(base: &str, query: &UsageQuery, filters: &[Filter]) -> String {
    let mut pairs = url::form_urlencoded::Serializer::new(String::new());
    pairs.append_pair("from", &query.days.first.to_string()).append_pair("to", &query.days.last.to_string());
    pairs.append_pair("by", query.by.as_str());
    if let Some(then) = query.then {
        pairs.append_pair("then", then.as_str());
    }
    for (of, value) in filters {
        pairs.append_pair(of.as_str(), value);
    }
    format!("{base}?{}", pairs.finish())
}

fn with(filters: &[Filter], more: &[Filter]) -> Vec<Filter> {
    let mut all: Vec<Filter> =
        filters.iter().filter(|(of, _)| !more.iter().any(|(other, _)| other == of)).cloned().collect();
    all.extend_from_slice(more);
    all
}

#[derive(Template)]
#[template(path = "pages/billing/usage.html")]
struct UsagePage {
    chrome: Chrome,
    billing: String,
    action: String,
    from: String,
    to: String,
    by: Dimension,
    then: Option<Dimension>,
    chips: Vec<Chip>,
    requests: String,
    rows_csv: String,
    groups_csv: String,
    zone: String,
    lines: Vec<Line>,
    total: Sums,
    more: usize,
    cut: bool,
}

/// A filter, and the address without it.
struct Chip {
    of: &'static str,
    value: String,
    /// Carried along by the form.
    name: &'static str,
    raw: String,
    without: String,
}

struct Line {
    name: String,
    second: String,
    /// Its requests.
    href: String,
    note: Option<&'static str>,
    sums: Sums,
}

struct Sums {
    requests: String,
    input: String,
    output: String,
    byok: String,
    managed: String,
    billed: String,
}

impl Sums {
    fn of(line: &GroupLine) -> Self {
        let sum = line.sum();
        Self {
            requests: count(sum.requests),
            input: tokens(sum.prompt_tokens()),
            output: tokens(sum.output_tokens),
            byok: line.byok.cost().shown(),
            managed: line.managed.cost().shown(),
            billed: Nanos(sum.billed).shown(),
        }
    }
}

fn address(place: &Place, page: &str) -> String {
    format!("{}/{page}", super::address(place))
}

fn chips(base: &str, query: &UsageQuery, features: &[Feature], product: &str) -> Vec<Chip> {
    query
        .filters
        .iter()
        .map(|(of, value)| {
            let rest: Vec<Filter> = query.filters.iter().filter(|(other, _)| other != of).cloned().collect();
            Chip {
                of: of.label(),
                value: name_of(value, *of, features, product),
                name: of.as_str(),
                raw: value.clone(),
                without: href(base, query, &rest),
            }
        })
        .collect()
}

pub async fn show(console: Data<Console>, place: Place, asked: Query<Asked>) -> Answer {
    let query = asked.query(&place);
    let services = &console.services;
    let tenant = place.tenant()?;
    let report = services
        .usage_report(&place.viewer.actor, &place.holder.scope, &tenant.tenant, &query, false)
        .await?;
    let features = services.directory.platform().await.map_err(crate::services::ServiceError::from)?;
    let (features, product) = (&features.features, &services.options.product);
    let (action, requests) = (address(&place, "usage"), address(&place, "requests"));
    let all = GroupLine {
        name: String::new(),
        second: String::new(),
        byok: report.lines.iter().fold(Totals::default(), |sum, line| line.byok.plus(&sum)),
        managed: report.lines.iter().fold(Totals::default(), |sum, line| line.managed.plus(&sum)),
    };
    let page = UsagePage {
        chrome: place.chrome("Usage", &action),
        billing: super::address(&place),
        from: query.days.first.to_string(),
        to: query.days.last.to_string(),
        by: query.by,
        then: query.then,
        chips: chips(&action, &query, features, product),
        requests: href(&requests, &query, &query.filters),
        rows_csv: href(&address(&place, "usage.csv"), &query, &query.filters),
        groups_csv: href(&address(&place, "usage-groups.csv"), &query, &query.filters),
        zone: tenant.tenant.time_zone.clone(),
        total: Sums::of(&all),
        more: report.lines.len().saturating_sub(SHOWN),
        cut: report.cut,
        lines: report
            .lines
            .iter()
            .take(SHOWN)
            .map(|line| {
                let mut own = vec![(query.by, line.name.clone())];
                own.extend(query.then.map(|then| (then, line.second.clone())));
                let sum = line.sum();
                Line {
                    name: name_of(&line.name, query.by, features, product),
                    second: query
                        .then
                        .map(|then| name_of(&line.second, then, features, product))
                        .unwrap_or_default(),
                    href: href(&requests, &query, &with(&query.filters, &own)),
                    note: note_of(&sum),
                    sums: Sums::of(line),
                }
            })
            .collect(),
        action,
    };
    Page::new(page).answer()
}

#[derive(Template)]
#[template(path = "pages/billing/requests.html")]
struct RequestsPage {
    chrome: Chrome,
    usage: String,
    range: String,
    chips: Vec<Chip>,
    rows: Vec<Row>,
    older: Option<String>,
}

struct Row {
    href: String,
    at: When,
    model: String,
    feature: String,
    key: String,
    tokens: String,
    cost: String,
    tone: &'static str,
    state: String,
    fell_back: bool,
}

pub async fn requests(console: Data<Console>, place: Place, asked: Query<Asked>) -> Answer {
    let query = asked.query(&place);
    let services = &console.services;
    let tenant = &place.tenant()?.tenant;
    let before = asked
        .before
        .split_once('.')
        .and_then(|(at, id)| Some((Moment(at.parse().ok()?), RequestId::parse(id)?)));
    let limit = i64::try_from(REQUESTS + 1).unwrap_or(i64::MAX);
    let (mut found, adjusted) = services.requests(&place.viewer.actor, tenant, &query, before, limit).await?;
    let more = found.len() > REQUESTS;
    found.truncate(REQUESTS);
    let platform = services.directory.platform().await.map_err(crate::services::ServiceError::from)?;
    let (features, product) = (&platform.features, &services.options.product);
    let (usage, base) = (address(&place, "usage"), address(&place, "requests"));
    let here = href(&base, &query, &query.filters);
    let page = RequestsPage {
        chrome: place.chrome("Requests", &usage),
        usage: href(&usage, &query, &query.filters),
        range: format!(
            "{} to {}",
            query.days.first.strftime("%-d %b %Y"),
            query.days.last.strftime("%-d %b %Y")
        ),
        chips: chips(&base, &query, features, product),
        older: found
            .last()
            .filter(|_| more)
            .map(|row| format!("{here}&before={}.{}", row.started_at.0, row.id)),
        rows: found.iter().map(|row| line(row, adjusted.get(&row.id), &place, features, product)).collect(),
    };
    Page::new(page).answer()
}

fn line(
    row: &UsageRow,
    adjusted: Option<&Adjustment>,
    place: &Place,
    features: &[Feature],
    product: &str,
) -> Row {
    let (tone, state) = state_of(row);
    Row {
        href: format!("{}/{}", address(place, "requests"), row.id),
        at: place.times().when(row.started_at),
        model: row.model().to_owned(),
        feature: name_of(&row.feature, Dimension::Feature, features, product),
        key: row.key_name.clone(),
        tokens: tokens(
            i64::try_from(row.tokens.prompt().saturating_add(row.tokens.output)).unwrap_or(i64::MAX),
        ),
        cost: match adjusted {
            Some(adjusted) => Nanos(row.cost.0 + adjusted.cost.0).micro_dollars(),
            None if row.unpriced => "No price".to_owned(),
            None => row.cost.micro_dollars(),
        },
        tone,
        state,
        fell_back: row.fallback.is_some(),
    }
}

/// What there is to say of a sum besides its figures.
pub(super) fn note_of(sum: &Totals) -> Option<&'static str> {
    match (sum.unpriced, sum.estimated) {
        (1.., 1..) => Some("partly without a price, partly estimated"),
        (1.., _) => Some("partly without a price"),
        (_, 1..) => Some("partly estimated"),
        _ => None,
    }
}

fn state_of(row: &UsageRow) -> (&'static str, String) {
    match (&row.error_code, row.state) {
        (Some(code), UsageState::Partial | UsageState::Estimated) => ("bad", format!("{code}, estimated")),
        (Some(code), _) => ("bad", code.clone()),
        (None, UsageState::Final) => {
            ("good", row.status.map_or_else(|| "Done".to_owned(), |status| status.to_string()))
        }
        (None, UsageState::Partial) => ("warn", "Ended early".to_owned()),
        (None, UsageState::Estimated) => ("warn", "Estimated".to_owned()),
        (None, UsageState::Pending) => ("", "Under way".to_owned()),
    }
}

#[derive(Template)]
#[template(path = "pages/billing/request.html")]
struct RequestPage {
    chrome: Chrome,
    requests: String,
    id: String,
    at: When,
    tone: &'static str,
    state: String,
    facts: Vec<(&'static str, String)>,
    kinds: Vec<Kind>,
    /// The negotiated rate, where it was not the list price.
    rate: Option<String>,
    price: Option<String>,
    exact: String,
    cost: String,
    billed: Option<String>,
    unpriced: bool,
    /// When it was rated, having run without a price.
    adjusted: Option<When>,
    note: Option<&'static str>,
    raw: Option<String>,
}

struct Kind {
    name: &'static str,
    count: String,
    rate: String,
    factor: Option<String>,
    amount: String,
}

pub async fn request(console: Data<Console>, place: Place, path: Path<(String, String)>) -> Answer {
    place.demand(Action::SeeUsage)?;
    let services = &console.services;
    let tenant = &place.tenant()?.tenant;
    let id = RequestId::parse(&path.1).ok_or(WebError::NotFound)?;
    let (row, adjusted) = services.request(&place.viewer.actor, tenant, id).await?;
    let platform = services.directory.platform().await.map_err(crate::services::ServiceError::from)?;
    let price_id = adjusted.map(|adjusted| adjusted.price).or(row.price_id);
    let price = price_id.and_then(|id| platform.prices.by_id(id));
    let kinds = price.map(|price| rated_kinds(price, &row.tokens, row.served_as)).unwrap_or_default();
    let exact = kinds.iter().fold(0_i128, |sum, kind| sum.saturating_add(kind.amount));
    let (tone, state) = state_of(&row);
    let page = RequestPage {
        chrome: place.chrome("Request", &address(&place, "usage")),
        requests: address(&place, "requests"),
        id: row.id.to_string(),
        at: place.times().when(row.started_at),
        tone,
        state,
        facts: facts(&row, &platform.features, &services.options.product),
        rate: (row.rate != Multiplier::LIST).then(|| super::rates::worded(row.rate)),
        price: price.map(price_line),
        kinds: kinds
            .into_iter()
            .map(|kind| Kind {
                name: kind.name,
                count: crate::domain::money::grouped(kind.count),
                rate: if kind.name == "Web searches" {
                    format!("{} for a thousand", Nanos(kind.rate).precise())
                } else {
                    format!("{} for a million", Nanos(kind.rate.saturating_mul(1_000)).precise())
                },
                factor: (kind.permille != (1_000, 1_000)).then(|| {
                    let times = |permille: i64| format!("× {}.{:03}", permille / 1_000, permille % 1_000);
                    match kind.permille {
                        (us, 1_000) => times(us),
                        (1_000, fast) => times(fast),
                        (us, fast) => format!("{} {}", times(us), times(fast)),
                    }
                }),
                amount: exact_dollars(kind.amount),
            })
            .collect(),
        exact: exact_dollars(exact),
        cost: Nanos(row.cost.0 + adjusted.map_or(0, |adjusted| adjusted.cost.0)).precise(),
        billed: Some(row.billed.0 + adjusted.map_or(0, |adjusted| adjusted.billed.0))
            .filter(|billed| *billed != 0)
            .map(|billed| Nanos(billed).precise()),
        unpriced: row.unpriced && adjusted.is_none(),
        adjusted: adjusted.map(|adjusted| place.times().when(adjusted.at)),
        note: match row.state {
            UsageState::Estimated => Some("The provider reported no usage, so these counts are an estimate."),
            UsageState::Partial => {
                Some("The answer ended early; these counts are the provider's last report.")
            }
            UsageState::Pending | UsageState::Final => None,
        },
        raw: row.raw_usage,
    };
    Page::new(page).answer()
}

fn price_line(price: &PriceRow) -> String {
    let above = match price.above_prompt_tokens {
        0 => String::new(),
        tokens => format!(", prompts of more than {} tokens", crate::domain::money::grouped(tokens)),
    };
    let since = if price.valid_from.0 <= 0 {
        String::new()
    } else {
        format!(", from {}", price.valid_from.rfc3339())
    };
    format!("{} {}, {} tier{above}{since}", price.provider.label(), price.model, price.tier)
}

fn facts(row: &UsageRow, features: &[Feature], product: &str) -> Vec<(&'static str, String)> {
    let millis = |micros: i64| format!("{}.{:03} s", micros / 1_000_000, micros % 1_000_000 / 1_000);
    let all = [
        ("Feature", Some(name_of(&row.feature, Dimension::Feature, features, product))),
        ("Key", Some(format!("{}@{}", row.key_name, row.key_version))),
        ("Provider", Some(row.provider.label().to_owned())),
        ("Model asked for", Some(row.model_asked.clone())),
        ("Model that served", row.model_served.clone()),
        ("Usage mode", Some(row.mode.label().to_owned())),
        (
            "Paid",
            (row.mode == crate::domain::billing::UsageMode::Managed).then(|| row.funding.label().to_owned()),
        ),
        (
            "Fallback",
            row.fallback.map(|fallback| match fallback {
                crate::domain::billing::Fallback::NoKey => "There was no key".to_owned(),
                crate::domain::billing::Fallback::Limit => "The own key was at a limit".to_owned(),
            }),
        ),
        ("Endpoint", row.labels.endpoint.clone()),
        ("Session", row.labels.session.clone()),
        ("Prompt", row.labels.prompt.clone()),
        ("Status of the provider", row.status.map(|status| status.to_string())),
        ("First byte after", row.first_byte_us.map(millis)),
        ("Ended after", row.total_us.map(millis)),
        ("Held while it ran", (row.held.0 != 0).then(|| row.held.precise())),
    ];
    all.into_iter()
        .filter_map(|(name, value)| Some((name, value.filter(|value| !value.is_empty())?)))
        .collect()
}
