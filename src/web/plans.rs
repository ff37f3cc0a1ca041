//! Platform → Plans: what each plan costs.

use actix_web::web::{self, Data, Query, ServiceConfig};
use askama::Template;
use serde::Deserialize;

use super::error::WebError;
use super::form::{Failure, Posted};
use super::page::{Answer, Chrome, Here, Page, see_other};
use super::viewer::Viewer;
use super::{Console, confirm, read, session};
use crate::services::Problems;
use crate::services::statements::TypedTerms;

pub fn routes(cfg: &mut ServiceConfig) {
    cfg.service(web::resource("/platform/plans").route(read().to(show)).route(web::post().to(save)));
}

#[derive(Template)]
#[template(path = "pages/platform/plans.html")]
struct PlansPage {
    chrome: Chrome,
    rows: Vec<Row>,
    /// The plan that is being changed.
    name: Option<String>,
    form: TermsForm,
    asks_password: bool,
    problems: Problems,
}

struct Row {
    slug: String,
    name: String,
    subscription: String,
    included: i64,
    endpoint_fee: String,
    byok: String,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TermsForm {
    plan: String,
    subscription: String,
    endpoints_included: String,
    endpoint_fee: String,
    byok_percent: String,
}

#[derive(Deserialize)]
struct Asked {
    edit: Option<String>,
}

fn percent(permille: i64) -> String {
    if permille % 10 == 0 {
        (permille / 10).to_string()
    } else {
        format!("{}.{}", permille / 10, permille % 10)
    }
}

async fn page(
    console: &Console,
    viewer: &Viewer,
    edit: Option<&str>,
    form: Option<TermsForm>,
) -> Result<PlansPage, WebError> {
    let all = console.services.list_plan_terms(&viewer.actor).await?;
    let edited = all.iter().find(|(plan, _)| Some(plan.slug.as_str()) == edit);
    let fresh = edited.map(|(plan, terms)| TermsForm {
        plan: plan.slug.clone(),
        subscription: terms.subscription.typed(),
        endpoints_included: terms.endpoints_included.to_string(),
        endpoint_fee: terms.endpoint_fee.typed(),
        byok_percent: percent(terms.byok_permille),
    });
    Ok(PlansPage {
        chrome: Chrome::new(viewer, &Here::Platform, "Plans", "/platform/plans"),
        name: edited.map(|(plan, _)| plan.name.clone()),
        rows: all
            .iter()
            .map(|(plan, terms)| Row {
                slug: plan.slug.clone(),
                name: plan.name.clone(),
                subscription: terms.subscription.dollars(),
                included: terms.endpoints_included,
                endpoint_fee: terms.endpoint_fee.dollars(),
                byok: format!("{}%", percent(terms.byok_permille)),
            })
            .collect(),
        form: form.or(fresh).unwrap_or_default(),
        asks_password: !viewer.actor.is_confirmed(console.services.clock.now()),
        problems: Problems::default(),
    })
}

async fn show(console: Data<Console>, viewer: Viewer, asked: Query<Asked>) -> Answer {
    Page::new(page(&console, &viewer, asked.edit.as_deref(), None).await?).answer()
}

async fn save(console: Data<Console>, mut viewer: Viewer, posted: Posted<TermsForm>) -> Answer {
    let form = posted.fields;
    let typed = TypedTerms {
        subscription: form.subscription.clone(),
        endpoints_included: form.endpoints_included.clone(),
        endpoint_fee: form.endpoint_fee.clone(),
        byok_percent: form.byok_percent.clone(),
    };
    let saved = confirm::act(&console, &mut viewer, posted.current_password, async |services, actor| {
        services.set_plan_terms(actor, &form.plan, &typed).await
    })
    .await;
    match saved {
        Ok(()) => {
            session::notify(
                &viewer.session,
                true,
                "Plan saved. It holds for the running month; closed months stay as they are.",
            );
            Ok(see_other("/platform/plans"))
        }
        Err(error) => {
            let failure = Failure::of(error)?;
            let plan = form.plan.clone();
            let mut page = page(&console, &viewer, Some(&plan), Some(form)).await?;
            page.problems = failure.problems;
            Page::new(page).status(failure.status).retry_after(failure.retry_after).answer()
        }
    }
}
