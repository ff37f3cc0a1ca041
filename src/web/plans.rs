//! Platform → Plans: what each plan includes, which models it offers, and what it costs.

use std::collections::BTreeSet;

use actix_web::HttpRequest;
use actix_web::web::{self, Data, Path, Query, ServiceConfig};
use askama::Template;
use serde::Deserialize;

use super::error::WebError;
use super::figures::counted;
use super::form::{Failure, Posted};
use super::matrix::MatrixForm;
use super::page::{Answer, Chrome, Here, Page, see_other};
use super::viewer::Viewer;
use super::{Console, confirm, read, session};
use crate::domain::price_list;
use crate::services::statements::TypedTerms;
use crate::services::{Problems, ServiceError};

const PLANS: &str = "/platform/plans";

pub fn routes(cfg: &mut ServiceConfig) {
    cfg.service(web::resource("/platform/plans").route(read().to(show)).route(web::post().to(save_terms)))
        .service(web::resource("/platform/plans/new").route(web::post().to(add)))
        .service(web::resource("/platform/plans/{slug}/models").route(web::post().to(save_plan)))
        .service(web::resource("/platform/plans/{slug}/remove").route(web::post().to(remove)));
}

#[derive(Template)]
#[template(path = "pages/platform/plans.html")]
struct PlansPage {
    chrome: Chrome,
    rows: Vec<Row>,
    matrix: MatrixForm,
    edited: Option<Edited>,
    form: TermsForm,
    new: NewForm,
    asks_password: bool,
    problems: Problems,
}

struct Row {
    slug: String,
    name: String,
    tenants: i64,
    subscription: String,
    included: i64,
    endpoint_fee: String,
    byok: String,
}

/// The plan that is being changed.
struct Edited {
    slug: String,
    name: String,
    makers: Vec<Maker>,
    /// Where its tenants could go: slug and name.
    others: Vec<(String, String)>,
    tenants: i64,
    tenants_told: String,
}

/// Whoever makes models, and those that the plan could offer.
struct Maker {
    name: &'static str,
    models: Vec<Offer>,
}

