//! The console: server-rendered pages for people. One file per page; what all pages share is in
//! `page`, `form`, `csrf`, `session`, `viewer`, `place`, `confirm`, `error` and `finish`.
//!
//! Pages authorise nothing themselves: they ask the services, and `access::policy` for whether a
//! button is worth showing. No SQL and no outgoing request happens here.

mod account;
mod address;
mod api_keys;
mod assets;
mod audit;
mod banner;
mod billing;
mod catalog;
mod chart;
mod claim;
mod community;
mod confirm;
mod csrf;
mod destinations;
mod device;
mod error;
mod features;
mod figures;
mod finish;
mod form;
mod headers;
mod home;
mod join;
mod matrix;
mod members;
mod notifications;
mod page;
mod passkeys;
mod place;
mod plans;
mod platform;
mod prices;
mod prose;
mod questions;
mod reconciliation;
mod second_factor;
mod second_step;
mod security;
mod session;
mod setup;
mod sign_in;
mod span;
mod spending;
mod sso;
mod status;
mod terms;
mod time;
mod tokens;
mod viewer;
mod viewing;

use std::net::IpAddr;
use std::sync::Arc;

use actix_web::middleware::{Compress, from_fn};
use actix_web::web::{self, Data, PathConfig, QueryConfig, ServiceConfig};
use actix_web::{Route, guard};
use tracing_actix_web::TracingLogger;

use crate::services::Services;
use crate::services::assistant::Assistant;
use error::WebError;
use page::Answer;
use span::RequestSpan;

/// How people reach the console.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether the public URL is https: cookies then carry the `__Host-` prefix.
    pub secure: bool,
    /// Whose `X-Forwarded-For` counts.
    pub trusted_proxies: Vec<IpAddr>,
}

/// What every handler works with.
pub(crate) struct Console {
    pub services: Arc<Services>,
    pub assistant: Arc<dyn Assistant>,
    pub secure: bool,
    pub trusted_proxies: Vec<IpAddr>,
}

/// Registers every console route, and `/assets`, on the app. Whatever else the app answers must
/// be registered before: the console takes all paths that are left, to say that there is nothing.
pub fn configure(
    cfg: &mut ServiceConfig,
    services: Arc<Services>,
    assistant: Arc<dyn Assistant>,
    options: &Options,
) {
    let session = session::middleware(&services, options.secure);
    let console = Data::new(Console {
        services,
        assistant,
        secure: options.secure,
        trusted_proxies: options.trusted_proxies.clone(),
    });
    cfg.app_data(console)
        .service(
            // Outside of the session: a style sheet needs no look at the database.
            web::scope("/assets")
                .service(assets::route())
                .default_service(web::to(nothing_here))
                .wrap(from_fn(finish::finish))
                .wrap(Compress::default())
                .wrap(TracingLogger::<RequestSpan>::new()),
        )
        .service(
            web::scope("")
                .app_data(QueryConfig::default().error_handler(|_, _| WebError::BadForm.into()))
                .app_data(PathConfig::default().error_handler(|_, _| WebError::NotFound.into()))
                .configure(routes)
                .default_service(web::to(nothing_here))
                .wrap(from_fn(viewing::only_look))
                .wrap(from_fn(device::remember))
                .wrap(session)
                .wrap(from_fn(session::remember_who))
                .wrap(from_fn(finish::finish))
                .wrap(Compress::default())
                .wrap(TracingLogger::<RequestSpan>::new()),
        );
}

fn routes(cfg: &mut ServiceConfig) {
    cfg.configure(home::routes)
        .configure(sign_in::routes)
        .configure(setup::routes)
        .configure(second_step::routes)
        .configure(sso::routes)
        .configure(account::routes)
        .configure(second_factor::routes)
        .configure(passkeys::routes)
        .configure(platform::routes)
        .configure(status::routes)
        .configure(viewing::routes)
        .configure(terms::routes)
        .configure(prices::routes)
        .configure(matrix::routes)
        .configure(plans::routes)
        .configure(catalog::routes)
        .configure(features::routes)
        .configure(community::routes)
        .configure(questions::routes)
        .configure(|cfg| audit::routes(cfg, "/t/{tenant}/activity/audit"))
        .configure(|cfg| audit::routes(cfg, "/platform/audit"))
        .configure(members::routes)
        .configure(join::routes)
        .configure(claim::routes)
        .configure(security::routes)
        .configure(billing::routes)
        .configure(|cfg| reconciliation::routes(cfg, "/t/{tenant}/billing/reconciliation"))
        .configure(|cfg| reconciliation::routes(cfg, "/platform/reconciliation"))
        .configure(notifications::routes)
        .configure(destinations::routes)
        .configure(|cfg| tokens::routes(cfg, "/t/{tenant}/settings/tokens"))
        .configure(|cfg| tokens::routes(cfg, "/platform/tokens"))
        .configure(|cfg| api_keys::routes(cfg, "/t/{tenant}/settings/api-keys"))
        .configure(|cfg| api_keys::routes(cfg, "/platform/shared-keys"));
}

/// A page that is looked at: GET, and HEAD for whoever asks only whether it is there.
fn read() -> Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
}

async fn nothing_here() -> Answer {
    Err(WebError::NotFound)
}
