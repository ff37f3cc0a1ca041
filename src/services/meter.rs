//! The meter: every request sent upstream leaves a row, written pending while the call runs and
//! settled when it ends. Rows of neighbouring requests share one commit.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::domain::clock::{MINUTE, Moment, SECOND};
use crate::domain::ids::{InstanceId, KeyId, TokenId};
use crate::domain::price::PriceBook;
use crate::domain::usage::{UsageRow, UsageState};
use crate::providers::Report;
use crate::storage::{Database, StorageError, changes, keys, tokens, usage};

/// Rows in one commit at most.
const BATCH: usize = 256;
/// Settlements kept in memory while the database is away. Above it the oldest wait in the channel.
const BACKLOG: usize = 100_000;

/// The row could not be written: the request must not be answered.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("usage could not be recorded")]
pub struct NotRecorded;

enum Job {
    Open {
        row: Box<UsageRow>,
        token: Option<TokenId>,
        done: oneshot::Sender<()>,
    },
    Settle(Box<UsageRow>),
    /// Answers when everything handed in before it is written.
    Flush(oneshot::Sender<()>),
}

/// The writing end of the meter.
pub struct Meter {
    sender: mpsc::Sender<Job>,
    receiver: Mutex<Option<mpsc::Receiver<Job>>>,
}

impl Default for Meter {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(8_192);
        Self { sender, receiver: Mutex::new(Some(receiver)) }
    }
}

impl Meter {
    /// Writes a pending row and returns once it is committed.
    ///
    /// # Errors
    /// `NotRecorded` when it cannot be; then nothing may be answered.
    pub async fn open(&self, row: UsageRow, token: Option<TokenId>) -> Result<(), NotRecorded> {
        let (done, committed) = oneshot::channel();
        let job = Job::Open { row: Box::new(row), token, done };
        self.sender.send(job).await.map_err(|_| NotRecorded)?;
        committed.await.map_err(|_| NotRecorded)
    }

    /// Hands in a settled row. It is written soon, and tried again for as long as that fails.
    pub async fn settle(&self, row: UsageRow) {
        let _ = self.sender.send(Job::Settle(Box::new(row))).await;
    }

    /// Waits until everything handed in so far is written.
    pub async fn flush(&self) {
        let (done, written) = oneshot::channel();
        if self.sender.send(Job::Flush(done)).await.is_ok() {
            let _ = written.await;
        }
    }

    fn take_receiver(&self) -> Option<mpsc::Receiver<Job>> {
        self.receiver.lock().ok()?.take()
    }
}

