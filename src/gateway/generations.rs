//! The worker of the community manager's queue. What it has written goes the way of any request:
//! through the resolver, on the tenant's key or the shared one, and onto the bill.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::Semaphore;

use super::Gateway;
use super::assistant::{OwnRequest, send_own};
use super::exchange::AnswerBody;
use super::in_flight::{Ticket, Tickets};
use crate::domain::generation::{FEATURE, Generation, Outcome, text_of};
use crate::services::{ServiceError, Services};

/// How often the queue is looked at when nobody says that there is something in it.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long an item may take. A provider that hangs must not keep the others' turns; what it was sent
/// may be on the bill.
const PATIENCE: Duration = Duration::from_mins(2);
/// The longest answer that is read.
const MOST_ANSWER: usize = 1_024 * 1_024;

/// Works the queue off, `at_once` items at a time, for as long as the process lives.
pub async fn work(services: Arc<Services>, tickets: Tickets, at_once: usize) {
    let outbound = services.outbound.apart();
    let gateway = Gateway { services, outbound, tickets };
    let free = Arc::new(Semaphore::new(at_once));
    loop {
        let taken = take(&gateway, &free).await;
        if let Err(error) = &taken {
            tracing::error!(
                error = error as &dyn std::error::Error,
                "the queue of generations cannot be read"
            );
        }
        if !matches!(taken, Ok(taken) if taken > 0) {
            let news = gateway.services.generation_work.notified();
            let _ = tokio::time::timeout(LOOK_EVERY, news).await;
        }
    }
}

/// Takes as many items as there is room for, and begins them.
async fn take(gateway: &Gateway, free: &Arc<Semaphore>) -> Result<usize, ServiceError> {
    let Ok(room) = Arc::clone(free).acquire_owned().await else { return Ok(0) };
    let limit = free.available_permits() + 1;
    drop(room);
    let claimed = gateway.services.claim_generations(limit).await?;
    let taken = claimed.len();
    for one in claimed {
        let Ok(permit) = Arc::clone(free).acquire_owned().await else { break };
        let Some(ticket) = gateway.tickets.take() else { break };
        let gateway = gateway.clone();
        gateway.services.runtime.clone().spawn(async move {
            let written = tokio::time::timeout(PATIENCE, write(&gateway, &one, ticket.clone())).await;
            let outcome = written.unwrap_or_else(|_| Outcome::Failed {
                reason: "The provider took longer than two minutes. It may be on the bill, so it is not tried again by itself.".to_owned(),
            });
            // What is written is paid for: it is kept until the database takes it.
            while let Err(error) = gateway.services.end_generation(&one, &outcome).await {
                tracing::error!(error = &error as &dyn std::error::Error, id = %one.id, "a generation cannot be ended yet");
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
            drop((permit, ticket));
        });
    }
    Ok(taken)
}

async fn write(gateway: &Gateway, one: &Generation, ticket: Ticket) -> Outcome {
    let own = OwnRequest {
        id: one.request.unwrap_or_default(),
        tenant: one.tenant,
        feature: FEATURE,
        prompt: one.kind.as_str(),
        body: one.request_body(),
        // After a crash its row tells whether it was sent.
        recorded_first: true,
    };
    match send_own(gateway, own, ticket).await {
        // It counts as an attempt: each has its row.
        Err(error) if error.is_unreachable() => Outcome::Again { reason: error.message().to_owned() },
        Err(error) if error.can_be_sent_later() => Outcome::HeldBack { reason: error.message().to_owned() },
        Err(error) => Outcome::Failed { reason: error.message().to_owned() },
        // The key's state takes note of it, and then its gate is closed.
        Ok((head, _)) if head.verdict.refuses_key() => Outcome::HeldBack {
            reason: format!("The provider refused the key for now, with status {}.", head.status),
        },
        Ok((head, used)) => match (head.status, read(head.body).await) {
            (200..300, Some(answer)) => match text_of(&answer) {
                Some(draft) => Outcome::Written { draft, key: used.key },
                None => Outcome::Failed { reason: "The model wrote no text.".to_owned() },
            },
            (200..300, None) => Outcome::Failed { reason: "The answer broke off.".to_owned() },
            // Others may have been billed behind a proxy that lost patience.
            (403 | 429 | 500 | 503 | 529, _) => {
                Outcome::Again { reason: format!("The provider answered with status {}.", head.status) }
            }
            (status, _) => {
                Outcome::Failed { reason: format!("The provider refused it with status {status}.") }
            }
        },
    }
}

async fn read(answer: AnswerBody) -> Option<Bytes> {
    let mut chunks = match answer {
        AnswerBody::Whole(bytes) => return Some(bytes),
        AnswerBody::Stream(chunks) => chunks,
    };
    let mut whole = Vec::new();
    while let Some(chunk) = chunks.next().await {
        whole.extend_from_slice(&chunk.ok()?);
        if whole.len() > MOST_ANSWER {
            return None;
        }
    }
    Some(Bytes::from(whole))
}
