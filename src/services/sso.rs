//! Single sign-on: a tenant's people sign in with their own identity provider, which may vouch only for
//! addresses of a domain that has shown that it is the tenant's. Such a session opens that tenant alone.

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::accounts::{FREE_FAILURES_OF_ADDRESS, Origin, Person, network};
use super::{Problems, ServiceError, Services};
use crate::access::actor::Actor;
use crate::access::policy::{About, Action};
use crate::access::scope::Scope;
use crate::crypto::sealed::Binding;
use crate::crypto::secret::Secret;
use crate::crypto::token;
use crate::domain::account::{Email, Proof, Tenant, TenantRole, User, Ways};
use crate::domain::audit::{AuditAction, AuditActor, AuditEvent};
use crate::domain::clock::{MINUTE, Moment};
use crate::domain::ids::{Owner, TenantId, UserId};
use crate::outbound::Trust;
use crate::outbound::openid::{self, OpenIdError, Relying, Vouched};
use crate::providers::Outgoing;
use crate::storage::people::{self, NO_PASSWORD};
use crate::storage::sso::{self, Connection};
use crate::storage::{Tx, audit, changes, members, tenants, throttle};

/// How long somebody may be away at their provider.
const AWAY: i64 = 10 * MINUTE;
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

/// Somebody who is away at their provider, kept on our side until they are back.
#[derive(Serialize, Deserialize)]
pub struct Away {
    tenant: TenantId,
    state: String,
    nonce: String,
    verifier: String,
    since: Moment,
    pub next: Option<String>,
    /// Who only shows that it is still them.
    pub confirms: Option<UserId>,
}

/// The way there.
pub struct Departing {
    pub tenant: String,
    pub host: String,
    pub url: String,
    pub away: Away,
}

/// Whoever came back.
pub struct Arrived {
    pub person: Person,
    pub proof: Proof,
}

fn binding(tenant: TenantId, issuer: &str, client_id: &str) -> Binding {
    Binding::new("single sign-on client")
        .with(tenant.0.as_bytes())
        .with(issuer.as_bytes())
        .with(client_id.as_bytes())
}

/// The domain of an address, as it is written everywhere.
fn domain_of(email: &Email) -> &str {
    email.as_str().rsplit('@').next().unwrap_or_default()
}

fn is_domain(text: &str) -> bool {
    Email::parse(&format!("x@{text}")).is_some_and(|email| domain_of(&email) == text)
        && text.contains('.')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
}

impl Services {
    fn redirect_of_sso(&self) -> String {
        format!("{}/sign-in/sso/callback", self.options.public_url)
    }

    /// Where the domain shows whose it is.
    #[must_use]
    pub fn proof_url(domain: &str) -> String {
        format!("https://{domain}/.well-known/keyward-domain.txt")
    }

