//! Sessions of the console: kept in the database under the hash of the cookie's key, so that
//! they can be listed and ended, and a copy of the database signs nobody in.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use actix_session::config::{BrowserSession, CookieContentSecurity, TtlExtensionPolicy};
use actix_session::storage::{LoadError, SaveError, SessionKey, SessionStore, UpdateError};
use actix_session::{Session, SessionMiddleware};
use actix_web::body::MessageBody;
use actix_web::cookie::time::Duration;
use actix_web::cookie::{Key, SameSite};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::USER_AGENT;
use actix_web::middleware::Next;
use actix_web::{Error, HttpRequest};
use serde::{Deserialize, Serialize};

use super::error::WebError;
use crate::crypto::token;
use crate::domain::account::{Proof, Ways};
use crate::domain::clock::{DAY, HOUR, MINUTE, Moment};
use crate::domain::ids::{SessionId, UserId, ViewingId};
use crate::services::Services;
use crate::services::accounts::{Origin, Person};
use crate::services::passkeys::Ceremony;
use crate::services::sso::Away;
use crate::storage::sessions::{self, StoredSession};
use crate::storage::{Database, StorageError, Tx};

/// A session that nobody used for so long is over.
const IDLE: i64 = 12 * HOUR;
/// And so is any that began so long ago.
const ABSOLUTE: i64 = 7 * DAY;
/// How stale *last seen* may be: a write per page would be one too many.
const SEEN_EVERY: i64 = MINUTE;

const PERSON: &str = "person";
const NOTICE: &str = "notice";
const HALFWAY: &str = "halfway";
const CEREMONY: &str = "ceremony";
const AWAY: &str = "away";
/// How long the second step of a sign-in may take.
const SECOND_STEP: i64 = 10 * MINUTE;

/// Who is signed in, and since when. Survives a renewal of the cookie's key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SignedIn {
    pub id: SessionId,
    pub user: UserId,
    /// When they last showed that it is them.
    pub confirmed_at: Moment,
    /// When they last did so by a second factor.
    #[serde(default = "never")]
    pub strong_at: Moment,
    #[serde(default)]
    pub proof: Proof,
    /// While they look at a tenant as one of its people.
    #[serde(default)]
    pub viewing: Option<ViewingId>,
    pub started_at: Moment,
    /// What forms are bound to.
    pub nonce: String,
    pub address: Option<String>,
    pub agent: Option<String>,
}

fn never() -> Moment {
    Moment(0)
}

/// Who has given the first of two factors, and wants to go where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Halfway {
    pub user: UserId,
    pub since: Moment,
    pub next: String,
    has_code: bool,
    has_passkey: bool,
}

impl Halfway {
    pub fn has_code(&self) -> bool {
        self.has_code
    }

    pub fn has_passkey(&self) -> bool {
        self.has_passkey
    }
}

/// What the next page says once, at its top.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Notice {
    pub good: bool,
    pub text: String,
}

pub fn middleware(services: &Arc<Services>, secure: bool) -> SessionMiddleware<Store> {
    let store = Store { services: Arc::clone(services) };
    let name = if secure { "__Host-keyward" } else { "keyward" };
    SessionMiddleware::builder(store, Key::from(services.root.cookie_key()))
        .cookie_name(name.to_owned())
        .cookie_secure(secure)
        .cookie_http_only(true)
        .cookie_same_site(SameSite::Lax)
        .cookie_path("/".to_owned())
        .cookie_content_security(CookieContentSecurity::Private)
        // The cookie ends with the browser; the session's own limits are kept by the store.
        .session_lifecycle(
            BrowserSession::default()
                .state_ttl(Duration::microseconds(IDLE))
                .state_ttl_extension_policy(TtlExtensionPolicy::OnStateChanges),
        )
        .build()
}

/// Goes on with whoever has given a password or opened a link: signs them in, or keeps in mind that they are
/// halfway, if they have a second factor. Gives the address of the next page.
pub fn enter(
    session: &Session,
    request: &HttpRequest,
    person: &Person,
    from: &Origin,
    next: String,
) -> Result<String, WebError> {
    let Ways { code, passkey, .. } = person.user.ways;
    if !person.user.ways.has_second() {
        let address = Some(from.address.clone());
        begin(session, request, person.user.id, Proof::Password, address, person.since)?;
        return Ok(next);
    }
    let halfway =
        Halfway { user: person.user.id, since: person.since, next, has_code: code, has_passkey: passkey };
    session.clear();
    session.renew();
    session.insert(HALFWAY, halfway).map_err(|error| WebError::internal(error.to_string()))?;
    Ok("/sign-in/second".to_owned())
}

