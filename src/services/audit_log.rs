//! The audit log as people read it, and its signed heads.

use uuid::Uuid;

use super::{ServiceError, Services};
use crate::access::actor::Actor;
use crate::access::policy::{Action, Permission, can};
use crate::access::scope::Scope;
use crate::crypto::root::RootKeys;
use crate::domain::account::KeyChangers;
use crate::domain::audit::AuditAction;
use crate::domain::clock::Moment;
use crate::storage::audit::{self, AuditRow, Filter, Head};

/// What is looked for in the log.
#[derive(Clone, Debug, Default)]
pub struct AuditQuery {
    pub action: Option<AuditAction>,
    pub actor: String,
    pub from: Moment,
    pub to: Moment,
}

impl Services {
    /// Entries of a log, the newest first: all of them, or to billing admins what is about billing.
    ///
    /// # Errors
    /// `Denied` to whoever may read none of it.
    pub async fn audit_page(
        &self,
        actor: &Actor,
        (scope, changers): (&Scope, KeyChangers),
        query: &AuditQuery,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<AuditRow>, ServiceError> {
        let Some(filter) = self.filter_for(actor, scope, changers, query)? else { return Ok(Vec::new()) };
        let mut tx = self.db.read().await?;
        Ok(audit::page(&mut tx, scope.owner(), &filter, before, limit).await?)
    }

    /// Puts on record that a log was downloaded.
    ///
    /// # Errors
    /// `Denied` to whoever may read none of it.
    pub async fn begin_audit_export(
        &self,
        actor: &Actor,
        (scope, changers): (&Scope, KeyChangers),
        query: &AuditQuery,
    ) -> Result<(), ServiceError> {
        self.filter_for(actor, scope, changers, query)?;
        self.permit(actor, Action::Export, scope.about(changers))?;
        let mut tx = self.db.write().await?;
        let detail = serde_json::json!({ "from": query.from.rfc3339(), "to": query.to.rfc3339() });
        self.record(&mut tx, scope.owner(), actor, AuditAction::AuditExported, "audit log", detail).await?;
        tx.commit().await?;
        Ok(())
    }

    /// What of the log the person may read; `None` where they ask for what they may not.
    fn filter_for(
        &self,
        actor: &Actor,
        scope: &Scope,
        changers: KeyChangers,
        query: &AuditQuery,
    ) -> Result<Option<Filter>, ServiceError> {
        let about = scope.about(changers);
        let may = |action| can(actor, action, about, self.clock.now()) == Permission::Allowed;
        let (all, some) = if about.is_some() {
            (may(Action::SeeAudit), may(Action::SeeBillingAudit))
        } else {
            (may(Action::SeePlatform), may(Action::SeePlatform))
        };
        if !some {
            return Err(ServiceError::Denied);
        }
        let actions: Vec<&'static str> = match query.action {
            Some(action) if all || action.is_about_billing() => vec![action.as_str()],
            Some(_) => return Ok(None),
            None if all => Vec::new(),
            None => AuditAction::ALL
                .iter()
                .filter(|action| action.is_about_billing())
                .map(|action| action.as_str())
                .collect(),
        };
        Ok(Some(Filter { actions, actor: query.actor.trim().to_owned(), from: query.from, to: query.to }))
    }
}

/// The heads of all chains as a line of text, signed: kept elsewhere, it shows when a tail was cut off.
#[must_use]
pub fn signed_heads(root: &RootKeys, heads: &[Head], now: Moment) -> String {
    let heads: Vec<_> = heads
        .iter()
        .map(|head| serde_json::json!({ "chain": head.chain, "seq": head.seq, "link": hex::encode(&head.link) }))
        .collect();
    let said = serde_json::json!({ "at": now.rfc3339(), "heads": heads }).to_string();
    let signature = hex::encode(signature(root, &said));
    serde_json::json!({ "said": said, "signature": signature }).to_string()
}

fn signature(root: &RootKeys, said: &str) -> [u8; 32] {
    root.audit_link(b"heads", &[said.as_bytes()])
}

/// What a line of signed heads says: when, and the heads. `None` if it was not signed by this
/// installation, or was changed since.
#[must_use]
pub fn read_heads(root: &RootKeys, line: &str) -> Option<(String, Vec<Head>)> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let said = line["said"].as_str()?;
    let given = hex::decode(line["signature"].as_str()?).ok()?;
    if !bool::from(subtle::ConstantTimeEq::ct_eq(&given[..], &signature(root, said)[..])) {
        return None;
    }
    let said: serde_json::Value = serde_json::from_str(said).ok()?;
    let heads = said["heads"].as_array()?.iter().map(|head| {
        Some(Head {
            chain: Uuid::parse_str(head["chain"].as_str()?).ok()?,
            seq: head["seq"].as_i64()?,
            link: hex::decode(head["link"].as_str()?).ok()?,
        })
    });
    Some((said["at"].as_str()?.to_owned(), heads.collect::<Option<_>>()?))
}
