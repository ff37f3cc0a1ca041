//! Sessions that pin a key, a provider, a model or a feature for the requests that name them.

use std::sync::Arc;

use super::provider_keys::is_model_name;
use super::{Problems, ServiceError, Services};
use crate::access::scope::Scope;
use crate::crypto::token;
use crate::domain::clock::{DAY, MINUTE, SECOND};
use crate::domain::ids::TenantId;
use crate::domain::plan::GENERAL;
use crate::domain::provider_key::Provider;
use crate::storage::pinned_sessions::{self, PinnedSession};
use crate::storage::{StorageError, keys};

/// What the ids begin with; every other text is a free label.
pub const PREFIX: &str = "ses_";
/// In seconds.
pub const SHORTEST: i64 = MINUTE / SECOND;
pub const LONGEST: i64 = 30 * DAY / SECOND;
pub const USUAL: i64 = DAY / SECOND;

/// A session as it was asked for.
#[derive(Clone, Debug, Default)]
pub struct NewSession {
    pub key_slug: Option<String>,
    pub provider: Option<String>,
    pub model: Option<String>,
    pub feature: Option<String>,
    /// Seconds until it ends.
    pub expires_in: Option<i64>,
}

impl Services {
    /// Makes a session. What it pins must exist now.
    ///
    /// # Errors
    /// `Invalid` with the reason at its field.
    pub async fn create_session(
        &self,
        tenant: TenantId,
        new: &NewSession,
    ) -> Result<PinnedSession, ServiceError> {
        let scope = Scope::of_token(tenant);
        let mut problems = Problems::default();
        let provider = new.provider.as_deref().map(Provider::parse);
        if provider == Some(None) {
            problems.add("provider", "There is no such provider.");
        }
        let provider = provider.flatten();
        if let Some(name) = &new.key_slug {
            let mut tx = self.db.read().await?;
            let key = keys::find(&mut tx, &scope, name).await?;
            tx.rollback().await?;
            match key {
                None => problems.add("key_slug", "There is no key of that name."),
                Some(found) if provider.is_some_and(|provider| provider != found.key.provider) => {
                    let text = format!("That key belongs to {}.", found.key.provider.label());
                    problems.add("provider", text);
                }
                Some(_) => {}
            }
        }
        if new.model.as_deref().is_some_and(|model| !is_model_name(model)) {
            problems.add("model", "A model's name has 1 to 256 printable characters without spaces.");
        }
        if let Some(slug) = &new.feature {
            let platform = self.directory.platform().await?;
            if slug != GENERAL && !platform.features.iter().any(|feature| feature.slug == *slug) {
                problems.add("feature", "There is no such feature.");
            }
        }
        let lasts = new.expires_in.unwrap_or(USUAL);
        if !(SHORTEST..=LONGEST).contains(&lasts) {
            problems.add("expires_in", format!("Give {SHORTEST} to {LONGEST} seconds."));
        }
        problems.or_ok()?;
        let now = self.clock.now();
        let id: String = token::random_text().chars().take(32).collect();
        let session = PinnedSession {
            id: format!("{PREFIX}{id}"),
            tenant_id: tenant,
            key_name: new.key_slug.clone(),
            provider,
            model: new.model.clone(),
            feature: new.feature.clone(),
            created_at: now,
            expires_at: now.plus(lasts * SECOND),
            ended_at: None,
        };
        let mut tx = self.db.write().await?;
        pinned_sessions::insert(&mut tx, &session).await?;
        tx.commit().await?;
        Ok(session)
    }

    /// A session of the tenant that is not over.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn session(&self, tenant: TenantId, id: &str) -> Result<PinnedSession, ServiceError> {
        let mut tx = self.db.read().await?;
        let found = pinned_sessions::find(&mut tx, &Scope::of_token(tenant), id).await?;
        tx.rollback().await?;
        found.filter(|session| !session.is_over(self.clock.now())).ok_or(ServiceError::NotFound)
    }

    /// Ends a session at once, on every process.
    ///
    /// # Errors
    /// `NotFound` when there is none, or it was over already.
    pub async fn end_session(&self, tenant: TenantId, id: &str) -> Result<(), ServiceError> {
        let scope = Scope::of_token(tenant);
        let now = self.clock.now();
        let mut tx = self.db.write().await?;
        crate::storage::changes::bump(&mut tx, scope.owner(), now).await?;
        if !pinned_sessions::end(&mut tx, &scope, id, now).await? {
            return Err(ServiceError::NotFound);
        }
        tx.commit().await?;
        self.directory.forget(scope.owner());
        Ok(())
    }

    /// What a session pins, for a request of the gateway.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn pins(&self, tenant: TenantId, id: &str) -> Result<Option<Arc<PinnedSession>>, StorageError> {
        let found = self.directory.session(&Scope::of_token(tenant), id).await?;
        Ok(found.filter(|session| !session.is_over(self.clock.now())))
    }
}
