//! One-time links: for the first super admin, and to choose a password.

use super::accounts::{FREE_FAILURES_OF_ADDRESS, Origin, Person, network};
use super::{Problems, ServiceError, Services};
use crate::crypto::secret::Secret;
use crate::crypto::token;
use crate::domain::account::{self, Email, PlatformRole, User, Ways};
use crate::domain::audit::{AuditAction, AuditActor};
use crate::domain::clock::DAY;
use crate::domain::ids::UserId;
use crate::storage::people::{self, Link, LinkPurpose};
use crate::storage::{Tx, factors, sessions};

/// How long a one-time link works.
const LINK_FOR: i64 = DAY;
/// Links that work at the same time; nobody is sent another while they have so many.
const MOST_RESETS: i64 = 5;

impl Services {
    /// A one-time link for the first super admin, while there is no user at all.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn first_admin_link(&self) -> Result<Option<String>, ServiceError> {
        let mut tx = self.db.write().await?;
        if people::count(&mut tx).await? > 0 {
            return Ok(None);
        }
        let link = self.new_link(&mut tx, LinkPurpose::FirstAdmin, None).await?;
        tx.commit().await?;
        Ok(Some(link))
    }

    pub(super) async fn new_link(
        &self,
        tx: &mut Tx,
        purpose: LinkPurpose,
        user_id: Option<UserId>,
    ) -> Result<String, ServiceError> {
        people::drop_links(tx, purpose, user_id).await?;
        self.further_link(tx, purpose, user_id).await
    }

    /// A link beside those that there are.
    async fn further_link(
        &self,
        tx: &mut Tx,
        purpose: LinkPurpose,
        user_id: Option<UserId>,
    ) -> Result<String, ServiceError> {
        let text = token::random_text();
        let expires_at = self.clock.now().plus(LINK_FOR);
        people::insert_link(tx, &token::hash(&text), Link { purpose, user_id, expires_at }).await?;
        Ok(format!("{}/setup/{text}", self.options.public_url))
    }

    /// What a one-time link is for and, for a password, whose.
    ///
    /// # Errors
    /// `NotFound` when it is used up, expired or was never made.
    pub async fn link(&self, text: &str) -> Result<(LinkPurpose, Option<User>), ServiceError> {
        let mut tx = self.db.read().await?;
        let link = self.find_link(&mut tx, text).await?;
        let user = match link.user_id {
            Some(id) => people::find(&mut tx, id).await?,
            None => None,
        };
        tx.rollback().await?;
        Ok((link.purpose, user))
    }

    async fn find_link(&self, tx: &mut Tx, text: &str) -> Result<Link, ServiceError> {
        let found = people::find_link(tx, &token::hash(text)).await?;
        found.filter(|link| link.expires_at > self.clock.now()).ok_or(ServiceError::NotFound)
    }

    /// Uses a one-time link: makes the first super admin, or sets a user's password. That signs in, as
    /// `sign_in` does.
    ///
    /// # Errors
    /// `NotFound` for a link that does not work any more, `Invalid` for what was typed.
    pub async fn use_link(
        &self,
        text: &str,
        email: &str,
        password: Secret,
        from: &Origin,
    ) -> Result<Person, ServiceError> {
        let (purpose, owner) = self.link(text).await?;
        let mut problems = Problems::default();
        let email = Email::parse(email);
        if purpose == LinkPurpose::FirstAdmin && email.is_none() {
            problems.add("email", "Enter an e-mail address, such as ada@example.com.");
        }
        let known = owner.as_ref().map(|owner| owner.email.as_str()).or(email.as_ref().map(Email::as_str));
        if let Err(weak) =
            account::judge_password(password.expose(), &[known.unwrap_or_default(), &self.options.product])
        {
            problems.add("password", weak.to_string());
        }
        problems.or_ok()?;
        let hash = self.passwords.hash(password).await?;

        let now = self.clock.now();
        let mut tx = self.db.write().await?;
        if !people::take_link(&mut tx, &token::hash(text)).await? {
            return Err(ServiceError::NotFound);
        }
        let user = match (purpose, owner, email) {
            (LinkPurpose::ResetPassword, Some(user), _) => {
                let user = people::find(&mut tx, user.id).await?.filter(|user| user.disabled_at.is_none());
                let mut user = user.ok_or(ServiceError::NotFound)?;
                people::set_password(&mut tx, user.id, &hash).await?;
                if user.proved_at.is_none() {
                    // What somebody may have set up who made the account on an address of others.
                    let had_any = user.ways.has_second();
                    factors::delete_all(&mut tx, user.id).await?;
                    user.ways = Ways::default();
                    if had_any {
                        let detail =
                            serde_json::json!({ "by": "one-time link to an address that was not proved" });
                        let action = AuditAction::SecondFactorsRemoved;
                        self.record_person(&mut tx, Some(user.id), &user.email, from, action, detail).await?;
                        let words = format!(
                            "You chose a new password by a link. The second factors of this account were set up before it was known that the address is yours, so they were removed. Set them up again:\n{}/account/second-factor\n",
                            self.options.public_url
                        );
                        self.send_aside(&user.email, "Your second factors were removed", words);
                    }
                }
                people::prove(&mut tx, user.id, now).await?;
                people::drop_links(&mut tx, LinkPurpose::ResetPassword, Some(user.id)).await?;
                sessions::revoke_all(&mut tx, user.id, now).await?;
                user
            }
            (LinkPurpose::FirstAdmin, None, Some(email)) if people::count(&mut tx).await? == 0 => {
                let user = User {
                    id: UserId::new(),
                    email: email.as_str().to_owned(),
                    platform_role: Some(PlatformRole::SuperAdmin),
                    disabled_at: None,
                    created_at: now,
                    proved_at: Some(now),
                    sessions_from: now,
                    ways: Ways { password: true, ..Ways::default() },
                };
                people::insert(&mut tx, &user, &hash).await?;
                user
            }
            _ => return Err(ServiceError::NotFound),
        };
        let action = match purpose {
            LinkPurpose::FirstAdmin => AuditAction::UserCreated,
            LinkPurpose::ResetPassword => AuditAction::PasswordReset,
        };
        let detail = serde_json::json!({ "by": "one-time link" });
        self.record_person(&mut tx, Some(user.id), &user.email, from, action, detail).await?;
        if user.ways.has_second() {
            let memberships = people::memberships(&mut tx, user.id).await?;
            tx.commit().await?;
            return Ok(Person { user, memberships, since: now });
        }
        self.admit(tx, user, from, now, "one-time link").await
    }

    /// A one-time link by which a user chooses a new password. The old one works until then.
    ///
    /// # Errors
    /// `NotFound` when there is no such user.
    pub async fn reset_link(&self, by: &AuditActor, email: &Email) -> Result<String, ServiceError> {
        let now = self.clock.now();
        let mut tx = self.db.write().await?;
        let user = people::find_by_email(&mut tx, email).await?.ok_or(ServiceError::NotFound)?;
        if user.disabled_at.is_some() {
            return Err(ServiceError::Conflict(
                "this user is disabled; `keyward user enable` lets them in again",
            ));
        }
        let link = self.new_link(&mut tx, LinkPurpose::ResetPassword, Some(user.id)).await?;
        let detail = serde_json::json!({ "link": "made" });
        self.record_operator(&mut tx, by, AuditAction::PasswordReset, &user.email, detail, now).await?;
        tx.commit().await?;
        Ok(link)
    }

    /// Sends whoever asks a link to choose another password, if there is an account of that address and a
    /// mail server is set. The answer does not tell.
    ///
    /// # Errors
    /// `Throttled` when it is asked for too often.
    pub async fn ask_reset(&self, email: &str, from: &Origin) -> Result<(), ServiceError> {
        let Some(email) = Email::parse(email) else {
            let message = "Enter an e-mail address, such as ada@example.com.";
            return Err(ServiceError::Invalid(Problems::field("email", message)));
        };
        // By the address of who asks. A person whom somebody else asks for all the time must still get a
        // letter: those are bounded by the links that work.
        let buckets =
            [(self.root.blind("resets of address", &network(&from.address)), FREE_FAILURES_OF_ADDRESS)];
        self.take_attempt(&buckets).await?;
        let now = self.clock.now();
        let mut tx = self.db.write().await?;
        let found = people::find_by_email(&mut tx, &email).await?.filter(|user| user.disabled_at.is_none());
        let name = email.as_str();
        let detail = serde_json::json!({ "known": found.is_some() });
        let link = match &found {
            Some(user) if self.mailer.is_some() => {
                let purpose = LinkPurpose::ResetPassword;
                if people::count_links(&mut tx, purpose, user.id, now).await? < MOST_RESETS {
                    Some(self.further_link(&mut tx, purpose, Some(user.id)).await?)
                } else {
                    None
                }
            }
            _ => None,
        };
        let id = found.as_ref().map(|user| user.id);
        self.record_person(&mut tx, id, name, from, AuditAction::ResetAsked, detail).await?;
        tx.commit().await?;
        if let Some(link) = link {
            let words = format!(
                "Somebody, we hope you, asked for a new password for this address.\n\nOpen this link within a day to choose one. It works once:\n{link}\n\nIf it was not you, there is nothing to do: your password stays as it is.\n"
            );
            self.send_aside(name, "Choose a new password", words);
        }
        Ok(())
    }
}