/// Keeps what a passkey was asked until it answers.
pub fn keep_ceremony(session: &Session, ceremony: &Ceremony) -> Result<(), WebError> {
    session.insert(CEREMONY, ceremony).map_err(|error| WebError::internal(error.to_string()))
}

/// What a passkey was asked. It can be answered once.
pub fn take_ceremony(session: &Session) -> Option<Ceremony> {
    let ceremony = session.get::<Ceremony>(CEREMONY).ok().flatten()?;
    session.remove(CEREMONY);
    Some(ceremony)
}

/// Keeps in mind who is away at their identity provider.
pub fn keep_away(session: &Session, away: &Away) -> Result<(), WebError> {
    session.insert(AWAY, away).map_err(|error| WebError::internal(error.to_string()))
}

/// Who was away. They come back once.
pub fn take_away(session: &Session) -> Option<Away> {
    let away = session.get::<Away>(AWAY).ok().flatten()?;
    session.remove(AWAY);
    Some(away)
}

/// Whoever has given the first of two factors a few minutes ago.
pub fn halfway(session: &Session, now: Moment) -> Option<Halfway> {
    let found = session.get::<Halfway>(HALFWAY).ok().flatten()?;
    (now.since(found.since) < SECOND_STEP).then_some(found)
}

/// Signs a person in under a fresh key, with nothing left of what was before.
pub fn begin(
    session: &Session,
    request: &HttpRequest,
    user: UserId,
    proof: Proof,
    address: Option<String>,
    now: Moment,
) -> Result<(), WebError> {
    let agent = request.headers().get(USER_AGENT).and_then(|agent| agent.to_str().ok());
    let person = SignedIn {
        id: SessionId::new(),
        user,
        confirmed_at: now,
        strong_at: if proof.is_strong() { now } else { never() },
        proof,
        viewing: None,
        started_at: now,
        nonce: token::random_text(),
        address,
        agent: agent.map(|agent| agent.chars().take(300).collect()),
    };
    session.clear();
    session.renew();
    session.insert(PERSON, person).map_err(|error| WebError::internal(error.to_string()))
}

pub fn signed_in(session: &Session) -> Option<SignedIn> {
    session.get::<SignedIn>(PERSON).ok().flatten()
}

/// Remembers that they have just shown that it is them, under a fresh key.
pub fn confirm(session: &Session, now: Moment, strong_at: Moment, proof: Proof) -> Result<(), WebError> {
    let Some(mut person) = signed_in(session) else { return Ok(()) };
    person.confirmed_at = now;
    person.strong_at = strong_at;
    person.proof = proof;
    session.renew();
    session.insert(PERSON, person).map_err(|error| WebError::internal(error.to_string()))
}

/// Begins or ends to view a tenant, under a fresh key and with fresh tokens for forms.
pub fn set_viewing(session: &Session, viewing: Option<ViewingId>) -> Result<(), WebError> {
    let Some(mut person) = signed_in(session) else { return Ok(()) };
    person.viewing = viewing;
    person.nonce = token::random_text();
    session.renew();
    session.insert(PERSON, person).map_err(|error| WebError::internal(error.to_string()))
}

pub fn notify(session: &Session, good: bool, text: impl Into<String>) {
    // A notice that cannot be kept is no reason to fail what it tells of.
    let _ = session.insert(NOTICE, Notice { good, text: text.into() });
}

pub fn take_notice(session: &Session) -> Option<Notice> {
    // Asked first, since removing counts as a change even when there is nothing.
    let notice = session.get::<Notice>(NOTICE).ok().flatten()?;
    session.remove(NOTICE);
    Some(notice)
}

tokio::task_local! {
    /// Whoever has the session of this request: found with it, and asked for once it is known.
    static WHO: RefCell<Option<Person>>;
}

/// Keeps whom a session was found to be of for as long as its request takes.
pub async fn remember_who(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    WHO.scope(RefCell::new(None), next.call(request)).await
}

/// The person who was found with the session. Whoever asks again in the same request may have changed
/// something, and has to look anew.
pub fn take_who(signed_in: &SignedIn) -> Option<Person> {
    let found = WHO.try_with(RefCell::take).ok().flatten();
    found.filter(|person| person.user.id == signed_in.user)
}

