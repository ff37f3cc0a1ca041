//! What Keyward does by itself: probes paused keys, destroys replaced secrets, settles what dead
//! processes left, watches for changes of other processes, and tidies up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;

use super::{ServiceError, Services, key_states, meter};
use crate::domain::clock::{DAY, HOUR, MINUTE, Moment};
use crate::domain::ids::KeyId;
use crate::domain::provider_key::PROBE_EVERY;
use crate::storage::{
    changes, claims, deliveries, generations, idempotency, keys, members, notifications, people,
    pinned_sessions, purchases, questions, reconciliation, sessions, status, throttle,
};

/// A browser that was not seen for this long is a stranger again.
const DEVICES_FOR: i64 = 400 * DAY;
/// Notifications are news, and on record elsewhere.
const NOTICES_FOR: i64 = 400 * DAY;
/// Long enough to ask a receiver what became of one.
const DELIVERIES_FOR: i64 = 30 * DAY;
/// What was decided is history, and on record elsewhere.
const GENERATIONS_FOR: i64 = 90 * DAY;
/// An article that was exported has a home elsewhere.
const QUESTIONS_FOR: i64 = 400 * DAY;
/// Beyond the thirty days that pages compare.
const REPORTS_FOR: i64 = 90 * DAY;
/// A day, and an hour for the message that says so.
const CHECKOUTS_FOR: i64 = 25 * HOUR;
const PROBES_AT_ONCE: usize = 8;
/// No exchange takes a day: a row of one's own that is pending after it was lost on the way.
const LOST_AFTER: Duration = Duration::from_hours(24);
/// A process is dead when its heart has not beaten for this long.
pub(super) const DEAD_AFTER: i64 = MINUTE;

/// Jobs that are running.
pub struct Jobs(Vec<tokio::task::JoinHandle<()>>);

impl Jobs {
    /// Ends all jobs where they stand. What they hand over in one transaction is whole or not there.
    pub fn stop(self) {
        for job in self.0 {
            job.abort();
        }
    }
}

/// Starts all jobs on the process's runtime.
#[must_use]
pub fn start(services: &Arc<Services>) -> Jobs {
    let runtime = services.runtime.clone();
    let this = Arc::clone(services);
    macro_rules! every {
        ($pause:expr, $name:literal, |$services:ident| $work:expr) => {
            runtime.spawn(every($name, $pause, Arc::clone(services), async |$services| $work))
        };
    }
    Jobs(vec![
        runtime.spawn(async move { meter::run(this.db.clone(), &this.meter).await }),
        runtime.spawn(key_states::run(Arc::clone(services))),
        runtime.spawn(watch(Arc::clone(services))),
        every!(Duration::from_secs(5), "probe paused keys", |s| s.probe_due().await),
        every!(Duration::from_secs(5), "send notifications", |s| s.deliver_due().await),
        every!(Duration::from_hours(1), "remind of rotation", |s| s.tell_of_age().await),
        every!(Duration::from_secs(20), "settle what dead processes left", |s| {
            s.keep_meter().await?;
            s.recover_generations(s.clock.now().minus(DEAD_AFTER)).await
        }),
        every!(Duration::from_mins(1), "tidy up", |s| s.tidy().await),
        every!(Duration::from_mins(1), "true up credits and budgets", |s| s.true_up_money().await),
        every!(Duration::from_secs(30), "watch for unusual spend", |s| s.watch_spend().await),
        every!(Duration::from_mins(1), "fetch providers' reports", |s| s.reconcile_due().await),
        every!(Duration::from_mins(10), "rate again and close months", |s| {
            s.rate_again().await?;
            s.close_months().await.map(|_| ())
        }),
        every!(Duration::from_mins(1), "end viewings", |s| s.end_old_viewings().await),
        every!(Duration::from_hours(1), "publish the audit log's heads", |s| s.publish_heads().await),
        every!(Duration::from_hours(1), "seal old audit entries", |s| s.seal_old_entries().await),
        every!(Duration::from_mins(10), "sum days", |s| s.sum_days().await),
        every!(Duration::from_mins(10), "ask providers for their models", |s| s.list_models_due().await),
    ])
}

async fn every(
    name: &'static str,
    pause: Duration,
    services: Arc<Services>,
    job: impl AsyncFn(&Services) -> Result<(), ServiceError>,
) {
    let mut ticks = tokio::time::interval(pause);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let begun = Instant::now();
        let done = job(&services).await;
        let ended = (services.clock.now(), begun.elapsed());
        services.runs.note(name, ended, pause, done.is_err());
        if let Err(error) = done {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                job = name,
                "a job failed; it will be tried again"
            );
        }
    }
}