struct Offer {
    id: &'static str,
    name: &'static str,
    on: bool,
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

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct NewForm {
    name: String,
    slug: String,
    like: String,
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

async fn page(console: &Console, viewer: &Viewer, edit: Option<&str>) -> Result<PlansPage, WebError> {
    let all = console.services.list_plan_terms(&viewer.actor).await?;
    let matrix = console.services.plan_matrix(&viewer.actor).await?;
    let on = |slug: &str| matrix.plans.iter().find(|(plan, _)| plan.slug == slug).map_or(0, |(_, on)| *on);
    let edited = all.iter().find(|(plan, _)| Some(plan.slug.as_str()) == edit);
    if edit.is_some() && edited.is_none() {
        return Err(WebError::NotFound);
    }
    let form = edited.map(|(plan, terms)| TermsForm {
        plan: plan.slug.clone(),
        subscription: terms.subscription.typed(),
        endpoints_included: terms.endpoints_included.to_string(),
        endpoint_fee: terms.endpoint_fee.typed(),
        byok_percent: percent(terms.byok_permille),
    });
    Ok(PlansPage {
        chrome: Chrome::new(viewer, &Here::Platform, "Plans", PLANS),
        edited: edited.map(|(plan, _)| Edited {
            slug: plan.slug.clone(),
            name: plan.name.clone(),
            makers: makers(&plan.models),
            others: all
                .iter()
                .filter(|(other, _)| other.id != plan.id)
                .map(|(other, _)| (other.slug.clone(), other.name.clone()))
                .collect(),
            tenants: on(&plan.slug),
            tenants_told: counted(on(&plan.slug), "tenant", "tenants"),
        }),
        rows: all
            .iter()
            .map(|(plan, terms)| Row {
                slug: plan.slug.clone(),
                name: plan.name.clone(),
                tenants: on(&plan.slug),
                subscription: terms.subscription.dollars(),
                included: terms.endpoints_included,
                endpoint_fee: terms.endpoint_fee.dollars(),
                byok: format!("{}%", percent(terms.byok_permille)),
            })
            .collect(),
        matrix: MatrixForm::of(&matrix),
        form: form.unwrap_or_default(),
        new: NewForm::default(),
        asks_password: !viewer.actor.is_confirmed(console.services.clock.now()),
        problems: Problems::default(),
    })
}

fn makers(chosen: &BTreeSet<String>) -> Vec<Maker> {
    let mut makers: Vec<Maker> = Vec::new();
    for model in price_list::models().iter().filter(|model| model.max_output > 0) {
        let name = model.maker().label();
        let on = chosen.contains(&model.id);
        let line = Offer { id: &model.id, name: &model.name, on };
        match makers.iter_mut().find(|maker| maker.name == name) {
            Some(maker) => maker.models.push(line),
            None => makers.push(Maker { name, models: vec![line] }),
        }
    }
    makers
}

async fn show(console: Data<Console>, viewer: Viewer, asked: Query<Asked>) -> Answer {
    Page::new(page(&console, &viewer, asked.edit.as_deref()).await?).answer()
}

async fn save_terms(console: Data<Console>, mut viewer: Viewer, posted: Posted<TermsForm>) -> Answer {
    let form = posted.fields;
    let typed = TypedTerms {
        subscription: form.subscription.clone(),
        endpoints_included: form.endpoints_included.clone(),
        endpoint_fee: form.endpoint_fee.clone(),
        byok_percent: form.byok_percent.clone(),
    };
    let saved = confirm::act(&console, &mut viewer, posted.evidence, async |services, actor| {
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
            Ok(see_other(PLANS))
        }
        Err(error) => {
            let plan = form.plan.clone();
            let page = PlansPage { form, ..page(&console, &viewer, Some(&plan)).await? };
            failed(page, error)
        }
    }
}

async fn add(console: Data<Console>, mut viewer: Viewer, posted: Posted<NewForm>) -> Answer {
    let form = posted.fields;
    let added = confirm::act(&console, &mut viewer, posted.evidence, async |services, actor| {
        services.add_plan(actor, &form.slug, &form.name, &form.like).await
    })
    .await;
    match added {
        Ok(()) => {
            session::notify(&viewer.session, true, format!("Plan {} added.", form.name.trim()));
            Ok(see_other(&format!("{PLANS}?edit={}", form.slug.trim())))
        }
        Err(error) => {
            let page = PlansPage { new: form, ..page(&console, &viewer, None).await? };
            failed(page, error)
        }
    }
}

fn failed(mut page: PlansPage, error: ServiceError) -> Answer {
    let failure = Failure::of(error)?;
    page.problems = failure.problems;
    Page::new(page).status(failure.status).retry_after(failure.retry_after).answer()
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PlanForm {
    name: String,
    model: Vec<String>,
}

async fn save_plan(
    console: Data<Console>,
    mut viewer: Viewer,
    request: HttpRequest,
    slug: Path<String>,
    posted: Posted<PlanForm>,
) -> Answer {
    let (form, posted) = posted.split();
    let models: BTreeSet<String> = form.model.into_iter().collect();
    let back = format!("{PLANS}?edit={slug}");
    let chrome = Chrome::new(&viewer, &Here::Platform, "Confirm it's you", PLANS);
    let asking = (chrome, "Save plan", back.as_str());
    confirm::press(&console, &mut viewer, &request, asking, posted, async |services, actor| {
        services.save_plan(actor, &slug, &form.name, &models).await?;
        Ok((true, "Plan saved.".to_owned()))
    })
    .await
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RemoveForm {
    to: String,
}

async fn remove(
    console: Data<Console>,
    mut viewer: Viewer,
    request: HttpRequest,
    slug: Path<String>,
    posted: Posted<RemoveForm>,
) -> Answer {
    let (form, posted) = posted.split();
    let chrome = Chrome::new(&viewer, &Here::Platform, "Confirm it's you", PLANS);
    let asking = (chrome, "Remove plan", PLANS);
    confirm::press(&console, &mut viewer, &request, asking, posted, async |services, actor| {
        let moved = services.remove_plan(actor, &slug, &form.to).await?;
        let moved = i64::try_from(moved).unwrap_or(i64::MAX);
        let told = match moved {
            0 => String::new(),
            _ => format!(" {} moved.", counted(moved, "tenant", "tenants")),
        };
        Ok((true, format!("Plan {slug} removed.{told}")))
    })
    .await
}
