//! Access tokens: made, listed and revoked by people; service tokens by super admins.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Problems, ServiceError, Services};
use crate::access::actor::Actor;
use crate::access::policy::Action;
use crate::crypto::secret::Secret;
use crate::crypto::token::{self, TokenKind};
use crate::domain::audit::{AuditAction, AuditActor, AuditEvent};
use crate::domain::clock::{DAY, HOUR, Moment};
use crate::domain::ids::{TenantId, TokenId};
use crate::domain::words;
use crate::services::provider_keys::Holder;
use crate::storage::tokens::{self, AccessToken};
use crate::storage::{StorageError, audit, changes};

words! {
    /// What a token may do.
    pub enum TokenScope {
        Gateway = "gateway",
        UsageRead = "usage:read",
        KeysRead = "keys:read",
        KeysWrite = "keys:write",
    }
}

impl TokenScope {
    /// What it allows, in words.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Gateway => "Send AI requests, and make sessions for them",
            Self::UsageRead => "Read usage by the API",
            Self::KeysRead => "Read the state of keys by the API; never the keys themselves",
            Self::KeysWrite => "Add, rotate, check and remove keys by the API",
        }
    }
}

/// Whoever presented a token, and the tenant that they act for.
pub struct Bearer {
    pub token: Arc<AccessToken>,
    pub kind: TokenKind,
    /// `None` where a service token names no tenant.
    pub tenant: Option<TenantId>,
}

/// Why a token does not do.
#[derive(Debug, thiserror::Error)]
pub enum BearerError {
    #[error("the token is mistyped, expired or revoked")]
    Invalid,
    #[error("the token lacks the scope {0}")]
    Scope(TokenScope),
    #[error("a tenant's own token names no tenant")]
    NamesTenant,
    #[error("there is no tenant {0}")]
    NoTenant(String),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A token as it was asked for.
#[derive(Clone, Debug, Default)]
pub struct NewToken {
    /// Chosen by whoever asks: asked for twice, it is made once.
    pub id: TokenId,
    pub name: String,
    /// Days until it expires; empty for never.
    pub days: String,
    /// What it may do; nothing chosen means the gateway alone.
    pub scopes: Vec<String>,
}

/// A token that was just made. Its secret is shown now and never again.
pub struct MadeToken {
    pub token: AccessToken,
    pub secret: Secret,
}

/// For how many hours a token that was rotated may work on.
pub const OVERLAPS: [i64; 4] = [0, 1, 24, 168];

impl Services {
    /// Finds out who presented a token, and for which tenant: its own, or the one that a service
    /// token names.
    ///
    /// # Errors
    /// Why it does not do.
    pub async fn bearer_of(
        &self,
        presented: &str,
        scope: TokenScope,
        named: Option<&str>,
    ) -> Result<Bearer, BearerError> {
        let now = self.clock.now();
        let found = self.directory.token(presented).await?;
        let (kind, token) = found
            .filter(|(_, token)| token.expires_at.is_none_or(|at| at > now))
            .ok_or(BearerError::Invalid)?;
        if !token.scopes.iter().any(|known| known == scope.as_str()) {
            return Err(BearerError::Scope(scope));
        }
        let tenant = match (token.tenant_id, named) {
            (Some(tenant), None) => Some(tenant),
            (Some(_), Some(_)) => return Err(BearerError::NamesTenant),
            (None, None) => None,
            (None, Some(slug)) => {
                let found = self.directory.tenant_id(slug).await?;
                Some(found.ok_or_else(|| BearerError::NoTenant(slug.to_owned()))?)
            }
        };
        Ok(Bearer { token, kind, tenant })
    }

    /// Tokens of the tenant, or service tokens for the platform.
    ///
    /// # Errors
    /// `Denied` to whoever may not manage them.
    pub async fn tokens(&self, actor: &Actor, holder: Holder) -> Result<Vec<AccessToken>, ServiceError> {
        // Looking needs no confirmation; what is shown holds no secret.
        match self.permit_tokens(actor, holder) {
            Ok(()) | Err(ServiceError::Confirm) => {}
            Err(error) => return Err(error),
        }
        let mut tx = self.db.read().await?;
        Ok(tokens::list(&mut tx, &holder.scope).await?)
    }

    /// # Errors
    /// `Invalid` with the reason at its field.
    pub async fn create_token(
        &self,
        actor: &Actor,
        holder: Holder,
        new: &NewToken,
    ) -> Result<MadeToken, ServiceError> {
        self.permit_tokens(actor, holder)?;
        self.make_token(&actor.for_audit(), holder, new).await
    }