/// Forgets what other processes change. Losing the connection costs freshness, not correctness.
async fn watch(services: Arc<Services>) {
    loop {
        match changes::Watch::new(&services.db).await {
            Ok(mut watch) => {
                while watch.wait().await.is_ok() {
                    if let Err(error) = services.directory.refresh(services.clock.now()).await {
                        tracing::warn!(error = &error as &dyn std::error::Error, "cannot look for changes");
                    }
                }
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot watch for changes");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

impl Services {
    /// Probes paused keys whose time has come.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn probe_due(&self) -> Result<(), ServiceError> {
        let now = self.clock.now();
        let mut tx = self.db.write().await?;
        let due = keys::take_due_probes(&mut tx, now, now.plus(PROBE_EVERY)).await?;
        if due.is_empty() {
            return Ok(());
        }
        tx.commit().await?;
        futures_util::stream::iter(due).for_each_concurrent(PROBES_AT_ONCE, |key| self.probe(key)).await;
        Ok(())
    }

    async fn probe(&self, key: KeyId) {
        let probed = async {
            let mut tx = self.db.read().await?;
            let found = keys::find_by_id(&mut tx, key).await?;
            tx.rollback().await?;
            match found {
                Some(found) => self.check_by_id(key, found.key.current.version).await,
                None => Ok(()),
            }
        };
        // One key that does not open must not keep the others from their probe.
        if let Err(error) = probed.await {
            tracing::error!(error = &error as &dyn std::error::Error, key = %key, "a paused key could not be probed");
        }
    }

    /// Beats this process's heart, and keeps what it says of itself.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn beat(&self) -> Result<(), ServiceError> {
        let now = self.clock.now();
        let mut tx = self.db.meter().await?;
        changes::beat(&mut tx, self.instance, now).await?;
        status::report(&mut tx, &self.process(now)).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Beats this process's heart and settles the rows of those whose heart has stopped.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn keep_meter(&self) -> Result<(), ServiceError> {
        let now = self.clock.now();
        self.beat().await?;
        let platform = self.directory.platform().await?;
        // A clock that jumps makes nothing look lost that this process has only just begun.
        let lost = if self.up_since.elapsed() > LOST_AFTER { now.minus(DAY) } else { Moment(i64::MIN) };
        let settled = meter::settle_orphans(
            &self.db,
            self.instance,
            &platform.prices,
            now,
            now.minus(DEAD_AFTER),
            lost,
        )
        .await?;
        if settled > 0 {
            tracing::warn!(settled, "usage of a process that died was settled by estimate");
        }
        Ok(())
    }

    /// Destroys what is due and deletes what has run out.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn tidy(&self) -> Result<(), ServiceError> {
        let now = self.clock.now();
        let mut tx = self.db.write().await?;
        let destroyed = keys::destroy_due(&mut tx, now).await?;
        sessions::delete_expired(&mut tx, now).await?;
        throttle::delete_before(&mut tx, now.minus(DAY)).await?;
        people::delete_expired_links(&mut tx, now).await?;
        claims::delete_expired(&mut tx, now).await?;
        members::delete_expired(&mut tx, now).await?;
        people::forget_devices(&mut tx, now.minus(DEVICES_FOR)).await?;
        idempotency::delete_before(&mut tx, now.minus(DAY)).await?;
        pinned_sessions::delete_expired(&mut tx, now.minus(DAY)).await?;
        notifications::delete_before(&mut tx, now.minus(NOTICES_FOR)).await?;
        purchases::expire(&mut tx, now.minus(CHECKOUTS_FOR), now).await?;
        reconciliation::delete_before(&mut tx, now.minus(REPORTS_FOR)).await?;
        deliveries::delete_before(&mut tx, now.minus(DELIVERIES_FOR)).await?;
        generations::delete_before(&mut tx, now.minus(GENERATIONS_FOR)).await?;
        questions::delete_before(&mut tx, now.minus(QUESTIONS_FOR)).await?;
        changes::delete_dead(&mut tx, now.minus(DAY)).await?;
        tx.commit().await?;
        if destroyed > 0 {
            self.db.sweep().await;
            tracing::info!(destroyed, "replaced key versions were destroyed");
        }
        Ok(())
    }
}
