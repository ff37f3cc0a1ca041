//! Passkeys: added and removed by their owners, and taken in place of password and code. Each asks for a
//! finger, a face or a PIN, so that one is two factors.

use serde::{Deserialize, Serialize};
use url::Url;
use uuid::Uuid;
use webauthn_rs::prelude::{
    DiscoverableAuthentication, Passkey, PasskeyRegistration, PublicKeyCredential,
    RegisterPublicKeyCredential,
};
use webauthn_rs::{Webauthn, WebauthnBuilder};

use super::accounts::{Origin, Person, network};
use super::{Problems, ServiceError, Services};
use crate::access::actor::Actor;
use crate::crypto::secret::Secret;
use crate::domain::audit::AuditAction;
use crate::domain::clock::{MINUTE, Moment};
use crate::domain::ids::{Owner, UserId};
use crate::storage::factors::{self, StoredPasskey};
use crate::storage::{Tx, people, sessions, throttle};

/// How long a question to a passkey may stay unanswered.
const ANSWER_WITHIN: i64 = 5 * MINUTE;
/// Questions of an address that cost no delay: a whole office signs in and confirms from one.
const FREE_QUESTIONS: i32 = 300;
/// As many as anybody has devices.
const MOST: usize = 20;

/// A question that was put to a passkey, kept on our side until it is answered once.
#[derive(Serialize, Deserialize)]
pub struct Ceremony {
    asked_at: Moment,
    question: Question,
}

#[derive(Serialize, Deserialize)]
enum Question {
    Make(PasskeyRegistration),
    Use(DiscoverableAuthentication),
}

/// What the browser hands on to the passkey, as JSON.
pub struct Asked {
    pub options: String,
    pub ceremony: Ceremony,
}

/// A passkey as its owner sees it.
pub struct OwnPasskey {
    pub id: Uuid,
    pub name: String,
    pub created_at: Moment,
    pub last_used_at: Option<Moment>,
}

/// For whom passkeys are made: the host of the public URL. `None` where that is an address without a
/// name, which browsers make none for.
#[must_use]
pub fn relying_party(public_url: &str, product: &str) -> Option<Webauthn> {
    let url = Url::parse(public_url).ok()?;
    WebauthnBuilder::new(url.domain()?, &url).ok()?.rp_name(product).build().ok()
}

fn unavailable() -> ServiceError {
    ServiceError::Conflict("Passkeys need an address with a name, such as keys.example.com.")
}

fn broken(error: &webauthn_rs::prelude::WebauthnError) -> ServiceError {
    tracing::error!(%error, "a passkey's question could not be made");
    ServiceError::Conflict("Passkeys do not work just now.")
}

fn as_json(options: &impl Serialize) -> String {
    serde_json::to_string(options).unwrap_or_default()
}

impl Services {
    /// Asks a browser for any passkey that it has of us.
    ///
    /// # Errors
    /// `Throttled` when an address asks too often, `Conflict` where passkeys cannot be.
    pub async fn ask_for_passkey(&self, from: &Origin) -> Result<Asked, ServiceError> {
        let party = self.relying_party.as_ref().ok_or_else(unavailable)?;
        // Every question is kept: strangers may not have us keep any number.
        self.take_attempt(&[(self.passkey_bucket(from), FREE_QUESTIONS)]).await?;
        let (options, state) = party.start_discoverable_authentication().map_err(|error| broken(&error))?;
        let ceremony = Ceremony { asked_at: self.clock.now(), question: Question::Use(state) };
        Ok(Asked { options: as_json(&options.public_key), ceremony })
    }

    fn passkey_bucket(&self, from: &Origin) -> String {
        self.root.blind("passkeys of address", &network(&from.address))
    }

