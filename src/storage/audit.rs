//! The audit log: append-only, one keyed chain for each tenant and one for the platform.

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{StorageError, Tx, execute, fetch_all, fetch_one, fetch_optional};
use crate::crypto::root::RootKeys;
use crate::domain::audit::{AuditAction, AuditEvent};
use crate::domain::clock::Moment;
use crate::domain::ids::Owner;

/// An entry as stored, with its place in its chain.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct AuditRow {
    pub seq: i64,
    pub at: i64,
    pub actor_id: Option<Uuid>,
    pub actor: String,
    pub action: String,
    pub target: String,
    pub detail: String,
    pub address: Option<String>,
    pub request_id: Option<Uuid>,
    pub behalf_id: Option<Uuid>,
    link: Vec<u8>,
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
    let row = AuditRow {
        seq,
        at: event.at.0,
        actor_id: event.actor.user_id.map(|id| id.0),
        actor: event.actor.name.clone(),
        action: event.action.as_str().to_owned(),
        target: event.target.clone(),
        detail: event.detail.to_string(),
        address: event.actor.address.clone(),
        request_id: event.actor.request_id,
        behalf_id: event.actor.behalf_id.map(|id| id.0),
        link: Vec::new(),
    };
    let link = link(root, &previous, chain, &row);
    execute!(
        tx,
        "INSERT INTO audit_log (chain, seq, at, actor_id, actor, action, target, detail, address, request_id, behalf_id, link)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        chain,
        seq,
        row.at,
        row.actor_id,
        &row.actor,
        &row.action,
        &row.target,
        &row.detail,
        row.address.as_deref(),
        row.request_id,
        row.behalf_id,
        &link[..]
    )?;
    execute!(tx, "UPDATE chain_head SET link = $1 WHERE chain = $2", &link[..], chain)?;
    Ok(())
}

fn link(root: &RootKeys, previous: &[u8], chain: Uuid, row: &AuditRow) -> [u8; 32] {
    let (seq, at) = (row.seq.to_be_bytes(), row.at.to_be_bytes());
    let (actor, request) = (row.actor_id.unwrap_or_default(), row.request_id.unwrap_or_default());
    let fields: [&[u8]; 10] = [
        chain.as_bytes(),
        &seq,
        &at,
        actor.as_bytes(),
        row.actor.as_bytes(),
        row.action.as_bytes(),
        row.target.as_bytes(),
        row.detail.as_bytes(),
        row.address.as_deref().unwrap_or_default().as_bytes(),
        request.as_bytes(),
    ];
    match &row.behalf_id {
        // As entries were linked before there was anybody to act for.
        None => root.audit_link(previous, &fields),
        Some(behalf) => root.audit_link(previous, &[&fields[..], &[behalf.as_bytes()]].concat()),
    }
}

const COLUMNS: &str =
    "seq, at, actor_id, actor, action, target, detail, address, request_id, behalf_id, link";

/// The newest entries of a chain.
pub async fn list(tx: &mut Tx, chain: Owner, limit: i64) -> Result<Vec<AuditRow>, StorageError> {
    let all = Filter { from: Moment(i64::MIN), to: Moment(i64::MAX), ..Filter::default() };
    page(tx, chain, &all, None, limit).await
}

/// Which entries are looked for.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// One of these; any where there is none.
    pub actions: Vec<&'static str>,
    /// A part of the actor's name.
    pub actor: String,
    pub from: Moment,
    pub to: Moment,
}

/// Entries of a chain that pass a filter, the newest first, before `before` where that is given.
pub async fn page(
    tx: &mut Tx,
    chain: Owner,
    filter: &Filter,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<AuditRow>, StorageError> {
    // Names of actions are words of Keyward's own.
    let names: Vec<String> = filter.actions.iter().map(|name| format!("'{name}'")).collect();
    let actions =
        if names.is_empty() { String::new() } else { format!("AND action IN ({})", names.join(", ")) };
    let sql = format!(
        "SELECT {COLUMNS} FROM audit_log WHERE chain = $1 AND seq < $2 AND at >= $3 AND at < $4
         AND ($5 = '' OR LOWER(actor) LIKE $6 ESCAPE '\\') {actions} ORDER BY seq DESC LIMIT $7"
    );
    let before = before.unwrap_or(i64::MAX);
    let like = super::containing(&filter.actor);
    let (from, to) = (filter.from.0, filter.to.0);
    let sql = AssertSqlSafe(sql);
    fetch_all!(tx, AuditRow, sql, chain.as_uuid(), before, from, to, &filter.actor, like, limit)
}

/// The head of a chain: its last number and link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub chain: Uuid,
    pub seq: i64,
    pub link: Vec<u8>,
    /// Through which entry it was sealed and its entries dropped, and the link of that one.
    pub sealed: Option<Seal>,
}

