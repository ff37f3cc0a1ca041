//! Members of a tenant: who is invited, what they may do, and what is to be changed when they leave.

use super::accounts::{Origin, Person};
use super::{Problems, ServiceError, Services};
use crate::access::actor::Actor;
use crate::access::policy::{About, Action};
use crate::access::scope::Scope;
use crate::crypto::secret::Secret;
use crate::crypto::token;
use crate::domain::account::{self, Email, Proof, Slug, Tenant, TenantRole, User, Ways};
use crate::domain::audit::AuditAction;
use crate::domain::clock::{DAY, Moment};
use crate::domain::ids::{InvitationId, Owner, TokenId, UserId};
use crate::storage::members::{self, Invitation, Member};
use crate::storage::{Tx, keys, people, sessions, tenants, tokens};

/// How long an invitation holds.
const INVITED_FOR: i64 = 7 * DAY;
const MOST_INVITED: usize = 100;
/// Invitations before the next ones have to wait.
const FREE_INVITATIONS: i32 = 50;
const FREE_INVITATIONS_TO_ONE: i32 = 5;
const LAST_ADMIN: &str = "That is the last admin: make somebody else one first.";

/// Everything that the page of members shows.
pub struct Members {
    pub members: Vec<Member>,
    pub invitations: Vec<Invitation>,
    pub known: Vec<Known>,
}

/// Something that a person knows who has left, and that is still in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// The provider key of this name, which they pasted.
    Key { email: String, left_at: Moment, name: Slug },
    /// An access token that they made; `left_at` is `None` where they are here, and no admin any more.
    Token { email: String, left_at: Option<Moment>, id: TokenId, name: String },
}

/// An invitation as whoever has its link sees it.
pub struct Invited {
    pub tenant: Tenant,
    pub email: String,
    pub role: TenantRole,
    pub by: String,
    mailed: bool,
    /// Whether there is an account of that address.
    pub has_account: bool,
}

/// A link that was just made.
pub struct MadeInvitation {
    /// To be passed on; `None` where it went out by e-mail.
    pub link: Option<String>,
    pub email: String,
    /// Whether it went out by e-mail, or why not; `None` where no mail server is set.
    pub mailed: Option<bool>,
}

impl Services {
    fn permit_members(&self, actor: &Actor, tenant: &Tenant) -> Result<(), ServiceError> {
        let about = About { tenant: tenant.id, key_changers: tenant.key_changers };
        self.permit(actor, Action::ManageMembers, Some(about))
    }

