//! `/api/v1/usage`: single requests with a cursor, and sums.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::problem::Problem;
use super::{Api, Asked};
use crate::domain::clock::{DAY, Moment};
use crate::domain::ids::RequestId;
use crate::domain::usage::{Dimension, UsageRow};
use crate::services::tokens::TokenScope;
use crate::services::{Problems, ServiceError};
use crate::storage::adjustments::Adjustment;
use crate::storage::usage_report::Totals;

const USUAL_PAGE: i64 = 100;
const LARGEST_PAGE: i64 = 1_000;

/// A range of time: from `from` on, before `to`. The last 30 days where it is left out.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RowsQuery {
    /// RFC 3339.
    #[param(format = DateTime, example = "2026-11-01T00:00:00Z")]
    from: Option<String>,
    /// RFC 3339.
    #[param(format = DateTime, example = "2026-12-01T00:00:00Z")]
    to: Option<String>,
    /// Rows on a page.
    #[param(minimum = 1, maximum = 1000, example = 100)]
    limit: Option<i64>,
    /// `next_cursor` of the page before.
    #[param(pattern = r"^\d{1,18}\.[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")]
    cursor: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SummaryQuery {
    /// RFC 3339; counts from the beginning of its quarter-hour.
    #[param(format = DateTime, example = "2026-11-01T00:00:00Z")]
    from: Option<String>,
    /// RFC 3339; counts to the end of its quarter-hour.
    #[param(format = DateTime, example = "2026-12-01T00:00:00Z")]
    to: Option<String>,
    /// `feature` where it is left out.
    #[param(value_type = Option<Grouping>, example = "model")]
    group_by: Option<String>,
}

/// What sums are grouped by.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "stands for the word in the description")]
pub enum Grouping {
    Feature,
    Model,
    Key,
    Endpoint,
    Session,
    Prompt,
    Mode,
}

/// One request that was sent to a provider. Amounts are in US dollars, exact to the nanodollar.
#[derive(Serialize, ToSchema)]
pub struct Row {
    request_id: String,
    #[schema(example = "2026-11-21T09:30:00.123456Z")]
    started_at: String,
    ended_at: Option<String>,
    feature: String,
    provider: &'static str,
    dialect: &'static str,
    key_name: String,
    key_version: i32,
    usage_mode: &'static str,
    funding: &'static str,
    fallback: Option<&'static str>,
    model_asked: String,
    model_served: Option<String>,
    endpoint: Option<String>,
    session: Option<String>,
    prompt: Option<String>,
    tokens: Tokens,
    service_tier: &'static str,
    /// At the provider's list price.
    #[schema(example = "0.000227400")]
    cost_usd: String,
    billed_usd: String,
    /// What it cost after all, where its model had no price when it ran and has one now.
    adjustment_usd: Option<String>,
    billed_adjustment_usd: Option<String>,
    /// The model had no price when it ran: the cost was not known, and not nothing.
    unpriced: bool,
    /// `pending`, `final`, `partial` or `estimated`.
    #[schema(example = "final")]
    state: &'static str,
    /// The provider's HTTP status.
    status: Option<u16>,
    error_code: Option<String>,
    /// Microseconds.
    first_byte_us: Option<i64>,
    total_us: Option<i64>,
}

/// Counters by kind. They do not overlap, save that `reasoning` is part of `output`.
#[derive(Serialize, ToSchema)]
pub struct Tokens {
    input: u64,
    cache_read: u64,
    cache_write_short: u64,
    cache_write_long: u64,
    tool: u64,
    audio_input: u64,
    output: u64,
    audio_output: u64,
    reasoning: u64,
    web_searches: u64,
}

