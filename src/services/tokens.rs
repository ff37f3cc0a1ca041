//! Access tokens: made, listed and revoked by people; service tokens by super admins.

use super::{Problems, ServiceError, Services};
use crate::access::actor::Actor;
use crate::access::policy::Action;
use crate::crypto::secret::Secret;
use crate::crypto::token::{self, TokenKind};
use crate::domain::audit::{AuditAction, AuditActor, AuditEvent};
use crate::domain::clock::{DAY, Moment};
use crate::domain::ids::TokenId;
use crate::services::provider_keys::Holder;
use crate::storage::tokens::{self, AccessToken};
use crate::storage::{audit, changes};

/// What a token may do.
pub const SCOPE_GATEWAY: &str = "gateway";

/// A token as it was asked for.
#[derive(Clone, Debug, Default)]
pub struct NewToken {
    /// Chosen by whoever asks: asked for twice, it is made once.
    pub id: TokenId,
    pub name: String,
    /// Days until it expires; empty for never.
    pub days: String,
}

/// A token that was just made. Its secret is shown now and never again.
pub struct MadeToken {
    pub token: AccessToken,
    pub secret: Secret,
}

impl Services {
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
        problems.or_ok()?;
        let kind = if holder.scope.tenant().is_some() { TokenKind::Tenant } else { TokenKind::Service };
        let secret = token::generate(kind);
        let made = AccessToken {
            id: new.id,
            tenant_id: holder.scope.tenant(),
            name: name.to_owned(),
            hint: format!("{}…", secret.expose().get(..10).unwrap_or_default()),
            scopes: vec![SCOPE_GATEWAY.to_owned()],
            created_by: by.name.clone(),
            created_at: now,
            expires_at,
            last_used_at: None,
            revoked_at: None,
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
            detail: serde_json::json!({ "hint": made.hint, "expires": made.expires_at.map(Moment::rfc3339) }),
        };
        audit::append(&mut tx, &self.root, holder.scope.owner(), &event).await?;
        tx.commit().await?;
        // A guess at this very token may have been remembered as wrong.
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

fn read_days(days: &str, now: Moment) -> Result<Option<Moment>, &'static str> {
    match days.trim() {
        "" => Ok(None),
        text => match text.parse::<i64>() {
            Ok(days @ 1..=3_650) => Ok(Some(now.plus(days * DAY))),
            _ => Err("Give a whole number of days from 1 to 3,650, or leave it empty."),
        },
    }
}
