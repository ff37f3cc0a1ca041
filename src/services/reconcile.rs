//! Reconciliation: a read-only key lets a daily job hold Keyward's books against the provider's own
//! report, a tenant's for its own keys and the operator's for the shared ones.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::provider_keys::Holder;
use super::{Problems, ServiceError, Services};
use crate::access::actor::Actor;
use crate::access::policy::Action;
use crate::access::scope::Scope;
use crate::crypto::sealed::Binding;
use crate::crypto::secret::Secret;
use crate::domain::audit::AuditAction;
use crate::domain::clock::{DAY, HOUR, MINUTE, Moment};
use crate::domain::ids::Owner;
use crate::domain::money::Nanos;
use crate::domain::notice::{self, Notice};
use crate::domain::provider_key::{Provider, hint};
use crate::domain::reconcile::{Cause, Line, Recorded, Reported, compare};
use crate::outbound::Trust;
use crate::providers::reports::{self, Found, Page, Question};
use crate::storage::reconciliation::{self, ReportKey};
use crate::storage::{Tx, notifications};

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);
/// An answer's page.
const MAX_ANSWER: usize = 8 * 1_024 * 1_024;
/// More pages than this are no report.
const MOST_PAGES: usize = 2_000;
const MOST_LINES: usize = 20_000;
/// Lines that are written at once: the writer is everybody's.
const CHUNK: usize = 200;
/// All questions together, and for how long somebody waits for the page.
const DEADLINE: std::time::Duration = std::time::Duration::from_mins(5);
const WAITED_FOR: std::time::Duration = std::time::Duration::from_secs(20);
const LEASE: i64 = 10 * MINUTE;
/// A day that began so long ago has nothing in it that is still to be settled.
const SETTLED_AFTER: i64 = 4 * DAY;
/// Alarms are for what is news.
const ALARMS_FOR: i64 = 4 * DAY;
/// How often it is told that the provider counts less of a key.
const LESS_EVERY: i64 = 30 * DAY;

/// Why a report could not be fetched: what its page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    Rejected,
    Unreachable,
    Limited,
    Unreadable,
    /// On this side; the log says why.
    Internal,
}

impl Failure {
    fn word(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Unreachable => "unreachable",
            Self::Limited => "limited",
            Self::Unreadable => "unreadable",
            Self::Internal => "internal",
        }
    }
}

/// A provider's report beside Keyward's books.
pub struct Reconciled {
    pub key: ReportKey,
    pub lines: Vec<Line>,
}

fn binding(owner: Owner, provider: Provider) -> Binding {
    Binding::new("report key").with(owner.as_uuid().as_bytes()).with(provider.as_str().as_bytes())
}

impl Services {
    /// What both sides say of the last thirty days, as it was when the report was last read, for each
    /// provider whose report is.
    ///
    /// # Errors
    /// `Denied` to whoever may not see the owner's usage.
    pub async fn reconciled(&self, actor: &Actor, holder: Holder) -> Result<Vec<Reconciled>, ServiceError> {
        let scope = &holder.scope;
        match scope.about(holder.changers) {
            Some(about) => self.permit(actor, Action::SeeUsage, Some(about))?,
            None => self.permit(actor, Action::SeePlatform, None)?,
        }
        let mut tx = self.db.read().await?;
        let mut all = Vec::new();
        for key in reconciliation::keys(&mut tx, scope).await? {
            let lines = match key.fetched_at {
                // Judged as of then: neither side has grown since.
                Some(read_at) => {
                    let window = reports::window(self.clock.now());
                    self.compared(&mut tx, scope, key.provider, window, read_at).await?
                }
                None => Vec::new(),
            };
            all.push(Reconciled { key, lines });
        }
        Ok(all)
    }

    async fn compared(
        &self,
        tx: &mut Tx,
        scope: &Scope,
        provider: Provider,
        window: (Moment, Moment),
        read_at: Moment,
    ) -> Result<Vec<Line>, ServiceError> {
        let reported = reconciliation::report(tx, scope, provider, window).await?;
        let recorded = reconciliation::recorded(tx, scope, provider, window).await?;
        let keys = reconciliation::known_keys(tx, scope, provider).await?;
        Ok(compare(&reported, &recorded, &keys, read_at))
    }