/// The database as actix-session wants it.
pub struct Store {
    services: Arc<Services>,
}

type State = HashMap<String, String>;

impl Store {
    fn db(&self) -> &Database {
        &self.services.db
    }

    async fn read(&self, hash: &[u8; 32]) -> Result<Option<State>, StorageError> {
        let now = self.services.clock.now();
        let found = sessions::find(self.db(), hash, now).await?;
        let Some((found, person)) = found else { return Ok(None) };
        if now.since(found.seen_at) < SEEN_EVERY {
            let person = person.and_then(|found| self.services.person_now(found));
            // Nothing to tell where nobody listens.
            let _ = WHO.try_with(|who| *who.borrow_mut() = person);
        } else {
            // Writing may wait behind whoever ends the session or changes what this person may do: then the
            // session is gone, and the person is looked up anew by whoever asks.
            let mut tx = self.db().write().await?;
            let held = sessions::touch(&mut tx, hash, now, ends(now, found.created_at)).await?;
            tx.commit().await?;
            if !held {
                return Ok(None);
            }
        }
        // A state that cannot be read signs nobody in.
        Ok(Some(serde_json::from_str(&found.state).unwrap_or_default()))
    }

    async fn insert(&self, state: &State) -> Result<String, StorageError> {
        let key = token::random_text();
        let now = self.services.clock.now();
        let person = person_of(state);
        let started = person.as_ref().map_or(now, |person| person.started_at);
        let stored = StoredSession {
            id: person.as_ref().map_or_else(SessionId::new, |person| person.id),
            user_id: person.as_ref().map(|person| person.user),
            state: serde_json::to_string(state).unwrap_or_default(),
            address: person.as_ref().and_then(|person| person.address.clone()),
            agent: person.and_then(|person| person.agent),
            created_at: started,
            seen_at: now,
            expires_at: ends(now, started),
        };
        let mut tx = self.db().write().await?;
        sessions::insert(&mut tx, &token::hash(&key), &stored).await?;
        tx.commit().await?;
        Ok(key)
    }

    async fn write(&self, hash: &[u8; 32], state: &State) -> Result<(), StorageError> {
        let now = self.services.clock.now();
        let person = person_of(state);
        let started = person.as_ref().map_or(now, |person| person.started_at);
        let text = serde_json::to_string(state).unwrap_or_default();
        let user = person.map(|person| person.user);
        let mut tx = self.db().write().await?;
        // False when it was ended meanwhile; it must not come back.
        sessions::update(&mut tx, hash, user, &text, now, ends(now, started)).await?;
        tx.commit().await
    }

    async fn remove(&self, hash: &[u8; 32]) -> Result<(), StorageError> {
        let mut tx: Tx = self.db().write().await?;
        sessions::delete(&mut tx, hash).await?;
        tx.commit().await
    }
}

fn person_of(state: &State) -> Option<SignedIn> {
    serde_json::from_str(state.get(PERSON)?).ok()
}

fn ends(now: Moment, started: Moment) -> Moment {
    now.plus(IDLE).min(started.plus(ABSOLUTE))
}

impl SessionStore for Store {
    async fn load(&self, key: &SessionKey) -> Result<Option<State>, LoadError> {
        self.read(&token::hash(key.as_ref())).await.map_err(|error| LoadError::Other(error.into()))
    }

    async fn save(&self, state: State, _: &Duration) -> Result<SessionKey, SaveError> {
        let key = self.insert(&state).await.map_err(|error| SaveError::Other(error.into()))?;
        SessionKey::try_from(key).map_err(|error| SaveError::Other(anyhow::Error::msg(error.to_string())))
    }

    async fn update(&self, key: SessionKey, state: State, _: &Duration) -> Result<SessionKey, UpdateError> {
        let written = self.write(&token::hash(key.as_ref()), &state).await;
        written.map_err(|error| UpdateError::Other(error.into()))?;
        Ok(key)
    }

    /// Loading has seen to it already.
    async fn update_ttl(&self, _: &SessionKey, _: &Duration) -> Result<(), anyhow::Error> {
        Ok(())
    }

    async fn delete(&self, key: &SessionKey) -> Result<(), anyhow::Error> {
        Ok(self.remove(&token::hash(key.as_ref())).await?)
    }
}
