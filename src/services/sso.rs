//! Single sign-on: a tenant's people sign in with their own identity provider, which may vouch only for
//! addresses of a domain that has shown that it is the tenant's. Such a session opens that tenant alone.

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::accounts::{FREE_FAILURES_OF_ADDRESS, Origin, Person, network};
use super::{ServiceError, Services};
use crate::access::actor::Actor;
use crate::access::scope::Scope;
use crate::crypto::sealed::Binding;
use crate::crypto::secret::Secret;
use crate::domain::account::{Email, Proof, User, Ways};
use crate::domain::audit::{AuditAction, AuditActor, AuditEvent};
use crate::domain::clock::{MINUTE, Moment};
use crate::domain::ids::{Owner, TenantId, UserId};
use crate::outbound::openid::{Relying, Vouched};
use crate::storage::people::{self, NO_PASSWORD};
use crate::storage::sso::{self, Connection};
use crate::storage::{Tx, audit, factors, members, sessions, throttle};

/// How long somebody may be away at their provider.
const AWAY: i64 = 10 * MINUTE;

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

/// What the browser brings back from a provider.
pub struct Back {
    /// The tenant whose address it came back to.
    pub tenant: TenantId,
    pub code: String,
    pub state: String,
    /// Who says so, where the provider tells (RFC 9207).
    pub issuer: Option<String>,
}

/// Whoever came back.
pub struct Arrived {
    pub person: Person,
    pub proof: Proof,
}

pub(super) fn binding(tenant: TenantId, issuer: &str, client_id: &str) -> Binding {
    Binding::new("single sign-on client")
        .with(tenant.0.as_bytes())
        .with(issuer.as_bytes())
        .with(client_id.as_bytes())
}

/// The domain of an address, as it is written everywhere.
pub(super) fn domain_of(email: &Email) -> &str {
    email.as_str().rsplit('@').next().unwrap_or_default()
}

impl Services {
    /// One for each tenant, so that what one provider says is never taken for another's.
    pub(super) fn redirect_of_sso(&self, tenant: TenantId) -> String {
        format!("{}/sign-in/sso/callback/{tenant}", self.options.public_url)
    }

