//! Credits: how managed use is paid, what was granted, and the ledger.

use super::{Problems, ServiceError, Services};
use crate::access::actor::Actor;
use crate::access::policy::{About, Action};
use crate::access::scope::Scope;
use crate::domain::account::Tenant;
use crate::domain::audit::AuditAction;
use crate::domain::billing::{Credits, EntryKind, Funding, LedgerEntry};
use crate::domain::clock::Moment;
use crate::domain::ids::Owner;
use crate::domain::money::Nanos;
use crate::storage::credits::{self, NewEntry};
use crate::storage::{changes, tenants};

/// Lines of the ledger on one page.
pub const LINES: usize = 50;
const MAX_NOTE: usize = 120;

/// A change of a balance as a super admin typed it.
#[derive(Clone, Debug, Default)]
pub struct TypedEntry {
    /// Dollars; a correction downwards begins with a minus sign.
    pub amount: String,
    pub note: String,
    /// Made with the form, so that a form sent twice is entered once.
    pub form_id: String,
}

/// A tenant's credits and one page of its ledger, newest first.
#[derive(Clone, Debug)]
pub struct Statement {
    pub credits: Credits,
    pub entries: Vec<LedgerEntry>,
    /// Where the next page begins, if there is one.
    pub older: Option<i64>,
}

impl Services {
    /// # Errors
    /// `Denied` to whoever may not see the tenant's usage.
    pub async fn credit_statement(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
        before: Option<i64>,
    ) -> Result<Statement, ServiceError> {
        let about = Some(About { tenant: tenant.id, key_changers: tenant.key_changers });
        self.permit(actor, Action::SeeUsage, about)?;
        let mut tx = self.db.read().await?;
        let credits = credits::find(&mut tx, tenant.id).await?;
        let limit = i64::try_from(LINES + 1).unwrap_or(i64::MAX);
        let mut entries = credits::entries(&mut tx, scope, before, limit).await?;
        let more = entries.len() > LINES;
        entries.truncate(LINES);
        let older = entries.last().filter(|_| more).map(|entry| entry.seq);
        Ok(Statement { credits, entries, older })
    }

    /// Sets the balance below which people are told that credits run low.
    ///
    /// # Errors
    /// `Invalid` for what is no amount.
    pub async fn set_credit_notice(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
        below: &str,
    ) -> Result<(), ServiceError> {
        let about = Some(About { tenant: tenant.id, key_changers: tenant.key_changers });
        self.permit(actor, Action::ChangeBilling, about)?;
        let Some(below) = Nanos::parse_dollars(below) else {
            return Err(ServiceError::Invalid(Problems::field("notify_below", NOT_DOLLARS)));
        };
        let mut tx = self.db.write().await?;
        credits::open(&mut tx, tenant.id).await?;
        let before = credits::find(&mut tx, tenant.id).await?.notify_below;
        credits::set_notify_below(&mut tx, scope, below).await?;
        let detail = serde_json::json!({ "before": before, "after": below });
        let target = tenant.slug.as_str();
        self.record(&mut tx, scope.owner(), actor, AuditAction::CreditNoticeChanged, target, detail).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Sets how a tenant's managed use is paid from now on. Requests under way are paid as they began.
    ///
    /// # Errors
    /// `Denied` to all but super admins, `Conflict` when it was changed meanwhile.
    pub async fn set_funding(
        &self,
        actor: &Actor,
        tenant: &Tenant,
        from: Funding,
        to: Funding,
    ) -> Result<(), ServiceError> {
        self.permit(actor, Action::ManagePlatform, None)?;
        let owner = Owner::Tenant(tenant.id);
        let scope = Scope::of_system(owner);
        let now = self.clock.now();
        let mut tx = self.db.write().await?;
        changes::bump(&mut tx, owner, now).await?;
        if !tenants::set_funding(&mut tx, &scope, from, to, now).await? {
            return Err(ServiceError::Conflict("How managed use is paid was changed meanwhile."));
        }
        if to == Funding::Credits {
            credits::open(&mut tx, tenant.id).await?;
        }
        let detail = serde_json::json!({ "before": from, "after": to });
        self.record(&mut tx, owner, actor, AuditAction::FundingChanged, tenant.slug.as_str(), detail).await?;
        tx.commit().await?;
        self.directory.forget(owner);
        Ok(())
    }

    /// How a tenant's managed use was paid and since when, newest first.
    ///
    /// # Errors
    /// `Denied` to all but super admins.
    pub async fn funding_history(
        &self,
        actor: &Actor,
        tenant: &Tenant,
    ) -> Result<Vec<(Funding, Moment)>, ServiceError> {
        self.permit(actor, Action::SeePlatform, None)?;
        let mut tx = self.db.read().await?;
        Ok(tenants::funding_changes(&mut tx, &Scope::of_system(Owner::Tenant(tenant.id))).await?)
    }

    /// Grants credits, or corrects a balance in either direction by an entry of its own. Gives the
    /// amount and the balance after it. A form sent twice is entered once.
    ///
    /// # Errors
    /// `Denied` to all but super admins, `Invalid` with the reason at its field.
    pub async fn enter_credits(
        &self,
        actor: &Actor,
        tenant: &Tenant,
        typed: &TypedEntry,
    ) -> Result<(Nanos, Nanos), ServiceError> {
        self.permit(actor, Action::ManagePlatform, None)?;
        let mut problems = Problems::default();
        let text = typed.amount.trim();
        let (text, down) = text.strip_prefix('-').map_or((text, false), |text| (text, true));
        let amount = Nanos::parse_dollars(text).filter(|amount| amount.0 > 0);
        if amount.is_none() {
            problems.add("amount", NOT_DOLLARS);
        }
        let note = typed.note.trim();
        if note.is_empty() || note.chars().count() > MAX_NOTE || note.chars().any(char::is_control) {
            problems.add("note", format!("Say what it is for, in at most {MAX_NOTE} characters."));
        }
        let (Some(amount), true) = (amount, problems.is_empty()) else {
            return Err(ServiceError::Invalid(problems));
        };
        let (kind, amount, action) = if down {
            (EntryKind::Adjust, Nanos(-amount.0), AuditAction::CreditsAdjusted)
        } else {
            (EntryKind::Grant, amount, AuditAction::CreditsGranted)
        };
        let owner = Owner::Tenant(tenant.id);
        let reference = format!("form:{}:{}", tenant.id, typed.form_id);
        let entry = NewEntry {
            at: self.clock.now(),
            kind,
            amount,
            reference: (!typed.form_id.is_empty()).then_some(reference.as_str()),
            note,
            entered_by: &actor.email,
        };
        let mut tx = self.db.write().await?;
        let balance = match credits::enter(&mut tx, tenant.id, &entry).await {
            Err(error) if error.is_conflict() => {
                return Err(ServiceError::Conflict("That form was sent before, and is entered once."));
            }
            entered => entered?,
        };
        let detail =
            serde_json::json!({ "amount": amount.exact(), "balance": balance.exact(), "note": note });
        self.record(&mut tx, owner, actor, action, tenant.slug.as_str(), detail).await?;
        tx.commit().await?;
        Ok((amount, balance))
    }
}

pub(super) const NOT_DOLLARS: &str = "Enter dollars, such as 250 or 1,250.50.";
