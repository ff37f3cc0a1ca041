//! The REST API under `/api/v1`: keys, features, generations, questions, usage, sessions and tenants, for backends with an access
//! token. A key that was sent is never sent back: only its name, hint and fingerprint are.

mod docs;
mod features;
mod generations;
mod idempotency;
mod keys;
pub mod payments;
mod problem;
mod questions;
mod sessions;
mod tenants;
mod usage;

use std::future::Future;
use std::num::NonZeroU32;
use std::sync::Arc;

use actix_web::http::Method;
use actix_web::http::header::{CACHE_CONTROL, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use actix_web::middleware::DefaultHeaders;
use actix_web::{HttpRequest, HttpResponse, Resource, Route, web};
use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter};
use serde::de::DeserializeOwned;

use crate::access::actor::Actor;
use crate::access::scope::Scope;
use crate::domain::ids::{Owner, TenantId, TokenId};
use crate::services::Services;
use crate::services::provider_keys::Holder;
use crate::services::tokens::{Bearer, TokenScope};
use problem::Problem;

/// Requests that one token may send in a minute, all at once if need be.
const PER_MINUTE: NonZeroU32 = NonZeroU32::new(600).unwrap();
/// Tokens beyond this are cleaned out of the limiter when they have rested.
const MANY_TOKENS: usize = 10_000;
const MAX_BODY: usize = 256 * 1_024;

type Limiter =
    RateLimiter<TokenId, DefaultKeyedStateStore<TokenId>, DefaultClock, StateInformationMiddleware>;

/// What every handler works with.
pub struct Api {
    services: Arc<Services>,
    limiter: Limiter,
}

impl Api {
    #[must_use]
    pub fn new(services: Arc<Services>) -> Self {
        let limiter = RateLimiter::keyed(Quota::per_minute(PER_MINUTE)).with_middleware();
        Self { services, limiter }
    }
}

/// Registers the API's routes. One `Api` is shared by all workers, so that limits hold for all.
pub fn configure(cfg: &mut web::ServiceConfig, api: web::Data<Api>) {
    cfg.service(
        web::scope("/api/v1")
            .app_data(api)
            .app_data(web::PathConfig::default().error_handler(|_, _| {
                let response = Problem::not_found("The path holds what cannot be read.").respond();
                actix_web::error::InternalError::from_response("path", response).into()
            }))
            .service(at("/openapi.json").get(docs::openapi))
            .service(at("/docs").get(docs::page))
            .service(at("/keys").get(keys::list).post(keys::create))
            .service(at("/keys/{name}").get(keys::show).delete(keys::remove))
            .service(at("/keys/{name}/rotate").post(keys::rotate))
            .service(at("/keys/{name}/undo").post(keys::undo))
            .service(at("/keys/{name}/check").post(keys::check))
            .service(at("/keys/{name}/default").post(keys::make_default))
            .service(at("/keys/{name}/scope").post(keys::set_scope))
            .service(at("/features").get(features::list))
            .service(at("/generations").get(generations::list).post(generations::create))
            .service(at("/generations/{id}").get(generations::show))
            .service(at("/questions").get(questions::list).post(questions::create))
            .service(at("/questions/{id}").get(questions::show))
            .service(at("/usage").get(usage::rows))
            .service(at("/usage/summary").get(usage::summary))
            .service(at("/sessions").post(sessions::create))
            .service(at("/sessions/{id}").get(sessions::show).delete(sessions::end))
            .service(at("/tenants").get(tenants::list).post(tenants::create))
            .service(at("/tenants/{slug}").get(tenants::show))
            .service(at("/tenants/{slug}/claim-link").post(tenants::claim_link))
            .default_service(web::to(async || Problem::not_found("There is nothing on this path.").respond()))
            .wrap(
                DefaultHeaders::new()
                    .add((X_CONTENT_TYPE_OPTIONS, "nosniff"))
                    .add((CACHE_CONTROL, "no-store")),
            ),
    );
}

