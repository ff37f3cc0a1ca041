//! The audit log as people read it, and its signed heads.

use uuid::Uuid;

use super::{ServiceError, Services};
use crate::access::actor::Actor;
use crate::access::policy::{Action, Permission, can};
use crate::access::scope::Scope;
use crate::crypto::root::RootKeys;
use crate::domain::account::KeyChangers;
use crate::domain::audit::{AuditAction, AuditActor, AuditEvent};
use crate::domain::clock::{DAY, Moment};
use crate::domain::ids::{Owner, TenantId};
use crate::outbound::Trust;
use crate::providers::Outgoing;
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

/// What the operator has set about the log.
#[derive(Clone, Debug, Default)]
pub struct AuditOptions {
    /// Where signed heads are appended every hour.
    pub heads_file: Option<std::path::PathBuf>,
    /// Where they are posted.
    pub heads_url: Option<url::Url>,
    /// After how many days entries are sealed and dropped; never without it.
    pub retention_days: Option<u32>,
}

/// Entries of one chain that are dropped in one transaction.
const DROPPED_AT_ONCE: i64 = 10_000;
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// Why signed heads are not where they should be.
#[derive(Debug, thiserror::Error)]
pub enum HeadsError {
    #[error("{0} cannot be written: {1}")]
    File(String, std::io::Error),
    #[error("{0} cannot be reached: {1}")]
    Send(String, crate::outbound::SendError),
    #[error("{0} answers with {1}")]
    Answer(String, u16),
}

impl Services {
    /// Writes the signed heads where the operator wants them, so that a log that was cut short later shows.
    ///
    /// # Errors
    /// When a place does not take them.
    pub async fn publish_heads(&self) -> Result<(), ServiceError> {
        let AuditOptions { heads_file, heads_url, .. } = &self.options.audit;
        if heads_file.is_none() && heads_url.is_none() {
            return Ok(());
        }
        let mut tx = self.db.read().await?;
        let heads = audit::heads(&mut tx).await?;
        tx.rollback().await?;
        let line = signed_heads(&self.root, &heads, self.clock.now());
        let written = match heads_file {
            Some(path) => {
                append(path, &line).await.map_err(|error| HeadsError::File(path.display().to_string(), error))
            }
            None => Ok(()),
        };
        // One place that fails is no reason to leave the other without.
        if let Some(url) = heads_url {
            let mut headers = http::HeaderMap::new();
            headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
            let outgoing = Outgoing {
                method: http::Method::POST,
                url: url.clone(),
                headers,
                body: line.into(),
                hides_usage: false,
            };
            // Without its path, which may hold a token.
            let shown = url.origin().ascii_serialization();
            let sent = self.outbound.send(outgoing, Trust::Operator, PATIENCE).await;
            let answer = sent.map_err(|error| HeadsError::Send(shown.clone(), error))?;
            if !(200..300).contains(&answer.status) {
                return Err(HeadsError::Answer(shown, answer.status).into());
            }
        }
        Ok(written?)
    }

    /// Seals and drops entries whose time is over. A chain that is not whole is left as it is.
    ///
    /// # Errors
    /// When the database fails, or a chain is damaged.
    pub async fn seal_old_entries(&self) -> Result<(), ServiceError> {
        let Some(days) = self.options.audit.retention_days else { return Ok(()) };
        let now = self.clock.now();
        let before = now.minus(i64::from(days) * DAY);
        let mut tx = self.db.read().await?;
        let chains = audit::chains_before(&mut tx, before).await?;
        tx.rollback().await?;
        let mut damaged = None;
        for chain in chains {
            let mut tx = self.db.write().await?;
            match audit::seal(&mut tx, &self.root, chain, before, DROPPED_AT_ONCE).await? {
                Ok(Some((seal, entries))) => {
                    let event = AuditEvent {
                        at: now,
                        actor: AuditActor::system("retention"),
                        action: AuditAction::LogSealed,
                        target: "audit log".to_owned(),
                        detail: audit::seal_detail(&seal, entries, before),
                    };
                    let owner = if chain.is_nil() { Owner::Platform } else { Owner::Tenant(TenantId(chain)) };
                    audit::append(&mut tx, &self.root, owner, &event).await?;
                    tx.commit().await?;
                }
                Ok(None) => tx.rollback().await?,
                Err(damage) => {
                    tracing::error!(%chain, ?damage, "the audit log is damaged: nothing of it is dropped");
                    tx.rollback().await?;
                    damaged =
                        Some(ServiceError::Conflict("the audit log is damaged; see `keyward audit verify`"));
                }
            }
        }
        damaged.map_or(Ok(()), Err)
    }
}

async fn append(path: &std::path::Path, line: &str) -> std::io::Result<()> {
    use tokio::io::AsyncWriteExt as _;
    let mut file = tokio::fs::OpenOptions::new().create(true).append(true).open(path).await?;
    file.write_all(format!("{line}\n").as_bytes()).await?;
    file.sync_data().await
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
            sealed: None,
        })
    });
    Some((said["at"].as_str()?.to_owned(), heads.collect::<Option<_>>()?))
}