impl Row {
    fn of(row: UsageRow, adjusted: Option<&Adjustment>) -> Self {
        let tokens = row.tokens;
        Self {
            request_id: row.id.to_string(),
            started_at: row.started_at.timestamp().to_string(),
            ended_at: row.ended_at.map(|at| at.timestamp().to_string()),
            feature: row.feature,
            provider: row.provider.as_str(),
            dialect: row.dialect.as_str(),
            key_name: row.key_name,
            key_version: row.key_version,
            usage_mode: row.mode.as_str(),
            funding: row.funding.as_str(),
            fallback: row.fallback.map(crate::domain::billing::Fallback::as_str),
            model_asked: row.model_asked,
            model_served: row.model_served,
            endpoint: row.labels.endpoint,
            session: row.labels.session,
            prompt: row.labels.prompt,
            tokens: Tokens {
                input: tokens.input,
                cache_read: tokens.cache_read,
                cache_write_short: tokens.cache_write_5m,
                cache_write_long: tokens.cache_write_1h,
                tool: tokens.tool,
                audio_input: tokens.audio_input,
                output: tokens.output,
                audio_output: tokens.audio_output,
                reasoning: tokens.reasoning,
                web_searches: tokens.web_searches,
            },
            service_tier: row.served_as.tier.as_str(),
            cost_usd: row.cost.exact(),
            billed_usd: row.billed.exact(),
            adjustment_usd: adjusted.map(|adjusted| adjusted.cost.exact()),
            billed_adjustment_usd: adjusted.map(|adjusted| adjusted.billed.exact()),
            unpriced: row.unpriced,
            state: row.state.as_str(),
            status: row.status,
            error_code: row.error_code,
            first_byte_us: row.first_byte_us,
            total_us: row.total_us,
        }
    }
}

#[derive(Serialize, ToSchema)]
pub struct Rows {
    /// Oldest first.
    rows: Vec<Row>,
    /// Where the next page begins; `null` on the last one.
    next_cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct Summary {
    from: String,
    to: String,
    group_by: &'static str,
    groups: Vec<Group>,
    total: Sums,
}

#[derive(Serialize, ToSchema)]
pub struct Group {
    /// The feature's slug, the model or the key's name; empty for shared keys.
    name: String,
    /// On the tenant's own keys.
    byok: Sums,
    /// On shared keys.
    managed: Sums,
}

#[derive(Serialize, ToSchema)]
pub struct Sums {
    requests: i64,
    failed: i64,
    /// Requests whose numbers are estimates, and what they cost.
    estimated: i64,
    estimated_cost_usd: String,
    /// Requests on models without a price, which are not in the costs.
    unpriced: i64,
    input_tokens: i64,
    cache_read_tokens: i64,
    cache_write_tokens: i64,
    output_tokens: i64,
    /// At list prices.
    cost_usd: String,
}

impl Sums {
    fn of(totals: &Totals) -> Self {
        Self {
            requests: totals.requests,
            failed: totals.failed,
            estimated: totals.estimated,
            estimated_cost_usd: crate::domain::money::Nanos(totals.estimated_cost).exact(),
            unpriced: totals.unpriced,
            input_tokens: totals.input_tokens,
            cache_read_tokens: totals.cache_read_tokens,
            cache_write_tokens: totals.cache_write_tokens,
            output_tokens: totals.output_tokens,
            cost_usd: totals.cost().exact(),
        }
    }
}

fn wrong(field: &'static str, text: impl Into<String>) -> Problem {
    ServiceError::Invalid(Problems::field(field, text)).into()
}

fn moment(field: &'static str, text: Option<&str>) -> Result<Option<Moment>, Problem> {
    let parsed = text.map(|text| {
        let timestamp = text.parse::<jiff::Timestamp>();
        timestamp
            .map(Moment::from_timestamp)
            .map_err(|_| wrong(field, "Give a time as in 2026-11-21T09:30:00Z."))
    });
    parsed.transpose()
}

fn range(from: Option<&str>, to: Option<&str>, now: Moment) -> Result<(Moment, Moment), Problem> {
    let to = moment("to", to)?.unwrap_or(now.plus(1));
    let from = moment("from", from)?.unwrap_or(to.minus(30 * DAY));
    if from > to {
        return Err(wrong("from", "The range ends before it begins."));
    }
    Ok((from, to))
}

pub(super) fn query<T: serde::de::DeserializeOwned>(request: &HttpRequest) -> Result<T, Problem> {
    let query = request.query_string();
    // A value that is left empty would read as one that is not there.
    if url::form_urlencoded::parse(query.as_bytes()).any(|(_, value)| value.is_empty()) {
        return Err(Problem::bad_request("A value in the query is empty."));
    }
    let read = serde_html_form::from_str(query);
    read.map_err(|_| {
        Problem::bad_request("The query holds what this path does not take, or something twice.")
    })
}

/// Lists requests, a page at a time, oldest first.
#[utoipa::path(get,
    operation_id = "listUsage", path = "/api/v1/usage", tag = "usage", security(("token" = ["usage:read"])),
    params(super::docs::TenantHeader, RowsQuery),
    responses((status = 200, description = "Here it is", body = Rows), (status = "default", response = super::docs::Failed)))]