    /// Members, invitations, and what people who left still know. Whoever may manage members may see them
    /// without confirming anything; the caller has asked for that.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn members(&self, scope: &Scope) -> Result<Members, ServiceError> {
        let mut tx = self.db.read().await?;
        Ok(Members {
            members: members::list(&mut tx, scope).await?,
            invitations: members::invitations(&mut tx, scope, self.clock.now()).await?,
            known: known_to_others(&mut tx, scope, self.clock.now()).await?,
        })
    }

    /// What a member knows that would be left behind.
    ///
    /// # Errors
    /// `NotFound` for somebody who is no member.
    pub async fn member(&self, scope: &Scope, user: UserId) -> Result<(Member, Vec<Known>), ServiceError> {
        let mut tx = self.db.read().await?;
        let member = find(&mut tx, scope, user).await?;
        let now = self.clock.now();
        let known = known_to(&mut tx, scope, &[(member.email.clone(), now)], now).await?;
        Ok((member, known))
    }

    /// Invites somebody. The link works once, for a week, and for this address alone.
    ///
    /// # Errors
    /// `Invalid` with the reason at its field.
    pub async fn invite(
        &self,
        actor: &Actor,
        (scope, tenant): (&Scope, &Tenant),
        email: &str,
        role: &str,
    ) -> Result<MadeInvitation, ServiceError> {
        self.permit_members(actor, tenant)?;
        let mut problems = Problems::default();
        let (email, role) = (Email::parse(email), TenantRole::parse(role));
        if email.is_none() {
            problems.add("email", "Enter an e-mail address, such as ada@example.com.");
        }
        if role.is_none() {
            problems.add("role", "Choose a role.");
        }
        let (Some(email), Some(role)) = (email, role) else { return Err(ServiceError::Invalid(problems)) };
        let now = self.clock.now();
        let text = token::random_text();
        let one = Invitation {
            id: InvitationId::new(),
            tenant: tenant.id,
            email: email.as_str().to_owned(),
            role,
            invited_by: actor.email.clone(),
            created_at: now,
            expires_at: now.plus(INVITED_FOR),
            mailed: false,
        };
        // Each is a letter from the operator's mail server.
        let buckets = [
            (self.root.blind("invitations", &tenant.id.to_string()), FREE_INVITATIONS),
            (self.root.blind("invitations to", &one.email), FREE_INVITATIONS_TO_ONE),
        ];
        self.take_attempt(&buckets).await?;
        let mut tx = self.db.write().await?;
        still_admin(&mut tx, scope, actor).await?;
        if members::list(&mut tx, scope).await?.iter().any(|member| member.email == one.email) {
            let taken = Problems::field("email", "That person is a member already.");
            return Err(ServiceError::Invalid(taken));
        }
        let open = members::invitations(&mut tx, scope, now).await?;
        if open.iter().filter(|other| other.email != one.email).count() >= MOST_INVITED {
            return Err(ServiceError::Conflict(
                "There are 100 open invitations already. Take some back first.",
            ));
        }
        members::invite(&mut tx, &one, &token::hash(&text)).await?;
        let detail = serde_json::json!({ "role": role.as_str(), "invitation": one.id });
        self.record(&mut tx, scope.owner(), actor, AuditAction::MemberInvited, &one.email, detail).await?;
        tx.commit().await?;
        let link = format!("{}/join/{text}", self.options.public_url);
        let mailed = match &self.mailer {
            None => None,
            Some(mailer) => {
                let subject = format!("{} invites you to {}", actor.email, tenant.name);
                let words = format!(
                    "{} invites you to {} as {}.\n\nOpen this link within a week to accept. It works once:\n{link}\n",
                    actor.email,
                    tenant.name,
                    role.label().to_lowercase()
                );
                let sent = mailer.send(&one.email, &one.id.to_string(), &subject, &words).await;
                if let Err(failure) = &sent {
                    tracing::warn!(why = %failure.text, "an invitation could not be sent by e-mail");
                }
                if sent.is_ok() {
                    let mut tx = self.db.write().await?;
                    members::mark_mailed(&mut tx, one.id).await?;
                    tx.commit().await?;
                }
                Some(sent.is_ok())
            }
        };
        // What went out is for whoever reads it there, and for nobody else.
        let link = Some(link).filter(|_| mailed != Some(true));
        Ok(MadeInvitation { link, email: one.email, mailed })
    }

    /// Takes an invitation back.
    ///
    /// # Errors
    /// `Conflict` when it was used or taken back already.
    pub async fn take_back_invitation(
        &self,
        actor: &Actor,
        (scope, tenant): (&Scope, &Tenant),
        id: InvitationId,
    ) -> Result<(), ServiceError> {
        self.permit_members(actor, tenant)?;
        let mut tx = self.db.write().await?;
        still_admin(&mut tx, scope, actor).await?;
        let open = members::invitations(&mut tx, scope, self.clock.now()).await?;
        let Some(one) = open.into_iter().find(|one| one.id == id) else {
            return Err(ServiceError::Conflict("That invitation was used or taken back already."));
        };
        members::delete_invitation(&mut tx, tenant.id, id).await?;
        let detail = serde_json::json!({ "role": one.role.as_str(), "invitation": id });
        let action = AuditAction::InvitationTakenBack;
        self.record(&mut tx, scope.owner(), actor, action, &one.email, detail).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Gives a member another role, from the next request on.
    ///
    /// # Errors
    /// `Denied` for one's own, `Conflict` for the last admin.
    pub async fn set_member_role(
        &self,
        actor: &Actor,
        (scope, tenant): (&Scope, &Tenant),
        user: UserId,
        role: &str,
    ) -> Result<(), ServiceError> {
        self.permit_members(actor, tenant)?;
        let role = TenantRole::parse(role)
            .ok_or_else(|| ServiceError::Invalid(Problems::field("role", "Choose a role.")))?;
        if user == actor.user_id {
            return Err(ServiceError::Denied);
        }
        let mut tx = self.db.write().await?;
        still_admin(&mut tx, scope, actor).await?;
        let member = find(&mut tx, scope, user).await?;
        let mut taken_back = 0;
        if role != TenantRole::Admin {
            not_the_last_admin(&mut tx, scope, &member).await?;
            taken_back = members::drop_invitations_by(&mut tx, scope, &member.email).await?;
        }
        members::set_role(&mut tx, scope, user, role).await?;
        let detail = serde_json::json!({
            "before": member.role.as_str(), "after": role.as_str(), "invitations_taken_back": taken_back,
        });
        let action = AuditAction::MemberRoleChanged;
        self.record(&mut tx, scope.owner(), actor, action, &member.email, detail).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Takes somebody out of the tenant: from their next request on they see nothing of it. The access
    /// tokens that they made stop working, unless they are to be kept.
    ///
    /// # Errors
    /// `Denied` for oneself, `Conflict` for the last admin.
    pub async fn remove_member(
        &self,
        actor: &Actor,
        (scope, tenant): (&Scope, &Tenant),
        user: UserId,
        keep_tokens: bool,
    ) -> Result<(), ServiceError> {
        self.permit_members(actor, tenant)?;
        if user == actor.user_id {
            return Err(ServiceError::Denied);
        }
        let mut tx = self.db.write().await?;
        still_admin(&mut tx, scope, actor).await?;
        let member = find(&mut tx, scope, user).await?;
        not_the_last_admin(&mut tx, scope, &member).await?;
        let ended = self.let_go(&mut tx, scope, &member, keep_tokens).await?;
        let detail = serde_json::json!({ "role": member.role.as_str(), "tokens_revoked": ended });
        self.record(&mut tx, scope.owner(), actor, AuditAction::MemberRemoved, &member.email, detail).await?;
        tx.commit().await?;
        self.directory.forget_tokens();
        Ok(())
    }

    /// Leaves a tenant.
    ///
    /// # Errors
    /// `NotFound` where one is no member, `Conflict` for the last admin.
    pub async fn leave(&self, actor: &Actor, slug: &str) -> Result<(), ServiceError> {
        let mut tx = self.db.write().await?;
        let record = tenants::find_by_slug(&mut tx, slug).await?;
        let tenant = record.ok_or(ServiceError::NotFound)?.tenant;
        // Where they came by one tenant's provider, there is no other.
        actor.role_in(tenant.id).ok_or(ServiceError::NotFound)?;
        let scope = Scope::of_system(Owner::Tenant(tenant.id));
        members::lock(&mut tx, &scope).await?;
        let member = find(&mut tx, &scope, actor.user_id).await?;
        not_the_last_admin(&mut tx, &scope, &member).await?;
        self.let_go(&mut tx, &scope, &member, true).await?;
        let detail = serde_json::json!({ "role": member.role.as_str() });
        self.record(&mut tx, scope.owner(), actor, AuditAction::MemberLeft, &member.email, detail).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn let_go(
        &self,
        tx: &mut Tx,
        scope: &Scope,
        member: &Member,
        keep_tokens: bool,
    ) -> Result<Vec<String>, ServiceError> {
        let now = self.clock.now();
        members::remove(tx, scope, member, now).await?;
        members::drop_invitations_by(tx, scope, &member.email).await?;
        // Somebody who is nowhere else has nothing to be signed in for.
        let user = people::find(tx, member.user).await?;
        let staff = user.is_some_and(|user| user.platform_role.is_some());
        if !staff && members::places(tx, member.user).await? == 0 {
            sessions::revoke_all(tx, member.user, now).await?;
        }
        if keep_tokens {
            return Ok(Vec::new());
        }
        let mut ended = Vec::new();
        for made in tokens::list(tx, scope).await?.iter().filter(|made| made.created_by == member.email) {
            ended.extend(tokens::revoke(tx, scope, made.id, now).await?);
        }
        if !ended.is_empty() {
            crate::storage::changes::bump(tx, scope.owner(), now).await?;
        }
        Ok(ended)
    }

    /// What an invitation's link leads to.
    ///
    /// # Errors
    /// `NotFound` when it was used, taken back, has expired or was never made.
    pub async fn invitation(&self, text: &str) -> Result<Invited, ServiceError> {
        let mut tx = self.db.read().await?;
        let one = members::find_invitation(&mut tx, &token::hash(text), self.clock.now()).await?;
        let one = one.ok_or(ServiceError::NotFound)?;
        let record = tenants::find(&mut tx, one.tenant).await?.ok_or(ServiceError::NotFound)?;
        let known = match Email::parse(&one.email) {
            Some(email) => people::find_by_email(&mut tx, &email).await?,
            None => None,
        };
        Ok(Invited {
            tenant: record.tenant,
            email: one.email,
            role: one.role,
            by: one.invited_by,
            mailed: one.mailed,
            has_account: known.is_some(),
        })
    }

    /// Accepts an invitation as the person who is signed in. Gives the tenant's slug.
    ///
    /// # Errors
    /// `NotFound` for a link that works no more, `Denied` when it is for somebody else.
    pub async fn join(&self, actor: &Actor, text: &str) -> Result<Slug, ServiceError> {
        not_by_sso(actor)?;
        let mut tx = self.db.write().await?;
        let user = people::find(&mut tx, actor.user_id).await?.ok_or(ServiceError::NotFound)?;
        let (tenant, one) = self.accept(&mut tx, &user, text).await?;
        let detail = joined(&one);
        let chain = Owner::Tenant(tenant.id);
        self.record(&mut tx, chain, actor, AuditAction::MemberAdded, &user.email, detail).await?;
        tx.commit().await?;
        Ok(tenant.slug)
    }

    /// Makes an account for whom the invitation is, and accepts it.
    ///
    /// # Errors
    /// `NotFound` for a link that works no more, `Invalid` for a weak password or where there is an
    /// account already.
    pub async fn join_anew(
        &self,
        text: &str,
        password: Secret,
        from: &Origin,
    ) -> Result<Person, ServiceError> {
        let invited = self.invitation(text).await?;
        if invited.has_account {
            let message = "There is an account of that address already. Sign in with it.";
            return Err(ServiceError::Invalid(Problems::field("password", message)));
        }
        if let Err(weak) =
            account::judge_password(password.expose(), &[&invited.email, &self.options.product])
        {
            return Err(ServiceError::Invalid(Problems::field("password", weak.to_string())));
        }
        let hash = self.passwords.hash(password).await?;
        let now = self.clock.now();
        let mut tx = self.db.write().await?;
        let user = User {
            id: UserId::new(),
            email: invited.email,
            platform_role: None,
            disabled_at: None,
            created_at: now,
            proved_at: Some(now).filter(|_| invited.mailed),
            sessions_from: Moment(0),
            ways: Ways { password: true, ..Ways::default() },
        };
        match people::insert(&mut tx, &user, &hash).await {
            // Two at once: the other one is there now.
            Err(error) if error.is_conflict() => return Err(ServiceError::NotFound),
            done => done?,
        }
        let (tenant, one) = self.accept(&mut tx, &user, text).await?;
        people::remember_device(&mut tx, user.id, &self.root.blind("device", &from.device), now).await?;
        let memberships = people::memberships(&mut tx, user.id).await?;
        let actor = Actor {
            user_id: user.id,
            email: user.email.clone(),
            platform_role: None,
            memberships: memberships.iter().map(|place| (place.tenant_id, place.role)).collect(),
            confirmed_at: now,
            strong_at: now,
            address: Some(from.address.clone()),
            request_id: from.request_id,
            by_token: false,
            on_behalf: None,
            proof: Proof::default(),
        };
        let detail = joined(&one);
        let chain = Owner::Tenant(tenant.id);
        self.record(&mut tx, chain, &actor, AuditAction::MemberAdded, &user.email, detail.clone()).await?;
        for action in [AuditAction::UserCreated, AuditAction::SignedIn] {
            self.record(&mut tx, Owner::Platform, &actor, action, &user.email, detail.clone()).await?;
        }
        tx.commit().await?;
        Ok(Person { user, memberships, since: now })
    }

    async fn accept(
        &self,
        tx: &mut Tx,
        user: &User,
        text: &str,
    ) -> Result<(Tenant, Invitation), ServiceError> {
        let now = self.clock.now();
        let one =
            members::find_invitation(tx, &token::hash(text), now).await?.ok_or(ServiceError::NotFound)?;
        members::lock(tx, &Scope::of_system(Owner::Tenant(one.tenant))).await?;
        if one.email != user.email {
            return Err(ServiceError::Denied);
        }
        if !members::delete_invitation(tx, one.tenant, one.id).await? {
            return Err(ServiceError::NotFound);
        }
        match people::add_member(tx, user.id, one.tenant, one.role, now).await {
            Err(error) if error.is_conflict() => {
                return Err(ServiceError::Conflict("You are a member already."));
            }
            done => done?,
        }
        members::forget_former(tx, one.tenant, &user.email).await?;
        if one.mailed {
            people::prove(tx, user.id, now).await?;
        }
        let tenant = tenants::find(tx, one.tenant).await?.ok_or(ServiceError::NotFound)?.tenant;
        Ok((tenant, one))
    }
}

/// A session that came by a tenant's provider opens that tenant and no further one.
pub(super) fn not_by_sso(actor: &Actor) -> Result<(), ServiceError> {
    match actor.proof {
        Proof::Sso(_) => Err(ServiceError::Conflict(
            "You signed in by single sign-on, which opens one account alone. Sign in another way, then open the link again.",
        )),
        _ => Ok(()),
    }
}

/// What is put on record of somebody who came by invitation.
fn joined(one: &Invitation) -> serde_json::Value {
    serde_json::json!({ "role": one.role.as_str(), "invited_by": one.invited_by, "invitation": one.id })
}

/// Takes the tenant's members for oneself, and makes sure that who asked is an admin of it still: what
/// was known of them is from before they waited.
async fn still_admin(tx: &mut Tx, scope: &Scope, actor: &Actor) -> Result<(), ServiceError> {
    members::lock(tx, scope).await?;
    let is_one = |member: &Member| member.user == actor.user_id && member.role == TenantRole::Admin;
    let found = members::list(tx, scope).await?;
    if found.iter().any(is_one) { Ok(()) } else { Err(ServiceError::Denied) }
}

async fn find(tx: &mut Tx, scope: &Scope, user: UserId) -> Result<Member, ServiceError> {
    let found = members::list(tx, scope).await?.into_iter().find(|member| member.user == user);
    found.ok_or(ServiceError::NotFound)
}

async fn not_the_last_admin(tx: &mut Tx, scope: &Scope, member: &Member) -> Result<(), ServiceError> {
    let is_admin = |member: &Member| member.role == TenantRole::Admin && !member.disabled;
    let others = members::list(tx, scope).await?;
    let other = others.iter().any(|other| other.user != member.user && is_admin(other));
    if member.role == TenantRole::Admin && !other {
        return Err(ServiceError::Conflict(LAST_ADMIN));
    }
    Ok(())
}

async fn known_to_others(tx: &mut Tx, scope: &Scope, now: Moment) -> Result<Vec<Known>, ServiceError> {
    let former = members::former(tx, scope).await?;
    let mut known = known_to(tx, scope, &former, now).await?;
    // Only admins may make tokens: those of who was one are to be looked at too.
    let demoted: Vec<(String, Moment)> = members::list(tx, scope)
        .await?
        .into_iter()
        .filter(|member| member.role != TenantRole::Admin)
        .map(|member| (member.email, member.since))
        .collect();
    for one in known_to(tx, scope, &demoted, now).await? {
        if let Known::Token { email, id, name, .. } = one {
            known.push(Known::Token { email, left_at: None, id, name });
        }
    }
    Ok(known)
}

/// What is in use that these people have pasted or made.
async fn known_to(
    tx: &mut Tx,
    scope: &Scope,
    people: &[(String, Moment)],
    now: Moment,
) -> Result<Vec<Known>, ServiceError> {
    if people.is_empty() {
        return Ok(Vec::new());
    }
    let of = |name: &str| people.iter().find(|(email, _)| email == name).cloned();
    let mut known = Vec::new();
    for sealed in keys::list(tx, scope).await? {
        if let Some((email, left_at)) = of(&sealed.key.current.created_by_name) {
            known.push(Known::Key { email, left_at, name: sealed.key.name });
        }
    }
    let works = |made: &tokens::AccessToken| made.expires_at.is_none_or(|at| at > now);
    for made in tokens::list(tx, scope).await?.into_iter().filter(works) {
        if let Some((email, left_at)) = of(&made.created_by) {
            known.push(Known::Token { email, left_at: Some(left_at), id: made.id, name: made.name });
        }
    }
    Ok(known)
}
