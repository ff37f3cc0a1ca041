//! The meter: every request sent upstream leaves a row, written pending while the call runs and
//! settled when it ends. Rows of neighbouring requests share one commit.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::domain::clock::{DAY, MINUTE, Moment, SECOND};
use crate::domain::ids::{InstanceId, KeyId, Owner, TokenId};
use crate::domain::money::Nanos;
use crate::domain::price::PriceBook;
use crate::domain::usage::{TokenUsage, UsageRow, UsageState};
use crate::providers::Report;
use crate::storage::{Database, StorageError, changes, keys, tokens, usage};

/// No exchange takes this long: a row of one's own that is pending after it was lost on the way.
const FORGOTTEN_AFTER: i64 = DAY;
/// How long a row waits for neighbours to share a commit with. A call that is over by then is
/// written once.
const LINGER: Duration = Duration::from_millis(5);
/// How long to wait before a database that is away is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// The row could not be written: the request must not be answered.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("usage could not be recorded")]
pub struct NotRecorded;

/// A row that is to be opened. Pending, or settled if its call was quick.
struct Opening {
    row: UsageRow,
    token: Option<TokenId>,
}

impl Opening {
    /// The row of a call that is over; of one that is not, nothing is kept: its own end follows.
    fn into_settled(self) -> Option<UsageRow> {
        (self.row.state != UsageState::Pending).then_some(self.row)
    }
}

/// Rows that are opened together, and the answers that wait for them.
#[derive(Default)]
struct Round(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    /// By place, whether the row was written; `None` until that is known.
    written: Option<Vec<bool>>,
    wakers: Vec<Option<Waker>>,
}

impl Round {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whoever waits. Only one is woken from here; it wakes the others, most of which are on
    /// its own thread, where that costs next to nothing.
    fn end(&self, written: Vec<bool>) {
        let mut waiting = self.lock();
        waiting.written = Some(written);
        let first = std::iter::from_fn(|| waiting.wakers.pop()).flatten().next();
        drop(waiting);
        if let Some(first) = first {
            first.wake();
        }
    }

    /// Wakes those that are left, if the round has ended.
    fn pass_on(&self) {
        let mut waiting = self.lock();
        if waiting.written.is_none() {
            return;
        }
        let wakers = std::mem::take(&mut waiting.wakers);
        drop(waiting);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

#[derive(Default)]
struct Queue {
    round: Arc<Round>,
    opening: Vec<Opening>,
    settled: Vec<UsageRow>,
    /// Whoever waits until everything handed in so far is written.
    flushes: Vec<oneshot::Sender<()>>,
    /// How many answers wait for this round.
    waiting: usize,
    /// Calls under way, and the most there were in this round and the one before it.
    calls: usize,
    most: usize,
    most_before: usize,
    /// The writer sleeps until something is handed in.
    asleep: bool,
    /// The database is away, or the writer has ended: nothing can be recorded, so nothing may begin.
    shut: bool,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.opening.is_empty() && self.settled.is_empty() && self.flushes.is_empty()
    }

    /// Whether there is nothing to be gained by waiting: all calls wait for this commit already, as
    /// many as there were around the last one, or there is but one, whose provider is at work.
    fn is_due(&self) -> bool {
        let calls = self.most.max(self.most_before);
        !self.flushes.is_empty()
            || (self.waiting > 0 && self.waiting >= calls)
            || (!self.opening.is_empty() && calls == 1)
    }
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Wakes the writer: when a commit is due, or from its sleep.
    work: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put<T>(&self, put: impl FnOnce(&mut Queue) -> T) -> T {
        let mut queue = self.lock();
        let was_due = queue.is_due();
        let out = put(&mut queue);
        let wake = (queue.is_due() && !was_due) || (queue.asleep && !queue.is_empty());
        queue.asleep &= !wake;
        drop(queue);
        if wake {
            self.work.notify_one();
        }
        out
    }

    /// Returns when it is time for the next commit.
    async fn due(&self) {
        let mut until = Instant::now() + LINGER;
        loop {
            let late = Instant::now() >= until;
            {
                let mut queue = self.lock();
                if queue.is_due() || (late && !queue.is_empty()) {
                    return;
                }
                queue.asleep = late;
            }
            if late {
                self.work.notified().await;
                until = Instant::now() + LINGER;
            } else {
                let _ = tokio::time::timeout_at(until, self.work.notified()).await;
            }
        }
    }
}

/// The writing end of the meter.
#[derive(Default)]
pub struct Meter(Arc<Shared>);

/// A row that was handed in to be written.
pub struct Opened {
    shared: Arc<Shared>,
    round: Arc<Round>,
    /// Its place in the round, and that of its waker.
    place: usize,
    waker: Option<usize>,
}

impl Meter {
    /// Whether rows can be written, as far as is known.
    ///
    /// # Errors
    /// `NotRecorded` while they cannot; then nothing may be sent.
    pub fn ready(&self) -> Result<(), NotRecorded> {
        if self.0.lock().shut { Err(NotRecorded) } else { Ok(()) }
    }

    /// Hands in a pending row. It is written soon, whatever becomes of the call.
    ///
    /// # Errors
    /// `NotRecorded` while nothing can be written.
    pub fn open(&self, row: UsageRow, token: Option<TokenId>) -> Result<Opened, NotRecorded> {
        let (round, place) = self.0.put(|queue| {
            if queue.shut {
                return Err(NotRecorded);
            }
            queue.calls += 1;
            queue.most = queue.most.max(queue.calls);
            queue.opening.push(Opening { row, token });
            Ok((Arc::clone(&queue.round), queue.opening.len() - 1))
        })?;
        Ok(Opened { shared: Arc::clone(&self.0), round, place, waker: None })
    }

