//! Platform → Prices: what every model costs, since when, and models that ran without a price.

use actix_web::web::{self, Data, Query, ServiceConfig};
use askama::Template;
use serde::Deserialize;

use super::figures::{count, counted};
use super::form::{Failure, Posted};
use super::page::{Answer, Chrome, Here, Page, see_other};
use super::time::{Times, When};
use super::viewer::Viewer;
use super::{Console, confirm, read, session};
use crate::domain::clock::Moment;
use crate::domain::money::Nanos;
use crate::domain::price::PriceRow;
use crate::domain::provider_key::Provider;
use crate::services::Problems;
use crate::services::prices::TypedPrice;
use crate::web::error::WebError;

/// Rows on the page; a search narrows them.
const SHOWN: usize = 300;

pub fn routes(cfg: &mut ServiceConfig) {
    cfg.service(web::resource("/platform/prices").route(read().to(show)).route(web::post().to(save)));
}

#[derive(Template)]
#[template(path = "pages/platform/prices.html")]
struct PricesPage {
    chrome: Chrome,
    q: String,
    heading: String,
    rows: Vec<Row>,
    more: usize,
    unpriced: Vec<Missing>,
    providers: Vec<(&'static str, &'static str)>,
    form: PriceForm,
    asks_password: bool,
    problems: Problems,
}

struct Row {
    provider: &'static str,
    model: String,
    what: String,
    input: String,
    output: String,
    cache_read: String,
    cache_write: String,
    /// `None`: from the beginning.
    from: Option<When>,
    until: Option<When>,
    to_come: bool,
}

struct Missing {
    provider: String,
    model: String,
    requests: String,
    href: String,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Asked {
    q: String,
    provider: String,
    model: String,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PriceForm {
    provider: String,
    model: String,
    input: String,
    output: String,
    cache_read: String,
    cache_write: String,
    from: String,
}

async fn page(console: &Console, viewer: &Viewer, q: &str, form: PriceForm) -> Result<PricesPage, WebError> {
    let services = &console.services;
    let (all, unpriced) = services.list_prices(&viewer.actor).await?;
    let now = services.clock.now();
    let times = Times { now, zone: jiff::tz::TimeZone::UTC };
    let wanted = q.to_lowercase();
    let found: Vec<Row> = all
        .iter()
        .enumerate()
        .filter(|(_, row)| row.model.to_lowercase().contains(&wanted) || row.provider.as_str() == wanted)
        .map(|(at, row)| {
            // Of one price the latest comes first, so the one before in the list ends this one.
            let next = at.checked_sub(1).map(|before| &all[before]).filter(|before| same(before, row));
            line(row, next.map(|next| next.valid_from), now, &times)
        })
        .collect();
    let rows = i64::try_from(found.len()).unwrap_or(i64::MAX);
    Ok(PricesPage {
        chrome: Chrome::new(viewer, &Here::Platform, "Prices", "/platform/prices"),
        heading: if q.is_empty() {
            counted(rows, "price", "prices")
        } else {
            format!("{} with “{q}”", counted(rows, "price", "prices"))
        },
        q: q.to_owned(),
        more: found.len().saturating_sub(SHOWN),
        rows: found.into_iter().take(SHOWN).collect(),
        unpriced: unpriced
            .into_iter()
            .map(|one| Missing {
                href: format!(
                    "/platform/prices?{}#set",
                    url::form_urlencoded::Serializer::new(String::new())
                        .append_pair("provider", &one.provider)
                        .append_pair("model", &one.model)
                        .finish()
                ),
                provider: Provider::parse(&one.provider)
                    .map_or(one.provider, |known| known.label().to_owned()),
                model: one.model,
                requests: count(one.requests),
            })
            .collect(),
        providers: Provider::ALL.iter().map(|provider| (provider.as_str(), provider.label())).collect(),
        form,
        asks_password: !viewer.actor.is_confirmed(now),
        problems: Problems::default(),
    })
}

fn same(a: &PriceRow, b: &PriceRow) -> bool {
    (a.provider, &a.model, a.tier, a.above_prompt_tokens)
        == (b.provider, &b.model, b.tier, b.above_prompt_tokens)
}

fn line(row: &PriceRow, next: Option<Moment>, now: Moment, times: &Times) -> Row {
    let million = |rate: i64| Nanos(rate.saturating_mul(1_000)).precise();
    let above = match row.above_prompt_tokens {
        0 => String::new(),
        tokens => format!(", above {} prompt tokens", crate::domain::money::grouped(tokens)),
    };
    Row {
        provider: row.provider.label(),
        model: row.model.clone(),
        what: format!("{}{above}", row.tier),
        input: million(row.rates.input),
        output: million(row.rates.output),
        cache_read: million(row.rates.cache_read),
        cache_write: million(row.rates.cache_write_5m),
        from: (row.valid_from.0 > 0).then(|| times.day(row.valid_from)),
        until: next.map(|at| times.day(at)),
        to_come: row.valid_from > now,
    }
}

async fn show(console: Data<Console>, viewer: Viewer, asked: Query<Asked>) -> Answer {
    let asked = asked.into_inner();
    let q: String = asked.q.trim().chars().take(80).collect();
    let form = PriceForm { provider: asked.provider, model: asked.model, ..PriceForm::default() };
    Page::new(page(&console, &viewer, &q, form).await?).answer()
}

async fn save(console: Data<Console>, mut viewer: Viewer, posted: Posted<PriceForm>) -> Answer {
    let form = posted.fields;
    let typed = TypedPrice {
        provider: form.provider.clone(),
        model: form.model.clone(),
        input: form.input.clone(),
        output: form.output.clone(),
        cache_read: form.cache_read.clone(),
        cache_write: form.cache_write.clone(),
        from: form.from.clone(),
    };
    let saved = confirm::act(&console, &mut viewer, posted.evidence, async |services, actor| {
        services.set_price(actor, &typed).await
    })
    .await;
    match saved {
        Ok(rated) => {
            let rated = i64::try_from(rated).unwrap_or(i64::MAX);
            let rated = match rated {
                0 => "No past request was waiting for it.".to_owned(),
                1 => "1 request that had run without a price since then is rated now.".to_owned(),
                _ => format!(
                    "{} that had run without a price since then are rated now.",
                    counted(rated, "request", "requests")
                ),
            };
            session::notify(&viewer.session, true, format!("Price of {} saved. {rated}", form.model.trim()));
            let q = url::form_urlencoded::byte_serialize(form.model.trim().as_bytes()).collect::<String>();
            Ok(see_other(&format!("/platform/prices?q={q}")))
        }
        Err(error) => {
            let failure = Failure::of(error)?;
            let mut page = page(&console, &viewer, "", form).await?;
            page.problems = failure.problems;
            Page::new(page).status(failure.status).retry_after(failure.retry_after).answer()
        }
    }
}