    /// Adds a report key after a live check, in place of the one that was there, and reads with it. True
    /// when it was read; what takes longer, or fails, is tried again by the job.
    ///
    /// # Errors
    /// `Invalid` with the reason at its field.
    pub async fn add_report_key(
        &self,
        actor: &Actor,
        holder: Holder,
        provider: &str,
        secret: &Secret,
    ) -> Result<bool, ServiceError> {
        self.permit_keys(actor, &holder.scope, holder.changers)?;
        let invalid = |message: String| ServiceError::Invalid(Problems::field("api_key", message));
        let provider = Provider::parse(provider).filter(|provider| reports::PROVIDERS.contains(provider));
        let provider = provider.ok_or_else(|| {
            ServiceError::Invalid(Problems::field("provider", "Choose Anthropic or OpenAI."))
        })?;
        let prefix = reports::prefix(provider).unwrap_or_default();
        let secret = Secret::new(secret.expose().trim().to_owned());
        let plain = secret.expose().len() <= 512 && secret.expose().bytes().all(|b| b.is_ascii_graphic());
        if !secret.expose().starts_with(prefix) || !plain {
            return Err(invalid(format!(
                "Paste an Admin key of {}: it begins {prefix}. Keys for requests go to API keys.",
                provider.label()
            )));
        }
        let now = self.clock.now();
        let first = reports::questions(provider).remove(0);
        let failed = |failure| match failure {
            Failure::Rejected => invalid(format!("{} rejected this key.", provider.label())),
            _ => invalid(format!("{} could not be asked just now. Try again.", provider.label())),
        };
        self.page_of(provider, &secret, &first, reports::window(now), None).await.map_err(failed)?;
        let key = ReportKey {
            owner: holder.scope.owner(),
            provider,
            hint: hint(secret.expose(), prefix),
            created_at: now,
            created_by: actor.email.clone(),
            fetched_at: None,
            failure: String::new(),
        };
        let scope = &holder.scope;
        let mut tx = self.db.write().await?;
        let sealed = self.seal_bound(&mut tx, scope, &binding(scope.owner(), provider), &secret, now).await?;
        // The job leaves it alone while it is read from here.
        reconciliation::put_key(&mut tx, &key, &sealed, now.plus(2 * MINUTE)).await?;
        let detail = serde_json::json!({ "provider": provider, "hint": key.hint });
        self.record(&mut tx, scope.owner(), actor, AuditAction::ReportKeyAdded, provider.as_str(), detail)
            .await?;
        tx.commit().await?;
        // What takes longer is left to the job.
        match tokio::time::timeout(WAITED_FOR, self.reconcile(&key)).await {
            Ok(read) => Ok(read?.is_none()),
            Err(_) => Ok(false),
        }
    }

