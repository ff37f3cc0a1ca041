//! The meter: every request sent upstream leaves a row, written pending while the call runs and
//! settled when it ends. Rows of neighbouring requests share one commit. Whoever finds that it is time
//! for one writes it where it stands, if nothing has to be waited for; the writer does the rest.

mod at_once;
mod settlement;
mod writer;

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::domain::billing::Shortage;
use crate::domain::clock::Moment;
use crate::domain::ids::TokenId;
use crate::domain::usage::{UsageRow, UsageState};
use crate::storage::Database;

use at_once::Books;

pub use settlement::{Ending, rate, settle, settle_orphan};
pub use writer::{run, settle_orphans};

/// How long a row waits until it is written, whoever waits for it or not. A call that is over by then is
/// written once.
const LINGER: Duration = Duration::from_millis(5);
/// Turns of a thread's loop in which nothing is handed in, until it counts as idle. An answer that has come
/// takes two of them: one of its connection, one of its call.
const QUIET_TURNS: u32 = 2;

thread_local! {
    /// How often a row was opened, or somebody came to wait for one, on this thread.
    static MOVES: Cell<u64> = const { Cell::new(0) };
}

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

impl From<Option<Shortage>> for Outcome {
    fn from(shortage: Option<Shortage>) -> Self {
        shortage.map_or(Self::Written, Self::Short)
    }
}

/// A row that is to be opened. Pending, or settled if its call was quick.
struct Opening {
    /// Boxed: it is handed from one list to another while its call runs.
    row: Box<UsageRow>,
    token: Option<TokenId>,
}

impl Opening {
    /// The row of a call that is over; of one that is not, nothing is kept: its own end follows.
    fn into_settled(self) -> Option<UsageRow> {
        (self.row.state != UsageState::Pending).then_some(*self.row)
    }
}

/// What is written together.
#[derive(Default)]
struct Batch {
    round: Arc<Round>,
    opening: Vec<Opening>,
    settled: Vec<UsageRow>,
    flushes: Vec<oneshot::Sender<()>>,
}

