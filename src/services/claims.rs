//! Ownership of tenants that a service token made: a link, by which whoever opens it becomes the first
//! admin.

use super::accounts::{Origin, Person};
use super::{Problems, ServiceError, Services};
use crate::access::actor::Actor;
use crate::access::policy::Action;
use crate::access::scope::Scope;
use crate::crypto::secret::Secret;
use crate::crypto::token;
use crate::domain::account::{self, Email, Slug, Tenant, TenantRole, User, Ways};
use crate::domain::audit::{AuditAction, AuditActor, AuditEvent};
use crate::domain::clock::{DAY, Moment};
use crate::domain::ids::{Owner, UserId};
use crate::storage::{Tx, audit, claims, members, people, tenants};

/// How long a link works.
const CLAIM_FOR: i64 = 7 * DAY;

impl Services {
    /// Makes a link by which a tenant that has no admin is claimed. It takes the place of one before.
    ///
    /// # Errors
    /// `NotFound` when there is no such tenant, `Conflict` when it has an admin.
    pub async fn make_claim_link(&self, actor: &Actor, slug: &str) -> Result<(String, Moment), ServiceError> {
        self.permit(actor, Action::ManagePlatform, None)?;
        let now = self.clock.now();
        let mut tx = self.db.write().await?;
        let tenant = tenants::find_by_slug(&mut tx, slug).await?.ok_or(ServiceError::NotFound)?.tenant;
        let scope = Scope::of_system(Owner::Tenant(tenant.id));
        without_admin(&mut tx, &scope).await?;
        let text = token::random_text();
        let until = now.plus(CLAIM_FOR);
        claims::put(&mut tx, &scope, &token::hash(&text), &actor.email, until).await?;
        let detail = serde_json::json!({ "until": until.rfc3339() });
        let (action, target) = (AuditAction::ClaimLinkMade, tenant.slug.as_str());
        self.record(&mut tx, scope.owner(), actor, action, target, detail).await?;
        tx.commit().await?;
        Ok((format!("{}/claim/{text}", self.options.public_url), until))
    }

    /// The tenant that a link is for.
    ///
    /// # Errors
    /// `NotFound` when it does not work, or works no more.
    pub async fn claimed_tenant(&self, text: &str) -> Result<Tenant, ServiceError> {
        let mut tx = self.db.read().await?;
        let id = claims::find(&mut tx, &token::hash(text), self.clock.now()).await?;
        let record = tenants::find(&mut tx, id.ok_or(ServiceError::NotFound)?).await?;
        Ok(record.ok_or(ServiceError::NotFound)?.tenant)
    }

    /// Makes whoever is signed in the tenant's first admin.
    ///
    /// # Errors
    /// `NotFound` when the link works no more.
    pub async fn claim(&self, actor: &Actor, text: &str) -> Result<Slug, ServiceError> {
        if actor.on_behalf.is_some() || actor.by_token {
            return Err(ServiceError::Denied);
        }
        super::members::not_by_sso(actor)?;
        let mut tx = self.db.write().await?;
        let user = people::find(&mut tx, actor.user_id).await?.ok_or(ServiceError::NotFound)?;
        let by = actor.for_audit();
        let tenant = self.take_claim(&mut tx, &user, &by, text).await?;
        tx.commit().await?;
        Ok(tenant.slug)
    }

    /// Makes an account, and with it the tenant's first admin.
    ///
    /// # Errors
    /// `NotFound` when the link works no more, `Invalid` for what was typed or an address that has an
    /// account already.
    pub async fn claim_anew(
        &self,
        text: &str,
        email: &str,
        password: Secret,
        from: &Origin,
    ) -> Result<Person, ServiceError> {
        self.claimed_tenant(text).await?;
        let mut problems = Problems::default();
        let email = Email::parse(email);
        if email.is_none() {
            problems.add("email", "Enter an e-mail address, such as ada@example.com.");
        }
        let known = email.as_ref().map_or("", Email::as_str);
        if let Err(weak) = account::judge_password(password.expose(), &[known, &self.options.product]) {
            problems.add("password", weak.to_string());
        }
        problems.or_ok()?;
        let email = email.ok_or(ServiceError::NotFound)?;
        let hash = self.passwords.hash(password).await?;
        let now = self.clock.now();
        let user = User {
            id: UserId::new(),
            email: email.as_str().to_owned(),
            platform_role: None,
            disabled_at: None,
            created_at: now,
            // The link shows that the tenant is theirs, and nothing of the address.
            proved_at: None,
            sessions_from: Moment(0),
            ways: Ways { password: true, ..Ways::default() },
        };
        let mut tx = self.db.write().await?;
        match people::insert(&mut tx, &user, &hash).await {
            Err(error) if error.is_conflict() => {
                let message =
                    "There is an account of that address already. Sign in, then open this link again.";
                return Err(ServiceError::Invalid(Problems::field("email", message)));
            }
            done => done?,
        }
        let by = AuditActor {
            user_id: Some(user.id),
            name: user.email.clone(),
            address: Some(from.address.clone()),
            request_id: from.request_id,
            behalf_id: None,
        };
        self.take_claim(&mut tx, &user, &by, text).await?;
        let detail = serde_json::json!({ "by": "claim link" });
        let (id, action) = (Some(user.id), AuditAction::UserCreated);
        self.record_person(&mut tx, id, &user.email, from, action, detail).await?;
        self.admit(tx, user, from, now, "claim link").await
    }

    async fn take_claim(
        &self,
        tx: &mut Tx,
        user: &User,
        by: &AuditActor,
        text: &str,
    ) -> Result<Tenant, ServiceError> {
        let now = self.clock.now();
        let hash = token::hash(text);
        let id = claims::find(tx, &hash, now).await?.ok_or(ServiceError::NotFound)?;
        let scope = Scope::of_system(Owner::Tenant(id));
        without_admin(tx, &scope).await?;
        if !claims::take(tx, &hash).await? {
            return Err(ServiceError::NotFound);
        }
        let tenant = tenants::find(tx, id).await?.ok_or(ServiceError::NotFound)?.tenant;
        if members::list(tx, &scope).await?.iter().any(|member| member.user == user.id) {
            members::set_role(tx, &scope, user.id, TenantRole::Admin).await?;
        } else {
            people::add_member(tx, user.id, id, TenantRole::Admin, now).await?;
        }
        let event = AuditEvent {
            at: now,
            actor: by.clone(),
            action: AuditAction::TenantClaimed,
            target: user.email.clone(),
            detail: serde_json::json!({ "role": TenantRole::Admin }),
        };
        audit::append(tx, &self.root, scope.owner(), &event).await?;
        Ok(tenant)
    }
}

/// Takes the tenant's members for oneself, and makes sure that there is no admin among them.
async fn without_admin(tx: &mut Tx, scope: &Scope) -> Result<(), ServiceError> {
    members::lock(tx, scope).await?;
    let found = members::list(tx, scope).await?;
    if found.iter().any(|member| member.role == TenantRole::Admin) {
        return Err(ServiceError::Conflict("This tenant has an admin, who can invite others."));
    }
    Ok(())
}