    /// Removes a report key and what it read.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn remove_report_key(
        &self,
        actor: &Actor,
        holder: Holder,
        provider: &str,
    ) -> Result<(), ServiceError> {
        self.permit_keys(actor, &holder.scope, holder.changers)?;
        let provider = Provider::parse(provider).ok_or(ServiceError::NotFound)?;
        let mut tx = self.db.write().await?;
        if !reconciliation::delete_key(&mut tx, &holder.scope, provider).await? {
            return Err(ServiceError::NotFound);
        }
        let owner = holder.scope.owner();
        let detail = serde_json::json!({ "provider": provider });
        self.record(&mut tx, owner, actor, AuditAction::ReportKeyRemoved, provider.as_str(), detail).await?;
        tx.commit().await?;
        self.db.sweep().await;
        Ok(())
    }

    /// Reads the reports that are due, and compares.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn reconcile_due(&self) -> Result<(), ServiceError> {
        let mut failed = None;
        loop {
            let now = self.clock.now();
            let mut tx = self.db.write().await?;
            let due = reconciliation::take_due(&mut tx, now, now.plus(LEASE)).await?;
            tx.commit().await?;
            let Some(key) = due else { break };
            // One that does not open must not keep the others.
            if let Err(error) = self.reconcile(&key).await {
                tracing::error!(error = &error as &dyn std::error::Error, owner = %key.owner.as_uuid(), "a report could not be read");
                let scope = Scope::of_system(key.owner);
                let (word, next) = (Failure::Internal.word(), now.plus(HOUR));
                let mut tx = self.db.write().await?;
                reconciliation::note_fetch(&mut tx, &scope, key.provider, None, word, next).await?;
                tx.commit().await?;
                failed = Some(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Reads a report and writes it down; gives why it could not be read, if so.
    async fn reconcile(&self, key: &ReportKey) -> Result<Option<Failure>, ServiceError> {
        let (now, provider) = (self.clock.now(), key.provider);
        let scope = Scope::of_system(key.owner);
        let mut tx = self.db.read().await?;
        let Some(sealed) = reconciliation::sealed(&mut tx, &scope, provider).await? else { return Ok(None) };
        let secret = self.open_bound(&mut tx, &scope, &binding(scope.owner(), provider), &sealed).await?;
        tx.rollback().await?;
        let window = reports::window(now);
        let fetching = self.fetch(provider, &secret, window, now);
        let fetched = tokio::time::timeout(DEADLINE, fetching).await.unwrap_or(Err(Failure::Unreachable));
        let report = match fetched {
            Ok(report) => report,
            Err(failure) => {
                // A key that was rejected is as wrong in an hour; a day is soon enough.
                let wait = if failure == Failure::Rejected { DAY } else { HOUR };
                if let Some(mut tx) = self.while_held(&scope, provider, &sealed).await? {
                    let (word, next) = (failure.word(), now.plus(wait));
                    reconciliation::note_fetch(&mut tx, &scope, provider, None, word, next).await?;
                    tx.commit().await?;
                }
                return Ok(Some(failure));
            }
        };
        // After the report, so that what it counts is in the books.
        let (days, uses) = self.add_up(&scope, key, window).await?;
        let Some(mut tx) = self.while_held(&scope, provider, &sealed).await? else { return Ok(None) };
        reconciliation::clear_report(&mut tx, &scope, provider, window).await?;
        reconciliation::keep_use(&mut tx, &scope, provider, &days, &uses).await?;
        tx.commit().await?;
        for chunk in report.chunks(CHUNK) {
            let Some(mut tx) = self.while_held(&scope, provider, &sealed).await? else { return Ok(None) };
            reconciliation::insert_report(&mut tx, &scope, provider, chunk).await?;
            tx.commit().await?;
        }
        // Last, so that a reading that broke off is done again.
        let Some(mut tx) = self.while_held(&scope, provider, &sealed).await? else { return Ok(None) };
        reconciliation::note_fetch(&mut tx, &scope, provider, Some(now), "", now.plus(DAY)).await?;
        tx.commit().await?;
        self.raise_alarms(&scope, key, now).await?;
        Ok(None)
    }

    /// A transaction to write in, if the key is still the one that was read with: one that was replaced or
    /// removed meanwhile says nothing any longer.
    async fn while_held(
        &self,
        scope: &Scope,
        provider: Provider,
        sealed: &[u8],
    ) -> Result<Option<Tx>, ServiceError> {
        let mut tx = self.db.write().await?;
        let held = reconciliation::sealed(&mut tx, scope, provider).await?;
        Ok((held.as_deref() == Some(sealed)).then_some(tx))
    }

    /// Adds up what Keyward recorded of the days that may have changed since the last time, with those days.
    async fn add_up(
        &self,
        scope: &Scope,
        key: &ReportKey,
        (from, to): (Moment, Moment),
    ) -> Result<(Vec<Moment>, Vec<Recorded>), ServiceError> {
        let mut days: Vec<Moment> = (0..to.since(from) / DAY).map(|day| from.plus(day * DAY)).collect();
        if let Some(before) = key.fetched_at {
            let mut tx = self.db.read().await?;
            // Somewhat earlier: what was rated then may have been committed later.
            let since = before.minus(HOUR);
            let rated_again = reconciliation::days_rated_again(&mut tx, scope, since).await?;
            tx.rollback().await?;
            days.retain(|day| before.since(*day) < SETTLED_AFTER || rated_again.contains(day));
        }
        let mut uses = Vec::new();
        for day in &days {
            let mut tx = self.db.read().await?;
            uses.append(&mut reconciliation::add_up(&mut tx, scope, key.provider, *day).await?);
            tx.rollback().await?;
        }
        Ok((days, uses))
    }

    async fn raise_alarms(&self, scope: &Scope, key: &ReportKey, now: Moment) -> Result<(), ServiceError> {
        let (_, to) = reports::window(now);
        let mut tx = self.db.read().await?;
        // A day more than is told of, for what is counted over midnight.
        let lines =
            self.compared(&mut tx, scope, key.provider, (to.minus(ALARMS_FOR + DAY), to), now).await?;
        tx.rollback().await?;
        let alarming = |line: &&Line| match line.cause {
            Cause::Elsewhere | Cause::Price => now.since(line.day) < ALARMS_FOR,
            // What a report lacks comes late more often than not at all.
            Cause::LessThere => (2 * DAY..ALARMS_FOR).contains(&now.since(line.day)),
            _ => false,
        };
        for line in lines.iter().filter(alarming) {
            let Line { day, key: name, model, .. } = line;
            let about = match line.cause {
                Cause::Price => format!("drift:price:{}:{name}:{model}:", key.provider),
                Cause::LessThere => format!("drift:less:{}:{name}:", key.provider),
                _ => format!("drift:elsewhere:{}:{name}:{model}:", key.provider),
            };
            let reference = format!("{about}{}", day.0);
            // Mostly an Admin key of another account: the same every day, and for every model.
            if line.cause == Cause::LessThere {
                let mut tx = self.db.read().await?;
                if notifications::was_told_of(&mut tx, key.owner, &format!("{about}%"), now.minus(LESS_EVERY))
                    .await?
                {
                    continue;
                }
            }
            let told = notice::of_drift(line, key.provider.label(), now);
            match key.owner {
                Owner::Tenant(tenant) => {
                    let mut tx = self.db.write().await?;
                    notifications::insert_once(&mut tx, tenant, &told, Some(&reference)).await?;
                    tx.commit().await?;
                }
                Owner::Platform => {
                    let told = Notice { page: "reconciliation".to_owned(), ..told };
                    self.tell_operator(&told, Some(&reference)).await?;
                }
            }
        }
        Ok(())
    }

    async fn fetch(
        &self,
        provider: Provider,
        secret: &Secret,
        window: (Moment, Moment),
        now: Moment,
    ) -> Result<Vec<Reported>, Failure> {
        let mut questions: VecDeque<Question> = reports::questions(provider).into();
        let mut keys: HashMap<String, (String, String)> = HashMap::new();
        let mut sums: BTreeMap<(Moment, String, String), Reported> = BTreeMap::new();
        let mut pages = 0;
        while let Some(question) = questions.pop_front() {
            let mut cursor: Option<String> = None;
            loop {
                pages += 1;
                if pages > MOST_PAGES || sums.len() > MOST_LINES {
                    return Err(Failure::Unreadable);
                }
                let page = self.page_of(provider, secret, &question, window, cursor.as_deref()).await?;
                for found in page.found {
                    match found {
                        Found::Key { id, name, hint } => {
                            keys.insert(id, (name, hint));
                        }
                        Found::Project(id) => questions.push_front(Question::KeysOf(id)),
                        Found::Usage { day, key, model, tokens, requests } => {
                            let sum = line_of(&mut sums, day, key, model, now);
                            sum.tokens = sum.tokens.saturating_add(tokens);
                            if let Some(more) = requests {
                                sum.requests = Some(sum.requests.unwrap_or(0).saturating_add(more));
                            }
                        }
                        Found::Cost { day, key, model, cost } => {
                            let sum = line_of(&mut sums, day, key, model, now);
                            sum.cost = Some(sum.cost.unwrap_or_default().saturating_add(cost));
                        }
                    }
                }
                // A page that leads to itself would never end.
                match page.next {
                    Some(next) if cursor.as_ref() != Some(&next) => cursor = Some(next),
                    _ => break,
                }
            }
        }
        Ok(sums
            .into_values()
            .map(|one| {
                let (key_name, key_hint) = keys.get(&one.api_key).cloned().unwrap_or_default();
                Reported { key_name, key_hint, ..one }
            })
            .collect())
    }

    async fn page_of(
        &self,
        provider: Provider,
        secret: &Secret,
        question: &Question,
        window: (Moment, Moment),
        cursor: Option<&str>,
    ) -> Result<Page, Failure> {
        let asked = reports::ask(provider, &self.options.origins, secret, question, window, cursor);
        let outgoing = asked.ok_or(Failure::Unreadable)?;
        let sent = self.outbound.ask(outgoing, Trust::Operator, PATIENCE).await;
        let mut answer = sent.map_err(|_| Failure::Unreachable)?;
        match answer.status {
            200 => {}
            401 | 403 => return Err(Failure::Rejected),
            429 => return Err(Failure::Limited),
            _ => return Err(Failure::Unreachable),
        }
        let body = answer.body(MAX_ANSWER).await.map_err(|_| Failure::Unreachable)?;
        let body = body.ok_or(Failure::Unreadable)?;
        reports::read(provider, question, &body).ok_or(Failure::Unreadable)
    }
}

fn line_of(
    sums: &mut BTreeMap<(Moment, String, String), Reported>,
    day: Moment,
    key: String,
    model: String,
    fetched_at: Moment,
) -> &mut Reported {
    sums.entry((day, key.clone(), model.clone())).or_insert_with(|| Reported {
        day,
        api_key: key,
        model,
        key_name: String::new(),
        key_hint: String::new(),
        requests: None,
        tokens: 0,
        cost: None::<Nanos>,
        fetched_at,
    })
}
