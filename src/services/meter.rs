//! The meter: every request sent upstream leaves a row, written pending while the call runs and
//! settled when it ends. Rows of neighbouring requests share one commit.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::domain::clock::{DAY, MINUTE, Moment, SECOND};
use crate::domain::ids::{InstanceId, KeyId, Owner, TokenId};
use crate::domain::money::Nanos;
use crate::domain::price::PriceBook;
use crate::domain::usage::{TokenUsage, UsageRow, UsageState};
use crate::providers::Report;
use crate::storage::{Database, StorageError, Tx, changes, keys, tokens, usage};

/// No exchange takes this long: a row of one's own that is pending after it was lost on the way.
const FORGOTTEN_AFTER: i64 = DAY;
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
    keys_touched: HashMap<KeyId, Moment>,
    tokens_touched: HashMap<TokenId, Moment>,
}

/// A row that is to be opened, and who waits for it.
type Opening = (UsageRow, Option<TokenId>, oneshot::Sender<()>);

impl Writer {
    fn new(db: Database) -> Self {
        Self {
            db,
            settled: Vec::new(),
            flushes: Vec::new(),
            keys_touched: HashMap::new(),
            tokens_touched: HashMap::new(),
        }
    }

    /// Writes one batch; false if the database would not have it. Settlements are kept then,
    /// openings are refused by dropping the sender that their requests wait for.
    async fn write(&mut self, jobs: &mut Vec<Job>) -> bool {
        let mut opening: Vec<Opening> = Vec::with_capacity(jobs.len());
        for job in jobs.drain(..) {
            match job {
                Job::Open { row, token, done } => opening.push((*row, token, done)),
                Job::Settle(row) => self.settled.push(*row),
                Job::Flush(done) => self.flushes.push(done),
            }
        }
        let rows: Vec<&UsageRow> = opening.iter().map(|(row, ..)| row).collect();
        let used: Vec<TokenId> = opening.iter().filter_map(|(_, token, _)| *token).collect();
        let settled = std::mem::take(&mut self.settled);
        let written = self.commit(&rows, &used, &settled).await;
        match written {
            Ok(()) => {
                for (_, _, done) in opening {
                    let _ = done.send(());
                }
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    settled = settled.len(),
                    "usage could not be written"
                );
                self.settled = settled;
                if !self.answers().await {
                    return false;
                }
                // The database is there, so it is some row that it will not have: one that is
                // spoilt must not keep its neighbours from being written.
                self.write_apart(opening).await;
            }
        }
        if self.settled.is_empty() {
            for done in self.flushes.drain(..) {
                let _ = done.send(());
            }
        }
        true
    }

    async fn answers(&self) -> bool {
        let Ok(mut tx) = self.db.read().await else { return false };
        changes::version(&mut tx, Owner::Platform).await.is_ok()
    }

    async fn write_apart(&mut self, opening: Vec<Opening>) {
        for (row, token, done) in opening {
            let used: Vec<TokenId> = token.into_iter().collect();
            if self.commit(&[&row], &used, &[]).await.is_ok() {
                let _ = done.send(());
            }
        }
        for row in std::mem::take(&mut self.settled) {
            let Err(error) = self.commit(&[], &[], std::slice::from_ref(&row)).await else { continue };
            tracing::error!(error = &error as &dyn std::error::Error, request = %row.id, "a settlement could not be written; it is written without its numbers");
            let bare = without_numbers(row);
            if self.commit(&[], &[], std::slice::from_ref(&bare)).await.is_err() && !self.answers().await {
                self.settled.push(bare);
            }
        }
    }

    async fn commit(
        &mut self,
        opened: &[&UsageRow],
        used: &[TokenId],
        settled: &[UsageRow],
    ) -> Result<(), StorageError> {
        if opened.is_empty() && settled.is_empty() {
            return Ok(());
        }
        let rows: Vec<&UsageRow> = opened.iter().copied().chain(settled).collect();
        let mut tx = self.db.meter().await?;
        if usage::upsert(&mut tx, &rows).await? == rows.len() as u64 {
            usage::roll_up(&mut tx, settled).await?;
        } else {
            // Some were settled before: by a commit whose answer was lost, or by another process
            // that took this one for dead. They count once.
            tx.rollback().await?;
            tx = self.db.meter().await?;
            let ids: Vec<_> = settled.iter().map(|row| row.id).collect();
            let known = usage::settled_among(&mut tx, &ids).await?;
            let fresh: Vec<&UsageRow> = settled.iter().filter(|row| !known.contains(&row.id)).collect();
            usage::upsert(&mut tx, opened).await?;
            usage::upsert(&mut tx, &fresh).await?;
            usage::roll_up(&mut tx, &fresh).await?;
        }
        self.touch(&mut tx, opened, used).await?;
        tx.commit().await
    }

    /// *Last used*, to the second for keys and to the minute for tokens. In one order in every
    /// process, so that two of them wait for each other instead of locking each other out.
    async fn touch(
        &mut self,
        tx: &mut Tx,
        opened: &[&UsageRow],
        used: &[TokenId],
    ) -> Result<(), StorageError> {
        let Some(at) = opened.iter().map(|row| row.started_at).max() else { return Ok(()) };
        let mut stale: Vec<KeyId> = opened.iter().map(|row| row.key_id).collect();
        stale.retain(|key| is_stale(self.keys_touched.get(key), at, SECOND));
        stale.sort_unstable();
        stale.dedup();
        for key in stale {
            keys::touch(tx, key, at).await?;
            self.keys_touched.insert(key, at);
        }
        let mut stale: Vec<TokenId> = used.to_vec();
        stale.retain(|token| is_stale(self.tokens_touched.get(token), at, MINUTE));
        stale.sort_unstable();
        stale.dedup();
        for token in stale {
            tokens::touch(tx, token, at).await?;
            self.tokens_touched.insert(token, at);
        }
        Ok(())
    }
}

