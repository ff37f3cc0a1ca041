//! What live traffic says of keys, written down. Verdicts that change nothing cost nothing: only
//! those that may move a key's state reach this far.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use tokio::sync::mpsc;

use super::checks::Checked;
use super::provider_keys::Holder;
use super::{ServiceError, Services};
use crate::access::actor::Actor;
use crate::access::scope::Scope;
use crate::domain::audit::{AuditAction, AuditActor, AuditEvent};
use crate::domain::clock::{HOUR, MINUTE, Moment};
use crate::domain::ids::{KeyId, Owner};
use crate::domain::notice::{self, Notice};
use crate::domain::provider_key::{KeyState, KeyStatus, KeyView, Provider, ProviderKey, Verdict};
use crate::storage::keys::SealedKey;
use crate::storage::{StorageError, Tx, audit, changes, keys, notifications};

/// An answer's word on the key version that was used.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    pub key: KeyId,
    pub version: i32,
    pub verdict: Verdict,
    /// When the request began.
    pub started: Moment,
}

/// Takes observations and writes them one after the other, off the request's path.
#[derive(Clone)]
pub struct KeyStates {
    sender: mpsc::Sender<Observation>,
    receiver: Arc<OnceLock<std::sync::Mutex<Option<mpsc::Receiver<Observation>>>>>,
}

impl Default for KeyStates {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(1_024);
        let slot = OnceLock::new();
        let _ = slot.set(std::sync::Mutex::new(Some(receiver)));
        Self { sender, receiver: Arc::new(slot) }
    }
}

impl KeyStates {
    /// Hands in what an answer said of the key that `view` was when the request began. A full
    /// queue drops it: the next answer will say it again.
    pub fn observe(&self, view: &KeyView, verdict: Verdict, started: Moment) {
        let nothing_new = match verdict {
            Verdict::Works => view.status.state == KeyState::Valid && view.status.rejections == 0,
            Verdict::Neutral => true,
            _ => false,
        };
        if !nothing_new {
            let _ =
                self.sender.try_send(Observation { key: view.id, version: view.version, verdict, started });
        }
    }

    fn take_receiver(&self) -> Option<mpsc::Receiver<Observation>> {
        self.receiver.get()?.lock().ok()?.take()
    }
}

/// Writes observations until the process ends.
pub async fn run(services: Arc<Services>) {
    let Some(mut receiver) = services.key_states.take_receiver() else { return };
    let mut asked: HashMap<KeyId, Moment> = HashMap::new();
    while let Some(observation) = receiver.recv().await {
        if observation.verdict == Verdict::Doubtful {
            // A check waits for the provider: it must hold up neither the others' answers nor,
            // asked once a minute, the tenant's account.
            let now = services.clock.now();
            asked.retain(|_, at| now.since(*at) < MINUTE);
            if asked.insert(observation.key, now).is_none() {
                services.runtime.spawn(check(Arc::clone(&services), observation));
            }
            continue;
        }
        if let Err(error) = services.apply(observation).await {
            tracing::error!(error = &error as &dyn std::error::Error, "a key's state could not be written");
        }
    }
}

async fn check(services: Arc<Services>, doubtful: Observation) {
    if let Err(error) = services.check_by_id(doubtful.key, doubtful.version).await {
        tracing::error!(error = &error as &dyn std::error::Error, "a doubtful key could not be checked");
    }
}

impl Services {
    /// Applies one observation: the state machine decides, the row is locked while it does.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn apply(&self, seen: Observation) -> Result<(), ServiceError> {
        let now = self.clock.now();
        self.move_state(seen.key, seen.version, None, |status| {
            status.after_live(seen.verdict, seen.started, now)
        })
        .await
    }

    /// Checks a key for Keyward itself: a doubtful answer, or a probe of a paused key.
    ///
    /// # Errors
    /// When the database fails or the key does not open.
    pub async fn check_by_id(&self, key: KeyId, version: i32) -> Result<(), ServiceError> {
        let mut tx = self.db.read().await?;
        let found = keys::find_by_id(&mut tx, key).await?;
        let Some(found) = found.filter(|found| found.key.current.version == version) else { return Ok(()) };
        let scope = Scope::of_system(found.key.owner);
        let secret = self.open_current(&mut tx, &scope, &found).await?;
        tx.rollback().await?;
        let current = &found.key.current;
        let url = current.custom_url.as_deref();
        let checked = self.check(&scope, found.key.provider, &secret, url, &current.settings).await?;
        let now = self.clock.now();
        self.move_state(key, version, Some(now), |status| status.after_check(checked.verdict, now)).await
    }

    async fn move_state(
        &self,
        key: KeyId,
        version: i32,
        checked_at: Option<Moment>,
        rule: impl Fn(&KeyStatus) -> KeyStatus,
    ) -> Result<(), ServiceError> {
        let now = self.clock.now();
        let mut for_operator = None;
        let mut tx = self.db.write().await?;
        let Some(found) = keys::find_by_id(&mut tx, key).await? else { return Ok(()) };
        // Taken before the state is read again, this holds off whoever else would move it.
        changes::bump(&mut tx, found.key.owner, now).await?;
        let Some(found) = keys::find_by_id(&mut tx, key).await? else { return Ok(()) };
        // A late word about an old version says nothing of the present one.
        if found.key.current.version != version {
            return Ok(());
        }
        let before = found.key.current.status;
        let after = rule(&before);
        if after == before && checked_at.is_none() {
            return Ok(());
        }
        keys::set_status(&mut tx, key, version, &after, checked_at).await?;
        if before.state != after.state {
            for_operator = tell_of_move(&mut tx, &found.key, before.state, after.state, now).await?;
            self.record_move(&mut tx, found.key.owner, found.key.name.as_str(), &before, &after).await?;
        }
        tx.commit().await?;
        self.directory.forget(found.key.owner);
        if let Some(news) = for_operator {
            self.mail_operator(&news).await;
        }
        Ok(())
    }

    async fn record_move(
        &self,
        tx: &mut Tx,
        owner: Owner,
        name: &str,
        before: &KeyStatus,
        after: &KeyStatus,
    ) -> Result<(), ServiceError> {
        let event = AuditEvent {
            at: self.clock.now(),
            actor: AuditActor::system("keyward"),
            action: AuditAction::KeyStateChanged,
            target: name.to_owned(),
            detail: serde_json::json!({
                "before": before.state,
                "after": after.state,
                "until": after.until.map(Moment::rfc3339),
            }),
        };
        Ok(audit::append(tx, &self.root, owner, &event).await?)
    }
}

