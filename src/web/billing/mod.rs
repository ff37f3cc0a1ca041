//! Billing: who pays, what thirty days cost, the two policies, and the download. `show` makes
//! the page, `export` the CSV, `budgets` and `credits` their own; the forms of the page are here.

mod breaker;
mod budgets;
mod compare;
mod credits;
pub mod export;
mod names;
pub mod purchase;
mod rates;
mod show;
mod statements;
mod usage;

use actix_web::HttpRequest;
use actix_web::web::{self, Data, ServiceConfig};
use serde::Deserialize;

use super::error::WebError;
use super::form::Posted;
use super::page::{Answer, see_other};
use super::place::Place;
use super::{Console, confirm, read, session};
use crate::access::actor::Actor;
use crate::domain::billing::{LimitPolicy, NoKeyPolicy, UsageMode};
use crate::services::{ServiceError, Services};

pub fn routes(cfg: &mut ServiceConfig) {
    cfg.service(web::resource("/t/{tenant}/billing").route(read().to(show::show)))
        .service(web::resource("/t/{tenant}/billing/mode").route(web::post().to(save_mode)))
        .service(web::resource("/t/{tenant}/billing/policies").route(web::post().to(save_policies)))
        .service(
            web::resource("/t/{tenant}/billing/budgets")
                .route(read().to(budgets::show))
                .route(web::post().to(budgets::save)),
        )
        .service(web::resource("/t/{tenant}/billing/budgets/remove").route(web::post().to(budgets::remove)))
        .service(
            web::resource("/t/{tenant}/billing/breaker")
                .route(read().to(breaker::show))
                .route(web::post().to(breaker::save)),
        )
        .service(
            web::resource("/t/{tenant}/billing/rates")
                .route(read().to(rates::show))
                .route(web::post().to(rates::save)),
        )
        .service(web::resource("/t/{tenant}/billing/breaker/reset").route(web::post().to(breaker::reset)))
        .service(web::resource("/t/{tenant}/billing/breaker/remove").route(web::post().to(breaker::remove)))
        .service(web::resource("/t/{tenant}/billing/credits").route(read().to(credits::show)))
        .service(
            web::resource("/t/{tenant}/billing/credits/notice").route(web::post().to(credits::save_notice)),
        )
        .service(web::resource("/t/{tenant}/billing/credits/orders").route(web::post().to(credits::buy)))
        .service(web::resource("/t/{tenant}/billing/credits/orders/{id}").route(read().to(purchase::show)))
        .service(
            web::resource("/t/{tenant}/billing/credits/orders/{id}/cancel")
                .route(web::post().to(purchase::cancel)),
        )
        .service(web::resource("/t/{tenant}/billing/usage").route(read().to(usage::show)))
        .service(web::resource("/t/{tenant}/billing/requests").route(read().to(usage::requests)))
        .service(web::resource("/t/{tenant}/billing/requests/{id}").route(read().to(usage::request)))
        .service(web::resource("/t/{tenant}/billing/usage-groups.csv").route(web::get().to(export::groups)))
        .service(web::resource("/t/{tenant}/billing/statements").route(read().to(statements::list)))
        .service(
            web::resource("/t/{tenant}/billing/statements/{month}.csv").route(read().to(statements::csv)),
        )
        .service(web::resource("/t/{tenant}/billing/statements/{month}").route(read().to(statements::show)))
        .service(web::resource("/t/{tenant}/billing/compare").route(read().to(compare::show)))
        // Not for HEAD: beginning a download is written into the audit log.
        .service(web::resource("/t/{tenant}/billing/usage.csv").route(web::get().to(export::download)));
}

pub(super) fn address(place: &Place) -> String {
    format!("{}/billing", place.root())
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ModeForm {
    mode: String,
    /// What the page said that it was: sent again as it was, the form is no wish to change anything, least
    /// of all what a colleague has changed meanwhile.
    was: String,
}

async fn save_mode(
    console: Data<Console>,
    place: Place,
    request: HttpRequest,
    posted: Posted<ModeForm>,
) -> Answer {
    let to = UsageMode::parse(&posted.fields.mode).ok_or(WebError::BadForm)?;
    let unchanged = posted.fields.was == posted.fields.mode;
    let (scope, tenant) = (place.holder.scope, place.tenant()?.tenant.clone());
    save(&console, place, &request, "Save usage mode", posted, async |services, actor| {
        if unchanged {
            return Err(ServiceError::Conflict("Nothing was changed."));
        }
        services.set_mode(actor, &scope, &tenant, to).await?;
        Ok(match to {
            UsageMode::Byok => "Usage mode saved: new requests use your own key.",
            UsageMode::Managed => "Usage mode saved: new requests run on the shared account.",
        })
    })
    .await
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PoliciesForm {
    no_key: String,
    on_limit: String,
}

async fn save_policies(
    console: Data<Console>,
    place: Place,
    request: HttpRequest,
    posted: Posted<PoliciesForm>,
) -> Answer {
    let no_key = NoKeyPolicy::parse(&posted.fields.no_key).ok_or(WebError::BadForm)?;
    let on_limit = LimitPolicy::parse(&posted.fields.on_limit).ok_or(WebError::BadForm)?;
    let (scope, tenant) = (place.holder.scope, place.tenant()?.tenant.clone());
    save(&console, place, &request, "Save policies", posted, async |services, actor| {
        services.set_policies(actor, &scope, &tenant, no_key, on_limit).await?;
        Ok("Policies saved. They hold for new requests.")
    })
    .await
}

async fn save<T>(
    console: &Console,
    mut place: Place,
    request: &HttpRequest,
    intent: &str,
    mut posted: Posted<T>,
    work: impl AsyncFnOnce(&Services, &Actor) -> Result<&'static str, ServiceError>,
) -> Answer {
    let password = posted.evidence.take();
    match confirm::act(console, &mut place.viewer, password, work).await {
        Ok(text) => session::notify(&place.viewer.session, true, text),
        Err(ServiceError::Conflict(message)) => session::notify(&place.viewer.session, false, message),
        Err(error) => {
            let chrome = place.chrome("Confirm it's you", &address(&place));
            return confirm::ask(error, request, chrome, intent, address(&place), &posted);
        }
    }
    Ok(see_other(&address(&place)))
}
