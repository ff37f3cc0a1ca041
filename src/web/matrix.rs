//! Platform → Plans: the matrix of plans and features. What a change would do is shown before it is saved.

use std::collections::BTreeSet;

use actix_web::HttpRequest;
use actix_web::web::{self, Data, ServiceConfig};
use askama::Template;
use serde::Deserialize;

use super::figures::counted;
use super::form::Posted;
use super::page::{Answer, Chrome, Here, Page, see_other};
use super::viewer::Viewer;
use super::{Console, confirm, session};
use crate::services::ServiceError;
use crate::services::plans::{Cell, Matrix, MatrixChange};

const PLANS: &str = "/platform/plans";

pub fn routes(cfg: &mut ServiceConfig) {
    cfg.service(web::resource("/platform/plans/matrix").route(web::post().to(save)));
}

/// The matrix as the page of plans shows it.
pub struct MatrixForm {
    pub plans: Vec<(String, String)>,
    pub rows: Vec<MatrixRow>,
    pub seen: String,
}

pub struct MatrixRow {
    pub name: String,
    pub slug: String,
    pub cells: Vec<MatrixCell>,
}

pub struct MatrixCell {
    /// `plan/feature`.
    pub value: String,
    pub label: String,
    pub on: bool,
}

impl MatrixForm {
    pub fn of(matrix: &Matrix) -> Self {
        let plans = matrix
            .plans
            .iter()
            .map(|(plan, tenants)| (plan.name.clone(), counted(*tenants, "tenant", "tenants")));
        let rows = matrix.features.iter().map(|feature| MatrixRow {
            name: feature.name.clone(),
            slug: feature.slug.clone(),
            cells: matrix
                .plans
                .iter()
                .map(|(plan, _)| MatrixCell {
                    value: format!("{}/{}", plan.slug, feature.slug),
                    label: format!("{} includes {}", plan.name, feature.name),
                    on: plan.features.contains(&feature.slug),
                })
                .collect(),
        });
        Self { plans: plans.collect(), rows: rows.collect(), seen: matrix.seen.clone() }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Asked {
    seen: String,
    cell: Vec<String>,
    /// Sent by the page that shows what would change.
    save: Option<String>,
}

#[derive(Template)]
#[template(path = "pages/platform/plans_preview.html")]
struct PreviewPage {
    chrome: Chrome,
    lines: Vec<Line>,
    seen: String,
    cells: Vec<String>,
}

struct Line {
    sentence: String,
    whom: String,
    opens: bool,
}

async fn save(
    console: Data<Console>,
    mut viewer: Viewer,
    request: HttpRequest,
    posted: Posted<Asked>,
) -> Answer {
    let (asked, posted) = posted.split();
    let wanted: BTreeSet<Cell> = asked
        .cell
        .iter()
        .filter_map(|cell| cell.split_once('/'))
        .map(|(plan, feature)| (plan.to_owned(), feature.to_owned()))
        .collect();
    let chrome = Chrome::new(&viewer, &Here::Platform, "Plans", PLANS);
    if asked.save.is_some() {
        let asking = (chrome, "Save changes", PLANS);
        return confirm::press(&console, &mut viewer, &request, asking, posted, async |services, actor| {
            let changed = services.save_matrix(actor, &wanted, &asked.seen).await?;
            let changed = i64::try_from(changed).unwrap_or(i64::MAX);
            Ok((true, format!("Saved: {}.", counted(changed, "change", "changes"))))
        })
        .await;
    }
    let changes = match console.services.judge_matrix(&viewer.actor, &wanted, &asked.seen).await {
        Err(ServiceError::Conflict(message)) => {
            session::notify(&viewer.session, false, message);
            return Ok(see_other(PLANS));
        }
        changes => changes?,
    };
    if changes.is_empty() {
        session::notify(&viewer.session, true, "Nothing would change.");
        return Ok(see_other(PLANS));
    }
    Page::new(PreviewPage {
        chrome,
        lines: changes.iter().map(line).collect(),
        seen: asked.seen,
        cells: asked.cell,
    })
    .answer()
}

fn line(change: &MatrixChange) -> Line {
    let (plan, feature) = (&change.plan.name, &change.feature.name);
    let tenants = counted(change.tenants, "tenant", "tenants");
    if change.included {
        let sentence = format!("{plan} gains {feature}.");
        let whom = match change.tenants {
            0 => "Nobody is on it.".to_owned(),
            1 => "Opens for 1 tenant.".to_owned(),
            _ => format!("Opens for {tenants}."),
        };
        return Line { sentence, whom, opens: true };
    }
    let whom = match (change.tenants, change.using) {
        (0, _) => "Nobody is on it.".to_owned(),
        (_, 0) => format!("Closes for {tenants}; none used it in the last 30 days."),
        (_, using) => format!("Closes for {tenants}, {using} of which used it in the last 30 days."),
    };
    Line { sentence: format!("{plan} loses {feature}."), whom, opens: false }
}
