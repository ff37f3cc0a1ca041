//! Usage as CSV: single requests, streamed a page at a time, and groups.

use actix_web::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use actix_web::web::{Bytes, Data, Query};
use actix_web::{HttpResponse, HttpResponseBuilder};
use futures_util::stream;

use super::usage::Asked;
use crate::domain::billing::UsageMode;
use crate::domain::clock::Moment;
use crate::domain::ids::{RequestId, TenantId};
use crate::domain::money::Nanos;
use crate::domain::usage::{Dimension, Filter, UsageRow};
use crate::services::usage::{GroupLine, UsageQuery};
use crate::storage::adjustments::Adjustment;
use crate::web::Console;
use crate::web::error::WebError;
use crate::web::page::Answer;
use crate::web::place::Place;

const COLUMNS: [&str; 38] = [
    "started_at",
    "request_id",
    "feature",
    "provider",
    "dialect",
    "key",
    "key_version",
    "usage_mode",
    "funding",
    "fallback",
    "model_asked",
    "model_served",
    "endpoint",
    "session",
    "prompt",
    "input_tokens",
    "audio_input_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "audio_output_tokens",
    "reasoning_tokens",
    "tool_tokens",
    "web_searches",
    "service_tier",
    "cost_usd",
    "billed_usd",
    "adjustment_usd",
    "billed_adjustment_usd",
    "unpriced",
    "state",
    "status",
    "error_code",
    "ended_at",
    "first_byte_ms",
    "total_ms",
    "rate_percent",
];

/// Rows that are read at once.
const PAGE: i64 = 500;

/// Where a download is.
struct Cursor {
    console: Data<Console>,
    tenant: TenantId,
    range: (Moment, Moment),
    filters: Vec<Filter>,
    after: Option<(Moment, RequestId)>,
    begun: bool,
    done: bool,
}

pub async fn download(console: Data<Console>, place: Place, asked: Query<Asked>) -> Answer {
    let tenant = &place.tenant()?.tenant;
    let scope = place.holder.scope;
    let UsageQuery { days, filters, .. } = asked.query(&place);
    let range = console.services.begin_export(&place.viewer.actor, &scope, tenant, days).await?;
    let name = format!("keyward-usage-{}-{}-{}.csv", tenant.slug, days.first, days.last);
    let cursor =
        Cursor { console, tenant: tenant.id, range, filters, after: None, begun: false, done: false };
    let rows = stream::try_unfold(cursor, |cursor| async move {
        if cursor.done { Ok(None) } else { next(cursor).await.map(Some) }
    });
    Ok(csv_named(&name).streaming(rows))
}

