//! Use cases: authorise, do the work, write it in one transaction with its audit entry, commit.
//! No network call happens inside a transaction.

pub mod accounts;
pub mod assistant;
pub mod audit_log;
pub mod billing;
pub mod breaker;
pub mod budgets;
pub mod catalog;
pub mod checks;
pub mod claims;
pub mod credits;
pub mod custody;
pub mod deliveries;
pub mod directory;
pub mod features;
pub mod generations;
pub mod jobs;
pub mod key_states;
pub mod links;
pub mod members;
pub mod meter;
pub mod model_lists;
pub mod overview;
pub mod passkeys;
pub mod pasted;
pub mod pinned_sessions;
pub mod plans;
pub mod platform;
pub mod prices;
pub mod provider_keys;
pub mod purchases;
pub mod questions;
pub mod rates;
pub mod reconcile;
pub mod second_factors;
pub mod sso;
pub mod sso_settings;
pub mod statements;
pub mod status;
pub mod tokens;
pub mod usage;
pub mod viewings;

use std::sync::Arc;

use crate::access::actor::Actor;
use crate::access::policy::{self, About, Action, Permission};
use crate::access::scope::Scope;
use crate::crypto::keyring::Keyring;
use crate::crypto::password::{PasswordError, Passwords};
use crate::crypto::root::RootKeys;
use crate::crypto::sealed::OpenError;
use crate::domain::account::KeyChangers;
use crate::domain::audit::{AuditAction, AuditEvent};
use crate::domain::clock::{Clock, Moment};
use crate::domain::endpoint::UrlPolicy;
use crate::domain::ids::{InstanceId, Owner};
use crate::outbound::Outbound;
use crate::outbound::exchange::BearerCache;
use crate::outbound::mail::Mailer;
use crate::providers::Origins;
use crate::providers::payment::Payments;
use crate::storage::{Database, StorageError, Tx, audit};

use directory::Directory;
use key_states::KeyStates;
use meter::Meter;

/// What the operator has set, as far as use cases need to know it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where people reach the console, without a final slash.
    pub public_url: String,
    /// The operator's product, as banners name it.
    pub product: String,
    pub origins: Origins,
    pub urls: UrlPolicy,
    pub audit: audit_log::AuditOptions,
    /// Whether staff need a second factor for more than their own account.
    pub staff_second_factor: bool,
}

/// Everything that a use case works with. One for the process, shared by all faces.
pub struct Services {
    pub db: Database,
    pub clock: Clock,
    pub keyring: Arc<Keyring>,
    pub root: Arc<RootKeys>,
    pub outbound: Outbound,
    /// `None` where the operator has set no mail server.
    pub mailer: Option<Mailer>,
    /// How tenants buy credits; `None` where they cannot.
    pub payments: Option<Box<dyn Payments>>,
    pub bearers: BearerCache,
    pub passwords: Passwords,
    /// For whom passkeys are made; `None` where they cannot be.
    pub relying_party: Option<webauthn_rs::Webauthn>,
    pub directory: Directory,
    pub meter: Meter,
    pub key_states: KeyStates,
    /// Through when this process has announced, or seen announced, that days may be summed.
    pub sums_announced: std::sync::atomic::AtomicI64,
    /// Wakes the worker of generations.
    pub generation_work: tokio::sync::Notify,
    pub options: Options,
    pub instance: InstanceId,
    pub started_at: Moment,
    pub up_since: std::time::Instant,
    /// When its jobs ran last.
    pub runs: status::Runs,
    /// The process's own runtime: what must outlive a request is spawned here.
    pub runtime: tokio::runtime::Handle,
}

/// What was wrong with a form, by field. An empty field name is the form as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    pub summary: Option<String>,
    pub fields: Vec<(&'static str, String)>,
}

impl Problems {
    #[must_use]
    pub fn field(name: &'static str, message: impl Into<String>) -> Self {
        Self { summary: None, fields: vec![(name, message.into())] }
    }

    pub fn add(&mut self, name: &'static str, message: impl Into<String>) {
        self.fields.push((name, message.into()));
    }

    #[must_use]
    pub fn of(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| *field == name).map(|(_, message)| message.as_str())
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.summary.is_none()
    }

    /// # Errors
    /// Itself, if there is any problem.
    pub fn or_ok(self) -> Result<(), ServiceError> {
        if self.is_empty() { Ok(()) } else { Err(ServiceError::Invalid(self)) }
    }
}

/// Whether a product may name a thing of its own so.
fn is_reference(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error("not found")]
    NotFound,
    #[error("not permitted")]
    Denied,
    /// Permitted once the person has set up a second factor, or signed in with it.
    #[error("needs a second factor")]
    SecondFactor,
    /// Permitted once the person has confirmed their password.
    #[error("needs a confirmed password")]
    Confirm,
    /// Permitted to who comes by the tenant's single sign-on.
    #[error("needs single sign-on")]
    SsoRequired,
    /// As `Confirm`, and a password is not enough.
    #[error("needs a confirmed second factor")]
    ConfirmStrongly,
    #[error("invalid input")]
    Invalid(Problems),
    /// Somebody else changed the same thing first.
    #[error("{0}")]
    Conflict(&'static str),
    /// Too many attempts; the next one may be made in so many seconds.
    #[error("too many attempts")]
    Throttled { seconds: i64 },
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Heads(#[from] audit_log::HeadsError),
    #[error("a sealed secret did not open")]
    Sealed(#[from] OpenError),
    #[error(transparent)]
    Password(#[from] PasswordError),
}

impl Services {
    /// Checks that the person may do this now.
    ///
    /// # Errors
    /// `Denied`, or `Confirm` when only a recent password is missing.
    pub fn permit(&self, actor: &Actor, action: Action, about: Option<About>) -> Result<(), ServiceError> {
        match policy::can(actor, action, about, self.clock.now()) {
            Permission::Allowed => Ok(()),
            Permission::Confirm => Err(ServiceError::Confirm),
            Permission::Denied => Err(ServiceError::Denied),
        }
    }

    /// Checks that the person may change the keys of this owner: a tenant's by the tenant's
    /// rules, shared ones by the platform's.
    ///
    /// # Errors
    /// As `permit`.
    pub fn permit_keys(
        &self,
        actor: &Actor,
        scope: &Scope,
        changers: KeyChangers,
    ) -> Result<(), ServiceError> {
        match scope.about(changers) {
            Some(about) => self.permit(actor, Action::ChangeKeys, Some(about)),
            None => self.permit(actor, Action::ManagePlatform, None),
        }
    }

    /// Writes an audit entry as the last thing in a transaction.
    ///
    /// # Errors
    /// When it cannot be written; then the change must not happen.
    pub async fn record(
        &self,
        tx: &mut Tx,
        chain: Owner,
        actor: &Actor,
        action: AuditAction,
        target: &str,
        detail: serde_json::Value,
    ) -> Result<(), StorageError> {
        let event = AuditEvent {
            at: self.clock.now(),
            actor: actor.for_audit(),
            action,
            target: target.to_owned(),
            detail,
        };
        audit::append(tx, &self.root, chain, &event).await
    }

    /// Records that the policy refused somebody something.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn record_refusal(&self, actor: &Actor, chain: Owner, what: &str) -> Result<(), StorageError> {
        let mut tx = self.db.write().await?;
        let detail = serde_json::json!({});
        self.record(&mut tx, chain, actor, AuditAction::PolicyRefused, what, detail).await?;
        tx.commit().await
    }
}