    /// Makes a token for the operator's command, which has no person to ask the policy about.
    ///
    /// # Errors
    /// `Invalid` with the reason at its field.
    pub async fn make_token(
        &self,
        by: &AuditActor,
        holder: Holder,
        new: &NewToken,
    ) -> Result<MadeToken, ServiceError> {
        let now = self.clock.now();
        let name = new.name.trim();
        let mut problems = Problems::default();
        if name.is_empty() || name.chars().count() > 60 || name.chars().any(char::is_control) {
            problems.add(
                "name",
                "Give the token a name of at most 60 characters, such as the service that uses it.",
            );
        }
        let expires_at = read_days(&new.days, now).unwrap_or_else(|message| {
            problems.add("days", message);
            None
        });
        let chosen: Option<BTreeSet<TokenScope>> =
            new.scopes.iter().map(|scope| TokenScope::parse(scope)).collect();
        if chosen.is_none() {
            problems.add("scopes", "Choose among the scopes that there are.");
        }
        problems.or_ok()?;
        let mut scopes = chosen.unwrap_or_default();
        if scopes.is_empty() {
            scopes.insert(TokenScope::Gateway);
        }
        let kind = if holder.scope.tenant().is_some() { TokenKind::Tenant } else { TokenKind::Service };
        let secret = token::generate(kind);
        let made = AccessToken {
            id: new.id,
            tenant_id: holder.scope.tenant(),
            name: name.to_owned(),
            hint: hint_of(&secret),
            scopes: scopes.iter().map(|scope| scope.as_str().to_owned()).collect(),
            created_by: by.name.clone(),
            created_at: now,
            expires_at,
            last_used_at: None,
            revoked_at: None,
            rotated_at: None,
        };
        let mut tx = self.db.write().await?;
        tokens::insert(&mut tx, &token::hash(secret.expose()), &made).await.map_err(|error| {
            if error.is_conflict() {
                ServiceError::Conflict("That token was made already. Its secret was shown once.")
            } else {
                error.into()
            }
        })?;
        changes::bump(&mut tx, holder.scope.owner(), now).await?;
        let event = AuditEvent {
            at: now,
            actor: by.clone(),
            action: AuditAction::TokenCreated,
            target: made.name.clone(),
            detail: serde_json::json!({
                "hint": made.hint, "scopes": made.scopes, "expires": made.expires_at.map(Moment::rfc3339),
            }),
        };
        audit::append(&mut tx, &self.root, holder.scope.owner(), &event).await?;
        tx.commit().await?;
        // A guess at this very token may have been remembered as wrong.
        self.directory.forget_tokens();
        Ok(MadeToken { token: made, secret })
    }

    /// Makes a token in place of another, which works on for a while.
    ///
    /// # Errors
    /// `NotFound` when it is not this owner's or works no more, `Conflict` when it was rotated by this form
    /// already.
    pub async fn rotate_token(
        &self,
        actor: &Actor,
        holder: Holder,
        id: TokenId,
        once: TokenId,
        hours: i64,
    ) -> Result<MadeToken, ServiceError> {
        self.permit_tokens(actor, holder)?;
        if !OVERLAPS.contains(&hours) {
            return Err(ServiceError::Invalid(Problems::field("hours", "Choose one of these.")));
        }
        let now = self.clock.now();
        let mut tx = self.db.write().await?;
        let works = |token: &AccessToken| token.id == id && token.expires_at.is_none_or(|at| at > now);
        let old = tokens::list(&mut tx, &holder.scope).await?.into_iter().find(works);
        let old = old.ok_or(ServiceError::NotFound)?;
        let kind = if holder.scope.tenant().is_some() { TokenKind::Tenant } else { TokenKind::Service };
        let secret = token::generate(kind);
        // As long as the old one was to live.
        let lives = old.expires_at.map(|at| at.since(old.created_at));
        let made = AccessToken {
            id: once,
            hint: hint_of(&secret),
            created_by: actor.email.clone(),
            created_at: now,
            expires_at: lives.map(|lives| now.plus(lives)),
            last_used_at: None,
            rotated_at: None,
            ..old.clone()
        };
        tokens::insert(&mut tx, &token::hash(secret.expose()), &made).await.map_err(|error| {
            if error.is_conflict() {
                ServiceError::Conflict("That token was rotated already. The new secret was shown once.")
            } else {
                error.into()
            }
        })?;
        let until = now.plus(hours * HOUR).min(old.expires_at.unwrap_or(Moment(i64::MAX)));
        if !tokens::rotate(&mut tx, old.id, now, until).await? {
            return Err(ServiceError::Conflict(
                "That token was rotated already. Rotate the one that took its place.",
            ));
        }
        changes::bump(&mut tx, holder.scope.owner(), now).await?;
        let detail = serde_json::json!({
            "old": old.hint, "new": made.hint, "old_works_until": until.rfc3339(), "scopes": made.scopes,
        });
        let action = AuditAction::TokenRotated;
        self.record(&mut tx, holder.scope.owner(), actor, action, &made.name, detail).await?;
        tx.commit().await?;
        self.directory.forget_tokens();
        Ok(MadeToken { token: made, secret })
    }

    /// # Errors
    /// `NotFound` when it is not this owner's or is revoked already.
    pub async fn revoke_token(&self, actor: &Actor, holder: Holder, id: TokenId) -> Result<(), ServiceError> {
        self.permit_tokens(actor, holder)?;
        let now = self.clock.now();
        let mut tx = self.db.write().await?;
        let name = tokens::revoke(&mut tx, &holder.scope, id, now).await?.ok_or(ServiceError::NotFound)?;
        changes::bump(&mut tx, holder.scope.owner(), now).await?;
        let detail = serde_json::json!({ "id": id });
        self.record(&mut tx, holder.scope.owner(), actor, AuditAction::TokenRevoked, &name, detail).await?;
        tx.commit().await?;
        self.directory.forget_tokens();
        Ok(())
    }

    fn permit_tokens(&self, actor: &Actor, holder: Holder) -> Result<(), ServiceError> {
        match holder.scope.about(holder.changers) {
            Some(about) => self.permit(actor, Action::ManageTokens, Some(about)),
            None => self.permit(actor, Action::ManagePlatform, None),
        }
    }
}

/// The beginning of a token, by which people tell tokens apart.
fn hint_of(secret: &Secret) -> String {
    format!("{}…", secret.expose().get(..10).unwrap_or_default())
}

fn read_days(days: &str, now: Moment) -> Result<Option<Moment>, &'static str> {
    match days.trim() {
        "" => Ok(None),
        text => match text.parse::<i64>() {
            Ok(days @ 1..=3_650) => Ok(Some(now.plus(days * DAY))),
            _ => Err("Give a whole number of days from 1 to 3,650, or leave it empty."),
        },
    }
}