/// Writes rows until every sender is gone.
pub async fn run(db: Database, meter: &Meter) {
    let Some(mut receiver) = meter.take_receiver() else { return };
    let mut writer = Writer::new(db);
    let mut jobs = Vec::with_capacity(BATCH);
    loop {
        let room = BATCH.min(BACKLOG.saturating_sub(writer.settled.len()));
        if room > 0 && writer.settled.is_empty() {
            if receiver.recv_many(&mut jobs, room).await == 0 {
                return;
            }
        } else {
            // Settlements wait for the database to come back; new work is looked at meanwhile.
            while jobs.len() < room {
                match receiver.try_recv() {
                    Ok(job) => jobs.push(job),
                    Err(_) => break,
                }
            }
        }
        if !writer.write(&mut jobs).await {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

struct Writer {
    db: Database,
    /// Settled rows that are not written yet.
    settled: Vec<UsageRow>,
    /// Whoever waits for these to be written.
    flushes: Vec<oneshot::Sender<()>>,
    /// A commit failed in a way that may have succeeded: look before writing again.
    doubtful: bool,
    keys_touched: HashMap<KeyId, Moment>,
    tokens_touched: HashMap<TokenId, Moment>,
}

impl Writer {
    fn new(db: Database) -> Self {
        Self {
            db,
            settled: Vec::new(),
            flushes: Vec::new(),
            doubtful: false,
            keys_touched: HashMap::new(),
            tokens_touched: HashMap::new(),
        }
    }

    /// Writes one batch; false if the database would not have it. Settlements are kept then,
    /// openings are refused by dropping the sender that their requests wait for.
    async fn write(&mut self, jobs: &mut Vec<Job>) -> bool {
        let (mut rows, mut opened) = (Vec::with_capacity(jobs.len()), Vec::new());
        let mut tokens = HashMap::new();
        for job in jobs.drain(..) {
            match job {
                Job::Open { row, token, done } => {
                    tokens.extend(token.map(|token| (token, row.started_at)));
                    rows.push(*row);
                    opened.push(done);
                }
                Job::Settle(row) => self.settled.push(*row),
                Job::Flush(done) => self.flushes.push(done),
            }
        }
        match self.commit(&mut rows, &tokens).await {
            Ok(()) => {
                self.settled.clear();
                self.doubtful = false;
                for done in opened.into_iter().chain(self.flushes.drain(..)) {
                    let _ = done.send(());
                }
                true
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    waiting = self.settled.len(),
                    "usage could not be written"
                );
                self.doubtful = true;
                false
            }
        }
    }

    async fn commit(
        &mut self,
        rows: &mut Vec<UsageRow>,
        tokens: &HashMap<TokenId, Moment>,
    ) -> Result<(), StorageError> {
        if rows.is_empty() && self.settled.is_empty() {
            return Ok(());
        }
        let mut tx = self.db.meter().await?;
        if self.doubtful {
            let ids: Vec<_> = self.settled.iter().map(|row| row.id).collect();
            let written = usage::settled_among(&mut tx, &ids).await?;
            self.settled.retain(|row| !written.contains(&row.id));
        }
        let pending = rows.len();
        rows.extend(self.settled.iter().cloned());
        usage::upsert(&mut tx, rows).await?;
        usage::roll_up(&mut tx, &rows[pending..]).await?;
        self.touch(&mut tx, &rows[..pending], tokens).await?;
        tx.commit().await
    }

    /// *Last used*, to the second for keys and to the minute for tokens.
    async fn touch(
        &mut self,
        tx: &mut crate::storage::Tx,
        opened: &[UsageRow],
        used: &HashMap<TokenId, Moment>,
    ) -> Result<(), StorageError> {
        for row in opened {
            if is_stale(self.keys_touched.get(&row.key_id), row.started_at, SECOND) {
                keys::touch(tx, row.key_id, row.started_at).await?;
                self.keys_touched.insert(row.key_id, row.started_at);
            }
        }
        for (token, at) in used {
            if is_stale(self.tokens_touched.get(token), *at, MINUTE) {
                tokens::touch(tx, *token, *at).await?;
                self.tokens_touched.insert(*token, *at);
            }
        }
        Ok(())
    }
}

fn is_stale(last: Option<&Moment>, now: Moment, after: i64) -> bool {
    last.is_none_or(|last| now.since(*last) >= after)
}

/// How an answer ended, as the gateway saw it.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    pub status: Option<u16>,
    /// Keyward's own code, or the provider's for an error answer.
    pub error_code: Option<String>,
    pub first_byte_us: Option<i64>,
    /// Stopped before its end: by the upstream, or by Keyward after the client had left.
    pub cut: bool,
}

/// Turns a pending row into its settlement.
#[must_use]
pub fn settle(
    mut row: UsageRow,
    report: Report,
    ending: Ending,
    prices: &PriceBook,
    now: Moment,
) -> UsageRow {
    let answered = ending.status.is_some_and(|status| (200..300).contains(&status));
    row.ended_at = Some(now);
    row.total_us = Some(now.since(row.started_at).max(0));
    row.first_byte_us = ending.first_byte_us;
    row.status = ending.status;
    row.model_served = report.model;
    row.served_as = report.served_as;
    row.raw_usage = report.raw;
    row.error_code = ending.error_code.or(report.error_code);
    (row.tokens, row.state) = match report.tokens {
        Some(tokens) if report.complete && !ending.cut => (tokens, UsageState::Final),
        Some(mut tokens) => {
            // The last word on output may be missing; what was seen of it is the least there was.
            tokens.output = tokens.output.max(report.output_chars / 4);
            (tokens, UsageState::Partial)
        }
        // An error is not charged for, and what never answered used nothing that is known of.
        None if !answered => (crate::domain::usage::TokenUsage::default(), UsageState::Final),
        None => {
            row.tokens.output =
                if report.output_chars == 0 { row.tokens.output } else { report.output_chars / 4 };
            (row.tokens, UsageState::Estimated)
        }
    };
    rate(row, prices)
}

/// Settles a row whose process died: by the estimate that it was opened with.
#[must_use]
pub fn settle_orphan(mut row: UsageRow, prices: &PriceBook, now: Moment) -> UsageRow {
    row.ended_at = Some(now);
    row.state = UsageState::Estimated;
    row.error_code = Some("keyward_interrupted".to_owned());
    rate(row, prices)
}

fn rate(mut row: UsageRow, prices: &PriceBook) -> UsageRow {
    let nothing = row.tokens == crate::domain::usage::TokenUsage::default();
    match prices.rate(row.provider, row.model(), &row.tokens, row.served_as, row.started_at) {
        Some(rated) => {
            row.price_id = Some(rated.price_id);
            row.cost = rated.cost;
        }
        None => row.unpriced = !nothing,
    }
    row
}

/// Settles what dead processes left pending, a page at a time.
///
/// # Errors
/// When the database fails.
pub async fn settle_orphans(
    db: &Database,
    own: InstanceId,
    prices: &PriceBook,
    now: Moment,
    dead_before: Moment,
) -> Result<usize, StorageError> {
    let mut settled = 0;
    loop {
        let mut tx = db.meter().await?;
        let orphans = usage::orphans(&mut tx, own, dead_before, 200).await?;
        if orphans.is_empty() {
            return Ok(settled);
        }
        let rows: Vec<UsageRow> = orphans.into_iter().map(|row| settle_orphan(row, prices, now)).collect();
        usage::upsert(&mut tx, &rows).await?;
        usage::roll_up(&mut tx, &rows).await?;
        tx.commit().await?;
        settled += rows.len();
    }
}

/// Says that this process is alive.
///
/// # Errors
/// When the database fails.
pub async fn beat(db: &Database, own: InstanceId, now: Moment) -> Result<(), StorageError> {
    let mut tx = db.meter().await?;
    changes::beat(&mut tx, own, now).await?;
    tx.commit().await
}
