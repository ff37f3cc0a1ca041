//! The community manager's queue: what comes in, what people decide, and what the worker takes and ends.

use super::{Problems, ServiceError, Services, is_reference};
use crate::access::actor::Actor;
use crate::access::policy::{About, Action};
use crate::access::scope::Scope;
use crate::domain::account::Tenant;
use crate::domain::audit::AuditAction;
use crate::domain::clock::Moment;
use crate::domain::generation::{
    Generation, GenerationKind, GenerationState, MOST_FINAL, MOST_SOURCE, MOST_TITLE, Outcome, after,
};
use crate::domain::ids::{GenerationId, TenantId};
use crate::storage::generations::{self, Ended};

/// Items that may wait in one tenant: for their turn, and for a decision of any kind.
const MOST_QUEUED: i64 = 10_000;
const MOST_UNDECIDED: i64 = 20_000;
const INTERRUPTED: &str = "Keyward stopped while it was being written. It may be on the bill, so it is not written again by itself.";
const DECIDED: &str = "Somebody decided that in the meantime.";

/// An item as it comes in.
#[derive(Clone, Debug)]
pub struct NewGeneration {
    pub kind: String,
    pub reference: Option<String>,
    pub title: String,
    pub text: String,
}

/// What a person does with an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// To be posted with this text.
    Approve(String),
    Reject,
    /// To be written anew.
    Retry,
}

impl Services {
    /// Puts an item into a tenant's queue; one that was sent before under the same reference is given as
    /// it is. True if it is new.
    ///
    /// # Errors
    /// `Invalid` with the reason at its field.
    pub async fn queue_generation(
        &self,
        tenant: TenantId,
        new: NewGeneration,
    ) -> Result<(Generation, bool), ServiceError> {
        use GenerationState::{Failed, Queued, Running, Waiting};
        let scope = Scope::of_token(tenant);
        let one = judge(tenant, new, self.clock.now())?;
        let mut tx = self.db.write().await?;
        if let Some(reference) = &one.reference
            && let Some(known) = generations::find_by_reference(&mut tx, &scope, reference).await?
        {
            return Ok((known, false));
        }
        let counts = generations::counts(&mut tx, &scope).await?;
        let count = |states: &[GenerationState]| -> i64 {
            counts.iter().filter(|(state, _)| states.contains(state)).map(|(_, count)| *count).sum()
        };
        if count(&[Queued]) >= MOST_QUEUED {
            return Err(ServiceError::Conflict("The queue is full: 10,000 items wait already."));
        }
        if count(&[Queued, Running, Waiting, Failed]) >= MOST_UNDECIDED {
            return Err(ServiceError::Conflict(
                "20,000 items wait for a decision already: approve or reject some.",
            ));
        }
        if !generations::insert(&mut tx, &one).await? {
            // Two at once: the other one is there now.
            tx.rollback().await?;
            let mut tx = self.db.read().await?;
            let reference = one.reference.as_deref().unwrap_or_default();
            let known = generations::find_by_reference(&mut tx, &scope, reference).await?;
            return Ok((known.ok_or(ServiceError::NotFound)?, false));
        }
        tx.commit().await?;
        self.generation_work.notify_one();
        Ok((one, true))
    }

    /// An item of the tenant.
    ///
    /// # Errors
    /// `NotFound` where there is none of that id in this tenant.
    pub async fn generation(&self, scope: &Scope, id: GenerationId) -> Result<Generation, ServiceError> {
        let mut tx = self.db.read().await?;
        generations::find(&mut tx, scope, id).await?.ok_or(ServiceError::NotFound)
    }

