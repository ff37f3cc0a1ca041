//! The community manager's queue.

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{StorageError, Tx, execute, fetch_all, fetch_optional, word};
use crate::access::scope::Scope;
use crate::domain::clock::Moment;
use crate::domain::generation::{Generation, GenerationKind, GenerationState};
use crate::domain::ids::{GenerationId, InstanceId, RequestId, TenantId};

const COLUMNS: &str =
    "id, tenant_id, kind, state, reference, title, source, draft, final, reason, attempts, request_id,
    key_name, created_at, decided_at, decided_by";

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    tenant_id: Uuid,
    kind: String,
    state: String,
    reference: Option<String>,
    title: String,
    source: String,
    draft: String,
    r#final: String,
    reason: String,
    attempts: i64,
    request_id: Option<Uuid>,
    key_name: String,
    created_at: i64,
    decided_at: Option<i64>,
    decided_by: String,
}

impl TryFrom<Row> for Generation {
    type Error = StorageError;

    fn try_from(row: Row) -> Result<Self, StorageError> {
        Ok(Self {
            id: GenerationId(row.id),
            tenant: TenantId(row.tenant_id),
            kind: word!(GenerationKind, row.kind, "generation", "kind")?,
            state: word!(GenerationState, row.state, "generation", "state")?,
            reference: row.reference,
            title: row.title,
            source: row.source,
            draft: row.draft,
            text: row.r#final,
            reason: row.reason,
            attempts: row.attempts,
            request: row.request_id.map(RequestId),
            key: row.key_name,
            created_at: Moment(row.created_at),
            decided_at: row.decided_at.map(Moment),
            decided_by: row.decided_by,
        })
    }
}

/// Puts an item into the queue; false if one of its reference is there already.
pub async fn insert(tx: &mut Tx, one: &Generation) -> Result<bool, StorageError> {
    let done = execute!(
        tx,
        "INSERT INTO generation (id, tenant_id, kind, state, reference, title, source, draft, final, reason, attempts,
             next_at, key_name, created_at, decided_by)
         VALUES ($1, $2, $3, 'queued', $4, $5, $6, '', '', '', 0, $7, '', $7, '')
         ON CONFLICT (tenant_id, reference) DO NOTHING",
        one.id.0,
        one.tenant.0,
        one.kind.as_str(),
        one.reference.as_deref(),
        &one.title,
        &one.source,
        one.created_at.0
    )?;
    Ok(done > 0)
}

pub async fn find(tx: &mut Tx, scope: &Scope, id: GenerationId) -> Result<Option<Generation>, StorageError> {
    let sql = format!("SELECT {COLUMNS} FROM generation WHERE id = $1 AND tenant_id = $2");
    let row = fetch_optional!(tx, Row, AssertSqlSafe(sql), id.0, scope.owner().as_uuid())?;
    row.map(Generation::try_from).transpose()
}

pub async fn find_by_reference(
    tx: &mut Tx,
    scope: &Scope,
    reference: &str,
) -> Result<Option<Generation>, StorageError> {
    let sql = format!("SELECT {COLUMNS} FROM generation WHERE tenant_id = $1 AND reference = $2");
    let row = fetch_optional!(tx, Row, AssertSqlSafe(sql), scope.owner().as_uuid(), reference)?;
    row.map(Generation::try_from).transpose()
}

/// A tenant's items in one of these states, newest first, before `before` where that is given.
pub async fn list(
    tx: &mut Tx,
    scope: &Scope,
    states: &[GenerationState],
    before: Option<GenerationId>,
    limit: i64,
) -> Result<Vec<Generation>, StorageError> {
    let names: Vec<String> = states.iter().map(|state| format!("'{state}'")).collect();
    let sql = format!(
        "SELECT {COLUMNS} FROM generation WHERE tenant_id = $1 AND state IN ({}) AND ($2 IS NULL OR id < $2)
         ORDER BY id DESC LIMIT $3",
        names.join(", ")
    );
    let before = before.map(|id| id.0);
    let rows = fetch_all!(tx, Row, AssertSqlSafe(sql), scope.owner().as_uuid(), before, limit)?;
    rows.into_iter().map(Generation::try_from).collect()
}

/// How many items of a tenant are in each state.
pub async fn counts(tx: &mut Tx, scope: &Scope) -> Result<Vec<(GenerationState, i64)>, StorageError> {
    let sql = "SELECT state, COUNT(*) FROM generation WHERE tenant_id = $1 GROUP BY state";
    let rows = fetch_all!(tx, (String, i64), sql, scope.owner().as_uuid())?;
    rows.into_iter()
        .map(|(state, count)| Ok((word!(GenerationState, state, "generation", "state")?, count)))
        .collect()
}

/// What is due: of each tenant its longest due first, the tenants in turns.
pub async fn due(tx: &mut Tx, now: Moment, limit: i64) -> Result<Vec<GenerationId>, StorageError> {
    let sql = "SELECT id FROM (
                   SELECT id, next_at, ROW_NUMBER() OVER (PARTITION BY tenant_id ORDER BY next_at, id) AS turn
                   FROM generation WHERE state = 'queued' AND next_at <= $1) due
               ORDER BY turn, next_at, id LIMIT $2";
    Ok(fetch_all!(tx, (Uuid,), sql, now.0, limit)?.into_iter().map(|(id,)| GenerationId(id)).collect())
}

