//! Settings → Security: who may change the tenant's provider keys, what it takes to sign in, and when keys
//! are due for rotation.

use actix_web::HttpRequest;
use actix_web::web::{self, Data, ServiceConfig};
use askama::Template;
use serde::Deserialize;

use super::error::WebError;
use super::form::Posted;
use super::page::{Answer, Chrome, Page};
use super::place::Place;
use super::{Console, confirm, read};
use crate::access::policy::Action;
use crate::domain::account::{KeyChangers, ROTATION_CHOICES, SecondFactorRule};

pub fn routes(cfg: &mut ServiceConfig) {
    cfg.service(
        web::resource("/t/{tenant}/settings/security").route(read().to(show)).route(web::post().to(save)),
    )
    .service(web::resource("/t/{tenant}/settings/security/rotation").route(web::post().to(save_rotation)))
    .service(web::resource("/t/{tenant}/settings/security/second-factor").route(web::post().to(save_rule)));
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
    second_factor: bool,
    /// Days, what they are called, and whether they hold now.
    rotation: Vec<(i64, String, bool)>,
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
        second_factor: tenant.second_factor == SecondFactorRule::Required,
        rotation: ROTATION_CHOICES
            .into_iter()
            .map(|days| {
                let label = if days == 0 { "Never".to_owned() } else { format!("After {days} days") };
                (days, label, days == tenant.rotation_days)
            })
            .collect(),
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
    posted: Posted<SecurityForm>,
) -> Answer {
    let (form, posted) = posted.split();
    let to = KeyChangers::parse(&form.key_changers).ok_or(WebError::BadForm)?;
    let (tenant, scope, back) = (place.tenant()?.tenant.clone(), place.holder.scope, address(&place));
    let asking = (place.chrome("Confirm it's you", &back), "Save", back.as_str());
    confirm::press(&console, &mut place.viewer, &request, asking, posted, async |services, actor| {
        services.set_key_changers(actor, &scope, &tenant, to).await?;
        let who = match to {
            KeyChangers::Admins => "Admins and billing admins may change provider keys.",
            KeyChangers::SuperAdmins => "Only super admins may change provider keys now.",
        };
        Ok((true, who.to_owned()))
    })
    .await
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RuleForm {
    second_factor: String,
}

async fn save_rule(
    console: Data<Console>,
    mut place: Place,
    request: HttpRequest,
    posted: Posted<RuleForm>,
) -> Answer {
    let (form, posted) = posted.split();
    let to = SecondFactorRule::parse(&form.second_factor).ok_or(WebError::BadForm)?;
    let (tenant, scope, back) = (place.tenant()?.tenant.clone(), place.holder.scope, address(&place));
    let asking = (place.chrome("Confirm it's you", &back), "Save", back.as_str());
    confirm::press(&console, &mut place.viewer, &request, asking, posted, async |services, actor| {
        services.set_second_factor_rule(actor, &scope, &tenant, to).await?;
        let text = match to {
            SecondFactorRule::Required => "Whoever opens these pages needs a second factor from now on.",
            SecondFactorRule::Optional => "A password alone is enough now.",
        };
        Ok((true, text.to_owned()))
    })
    .await
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RotationForm {
    days: String,
}

async fn save_rotation(
    console: Data<Console>,
    mut place: Place,
    request: HttpRequest,
    posted: Posted<RotationForm>,
) -> Answer {
    let (form, posted) = posted.split();
    let days = form.days.parse().map_err(|_| WebError::BadForm)?;
    let (tenant, scope, back) = (place.tenant()?.tenant.clone(), place.holder.scope, address(&place));
    let asking = (place.chrome("Confirm it's you", &back), "Save", back.as_str());
    confirm::press(&console, &mut place.viewer, &request, asking, posted, async |services, actor| {
        services.set_rotation_days(actor, &scope, &tenant, days).await?;
        Ok((true, "Saved.".to_owned()))
    })
    .await
}
