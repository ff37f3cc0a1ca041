//! People: signing in, confirming a password, sessions, and users made by the operator.

use super::second_factors::{Evidence, RECOVERY_CODE};
use super::{Problems, ServiceError, Services};
use crate::access::actor::Actor;
use crate::crypto::secret::Secret;
use crate::domain::account::{self, Email, Membership, PlatformRole, Proof, TenantRole, User, Ways};
use crate::domain::audit::{AuditAction, AuditActor, AuditEvent};
use crate::domain::clock::{HOUR, MINUTE, Moment, SECOND};
use crate::domain::ids::{Owner, SessionId, TenantId, UserId};
use crate::storage::people::Placed;
use crate::storage::people::{self, LinkPurpose, NO_PASSWORD};
use crate::storage::sessions::StoredSession;
use crate::storage::{Tx, audit, factors, members, sessions, throttle};

/// Where a sign-in attempt comes from.
#[derive(Clone, Debug)]
pub struct Origin {
    pub address: String,
    /// The browser's long-lived cookie; blinded before it is stored.
    pub device: String,
    pub request_id: Option<uuid::Uuid>,
}

/// A person, and where they belong.
#[derive(Clone, Debug)]
pub struct Person {
    pub user: User,
    pub memberships: Vec<Membership>,
    /// When they began to sign in, where they do: a session from then is over if all were ended since.
    pub since: Moment,
}

/// Failures of an account or a known browser that cost no delay.
const FREE_FAILURES: i32 = 4;
/// Many people can share an address.
pub(super) const FREE_FAILURES_OF_ADDRESS: i32 = 30;
const LONGEST_DELAY: i64 = 15 * MINUTE;
const FORGET_AFTER: i64 = 12 * HOUR;

impl Services {
    /// Signs a person in or, where they have a second factor, takes their password for the first half of
    /// that: `person.user.ways` tells. Whether it is the account or the password that is wrong cannot be told
    /// from the answer or from the time that it takes.
    ///
    /// # Errors
    /// `Denied` for a wrong pair, `Throttled` while attempts have to wait.
    pub async fn sign_in(
        &self,
        email: &str,
        password: Secret,
        from: &Origin,
    ) -> Result<Person, ServiceError> {
        let since = self.clock.now();
        let email = Email::parse(email);
        let name = email.as_ref().map_or("", Email::as_str);
        let mut tx = self.db.read().await?;
        let user = match &email {
            Some(email) => people::find_by_email(&mut tx, email).await?,
            None => None,
        };
        let user = user.filter(|user| user.disabled_at.is_none());
        let device = self.root.blind("device", &from.device);
        // Asked for unknown users too, so that both take the same way.
        let id = user.as_ref().map_or_else(UserId::new, |user| user.id);
        let known = people::is_known_device(&mut tx, id, &device).await?;
        let stored = people::password_hash(&mut tx, id).await?;
        tx.rollback().await?;

        let buckets = self.buckets(name, from, &device, known);
        self.take_attempt(&buckets).await?;
        let hash = stored.clone();
        let fits = self.passwords.verify(password, stored).await?;
        let mut tx = self.db.write().await?;
        // As they are now: the password may have been changed, or a second factor set up, meanwhile.
        let user = match user.filter(|_| fits) {
            Some(user) if people::password_hash(&mut tx, user.id).await? == hash => {
                people::find(&mut tx, user.id).await?
            }
            _ => None,
        };
        let Some(user) = user else {
            let detail = serde_json::json!({});
            self.record_person(&mut tx, None, name, from, AuditAction::SignInFailed, detail).await?;
            tx.commit().await?;
            return Err(ServiceError::Denied);
        };
        for (bucket, _) in &buckets {
            throttle::clear(&mut tx, bucket).await?;
        }
        if user.ways.has_second() {
            // Half of the way: `second_step` goes on.
            let memberships = people::memberships(&mut tx, user.id).await?;
            tx.commit().await?;
            return Ok(Person { user, memberships, since });
        }
        self.admit(tx, user, from, since, "password").await
    }