    /// Hands in the settlement of a row that is in the database. It is written soon, and tried
    /// again for as long as that fails.
    pub fn settle(&self, row: UsageRow) {
        self.0.put(|queue| queue.settled.push(row));
    }

    /// Waits until everything handed in so far is written.
    pub async fn flush(&self) {
        let (done, written) = oneshot::channel();
        self.0.put(|queue| queue.flushes.push(done));
        let _ = written.await;
    }
}

impl Opened {
    /// Returns once the row is committed.
    ///
    /// # Errors
    /// `NotRecorded` when it cannot be; then nothing may be answered.
    pub async fn recorded(&mut self) -> Result<(), NotRecorded> {
        std::future::poll_fn(|cx| self.poll_recorded(cx)).await
    }

    fn poll_recorded(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), NotRecorded>> {
        let mut waiting = self.round.lock();
        if let Some(written) = &waiting.written {
            let known = if written.get(self.place) == Some(&true) { Ok(()) } else { Err(NotRecorded) };
            drop(waiting);
            self.round.pass_on();
            return Poll::Ready(known);
        }
        let waker = Some(cx.waker().clone());
        if let Some(at) = self.waker {
            waiting.wakers[at] = waker;
            return Poll::Pending;
        }
        self.waker = Some(waiting.wakers.len());
        waiting.wakers.push(waker);
        drop(waiting);
        self.shared.put(|queue| queue.waiting += usize::from(Arc::ptr_eq(&queue.round, &self.round)));
        Poll::Pending
    }

    /// Hands in the row's settlement: in place of the pending row, if that is not written yet.
    pub fn settle(&self, row: UsageRow) {
        self.shared.put(|queue| {
            if Arc::ptr_eq(&queue.round, &self.round) {
                queue.opening[self.place].row = row;
            } else {
                queue.settled.push(row);
            }
        });
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(at) = self.waker {
            if let Some(waker) = self.round.lock().wakers.get_mut(at) {
                *waker = None;
            }
            self.round.pass_on();
        }
        self.shared.lock().calls -= 1;
    }
}

/// Writes rows for as long as the process lives.
pub async fn run(db: Database, meter: &Meter) {
    let shared = &*meter.0;
    let mut writer = Writer::new(db, shared);
    loop {
        shared.due().await;
        writer.take();
        while !writer.write().await {
            shared.lock().shut = true;
            writer.take();
            writer.refuse();
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
}

/// However the writer ends: whoever waits for it is told that nothing is written any more.
impl Drop for Writer<'_> {
    fn drop(&mut self) {
        self.shared.lock().shut = true;
        self.refuse();
        self.take();
        self.refuse();
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
        }
    }

    /// Takes over what is waiting.
    fn take(&mut self) {
        let mut queue = self.shared.lock();
        self.round = Some(std::mem::take(&mut queue.round));
        self.opening = std::mem::take(&mut queue.opening);
        self.settled.append(&mut queue.settled);
        self.flushes.append(&mut queue.flushes);
        queue.waiting = 0;
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
        let mut written = vec![true; opening.len()];
        if let Err(error) = self.commit(&opening, &settled).await {
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
            written = self.write_apart(opening, settled).await;
        }
        if let Some(round) = self.round.take() {
            round.end(written);
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

    async fn write_apart(&mut self, opening: Vec<Opening>, mut settled: Vec<UsageRow>) -> Vec<bool> {
        let mut written = Vec::with_capacity(opening.len());
        for opening in opening {
            let done = self.commit(std::slice::from_ref(&opening), &[]).await.is_ok();
            settled.extend(opening.into_settled().filter(|_| !done));
            written.push(done);
        }
        for row in settled {
            let Err(error) = self.commit(&[], std::slice::from_ref(&row)).await else { continue };
            tracing::error!(error = &error as &dyn std::error::Error, request = %row.id, "a settlement could not be written; it is written without its numbers");
            let bare = without_numbers(row);
            if self.commit(&[], std::slice::from_ref(&bare)).await.is_err() && !self.answers().await {
                self.settled.push(bare);
            }
        }
        written
    }

    async fn commit(&mut self, opening: &[Opening], settled: &[UsageRow]) -> Result<(), StorageError> {
        let rows: Vec<&UsageRow> = opening.iter().map(|opening| &opening.row).chain(settled).collect();
        if rows.is_empty() {
            return Ok(());
        }
        match usage::record(&self.db, &rows).await {
            Err(StorageError::Settled) => {
                // Some were settled before: by a commit whose answer was lost, or by another process
                // that took this one for dead. They count once.
                let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
                let mut tx = self.db.read().await?;
                let known = usage::settled_among(&mut tx, &ids).await?;
                tx.rollback().await?;
                let fresh: Vec<&UsageRow> = rows.into_iter().filter(|row| !known.contains(&row.id)).collect();
                usage::record(&self.db, &fresh).await?;
            }
            written => written?,
        }
        if let Err(error) = self.touch(opening).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "when keys were last used could not be written"
            );
        }
        Ok(())
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
        match usage::upsert(&mut tx, &rows).await {
            Err(StorageError::Settled) => {
                // Another process was at the same rows; look again at what is left.
                tx.rollback().await?;
                continue;
            }
            written => written?,
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