impl Batch {
    /// Tells everybody who waits that it is written.
    fn end(&mut self, outcomes: Vec<Outcome>) {
        std::mem::take(&mut self.round).end(outcomes);
        for done in self.flushes.drain(..) {
            let _ = done.send(());
        }
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

/// A row's place in its round.
#[derive(Clone)]
struct Place {
    round: Arc<Round>,
    index: usize,
}

/// The row of a call under way, for which nobody waits yet.
struct Young {
    opening: Opening,
    since: Instant,
}

#[derive(Default)]
struct Queue {
    /// Rows in the order in which they were opened, by number.
    young: BTreeMap<u64, Young>,
    opened: u64,
    /// Where those went that were taken out for their age.
    places: HashMap<u64, Place>,
    /// What the next batch writes.
    round: Arc<Round>,
    opening: Vec<Opening>,
    settled: Vec<UsageRow>,
    /// Whoever waits until everything handed in so far is written.
    flushes: Vec<oneshot::Sender<()>>,
    /// Since when there is a next batch.
    since: Option<Instant>,
    /// Somebody waits for it.
    awaited: bool,
    /// Nothing else is left to do where it is waited for.
    ripe: bool,
    /// Calls under way.
    calls: usize,
    /// The writer sleeps until something is handed in.
    asleep: bool,
    /// The database is away, or the writer has ended: nothing can be recorded, so nothing may begin.
    shut: bool,
    /// A batch was taken and is not written yet. The next waits for it, or what it settles might not be
    /// there.
    writing: bool,
    /// A batch that could not be written where it was taken. It is the writer's.
    returned: Option<Batch>,
}

impl Queue {
    /// Whether there is nothing to be gained by waiting.
    fn is_due(&self) -> bool {
        !self.writing && (self.ripe || self.returned.is_some() || !self.flushes.is_empty())
    }

    /// When the writer takes what waits, due or not; never, if nothing waits or another batch is written.
    fn until(&self) -> Option<Instant> {
        let oldest = self.young.first_key_value().map(|(_, young)| young.since);
        let since = self.since.into_iter().chain(oldest).min();
        since.filter(|_| !self.writing).map(|since| since + LINGER)
    }

    /// Gives a row its place in the next batch.
    fn place(&mut self, opening: Opening) -> Place {
        self.since.get_or_insert_with(Instant::now);
        self.opening.push(opening);
        Place { round: Arc::clone(&self.round), index: self.opening.len() - 1 }
    }

    /// Finds the place of the row of this number. One that had none gets it now.
    fn find(&mut self, number: u64, place: &mut Option<Place>) {
        if place.is_none() {
            *place = match self.young.remove(&number) {
                Some(young) => Some(self.place(young.opening)),
                None => self.places.remove(&number),
            };
        }
    }

    /// Whether this is a place in the next batch.
    fn is_next(&self, place: Option<&Place>) -> bool {
        place.is_some_and(|place| Arc::ptr_eq(&place.round, &self.round))
    }

    fn settle(&mut self, row: UsageRow) {
        self.since.get_or_insert_with(Instant::now);
        self.settled.push(row);
    }

    /// Takes what is to be written now. Rows of calls that may be over soon are left, if they can be.
    fn take(&mut self) -> Batch {
        self.writing = true;
        if let Some(returned) = self.returned.take() {
            return returned;
        }
        let (now, all) = (Instant::now(), self.shut || !self.flushes.is_empty());
        while let Some(first) = self.young.first_entry()
            && (all || first.get().since + LINGER <= now)
        {
            let (number, young) = first.remove_entry();
            let place = self.place(young.opening);
            self.places.insert(number, place);
        }
        self.since = None;
        self.awaited = false;
        self.ripe = false;
        Batch {
            round: std::mem::take(&mut self.round),
            opening: std::mem::take(&mut self.opening),
            settled: std::mem::take(&mut self.settled),
            flushes: std::mem::take(&mut self.flushes),
        }
    }
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Wakes the writer: when a commit is due, or from its sleep.
    work: Notify,
    /// Through when days may be summed, as far as it was heard here.
    horizon: AtomicI64,
    /// The writer's, once it is at work.
    db: OnceLock<Database>,
    books: Mutex<Books>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put<T>(&self, put: impl FnOnce(&mut Queue) -> T) -> T {
        let mut queue = self.lock();
        let was_due = queue.is_due();
        let out = put(&mut queue);
        let wake = (queue.is_due() && !was_due) || (queue.asleep && queue.until().is_some());
        queue.asleep &= !wake;
        drop(queue);
        if wake {
            self.work.notify_one();
        }
        out
    }

    /// Sees to it that this round is written when the thread has nothing else to do: until then more may
    /// come that share the commit, and then nothing is gained by waiting.
    async fn write_when_idle(&self, round: &Arc<Round>) {
        let (mut seen, mut quiet) = (MOVES.get(), 0);
        while quiet < QUIET_TURNS {
            tokio::task::yield_now().await;
            if !Arc::ptr_eq(&self.lock().round, round) {
                return;
            }
            quiet = if MOVES.get() == seen { quiet + 1 } else { 0 };
            seen = MOVES.get();
        }
        if !self.write_here(round) {
            self.put(|queue| queue.ripe |= Arc::ptr_eq(&queue.round, round));
        }
    }

    /// Takes the next batch when it is time for it.
    async fn due(&self) -> Batch {
        loop {
            let until = {
                let mut queue = self.lock();
                let until = queue.until();
                if queue.is_due() || until.is_some_and(|until| until <= Instant::now()) {
                    return queue.take();
                }
                queue.asleep = until.is_none();
                until
            };
            let woken = self.work.notified();
            match until {
                Some(until) => drop(tokio::time::timeout_at(until, woken).await),
                None => woken.await,
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
    number: u64,
    /// Its place, once it has one, and that of its waker.
    place: Option<Place>,
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

    /// Hands in a pending row. It is written soon, whatever becomes of the call.
    ///
    /// # Errors
    /// `NotRecorded` while nothing can be written.
    pub fn open(&self, row: UsageRow, token: Option<TokenId>) -> Result<Opened, NotRecorded> {
        MOVES.set(MOVES.get() + 1);
        let row = Box::new(row);
        let number = self.0.put(|queue| {
            if queue.shut {
                return Err(NotRecorded::Away);
            }
            queue.calls += 1;
            queue.opened += 1;
            let young = Young { opening: Opening { row, token }, since: Instant::now() };
            queue.young.insert(queue.opened, young);
            Ok(queue.opened)
        })?;
        Ok(Opened { shared: Arc::clone(&self.0), number, place: None, waker: None })
    }

    /// Hands in the settlement of a row that is in the database. It is written soon, and tried
    /// again for as long as that fails.
    pub fn settle(&self, row: UsageRow) {
        self.0.put(|queue| queue.settle(row));
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
        MOVES.set(MOVES.get() + 1);
        let Self { shared, number, place, .. } = &mut *self;
        let first = {
            let mut queue = shared.lock();
            queue.find(*number, place);
            queue.is_next(place.as_ref()) && !std::mem::replace(&mut queue.awaited, true)
        };
        if let (true, Some(place)) = (first, place) {
            shared.write_when_idle(&place.round).await;
        }
        std::future::poll_fn(|cx| self.poll_recorded(cx)).await
    }

    fn poll_recorded(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), NotRecorded>> {
        let Some(place) = &self.place else { return Poll::Ready(Err(NotRecorded::Away)) };
        let mut waiting = place.round.lock();
        if let Some(outcomes) = &waiting.outcomes {
            let known = match outcomes.get(place.index) {
                Some(Outcome::Written) => Ok(()),
                Some(Outcome::Short(shortage)) => Err(NotRecorded::Short(*shortage)),
                Some(Outcome::Lost) | None => Err(NotRecorded::Away),
            };
            drop(waiting);
            place.round.pass_on();
            return Poll::Ready(known);
        }
        let waker = Some(cx.waker().clone());
        if let Some(at) = self.waker {
            waiting.wakers[at] = waker;
        } else {
            self.waker = Some(waiting.wakers.len());
            waiting.wakers.push(waker);
        }
        Poll::Pending
    }

    /// Hands in the row's settlement: in place of the pending row, if that is not written yet.
    pub fn settle(&mut self, row: UsageRow) {
        let Self { shared, number, place, .. } = self;
        shared.put(|queue| {
            queue.find(*number, place);
            match place {
                Some(place) if queue.is_next(Some(place)) => *queue.opening[place.index].row = row,
                _ => queue.settle(row),
            }
        });
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let Self { shared, number, place, waker } = self;
        {
            let mut queue = shared.lock();
            queue.calls -= 1;
            // Whatever became of the call, its row is written.
            queue.find(*number, place);
        }
        if let (Some(at), Some(place)) = (waker, place) {
            if let Some(waker) = place.round.lock().wakers.get_mut(*at) {
                *waker = None;
            }
            place.round.pass_on();
        }
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
        until(|| meter.0.lock().round.lock().wakers.len() == 5).await;
        // The first saw to the commit before it began to wait, so it is the last, which the writer wakes.
        waiting[0].abort();
        tokio::task::yield_now().await;
        let round = meter.0.lock().take().round;
        let mut outcomes = vec![Outcome::Written; 5];
        outcomes[1] = Outcome::Lost;
        round.end(outcomes);
        let mut told = Vec::new();
        for task in waiting {
            let told_in_time = tokio::time::timeout(Duration::from_secs(5), task).await;
            told.push(told_in_time.expect("somebody was never told").ok());
        }
        assert_eq!(told, [None, Some(false), Some(true), Some(true), Some(true)]);
        assert_eq!(meter.0.lock().calls, 0);
    }

    async fn until(done: impl Fn() -> bool) {
        let patience = Instant::now() + Duration::from_secs(5);
        while !done() {
            assert!(Instant::now() < patience, "it never came to that");
            tokio::task::yield_now().await;
        }
    }

    /// A call that is over soon is written once, whatever is written meanwhile; one that takes longer, or
    /// that somebody waits for, is written pending, and again when it is settled.
    #[tokio::test]
    async fn a_quick_call_is_one_row() {
        let meter = Meter::default();
        let open = || meter.open(pending(), None).unwrap();
        let settled = || UsageRow { state: UsageState::Final, ..pending() };
        let take = || {
            let taken = meter.0.lock().take();
            meter.0.lock().writing = false;
            let states: Vec<_> = taken.opening.iter().map(|opening| opening.row.state).collect();
            (states, taken.settled.len())
        };
        let (mut quick, mut slow, mut awaited) = (open(), open(), open());
        assert!(futures_util::poll!(Box::pin(awaited.recorded())).is_pending());
        quick.settle(settled());
        assert_eq!(take(), (vec![UsageState::Pending, UsageState::Final], 0));
        meter.0.lock().young.values_mut().for_each(|young| young.since -= LINGER);
        let left = open();
        assert_eq!(take(), (vec![UsageState::Pending], 0), "the slow one, and no other");
        slow.settle(settled());
        awaited.settle(settled());
        drop(left);
        assert_eq!(take(), (vec![UsageState::Pending], 2), "one that was left is written all the same");
        drop((quick, slow, awaited));
        let queue: &Queue = &meter.0.lock();
        assert!(queue.calls == 0 && queue.young.is_empty() && queue.places.is_empty());
    }

    #[tokio::test]
    async fn nothing_begins_while_nothing_can_be_written() {
        let meter = Meter::default();
        assert!(meter.open(pending(), None).is_ok());
        meter.0.lock().shut = true;
        assert!(meter.open(pending(), None).is_err());
    }
}