    /// The end of every sign-in: remembers the browser, writes it down, commits, and tells of a browser
    /// that was never seen before.
    pub(super) async fn admit(
        &self,
        mut tx: Tx,
        user: User,
        from: &Origin,
        since: Moment,
        by: &str,
    ) -> Result<Person, ServiceError> {
        let now = self.clock.now();
        let device = self.root.blind("device", &from.device);
        let known = people::is_known_device(&mut tx, user.id, &device).await?;
        people::remember_device(&mut tx, user.id, &device, now).await?;
        let is_news = !known && people::has_devices(&mut tx, user.id, &device).await?;
        let memberships = people::memberships(&mut tx, user.id).await?;
        let detail = serde_json::json!({ "by": by, "known_browser": known });
        self.record_person(&mut tx, Some(user.id), &user.email, from, AuditAction::SignedIn, detail).await?;
        tx.commit().await?;
        if is_news {
            let words = format!(
                "Somebody signed in to your account from a browser that was not seen before, at {}, from the address {}.\n\nIf that was you, there is nothing to do. If not, sign in, choose another password under Account, and end all sessions there:\n{}/account\n",
                now.rfc3339(),
                from.address,
                self.options.public_url
            );
            self.send_aside(&user.email, "New sign-in to your account", words);
        }
        Ok(Person { user, memberships, since })
    }

    /// Sends a letter, if a mail server is set, while the caller goes on: how long it takes says nothing.
    pub(super) fn send_aside(&self, to: &str, subject: &'static str, words: String) {
        let Some(mailer) = self.mailer.clone() else { return };
        let (to, id) = (to.to_owned(), uuid::Uuid::now_v7().to_string());
        self.runtime.spawn(async move {
            if let Err(failure) = mailer.send(&to, &id, subject, &words).await {
                tracing::warn!(why = %failure.text, subject, "a letter could not be sent");
            }
        });
    }