    /// Whose passkey this is, if it answers the question. Its counter is written down.
    async fn owner_of(
        &self,
        tx: &mut Tx,
        ceremony: Ceremony,
        answer: &str,
    ) -> Result<Option<UserId>, ServiceError> {
        let now = self.clock.now();
        let (Some(party), Question::Use(state)) = (&self.relying_party, ceremony.question) else {
            return Ok(None);
        };
        if now.since(ceremony.asked_at) >= ANSWER_WITHIN {
            return Ok(None);
        }
        let Ok(answer) = serde_json::from_str::<PublicKeyCredential>(answer) else { return Ok(None) };
        let Some(stored) = factors::passkey_of(tx, answer.get_credential_id()).await? else {
            return Ok(None);
        };
        let Ok(mut passkey) = serde_json::from_str::<Passkey>(&stored.credential) else { return Ok(None) };
        let result = match party.finish_discoverable_authentication_v2(&answer, state, &passkey) {
            Ok(result) if result.user_verified() => result,
            Ok(_) => return Ok(None),
            Err(error) => {
                tracing::info!(%error, "a passkey was refused");
                return Ok(None);
            }
        };
        passkey.update_credential(&result);
        let used = factors::use_passkey(tx, stored.id, &as_json(&passkey), now).await?;
        Ok(used.then_some(UserId(stored.user_id)))
    }

    /// Signs in whoever's passkey answers.
    ///
    /// # Errors
    /// `Denied` when it does not, or its owner is locked out.
    pub async fn sign_in_by_passkey(
        &self,
        ceremony: Ceremony,
        answer: &str,
        from: &Origin,
    ) -> Result<Person, ServiceError> {
        let since = self.clock.now();
        let mut tx = self.db.write().await?;
        let owner = self.owner_of(&mut tx, ceremony, answer).await?;
        let user = match owner {
            Some(id) => people::find(&mut tx, id).await?.filter(|user| user.disabled_at.is_none()),
            None => None,
        };
        let Some(user) = user else {
            let detail = serde_json::json!({ "by": "passkey" });
            self.record_person(&mut tx, owner, "", from, AuditAction::SignInFailed, detail).await?;
            tx.commit().await?;
            return Err(ServiceError::Denied);
        };
        throttle::clear(&mut tx, &self.passkey_bucket(from)).await?;
        self.admit(tx, user, from, since, "passkey").await
    }

    /// Whether the answer is one of this person's passkeys.
    pub(super) async fn is_passkey_of(
        &self,
        tx: &mut Tx,
        user: UserId,
        ceremony: Option<Ceremony>,
        answer: &str,
    ) -> Result<bool, ServiceError> {
        let Some(ceremony) = ceremony else { return Ok(false) };
        Ok(self.owner_of(tx, ceremony, answer).await? == Some(user))
    }

