//! Writing a batch on the thread that finds it due. That may be one which serves requests, so it never waits
//! for others that write, and for the disk only when SQLite begins its log anew.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Batch, Opening, Outcome, Round, Shared};
use crate::domain::clock::{MINUTE, Moment, SECOND};
use crate::domain::ids::{KeyId, TokenId};
use crate::domain::usage::UsageRow;
use crate::storage::holds::{self, Used};
use crate::storage::{AtOnce, Database};

/// Rows that are written at once: what would keep a thread from its requests for longer than a millisecond or
/// so is left to the writer.
const MOST_ROWS: usize = 128;
/// How often it is looked at through when days may be summed.
const LOOK_EVERY: Duration = Duration::from_mins(1);

/// What whoever writes remembers from batch to batch.
#[derive(Default)]
pub(super) struct Books {
    /// When it was looked at through when days may be summed.
    pub looked: Option<Instant>,
    keys: HashMap<KeyId, Moment>,
    tokens: HashMap<TokenId, Moment>,
}

impl Books {
    /// Whether it was looked at lately: far more often than days are summed after it was announced.
    pub fn has_looked(&self) -> bool {
        self.looked.is_some_and(|looked| looked.elapsed() <= LOOK_EVERY)
    }

    /// What is to be noted as used last: to the second for keys, to the minute for tokens. In one order in
    /// every process, so that two of them wait for each other instead of locking each other out.
    pub fn used(&self, opening: &[Opening]) -> Used {
        let used = opening.iter().map(|opening| (opening.row.key_id, opening.row.started_at));
        let mut keys: Vec<_> = used.filter(|(key, at)| is_stale(self.keys.get(key), *at, SECOND)).collect();
        let used = opening.iter().filter_map(|opening| Some((opening.token?, opening.row.started_at)));
        let mut tokens: Vec<_> =
            used.filter(|(token, at)| is_stale(self.tokens.get(token), *at, MINUTE)).collect();
        keep_last(&mut keys);
        keep_last(&mut tokens);
        Used { keys, tokens }
    }

    pub fn note(&mut self, used: Used) {
        self.keys.extend(used.keys);
        self.tokens.extend(used.tokens);
    }
}

fn is_stale(last: Option<&Moment>, now: Moment, after: i64) -> bool {
    last.is_none_or(|last| now.since(*last) >= after)
}

/// Sorts by id, and keeps the last moment of each.
fn keep_last<I: Ord + Copy>(uses: &mut Vec<(I, Moment)>) {
    uses.sort_unstable_by(|(a, first), (b, second)| a.cmp(b).then(second.cmp(first)));
    uses.dedup_by_key(|(id, _)| *id);
}

impl Shared {
    pub(super) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes this round on this thread; false if that is not possible without waiting.
    pub(super) fn write_here(&self, round: &Arc<Round>) -> bool {
        let Some(turn) = self.db.get().and_then(Database::try_at_once) else { return false };
        let mut taken = {
            let mut queue = self.lock();
            let rows = queue.opening.iter().map(|opening| &*opening.row).chain(&queue.settled);
            let idle = !queue.writing && !queue.shut && queue.returned.is_none();
            if !idle || !Arc::ptr_eq(&queue.round, round) || !self.is_simple(rows) {
                return false;
            }
            Taken { shared: self, batch: Some(queue.take()) }
        };
        let batch = taken.batch.as_ref();
        let outcomes = batch.and_then(|batch| self.record_at_once(turn, &batch.opening, &batch.settled));
        let Some(outcomes) = outcomes else { return false };
        if let Some(mut batch) = taken.batch.take() {
            batch.end(outcomes);
        }
        true
    }

    /// Whether these rows are few, and none of them is of a day that may be summed already.
    pub(super) fn is_simple<'a>(&self, rows: impl Iterator<Item = &'a UsageRow>) -> bool {
        let horizon = Moment(self.horizon.load(Ordering::SeqCst));
        let mut count = 0;
        for row in rows {
            count += 1;
            if count > MOST_ROWS || holds::is_late(row, horizon) {
                return false;
            }
        }
        self.books().has_looked()
    }

    /// Writes a batch at once, or nothing of it; then the writer finds out what to do about it.
    pub(super) fn record_at_once(
        &self,
        turn: AtOnce,
        opening: &[Opening],
        settled: &[UsageRow],
    ) -> Option<Vec<Outcome>> {
        let opened: Vec<&UsageRow> = opening.iter().map(|opening| &*opening.row).collect();
        let settled: Vec<&UsageRow> = settled.iter().collect();
        let mut books = self.books();
        let used = books.used(opening);
        match holds::record_at_once(turn, &opened, &settled, &used) {
            Ok(shortages) => {
                books.note(used);
                Some(shortages.into_iter().map(Outcome::from).collect())
            }
            Err(error) => {
                if !error.is_busy() {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "usage could not be written at once; it is tried the long way"
                    );
                }
                None
            }
        }
    }
}

/// A batch that was taken, and goes to the writer unless it was written.
struct Taken<'a> {
    shared: &'a Shared,
    batch: Option<Batch>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let left = self.batch.take();
        self.shared.put(|queue| {
            queue.writing = false;
            match left {
                // The writer has ended: nothing of it will be written.
                Some(mut batch) if queue.shut => batch.end(Vec::new()),
                Some(batch) => queue.returned = Some(batch),
                None => {}
            }
        });
    }
}
