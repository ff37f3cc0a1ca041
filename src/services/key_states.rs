//! What live traffic says of keys, written down. Verdicts that change nothing cost nothing: only
//! those that may move a key's state reach this far.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use tokio::sync::mpsc;

use super::{ServiceError, Services};
use crate::access::scope::Scope;
use crate::domain::audit::{AuditAction, AuditActor, AuditEvent};
use crate::domain::clock::{MINUTE, Moment};
use crate::domain::ids::{KeyId, Owner};
use crate::domain::notice::{self, Notice};
use crate::domain::provider_key::{KeyState, KeyStatus, KeyView, Verdict};
use crate::storage::{Tx, audit, changes, keys, notifications};

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
        let checked =
            self.check(found.key.provider, &secret, current.custom_url.as_deref(), &current.settings).await;
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
            let (name, provider) = (found.key.name.as_str(), found.key.provider);
            let news = notice::of_key(name, provider, before.state, after.state, now);
            match (news, found.key.owner) {
                (Some(news), Owner::Tenant(tenant)) => notifications::insert(&mut tx, tenant, &news).await?,
                (Some(news), Owner::Platform) => {
                    let news = Notice { page: format!("shared-keys/{name}"), ..news };
                    notifications::insert_for_operator(&mut tx, &news, None).await?;
                    for_operator = Some(news);
                }
                (None, _) => {}
            }
            self.record_move(&mut tx, found.key.owner, found.key.name.as_str(), &before, &after).await?;
        }
        tx.commit().await?;
        self.directory.forget(found.key.owner);
        if let Some(news) = for_operator {
            self.mail_operator(&news).await?;
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
