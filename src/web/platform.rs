//! The platform's own pages: tenants and users.

use actix_web::web::{self, Data, Query, ServiceConfig};
use askama::Template;
use jiff::tz::TimeZone;
use serde::Deserialize;

use super::error::WebError;
use super::figures::{count, counted};
use super::form::{Failure, Posted};
use super::page::{Answer, Chrome, Here, Page};
use super::time::{Times, When};
use super::viewer::Viewer;
use super::{Console, confirm, read};
use crate::access::policy::{self, Action};
use crate::domain::account::{PlatformRole, TenantState};
use crate::domain::plan::Plan;
use crate::services::platform::{MadeTenant, NewTenant, TENANTS_ON_A_PAGE, TenantLine};
use crate::services::{Problems, ServiceError};

pub fn routes(cfg: &mut ServiceConfig) {
    cfg.service(web::redirect("/platform", "/platform/tenants"))
        .service(web::resource("/platform/tenants").route(read().to(tenants)))
        .service(web::resource("/platform/tenants/new").route(read().to(new)).route(web::post().to(create)))
        .service(web::resource("/platform/users").route(read().to(users)));
}

fn times(console: &Console) -> Times {
    Times { now: console.services.clock.now(), zone: TimeZone::UTC }
}

#[derive(Template)]
#[template(path = "pages/platform/tenants.html")]
struct TenantsPage {
    chrome: Chrome,
    product: String,
    heading: String,
    q: String,
    rows: Vec<TenantRow>,
    /// Which of them are on this page, where there are several.
    range: Option<String>,
    earlier: Option<String>,
    later: Option<String>,
    /// Slug, name, and how many purchases wait for payment.
    waiting: Vec<(String, String, String)>,
}

struct TenantRow {
    slug: String,
    name: String,
    plan: String,
    mode: &'static str,
    active: bool,
    last_used: Option<When>,
    spent: String,
    created: When,
}

#[derive(Deserialize)]
#[serde(default)]
struct Search {
    q: String,
    page: i64,
}

impl Default for Search {
    fn default() -> Self {
        Self { q: String::new(), page: 1 }
    }
}

async fn tenants(console: Data<Console>, viewer: Viewer, search: Query<Search>) -> Answer {
    let Search { q, page } = search.into_inner();
    let q: String = q.trim().chars().take(80).collect();
    let page = page.clamp(1, 1_000_000);
    let services = &console.services;
    let (found, total) = services.tenants_page(&viewer.actor, &q, page).await?;
    let platform = services.directory.platform().await.map_err(ServiceError::from)?;
    let times = times(&console);
    let waiting = services.tenants_waiting(&viewer.actor).await?;
    let to = |page: i64| {
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("q", &q)
            .append_pair("page", &page.to_string())
            .finish();
        format!("/platform/tenants?{query}")
    };
    let first = (page - 1) * TENANTS_ON_A_PAGE + 1;
    let last = first - 1 + i64::try_from(found.len()).unwrap_or(i64::MAX);
    let shown = TenantsPage {
        chrome: Chrome::new(&viewer, &Here::Platform, "Tenants", "/platform/tenants"),
        product: services.options.product.clone(),
        heading: if q.is_empty() {
            counted(total, "tenant", "tenants")
        } else {
            format!("{} with “{q}”", counted(total, "tenant", "tenants"))
        },
        range: (total > TENANTS_ON_A_PAGE).then(|| format!("{} to {}", count(first), count(last))),
        earlier: (page > 1).then(|| to(page - 1)),
        later: (last < total && !found.is_empty()).then(|| to(page + 1)),
        q,
        waiting: waiting
            .into_iter()
            .map(|(slug, name, orders)| (slug, name, counted(orders, "purchase", "purchases")))
            .collect(),
        rows: found.into_iter().map(|line| row(line, &platform.plans, &times)).collect(),
    };
    Page::new(shown).answer()
}

