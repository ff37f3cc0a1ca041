//! Billing → Compare: what thirty days cost, and what they would have cost paid otherwise.

use actix_web::web::Data;
use askama::Template;

use super::names::name_of;
use crate::domain::money::{Nanos, grouped};
use crate::domain::usage::Dimension;
use crate::services::ServiceError;
use crate::services::usage::Compared;
use crate::web::Console;
use crate::web::figures::count;
use crate::web::page::{Answer, Chrome, Page};
use crate::web::place::Place;

#[derive(Template)]
#[template(path = "pages/billing/compare.html")]
struct ComparePage {
    chrome: Chrome,
    billing: String,
    product: String,
    rows: Vec<Row>,
    total: Row,
    unpriced: bool,
    at_budget: Vec<BudgetRow>,
}

/// One request that uses all of its feature's token budget.
struct BudgetRow {
    name: String,
    model: String,
    tokens_in: String,
    tokens_out: String,
    own_key: String,
    managed: String,
}

struct Row {
    name: String,
    requests: String,
    /// As it was: at list price on own keys, and what was billed.
    was_own: String,
    billed: String,
    /// All of it paid in one way.
    own_key: String,
    managed: String,
}

pub async fn show(console: Data<Console>, place: Place) -> Answer {
    let services = &console.services;
    let tenant = &place.tenant()?.tenant;
    let compared = services
        .cost_comparison(&place.viewer.actor, &place.holder.scope, tenant, place.tenant()?.policy.rate)
        .await?;
    let platform = services.directory.platform().await.map_err(ServiceError::from)?;
    let product = &services.options.product;
    let sum = |of: fn(&Compared) -> i64| compared.iter().map(of).sum::<i64>();
    let at_budget = services.costs_at_budget(&place.viewer.actor, &place.holder.scope, tenant).await?;
    let shown = |amount: Option<Nanos>| amount.map_or_else(|| "no price".to_owned(), Nanos::shown);
    let page = ComparePage {
        at_budget: at_budget
            .into_iter()
            .map(|one| BudgetRow {
                model: one.feature.default_model.unwrap_or_default(),
                name: one.feature.name,
                tokens_in: grouped(one.budget.input),
                tokens_out: grouped(one.budget.output),
                own_key: shown(one.own_key),
                managed: shown(one.managed),
            })
            .collect(),
        chrome: place.chrome("Compare", &super::address(&place)),
        billing: super::address(&place),
        product: product.clone(),
        unpriced: compared.iter().any(|one| one.line.sum().unpriced > 0),
        total: Row {
            name: String::new(),
            requests: count(sum(|one| one.line.sum().requests)),
            was_own: Nanos(sum(|one| one.line.byok.cost)).shown(),
            billed: Nanos(sum(|one| one.line.managed.billed)).shown(),
            own_key: Nanos(sum(|one| one.own_key.0)).shown(),
            managed: Nanos(sum(|one| one.managed.0)).shown(),
        },
        rows: compared
            .iter()
            .map(|one| Row {
                name: name_of(&one.line.name, Dimension::Feature, &platform.features, product),
                requests: count(one.line.sum().requests),
                was_own: one.line.byok.cost().shown(),
                billed: Nanos(one.line.managed.billed).shown(),
                own_key: one.own_key.shown(),
                managed: one.managed.shown(),
            })
            .collect(),
    };
    Page::new(page).answer()
}
