//! Single sign-on as a tenant's admin sets it up: the provider, the domain that it may vouch for, and whether
//! people have to come by it.

use super::sso::{binding, domain_of};
use super::{Problems, ServiceError, Services};
use crate::access::actor::Actor;
use crate::access::policy::{About, Action};
use crate::access::scope::Scope;
use crate::crypto::secret::Secret;
use crate::crypto::token;
use crate::domain::account::{Email, Proof, Tenant, TenantRole};
use crate::domain::audit::AuditAction;
use crate::domain::ids::TenantId;
use crate::outbound::openid::{self, OpenIdError, Relying};
use crate::outbound::{SendError, Trust};
use crate::providers::Outgoing;
use crate::storage::sso::{self, Connection};
use crate::storage::{changes, tenants};

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// Roles that a provider may give by itself: admins are made by admins.
pub const DEFAULT_ROLES: [TenantRole; 2] = [TenantRole::Member, TenantRole::BillingAdmin];

/// What an admin fills in. An empty secret keeps the one that there is.
#[derive(Clone, Debug)]
pub struct TypedConnection {
    pub issuer: String,
    pub client_id: String,
    pub client_secret: Secret,
    pub domain: String,
    pub default_role: String,
}

fn is_domain(text: &str) -> bool {
    Email::parse(&format!("x@{text}")).is_some_and(|email| domain_of(&email) == text)
        && text.contains('.')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
}

impl Services {
    /// Where the domain shows whose it is.
    #[must_use]
    pub fn proof_url(domain: &str) -> String {
        format!("https://{domain}/.well-known/keyward-domain.txt")
    }

