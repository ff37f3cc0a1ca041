//! The data plane: authenticate, resolve, forward, stream, meter. Takes requests of the official
//! SDKs and answers them from the provider on the right key.
//!
//! A request stays on the actix worker that took it, call upstream and all. When its client leaves,
//! what is left of it moves to the process's own runtime, so that leaving ends none of it.

mod body;
mod error;
mod exchange;
mod inbound;

use std::sync::Arc;

use actix_web::body::{BodyStream, BoxBody};
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::domain::clock::Moment;
use crate::domain::ids::RequestId;
use crate::domain::money::Nanos;
use crate::domain::resolve::{self, Ask, Chosen};
use crate::domain::usage::{Dialect, ServedAs, TokenUsage, UsageRow, UsageState, estimate};
use crate::outbound::{Outbound, Trust};
use crate::providers::{self, Credential, Endpoint, Inbound, Outgoing};
use crate::services::Services;
use crate::services::custody::{self, Seat};
use crate::services::overview::Standing;
use crate::services::provider_keys::short;

use error::GatewayError;
use exchange::{AnswerBody, Exchange, Head};
use inbound::Caller;

/// Exchanges that are under way: each holds a clone, and all are over when `wait` returns.
pub struct InFlight {
    running: mpsc::Sender<()>,
    over: mpsc::Receiver<()>,
}

impl Default for InFlight {
    fn default() -> Self {
        let (running, over) = mpsc::channel(1);
        Self { running, over }
    }
}

impl InFlight {
    #[must_use]
    pub fn ticket(&self) -> mpsc::Sender<()> {
        self.running.clone()
    }

    /// Waits until every ticket, and so every exchange, is gone.
    pub async fn wait(mut self) {
        drop(self.running);
        let _ = self.over.recv().await;
    }
}

/// What every handler works with.
#[derive(Clone)]
struct Gateway {
    services: Arc<Services>,
    /// The worker's own.
    outbound: Outbound,
    ticket: mpsc::Sender<()>,
}

/// Registers the gateway's routes.
pub fn configure(cfg: &mut web::ServiceConfig, services: Arc<Services>, ticket: mpsc::Sender<()>) {
    let outbound = services.outbound.apart();
    cfg.service(
        web::scope("/v1")
            .app_data(web::Data::new(Gateway { services, outbound, ticket }))
            .route("/messages", web::post().to(messages))
            .route("/messages/count_tokens", web::post().to(count_tokens))
            .route("/models", web::get().to(models))
            .route("/models/{id}", web::get().to(model))
            .default_service(web::route().to(unknown)),
    );
}

async fn messages(gateway: web::Data<Gateway>, request: HttpRequest, payload: web::Payload) -> HttpResponse {
    handle(&gateway, &request, Some(payload), Endpoint::Messages).await
}

async fn count_tokens(
    gateway: web::Data<Gateway>,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    handle(&gateway, &request, Some(payload), Endpoint::CountTokens).await
}

async fn models(gateway: web::Data<Gateway>, request: HttpRequest) -> HttpResponse {
    handle(&gateway, &request, None, Endpoint::Models).await
}

async fn model(gateway: web::Data<Gateway>, request: HttpRequest, id: web::Path<String>) -> HttpResponse {
    handle(&gateway, &request, None, Endpoint::Model(id.into_inner())).await
}

async fn unknown(request: HttpRequest) -> HttpResponse {
    let message = format!("There is no {} on this path.", request.method());
    GatewayError::not_found(message).respond(RequestId::new())
}

async fn handle(
    gateway: &Gateway,
    request: &HttpRequest,
    payload: Option<web::Payload>,
    endpoint: Endpoint,
) -> HttpResponse {
    let id = RequestId::new();
    match serve(gateway, request, payload, endpoint, id).await {
        Ok(response) => response,
        Err(error) => error.respond(id),
    }
}