/// A path with its methods, in few words.
struct At(Resource, Vec<Method>);

fn at(path: &str) -> At {
    At(web::resource(path), Vec::new())
}

macro_rules! methods {
    ($($name:ident $method:ident),+) => {
        impl At {
            $(
                fn $name<F, Args>(mut self, handler: F) -> Self
                where
                    F: actix_web::Handler<Args>,
                    Args: actix_web::FromRequest + 'static,
                    F::Output: actix_web::Responder + 'static,
                {
                    self.1.push(Method::$method);
                    Self(self.0.route(Route::new().method(Method::$method).to(handler)), self.1)
                }
            )+
        }
    };
}
methods!(get GET, post POST, delete DELETE);

impl actix_web::dev::HttpServiceFactory for At {
    fn register(self, config: &mut actix_web::dev::AppService) {
        let allowed = self.1.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
        let wrong_method = move || {
            let mut response = Problem::method_not_allowed().respond();
            if let Ok(allowed) = HeaderValue::from_str(&allowed) {
                response.headers_mut().insert(actix_web::http::header::ALLOW, allowed);
            }
            std::future::ready(response)
        };
        self.0.default_service(web::to(wrong_method)).register(config);
    }
}

/// Whoever asks, and the tenant that they ask for.
struct Caller {
    tenant: TenantId,
    holder: Holder,
    actor: Actor,
}

/// An answer's limits, as its headers tell them.
struct Limits {
    remaining: u32,
    /// Seconds until there is room for one more.
    reset: u64,
}

impl Limits {
    fn put(&self, response: &mut HttpResponse) {
        let headers = response.headers_mut();
        let mut put = |name: &'static str, value: u64| {
            headers.insert(actix_web::http::header::HeaderName::from_static(name), HeaderValue::from(value));
        };
        put("ratelimit-limit", u64::from(PER_MINUTE.get()));
        put("ratelimit-remaining", u64::from(self.remaining));
        put("ratelimit-reset", self.reset);
    }
}

/// Runs a handler's work and gives its answer, with the limits of whoever asked.
struct Asked {
    api: web::Data<Api>,
    bearer: Bearer,
    limits: Limits,
    request: HttpRequest,
}

impl Asked {
    /// Finds out who asks: the token must be good and have this scope.
    async fn by(api: web::Data<Api>, request: HttpRequest, scope: TokenScope) -> Result<Self, Problem> {
        let bearer = {
            let presented = header(&request, "authorization")?.and_then(|value| {
                let (scheme, token) = value.split_once(' ')?;
                scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
            });
            let presented = presented.ok_or_else(|| {
                Problem::unauthenticated("Send your access token as Authorization: Bearer.")
            })?;
            let named = header(&request, "x-keyward-tenant")?;
            api.services.bearer_of(presented, scope, named).await?
        };
        let limits = match api.limiter.check_key(&bearer.token.id) {
            Ok(state) => Limits { remaining: state.remaining_burst_capacity(), reset: 1 },
            Err(until) => {
                let wait = until.wait_time_from(DefaultClock::default().now());
                let seconds = wait.as_secs() + 1;
                return Err(Problem::too_many_requests(seconds));
            }
        };
        if api.limiter.len() > MANY_TOKENS {
            api.limiter.retain_recent();
        }
        Ok(Self { api, bearer, limits, request })
    }

    fn services(&self) -> &Services {
        &self.api.services
    }

    /// The caller, of whom a tenant is known.
    async fn caller(&self) -> Result<Caller, Problem> {
        let missing = || Problem::bad_request("A service token needs x-keyward-tenant, the tenant's slug.");
        let tenant = self.bearer.tenant.ok_or_else(missing)?;
        let scope = Scope::of_token(tenant);
        let view = self.services().directory.tenant(&scope).await?;
        let view = view.ok_or_else(|| Problem::not_found("There is no such tenant."))?;
        let actor = self.actor(Some(tenant));
        let holder = Holder { scope, changers: view.tenant.key_changers };
        Ok(Caller { tenant, holder, actor })
    }

