//! How the installation is, for its operator.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::jobs::DEAD_AFTER;
use super::{ServiceError, Services};
use crate::access::actor::Actor;
use crate::access::policy::Action;
use crate::domain::account::PlatformRole;
use crate::domain::clock::{DAY, MINUTE, Moment};
use crate::domain::ids::InstanceId;
use crate::domain::notice::Notice;
use crate::domain::payment::PaymentMethod;
use crate::domain::process::{JobRun, Process};
use crate::storage::status::{self, Waiting};
use crate::storage::{notifications, people};

/// Longer than this, whatever is due waits for something that does not come.
const LONG: i64 = 15 * MINUTE;
/// How far back the operator's news go, and how many of them.
const NEWS_FOR: i64 = 30 * DAY;
const NEWS: i64 = 20;
const SLOW: Duration = Duration::from_secs(1);

/// The last run of each of this process's jobs.
#[derive(Default)]
pub struct Runs(Mutex<BTreeMap<&'static str, JobRun>>);

impl Runs {
    pub fn note(
        &self,
        name: &'static str,
        (ended_at, took): (Moment, Duration),
        every: Duration,
        failed: bool,
    ) {
        let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let (took_ms, every_ms) = (ms(took), ms(every));
        let run = JobRun { name: name.to_owned(), ended_at: ended_at.0, took_ms, every_ms, failed };
        if let Ok(mut runs) = self.0.lock() {
            runs.insert(name, run);
        }
    }

    /// The last run of each job that has run.
    pub fn all(&self) -> Vec<JobRun> {
        self.0.lock().map(|runs| runs.values().cloned().collect()).unwrap_or_default()
    }
}

pub struct Status {
    pub now: Moment,
    pub database: &'static str,
    pub answered_in: Duration,
    pub schema: i64,
    pub bytes: i64,
    /// The ids of the master keys, and the active one.
    pub master_keys: (Vec<u32>, u32),
    pub pending: Waiting,
    pub generations: Waiting,
    pub deliveries: Waiting,
    pub has_mail: bool,
    pub payments: Option<PaymentMethod>,
    /// What happened to the platform's own keys, the latest first.
    pub news: Vec<Notice>,
    pub processes: Vec<Process>,
    /// The one that answers.
    pub own: InstanceId,
}

/// Something that the operator should see to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    SlowDatabase,
    /// A process whose heart has stopped.
    Silent(InstanceId),
    /// A job that failed the last time.
    FailedJob(InstanceId, String),
    /// A job that has not run for several times as long as it pauses.
    LateJob(InstanceId, String),
    /// It does not follow what other processes change.
    Stale(InstanceId),
    /// Processes of different versions.
    Versions,
    LateUsage,
    LateGenerations,
    LateDeliveries,
}

impl Status {
    #[must_use]
    pub fn troubles(&self) -> Vec<Trouble> {
        let mut troubles = Vec::new();
        if self.answered_in > SLOW {
            troubles.push(Trouble::SlowDatabase);
        }
        let (alive, silent): (Vec<_>, Vec<_>) =
            self.processes.iter().partition(|process| self.is_alive(process));
        troubles.extend(silent.iter().map(|process| Trouble::Silent(process.id)));
        for process in &alive {
            let failed = process.jobs.iter().filter(|run| run.failed);
            troubles.extend(failed.map(|run| Trouble::FailedJob(process.id, run.name.clone())));
            let pause = |run: &JobRun| run.every_ms.saturating_mul(3_000).saturating_add(MINUTE);
            let late = process.jobs.iter().filter(|run| self.now.since(Moment(run.ended_at)) > pause(run));
            troubles.extend(late.map(|run| Trouble::LateJob(process.id, run.name.clone())));
            if process.followed_at.is_some_and(|at| process.beat_at.since(at) > DEAD_AFTER) {
                troubles.push(Trouble::Stale(process.id));
            }
        }
        if alive.iter().any(|process| process.version != alive[0].version) {
            troubles.push(Trouble::Versions);
        }
        let late = |waiting: &Waiting| waiting.since.is_some_and(|since| self.now.since(since) > LONG);
        let waits = [
            (&self.pending, Trouble::LateUsage),
            (&self.generations, Trouble::LateGenerations),
            (&self.deliveries, Trouble::LateDeliveries),
        ];
        troubles.extend(waits.into_iter().filter(|(waiting, _)| late(waiting)).map(|(_, trouble)| trouble));
        troubles
    }

    #[must_use]
    pub fn is_alive(&self, process: &Process) -> bool {
        self.now.since(process.beat_at) < DEAD_AFTER
    }
}

impl Services {
    /// How the installation is.
    ///
    /// # Errors
    /// `Denied` for who is no super admin.
    pub async fn status(&self, actor: &Actor) -> Result<Status, ServiceError> {
        self.permit(actor, Action::SeePlatform, None)?;
        let now = self.clock.now();
        let begun = Instant::now();
        let mut tx = self.db.read().await?;
        let schema = status::schema(&mut tx).await?;
        let answered_in = begun.elapsed();
        Ok(Status {
            now,
            database: self.db.kind(),
            answered_in,
            schema,
            bytes: status::size(&mut tx).await?,
            master_keys: self.keyring.ids(),
            pending: status::pending(&mut tx, now).await?,
            generations: status::generations(&mut tx, now).await?,
            deliveries: status::deliveries(&mut tx, now).await?,
            has_mail: self.mailer.is_some(),
            payments: self.payments.as_ref().map(|payments| payments.method()),
            news: notifications::for_operator(&mut tx, now.minus(NEWS_FOR), NEWS).await?,
            processes: status::processes(&mut tx)
                .await?
                .into_iter()
                // Of the process that answers all is known but whether its heart beats.
                .map(|known| match known {
                    own if own.id == self.instance => self.process(own.beat_at),
                    other => other,
                })
                .collect(),
            own: self.instance,
        })
    }

    /// Tells the operator, once of each reference: on Status, and by e-mail.
    pub(super) async fn tell_operator(
        &self,
        news: &Notice,
        reference: Option<&str>,
    ) -> Result<(), ServiceError> {
        let mut tx = self.db.write().await?;
        let is_new = notifications::insert_for_operator(&mut tx, news, reference).await?;
        tx.commit().await?;
        if is_new {
            self.mail_operator(news).await;
        }
        Ok(())
    }

    /// Sends what is told on Status to all super admins, if a mail server is set. That it was told stands,
    /// whatever becomes of the letters.
    pub(super) async fn mail_operator(&self, news: &Notice) {
        if self.mailer.is_none() {
            return;
        }
        let staff = match self.db.read().await {
            Ok(mut tx) => people::list(&mut tx).await,
            Err(error) => Err(error),
        };
        let staff = staff.unwrap_or_else(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "super admins could not be written to");
            Vec::new()
        });
        let words = format!("{}\n\n{}/platform/{}\n", news.text, self.options.public_url, news.page);
        for user in staff {
            if user.platform_role == Some(PlatformRole::SuperAdmin) && user.disabled_at.is_none() {
                self.send_aside(&user.email, news.kind.label(), words.clone());
            }
        }
    }

    /// This process as it is.
    pub(super) fn process(&self, now: Moment) -> Process {
        Process {
            id: self.instance,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.started_at,
            beat_at: now,
            followed_at: self.directory.followed(),
            under_way: i64::try_from(self.meter.under_way()).unwrap_or(i64::MAX),
            jobs: self.runs.all(),
        }
    }
}