async fn serve(
    gateway: &Gateway,
    request: &HttpRequest,
    payload: Option<web::Payload>,
    endpoint: Endpoint,
    id: RequestId,
) -> Result<HttpResponse, GatewayError> {
    let services = &gateway.services;
    let caller = inbound::authenticate(services, request).await?;
    let asked = inbound::read_headers(request)?;
    let bytes = match payload {
        Some(payload) => body::read(request, payload).await?,
        None => Bytes::new(),
    };
    let envelope =
        if endpoint_has_body(&endpoint) { body::envelope(&bytes)? } else { body::Envelope::default() };

    let standing = services.standing(&caller.scope).await.map_err(GatewayError::from)?;
    let situation = standing.situation();
    let ask = Ask {
        dialect: Dialect::Anthropic,
        feature: asked.feature.as_deref(),
        key_name: asked.key_name.as_deref(),
        provider: asked.provider,
    };
    let decision = resolve::resolve(&ask, &situation);
    let feature = decision.feature;
    let chosen = match decision.outcome {
        Ok(chosen) => chosen,
        Err(refusal) => {
            return Err(GatewayError::refused(&refusal, &decision.gates, &standing, &services.options));
        }
    };
    let feature = feature.ok_or_else(GatewayError::unavailable)?;
    let default_model =
        feature.default_model.as_deref().unwrap_or(providers::of(chosen.key.provider).spec().probe_model);
    let (bytes, model) = match (&envelope.model, endpoint_has_body(&endpoint)) {
        (Some(model), _) => (bytes, model.clone()),
        (None, true) => (body::with_model(&bytes, default_model), default_model.to_owned()),
        (None, false) => (bytes, String::new()),
    };

    let row = open_row(id, services, &caller, &standing, &chosen, asked.labels, feature.slug, model);
    let row = UsageRow {
        tokens: if endpoint.is_metered() {
            estimate(bytes.len(), envelope.max_tokens)
        } else {
            TokenUsage::default()
        },
        ..row
    };
    let inbound = Inbound {
        endpoint: endpoint.clone(),
        query: (!request.query_string().is_empty()).then(|| request.query_string().to_owned()),
        headers: inbound::passing(request, providers::of(chosen.key.provider)),
        body: bytes,
    };
    let (exchange, outgoing) = prepare(gateway, &standing, &chosen, inbound, endpoint, row)?;
    let head = exchange.start(outgoing, caller.token).await?;
    Ok(respond(head, id, &chosen))
}

fn endpoint_has_body(endpoint: &Endpoint) -> bool {
    matches!(endpoint, Endpoint::Messages | Endpoint::CountTokens)
}

#[expect(clippy::too_many_arguments, reason = "each is a part of the row that it makes")]
fn open_row(
    id: RequestId,
    services: &Services,
    caller: &Caller,
    standing: &Standing,
    chosen: &Chosen<'_>,
    labels: crate::domain::usage::Labels,
    feature: String,
    model: String,
) -> UsageRow {
    UsageRow {
        id,
        tenant_id: caller.tenant,
        instance: services.instance,
        started_at: standing.now,
        ended_at: None,
        feature,
        provider: chosen.key.provider,
        dialect: Dialect::Anthropic,
        key_id: chosen.key.id,
        key_name: chosen.key.name.to_string(),
        key_version: chosen.key.version,
        mode: chosen.mode,
        funding: standing.tenant.policy.funding,
        fallback: chosen.fallback,
        model_asked: model,
        model_served: None,
        labels,
        tokens: TokenUsage::default(),
        served_as: ServedAs::default(),
        raw_usage: None,
        price_id: None,
        cost: Nanos::ZERO,
        billed: Nanos::ZERO,
        unpriced: false,
        state: UsageState::Pending,
        status: None,
        error_code: None,
        first_byte_us: None,
        total_us: None,
    }
}

