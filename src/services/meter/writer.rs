//! The writing end of the meter: takes what was handed in, and writes it for as long as it takes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::settlement::{settle_orphan, without_numbers};
use super::{Meter, Opening, Outcome, Round, Shared};
use crate::domain::clock::{MINUTE, Moment, SECOND};
use crate::domain::ids::{InstanceId, KeyId, Owner, RequestId, TokenId};
use crate::domain::price::PriceBook;
use crate::domain::usage::UsageRow;
use crate::storage::{Database, StorageError, changes, day_sums, holds, keys, tokens, usage};

/// Pages of orphans that are settled at a time; the next time does the rest.
const MOST_PAGES: usize = 1_000;
/// How long to wait before a database that is away is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// How often it is looked at through when days may be summed.
const LOOK_EVERY: Duration = Duration::from_mins(1);

/// Writes rows for as long as the process lives.
pub async fn run(db: Database, meter: &Meter) {
    let shared = &*meter.0;
    let mut writer = Writer::new(db, shared);
    while !writer.look_at_sums().await {
        writer.refuse_all();
        tokio::time::sleep(RETRY).await;
    }
    shared.lock().shut = false;
    loop {
        shared.due().await;
        writer.take();
        while !writer.write().await {
            writer.refuse_all();
            while !writer.answers().await {
                tokio::time::sleep(RETRY).await;
            }
        }
        shared.lock().shut = false;
    }
}

struct Writer<'a> {
    db: Database,
    shared: &'a Shared,
    /// What was taken and is not written yet.
    round: Option<Arc<Round>>,
    opening: Vec<Opening>,
    settled: Vec<UsageRow>,
    flushes: Vec<oneshot::Sender<()>>,
    keys_touched: HashMap<KeyId, Moment>,
    tokens_touched: HashMap<TokenId, Moment>,
    /// When it was looked at through when days may be summed.
    looked: Instant,
}

/// However the writer ends: whoever waits for it is told that nothing is written any more.
impl Drop for Writer<'_> {
    fn drop(&mut self) {
        self.refuse();
        self.refuse_all();
    }
}

impl<'a> Writer<'a> {
    fn new(db: Database, shared: &'a Shared) -> Self {
        Self {
            db,
            shared,
            round: None,
            opening: Vec::new(),
            settled: Vec::new(),
            flushes: Vec::new(),
            keys_touched: HashMap::new(),
            tokens_touched: HashMap::new(),
            looked: Instant::now(),
        }
    }