    /// One's own passkeys.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn own_passkeys(&self, actor: &Actor) -> Result<Vec<OwnPasskey>, ServiceError> {
        let mut tx = self.db.read().await?;
        let stored = factors::passkeys(&mut tx, actor.user_id).await?;
        tx.rollback().await?;
        let own = |stored: StoredPasskey| OwnPasskey {
            id: stored.id,
            name: stored.name,
            created_at: Moment(stored.created_at),
            last_used_at: stored.last_used_at.map(Moment),
        };
        Ok(stored.into_iter().map(own).collect())
    }

    /// Asks a browser to make a passkey for its user.
    ///
    /// # Errors
    /// `Confirm` without a recent confirmation, `Conflict` where there cannot be another.
    pub async fn begin_passkey(&self, actor: &Actor) -> Result<Asked, ServiceError> {
        use webauthn_rs_proto::ResidentKeyRequirement;
        self.permit_own(actor).await?;
        let party = self.relying_party.as_ref().ok_or_else(unavailable)?;
        let mut tx = self.db.read().await?;
        let stored = factors::passkeys(&mut tx, actor.user_id).await?;
        tx.rollback().await?;
        if stored.len() >= MOST {
            return Err(ServiceError::Conflict("You have twenty passkeys. Remove one that you do not use."));
        }
        let known = stored
            .iter()
            .filter_map(|stored| serde_json::from_str::<Passkey>(&stored.credential).ok())
            .map(|passkey| passkey.cred_id().clone())
            .collect();
        let (mut options, state) = party
            .start_passkey_registration(actor.user_id.0, &actor.email, &actor.email, Some(known))
            .map_err(|error| broken(&error))?;
        // One that its device can find by itself: nobody types an address to sign in.
        if let Some(selection) = &mut options.public_key.authenticator_selection {
            selection.resident_key = Some(ResidentKeyRequirement::Required);
            selection.require_resident_key = true;
        }
        let ceremony = Ceremony { asked_at: self.clock.now(), question: Question::Make(state) };
        Ok(Asked { options: as_json(&options.public_key), ceremony })
    }

    /// Keeps the passkey that was made. Ends all sessions, and gives recovery codes to who has none.
    ///
    /// # Errors
    /// `Invalid` for one that does not fit the question or has no good name.
    pub async fn finish_passkey(
        &self,
        actor: &Actor,
        ceremony: Option<Ceremony>,
        name: &str,
        answer: &str,
    ) -> Result<Vec<Secret>, ServiceError> {
        self.permit_own(actor).await?;
        let now = self.clock.now();
        let name = name.trim();
        if name.is_empty() || name.chars().count() > 60 || name.chars().any(char::is_control) {
            let message = "Give it a name of at most 60 characters, such as the device that it is on.";
            return Err(ServiceError::Invalid(Problems::field("name", message)));
        }
        let refused = |message| ServiceError::Invalid(Problems::field("credential", message));
        let party = self.relying_party.as_ref().ok_or_else(unavailable)?;
        let passkey = match ceremony {
            Some(Ceremony { asked_at, question: Question::Make(state) })
                if now.since(asked_at) < ANSWER_WITHIN =>
            {
                serde_json::from_str::<RegisterPublicKeyCredential>(answer)
                    .ok()
                    .and_then(|answer| party.finish_passkey_registration(&answer, &state).ok())
            }
            _ => return Err(refused("That took too long. Try again.")),
        };
        let passkey =
            passkey.ok_or_else(|| refused("That passkey was not made for this page. Try again."))?;
        let stored = StoredPasskey {
            id: Uuid::now_v7(),
            user_id: actor.user_id.0,
            credential: as_json(&passkey),
            name: name.to_owned(),
            created_at: now.0,
            last_used_at: None,
        };
        let mut tx = self.db.write().await?;
        match factors::insert_passkey(&mut tx, &stored, passkey.cred_id().as_slice()).await {
            Err(error) if error.is_conflict() => return Err(refused("That passkey is known already.")),
            done => done?,
        }
        let codes = self.first_recovery_codes(&mut tx, actor).await?;
        sessions::revoke_all(&mut tx, actor.user_id, self.clock.now()).await?;
        let detail = serde_json::json!({ "name": name });
        let action = AuditAction::PasskeyAdded;
        self.record(&mut tx, Owner::Platform, actor, action, &actor.email, detail).await?;
        tx.commit().await?;
        self.tell_of_factors(actor, &format!("The passkey {name} was added to your account."));
        Ok(codes)
    }

    /// # Errors
    /// `Confirm` without a recent confirmation, `NotFound` when it is not one's own.
    pub async fn remove_passkey(&self, actor: &Actor, id: Uuid) -> Result<String, ServiceError> {
        self.permit_own(actor).await?;
        let mut tx = self.db.write().await?;
        let name =
            factors::delete_passkey(&mut tx, actor.user_id, id).await?.ok_or(ServiceError::NotFound)?;
        self.forget_codes_without_factor(&mut tx, actor.user_id).await?;
        sessions::revoke_all(&mut tx, actor.user_id, self.clock.now()).await?;
        let detail = serde_json::json!({ "name": name });
        let action = AuditAction::PasskeyRemoved;
        self.record(&mut tx, Owner::Platform, actor, action, &actor.email, detail).await?;
        tx.commit().await?;
        self.tell_of_factors(actor, &format!("The passkey {name} was removed from your account."));
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passkeys_need_a_name_to_be_made_for() {
        assert!(relying_party("https://keys.example.com", "Acme").is_some());
        assert!(relying_party("http://localhost:8080", "Acme").is_some());
        assert!(relying_party("http://127.0.0.1:8080", "Acme").is_none());
    }
}