    /// Ends all of one's sessions.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sign_out_everywhere(&self, actor: &Actor) -> Result<(), ServiceError> {
        let own = self.sessions(actor).await?;
        let mut tx = self.db.write().await?;
        if matches!(actor.proof, Proof::Sso(_)) {
            for session in own {
                sessions::revoke(&mut tx, actor.user_id, session.id).await?;
            }
        } else {
            sessions::revoke_all(&mut tx, actor.user_id, self.clock.now()).await?;
        }
        let detail = serde_json::json!({});
        let action = AuditAction::SignedOutEverywhere;
        self.record(&mut tx, Owner::Platform, actor, action, &actor.email, detail).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Has a signed-in person prove again that it is them, under the same throttle.
    ///
    /// # Errors
    /// `Denied` for a wrong password or code, `Throttled` while attempts have to wait.
    pub async fn confirm(&self, actor: &Actor, evidence: Evidence) -> Result<(), ServiceError> {
        // By person alone: whoever holds the session chooses its cookies, and may share its address.
        // Each kind by itself: a password that is right makes no room for more codes.
        let kind = format!("{}\0{}", evidence.word(), actor.user_id);
        let buckets = [(self.root.blind("confirmation", &kind), FREE_FAILURES)];
        self.take_attempt(&buckets).await?;
        let (mut tx, by) = self.judge(actor.user_id, evidence).await?;
        let Some(by) = by else {
            let detail = serde_json::json!({ "step": "confirmation" });
            self.record(&mut tx, Owner::Platform, actor, AuditAction::SignInFailed, &actor.email, detail)
                .await?;
            tx.commit().await?;
            return Err(ServiceError::Denied);
        };
        for (bucket, _) in &buckets {
            throttle::clear(&mut tx, bucket).await?;
        }
        let detail = serde_json::json!({ "by": by });
        self.record(&mut tx, Owner::Platform, actor, AuditAction::Confirmed, &actor.email, detail).await?;
        if by == RECOVERY_CODE {
            let address = actor.address.as_deref().unwrap_or("unknown");
            self.tell_of_recovery(&mut tx, actor.user_id, &actor.email, address).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// A browser that the account knows is counted by itself: strangers who guess at the account
    /// cannot lock its owner out.
    pub(super) fn buckets(&self, name: &str, from: &Origin, device: &str, known: bool) -> Vec<(String, i32)> {
        if known {
            return vec![(self.root.blind("known browser", &format!("{name}\0{device}")), FREE_FAILURES)];
        }
        vec![
            (self.root.blind("account", name), FREE_FAILURES),
            (self.root.blind("address", &network(&from.address)), FREE_FAILURES_OF_ADDRESS),
        ]
    }

    /// Counts an attempt before it is made, so that many at once cannot slip past the count.
    pub(super) async fn take_attempt(&self, buckets: &[(String, i32)]) -> Result<(), ServiceError> {
        let now = self.clock.now();
        let mut tx = self.db.write().await?;
        let mut wait = 0;
        for (bucket, free) in buckets {
            throttle::lock(&mut tx, bucket).await?;
            if let Some(failures) = throttle::find(&mut tx, bucket).await? {
                let ends = failures.last_at.plus(delay_after(failures.count - free));
                wait = wait.max(ends.since(now));
            }
        }
        if wait > 0 {
            tx.rollback().await?;
            return Err(ServiceError::Throttled { seconds: (wait + SECOND - 1) / SECOND });
        }
        for (bucket, _) in buckets {
            throttle::record(&mut tx, bucket, now, now.minus(FORGET_AFTER)).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    pub(super) async fn record_person(
        &self,
        tx: &mut Tx,
        user_id: Option<UserId>,
        name: &str,
        from: &Origin,
        action: AuditAction,
        detail: serde_json::Value,
    ) -> Result<(), ServiceError> {
        let actor = AuditActor {
            user_id,
            name: name.to_owned(),
            address: Some(from.address.clone()),
            request_id: from.request_id,
            behalf_id: None,
        };
        let event = AuditEvent { at: self.clock.now(), actor, action, target: name.to_owned(), detail };
        Ok(audit::append(tx, &self.root, Owner::Platform, &event).await?)
    }

    /// Records that a person signed out.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn signed_out(&self, actor: &Actor) -> Result<(), ServiceError> {
        let mut tx = self.db.write().await?;
        let detail = serde_json::json!({});
        self.record(&mut tx, Owner::Platform, actor, AuditAction::SignedOut, &actor.email, detail).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The person of a session, unless they were disabled meanwhile.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn person(&self, id: UserId) -> Result<Option<Person>, ServiceError> {
        Ok(people::with_places(&self.db, id).await?.and_then(|found| self.person_now(found)))
    }

    /// Whoever was found, unless they were disabled meanwhile.
    #[must_use]
    pub fn person_now(&self, (user, memberships): Placed) -> Option<Person> {
        user.disabled_at.is_none().then(|| Person { user, memberships, since: self.clock.now() })
    }

    /// Changes one's own password and ends all other sessions.
    ///
    /// # Errors
    /// `Denied` when the present one is wrong, `Invalid` when the new one is weak.
    pub async fn change_password(
        &self,
        actor: &Actor,
        present: Secret,
        new: Secret,
    ) -> Result<(), ServiceError> {
        if let Err(weak) = account::judge_password(new.expose(), &[&actor.email, &self.options.product]) {
            return Err(ServiceError::Invalid(Problems::field("new_password", weak.to_string())));
        }
        self.confirm(actor, Evidence::Password(present)).await?;
        let hash = self.passwords.hash(new).await?;
        let mut tx = self.db.write().await?;
        people::set_password(&mut tx, actor.user_id, &hash).await?;
        sessions::revoke_all(&mut tx, actor.user_id, self.clock.now()).await?;
        // Whoever could read a letter of before can do nothing with it.
        people::drop_links(&mut tx, LinkPurpose::ResetPassword, Some(actor.user_id)).await?;
        let detail = serde_json::json!({});
        self.record(&mut tx, Owner::Platform, actor, AuditAction::PasswordChanged, &actor.email, detail)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// One's own sessions, most recent first. Whoever came by a tenant's provider sees those that did too.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sessions(&self, actor: &Actor) -> Result<Vec<StoredSession>, ServiceError> {
        let mut tx = self.db.read().await?;
        let mut found = sessions::list(&mut tx, actor.user_id, self.clock.now()).await?;
        if matches!(actor.proof, Proof::Sso(_)) {
            found.retain(|session| session.proof() == actor.proof);
        }
        Ok(found)
    }

    /// Ends one of one's own sessions.
    ///
    /// # Errors
    /// `NotFound` when it is not one's own or is gone.
    pub async fn revoke_session(&self, actor: &Actor, id: SessionId) -> Result<(), ServiceError> {
        let is_own = self.sessions(actor).await?.iter().any(|session| session.id == id);
        let mut tx = self.db.write().await?;
        if !is_own || !sessions::revoke(&mut tx, actor.user_id, id).await? {
            return Err(ServiceError::NotFound);
        }
        let detail = serde_json::json!({ "session": id });
        self.record(&mut tx, Owner::Platform, actor, AuditAction::SessionRevoked, &actor.email, detail)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Makes a user for the operator. Without a password, gives a one-time link to choose one.
    ///
    /// # Errors
    /// `Invalid` when the address is taken or the password weak.
    pub async fn create_user(
        &self,
        by: &AuditActor,
        email: &Email,
        platform_role: Option<PlatformRole>,
        place: Option<(TenantId, TenantRole)>,
        password: Option<Secret>,
    ) -> Result<Option<String>, ServiceError> {
        if let Some(weak) = password.as_ref().and_then(|given| {
            account::judge_password(given.expose(), &[email.as_str(), &self.options.product]).err()
        }) {
            return Err(ServiceError::Invalid(Problems::field("password", weak.to_string())));
        }
        let hash = match password {
            Some(password) => Some(self.passwords.hash(password).await?),
            None => None,
        };
        let mut tx = self.db.write().await?;
        let link = self.make_user(&mut tx, by, email, platform_role, place, hash).await?;
        tx.commit().await?;
        Ok(link)
    }

    /// Makes a user as a part of something larger. `hash` is that of the password, if there is one.
    pub(super) async fn make_user(
        &self,
        tx: &mut Tx,
        by: &AuditActor,
        email: &Email,
        platform_role: Option<PlatformRole>,
        place: Option<(TenantId, TenantRole)>,
        hash: Option<String>,
    ) -> Result<Option<String>, ServiceError> {
        let now = self.clock.now();
        let known = people::find_by_email(tx, email).await?;
        let is_new = known.is_none();
        let user = known.unwrap_or_else(|| User {
            id: UserId::new(),
            email: email.as_str().to_owned(),
            platform_role,
            disabled_at: None,
            created_at: now,
            // Nobody but who has the operator's link, or the password that the operator gave, gets in.
            proved_at: Some(now),
            sessions_from: Moment(0),
            ways: Ways { password: hash.is_some(), ..Ways::default() },
        });
        let taken =
            || ServiceError::Invalid(Problems::field("email", "There is a user of that address already."));
        if is_new {
            people::insert(tx, &user, hash.as_deref().unwrap_or(NO_PASSWORD)).await?;
        } else if place.is_none() {
            return Err(taken());
        }
        // An account that somebody made on an address which may not be theirs gets no rights: whoever has
        // the new link has the account.
        let is_doubtful = user.proved_at.is_none();
        if is_doubtful {
            people::set_password(tx, user.id, hash.as_deref().unwrap_or(NO_PASSWORD)).await?;
            people::prove(tx, user.id, now).await?;
            factors::delete_all(tx, user.id).await?;
            sessions::revoke_all(tx, user.id, now).await?;
        }
        if let Some((tenant, role)) = place {
            members::forget_former(tx, tenant, &user.email).await?;
            members::drop_invitations(tx, tenant, &user.email).await?;
            match people::add_member(tx, user.id, tenant, role, now).await {
                Err(error) if error.is_conflict() => return Err(taken()),
                done => done?,
            }
            let event = AuditEvent {
                at: now,
                actor: by.clone(),
                action: AuditAction::MemberAdded,
                target: user.email.clone(),
                detail: serde_json::json!({ "role": role }),
            };
            audit::append(tx, &self.root, Owner::Tenant(tenant), &event).await?;
        }
        let link = if (is_new || is_doubtful) && hash.is_none() {
            Some(self.new_link(tx, LinkPurpose::ResetPassword, Some(user.id)).await?)
        } else {
            None
        };
        if is_new {
            let detail = serde_json::json!({ "platform_role": platform_role });
            self.record_operator(tx, by, AuditAction::UserCreated, &user.email, detail, now).await?;
        }
        Ok(link)
    }

    /// Lets a user in again who was locked out.
    ///
    /// # Errors
    /// `NotFound` when there is no such user.
    pub async fn enable_user(&self, by: &AuditActor, email: &Email) -> Result<(), ServiceError> {
        let now = self.clock.now();
        let mut tx = self.db.write().await?;
        let user = people::find_by_email(&mut tx, email).await?.ok_or(ServiceError::NotFound)?;
        people::set_disabled(&mut tx, user.id, None).await?;
        let detail = serde_json::json!({});
        self.record_operator(&mut tx, by, AuditAction::UserEnabled, &user.email, detail, now).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Locks a user out at once.
    ///
    /// # Errors
    /// `NotFound` when there is no such user, `Conflict` for the last super admin.
    pub async fn disable_user(&self, by: &AuditActor, email: &Email) -> Result<(), ServiceError> {
        let now = self.clock.now();
        let mut tx = self.db.write().await?;
        let user = people::find_by_email(&mut tx, email).await?.ok_or(ServiceError::NotFound)?;
        let super_admin = |other: &User| {
            other.platform_role == Some(PlatformRole::SuperAdmin) && other.disabled_at.is_none()
        };
        let others = people::list(&mut tx).await?;
        if super_admin(&user) && others.iter().filter(|other| super_admin(other)).count() == 1 {
            return Err(ServiceError::Conflict("this is the last super admin; make another one first"));
        }
        people::set_disabled(&mut tx, user.id, Some(now)).await?;
        people::drop_links(&mut tx, LinkPurpose::ResetPassword, Some(user.id)).await?;
        sessions::revoke_all(&mut tx, user.id, now).await?;
        let detail = serde_json::json!({});
        self.record_operator(&mut tx, by, AuditAction::UserDisabled, &user.email, detail, now).await?;
        tx.commit().await?;
        Ok(())
    }

    pub(super) async fn record_operator(
        &self,
        tx: &mut Tx,
        by: &AuditActor,
        action: AuditAction,
        target: &str,
        detail: serde_json::Value,
        now: Moment,
    ) -> Result<(), ServiceError> {
        let event = AuditEvent { at: now, actor: by.clone(), action, target: target.to_owned(), detail };
        Ok(audit::append(tx, &self.root, Owner::Platform, &event).await?)
    }
}

/// The part of an address that one customer of a network has: all of an IPv4 address, the first
/// 64 bits of an IPv6 one.
pub(super) fn network(address: &str) -> String {
    match address.parse() {
        Ok(std::net::Ipv6Addr::UNSPECIFIED) | Err(_) => address.to_owned(),
        Ok(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => v4.to_string(),
            None => format!("{:x?}", &v6.segments()[..4]),
        },
    }
}

/// The delay after so many failures beyond the free ones: a second, doubling, to a quarter-hour.
fn delay_after(failures: i32) -> i64 {
    match u32::try_from(failures) {
        Err(_) | Ok(0) => 0,
        Ok(count) => {
            SECOND.checked_shl((count - 1).min(20)).map_or(LONGEST_DELAY, |delay| delay.min(LONGEST_DELAY))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_customer_is_one_network() {
        assert_eq!(network("2001:db8:1:2::1"), network("2001:db8:1:2:ffff::9"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
    }

    #[test]
    fn delays_double_up_to_a_quarter_hour() {
        let seconds: Vec<i64> = [-1, 0, 1, 2, 3, 10, 11, 1_000].map(|n| delay_after(n) / SECOND).to_vec();
        assert_eq!(seconds, [0, 0, 1, 2, 4, 512, 900, 900]);
    }
}