pub fn csv_named(name: &str) -> HttpResponseBuilder {
    let mut response = HttpResponse::Ok();
    response
        .insert_header((CONTENT_TYPE, "text/csv; charset=utf-8"))
        // The name is made of a slug and dates: nothing in it needs quoting.
        .insert_header((CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")));
    response
}

/// Sums by group: as many rows as there are groups and modes.
pub async fn groups(console: Data<Console>, place: Place, asked: Query<Asked>) -> Answer {
    let tenant = &place.tenant()?.tenant;
    let (scope, query) = (place.holder.scope, asked.query(&place));
    let (services, actor) = (&console.services, &place.viewer.actor);
    let report = services.usage_report(actor, &scope, tenant, &query, true).await?;
    if report.cut {
        return Err(WebError::TooManyGroups);
    }
    services.begin_export(actor, &scope, tenant, query.days).await?;
    let second = query.then.map_or("", Dimension::as_str);
    let mut head = vec![query.by.as_str(), second];
    head.extend([
        "usage_mode",
        "requests",
        "failed",
        "estimated",
        "unpriced",
        "input_tokens",
        "cache_read_tokens",
        "cache_write_tokens",
        "output_tokens",
        "cost_usd",
        "estimated_cost_usd",
        "billed_usd",
    ]);
    head.retain(|column| !column.is_empty());
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(&head).map_err(WebError::internal)?;
    let head = written(writer)?;
    let (first, last) = (query.days.first, query.days.last);
    let name = format!("keyward-usage-by-{}-{}-{first}-{last}.csv", query.by, tenant.slug);
    let two = query.then.is_some();
    // Written a piece at a time: the sums are in memory, their text is not.
    let pieces = stream::try_unfold((Some(head), report.lines.into_iter()), move |(head, mut lines)| {
        std::future::ready(match head {
            Some(head) => Ok(Some((head, (None, lines)))),
            None if lines.len() == 0 => Ok(None),
            None => group_lines(lines.by_ref().take(1_000), two).map(|piece| Some((piece, (None, lines)))),
        })
    });
    Ok(csv_named(&name).streaming(pieces))
}

fn group_lines(lines: impl Iterator<Item = GroupLine>, two: bool) -> Result<Bytes, WebError> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for line in lines {
        for (mode, sums) in [(UsageMode::Byok, &line.byok), (UsageMode::Managed, &line.managed)] {
            if sums.requests == 0 {
                continue;
            }
            let mut record = vec![harmless(&line.name)];
            record.extend(two.then(|| harmless(&line.second)));
            record.push(mode.to_string());
            record.extend(
                [
                    sums.requests,
                    sums.failed,
                    sums.estimated,
                    sums.unpriced,
                    sums.input_tokens,
                    sums.cache_read_tokens,
                    sums.cache_write_tokens,
                    sums.output_tokens,
                ]
                .map(|count| count.to_string()),
            );
            record.extend([sums.cost, sums.estimated_cost, sums.billed].map(|nanos| Nanos(nanos).exact()));
            writer.write_record(&record).map_err(WebError::internal)?;
        }
    }
    written(writer)
}

fn written(writer: csv::Writer<Vec<u8>>) -> Result<Bytes, WebError> {
    writer.into_inner().map(Bytes::from).map_err(|error| WebError::internal(error.into_error()))
}

async fn next(mut cursor: Cursor) -> Result<(Bytes, Cursor), WebError> {
    let (rows, adjusted) = cursor
        .console
        .services
        .usage_rows(cursor.tenant, cursor.range, &cursor.filters, cursor.after, PAGE)
        .await?;
    let mut writer = csv::Writer::from_writer(Vec::new());
    if !cursor.begun {
        writer.write_record(COLUMNS).map_err(WebError::internal)?;
    }
    for row in &rows {
        writer.write_record(record(row, adjusted.get(&row.id))).map_err(WebError::internal)?;
    }
    cursor.begun = true;
    cursor.done = rows.is_empty();
    cursor.after = rows.last().map(|row| (row.started_at, row.id));
    Ok((written(writer)?, cursor))
}

fn record(row: &UsageRow, adjusted: Option<&Adjustment>) -> [String; 38] {
    let text = |text: &str| harmless(text);
    let maybe = |text: Option<&str>| text.map(harmless).unwrap_or_default();
    let millis = |micros: Option<i64>| micros.map(|micros| (micros / 1_000).to_string()).unwrap_or_default();
    [
        row.started_at.timestamp().to_string(),
        row.id.to_string(),
        text(&row.feature),
        row.provider.to_string(),
        row.dialect.to_string(),
        text(&row.key_name),
        row.key_version.to_string(),
        row.mode.to_string(),
        row.funding.to_string(),
        row.fallback.map(|fallback| fallback.to_string()).unwrap_or_default(),
        text(&row.model_asked),
        maybe(row.model_served.as_deref()),
        maybe(row.labels.endpoint.as_deref()),
        maybe(row.labels.session.as_deref()),
        maybe(row.labels.prompt.as_deref()),
        row.tokens.input.to_string(),
        row.tokens.audio_input.to_string(),
        row.tokens.cache_read.to_string(),
        row.tokens.cache_write_5m.to_string(),
        row.tokens.cache_write_1h.to_string(),
        row.tokens.output.to_string(),
        row.tokens.audio_output.to_string(),
        row.tokens.reasoning.to_string(),
        row.tokens.tool.to_string(),
        row.tokens.web_searches.to_string(),
        row.served_as.tier.to_string(),
        row.cost.exact(),
        row.billed.exact(),
        adjusted.map(|adjusted| adjusted.cost).unwrap_or_default().exact(),
        adjusted.map(|adjusted| adjusted.billed).unwrap_or_default().exact(),
        row.unpriced.to_string(),
        row.state.to_string(),
        row.status.map(|status| status.to_string()).unwrap_or_default(),
        maybe(row.error_code.as_deref()),
        row.ended_at.map(|at| at.timestamp().to_string()).unwrap_or_default(),
        millis(row.first_byte_us),
        millis(row.total_us),
        row.rate.percent(),
    ]
}

/// Free text that a spreadsheet would take for a formula gets an apostrophe before it.
pub fn harmless(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_are_defused() {
        for text in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"] {
            assert!(harmless(text).starts_with('\''), "{text:?}");
        }
        assert_eq!(harmless("claude-haiku-4-5"), "claude-haiku-4-5");
    }
}
