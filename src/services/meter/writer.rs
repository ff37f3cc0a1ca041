//! The writing end of the meter: takes what was handed in, and writes it for as long as it takes.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::settlement::{settle_orphan, without_numbers};
use super::{Batch, Meter, Opening, Outcome, Shared};
use crate::domain::clock::Moment;
use crate::domain::ids::{InstanceId, Owner, RequestId};
use crate::domain::price::PriceBook;
use crate::domain::usage::UsageRow;
use crate::storage::{Database, StorageError, changes, day_sums, holds, keys, tokens, usage};

/// Pages of orphans that are settled at a time; the next time does the rest.
const MOST_PAGES: usize = 1_000;
/// How long to wait before a database that is away is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// Writes rows for as long as the process lives.
pub async fn run(db: Database, meter: &Meter) {
    let shared = &*meter.0;
    let mut writer = Writer { db: db.clone(), shared, batch: Batch::default() };
    while !writer.look_at_sums().await {
        writer.refuse_all();
        tokio::time::sleep(RETRY).await;
    }
    let _ = shared.db.set(db);
    writer.go_on();
    loop {
        let batch = shared.due().await;
        writer.take_over(batch);
        while !writer.write().await {
            writer.refuse_all();
            loop {
                tokio::time::sleep(RETRY).await;
                if writer.answers().await {
                    break;
                }
            }
        }
        writer.go_on();
    }
}

struct Writer<'a> {
    db: Database,
    shared: &'a Shared,
    /// What was taken and is not written yet.
    batch: Batch,
}

/// However the writer ends: whoever waits for it is told that nothing is written any more.
impl Drop for Writer<'_> {
    fn drop(&mut self) {
        self.refuse();
        self.refuse_all();
    }
}

impl Writer<'_> {
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
        self.shared.books().looked = Some(looked);
        tx.rollback().await
    }

    /// Says that nothing is written for now, also to all who wait.
    fn refuse_all(&mut self) {
        self.shared.lock().shut = true;
        // One that was returned, and the next.
        for _ in 0..2 {
            let batch = self.shared.lock().take();
            self.take_over(batch);
            self.refuse();
        }
    }

    /// Adds a batch to what was kept of those before it.
    fn take_over(&mut self, mut batch: Batch) {
        self.batch.round = batch.round;
        self.batch.opening = batch.opening;
        self.batch.settled.append(&mut batch.settled);
        self.batch.flushes.append(&mut batch.flushes);
    }

    /// Leaves the next batch to whoever finds it due.
    fn go_on(&self) {
        self.shared.put(|queue| {
            queue.shut = false;
            queue.writing = false;
        });
    }

    /// Ends the round: nothing of it is written.
    fn refuse(&mut self) {
        self.batch.settled.extend(self.batch.opening.drain(..).filter_map(Opening::into_settled));
        std::mem::take(&mut self.batch.round).end(Vec::new());
    }

    /// Writes what it holds; false if the database does not take it now. Settlements are kept then, and
    /// openings are refused.
    async fn write(&mut self) -> bool {
        let (opening, settled) =
            (std::mem::take(&mut self.batch.opening), std::mem::take(&mut self.batch.settled));
        let outcomes = match self.commit(&opening, &settled).await {
            Ok(outcomes) => outcomes,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    opening = opening.len(),
                    settled = settled.len(),
                    "usage could not be written"
                );
                if !error.is_of_data() {
                    (self.batch.opening, self.batch.settled) = (opening, settled);
                    self.refuse();
                    return false;
                }
                // It is some row that it will not have: one that is spoilt must not keep its neighbours
                // from being written.
                self.write_apart(opening, settled).await
            }
        };
        if self.batch.settled.is_empty() {
            self.batch.end(outcomes);
            return true;
        }
        std::mem::take(&mut self.batch.round).end(outcomes);
        false
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
        let mut settled = settled.into_iter();
        while let Some(row) = settled.next() {
            let Err(error) = self.commit(&[], std::slice::from_ref(&row)).await else { continue };
            if !error.is_of_data() {
                self.batch.settled.push(row);
                self.batch.settled.extend(settled);
                break;
            }
            tracing::error!(error = &error as &dyn std::error::Error, request = %row.id, "a settlement could not be written; it is written without its numbers");
            let bare = without_numbers(row);
            match self.commit(&[], std::slice::from_ref(&bare)).await {
                Ok(_) => {}
                Err(error) if error.is_of_data() => {
                    tracing::error!(error = &error as &dyn std::error::Error, request = %bare.id, "a settlement could not be written at all");
                }
                Err(_) => self.batch.settled.push(bare),
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
        if self.shared.is_simple(opening.iter().map(|opening| &*opening.row).chain(settled))
            && let Some(turn) = self.db.at_once().await
            && let Some(outcomes) = self.shared.record_at_once(turn, opening, settled)
        {
            return Ok(outcomes);
        }
        let opened: Vec<&UsageRow> = opening.iter().map(|opening| &*opening.row).collect();
        let settled: Vec<&UsageRow> = settled.iter().collect();
        if !self.shared.books().has_looked() {
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
        Ok(shortages.into_iter().map(Outcome::from).collect())
    }

    /// Notes when keys and tokens were used last.
    async fn touch(&mut self, opening: &[Opening]) -> Result<(), StorageError> {
        let used = self.shared.books().used(opening);
        if used.keys.is_empty() && used.tokens.is_empty() {
            return Ok(());
        }
        let mut tx = self.db.meter().await?;
        for (key, at) in &used.keys {
            keys::touch(&mut tx, *key, *at).await?;
        }
        for (token, at) in &used.tokens {
            tokens::touch(&mut tx, *token, *at).await?;
        }
        tx.commit().await?;
        self.shared.books().note(used);
        Ok(())
    }
}

fn without<'a>(rows: &[&'a UsageRow], known: &[RequestId]) -> Vec<&'a UsageRow> {
    rows.iter().copied().filter(|row| !known.contains(&row.id)).collect()
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
