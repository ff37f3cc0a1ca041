//! The start page, which is wherever the viewer's work is, and the addresses under which
//! operators' products link to it.

use actix_web::web::{self, ServiceConfig};

use super::page::{Answer, see_other};
use super::read;
use super::viewer::Viewer;
use crate::domain::account::PlatformRole;

pub fn routes(cfg: &mut ServiceConfig) {
    cfg.service(web::resource("/").route(read().to(home)))
        .service(web::resource("/admin/ai").route(read().to(features)))
        .service(web::resource("/admin/config").route(read().to(features)))
        .service(web::resource("/admin/community-manager").route(read().to(community)))
        .service(web::resource("/t/{tenant}").route(read().to(tenant)));
}

async fn home(viewer: Viewer) -> Answer {
    Ok(see_other(&of(&viewer)))
}

async fn features(viewer: Viewer) -> Answer {
    own(viewer, "settings/ai").await
}

async fn community(viewer: Viewer) -> Answer {
    own(viewer, "activity/community-manager").await
}

/// A page of the viewer's own tenant.
async fn own(viewer: Viewer, page: &str) -> Answer {
    match viewer.person.memberships.first() {
        Some(place) => Ok(see_other(&format!("/t/{}/{page}", place.tenant_slug))),
        None => home(viewer).await,
    }
}

async fn tenant(place: super::place::Place) -> Answer {
    Ok(see_other(&format!("{}/settings/api-keys", place.root())))
}

/// Where a person begins.
pub fn of(viewer: &Viewer) -> String {
    address(
        viewer.person.memberships.first().map(|place| place.tenant_slug.as_str()),
        viewer.actor.platform_role,
    )
}

/// As `of`, for somebody who signs in just now.
pub fn address(tenant: Option<&str>, role: Option<PlatformRole>) -> String {
    match (tenant, role) {
        (Some(slug), _) => format!("/t/{slug}/settings/api-keys"),
        (None, Some(PlatformRole::SuperAdmin)) => "/platform/tenants".to_owned(),
        (None, Some(PlatformRole::Support)) => "/platform/viewing".to_owned(),
        (None, None) => "/account".to_owned(),
    }
}