/// What is left of a settlement that the database will not have.
fn without_numbers(row: UsageRow) -> UsageRow {
    UsageRow {
        tokens: TokenUsage::default(),
        cost: Nanos::ZERO,
        billed: Nanos::ZERO,
        model_served: None,
        raw_usage: None,
        error_code: Some("keyward_unreadable_usage".to_owned()),
        unpriced: true,
        state: UsageState::Estimated,
        ..row
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
    /// Nothing reached the provider.
    pub unsent: bool,
}

/// Tokens of one kind beyond this are no report of a provider: contexts hold a few million.
const MOST_TOKENS: u64 = 100_000_000;
/// Names and codes that a provider gives, in bytes.
const LONGEST_NAME: usize = 128;
const LONGEST_RAW: usize = 16 * 1_024;

/// Turns a pending row into its settlement. What the provider says of itself is held to bounds: a
/// tenant's own endpoint can say anything.
#[must_use]
pub fn settle(
    mut row: UsageRow,
    report: Report,
    ending: Ending,
    prices: &PriceBook,
    now: Moment,
) -> UsageRow {
    let refused = ending.status.is_some_and(|status| status >= 300);
    row.ended_at = Some(now);
    row.total_us = Some(now.since(row.started_at).max(0));
    row.first_byte_us = ending.first_byte_us;
    row.status = ending.status;
    row.model_served = report.model.filter(|model| is_name(model));
    row.served_as = report.served_as;
    row.raw_usage = report.raw.filter(|raw| raw.len() <= LONGEST_RAW && !raw.contains('\0'));
    row.error_code = ending.error_code.or(report.error_code.filter(|code| is_name(code)));
    let seen = (report.output_chars / 4).min(MOST_TOKENS);
    (row.tokens, row.state) = match report.tokens.filter(believable) {
        Some(tokens) if report.complete && !ending.cut => (tokens, UsageState::Final),
        // The last word on output may be missing; what was seen of it is the least there was.
        Some(tokens) => (TokenUsage { output: tokens.output.max(seen), ..tokens }, UsageState::Partial),
        // An error is not charged for, and what was never sent used nothing.
        None if refused || ending.unsent => (TokenUsage::default(), UsageState::Final),
        None => {
            let output = if seen == 0 { row.tokens.output } else { seen };
            let state = if ending.cut { UsageState::Partial } else { UsageState::Estimated };
            (TokenUsage { output, ..row.tokens }, state)
        }
    };
    rate(row, prices)
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= LONGEST_NAME && text.bytes().all(|b| b.is_ascii_graphic())
}

fn believable(tokens: &TokenUsage) -> bool {
    let TokenUsage { input, cache_read, cache_write_5m, cache_write_1h, output, reasoning, web_searches } =
        *tokens;
    [input, cache_read, cache_write_5m, cache_write_1h, output, reasoning, web_searches]
        .iter()
        .all(|count| *count <= MOST_TOKENS)
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
    let nothing = row.tokens == TokenUsage::default();
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
        let orphans = usage::orphans(&mut tx, own, dead_before, now.minus(FORGOTTEN_AFTER), 200).await?;
        if orphans.is_empty() {
            return Ok(settled);
        }
        let rows: Vec<UsageRow> = orphans.into_iter().map(|row| settle_orphan(row, prices, now)).collect();
        if usage::upsert(&mut tx, &rows).await? != rows.len() as u64 {
            // Another process was at the same rows; look again at what is left.
            tx.rollback().await?;
            continue;
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::billing::{Funding, UsageMode};
    use crate::domain::ids::{RequestId, TenantId};
    use crate::domain::price_list;
    use crate::domain::provider_key::Provider;
    use crate::domain::usage::{Dialect, Labels, ServedAs, estimate};

    fn pending() -> UsageRow {
        UsageRow {
            id: RequestId::new(),
            tenant_id: TenantId::new(),
            instance: InstanceId::new(),
            started_at: Moment(1),
            ended_at: None,
            feature: "general".into(),
            provider: Provider::Anthropic,
            dialect: Dialect::Anthropic,
            key_id: KeyId::new(),
            key_name: "production".into(),
            key_version: 1,
            mode: UsageMode::Byok,
            funding: Funding::Included,
            fallback: None,
            model_asked: "claude-haiku-4-5".into(),
            model_served: None,
            labels: Labels::default(),
            tokens: estimate(400, Some(10)),
            served_as: ServedAs::default(),
            raw_usage: None,
            price_id: None,
            cost: Nanos::ZERO,
            billed: Nanos::ZERO,
            unpriced: false,
            state: UsageState::Pending,
            status: None,
            error_code: None,
            first_byte_us: None,
            total_us: None,
        }
    }

    /// How a call may end, and what its row then says: state, input, output.
    #[test]
    fn every_ending_is_settled_as_what_it_is() {
        let told = |complete| Report {
            tokens: Some(TokenUsage { input: 7, output: 3, ..TokenUsage::default() }),
            complete,
            output_chars: 40,
            ..Report::default()
        };
        let silent = |output_chars| Report { output_chars, ..Report::default() };
        let ending = |status| Ending { status, ..Ending::default() };
        let cut = |status| Ending { cut: true, ..ending(status) };
        let unsent = Ending { unsent: true, ..Ending::default() };
        let absurd = Report {
            tokens: Some(TokenUsage { output: u64::MAX, ..TokenUsage::default() }),
            complete: true,
            ..Report::default()
        };
        for (what, report, ending, expected) in [
            ("a whole answer", told(true), ending(Some(200)), (UsageState::Final, 7, 3)),
            ("half a stream", told(false), ending(Some(200)), (UsageState::Partial, 7, 10)),
            ("cut by Keyward in a stream", told(true), cut(Some(200)), (UsageState::Partial, 7, 10)),
            ("an error of the provider", silent(0), ending(Some(529)), (UsageState::Final, 0, 0)),
            ("a redirect", silent(0), ending(Some(302)), (UsageState::Final, 0, 0)),
            ("never sent", silent(0), unsent, (UsageState::Final, 0, 0)),
            ("no answer in time", silent(0), ending(None), (UsageState::Estimated, 100, 10)),
            ("left before the answer", silent(0), cut(None), (UsageState::Partial, 100, 10)),
            ("an answer without usage", silent(80), ending(Some(200)), (UsageState::Estimated, 100, 20)),
            ("an absurd report", absurd, ending(Some(200)), (UsageState::Estimated, 100, 10)),
        ] {
            let prices = PriceBook::new(price_list::list());
            let row = settle(pending(), report, ending, &prices, Moment(2));
            assert_eq!((row.state, row.tokens.input, row.tokens.output), expected, "{what}");
            assert_eq!(row.cost.0 > 0, expected.1 > 0, "{what}");
            assert!(!row.unpriced, "{what}");
        }
    }
}
