//! What every page is made of: its template, its status, and the frame around it.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{LOCATION, RETRY_AFTER};
use askama::Template;

use super::error::WebError;
use super::session::Notice;
use super::viewer::Viewer;
use super::{assets, session, time};
use crate::access::policy::{self, About, Action};
use crate::domain::account::{PlatformRole, Ways};
use crate::domain::clock::{Moment, SECOND};
use crate::domain::viewing::Viewing;
use crate::services::directory::TenantView;

/// What a handler gives.
pub type Answer = Result<HttpResponse, WebError>;

/// A template on its way out.
pub struct Page<T> {
    template: T,
    status: StatusCode,
    retry_after: Option<i64>,
}

impl<T: Template> Page<T> {
    pub fn new(template: T) -> Self {
        Self { template, status: StatusCode::OK, retry_after: None }
    }

    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Seconds after which the same request may be tried again.
    pub fn retry_after(mut self, seconds: Option<i64>) -> Self {
        self.retry_after = seconds;
        self
    }

    pub fn answer(self) -> Answer {
        let html = self.template.render().map_err(WebError::internal)?;
        let mut answer = HttpResponse::build(self.status);
        if let Some(seconds) = self.retry_after {
            answer.insert_header((RETRY_AFTER, seconds));
        }
        Ok(answer.content_type("text/html; charset=utf-8").body(html))
    }
}

/// After a change: look at the result with a request of its own.
pub fn see_other(path: &str) -> HttpResponse {
    HttpResponse::SeeOther().insert_header((LOCATION, path)).finish()
}

/// A link of the navigation.
pub struct NavItem {
    pub href: String,
    pub label: &'static str,
    pub current: bool,
}

pub struct NavSection {
    pub title: &'static str,
    pub items: Vec<NavItem>,
}

/// The tenant in the rail.
pub struct Badge {
    pub name: String,
    pub detail: String,
}

/// A tenant that the viewer could look at in place of this one.
pub struct Switch {
    pub href: String,
    pub name: String,
    pub role: &'static str,
    pub current: bool,
}

/// Where in the console a page is.
pub enum Here<'a> {
    Tenant(&'a TenantView),
    Platform,
    Account,
}

/// The frame around a page for somebody who is signed in. Every full page has one, so a page that
/// forgets it does not compile.
pub struct Chrome {
    pub title: String,
    pub assets: &'static str,
    pub email: String,
    pub role: String,
    pub csrf: String,
    /// How the viewer can show that it is them.
    pub ways: Ways,
    pub badge: Option<Badge>,
    pub switches: Vec<Switch>,
    pub all_tenants: bool,
    pub nav: Vec<NavSection>,
    pub notice: Option<Notice>,
    /// Over every page while somebody looks at a tenant as one of its people.
    pub bar: Option<Bar>,
}

/// Who is viewed by whom, why, and until when.
pub struct Bar {
    pub tenant: String,
    pub viewed: String,
    pub viewer: String,
    pub ends: String,
    pub reason: String,
    pub ticket: String,
    pub csrf: String,
}

impl Bar {
    pub fn of(viewing: &Viewing, tenant: &str, csrf: &str, now: Moment) -> Self {
        Self {
            tenant: tenant.to_owned(),
            viewed: viewing.viewed.clone(),
            viewer: viewing.viewer.clone(),
            ends: time::span(viewing.ends_at.since(now) / SECOND),
            reason: viewing.reason.clone(),
            ticket: viewing.ticket.clone(),
            csrf: csrf.to_owned(),
        }
    }
}

impl Chrome {
    /// `current` is the address of the navigation's item that the page belongs to.
    pub fn new(viewer: &Viewer, here: &Here<'_>, title: &str, current: &str) -> Self {
        let actor = &viewer.actor;
        let view = match here {
            Here::Tenant(view) => Some(*view),
            Here::Platform | Here::Account => None,
        };
        let title = match (here, view) {
            (_, Some(view)) => format!("{title} · {} · Keyward", view.tenant.name),
            (Here::Platform, _) => format!("{title} · Platform · Keyward"),
            _ => format!("{title} · Keyward"),
        };
        let role = match (view.and_then(|view| actor.role_in(view.tenant.id)), actor.platform_role) {
            (Some(role), _) if viewer.viewing.is_some() => format!("Viewing as {}", role.label()),
            (Some(role), _) => role.label().to_owned(),
            (None, Some(role)) => role.label().to_owned(),
            (None, None) => match viewer.person.memberships.as_slice() {
                [] => "No role yet".to_owned(),
                [only] => only.role.label().to_owned(),
                several => format!("In {} tenants", several.len()),
            },
        };
        let switches = switches(viewer, view);
        Self {
            title,
            assets: assets::base(),
            email: actor.email.clone(),
            role,
            csrf: viewer.csrf.clone(),
            ways: viewer.person.user.ways,
            badge: view.map(|view| Badge {
                name: view.tenant.name.clone(),
                detail: format!("{} plan", view.plan.name),
            }),
            all_tenants: actor.is_super_admin() && !switches.is_empty(),
            switches,
            nav: navigation(viewer, view, current),
            notice: session::take_notice(&viewer.session),
            bar: viewer.bar(),
        }
    }
}

