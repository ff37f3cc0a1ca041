//! Second factors: authenticator apps with their recovery codes, the second step of signing in, and the
//! tenants that ask for it. Passkeys are in `passkeys`.

use super::accounts::{Origin, Person};
use super::passkeys::Ceremony;
use super::{Problems, ServiceError, Services};
use crate::access::actor::{Actor, CONFIRMED_FOR};
use crate::access::policy::{About, Action};
use crate::access::scope::Scope;
use crate::crypto::sealed::Binding;
use crate::crypto::secret::Secret;
use crate::crypto::totp;
use crate::domain::account::{Email, Proof, SecondFactorRule, Tenant};
use crate::domain::audit::{AuditAction, AuditActor};
use crate::domain::clock::{MINUTE, Moment, SECOND};
use crate::domain::ids::{Owner, UserId};
use crate::storage::{Tx, changes, factors, people, sessions, tenants, throttle};

/// How many recovery codes are made at once.
const RECOVERY_CODES: usize = 10;
/// How the record calls one of them.
pub(super) const RECOVERY_CODE: &str = "recovery code";
/// How long the secret of an app is shown while it is set up.
const SET_UP_WITHIN: i64 = 10 * MINUTE;
/// Wrong codes that cost no delay.
const FREE_CODES: i32 = 4;

/// What somebody gives to show that it is them.
pub enum Evidence {
    Password(Secret),
    /// Of an app, or a recovery code.
    Code(Secret),
    /// What a passkey answered, and what it was asked.
    Passkey {
        answer: String,
        ceremony: Option<Ceremony>,
    },
}

impl Evidence {
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Password(_) => "password",
            Self::Code(_) => "code",
            Self::Passkey { .. } => "passkey",
        }
    }
}

/// What the account page tells of one's own second factors.
pub struct OwnFactors {
    /// An app counts.
    pub authenticator: bool,
    /// An app is being set up.
    pub is_pending: bool,
    /// Its secret, for some minutes, to who has just shown that it is them.
    pub being_set_up: Option<NewAuthenticator>,
    pub recovery_codes: i64,
}

/// What an app needs to be told.
pub struct NewAuthenticator {
    pub secret: Secret,
    /// What its picture says.
    pub address: Secret,
}

fn binding(user: UserId) -> Binding {
    Binding::new("authenticator").with(user.0.as_bytes())
}

/// Sealed by the platform: a person may belong to several tenants.
fn platform() -> Scope {
    Scope::of_system(Owner::Platform)
}

impl Services {
    /// Whether what was given shows that it is this person, and by what. A code is used up by that, in the
    /// transaction that comes back.
    pub(super) async fn judge(
        &self,
        user: UserId,
        evidence: Evidence,
    ) -> Result<(Tx, Option<&'static str>), ServiceError> {
        let by = evidence.word();
        match evidence {
            Evidence::Password(password) => {
                let mut tx = self.db.read().await?;
                let stored = people::password_hash(&mut tx, user).await?;
                tx.rollback().await?;
                let fits = self.passwords.verify(password, stored).await?;
                Ok((self.db.write().await?, fits.then_some(by)))
            }
            Evidence::Passkey { answer, ceremony } => {
                let mut tx = self.db.write().await?;
                let fits = self.is_passkey_of(&mut tx, user, ceremony, &answer).await?;
                Ok((tx, fits.then_some(by)))
            }
            Evidence::Code(code) => {
                let mut tx = self.db.write().await?;
                let by = self.use_code(&mut tx, user, code.expose()).await?;
                Ok((tx, by))
            }
        }
    }