    /// The tenant's connection, and the address to which its provider sends people back.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sso_connection(&self, scope: &Scope) -> Result<(Option<Connection>, String), ServiceError> {
        let mut tx = self.db.read().await?;
        Ok((sso::find(&mut tx, scope).await?, self.redirect_of_sso()))
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
            redirect: &self.redirect_of_sso(),
        };
        if let Err(error) = relying.discover().await {
            let message = format!("Its configuration could not be read: {error}.");
            return Err(ServiceError::Invalid(Problems::field("issuer", message)));
        }
        let now = self.clock.now();
        let same_domain = known.filter(|known| known.domain == domain);
        let mut tx = self.db.write().await?;
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
            changes::bump(&mut tx, scope.owner(), now).await?;
            tenants::set_sso_required(&mut tx, scope, false).await?;
        }
        let detail = serde_json::json!({
            "issuer": connection.issuer, "client_id": connection.client_id, "domain": connection.domain,
            "default_role": connection.default_role,
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
        let url = url::Url::parse(url).map_err(|error| OpenIdError::Answer(error.to_string()))?;
        let trust = Trust::of(Some(url.as_str()), &self.options.urls);
        let outgoing = Outgoing {
            method: http::Method::GET,
            url,
            headers: http::HeaderMap::new(),
            body: bytes::Bytes::new(),
            hides_usage: false,
        };
        let mut answer = self.outbound.send(outgoing, trust, PATIENCE).await?;
        if answer.status != 200 {
            return Err(OpenIdError::Answer(format!("it answers with {}", answer.status)));
        }
        let body = answer.body(16 * 1_024).await?.ok_or(OpenIdError::TooLong)?;
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
        if !sso::delete(&mut tx, scope).await? {
            return Err(ServiceError::NotFound);
        }
        tenants::set_sso_required(&mut tx, scope, false).await?;
        let action = AuditAction::SsoRemoved;
        let detail = serde_json::json!({});
        self.record(&mut tx, scope.owner(), actor, action, tenant.slug.as_str(), detail).await?;
        tx.commit().await?;
        self.directory.forget(scope.owner());
        Ok(())
    }

    /// The way to the provider of whoever has this address.
    ///
    /// # Errors
    /// `NotFound` where nobody vouches for its domain, `Conflict` when the provider cannot be asked.
    pub async fn depart_for_sso(
        &self,
        email: &str,
        next: Option<String>,
        from: &Origin,
    ) -> Result<Departing, ServiceError> {
        self.take_attempt(&[(self.sso_bucket(from), FREE_FAILURES_OF_ADDRESS)]).await?;
        let email = Email::parse(email).ok_or(ServiceError::NotFound)?;
        let mut tx = self.db.read().await?;
        let connection = sso::of_domain(&mut tx, domain_of(&email)).await?.ok_or(ServiceError::NotFound)?;
        tx.rollback().await?;
        self.depart(connection, Some(email.as_str()), next, None).await
    }

    /// The way there and back for whoever came by it and has to show that it is still them.
    ///
    /// # Errors
    /// `NotFound` for whoever came another way.
    pub async fn depart_to_confirm(&self, actor: &Actor) -> Result<Departing, ServiceError> {
        let Proof::Sso(tenant) = actor.proof else { return Err(ServiceError::NotFound) };
        let mut tx = self.db.read().await?;
        let found = sso::find(&mut tx, &Scope::of_system(Owner::Tenant(tenant))).await?;
        tx.rollback().await?;
        let connection = found.filter(|found| found.verified_at.is_some()).ok_or(ServiceError::NotFound)?;
        self.depart(connection, Some(&actor.email), None, Some(actor.user_id)).await
    }

    fn sso_bucket(&self, from: &Origin) -> String {
        self.root.blind("single sign-on of address", &network(&from.address))
    }

    async fn secret_of(&self, connection: &Connection) -> Result<Secret, ServiceError> {
        let scope = Scope::of_system(Owner::Tenant(connection.tenant));
        let bound = binding(connection.tenant, &connection.issuer, &connection.client_id);
        let mut tx = self.db.read().await?;
        self.open_bound(&mut tx, &scope, &bound, &connection.sealed).await
    }

    async fn depart(
        &self,
        connection: Connection,
        hint: Option<&str>,
        next: Option<String>,
        confirms: Option<UserId>,
    ) -> Result<Departing, ServiceError> {
        let secret = self.secret_of(&connection).await?;
        let redirect = self.redirect_of_sso();
        let relying = self.relying(&connection, &secret, &redirect);
        let departure = relying.depart(hint, confirms.is_some()).await.map_err(|error| {
            tracing::warn!(%error, issuer = connection.issuer, "an identity provider could not be asked");
            ServiceError::Conflict(
                "Your identity provider does not answer as it should. Try again in a moment.",
            )
        })?;
        let tenant = self.tenant_name(connection.tenant).await?;
        Ok(Departing {
            tenant,
            host: departure.url.host_str().unwrap_or_default().to_owned(),
            url: departure.url.to_string(),
            away: Away {
                tenant: connection.tenant,
                state: departure.state,
                nonce: departure.nonce,
                verifier: departure.verifier.expose().to_owned(),
                since: self.clock.now(),
                next,
                confirms,
            },
        })
    }

    fn relying<'a>(
        &'a self,
        connection: &'a Connection,
        secret: &'a Secret,
        redirect: &'a str,
    ) -> Relying<'a> {
        Relying {
            outbound: &self.outbound,
            policy: &self.options.urls,
            issuer: &connection.issuer,
            client_id: &connection.client_id,
            client_secret: secret,
            redirect,
        }
    }

    /// Takes back whoever was away: signs them in, and makes them a member if they are none.
    ///
    /// # Errors
    /// `Denied` when nobody vouches for them, `Conflict` with why they may not come in all the same.
    pub async fn arrive_by_sso(
        &self,
        away: Away,
        code: &str,
        state: &str,
        from: &Origin,
    ) -> Result<Arrived, ServiceError> {
        let now = self.clock.now();
        let is_ours = bool::from(state.as_bytes().ct_eq(away.state.as_bytes()));
        if !is_ours || now.since(away.since) >= AWAY {
            return Err(ServiceError::Denied);
        }
        let scope = Scope::of_system(Owner::Tenant(away.tenant));
        let mut tx = self.db.read().await?;
        let found = sso::find(&mut tx, &scope).await?;
        tx.rollback().await?;
        let connection = found.filter(|found| found.verified_at.is_some()).ok_or(ServiceError::Denied)?;
        let secret = self.secret_of(&connection).await?;
        let redirect = self.redirect_of_sso();
        let relying = self.relying(&connection, &secret, &redirect);
        let vouched = match relying.redeem(code, &away.nonce, &Secret::new(away.verifier), now).await {
            Ok(vouched) => vouched,
            Err(error) => {
                tracing::warn!(%error, issuer = connection.issuer, "an identity provider vouched for nobody");
                self.record_sso_failure("", from).await?;
                return Err(ServiceError::Denied);
            }
        };
        let email = vouched.email.as_deref().and_then(Email::parse);
        let email = email.filter(|email| domain_of(email) == connection.domain && !vouched.email_doubtful);
        let Some(email) = email else {
            self.record_sso_failure(vouched.email.as_deref().unwrap_or_default(), from).await?;
            return Err(ServiceError::Conflict(
                "Your identity provider gave no address of your organisation's domain that it knows to be yours.",
            ));
        };
        let mut tx = self.db.write().await?;
        members::lock(&mut tx, &scope).await?;
        let user = self.person_of_sso(&mut tx, &connection, &vouched, &email, away.confirms, from).await;
        let user = match user {
            Ok(user) => user,
            Err(error) => {
                tx.rollback().await?;
                self.record_sso_failure(email.as_str(), from).await?;
                return Err(error);
            }
        };
        throttle::clear(&mut tx, &self.sso_bucket(from)).await?;
        let person = self.admit(tx, user, from, now, "single sign-on").await?;
        Ok(Arrived { person, proof: Proof::Sso(connection.tenant) })
    }

    async fn record_sso_failure(&self, name: &str, from: &Origin) -> Result<(), ServiceError> {
        let name: String = name.chars().take(Email::MAX).collect();
        let mut tx = self.db.write().await?;
        let detail = serde_json::json!({ "by": "single sign-on" });
        self.record_person(&mut tx, None, &name, from, AuditAction::SignInFailed, detail).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The person whom a provider has vouched for, as a member of its tenant.
    async fn person_of_sso(
        &self,
        tx: &mut Tx,
        connection: &Connection,
        vouched: &Vouched,
        email: &Email,
        confirms: Option<UserId>,
        from: &Origin,
    ) -> Result<User, ServiceError> {
        let now = self.clock.now();
        let (tenant, issuer) = (connection.tenant, connection.issuer.as_str());
        let scope = Scope::of_system(Owner::Tenant(tenant));
        let linked = sso::identity(tx, tenant, issuer, &vouched.subject).await?;
        let known = match linked {
            Some(id) => people::find(tx, id).await?,
            None => people::find_by_email(tx, email).await?,
        };
        if let Some(id) = confirms {
            // Who confirms must be who asked, and have done so just now.
            let fresh = vouched.signed_in_at.is_some_and(|at| now.since(at) < AWAY);
            return known.filter(|user| user.id == id && fresh).ok_or(ServiceError::Denied);
        }
        let user = if let Some(user) = known {
            user
        } else {
            let user = User {
                id: UserId::new(),
                email: email.as_str().to_owned(),
                platform_role: None,
                disabled_at: None,
                created_at: now,
                proved_at: Some(now),
                sessions_from: Moment(0),
                ways: Ways::default(),
            };
            people::insert(tx, &user, NO_PASSWORD).await?;
            let detail = serde_json::json!({ "by": "single sign-on", "tenant": tenant });
            let (id, action) = (Some(user.id), AuditAction::UserCreated);
            self.record_person(tx, id, &user.email, from, action, detail).await?;
            user
        };
        if user.disabled_at.is_some() {
            return Err(ServiceError::Denied);
        }
        if user.platform_role.is_some() {
            return Err(ServiceError::Conflict("Staff sign in with a password and a second factor."));
        }
        let is_member = people::memberships(tx, user.id).await?.iter().any(|place| place.tenant_id == tenant);
        if !is_member {
            let left = members::former(tx, &scope).await?.iter().any(|(email, _)| *email == user.email);
            if left || linked.is_some() {
                return Err(ServiceError::Conflict(
                    "You were removed from this account. One of its admins can invite you again.",
                ));
            }
            people::add_member(tx, user.id, tenant, connection.default_role, now).await?;
            members::drop_invitations(tx, tenant, &user.email).await?;
            let actor = AuditActor {
                user_id: Some(user.id),
                name: user.email.clone(),
                address: Some(from.address.clone()),
                request_id: from.request_id,
                behalf_id: None,
            };
            let event = AuditEvent {
                at: now,
                actor,
                action: AuditAction::MemberAdded,
                target: user.email.clone(),
                detail: serde_json::json!({ "role": connection.default_role, "by": "single sign-on" }),
            };
            audit::append(tx, &self.root, Owner::Tenant(tenant), &event).await?;
        }
        if linked.is_none() {
            sso::insert_identity(tx, tenant, issuer, &vouched.subject, user.id, now).await?;
        }
        people::prove(tx, user.id, now).await?;
        Ok(user)
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