/// The viewer's own tenants, when there is another one to go to.
fn switches(viewer: &Viewer, view: Option<&TenantView>) -> Vec<Switch> {
    let all: Vec<Switch> = viewer
        .person
        .memberships
        .iter()
        .map(|membership| Switch {
            href: format!("/t/{}/settings/api-keys", membership.tenant_slug),
            name: membership.tenant_name.clone(),
            role: membership.role.label(),
            current: view.is_some_and(|view| view.tenant.id == membership.tenant_id),
        })
        .collect();
    if all.iter().any(|switch| !switch.current) { all } else { Vec::new() }
}

fn navigation(viewer: &Viewer, view: Option<&TenantView>, current: &str) -> Vec<NavSection> {
    let item = |href: String, label| NavItem { current: href == current, href, label };
    let mut sections = Vec::new();
    // On a page that belongs to no tenant, the way back into one's only tenant.
    let home = match (view, viewer.person.memberships.as_slice()) {
        (None, [only]) => Some((only.tenant_slug.as_str(), only.tenant_id, None)),
        (Some(view), _) => Some((view.tenant.slug.as_str(), view.tenant.id, Some(view))),
        (None, _) => None,
    };
    if let Some((slug, tenant, view)) = home {
        let key_changers =
            view.map_or(crate::domain::account::KeyChangers::Admins, |view| view.tenant.key_changers);
        let may = |action| policy::permitted(&viewer.actor, action, Some(About { tenant, key_changers }));
        let mut settings = vec![
            item(format!("/t/{slug}/settings/api-keys"), "API keys"),
            item(format!("/t/{slug}/settings/ai"), "AI features"),
        ];
        if may(Action::ManageTokens) {
            settings.push(item(format!("/t/{slug}/settings/tokens"), "Access tokens"));
        }
        if may(Action::ManageMembers) {
            settings.push(item(format!("/t/{slug}/settings/members"), "Members"));
            settings.push(item(format!("/t/{slug}/settings/single-sign-on"), "Single sign-on"));
        }
        if may(Action::SeeKeyDetails) {
            settings.push(item(format!("/t/{slug}/settings/notifications"), "Webhooks and e-mail"));
            settings.push(item(format!("/t/{slug}/settings/security"), "Security"));
        }
        if may(Action::SeeAudit) {
            settings.push(item(format!("/t/{slug}/settings/support-access"), "Support access"));
        }
        sections.push(NavSection { title: "Settings", items: settings });
        let mut billing = vec![item(format!("/t/{slug}/billing"), "Plan and usage")];
        if may(Action::SeeUsage) {
            billing.push(item(format!("/t/{slug}/billing/usage"), "Usage"));
            billing.push(item(format!("/t/{slug}/billing/budgets"), "Budgets"));
            billing.push(item(format!("/t/{slug}/billing/credits"), "Credits"));
            billing.push(item(format!("/t/{slug}/billing/statements"), "Statements"));
        }
        sections.push(NavSection { title: "Billing", items: billing });
        let mut activity = vec![
            item(format!("/t/{slug}/activity/community-manager"), "Community manager"),
            item(format!("/t/{slug}/activity/questions"), "Unanswered questions"),
        ];
        if may(Action::SeeUsage) {
            activity.push(item(format!("/t/{slug}/activity/notifications"), "Notifications"));
        }
        if may(Action::SeeBillingAudit) {
            activity.push(item(format!("/t/{slug}/activity/audit"), "Audit log"));
        }
        sections.push(NavSection { title: "Activity", items: activity });
    }
    if viewer.actor.platform_role == Some(PlatformRole::Support) {
        let items = vec![item("/platform/viewing".to_owned(), "View a tenant")];
        sections.push(NavSection { title: "Support", items });
    }
    if viewer.actor.is_super_admin() {
        sections.push(NavSection {
            title: "Platform",
            items: vec![
                item("/platform/tenants".to_owned(), "Tenants"),
                item("/platform/plans".to_owned(), "Plans"),
                item("/platform/features".to_owned(), "Features"),
                item("/platform/prices".to_owned(), "Prices"),
                item("/platform/users".to_owned(), "Users"),
                item("/platform/shared-keys".to_owned(), "Shared keys"),
                item("/platform/reconciliation".to_owned(), "Reconciliation"),
                item("/platform/tokens".to_owned(), "Service tokens"),
                item("/platform/viewing".to_owned(), "View a tenant"),
                item("/platform/audit".to_owned(), "Audit log"),
                item("/platform/status".to_owned(), "Status"),
            ],
        });
    }
    sections
}