    /// The tenant's connection, and the address to which its provider sends people back.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sso_connection(
        &self,
        scope: &Scope,
        tenant: TenantId,
    ) -> Result<(Option<Connection>, String), ServiceError> {
        let mut tx = self.db.read().await?;
        Ok((sso::find(&mut tx, scope).await?, self.redirect_of_sso(tenant)))
    }

    /// Keeps a connection, once its provider has answered.
    ///
    /// # Errors
    /// `Invalid` with what is wrong at its field.
    pub async fn set_sso(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
        typed: TypedConnection,
    ) -> Result<(), ServiceError> {
        self.permit(actor, Action::ManageSso, Some(about(tenant)))?;
        let mut tx = self.db.read().await?;
        let known = sso::find(&mut tx, scope).await?;
        let kept = match &known {
            Some(known) if typed.client_secret.is_empty() => {
                let bound = binding(tenant.id, &known.issuer, &known.client_id);
                Some(self.open_bound(&mut tx, scope, &bound, &known.sealed).await?)
            }
            _ => None,
        };
        tx.rollback().await?;
        let mut problems = Problems::default();
        let (issuer, client_id) = (typed.issuer.trim(), typed.client_id.trim());
        let domain = typed.domain.trim().to_ascii_lowercase();
        if issuer.len() > 300 {
            problems.add("issuer", "Use at most 300 characters.");
        } else if let Err(error) = openid::judge(&self.options.urls, issuer) {
            problems.add("issuer", error.to_string());
        }
        if client_id.is_empty() || client_id.len() > 300 || client_id.chars().any(char::is_control) {
            problems.add("client_id", "Enter the client id that your provider shows.");
        }
        let is_same =
            known.as_ref().is_some_and(|known| known.issuer == issuer && known.client_id == client_id);
        // A secret goes only to the provider that it was entered for.
        let secret = match kept.filter(|_| is_same) {
            Some(kept) => kept,
            None => typed.client_secret.clone(),
        };
        if secret.is_empty() || secret.expose().len() > 1_024 {
            problems.add("client_secret", "Enter the client secret that your provider shows.");
        }
        if !is_domain(&domain) {
            problems.add("domain", "Enter the domain of your e-mail addresses, such as example.com.");
        }
        let role = TenantRole::parse(&typed.default_role).filter(|role| DEFAULT_ROLES.contains(role));
        if role.is_none() {
            problems.add("default_role", "Choose one of these.");
        }
        problems.or_ok()?;
        let relying = Relying {
            outbound: &self.outbound,
            policy: &self.options.urls,
            issuer,
            client_id,
            client_secret: &secret,
            redirect: &self.redirect_of_sso(tenant.id),
        };
        if let Err(error) = relying.discover().await {
            let message = format!("Its configuration could not be read: {error}.");
            return Err(ServiceError::Invalid(Problems::field("issuer", message)));
        }
        let now = self.clock.now();
        let is_other = known.as_ref().is_some_and(|known| {
            known.issuer != issuer || known.client_id != client_id || known.domain != domain
        });
        let before = known.as_ref().map(|known| {
            serde_json::json!({
                "issuer": known.issuer, "client_id": known.client_id, "domain": known.domain,
                "default_role": known.default_role,
            })
        });
        let same_domain = known.filter(|known| known.domain == domain);
        let mut tx = self.db.write().await?;
        changes::bump(&mut tx, scope.owner(), now).await?;
        if is_other {
            // Whom another provider has vouched for, or for another domain, comes anew.
            tenants::end_sso_sessions(&mut tx, scope, now).await?;
            if !is_same {
                sso::forget_identities(&mut tx, scope).await?;
            }
        }
        let bound = binding(tenant.id, issuer, client_id);
        let sealed = self.seal_bound(&mut tx, scope, &bound, &secret, now).await?;
        let connection = Connection {
            tenant: tenant.id,
            issuer: issuer.to_owned(),
            client_id: client_id.to_owned(),
            sealed,
            domain_proof: same_domain.as_ref().map_or_else(
                || format!("keyward-domain={}", token::random_text()),
                |known| known.domain_proof.clone(),
            ),
            verified_at: same_domain.and_then(|known| known.verified_at),
            domain,
            default_role: role.unwrap_or(TenantRole::Member),
            updated_at: now,
            updated_by: actor.email.clone(),
        };
        sso::put(&mut tx, &connection).await?;
        if connection.verified_at.is_none() && tenant.sso_required {
            // Nobody could come in by it until the domain has shown whose it is.
            tenants::set_sso_required(&mut tx, scope, false).await?;
        }
        let after = serde_json::json!({
            "issuer": connection.issuer, "client_id": connection.client_id, "domain": connection.domain,
            "default_role": connection.default_role,
        });
        let detail = serde_json::json!({
            "before": before, "after": after, "required_before": tenant.sso_required,
            "required": tenant.sso_required && connection.verified_at.is_some(),
        });
        let action = AuditAction::SsoSet;
        self.record(&mut tx, scope.owner(), actor, action, &connection.domain, detail).await?;
        tx.commit().await?;
        self.directory.forget(scope.owner());
        Ok(())
    }

    /// Asks the domain whose it is.
    ///
    /// # Errors
    /// `Invalid` when it does not say what it should, `Conflict` when it is another tenant's.
    pub async fn verify_sso_domain(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
    ) -> Result<(), ServiceError> {
        self.permit(actor, Action::ManageSso, Some(about(tenant)))?;
        let mut tx = self.db.read().await?;
        let connection = sso::find(&mut tx, scope).await?.ok_or(ServiceError::NotFound)?;
        tx.rollback().await?;
        let url = Self::proof_url(&connection.domain);
        let said = self.read_proof(&url).await.map_err(|error| {
            let message = format!("{url} could not be read: {error}.");
            ServiceError::Invalid(Problems::field("domain", message))
        })?;
        if !said.lines().any(|line| line.trim() == connection.domain_proof) {
            let message = format!("{url} answers, and does not hold the line that it should.");
            return Err(ServiceError::Invalid(Problems::field("domain", message)));
        }
        let mut tx = self.db.write().await?;
        let now = self.clock.now();
        match sso::verify(&mut tx, scope, &connection.domain, &connection.domain_proof, now).await {
            Err(error) if error.is_conflict() => {
                return Err(ServiceError::Conflict("Another account has shown that this domain is theirs."));
            }
            Ok(false) => return Err(ServiceError::Conflict("It was changed meanwhile. Look at it again.")),
            done => done?,
        };
        let detail = serde_json::json!({ "domain": connection.domain });
        let action = AuditAction::SsoDomainVerified;
        self.record(&mut tx, scope.owner(), actor, action, &connection.domain, detail).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn read_proof(&self, url: &str) -> Result<String, OpenIdError> {
        openid::judge(&self.options.urls, url)?;
        let url = url::Url::parse(url).map_err(|_| OpenIdError::Configuration)?;
        let trust = Trust::of_identity_provider(url.as_str(), &self.options.urls);
        let outgoing = Outgoing {
            method: http::Method::GET,
            url,
            headers: http::HeaderMap::new(),
            body: bytes::Bytes::new(),
            hides_usage: false,
        };
        let mut answer = self.outbound.ask(outgoing, trust, PATIENCE).await?;
        if answer.status != 200 {
            return Err(OpenIdError::Status(answer.status));
        }
        let body = tokio::time::timeout(PATIENCE, answer.body(16 * 1_024)).await;
        let body = body.map_err(|_| SendError::Timeout)??.ok_or(OpenIdError::TooLong)?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Whether people have to come by it. Admins may still come with a second factor, so that a provider
    /// that fails locks nobody out for good.
    ///
    /// # Errors
    /// `Conflict` where nobody could come by it yet.
    pub async fn require_sso(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
        required: bool,
    ) -> Result<(), ServiceError> {
        self.permit(actor, Action::ManageSso, Some(about(tenant)))?;
        let mut tx = self.db.write().await?;
        let connection = sso::find(&mut tx, scope).await?;
        if required && connection.is_none_or(|connection| connection.verified_at.is_none()) {
            return Err(ServiceError::Conflict("Show first that the domain is yours: nobody could come in."));
        }
        if required && actor.proof == Proof::Password {
            return Err(ServiceError::Conflict(
                "Sign in by single sign-on or with a second factor first: you would be locked out.",
            ));
        }
        changes::bump(&mut tx, scope.owner(), self.clock.now()).await?;
        tenants::set_sso_required(&mut tx, scope, required).await?;
        let detail = serde_json::json!({ "before": tenant.sso_required, "after": required });
        let action = AuditAction::SsoRequired;
        self.record(&mut tx, scope.owner(), actor, action, tenant.slug.as_str(), detail).await?;
        tx.commit().await?;
        self.directory.forget(scope.owner());
        Ok(())
    }

    /// # Errors
    /// `NotFound` when there is none.
    pub async fn remove_sso(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
    ) -> Result<(), ServiceError> {
        self.permit(actor, Action::ManageSso, Some(about(tenant)))?;
        let mut tx = self.db.write().await?;
        changes::bump(&mut tx, scope.owner(), self.clock.now()).await?;
        let known = sso::find(&mut tx, scope).await?.ok_or(ServiceError::NotFound)?;
        sso::delete(&mut tx, scope).await?;
        tenants::set_sso_required(&mut tx, scope, false).await?;
        tenants::end_sso_sessions(&mut tx, scope, self.clock.now()).await?;
        let action = AuditAction::SsoRemoved;
        let detail = serde_json::json!({
            "issuer": known.issuer, "client_id": known.client_id, "domain": known.domain,
            "required_before": tenant.sso_required,
        });
        self.record(&mut tx, scope.owner(), actor, action, tenant.slug.as_str(), detail).await?;
        tx.commit().await?;
        self.directory.forget(scope.owner());
        Ok(())
    }
}

fn about(tenant: &Tenant) -> About {
    About { tenant: tenant.id, key_changers: tenant.key_changers }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_those_of_addresses() {
        for good in ["example.com", "mail.acme.co.uk", "xn--bcher-kva.example"] {
            assert!(is_domain(good), "{good}");
        }
        for bad in
            ["", "localhost", "@example.com", "a b.example", ".example.com", "example.com.", "ex/ample.com"]
        {
            assert!(!is_domain(bad), "{bad}");
        }
    }
}
