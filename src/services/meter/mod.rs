//! The meter: every request sent upstream leaves a row, written pending while the call runs and
//! settled when it ends. Rows of neighbouring requests share one commit.

mod settlement;
mod writer;

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::domain::billing::Shortage;
use crate::domain::clock::Moment;
use crate::domain::ids::TokenId;
use crate::domain::money::Nanos;
use crate::domain::usage::{UsageRow, UsageState};

pub use settlement::{Ending, rate, settle, settle_orphan};
pub use writer::{run, settle_orphans};

/// How long a row waits for neighbours to share a commit with. A call that is over by then is
/// written once.
const LINGER: Duration = Duration::from_millis(5);
/// The same while some call waits for its hold before it begins.
const LINGER_HELD: Duration = Duration::from_millis(1);

/// The row was not written: the request must not be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRecorded {
    #[error("usage could not be recorded")]
    Away,
    /// What is left does not cover what the row would hold.
    #[error("there is not enough left")]
    Short(Shortage),
}

/// What became of a row that was to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Written,
    Short(Shortage),
    Lost,
}

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
    /// By place, what became of the row; `None` until that is known.
    outcomes: Option<Vec<Outcome>>,
    wakers: Vec<Option<Waker>>,
}

impl Round {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whoever waits. Only one is woken from here; it wakes the others, most of which are on
    /// its own thread, where that costs next to nothing.
    fn end(&self, outcomes: Vec<Outcome>) {
        let mut waiting = self.lock();
        waiting.outcomes = Some(outcomes);
        let first = std::iter::from_fn(|| waiting.wakers.pop()).flatten().next();
        drop(waiting);
        if let Some(first) = first {
            first.wake();
        }
    }

    /// Wakes those that are left, if the round has ended.
    fn pass_on(&self) {
        let mut waiting = self.lock();
        if waiting.outcomes.is_none() {
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
    /// Some call begins only when its row is written, since the row holds something back.
    held_up: bool,
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
    /// many as there were around the last one; or nearly all, where some have yet to begin; or there
    /// is but one, whose provider is at work.
    fn is_due(&self) -> bool {
        let calls = self.most.max(self.most_before);
        !self.flushes.is_empty()
            || (self.held_up && self.waiting * 8 >= calls * 7)
            || (self.waiting > 0 && self.waiting >= calls)
            || (!self.opening.is_empty() && calls == 1)
    }
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Wakes the writer: when a commit is due, or from its sleep.
    work: Notify,
    /// Through when days may be summed, as far as it was heard here.
    horizon: AtomicI64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put<T>(&self, put: impl FnOnce(&mut Queue) -> T) -> T {
        let mut queue = self.lock();
        let (was_due, was_held_up) = (queue.is_due(), queue.held_up);
        let out = put(&mut queue);
        let wake = (queue.is_due() && !was_due)
            || (queue.asleep && !queue.is_empty())
            || (queue.held_up && !was_held_up);
        queue.asleep &= !wake;
        drop(queue);
        if wake {
            self.work.notify_one();
        }
        out
    }

    /// Returns when it is time for the next commit.
    async fn due(&self) {
        let mut begun = Instant::now();
        loop {
            let (until, late) = {
                let mut queue = self.lock();
                let until = begun + if queue.held_up { LINGER_HELD } else { LINGER };
                let late = Instant::now() >= until;
                if queue.is_due() || (late && !queue.is_empty()) {
                    return;
                }
                queue.asleep = late;
                (until, late)
            };
            if late {
                self.work.notified().await;
                begun = Instant::now();
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
    /// Takes note that days through this moment may be summed.
    pub fn days_may_be_summed(&self, through: Moment) {
        self.0.horizon.fetch_max(through.0, Ordering::SeqCst);
    }

    /// How many calls are under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.0.lock().calls
    }

    /// Whether rows can be written, as far as is known.
    ///
    /// # Errors
    /// `NotRecorded` while they cannot; then nothing may be sent.
    pub fn ready(&self) -> Result<(), NotRecorded> {
        if self.0.lock().shut { Err(NotRecorded::Away) } else { Ok(()) }
    }

    /// Hands in a pending row. It is written soon, whatever becomes of the call.
    ///
    /// # Errors
    /// `NotRecorded` while nothing can be written.
    pub fn open(&self, row: UsageRow, token: Option<TokenId>) -> Result<Opened, NotRecorded> {
        let (round, place) = self.0.put(|queue| {
            if queue.shut {
                return Err(NotRecorded::Away);
            }
            queue.held_up |= row.held > Nanos::ZERO;
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
    /// `Away` when it cannot be, `Short` when what is left does not cover it; then nothing may be
    /// answered.
    pub async fn recorded(&mut self) -> Result<(), NotRecorded> {
        std::future::poll_fn(|cx| self.poll_recorded(cx)).await
    }

    fn poll_recorded(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), NotRecorded>> {
        let mut waiting = self.round.lock();
        if let Some(outcomes) = &waiting.outcomes {
            let known = match outcomes.get(self.place) {
                Some(Outcome::Written) => Ok(()),
                Some(Outcome::Short(shortage)) => Err(NotRecorded::Short(*shortage)),
                Some(Outcome::Lost) | None => Err(NotRecorded::Away),
            };
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

#[cfg(test)]
mod tests {
    use super::settlement::tests::pending;
    use super::*;

    /// Whoever waits is told, each of its own row, although only the first is woken by the writer;
    /// one that left meanwhile does not keep the word to itself.
    #[tokio::test]
    async fn every_answer_that_waits_is_told() {
        let meter = Meter::default();
        let wait = || {
            let mut opened = meter.open(pending(), None).unwrap();
            tokio::spawn(async move { opened.recorded().await.is_ok() })
        };
        let waiting: Vec<_> = (0..5).map(|_| wait()).collect();
        tokio::task::yield_now().await;
        // The last is the one that the writer wakes.
        waiting[4].abort();
        tokio::task::yield_now().await;
        let round = std::mem::take(&mut meter.0.lock().round);
        let mut outcomes = vec![Outcome::Written; 5];
        outcomes[1] = Outcome::Lost;
        round.end(outcomes);
        let mut told = Vec::new();
        for task in waiting {
            let told_in_time = tokio::time::timeout(Duration::from_secs(5), task).await;
            told.push(told_in_time.expect("somebody was never told").ok());
        }
        assert_eq!(told, [Some(true), Some(false), Some(true), Some(true), None]);
        assert_eq!(meter.0.lock().calls, 0);
    }

    /// A call that is over before its row is written is written once; later it is written again.
    #[tokio::test]
    async fn a_quick_call_is_one_row() {
        let meter = Meter::default();
        let (quick, slow) = (meter.open(pending(), None).unwrap(), meter.open(pending(), None).unwrap());
        let settled = || UsageRow { state: UsageState::Final, ..pending() };
        quick.settle(settled());
        let taken = std::mem::take(&mut *meter.0.lock());
        assert_eq!(
            taken.opening.iter().map(|opening| opening.row.state).collect::<Vec<_>>(),
            [UsageState::Final, UsageState::Pending]
        );
        meter.0.lock().calls = 2;
        slow.settle(settled());
        assert_eq!(meter.0.lock().settled.len(), 1);
        assert!(meter.0.lock().opening.is_empty());
    }

    #[tokio::test]
    async fn nothing_begins_while_nothing_can_be_written() {
        let meter = Meter::default();
        assert!(meter.ready().is_ok());
        meter.0.lock().shut = true;
        assert!(meter.ready().is_err() && meter.open(pending(), None).is_err());
    }
}