    /// Uses a code up, of the app or a recovery code, and says which; `None` when it is neither, or was used
    /// before.
    async fn use_code(
        &self,
        tx: &mut Tx,
        user: UserId,
        typed: &str,
    ) -> Result<Option<&'static str>, ServiceError> {
        if let Some(digits) = totp::digits(typed) {
            let stored = factors::authenticator(tx, user).await?.filter(|stored| stored.confirmed);
            let Some(stored) = stored else { return Ok(None) };
            let fits = self.use_digits(tx, user, &stored.sealed, &digits).await?;
            return Ok(fits.then_some("code"));
        }
        let Some(code) = totp::recovery_code(typed) else { return Ok(None) };
        let hash = self.recovery_hash(user, &code);
        let fits = factors::use_recovery_code(tx, user, &hash, self.clock.now()).await?;
        Ok(fits.then_some(RECOVERY_CODE))
    }

    /// Tells somebody by letter that a recovery code of theirs was used.
    pub(super) async fn tell_of_recovery(
        &self,
        tx: &mut Tx,
        user: UserId,
        email: &str,
        address: &str,
    ) -> Result<(), ServiceError> {
        let left = factors::recovery_codes_left(tx, user).await?;
        let words = format!(
            "A recovery code of your account was used, at {}, from the address {address}. {left} are left.\n\nIf that was not you, choose another password and make new codes at once:\n{}/account\n",
            self.clock.now().rfc3339(),
            self.options.public_url
        );
        self.send_aside(email, "A recovery code was used", words);
        Ok(())
    }

    async fn use_digits(
        &self,
        tx: &mut Tx,
        user: UserId,
        sealed: &[u8],
        digits: &str,
    ) -> Result<bool, ServiceError> {
        let secret = self.open_bound(tx, &platform(), &binding(user), sealed).await?;
        match totp::step_of(&secret, digits, self.clock.now().0 / SECOND) {
            Some(step) => Ok(factors::use_step(tx, user, step).await?),
            None => Ok(false),
        }
    }

    fn recovery_hash(&self, user: UserId, code: &Secret) -> String {
        self.root.blind("recovery code", &format!("{user}\0{}", code.expose()))
    }

    /// The second half of a sign-in whose first was a password or a link.
    ///
    /// # Errors
    /// `Denied` for a wrong code, `Throttled` while attempts have to wait, `NotFound` when the person
    /// is gone.
    pub async fn second_step(
        &self,
        user: UserId,
        since: Moment,
        code: Secret,
        from: &Origin,
    ) -> Result<Person, ServiceError> {
        let device = self.root.blind("device", &from.device);
        let mut tx = self.db.read().await?;
        let known = people::is_known_device(&mut tx, user, &device).await?;
        tx.rollback().await?;
        // Who has the password alone must not be able to keep the owner out.
        let what = if known { format!("{user}\0{device}") } else { user.to_string() };
        let bucket = (self.root.blind("second step", &what), FREE_CODES);
        self.take_attempt(std::slice::from_ref(&bucket)).await?;
        let mut tx = self.db.write().await?;
        let found = people::find(&mut tx, user).await?.filter(|user| user.disabled_at.is_none());
        let found = found.ok_or(ServiceError::NotFound)?;
        let Some(by) = self.use_code(&mut tx, user, code.expose()).await? else {
            let detail = serde_json::json!({ "step": "second" });
            let action = AuditAction::SignInFailed;
            self.record_person(&mut tx, Some(user), &found.email, from, action, detail).await?;
            tx.commit().await?;
            return Err(ServiceError::Denied);
        };
        throttle::clear(&mut tx, &bucket.0).await?;
        if by == RECOVERY_CODE {
            self.tell_of_recovery(&mut tx, user, &found.email, &from.address).await?;
        }
        self.admit(tx, found, from, since, by).await
    }

    /// What there is of one's own.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn own_factors(&self, actor: &Actor) -> Result<OwnFactors, ServiceError> {
        let mut tx = self.db.read().await?;
        let stored = factors::authenticator(&mut tx, actor.user_id).await?;
        let authenticator = stored.as_ref().is_some_and(|stored| stored.confirmed);
        let now = self.clock.now();
        let pending = stored.filter(|stored| !stored.confirmed && !matches!(actor.proof, Proof::Sso(_)));
        let is_pending = pending.is_some();
        let may_see = actor.is_confirmed(now);
        let being_set_up = match pending {
            Some(stored) if may_see && now.since(stored.created_at) < SET_UP_WITHIN => {
                let bound = binding(actor.user_id);
                let secret = self.open_bound(&mut tx, &platform(), &bound, &stored.sealed).await?;
                totp::address(&secret, &self.options.product, &actor.email)
                    .map(|address| NewAuthenticator { secret, address })
            }
            _ => None,
        };
        let recovery_codes = factors::recovery_codes_left(&mut tx, actor.user_id).await?;
        tx.rollback().await?;
        Ok(OwnFactors { authenticator, is_pending, being_set_up, recovery_codes })
    }

    /// Begins to set up an authenticator app: makes its secret, which counts for nothing yet.
    ///
    /// # Errors
    /// `Confirm` without a recent confirmation, `Conflict` when there is an app already.
    pub async fn begin_authenticator(&self, actor: &Actor) -> Result<(), ServiceError> {
        self.permit_own(actor).await?;
        let now = self.clock.now();
        let secret = totp::new_secret();
        let mut tx = self.db.write().await?;
        let sealed = self.seal_bound(&mut tx, &platform(), &binding(actor.user_id), &secret, now).await?;
        match factors::begin_authenticator(&mut tx, actor.user_id, &sealed, now).await {
            Err(error) if error.is_conflict() => {
                return Err(ServiceError::Conflict(
                    "There is an authenticator app already. Remove it first.",
                ));
            }
            done => done?,
        }
        tx.commit().await?;
        Ok(())
    }

    /// Has the app count, once it has shown a right code. Ends all sessions, and gives recovery codes to
    /// who has none.
    ///
    /// # Errors
    /// `Invalid` for a wrong code, `Conflict` when none is being set up.
    pub async fn finish_authenticator(
        &self,
        actor: &Actor,
        typed: &str,
    ) -> Result<Vec<Secret>, ServiceError> {
        self.permit_own(actor).await?;
        let now = self.clock.now();
        let mut tx = self.db.write().await?;
        let stored = factors::authenticator(&mut tx, actor.user_id).await?;
        let stored = stored.filter(|stored| !stored.confirmed);
        let stored = stored.ok_or(ServiceError::Conflict("No authenticator app is being set up."))?;
        let fits = match totp::digits(typed) {
            Some(digits) => self.use_digits(&mut tx, actor.user_id, &stored.sealed, &digits).await?,
            None => false,
        };
        if !fits {
            let message = "That code does not fit. Enter the one that your app shows now; the clocks of both must be right.";
            return Err(ServiceError::Invalid(Problems::field("code", message)));
        }
        factors::confirm_authenticator(&mut tx, actor.user_id, now).await?;
        let codes = self.first_recovery_codes(&mut tx, actor).await?;
        sessions::revoke_all(&mut tx, actor.user_id, self.clock.now()).await?;
        self.record_own(&mut tx, actor, AuditAction::AuthenticatorAdded).await?;
        tx.commit().await?;
        self.tell_of_factors(actor, "An authenticator app was set up for your account.");
        Ok(codes)
    }

    /// # Errors
    /// `Confirm` without a recent confirmation, `NotFound` when there is none.
    pub async fn remove_authenticator(&self, actor: &Actor) -> Result<(), ServiceError> {
        self.permit_own(actor).await?;
        let mut tx = self.db.write().await?;
        if !factors::delete_authenticator(&mut tx, actor.user_id).await? {
            return Err(ServiceError::NotFound);
        }
        self.forget_codes_without_factor(&mut tx, actor.user_id).await?;
        sessions::revoke_all(&mut tx, actor.user_id, self.clock.now()).await?;
        self.record_own(&mut tx, actor, AuditAction::AuthenticatorRemoved).await?;
        tx.commit().await?;
        self.tell_of_factors(actor, "The authenticator app of your account was removed.");
        Ok(())
    }

    /// Recovery codes stand in for a factor that there is; with the last one they go.
    pub(super) async fn forget_codes_without_factor(
        &self,
        tx: &mut Tx,
        user: UserId,
    ) -> Result<(), ServiceError> {
        let ways = people::find(tx, user).await?.map(|user| user.ways).unwrap_or_default();
        if !ways.has_second() {
            factors::set_recovery_codes(tx, user, &[]).await?;
        }
        Ok(())
    }

    /// New recovery codes in place of all that there were.
    ///
    /// # Errors
    /// `Confirm` without a recent confirmation, `NotFound` where there is nothing to recover from.
    pub async fn make_recovery_codes(&self, actor: &Actor) -> Result<Vec<Secret>, ServiceError> {
        self.permit_own(actor).await?;
        let mut tx = self.db.write().await?;
        let user = people::find(&mut tx, actor.user_id).await?.filter(|user| user.ways.has_second());
        user.ok_or(ServiceError::NotFound)?;
        let codes = self.new_recovery_codes(&mut tx, actor).await?;
        self.record_own(&mut tx, actor, AuditAction::RecoveryCodesMade).await?;
        tx.commit().await?;
        self.tell_of_factors(
            actor,
            "New recovery codes were made for your account. Those of before work no more.",
        );
        Ok(codes)
    }

    /// Codes for somebody who has none that work.
    pub(super) async fn first_recovery_codes(
        &self,
        tx: &mut Tx,
        actor: &Actor,
    ) -> Result<Vec<Secret>, ServiceError> {
        match factors::recovery_codes_left(tx, actor.user_id).await? {
            0 => self.new_recovery_codes(tx, actor).await,
            _ => Ok(Vec::new()),
        }
    }

    async fn new_recovery_codes(&self, tx: &mut Tx, actor: &Actor) -> Result<Vec<Secret>, ServiceError> {
        let codes: Vec<Secret> =
            std::iter::repeat_with(totp::new_recovery_code).take(RECOVERY_CODES).collect();
        let hashes: Vec<String> = codes
            .iter()
            .filter_map(|code| totp::recovery_code(code.expose()))
            .map(|code| self.recovery_hash(actor.user_id, &code))
            .collect();
        factors::set_recovery_codes(tx, actor.user_id, &hashes).await?;
        Ok(codes)
    }

    /// One's own second factors are changed only by who has just shown that it is them; where there is
    /// one already, not by the password alone, which is what it guards against.
    pub(super) async fn permit_own(&self, actor: &Actor) -> Result<(), ServiceError> {
        let now = self.clock.now();
        if matches!(actor.proof, Proof::Sso(_)) {
            // Who comes by their tenant's provider has shown the tenant who they are, and not us.
            return Err(ServiceError::Conflict("You signed in by single sign-on, which sees to that."));
        }
        if !actor.is_confirmed(now) {
            return Err(ServiceError::Confirm);
        }
        let mut tx = self.db.read().await?;
        let user = people::find(&mut tx, actor.user_id).await?.ok_or(ServiceError::NotFound)?;
        tx.rollback().await?;
        if user.ways.has_second() && now.since(actor.strong_at) >= CONFIRMED_FOR {
            return Err(ServiceError::ConfirmStrongly);
        }
        Ok(())
    }

    pub(super) async fn record_own(
        &self,
        tx: &mut Tx,
        actor: &Actor,
        action: AuditAction,
    ) -> Result<(), ServiceError> {
        let detail = serde_json::json!({});
        Ok(self.record(tx, Owner::Platform, actor, action, &actor.email, detail).await?)
    }

    pub(super) fn tell_of_factors(&self, actor: &Actor, what: &str) {
        let words = format!(
            "{what} That was at {}.\n\nIf it was not you, choose another password under Account and end all sessions there:\n{}/account\n",
            self.clock.now().rfc3339(),
            self.options.public_url
        );
        self.send_aside(&actor.email, "How you sign in has changed", words);
    }

    /// Takes all second factors of a person away, for the operator: for who has lost them all.
    ///
    /// # Errors
    /// `NotFound` when there is no such user.
    pub async fn remove_second_factors(&self, by: &AuditActor, email: &Email) -> Result<(), ServiceError> {
        let now = self.clock.now();
        let mut tx = self.db.write().await?;
        let user = people::find_by_email(&mut tx, email).await?.ok_or(ServiceError::NotFound)?;
        factors::delete_all(&mut tx, user.id).await?;
        sessions::revoke_all(&mut tx, user.id, now).await?;
        let (action, detail) = (AuditAction::SecondFactorsRemoved, serde_json::json!({}));
        self.record_operator(&mut tx, by, action, &user.email, detail, now).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Sets whether the tenant's people need a second factor.
    ///
    /// # Errors
    /// `Denied` to all but the tenant's admins, `Conflict` to an admin who would lock themselves out.
    pub async fn set_second_factor_rule(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
        to: SecondFactorRule,
    ) -> Result<(), ServiceError> {
        let about = About { tenant: tenant.id, key_changers: tenant.key_changers };
        self.permit(actor, Action::ChangeKeyChangers, Some(about))?;
        let came_well = actor.proof.is_strong() || actor.proof == Proof::Sso(tenant.id);
        if to == SecondFactorRule::Required && !came_well {
            return Err(ServiceError::Conflict(
                "Set up a second factor for yourself first, under Account: you would be locked out.",
            ));
        }
        let mut tx = self.db.write().await?;
        changes::bump(&mut tx, scope.owner(), self.clock.now()).await?;
        tenants::set_second_factor(&mut tx, scope, to).await?;
        let detail = serde_json::json!({ "before": tenant.second_factor, "after": to });
        let (action, target) = (AuditAction::SecondFactorRuleChanged, tenant.slug.as_str());
        self.record(&mut tx, scope.owner(), actor, action, target, detail).await?;
        tx.commit().await?;
        self.directory.forget(scope.owner());
        Ok(())
    }
}
