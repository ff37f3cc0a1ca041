//! Notifications on their way out of the console: what is sent, and when it is tried again.

use serde_json::json;

use super::clock::{HOUR, MINUTE, Moment, SECOND};
use super::ids::{DeliveryId, TenantId, UserId, WebhookId};
use super::notice::Notice;
use super::words;
use uuid::Uuid;

/// Webhooks of one tenant.
pub const MAX_WEBHOOKS: usize = 5;

/// How long to wait after each attempt that failed. After the last, it is given up.
const BACK_OFF: [i64; 8] =
    [10 * SECOND, MINUTE, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 6 * HOUR, 12 * HOUR, 24 * HOUR];

words! {
    pub enum DeliveryState {
        Waiting = "waiting",
        Delivered = "delivered",
        GivenUp = "given_up",
    }
}

/// Where a notification goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    Webhook(WebhookId),
    Mail(UserId),
}

/// A webhook as people see it: its signing secret was shown once.
#[derive(Clone, Debug)]
pub struct Webhook {
    pub id: WebhookId,
    pub url: String,
    pub created_at: Moment,
    pub created_by: String,
}

/// One notification on its way to one destination.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub id: DeliveryId,
    pub tenant: TenantId,
    pub to: Destination,
    /// The same for every destination and every attempt: receivers tell repetitions by it.
    pub message: Uuid,
    pub notice: Notice,
    pub state: DeliveryState,
    pub attempts: i64,
    pub next_at: Moment,
    /// What became of the last attempt, in a few words; empty before the first.
    pub outcome: String,
    pub tried_at: Option<Moment>,
}

/// What one attempt came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub delivered: bool,
    /// The receiver wants no more: `410 Gone`, or an address that does not exist.
    pub for_good: bool,
    pub outcome: String,
}

impl Attempt {
    #[must_use]
    pub fn failed(outcome: impl Into<String>) -> Self {
        Self { delivered: false, for_good: false, outcome: outcome.into() }
    }

    /// What an HTTP status says of a webhook: any 2xx is a yes.
    #[must_use]
    pub fn of_status(status: u16) -> Self {
        Self {
            delivered: (200..300).contains(&status),
            for_good: status == 410,
            outcome: format!("HTTP {status}"),
        }
    }
}

/// What follows from the attempt that was the `attempts`th: the state, and when to try again.
#[must_use]
pub fn after(attempt: &Attempt, attempts: i64, now: Moment) -> (DeliveryState, Moment) {
    if attempt.delivered {
        return (DeliveryState::Delivered, now);
    }
    let wait = usize::try_from(attempts - 1).ok().and_then(|nth| BACK_OFF.get(nth));
    match wait {
        Some(wait) if !attempt.for_good => (DeliveryState::Waiting, now.plus(*wait)),
        _ => (DeliveryState::GivenUp, now),
    }
}

/// The id that a webhook's receiver sees.
#[must_use]
pub fn message_id(message: Uuid) -> String {
    format!("msg_{}", message.simple())
}

/// The body of a webhook: the same bytes at every attempt, for they are signed.
#[must_use]
pub fn webhook_body(notice: &Notice, tenant: &str, console: &str) -> String {
    json!({
        "type": notice.kind,
        "timestamp": notice.at.rfc3339(),
        "data": { "tenant": tenant, "text": notice.text, "url": page_url(notice, tenant, console) },
    })
    .to_string()
}

/// The page of the console where to go on.
#[must_use]
pub fn page_url(notice: &Notice, tenant: &str, console: &str) -> String {
    format!("{console}/t/{tenant}/{}", notice.page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_further_and_further_apart_and_end() {
        let now = Moment(1_000);
        let failed = Attempt::failed("no answer");
        let mut last = 0;
        for attempts in 1..=8 {
            let (state, next) = after(&failed, attempts, now);
            assert_eq!(state, DeliveryState::Waiting);
            assert!(next.since(now) > last, "attempt {attempts}");
            last = next.since(now);
        }
        assert_eq!(after(&failed, 9, now).0, DeliveryState::GivenUp);
        assert_eq!(after(&Attempt::of_status(410), 1, now).0, DeliveryState::GivenUp);
        assert_eq!(after(&Attempt::of_status(500), 1, now).0, DeliveryState::Waiting);
        // A redirect is not followed, and is no yes.
        assert_eq!(after(&Attempt::of_status(302), 1, now).0, DeliveryState::Waiting);
        assert_eq!(after(&Attempt::of_status(204), 1, now).0, DeliveryState::Delivered);
    }
}
