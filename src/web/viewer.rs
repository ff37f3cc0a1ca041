//! The person in front of the page, as extractors give them to handlers.

use std::pin::Pin;

use actix_session::{Session, SessionExt};
use actix_web::dev::Payload;
use actix_web::http::Method;
use actix_web::web::Data;
use actix_web::{FromRequest, HttpMessage, HttpRequest};

use super::error::WebError;
use super::finish::request_id;
use super::page::Bar;
use super::{Console, address, csrf, device, session};
use crate::access::actor::Actor;
use crate::domain::account::{Proof, Slug, Ways};
use crate::domain::ids::{Owner, SessionId};
use crate::domain::viewing::Viewing;
use crate::services::accounts::{Origin, Person};

/// Somebody who is signed in.
pub struct Viewer {
    pub actor: Actor,
    pub person: Person,
    pub session: Session,
    /// The session's own id, as the account page lists it.
    pub session_id: SessionId,
    pub origin: Origin,
    pub csrf: String,
    /// The tenant that they look at as one of its people.
    pub viewing: Option<Viewing>,
}

/// Whom a refusal would be about, and in whose audit log it belongs.
#[derive(Clone)]
pub struct Whom {
    pub actor: Actor,
    pub owner: Owner,
}

impl Viewer {
    /// # Errors
    /// `SignIn` when nobody is.
    pub async fn of(request: &HttpRequest) -> Result<Self, WebError> {
        let console = console(request)?;
        let session = request.get_session();
        let Some(signed_in) = session::signed_in(&session) else { return Err(sign_in(request)) };
        let found = match session::take_who(&signed_in) {
            Some(found) => Some(found),
            None => console.services.person(signed_in.user).await?,
        };
        let Some(mut person) = found else {
            session.purge();
            return Err(sign_in(request));
        };
        if signed_in.started_at < person.user.sessions_from {
            session.purge();
            return Err(sign_in(request));
        }
        if signed_in.proof == Proof::Password && person.user.ways.has_second() {
            // Begun at the very moment in which a second factor was set up.
            session.purge();
            return Err(sign_in(request));
        }
        if let Proof::Sso(tenant) = signed_in.proof {
            if !console.services.sso_session_counts(tenant, signed_in.started_at).await? {
                session.purge();
                return Err(sign_in(request));
            }
            // A tenant's provider vouches for that tenant alone, and for nobody's rights on the platform.
            person.memberships.retain(|place| place.tenant_id == tenant);
            person.user.platform_role = None;
            person.user.ways = Ways { sso: true, ..Ways::default() };
        }
        let origin = origin(&console, request);
        let mut actor = Actor {
            by_token: false,
            on_behalf: None,
            proof: signed_in.proof,
            user_id: person.user.id,
            email: person.user.email.clone(),
            platform_role: person.user.platform_role,
            memberships: person.memberships.iter().map(|place| (place.tenant_id, place.role)).collect(),
            confirmed_at: signed_in.confirmed_at,
            strong_at: signed_in.strong_at,
            address: Some(origin.address.clone()),
            request_id: origin.request_id,
        };
        let is_own = ["/account", "/sign-out"].iter().any(|own| request.path().starts_with(own));
        if console.services.options.staff_second_factor
            && actor.platform_role.is_some()
            && !actor.proof.is_strong()
            && !is_own
        {
            return Err(WebError::SecondFactor);
        }
        let mut owner = Owner::Platform;
        let mut viewing = None;
        if let Some(id) = signed_in.viewing {
            let Some(current) = console.services.current_viewing(actor.user_id, id).await? else {
                console.services.end_viewing(&actor, id, "its time, or the tenant").await?;
                session::set_viewing(&session, None)?;
                session::notify(&session, true, "You have stopped viewing the tenant: the time is over.");
                return Err(WebError::ViewingOver);
            };
            // Nothing of what they are besides counts meanwhile.
            owner = Owner::Tenant(current.viewing.tenant);
            actor.on_behalf = Some(current.on_behalf());
            actor.platform_role = None;
            actor.memberships = vec![(current.place.tenant_id, current.place.role)];
            person.memberships = vec![current.place];
            viewing = Some(current.viewing);
        }
        let whom = Whom { actor: actor.clone(), owner };
        request.extensions_mut().insert(whom);
        let csrf = csrf::token_of(&console, &signed_in);
        let viewer = Self { actor, person, session, session_id: signed_in.id, origin, csrf, viewing };
        // For pages that are made where nobody knows who looks: those of errors.
        if let Some(bar) = viewer.bar() {
            request.extensions_mut().insert(bar);
        }
        Ok(viewer)
    }
}

impl Viewer {
    /// What stands over every page while they view a tenant.
    pub fn bar(&self) -> Option<Bar> {
        let viewing = self.viewing.as_ref()?;
        let tenant = self.person.memberships.first().map_or("", |place| place.tenant_name.as_str());
        Some(Bar::of(viewing, tenant, &self.csrf, self.person.since))
    }
}

pub fn console(request: &HttpRequest) -> Result<Data<Console>, WebError> {
    let console = request.app_data::<Data<Console>>().cloned();
    console.ok_or_else(|| WebError::internal("the console is not configured"))
}

/// Where a request comes from, for throttling and the audit log.
pub fn origin(console: &Console, request: &HttpRequest) -> Origin {
    let address = address::of(request, &console.trusted_proxies);
    Origin {
        address: address.map_or_else(|| "unknown".to_owned(), |address| address.to_string()),
        device: device::of(request),
        request_id: Some(request_id(request)),
    }
}

/// Back to where they were going, if that was a page.
fn sign_in(request: &HttpRequest) -> WebError {
    let page = matches!(*request.method(), Method::GET | Method::HEAD);
    let path = request.path();
    WebError::SignIn { next: (page && path != "/" && is_plain(path)).then(|| path.to_owned()) }
}

pub type Extracting<T> = Pin<Box<dyn Future<Output = Result<T, WebError>>>>;

impl FromRequest for Viewer {
    type Error = WebError;
    type Future = Extracting<Self>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move { Self::of(&request).await })
    }
}

/// A path that one of our pages could have. Whatever else was put into a URL, a token perhaps, is
/// not repeated in an answer.
fn is_plain(path: &str) -> bool {
    path.split('/').all(|part| {
        part.len() <= Slug::MAX && part.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
    })
}
