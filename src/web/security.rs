//! Settings → Security: who may change the tenant's provider keys.

use actix_web::HttpRequest;
use actix_web::web::{self, Data, ServiceConfig};
use askama::Template;
use serde::Deserialize;

use super::error::WebError;
use super::form::Posted;
use super::page::{Answer, Chrome, Page, see_other};
use super::place::Place;
use super::{Console, confirm, read, session};
use crate::access::policy::Action;
use crate::domain::account::KeyChangers;

pub fn routes(cfg: &mut ServiceConfig) {
    cfg.service(
        web::resource("/t/{tenant}/settings/security").route(read().to(show)).route(web::post().to(save)),
    );
}

fn address(place: &Place) -> String {
    format!("{}/settings/security", place.root())
}

#[derive(Template)]
#[template(path = "pages/security.html")]
struct SecurityPage {
    chrome: Chrome,
    action: String,
    tenant: String,
    product: String,
    admins: bool,
    may_change: bool,
}

async fn show(console: Data<Console>, place: Place) -> Answer {
    place.demand(Action::SeeKeyDetails)?;
    let tenant = &place.tenant()?.tenant;
    let page = SecurityPage {
        chrome: place.chrome("Security", &address(&place)),
        action: address(&place),
        tenant: tenant.name.clone(),
        product: console.services.options.product.clone(),
        admins: tenant.key_changers == KeyChangers::Admins,
        may_change: place.may(Action::ChangeKeyChangers),
    };
    Page::new(page).answer()
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SecurityForm {
    key_changers: String,
}

async fn save(
    console: Data<Console>,
    mut place: Place,
    request: HttpRequest,
    mut posted: Posted<SecurityForm>,
) -> Answer {
    let to = KeyChangers::parse(&posted.fields.key_changers).ok_or(WebError::BadForm)?;
    let tenant = place.tenant()?.tenant.clone();
    let (scope, password) = (place.holder.scope, posted.current_password.take());
    let saved = confirm::act(&console, &mut place.viewer, password, async |services, actor| {
        services.set_key_changers(actor, &scope, &tenant, to).await
    })
    .await;
    match saved {
        Ok(()) => {
            let who = match to {
                KeyChangers::Admins => "Admins and billing admins may change provider keys.",
                KeyChangers::SuperAdmins => "Only super admins may change provider keys now.",
            };
            session::notify(&place.viewer.session, true, who);
            Ok(see_other(&address(&place)))
        }
        Err(error) => {
            let chrome = place.chrome("Confirm it's you", &address(&place));
            confirm::ask(error, &request, chrome, "Save", address(&place), &posted)
        }
    }
}
