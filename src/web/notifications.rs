//! Activity → Notifications: what happened to keys, budgets and credits, newest first.

use actix_web::web::{self, Data, ServiceConfig};
use askama::Template;

use super::page::{Answer, Chrome, Page};
use super::place::Place;
use super::time::When;
use super::{Console, read};
use crate::domain::notice::NoticeKind;

pub fn routes(cfg: &mut ServiceConfig) {
    cfg.service(web::resource("/t/{tenant}/activity/notifications").route(read().to(show)));
}

#[derive(Template)]
#[template(path = "pages/notifications.html")]
struct NotificationsPage {
    chrome: Chrome,
    /// Where webhooks and e-mail are set.
    settings: String,
    rows: Vec<Row>,
}

struct Row {
    at: When,
    tone: &'static str,
    word: &'static str,
    text: String,
    href: String,
}

async fn show(console: Data<Console>, place: Place) -> Answer {
    let tenant = &place.tenant()?.tenant;
    let found = console.services.notifications(&place.viewer.actor, &place.holder.scope, tenant).await?;
    let address = format!("{}/activity/notifications", place.root());
    let page = NotificationsPage {
        chrome: place.chrome("Notifications", &address),
        settings: format!("{}/settings/notifications", place.root()),
        rows: found
            .into_iter()
            .map(|notice| {
                let tone = match notice.kind {
                    NoticeKind::KeyRejected
                    | NoticeKind::KeyPaused
                    | NoticeKind::BudgetReached
                    | NoticeKind::CreditsExhausted
                    | NoticeKind::UnusualSpend
                    | NoticeKind::UsageDrift => "bad",
                    NoticeKind::BudgetWarning | NoticeKind::CreditsLow | NoticeKind::RotationDue => "warn",
                    NoticeKind::KeyResumed => "good",
                    NoticeKind::Test => "",
                };
                let word = notice.kind.label();
                let href = format!("{}/{}", place.root(), notice.page);
                Row { at: place.times().when(notice.at), tone, word, text: notice.text, href }
            })
            .collect(),
    };
    Page::new(page).answer()
}
