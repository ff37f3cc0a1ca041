//! Platform → Features: what the operator's product can do with AI, and the switches for everybody.

use actix_web::HttpRequest;
use actix_web::web::{self, Data, Query, ServiceConfig};
use askama::Template;
use serde::Deserialize;

use super::error::WebError;
use super::form::{Failure, Posted};
use super::page::{Answer, Chrome, Here, Page, see_other};
use super::viewer::Viewer;
use super::{Console, confirm, read, session};
use crate::domain::plan::Feature;
use crate::domain::price_list;
use crate::services::catalog::TypedFeature;
use crate::services::{Problems, ServiceError};

const FEATURES: &str = "/platform/features";

pub fn routes(cfg: &mut ServiceConfig) {
    cfg.service(web::resource("/platform/features").route(read().to(show)).route(web::post().to(save)))
        .service(web::resource("/platform/features/switch").route(web::post().to(switch)));
}

#[derive(Template)]
#[template(path = "pages/platform/features.html")]
struct CatalogPage {
    chrome: Chrome,
    rows: Vec<Row>,
    switches: Vec<SwitchRow>,
    /// The slug of the feature that is being changed; `None` adds one.
    edit: Option<String>,
    form: FeatureForm,
    models: Vec<(&'static str, &'static str)>,
    asks_password: bool,
    problems: Problems,
}

struct Row {
    feature: Feature,
    plans: String,
}

struct SwitchRow {
    name: String,
    features: String,
    on: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct FeatureForm {
    /// The feature that is changed; empty for a new one.
    was: String,
    slug: String,
    name: String,
    description: String,
    covered: bool,
    default_model: String,
    switch: String,
    budget_input: String,
    budget_output: String,
}

#[derive(Deserialize)]
struct Asked {
    edit: Option<String>,
}

async fn page(console: &Console, viewer: &Viewer, edit: Option<String>) -> Result<CatalogPage, WebError> {
    let services = &console.services;
    let matrix = services.plan_matrix(&viewer.actor).await?;
    let platform = services.directory.platform().await.map_err(ServiceError::from)?;
    let edited = matrix.features.iter().find(|feature| Some(&feature.slug) == edit.as_ref());
    if edit.is_some() && edited.is_none() {
        return Err(WebError::NotFound);
    }
    let form = edited.map(|feature| FeatureForm {
        was: feature.slug.clone(),
        slug: feature.slug.clone(),
        name: feature.name.clone(),
        description: feature.description.clone(),
        covered: feature.covered,
        default_model: feature.default_model.clone().unwrap_or_default(),
        switch: feature.switch.clone(),
        budget_input: feature.budget.map(|budget| budget.input.to_string()).unwrap_or_default(),
        budget_output: feature.budget.map(|budget| budget.output.to_string()).unwrap_or_default(),
    });
    let mut switches: Vec<SwitchRow> = Vec::new();
    for feature in &matrix.features {
        match switches.iter_mut().find(|row| row.name == feature.switch) {
            Some(row) => row.features = format!("{}, {}", row.features, feature.name),
            None => switches.push(SwitchRow {
                on: !platform.switched_off.contains(&feature.switch),
                name: feature.switch.clone(),
                features: feature.name.clone(),
            }),
        }
    }
    let plans_with = |feature: &Feature| {
        let plans = matrix.plans.iter().filter(|(plan, _)| plan.includes(&feature.slug));
        let names: Vec<&str> = plans.map(|(plan, _)| plan.name.as_str()).collect();
        if names.is_empty() { "No plan".to_owned() } else { names.join(", ") }
    };
    Ok(CatalogPage {
        chrome: Chrome::new(viewer, &Here::Platform, "Features", FEATURES),
        rows: matrix
            .features
            .iter()
            .map(|feature| Row { plans: plans_with(feature), feature: feature.clone() })
            .collect(),
        switches,
        edit,
        form: form.unwrap_or_else(|| FeatureForm { covered: true, ..FeatureForm::default() }),
        models: price_list::models()
            .iter()
            .filter(|model| model.max_output > 0)
            .map(|model| (model.id.as_str(), model.name.as_str()))
            .collect(),
        asks_password: !viewer.actor.is_confirmed(services.clock.now()),
        problems: Problems::default(),
    })
}

async fn show(console: Data<Console>, viewer: Viewer, asked: Query<Asked>) -> Answer {
    Page::new(page(&console, &viewer, asked.into_inner().edit).await?).answer()
}

async fn save(console: Data<Console>, mut viewer: Viewer, posted: Posted<FeatureForm>) -> Answer {
    let form = posted.fields;
    let typed = TypedFeature {
        slug: form.slug.clone(),
        name: form.name.clone(),
        description: form.description.clone(),
        covered: form.covered,
        default_model: form.default_model.clone(),
        switch: form.switch.clone(),
        budget_input: form.budget_input.clone(),
        budget_output: form.budget_output.clone(),
    };
    let was = Some(form.was.clone()).filter(|was| !was.is_empty());
    let saved = confirm::act(&console, &mut viewer, posted.evidence, async |services, actor| {
        services.save_feature(actor, was.as_deref(), &typed).await
    })
    .await;
    match saved {
        Ok(()) => {
            let text = match was {
                Some(_) => format!("{} saved.", form.name.trim()),
                None => format!("{} added. No plan includes it yet.", form.name.trim()),
            };
            session::notify(&viewer.session, true, text);
            Ok(see_other(FEATURES))
        }
        Err(error) => {
            let failure = Failure::of(error)?;
            let mut page = page(&console, &viewer, was).await?;
            page.form = form;
            page.problems = failure.problems;
            Page::new(page).status(failure.status).retry_after(failure.retry_after).answer()
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SwitchForm {
    switch: String,
    on: bool,
}

async fn switch(
    console: Data<Console>,
    mut viewer: Viewer,
    request: HttpRequest,
    posted: Posted<SwitchForm>,
) -> Answer {
    let (SwitchForm { switch, on }, posted) = posted.split();
    let chrome = Chrome::new(&viewer, &Here::Platform, "Confirm it's you", FEATURES);
    let asking = (chrome, "Switch", FEATURES);
    confirm::press(&console, &mut viewer, &request, asking, posted, async |services, actor| {
        services.switch_for_all(actor, &switch, on).await?;
        let now = if on { "on" } else { "off for all accounts: its features are refused" };
        Ok((true, format!("{switch} is {now}.")))
    })
    .await
}