/// Takes one of what is due for this run of the process, with the id of the request that it is to send;
/// `None` if another process was first.
pub async fn claim(
    tx: &mut Tx,
    own: InstanceId,
    id: GenerationId,
) -> Result<Option<Generation>, StorageError> {
    let sql = format!(
        "UPDATE generation SET state = 'running', instance = $1, request_id = $2, attempts = attempts + 1
         WHERE id = $3 AND state = 'queued' RETURNING {COLUMNS}"
    );
    let row = fetch_optional!(tx, Row, AssertSqlSafe(sql), own.0, RequestId::new().0, id.0)?;
    row.map(Generation::try_from).transpose()
}

/// Holds back all that is due of a tenant: the gate that is closed for one is closed for each.
pub async fn hold_back(
    tx: &mut Tx,
    tenant: TenantId,
    now: Moment,
    until: Moment,
    reason: &str,
) -> Result<(), StorageError> {
    let sql = "UPDATE generation SET next_at = $1, reason = $2
               WHERE tenant_id = $3 AND state = 'queued' AND next_at <= $4";
    execute!(tx, sql, until.0, reason, tenant.0, now.0)?;
    Ok(())
}

/// What is written of an item when its attempt is over.
pub struct Ended<'a> {
    pub state: GenerationState,
    pub reason: &'a str,
    pub next_at: Moment,
    pub draft: Option<(&'a str, &'a str)>,
    /// Whether it counts as an attempt.
    pub counts: bool,
}

/// Ends an attempt, unless the item has gone elsewhere since.
pub async fn end(tx: &mut Tx, one: &Generation, ended: &Ended<'_>) -> Result<bool, StorageError> {
    let (draft, key) = ended.draft.unwrap_or((&one.draft, &one.key));
    let done = execute!(
        tx,
        "UPDATE generation SET state = $1, reason = $2, next_at = $3, draft = $4, key_name = $5,
             attempts = attempts - $6, instance = NULL
         WHERE id = $7 AND state = 'running' AND request_id = $8",
        ended.state.as_str(),
        ended.reason,
        ended.next_at.0,
        draft,
        key,
        i64::from(!ended.counts),
        one.id.0,
        one.request.map(|request| request.0)
    )?;
    Ok(done > 0)
}

/// What a person decides of an item that is in one of `from`; false if it is not.
pub async fn decide(
    tx: &mut Tx,
    scope: &Scope,
    id: GenerationId,
    from: &[GenerationState],
    (to, text): (GenerationState, &str),
    (by, at): (&str, Moment),
) -> Result<bool, StorageError> {
    // What is in the queue again is not decided.
    let again = to == GenerationState::Queued;
    let (by, decided) = if again { ("", None) } else { (by, Some(at.0)) };
    let names: Vec<String> = from.iter().map(|state| format!("'{state}'")).collect();
    let sql = format!(
        "UPDATE generation SET state = $1, final = $2, decided_by = $3, decided_at = $4, next_at = $5, reason = '',
             attempts = 0
         WHERE id = $6 AND tenant_id = $7 AND state IN ({})",
        names.join(", ")
    );
    let owner = scope.owner().as_uuid();
    Ok(execute!(tx, AssertSqlSafe(sql), to.as_str(), text, by, decided, at.0, id.0, owner)? > 0)
}

/// Puts back what a dead process had begun and not sent; what it had sent has failed, for it may be on
/// the bill. Gives how many of each.
pub async fn recover(
    tx: &mut Tx,
    own: InstanceId,
    dead_before: Moment,
    now: Moment,
    reason: &str,
) -> Result<(u64, u64), StorageError> {
    const ABANDONED: &str = "state = 'running' AND instance <> $1 AND NOT EXISTS (
        SELECT 1 FROM instance i WHERE i.id = generation.instance AND i.beat_at >= $2)";
    const SENT: &str = "EXISTS (SELECT 1 FROM usage u WHERE u.id = generation.request_id)";
    let sql = format!(
        "UPDATE generation SET state = 'failed', reason = $3, instance = NULL WHERE {ABANDONED} AND {SENT}"
    );
    let failed = execute!(tx, AssertSqlSafe(sql), own.0, dead_before.0, reason)?;
    let sql = format!(
        "UPDATE generation SET state = 'queued', next_at = $3, attempts = attempts - 1, instance = NULL
         WHERE {ABANDONED} AND NOT {SENT}"
    );
    Ok((execute!(tx, AssertSqlSafe(sql), own.0, dead_before.0, now.0)?, failed))
}

/// Deletes what was decided before.
pub async fn delete_before(tx: &mut Tx, before: Moment) -> Result<(), StorageError> {
    execute!(
        tx,
        "DELETE FROM generation WHERE decided_at < $1 AND state IN ('approved', 'rejected')",
        before.0
    )?;
    Ok(())
}