    /// Whether it could be looked at through when days may be summed.
    async fn look_at_sums(&mut self) -> bool {
        match self.read_horizon().await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the meter cannot begin yet");
                false
            }
        }
    }

    async fn read_horizon(&mut self) -> Result<(), StorageError> {
        let looked = Instant::now();
        let mut tx = self.db.read().await?;
        let horizon = day_sums::horizon(&mut tx).await?;
        self.shared.horizon.fetch_max(horizon.0, Ordering::SeqCst);
        self.looked = looked;
        tx.rollback().await
    }

    /// Says that nothing is written for now, also to all who wait.
    fn refuse_all(&mut self) {
        self.shared.lock().shut = true;
        self.take();
        self.refuse();
    }

    /// Takes over what is waiting.
    fn take(&mut self) {
        let mut queue = self.shared.lock();
        self.round = Some(std::mem::take(&mut queue.round));
        self.opening = std::mem::take(&mut queue.opening);
        self.settled.append(&mut queue.settled);
        self.flushes.append(&mut queue.flushes);
        queue.waiting = 0;
        queue.held_up = false;
        queue.most_before = queue.most;
        queue.most = queue.calls;
    }

    /// Ends the round: nothing of it is written.
    fn refuse(&mut self) {
        self.settled.extend(self.opening.drain(..).filter_map(Opening::into_settled));
        if let Some(round) = self.round.take() {
            round.end(Vec::new());
        }
    }

    /// Writes what it holds; false if the database is away. Settlements are kept then, and openings
    /// are refused.
    async fn write(&mut self) -> bool {
        let (opening, settled) = (std::mem::take(&mut self.opening), std::mem::take(&mut self.settled));
        let outcomes = match self.commit(&opening, &settled).await {
            Ok(outcomes) => outcomes,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    opening = opening.len(),
                    settled = settled.len(),
                    "usage could not be written"
                );
                if !self.answers().await {
                    (self.opening, self.settled) = (opening, settled);
                    self.refuse();
                    return false;
                }
                // The database is there, so it is some row that it will not have: one that is spoilt
                // must not keep its neighbours from being written.
                self.write_apart(opening, settled).await
            }
        };
        if let Some(round) = self.round.take() {
            round.end(outcomes);
        }
        if !self.settled.is_empty() {
            return false;
        }
        for done in self.flushes.drain(..) {
            let _ = done.send(());
        }
        true
    }

    async fn answers(&self) -> bool {
        let Ok(mut tx) = self.db.read().await else { return false };
        changes::version(&mut tx, Owner::Platform).await.is_ok()
    }

    async fn write_apart(&mut self, opening: Vec<Opening>, mut settled: Vec<UsageRow>) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(opening.len());
        for opening in opening {
            let written = self.commit(std::slice::from_ref(&opening), &[]).await;
            let outcome =
                written.ok().and_then(|outcomes| outcomes.first().copied()).unwrap_or(Outcome::Lost);
            settled.extend(opening.into_settled().filter(|_| outcome == Outcome::Lost));
            outcomes.push(outcome);
        }
        for row in settled {
            let Err(error) = self.commit(&[], std::slice::from_ref(&row)).await else { continue };
            tracing::error!(error = &error as &dyn std::error::Error, request = %row.id, "a settlement could not be written; it is written without its numbers");
            let bare = without_numbers(row);
            if self.commit(&[], std::slice::from_ref(&bare)).await.is_err() && !self.answers().await {
                self.settled.push(bare);
            }
        }
        outcomes
    }

    async fn commit(
        &mut self,
        opening: &[Opening],
        settled: &[UsageRow],
    ) -> Result<Vec<Outcome>, StorageError> {
        if opening.is_empty() && settled.is_empty() {
            return Ok(Vec::new());
        }
        let opened: Vec<&UsageRow> = opening.iter().map(|opening| &opening.row).collect();
        let settled: Vec<&UsageRow> = settled.iter().collect();
        // Far more often than days are summed after it was announced.
        if self.looked.elapsed() > LOOK_EVERY {
            self.read_horizon().await?;
        }
        let horizon = Moment(self.shared.horizon.load(Ordering::SeqCst));
        let shortages = match holds::record(&self.db, &opened, &settled, horizon).await {
            Err(StorageError::Settled) => {
                // Some were settled before: by a commit whose answer was lost, or by another process
                // that took this one for dead. They count once.
                let ids: Vec<_> = opened.iter().chain(&settled).map(|row| row.id).collect();
                let mut tx = self.db.read().await?;
                let known = usage::settled_among(&mut tx, &ids).await?;
                tx.rollback().await?;
                let (fresh, rest) = (without(&opened, &known), without(&settled, &known));
                let mut shortages = holds::record(&self.db, &fresh, &rest, horizon).await?.into_iter();
                opened
                    .iter()
                    .map(|row| if known.contains(&row.id) { None } else { shortages.next().flatten() })
                    .collect()
            }
            written => written?,
        };
        if let Err(error) = self.touch(opening).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "when keys were last used could not be written"
            );
        }
        Ok(shortages.into_iter().map(|shortage| shortage.map_or(Outcome::Written, Outcome::Short)).collect())
    }

    /// *Last used*, to the second for keys and to the minute for tokens. In one order in every
    /// process, so that two of them wait for each other instead of locking each other out.
    async fn touch(&mut self, opening: &[Opening]) -> Result<(), StorageError> {
        let Some(at) = opening.iter().map(|opening| opening.row.started_at).max() else { return Ok(()) };
        let mut keys: Vec<KeyId> = opening.iter().map(|opening| opening.row.key_id).collect();
        keys.retain(|key| is_stale(self.keys_touched.get(key), at, SECOND));
        let mut tokens: Vec<TokenId> = opening.iter().filter_map(|opening| opening.token).collect();
        tokens.retain(|token| is_stale(self.tokens_touched.get(token), at, MINUTE));
        if keys.is_empty() && tokens.is_empty() {
            return Ok(());
        }
        keys.sort_unstable();
        keys.dedup();
        tokens.sort_unstable();
        tokens.dedup();
        let mut tx = self.db.meter().await?;
        for key in keys {
            keys::touch(&mut tx, key, at).await?;
            self.keys_touched.insert(key, at);
        }
        for token in tokens {
            tokens::touch(&mut tx, token, at).await?;
            self.tokens_touched.insert(token, at);
        }
        tx.commit().await
    }
}

fn without<'a>(rows: &[&'a UsageRow], known: &[RequestId]) -> Vec<&'a UsageRow> {
    rows.iter().copied().filter(|row| !known.contains(&row.id)).collect()
}

fn is_stale(last: Option<&Moment>, now: Moment, after: i64) -> bool {
    last.is_none_or(|last| now.since(*last) >= after)
}

/// Settles what dead processes left pending, and what anybody has pending from before `lost_before`, a
/// page at a time.
///
/// # Errors
/// When the database fails.
pub async fn settle_orphans(
    db: &Database,
    own: InstanceId,
    prices: &PriceBook,
    now: Moment,
    dead_before: Moment,
    lost_before: Moment,
) -> Result<usize, StorageError> {
    let mut settled = 0;
    for _ in 0..MOST_PAGES {
        let mut tx = db.read().await?;
        let orphans = usage::orphans(&mut tx, own, dead_before, lost_before, 200).await?;
        tx.rollback().await?;
        if orphans.is_empty() {
            break;
        }
        let rows: Vec<UsageRow> = orphans.into_iter().map(|row| settle_orphan(row, prices, now)).collect();
        match holds::record(db, &[], &rows, now).await {
            // Another process was at the same rows; look again at what is left.
            Err(StorageError::Settled) => continue,
            written => written?,
        };
        settled += rows.len();
    }
    Ok(settled)
}