/// The last entry that was dropped when its time was over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    pub through: i64,
    pub link: Vec<u8>,
}

type HeadRow = (Uuid, i64, Vec<u8>, i64, Option<Vec<u8>>);

/// The head of every chain.
pub async fn heads(tx: &mut Tx) -> Result<Vec<Head>, StorageError> {
    let sql = "SELECT chain, seq, link, sealed_seq, sealed_link FROM chain_head ORDER BY chain";
    let head = |(chain, seq, link, through, sealed): HeadRow| Head {
        chain,
        seq,
        link,
        sealed: (through > 0).then(|| Seal { through, link: sealed.unwrap_or_default() }),
    };
    Ok(fetch_all!(tx, HeadRow, sql)?.into_iter().map(head).collect())
}

/// The first thing that is wrong with a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// There is no entry of this number, and there are later ones.
    Missing(i64),
    /// The entry is not what it was when it was written, or not in its place.
    Altered(i64),
    /// The entries end before the number that the head has.
    CutShort { last: i64, head: i64 },
    /// There are entries, and no head.
    NoHead,
    /// The head is not that of the last entry.
    HeadAltered,
    /// Entries through this one are gone, and no entry of the log says that they were sealed.
    NotSealed(i64),
}

/// Entries that are read at once.
const PIECE: i64 = 1_000;

/// Checks the entries of every chain against each other and against the chain's head. Gives how many
/// entries there are, and what is wrong first in each chain in which anything is. To be asked in a
/// snapshot: others append meanwhile.
pub async fn verify(tx: &mut Tx, root: &RootKeys) -> Result<(i64, Vec<(Uuid, Damage)>), StorageError> {
    let heads = heads(tx).await?;
    let mut chains: Vec<Uuid> = fetch_all!(tx, (Uuid,), "SELECT DISTINCT chain FROM audit_log")?
        .into_iter()
        .map(|row| row.0)
        .collect();
    chains.extend(heads.iter().map(|head| head.chain));
    chains.sort_unstable();
    chains.dedup();
    let (mut entries, mut damaged) = (0, Vec::new());
    for chain in chains {
        let head = heads.iter().find(|head| head.chain == chain);
        let (count, damage) = verify_chain(tx, root, chain, head).await?;
        entries += count;
        damaged.extend(damage.map(|damage| (chain, damage)));
    }
    Ok((entries, damaged))
}

async fn verify_chain(
    tx: &mut Tx,
    root: &RootKeys,
    chain: Uuid,
    head: Option<&Head>,
) -> Result<(i64, Option<Damage>), StorageError> {
    let seal = head.and_then(|head| head.sealed.clone());
    let first = seal.as_ref().map_or(0, |seal| seal.through) + 1;
    // Whatever its number, an entry that Keyward did not write is found.
    let sql = "SELECT seq FROM audit_log WHERE chain = $1 AND seq < $2 ORDER BY seq LIMIT 1";
    if let Some((seq,)) = fetch_optional!(tx, (i64,), sql, chain, first)? {
        return Ok((0, Some(Damage::Altered(seq))));
    }
    // What was dropped is attested by an entry of the chain itself.
    let mut is_attested = seal.is_none();
    let sql = format!("SELECT {COLUMNS} FROM audit_log WHERE chain = $1 AND seq > $2 ORDER BY seq LIMIT $3");
    let mut count = 0;
    let (mut last, mut previous) =
        seal.as_ref().map_or((0, Vec::new()), |seal| (seal.through, seal.link.clone()));
    loop {
        let piece = fetch_all!(tx, AuditRow, AssertSqlSafe(sql.as_str()), chain, last, PIECE);
        let rows = match piece {
            Err(error) if is_unreadable(&error) => {
                let seq = first_unreadable(tx, chain, last).await?;
                return Ok((count, Some(Damage::Altered(seq))));
            }
            piece => piece?,
        };
        if rows.is_empty() {
            break;
        }
        for row in rows {
            count += 1;
            if row.seq != last + 1 {
                return Ok((count, Some(Damage::Missing(last + 1))));
            }
            if link(root, &previous, chain, &row)[..] != row.link[..] {
                return Ok((count, Some(Damage::Altered(row.seq))));
            }
            is_attested |= seal.as_ref().is_some_and(|seal| attests(&row, seal));
            (last, previous) = (row.seq, row.link);
        }
    }
    let damage = match head {
        None => Some(Damage::NoHead),
        Some(head) if head.seq > last => Some(Damage::CutShort { last, head: head.seq }),
        Some(head) if head.seq != last || head.link != previous => Some(Damage::HeadAltered),
        Some(_) if !is_attested => Some(Damage::NotSealed(first - 1)),
        Some(_) => None,
    };
    Ok((count, damage))
}

