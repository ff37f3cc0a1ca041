//! Activity → Audit log, and the platform's own: who did what, and when.

use actix_web::web::{self, Bytes, Data, Query, ServiceConfig};
use askama::Template;
use futures_util::stream;
use serde::Deserialize;

use super::billing::export::{csv_named, harmless};
use super::error::WebError;
use super::page::{Answer, Chrome, Page};
use super::place::Place;
use super::time::When;
use super::{Console, read};
use crate::access::policy::Action;
use crate::domain::audit::AuditAction;
use crate::domain::clock::Moment;
use crate::services::audit_log::AuditQuery;
use crate::services::usage::Days;
use crate::storage::audit::AuditRow;

const ON_A_PAGE: i64 = 100;
/// Rows of a download that are read at once.
const PIECE: i64 = 500;

pub fn routes(cfg: &mut ServiceConfig, base: &'static str) {
    cfg.service(web::resource(base).route(read().to(show)))
        .service(web::resource(format!("{base}.csv")).route(read().to(download)));
}

fn address(place: &Place) -> String {
    match place.view() {
        Some(_) => format!("{}/activity/audit", place.root()),
        None => format!("{}/audit", place.root()),
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Asked {
    action: String,
    actor: String,
    from: String,
    to: String,
    before: String,
}

impl Asked {
    fn query(&self, place: &Place) -> (AuditQuery, Days) {
        let times = place.times();
        let days = Days::read(&self.from, &self.to, times.now, &times.zone);
        let (from, to) = days.range(&times.zone);
        let actor: String = self.actor.chars().take(254).collect();
        (AuditQuery { action: AuditAction::parse(&self.action), actor, from, to }, days)
    }

    /// The address of a page with the same filters.
    fn to(&self, address: &str, days: Days, before: Option<i64>) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("action", &self.action).append_pair("actor", &self.actor);
        query.append_pair("from", &days.first.to_string()).append_pair("to", &days.last.to_string());
        if let Some(before) = before {
            query.append_pair("before", &before.to_string());
        }
        format!("{address}?{}", query.finish())
    }
}

#[derive(Template)]
#[template(path = "pages/audit.html")]
struct AuditPage {
    chrome: Chrome,
    here: String,
    lead: &'static str,
    rows: Vec<Row>,
    actions: Vec<(&'static str, bool)>,
    actor: String,
    from: String,
    to: String,
    csv: String,
    older: Option<String>,
}

struct Row {
    at: When,
    actor: String,
    address: String,
    action: String,
    target: String,
    detail: Vec<(String, String)>,
}

impl Row {
    fn of(row: AuditRow, place: &Place) -> Self {
        let detail: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&row.detail).unwrap_or_default();
        Self {
            at: place.times().when(Moment(row.at)),
            actor: row.actor,
            address: row.address.unwrap_or_default(),
            action: row.action,
            target: row.target,
            detail: detail
                .into_iter()
                // What there was nothing of is nothing to read.
                .filter(|(_, value)| {
                    !value.is_null() && !value.as_object().is_some_and(serde_json::Map::is_empty)
                })
                .map(|(name, value)| match value {
                    serde_json::Value::String(text) => (name, text),
                    other => (name, other.to_string()),
                })
                .collect(),
        }
    }
}

async fn show(console: Data<Console>, place: Place, asked: Query<Asked>) -> Answer {
    let (query, days) = asked.query(&place);
    let before = asked.before.parse().ok();
    let whose = (&place.holder.scope, place.holder.changers);
    let actor = &place.viewer.actor;
    let mut found = console.services.audit_page(actor, whose, &query, before, ON_A_PAGE + 1).await?;
    let more = i64::try_from(found.len()).unwrap_or(i64::MAX) > ON_A_PAGE;
    if more {
        found.pop();
    }
    let here = address(&place);
    let all = place.view().is_none() || place.may(Action::SeeAudit);
    let page = AuditPage {
        chrome: place.chrome("Audit log", &here),
        lead: if all {
            "Who did what, and when. Nothing in it can be changed unseen."
        } else {
            "Who changed what things cost and who pays. Admins see the rest."
        },
        older: found.last().filter(|_| more).map(|last| asked.to(&here, days, Some(last.seq))),
        rows: found.into_iter().map(|row| Row::of(row, &place)).collect(),
        actions: AuditAction::ALL
            .iter()
            .filter(|action| all || action.is_about_billing())
            .map(|action| (action.as_str(), query.action == Some(*action)))
            .collect(),
        actor: query.actor.clone(),
        from: days.first.to_string(),
        to: days.last.to_string(),
        csv: asked.to(&format!("{here}.csv"), days, None),
        here,
    };
    Page::new(page).answer()
}

async fn download(console: Data<Console>, place: Place, asked: Query<Asked>) -> Answer {
    let (query, days) = asked.query(&place);
    let holder = place.holder;
    let actor = place.viewer.actor.clone();
    console.services.begin_audit_export(&actor, (&holder.scope, holder.changers), &query).await?;
    let whose = place.view().map_or("platform", |view| view.tenant.slug.as_str());
    let name = format!("keyward-audit-{whose}-{}-{}.csv", days.first, days.last);
    let head = "at,actor,address,action,target,detail,request_id,entry\r\n";
    let pieces = stream::try_unfold((true, None, false), move |(first, before, done)| {
        let (console, query, actor) = (console.clone(), query.clone(), actor.clone());
        async move {
            if first {
                return Ok::<_, WebError>(Some((Bytes::from(head), (false, None, false))));
            }
            if done {
                return Ok(None);
            }
            let whose = (&holder.scope, holder.changers);
            let rows = console.services.audit_page(&actor, whose, &query, before, PIECE).await?;
            let Some(last) = rows.last().map(|row| row.seq) else { return Ok(None) };
            let is_last = rows.len() < usize::try_from(PIECE).unwrap_or(usize::MAX);
            Ok(Some((lines(rows)?, (false, Some(last), is_last))))
        }
    });
    Ok(csv_named(&name).streaming(Box::pin(pieces)))
}

fn lines(rows: Vec<AuditRow>) -> Result<Bytes, WebError> {
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    for row in rows {
        writer
            .write_record([
                Moment(row.at).rfc3339(),
                harmless(&row.actor),
                row.address.unwrap_or_default(),
                row.action,
                harmless(&row.target),
                harmless(&row.detail),
                row.request_id.map(|id| id.to_string()).unwrap_or_default(),
                row.seq.to_string(),
            ])
            .map_err(WebError::internal)?;
    }
    Ok(Bytes::from(writer.into_inner().map_err(|error| WebError::internal(error.into_error()))?))
}