    /// Items of the tenant in these states, newest first, and how many there are in each state.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list_generations(
        &self,
        scope: &Scope,
        states: &[GenerationState],
        before: Option<GenerationId>,
        limit: i64,
    ) -> Result<(Vec<Generation>, Vec<(GenerationState, i64)>), ServiceError> {
        let mut tx = self.db.read().await?;
        let found = generations::list(&mut tx, scope, states, before, limit).await?;
        Ok((found, generations::counts(&mut tx, scope).await?))
    }

    /// Does with an item what a person has decided.
    ///
    /// # Errors
    /// `Conflict` when somebody else was first, `Invalid` for a text that is empty or too long.
    pub async fn rule_generation(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
        id: GenerationId,
        ruling: &Ruling,
    ) -> Result<(), ServiceError> {
        use GenerationState::{Approved, Failed, Queued, Rejected, Waiting};
        let about = About { tenant: tenant.id, key_changers: tenant.key_changers };
        self.permit(actor, Action::RuleGenerations, Some(about))?;
        let now = self.clock.now();
        let mut tx = self.db.write().await?;
        let one = generations::find(&mut tx, scope, id).await?.ok_or(ServiceError::NotFound)?;
        let (from, to, text): (&[GenerationState], _, _) = match ruling {
            Ruling::Approve(text) => {
                let text = text.trim().replace("\r\n", "\n");
                if text.is_empty() || text.len() > MOST_FINAL || text.contains('\0') {
                    let problem = "Write a text of at most 16 KiB, or reject it.";
                    return Err(ServiceError::Invalid(Problems::field("text", problem)));
                }
                (&[Waiting], Approved, text)
            }
            Ruling::Reject => (&[Waiting, Failed, Queued], Rejected, String::new()),
            Ruling::Retry => (&[Waiting, Failed, Rejected], Queued, String::new()),
        };
        if !generations::decide(&mut tx, scope, id, from, (to, &text), (&actor.email, now)).await? {
            return Err(ServiceError::Conflict(DECIDED));
        }
        let edited = to == Approved && text != one.draft;
        let detail =
            serde_json::json!({ "before": one.state.as_str(), "after": to.as_str(), "edited": edited });
        let target = id.to_string();
        self.record(&mut tx, scope.owner(), actor, AuditAction::GenerationRuled, &target, detail).await?;
        tx.commit().await?;
        if to == Queued {
            self.generation_work.notify_one();
        }
        Ok(())
    }

    /// Takes what is due for this run of the process, at most `limit` items.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn claim_generations(&self, limit: usize) -> Result<Vec<Generation>, ServiceError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut tx = self.db.read().await?;
        let due = generations::due(&mut tx, self.clock.now(), limit).await?;
        tx.rollback().await?;
        if due.is_empty() {
            return Ok(Vec::new());
        }
        let mut tx = self.db.write().await?;
        let mut claimed = Vec::with_capacity(due.len());
        for id in due {
            claimed.extend(generations::claim(&mut tx, self.instance, id).await?);
        }
        tx.commit().await?;
        Ok(claimed)
    }

    /// Writes how an attempt ended.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn end_generation(&self, one: &Generation, outcome: &Outcome) -> Result<(), ServiceError> {
        let now = self.clock.now();
        let (state, reason, next_at) = after(outcome, one.attempts, now);
        let draft = match outcome {
            Outcome::Written { draft, key } => Some((draft.as_str(), key.as_str())),
            _ => None,
        };
        let counts = !matches!(outcome, Outcome::HeldBack { .. });
        let mut tx = self.db.write().await?;
        generations::end(&mut tx, one, &Ended { state, reason: &reason, next_at, draft, counts }).await?;
        if !counts {
            generations::hold_back(&mut tx, one.tenant, now, next_at, &reason).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Sees to what processes had begun whose hearts have not beaten since.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn recover_generations(&self, dead_before: Moment) -> Result<(), ServiceError> {
        let now = self.clock.now();
        let mut tx = self.db.write().await?;
        let (again, failed) =
            generations::recover(&mut tx, self.instance, dead_before, now, INTERRUPTED).await?;
        tx.commit().await?;
        if again + failed > 0 {
            tracing::warn!(again, failed, "generations of a process that died were put back or given up");
        }
        Ok(())
    }
}

fn judge(tenant: TenantId, new: NewGeneration, now: Moment) -> Result<Generation, ServiceError> {
    let mut problems = Problems::default();
    let kind = GenerationKind::parse(&new.kind);
    if kind.is_none() {
        problems.add("kind", "Use greeting, summary or reply.");
    }
    let title = new.title.trim();
    if title.chars().count() > MOST_TITLE || title.chars().any(char::is_control) {
        problems.add("title", "Use at most 200 characters on one line.");
    }
    let text = new.text.trim();
    if text.is_empty() || text.len() > MOST_SOURCE || text.contains('\0') {
        problems.add("text", "Send a text of at most 64 KiB.");
    }
    if new.reference.as_deref().is_some_and(|reference| !is_reference(reference)) {
        problems.add("reference", "Use at most 128 printable characters without spaces.");
    }
    let (Some(kind), true) = (kind, problems.is_empty()) else {
        return Err(ServiceError::Invalid(problems));
    };
    Ok(Generation {
        id: GenerationId::new(),
        tenant,
        kind,
        state: GenerationState::Queued,
        reference: new.reference,
        title: title.to_owned(),
        source: text.to_owned(),
        draft: String::new(),
        text: String::new(),
        reason: String::new(),
        attempts: 0,
        request: None,
        key: String::new(),
        created_at: now,
        decided_at: None,
        decided_by: String::new(),
    })
}
