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
        rows: found
            .into_iter()
            .map(|notice| {
                let (tone, word) = match notice.kind {
                    NoticeKind::KeyRejected => ("bad", "Key rejected"),
                    NoticeKind::KeyPaused => ("bad", "Paused"),
                    NoticeKind::KeyResumed => ("good", "Resumed"),
                    NoticeKind::BudgetWarning => ("warn", "Budget"),
                    NoticeKind::BudgetReached => ("bad", "Budget used up"),
                    NoticeKind::CreditsLow => ("warn", "Credits low"),
                    NoticeKind::CreditsExhausted => ("bad", "Credits used up"),
                };
                let href = format!("{}/{}", place.root(), notice.page);
                Row { at: place.times().when(notice.at), tone, word, text: notice.text, href }
            })
            .collect(),
    };
    Page::new(page).answer()
}