    fn actor(&self, tenant: Option<TenantId>) -> Actor {
        let token = &self.bearer.token;
        let service = token.tenant_id.is_none();
        Actor::of_token(token.id, &token.name, tenant, service, self.services().clock.now())
    }

    /// Does the work, and writes down what the policy refused. A refusal that cannot be written
    /// down is still a refusal.
    async fn recorded(
        &self,
        work: impl Future<Output = Result<HttpResponse, Problem>>,
    ) -> Result<HttpResponse, Problem> {
        let result = work.await;
        if result.as_ref().is_err_and(|problem| problem.denied) {
            let tenant = self.bearer.tenant;
            let route = self.request.match_pattern().unwrap_or_default();
            let what = format!("{} {route}", self.request.method());
            let chain = tenant.map_or(Owner::Platform, Owner::Tenant);
            if let Err(error) = self.services().record_refusal(&self.actor(tenant), chain, &what).await {
                tracing::error!(error = &error as &dyn std::error::Error, "a refusal could not be recorded");
            }
        }
        result
    }

    fn answer(&self, result: Result<HttpResponse, Problem>) -> HttpResponse {
        let mut response = result.unwrap_or_else(|problem| problem.respond());
        self.limits.put(&mut response);
        response
    }
}

/// What every change goes through: the token, its scope and limit, and the `Idempotency-Key`.
async fn write(
    api: web::Data<Api>,
    request: HttpRequest,
    payload: web::Payload,
    scope: TokenScope,
    work: impl AsyncFnOnce(&Asked, &[u8]) -> Result<HttpResponse, Problem> + 'static,
) -> HttpResponse {
    let asked = match Asked::by(api, request, scope).await {
        Ok(asked) => asked,
        Err(problem) => return problem.respond(),
    };
    let body = match body_of(payload).await {
        Ok(body) => body,
        Err(problem) => return asked.answer(Err(problem)),
    };
    let all = async move {
        let work = asked.recorded(work(&asked, &body));
        idempotency::once(&asked, &body, Box::pin(work)).await
    };
    // To its end, whether or not its client waits: what was begun is kept with its answer.
    actix_web::rt::spawn(all).await.unwrap_or_else(|_| Problem::unavailable().respond())
}

/// A header that may be sent once, as text.
fn header<'a>(request: &'a HttpRequest, name: &str) -> Result<Option<&'a str>, Problem> {
    let mut values = request.headers().get_all(name);
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().ok().filter(|_| values.next().is_none());
    let wrong = || Problem::bad_request(format!("{name} may be sent once, as plain text."));
    text.map(|text| Some(text.trim())).ok_or_else(wrong)
}

/// Reads a JSON body. What is wrong with it is told by its place, never by its text: it may hold a key.
fn read<T: DeserializeOwned>(request: &HttpRequest, body: &[u8]) -> Result<T, Problem> {
    let kind = request.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
        return Err(Problem::unsupported_media_type());
    }
    // Structs can also be read from lists; a request cannot.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Problem::bad_request("The body is not a JSON object."));
    }
    serde_json::from_slice(body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let what = match error.classify() {
            serde_json::error::Category::Data => "a field is missing, unknown or of the wrong type; it shows",
            _ => "it is not JSON; that shows",
        };
        Problem::bad_request(format!("The body cannot be used: {what} at line {line}, column {column}."))
    })
}

/// The body of a request, up to its limit.
async fn body_of(mut payload: web::Payload) -> Result<web::Bytes, Problem> {
    use futures_util::StreamExt as _;
    let mut body = web::BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| Problem::bad_request("The body broke off."))?;
        if body.len() + chunk.len() > MAX_BODY {
            return Err(Problem::too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}