pub async fn rows(api: web::Data<Api>, request: HttpRequest) -> HttpResponse {
    let asked = match Asked::by(api, request, TokenScope::UsageRead).await {
        Ok(asked) => asked,
        Err(problem) => return problem.respond(),
    };
    let work = async {
        let caller = asked.caller().await?;
        let query: RowsQuery = query(&asked.request)?;
        let services = asked.services();
        let range = range(query.from.as_deref(), query.to.as_deref(), services.clock.now())?;
        let limit = query.limit.unwrap_or(USUAL_PAGE);
        if !(1..=LARGEST_PAGE).contains(&limit) {
            return Err(wrong("limit", format!("Give 1 to {LARGEST_PAGE}.")));
        }
        let after = query.cursor.as_deref().map(parse_cursor).transpose()?;
        let (mut found, adjusted) = services.usage_rows(caller.tenant, range, &[], after, limit + 1).await?;
        let page = usize::try_from(limit).unwrap_or(0);
        let more = found.len() > page;
        found.truncate(page);
        let last = found.last().filter(|_| more).map(|row| format!("{}.{}", row.started_at.0, row.id));
        let of = |row: UsageRow| {
            let adjustment = adjusted.get(&row.id);
            Row::of(row, adjustment)
        };
        let rows = found.into_iter().map(of).collect();
        Ok(HttpResponse::Ok().json(Rows { rows, next_cursor: last }))
    };
    asked.answer(work.await)
}

fn parse_cursor(text: &str) -> Result<(Moment, RequestId), Problem> {
    let parsed =
        text.split_once('.').and_then(|(at, id)| Some((Moment(at.parse().ok()?), RequestId::parse(id)?)));
    parsed.ok_or_else(|| wrong("cursor", "Give next_cursor of the page before, as it is."))
}

/// Sums up requests by feature, model, key, endpoint, session, prompt or usage mode.
#[utoipa::path(get,
    operation_id = "sumUsage", path = "/api/v1/usage/summary", tag = "usage", security(("token" = ["usage:read"])),
    params(super::docs::TenantHeader, SummaryQuery),
    responses((status = 200, description = "Here it is", body = Summary), (status = "default", response = super::docs::Failed)))]
pub async fn summary(api: web::Data<Api>, request: HttpRequest) -> HttpResponse {
    let asked = match Asked::by(api, request, TokenScope::UsageRead).await {
        Ok(asked) => asked,
        Err(problem) => return problem.respond(),
    };
    let work = async {
        let caller = asked.caller().await?;
        let query: SummaryQuery = query(&asked.request)?;
        let services = asked.services();
        let range = range(query.from.as_deref(), query.to.as_deref(), services.clock.now())?;
        let group = match query.group_by.as_deref() {
            None => Dimension::Feature,
            Some(word) => Dimension::parse(word).ok_or_else(|| {
                let known: Vec<&str> = Dimension::ALL.iter().map(|one| one.as_str()).collect();
                wrong("group_by", format!("Group by one of {}.", known.join(", ")))
            })?,
        };
        let (range, lines) = services.usage_summary(caller.tenant, range, group).await?;
        let all = lines.iter().fold(Totals::default(), |sum, line| sum.plus(&line.sum()));
        Ok(HttpResponse::Ok().json(Summary {
            from: range.0.rfc3339(),
            to: range.1.rfc3339(),
            group_by: group.as_str(),
            groups: lines
                .into_iter()
                .map(|line| Group {
                    byok: Sums::of(&line.byok),
                    managed: Sums::of(&line.managed),
                    name: line.name,
                })
                .collect(),
            total: Sums::of(&all),
        }))
    };
    asked.answer(work.await)
}