/// What the entry of a seal says.
#[must_use]
pub fn seal_detail(seal: &Seal, entries: i64, before: Moment) -> serde_json::Value {
    serde_json::json!({
        "through": seal.through, "link": hex::encode(&seal.link), "entries": entries, "before": before.rfc3339(),
    })
}

fn attests(row: &AuditRow, seal: &Seal) -> bool {
    let Ok(said) = serde_json::from_str::<serde_json::Value>(&row.detail) else { return false };
    row.action == AuditAction::LogSealed.as_str()
        && said["through"] == seal.through
        && said["link"] == hex::encode(&seal.link)
}

/// Chains with entries from before a moment.
pub async fn chains_before(tx: &mut Tx, before: Moment) -> Result<Vec<Uuid>, StorageError> {
    let sql = "SELECT DISTINCT chain FROM audit_log WHERE at < $1";
    Ok(fetch_all!(tx, (Uuid,), sql, before.0)?.into_iter().map(|row| row.0).collect())
}

/// Seals a chain through its last entry from before a moment, at most `most` entries of it, and drops them.
/// What cannot be shown to be whole is not dropped. Gives the seal and how many entries it stands for.
pub async fn seal(
    tx: &mut Tx,
    root: &RootKeys,
    chain: Uuid,
    before: Moment,
    most: i64,
) -> Result<Result<Option<(Seal, i64)>, Damage>, StorageError> {
    // Locks the head, as appending does.
    let sql = "UPDATE chain_head SET seq = seq WHERE chain = $1 RETURNING sealed_seq, sealed_link";
    let found = fetch_optional!(tx, (i64, Option<Vec<u8>>), sql, chain)?;
    let Some((from, sealed)) = found else { return Ok(Err(Damage::NoHead)) };
    let sql = "SELECT MIN(seq) FROM audit_log WHERE chain = $1 AND at >= $2";
    let (kept,) = fetch_one!(tx, (Option<i64>,), sql, chain, before.0)?;
    let (newest,) = fetch_one!(tx, (i64,), "SELECT seq FROM chain_head WHERE chain = $1", chain)?;
    let through = kept.map_or(newest, |first| first - 1).min(from + most);
    if through <= from {
        return Ok(Ok(None));
    }
    let sql = format!(
        "SELECT {COLUMNS} FROM audit_log WHERE chain = $1 AND seq > $2 AND seq <= $3 ORDER BY seq LIMIT $4"
    );
    let (mut last, mut previous) = (from, sealed.unwrap_or_default());
    while last < through {
        let rows = match fetch_all!(tx, AuditRow, AssertSqlSafe(sql.as_str()), chain, last, through, PIECE) {
            Err(error) if is_unreadable(&error) => {
                return Ok(Err(Damage::Altered(first_unreadable(tx, chain, last).await?)));
            }
            rows => rows?,
        };
        if rows.is_empty() {
            return Ok(Err(Damage::Missing(last + 1)));
        }
        for row in rows {
            if row.seq != last + 1 {
                return Ok(Err(Damage::Missing(last + 1)));
            }
            if link(root, &previous, chain, &row)[..] != row.link[..] {
                return Ok(Err(Damage::Altered(row.seq)));
            }
            (last, previous) = (row.seq, row.link);
        }
    }
    execute!(tx, "DELETE FROM audit_log WHERE chain = $1 AND seq <= $2", chain, through)?;
    let sql = "UPDATE chain_head SET sealed_seq = $1, sealed_link = $2 WHERE chain = $3";
    execute!(tx, sql, through, &previous[..], chain)?;
    Ok(Ok(Some((Seal { through, link: previous }, through - from))))
}

/// Whether a column holds what Keyward never writes there.
fn is_unreadable(error: &StorageError) -> bool {
    let StorageError::Database(error) = error else { return false };
    matches!(error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_))
}

/// The first entry after `last` that cannot be read.
async fn first_unreadable(tx: &mut Tx, chain: Uuid, last: i64) -> Result<i64, StorageError> {
    let sql = format!("SELECT {COLUMNS} FROM audit_log WHERE chain = $1 AND seq = $2");
    let numbers = "SELECT seq FROM audit_log WHERE chain = $1 AND seq > $2 ORDER BY seq LIMIT $3";
    for (seq,) in fetch_all!(tx, (i64,), numbers, chain, last, PIECE)? {
        match fetch_optional!(tx, AuditRow, AssertSqlSafe(sql.as_str()), chain, seq) {
            Err(error) if is_unreadable(&error) => return Ok(seq),
            read => read?,
        };
    }
    Ok(last + 1)
}

/// The link of one entry.
pub async fn link_of(tx: &mut Tx, chain: Uuid, seq: i64) -> Result<Option<Vec<u8>>, StorageError> {
    let sql = "SELECT link FROM audit_log WHERE chain = $1 AND seq = $2";
    Ok(fetch_optional!(tx, (Vec<u8>,), sql, chain, seq)?.map(|row| row.0))
}