    /// Whether a session that came by the tenant's provider at a moment still counts.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sso_session_counts(
        &self,
        tenant: TenantId,
        started_at: Moment,
    ) -> Result<bool, ServiceError> {
        let view = self.directory.tenant(&Scope::of_system(Owner::Tenant(tenant))).await?;
        Ok(view.is_some_and(|view| started_at >= view.tenant.sso_sessions_from))
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
        // Each time, a provider is asked twice.
        let bucket = self.root.blind("single sign-on of person", &actor.user_id.to_string());
        self.take_attempt(&[(bucket, FREE_FAILURES_OF_ADDRESS)]).await?;
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
        let redirect = self.redirect_of_sso(connection.tenant);
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
        back: &Back,
        from: &Origin,
    ) -> Result<Arrived, ServiceError> {
        let now = self.clock.now();
        let is_ours = bool::from(back.state.as_bytes().ct_eq(away.state.as_bytes()));
        if !is_ours || back.tenant != away.tenant || now.since(away.since) >= AWAY {
            return Err(ServiceError::Denied);
        }
        let scope = Scope::of_system(Owner::Tenant(away.tenant));
        let mut tx = self.db.read().await?;
        let found = sso::find(&mut tx, &scope).await?;
        tx.rollback().await?;
        let connection = found.filter(|found| found.verified_at.is_some()).ok_or(ServiceError::Denied)?;
        if back.issuer.as_ref().is_some_and(|issuer| *issuer != connection.issuer) {
            return Err(ServiceError::Denied);
        }
        let secret = self.secret_of(&connection).await?;
        let redirect = self.redirect_of_sso(connection.tenant);
        let relying = self.relying(&connection, &secret, &redirect);
        let vouched = match relying.redeem(&back.code, &away.nonce, &Secret::new(away.verifier), now).await {
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
        let proof = Proof::Sso(connection.tenant);
        if away.confirms.is_some() {
            let detail = serde_json::json!({ "by": "single sign-on" });
            let (id, action) = (Some(user.id), AuditAction::Confirmed);
            self.record_person(&mut tx, id, &user.email, from, action, detail).await?;
            tx.commit().await?;
            return Ok(Arrived { person: Person { user, memberships: Vec::new(), since: now }, proof });
        }
        throttle::clear(&mut tx, &self.sso_bucket(from)).await?;
        // From now: whatever sessions were ended for them a moment ago, this one begins after.
        let since = self.clock.now();
        let person = self.admit(tx, user, from, since, "single sign-on").await?;
        Ok(Arrived { person, proof })
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
        let is_new = known.is_none();
        let user = known.unwrap_or_else(|| User {
            id: UserId::new(),
            email: email.as_str().to_owned(),
            platform_role: None,
            disabled_at: None,
            created_at: now,
            proved_at: Some(now),
            sessions_from: Moment(0),
            ways: Ways::default(),
        });
        if is_new {
            people::insert(tx, &user, NO_PASSWORD).await?;
        }
        if user.disabled_at.is_some() {
            return Err(ServiceError::Denied);
        }
        if user.platform_role.is_some() {
            return Err(ServiceError::Conflict("Staff sign in with a password and a second factor."));
        }
        if linked.is_none() && sso::is_linked(tx, tenant, issuer, user.id).await? {
            // An address that was given to somebody else there, or was changed by them.
            return Err(ServiceError::Conflict(
                "Your identity provider knows somebody else by this address. Ask one of the account's admins.",
            ));
        }
        if user.proved_at.is_none() {
            // Whoever made the account on this address may be somebody else: nothing of theirs stays.
            people::set_password(tx, user.id, NO_PASSWORD).await?;
            factors::delete_all(tx, user.id).await?;
            sessions::revoke_all(tx, user.id, now).await?;
        }
        let by = AuditActor {
            user_id: Some(user.id),
            name: user.email.clone(),
            address: Some(from.address.clone()),
            request_id: from.request_id,
            behalf_id: None,
        };
        let told = |action, detail| AuditEvent {
            at: now,
            actor: by.clone(),
            action,
            target: user.email.clone(),
            detail,
        };
        let is_member = people::memberships(tx, user.id).await?.iter().any(|place| place.tenant_id == tenant);
        if !is_member {
            let left = members::former(tx, &scope).await?.iter().any(|(email, _)| *email == user.email);
            if left || linked.is_some() {
                return Err(ServiceError::Conflict(
                    "You were removed from this account. One of its admins can invite you again.",
                ));
            }
            // Who was invited comes as what they were invited as.
            let invited = members::invitations(tx, &scope, now).await?;
            let invited = invited.into_iter().find(|one| one.email == user.email).map(|one| one.role);
            let role = invited.unwrap_or(connection.default_role);
            people::add_member(tx, user.id, tenant, role, now).await?;
            members::drop_invitations(tx, tenant, &user.email).await?;
            let detail = serde_json::json!({
                "role": role, "by": "single sign-on", "was_invited": invited.is_some(),
            });
            let event = told(AuditAction::MemberAdded, detail);
            audit::append(tx, &self.root, Owner::Tenant(tenant), &event).await?;
        }
        if linked.is_none() {
            sso::insert_identity(tx, tenant, issuer, &vouched.subject, user.id, now).await?;
            let event = told(AuditAction::SsoLinked, serde_json::json!({ "issuer": issuer }));
            audit::append(tx, &self.root, Owner::Tenant(tenant), &event).await?;
        }
        if is_new || user.proved_at.is_none() {
            // After the tenant's entries: its chain is locked before the platform's.
            let action = if is_new { AuditAction::UserCreated } else { AuditAction::SecondFactorsRemoved };
            let detail = serde_json::json!({ "by": "single sign-on", "tenant": tenant });
            self.record_person(tx, Some(user.id), &user.email, from, action, detail).await?;
        }
        people::prove(tx, user.id, now).await?;
        Ok(user)
    }
}