/// Opens the chosen key and builds the request that goes out. The opened key lives only as long
/// as this function; what remains of it is the header.
fn prepare(
    gateway: &Gateway,
    standing: &Standing,
    chosen: &Chosen<'_>,
    inbound: Inbound,
    endpoint: Endpoint,
    row: UsageRow,
) -> Result<(Box<Exchange>, Outgoing), GatewayError> {
    let services = &gateway.services;
    let ring = if chosen.shared { &standing.platform.keys } else { &standing.tenant.keys };
    let (sealed, owner_key) = ring.sealed_of(chosen.key).ok_or_else(GatewayError::unavailable)?;
    let version = &sealed.key.current;
    let provider = sealed.key.provider;
    let custom_url = version.custom_url.as_deref();
    if custom_url.is_some_and(|url| !services.url_still_allowed(url, provider)) {
        return Err(GatewayError::upstream_unreachable(
            "The custom URL of this key is not allowed any more.",
        ));
    }
    let seat =
        Seat { owner: sealed.key.owner, key: sealed.key.id, version: version.version, provider, custom_url };
    let secret = custody::open(&services.keyring, owner_key, &sealed.sealed, &seat).map_err(|error| {
        tracing::error!(error = &error as &dyn std::error::Error, key = %sealed.key.id, "a provider key did not open");
        GatewayError::unavailable()
    })?;
    let credential = Credential { secret: &secret, custom_url, origin: services.options.origin(provider) };
    let outgoing = providers::of(provider)
        .route(inbound, &credential)
        .map_err(|error| GatewayError::invalid(error.to_string()))?;
    let exchange = Exchange {
        services: Arc::clone(services),
        outbound: gateway.outbound.clone(),
        platform: Arc::clone(&standing.platform),
        key: chosen.key.clone(),
        endpoint,
        trust: if custom_url.is_some() { Trust::Tenant } else { Trust::Operator },
        row,
        ticket: gateway.ticket.clone(),
    };
    Ok((Box::new(exchange), outgoing))
}

fn respond(head: Head, id: RequestId, chosen: &Chosen<'_>) -> HttpResponse {
    let status = actix_web::http::StatusCode::from_u16(head.status)
        .unwrap_or(actix_web::http::StatusCode::BAD_GATEWAY);
    let mut response = match head.body {
        AnswerBody::Whole(bytes) => HttpResponse::with_body(status, BoxBody::new(bytes)),
        AnswerBody::Stream(stream) => HttpResponse::with_body(status, BoxBody::new(BodyStream::new(stream))),
    };
    let headers = response.headers_mut();
    for (name, value) in &head.headers {
        if may_return(name.as_str()) {
            // The two crates speak different versions of the header types.
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name.as_ref()), HeaderValue::from_bytes(value.as_bytes()))
            {
                headers.append(name, value);
            }
        }
    }
    let mut mark = |name: &'static str, value: String| {
        if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(value)) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    mark("x-keyward-request-id", id.to_string());
    mark("x-keyward-usage-mode", chosen.mode.to_string());
    mark("x-keyward-key", format!("{}@{}", chosen.key.name, chosen.key.version));
    mark("x-keyward-key-fingerprint", short(&chosen.key.fingerprint).to_owned());
    if let Some(fallback) = chosen.fallback {
        mark("x-keyward-fallback", fallback.to_string());
    }
    response
}

/// The provider's headers that mean something to an SDK. The rest is about the connection between
/// Keyward and the provider, or about the account behind the key.
fn may_return(name: &str) -> bool {
    matches!(
        name,
        "content-type" | "request-id" | "retry-after" | "retry-after-ms" | "x-should-retry" | "cache-control"
    ) || name.starts_with("anthropic-ratelimit-")
        || name.starts_with("anthropic-priority-")
        || name.starts_with("anthropic-fast-")
}

/// The time that a request began, for whoever measures it.
#[must_use]
fn microseconds_since(started: std::time::Instant) -> i64 {
    i64::try_from(started.elapsed().as_micros()).unwrap_or(i64::MAX)
}

/// The moment, for comparisons with a key's state.
fn began(row: &UsageRow) -> Moment {
    row.started_at
}