fn row(line: TenantLine, plans: &[Plan], times: &Times) -> TenantRow {
    let tenant = line.record.tenant;
    let plan = plans.iter().find(|plan| plan.id == tenant.plan_id);
    TenantRow {
        slug: tenant.slug.to_string(),
        name: tenant.name,
        plan: plan.map_or_else(|| "Unknown".to_owned(), |plan| plan.name.clone()),
        mode: match line.record.policy.mode {
            crate::domain::billing::UsageMode::Byok => "Own key",
            crate::domain::billing::UsageMode::Managed => "Managed",
        },
        active: tenant.state == TenantState::Active,
        last_used: line.last_used.map(|at| times.day(at)),
        spent: line.spent.shown(),
        created: times.day(tenant.created_at),
    }
}

#[derive(Template)]
#[template(path = "pages/platform/new_tenant.html")]
struct NewTenantPage {
    chrome: Chrome,
    plans: Vec<Plan>,
    form: TenantForm,
    asks_password: bool,
    problems: Problems,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TenantForm {
    name: String,
    slug: String,
    plan: String,
    time_zone: String,
    admin_email: String,
}

async fn form_page(console: &Console, viewer: &Viewer, form: TenantForm) -> Result<NewTenantPage, WebError> {
    if !policy::permitted(&viewer.actor, Action::ManagePlatform, None) {
        return Err(WebError::Denied);
    }
    let platform = console.services.directory.platform().await.map_err(ServiceError::from)?;
    Ok(NewTenantPage {
        chrome: Chrome::new(viewer, &Here::Platform, "Add tenant", "/platform/tenants"),
        plans: platform.plans.clone(),
        form,
        asks_password: !viewer.actor.is_confirmed(console.services.clock.now()),
        problems: Problems::default(),
    })
}

async fn new(console: Data<Console>, viewer: Viewer) -> Answer {
    let form = TenantForm { time_zone: "UTC".to_owned(), ..TenantForm::default() };
    Page::new(form_page(&console, &viewer, form).await?).answer()
}

#[derive(Template)]
#[template(path = "pages/platform/made_tenant.html")]
struct MadeTenantPage {
    chrome: Chrome,
    name: String,
    slug: String,
    email: String,
    link: Option<String>,
}

async fn create(console: Data<Console>, mut viewer: Viewer, posted: Posted<TenantForm>) -> Answer {
    let form = posted.fields;
    let new = NewTenant {
        name: form.name.clone(),
        slug: form.slug.clone(),
        plan: form.plan.clone(),
        time_zone: form.time_zone.clone(),
        admin_email: Some(form.admin_email.clone()),
        first_key: None,
    };
    let made = confirm::act(&console, &mut viewer, posted.evidence, async |services, actor| {
        services.create_tenant(actor, new).await
    })
    .await;
    match made {
        // Answered at once: a redirect would have to carry the one-time link.
        Ok(MadeTenant { slug, link, .. }) => {
            let page = MadeTenantPage {
                chrome: Chrome::new(&viewer, &Here::Platform, form.name.trim(), "/platform/tenants"),
                name: form.name.trim().to_owned(),
                slug: slug.to_string(),
                email: form.admin_email.trim().to_lowercase(),
                link,
            };
            Page::new(page).answer()
        }
        Err(error) => {
            let failure = Failure::of(error)?;
            let mut page = form_page(&console, &viewer, form).await?;
            page.problems = failure.problems;
            Page::new(page).status(failure.status).retry_after(failure.retry_after).answer()
        }
    }
}

#[derive(Template)]
#[template(path = "pages/platform/users.html")]
struct UsersPage {
    chrome: Chrome,
    heading: String,
    rows: Vec<UserRow>,
}

struct UserRow {
    email: String,
    role: Option<&'static str>,
    disabled: Option<When>,
    created: When,
}

async fn users(console: Data<Console>, viewer: Viewer) -> Answer {
    let users = console.services.list_users(&viewer.actor).await?;
    let times = times(&console);
    let page = UsersPage {
        chrome: Chrome::new(&viewer, &Here::Platform, "Users", "/platform/users"),
        heading: counted(i64::try_from(users.len()).unwrap_or(i64::MAX), "user", "users"),
        rows: users
            .into_iter()
            .map(|user| UserRow {
                email: user.email,
                role: user.platform_role.map(PlatformRole::label),
                disabled: user.disabled_at.map(|at| times.when(at)),
                created: times.day(user.created_at),
            })
            .collect(),
    };
    Page::new(page).answer()
}
