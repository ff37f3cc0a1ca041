//! The audit log: append-only, one keyed chain for each tenant and one for the platform.

use uuid::Uuid;

use super::{StorageError, Tx, execute, fetch_all, fetch_one};
use crate::crypto::root::RootKeys;
use crate::domain::audit::AuditEvent;
use crate::domain::clock::Moment;
use crate::domain::ids::Owner;

/// An entry as stored, with its place in its chain.
#[derive(Clone, Debug)]
pub struct AuditRow {
    pub seq: i64,
    pub at: Moment,
    pub actor: String,
    pub action: String,
    pub target: String,
    pub detail: String,
    pub address: Option<String>,
}

/// Appends an entry to the owner's chain. The chain's head stays locked until the commit, so
/// this belongs last in a transaction; where there are two, the tenant's goes before the platform's.
pub async fn append(
    tx: &mut Tx,
    root: &RootKeys,
    chain: Owner,
    event: &AuditEvent,
) -> Result<(), StorageError> {
    let chain = chain.as_uuid();
    execute!(
        tx,
        "INSERT INTO chain_head (chain, seq, link) VALUES ($1, 0, $2) ON CONFLICT (chain) DO NOTHING",
        chain,
        &[0_u8; 0][..]
    )?;
    // Taking the next number locks the head in both databases.
    let sql = "UPDATE chain_head SET seq = seq + 1 WHERE chain = $1 RETURNING seq, link";
    let (seq, previous) = fetch_one!(tx, (i64, Vec<u8>), sql, chain)?;
    let detail = event.detail.to_string();
    let link = link(root, &previous, chain, seq, event, &detail);
    let actor = &event.actor;
    execute!(
        tx,
        "INSERT INTO audit_log (chain, seq, at, actor_id, actor, action, target, detail, address, request_id, link)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        chain,
        seq,
        event.at.0,
        actor.user_id.map(|id| id.0),
        &actor.name,
        event.action.as_str(),
        &event.target,
        &detail,
        actor.address.as_deref(),
        actor.request_id,
        &link[..]
    )?;
    execute!(tx, "UPDATE chain_head SET link = $1 WHERE chain = $2", &link[..], chain)?;
    Ok(())
}

fn link(
    root: &RootKeys,
    previous: &[u8],
    chain: Uuid,
    seq: i64,
    event: &AuditEvent,
    detail: &str,
) -> [u8; 32] {
    let actor = &event.actor;
    root.audit_link(
        previous,
        &[
            chain.as_bytes(),
            &seq.to_be_bytes(),
            &event.at.0.to_be_bytes(),
            actor.user_id.map_or(Uuid::nil(), |id| id.0).as_bytes(),
            actor.name.as_bytes(),
            event.action.as_str().as_bytes(),
            event.target.as_bytes(),
            detail.as_bytes(),
            actor.address.as_deref().unwrap_or_default().as_bytes(),
            actor.request_id.unwrap_or_default().as_bytes(),
        ],
    )
}

/// The newest entries of a chain.
pub async fn list(tx: &mut Tx, chain: Owner, limit: i64) -> Result<Vec<AuditRow>, StorageError> {
    let rows = fetch_all!(
        tx,
        (i64, i64, String, String, String, String, Option<String>),
        "SELECT seq, at, actor, action, target, detail, address FROM audit_log
         WHERE chain = $1 ORDER BY seq DESC LIMIT $2",
        chain.as_uuid(),
        limit
    )?;
    Ok(rows
        .into_iter()
        .map(|(seq, at, actor, action, target, detail, address)| AuditRow {
            seq,
            at: Moment(at),
            actor,
            action,
            target,
            detail,
            address,
        })
        .collect())
}