impl Services {
    /// Checks a key now and writes down what the provider says.
    ///
    /// # Errors
    /// When the key does not open or the database fails.
    pub async fn check_key(
        &self,
        actor: &Actor,
        holder: Holder,
        name: &str,
    ) -> Result<(Provider, KeyState, Checked), ServiceError> {
        self.permit_keys(actor, &holder.scope, holder.changers)?;
        let scope = &holder.scope;
        let mut tx = self.db.read().await?;
        let found = keys::find(&mut tx, scope, name).await?.ok_or(ServiceError::NotFound)?;
        let secret = self.open_current(&mut tx, scope, &found).await?;
        tx.rollback().await?;
        let current = &found.key.current;
        let url = current.custom_url.as_deref();
        let checked = self.check(scope, found.key.provider, &secret, url, &current.settings).await?;
        let detail = serde_json::json!({
            "version": current.version, "found": checked.told(), "code": checked.code,
        });
        let (mut state, mut news) = (current.status.state, None);
        self.change(actor, &holder, &found.key, AuditAction::KeyChecked, detail, async |tx, now| {
            // Traffic may have moved the state while the provider was asked.
            let before = self.unchanged(tx, &holder.scope, &found).await?;
            let status = before.after_check(checked.verdict, now);
            state = status.state;
            if before.state != state {
                news = tell_of_move(tx, &found.key, before.state, state, now).await?;
            }
            Ok(keys::set_status(tx, found.key.id, current.version, &status, Some(now)).await?)
        })
        .await?;
        if let Some(news) = news {
            self.mail_operator(&news).await;
        }
        Ok((found.key.provider, state, checked))
    }

    /// Ends a pause by hand.
    ///
    /// # Errors
    /// `NotFound` when the key is not paused.
    pub async fn resume_key(&self, actor: &Actor, holder: Holder, name: &str) -> Result<(), ServiceError> {
        self.permit_keys(actor, &holder.scope, holder.changers)?;
        let found = self.find_key(&holder.scope, name).await?.ok_or(ServiceError::NotFound)?;
        let current = &found.key.current;
        if !current.status.state.is_limit() {
            return Err(ServiceError::NotFound);
        }
        let detail = serde_json::json!({ "before": current.status.state });
        let mut news = None;
        self.change(actor, &holder, &found.key, AuditAction::KeyResumed, detail, async |tx, now| {
            let before = self.unchanged(tx, &holder.scope, &found).await?;
            let status = before.resumed(now);
            news = tell_of_move(tx, &found.key, before.state, status.state, now).await?;
            Ok(keys::set_status(tx, found.key.id, current.version, &status, None).await?)
        })
        .await?;
        if let Some(news) = news {
            self.mail_operator(&news).await;
        }
        Ok(())
    }

    /// The state of the same version of the same key, read again inside a change.
    pub(super) async fn unchanged(
        &self,
        tx: &mut Tx,
        scope: &Scope,
        found: &SealedKey,
    ) -> Result<KeyStatus, ServiceError> {
        let again = keys::find(tx, scope, found.key.name.as_str()).await?;
        again
            .filter(|again| {
                again.key.id == found.key.id && again.key.current.version == found.key.current.version
            })
            .map(|again| again.key.current.status)
            .ok_or(ServiceError::Conflict("Somebody else changed this key a moment ago. Look at it again."))
    }
}

/// Tells whoever the key belongs to what its new state means, in the transaction that moved it. Gives what
/// the operator is to be written of, once it is committed.
pub(super) async fn tell_of_move(
    tx: &mut Tx,
    key: &ProviderKey,
    before: KeyState,
    after: KeyState,
    now: Moment,
) -> Result<Option<Notice>, StorageError> {
    let Some(news) = notice::of_key(key.name.as_str(), key.provider, before, after, now) else {
        return Ok(None);
    };
    match key.owner {
        Owner::Tenant(tenant) => {
            notifications::insert(tx, tenant, &news).await?;
            Ok(None)
        }
        Owner::Platform => {
            let news = Notice { page: format!("shared-keys/{}", key.name), ..news };
            // A key that comes and goes is news of a kind once an hour, and the last of them is on top.
            let reference = format!("{}:{}:{}", news.kind, key.id, now.0 / HOUR);
            let is_new = notifications::insert_for_operator(tx, &news, Some(&reference)).await?;
            Ok(is_new.then_some(news))
        }
    }
}
