//! The data plane: authenticate, resolve, forward, stream, meter. Takes requests of the official
//! SDKs and answers them from the provider on the right key.
//!
//! A request stays on the actix worker that took it, call upstream and all. When its client leaves,
//! what is left of it moves to the process's own runtime, so that leaving ends none of it.

mod answer;
pub mod assistant;
mod body;
mod error;
mod exchange;
pub mod generations;
mod in_flight;
mod inbound;

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;

use crate::domain::billing::{Fallback, OnReach, UsageMode};
use crate::domain::clock::Moment;
use crate::domain::ids::RequestId;
use crate::domain::money::Nanos;
use crate::domain::plan::Feature;
use crate::domain::price_list;
use crate::domain::provider_key::{KeyView, Provider, Verdict};
use crate::domain::resolve::{self, Ask, Chosen};
use crate::domain::usage::{Dialect, ServedAs, TokenUsage, UsageRow, UsageState, ceiling, estimate};
use crate::outbound::exchange::ExchangeError;
use crate::outbound::{Outbound, SendError, Trust};
use crate::providers::{self, Credential, Endpoint, Inbound, Outgoing, PathVersion};
use crate::services::Services;
use crate::services::custody::{self, Seat};
use crate::services::overview::Standing;
use crate::services::pinned_sessions;
use crate::services::provider_keys::short;

use answer::respond;
use error::GatewayError;
use exchange::{Exchange, Head};
use in_flight::{Ticket, Tickets};
use inbound::Caller;

pub use in_flight::InFlight;

/// What every handler works with.
#[derive(Clone)]
struct Gateway {
    services: Arc<Services>,
    /// The worker's own.
    outbound: Outbound,
    tickets: Tickets,
}

/// Registers the gateway's routes.
pub fn configure(cfg: &mut web::ServiceConfig, services: Arc<Services>, tickets: Tickets) {
    let outbound = services.outbound.apart();
    let gateway = web::Data::new(Gateway { services, outbound, tickets });
    cfg.service(
        web::scope("/v1")
            .app_data(gateway.clone())
            .route("/messages", web::post().to(messages))
            .route("/messages/count_tokens", web::post().to(count_tokens))
            .route("/chat/completions", web::post().to(chat_completions))
            .route("/responses", web::post().to(responses))
            .route("/embeddings", web::post().to(embeddings))
            .route("/models", web::get().to(models))
            .route("/models/{id}", web::get().to(model))
            .route("/models/{action}", web::post().to(generate))
            .default_service(web::route().to(unknown)),
    );
    cfg.service(
        web::scope("/v1beta")
            .app_data(gateway)
            .route("/models", web::get().to(beta_models))
            .route("/models/{id}", web::get().to(beta_model))
            .route("/models/{action}", web::post().to(beta_generate))
            .default_service(web::route().to(unknown)),
    );
}

/// What a request's path says of it.
struct Route {
    dialect: Dialect,
    version: PathVersion,
    endpoint: Endpoint,
}

impl Route {
    fn new(dialect: Dialect, endpoint: Endpoint) -> Self {
        Self { dialect, version: PathVersion::V1, endpoint }
    }

    fn gemini(version: PathVersion, endpoint: Endpoint) -> Self {
        Self { dialect: Dialect::Gemini, version, endpoint }
    }
}

type Shared = web::Data<Gateway>;

async fn messages(gateway: Shared, request: HttpRequest, payload: web::Payload) -> HttpResponse {
    handle(&gateway, &request, Some(payload), Route::new(Dialect::Anthropic, Endpoint::Messages)).await
}

async fn count_tokens(gateway: Shared, request: HttpRequest, payload: web::Payload) -> HttpResponse {
    handle(&gateway, &request, Some(payload), Route::new(Dialect::Anthropic, Endpoint::CountTokens)).await
}

async fn chat_completions(gateway: Shared, request: HttpRequest, payload: web::Payload) -> HttpResponse {
    handle(&gateway, &request, Some(payload), Route::new(Dialect::Openai, Endpoint::ChatCompletions)).await
}

async fn responses(gateway: Shared, request: HttpRequest, payload: web::Payload) -> HttpResponse {
    handle(&gateway, &request, Some(payload), Route::new(Dialect::Openai, Endpoint::Responses)).await
}

async fn embeddings(gateway: Shared, request: HttpRequest, payload: web::Payload) -> HttpResponse {
    handle(&gateway, &request, Some(payload), Route::new(Dialect::Openai, Endpoint::Embeddings)).await
}

async fn models(gateway: Shared, request: HttpRequest) -> HttpResponse {
    handle(&gateway, &request, None, Route::new(inbound::dialect(&request), Endpoint::Models)).await
}

async fn model(gateway: Shared, request: HttpRequest, id: web::Path<String>) -> HttpResponse {
    let endpoint = Endpoint::Model(id.into_inner());
    handle(&gateway, &request, None, Route::new(inbound::dialect(&request), endpoint)).await
}

async fn beta_models(gateway: Shared, request: HttpRequest) -> HttpResponse {
    handle(&gateway, &request, None, Route::gemini(PathVersion::V1Beta, Endpoint::Models)).await
}

async fn beta_model(gateway: Shared, request: HttpRequest, id: web::Path<String>) -> HttpResponse {
    let endpoint = Endpoint::Model(id.into_inner());
    handle(&gateway, &request, None, Route::gemini(PathVersion::V1Beta, endpoint)).await
}

async fn generate(
    gateway: Shared,
    request: HttpRequest,
    action: web::Path<String>,
    payload: web::Payload,
) -> HttpResponse {
    act(&gateway, &request, &action, payload, PathVersion::V1).await
}

async fn beta_generate(
    gateway: Shared,
    request: HttpRequest,
    action: web::Path<String>,
    payload: web::Payload,
) -> HttpResponse {
    act(&gateway, &request, &action, payload, PathVersion::V1Beta).await
}

/// Gemini's `models/{model}:{action}`.
async fn act(
    gateway: &Gateway,
    request: &HttpRequest,
    action: &str,
    payload: web::Payload,
    version: PathVersion,
) -> HttpResponse {
    let (model, action) = action.rsplit_once(':').unwrap_or((action, ""));
    let model = model.to_owned();
    let endpoint = match action {
        "generateContent" => Endpoint::Generate { model, stream: false },
        "streamGenerateContent" => Endpoint::Generate { model, stream: true },
        "countTokens" => Endpoint::CountContent { model },
        _ => return GatewayError::no_such_path("POST").respond(Dialect::Gemini, RequestId::new()),
    };
    handle(gateway, request, Some(payload), Route::gemini(version, endpoint)).await
}

async fn unknown(request: HttpRequest) -> HttpResponse {
    let dialect =
        if request.path().starts_with("/v1beta") { Dialect::Gemini } else { inbound::dialect(&request) };
    GatewayError::no_such_path(request.method().as_str()).respond(dialect, RequestId::new())
}

async fn handle(
    gateway: &Gateway,
    request: &HttpRequest,
    payload: Option<web::Payload>,
    route: Route,
) -> HttpResponse {
    let (id, dialect) = (RequestId::new(), route.dialect);
    match serve(gateway, request, payload, route, id).await {
        Ok(response) => response,
        Err(error) => error.respond(dialect, id),
    }
}

async fn serve(
    gateway: &Gateway,
    request: &HttpRequest,
    payload: Option<web::Payload>,
    route: Route,
    id: RequestId,
) -> Result<HttpResponse, GatewayError> {
    let services = &gateway.services;
    let Route { dialect, version, mut endpoint } = route;
    let caller = inbound::authenticate(services, request).await?;
    let ticket = gateway.tickets.take().ok_or_else(GatewayError::unavailable)?;
    let mut asked = inbound::read_headers(request)?;
    let pinned_model = pin(services, &caller, &mut asked).await?;
    let bytes = match payload {
        Some(payload) => body::read(request, payload).await?,
        None => Bytes::new(),
    };
    let mut envelope = body::envelope(&endpoint, &bytes)?;
    let bytes = match pinned_model.filter(|_| endpoint.has_body()) {
        Some(model) => {
            let bytes = body::pinned(&mut endpoint, bytes, &model);
            envelope.model = Some(model);
            bytes
        }
        None => bytes,
    };
    let query = (!request.query_string().is_empty()).then(|| request.query_string().to_owned());
    let call = Call {
        id,
        caller,
        asked,
        route: Route { dialect, version, endpoint },
        envelope,
        query,
        bytes,
        recorded_first: false,
        ticket,
    };
    let (head, used) = send(gateway, call, |provider| inbound::passing(request, provider)).await?;
    Ok(respond(head, id, used))
}

/// A request whose tenant is known, wherever it came from.
struct Call {
    id: RequestId,
    caller: Caller,
    asked: inbound::Asked,
    route: Route,
    envelope: body::Envelope,
    query: Option<String>,
    bytes: Bytes,
    recorded_first: bool,
    ticket: Ticket,
}

/// What a request ran on.
struct Used {
    mode: UsageMode,
    /// `name@version`.
    key: String,
    provider: Provider,
    /// Whether the key is the platform's.
    shared: bool,
    fingerprint: String,
    fallback: Option<Fallback>,
}

/// Resolves a request, sends it upstream and waits for the head of its answer. Every use of a provider
/// goes through here. `passing` gives the headers of the request that this provider is sent.
async fn send(
    gateway: &Gateway,
    call: Call,
    passing: impl FnOnce(&'static dyn providers::Provider) -> http::HeaderMap,
) -> Result<(Head, Used), GatewayError> {
    let services = &gateway.services;
    let Call { id, caller, asked, route, envelope, query, bytes, recorded_first, ticket } = call;
    let Route { dialect, version, endpoint } = route;
    let standing = services.standing(&caller.scope).await.map_err(GatewayError::from)?;
    let situation = standing.situation();
    let ask = Ask {
        dialect,
        feature: asked.feature.as_deref(),
        key_name: asked.key_name.as_deref(),
        provider: asked.provider,
        model: envelope.model.as_deref(),
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
    let (bytes, model) = match envelope.model {
        Some(model) => (bytes, model),
        None if endpoint.has_body() => {
            let model = default_model(&feature, chosen.key.provider);
            if !chosen.shared && !chosen.key.scope.has_model(model) {
                return Err(GatewayError::model_out_of_scope(chosen.key.name.as_str(), model));
            }
            (body::with_model(&bytes, model), model.to_owned())
        }
        None => (bytes, String::new()),
    };

    let most = ceiling(bytes.len(), envelope.max_tokens, output_limit(&model), envelope.answers);
    if let Some(budget) = feature.budget.filter(|budget| endpoint.is_metered() && !budget.covers(&most)) {
        return Err(GatewayError::over_budget(&feature.name, budget, &most));
    }
    let row =
        open_row(id, services, &caller, &standing, &chosen, asked.labels, &feature.slug, dialect, &model);
    let row = UsageRow {
        tokens: if endpoint.is_metered() {
            estimate(bytes.len(), envelope.max_tokens)
        } else {
            TokenUsage::default()
        },
        ..row
    };
    let row = if endpoint.is_metered() {
        UsageRow { held: hold_for(&standing, &chosen, &row, &most)?, ..row }
    } else {
        row
    };
    let inbound = Inbound {
        endpoint: endpoint.clone(),
        dialect,
        version,
        model,
        query,
        headers: passing(providers::of(chosen.key.provider)),
        body: bytes,
    };
    let (mut exchange, outgoing) =
        prepare(gateway, &standing, &chosen, inbound, endpoint, row, ticket).await?;
    exchange.recorded_first = recorded_first;
    let head = exchange.start(outgoing, caller.token).await?;
    let used = Used {
        mode: chosen.mode,
        key: format!("{}@{}", chosen.key.name, chosen.key.version),
        provider: chosen.key.provider,
        shared: chosen.shared,
        fingerprint: short(&chosen.key.fingerprint).to_owned(),
        fallback: chosen.fallback,
    };
    Ok((head, used))
}

/// Applies what the request's session pins, and gives the model that it does. What the request
/// itself names wins, for this request alone.
async fn pin(
    services: &Services,
    caller: &Caller,
    asked: &mut inbound::Asked,
) -> Result<Option<String>, GatewayError> {
    let Some(id) = asked.labels.session.as_deref().filter(|id| id.starts_with(pinned_sessions::PREFIX))
    else {
        return Ok(None);
    };
    let session = services
        .pins(caller.tenant, id)
        .await?
        .ok_or_else(|| GatewayError::invalid(format!("There is no session {id}, or it has ended.")))?;
    if asked.key_name.is_none() {
        asked.key_name.clone_from(&session.key_name);
        asked.provider = asked.provider.or(session.provider);
    }
    if asked.feature.is_none() {
        asked.feature.clone_from(&session.feature);
    }
    Ok(session.model.clone())
}

/// The model of a request that names none: the feature's, if this provider sells it, or else the
/// provider's own.
fn default_model(feature: &Feature, provider: Provider) -> &str {
    let sold =
        |model: &&str| price_list::find(model).is_some_and(|model| model.providers.contains(&provider));
    let of_feature = feature.default_model.as_deref().filter(sold);
    of_feature.unwrap_or(providers::of(provider).spec().probe_model)
}

fn output_limit(model: &str) -> Option<u64> {
    price_list::find(model).map(|model| model.max_output)
}

/// What a request must keep back before it goes out: nothing, unless it is paid from credits or counts
/// against a budget that pauses.
fn hold_for(
    standing: &Standing,
    chosen: &Chosen<'_>,
    row: &UsageRow,
    ceiling: &TokenUsage,
) -> Result<Nanos, GatewayError> {
    let budgets = || standing.tenant.budgets.iter().filter(|budget| budget.limits(chosen.key.id));
    let prepaid = row.is_prepaid();
    let holds = prepaid || budgets().any(|budget| budget.on_reach == OnReach::Pause);
    let wants_a_price = prepaid || budgets().any(|budget| budget.priced_only);
    if !holds && !wants_a_price {
        return Ok(Nanos::ZERO);
    }
    let (model, served) = (&row.model_asked, ServedAs::default());
    let rated = standing.platform.prices.rate(row.provider, model, ceiling, served, row.started_at);
    match rated {
        None if wants_a_price => {
            Err(GatewayError::unpriced(model, if prepaid { "credits" } else { "a budget" }))
        }
        // Something at least: of a budget that is used up nothing is left for what costs nothing known.
        Some(rated) if holds => Ok(rated.cost(row.rate).max(Nanos(1))),
        None if holds => Ok(Nanos(1)),
        _ => Ok(Nanos::ZERO),
    }
}

#[expect(clippy::too_many_arguments, reason = "each is a part of the row that it makes")]
fn open_row(
    id: RequestId,
    services: &Services,
    caller: &Caller,
    standing: &Standing,
    chosen: &Chosen<'_>,
    labels: crate::domain::usage::Labels,
    feature: &str,
    dialect: Dialect,
    model: &str,
) -> UsageRow {
    UsageRow {
        id,
        tenant_id: caller.tenant,
        instance: services.instance,
        started_at: standing.now,
        ended_at: None,
        feature: feature.to_owned(),
        provider: chosen.key.provider,
        dialect,
        key_id: chosen.key.id,
        key_name: chosen.key.name.to_string(),
        key_version: chosen.key.version,
        mode: chosen.mode,
        funding: standing.tenant.policy.funding,
        fallback: chosen.fallback,
        model_asked: model.to_owned(),
        model_served: None,
        labels,
        tokens: TokenUsage::default(),
        served_as: ServedAs::default(),
        raw_usage: None,
        price_id: None,
        rate: if chosen.shared { standing.tenant.policy.rate } else { chosen.key.rate },
        cost: Nanos::ZERO,
        billed: Nanos::ZERO,
        held: Nanos::ZERO,
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
async fn prepare(
    gateway: &Gateway,
    standing: &Standing,
    chosen: &Chosen<'_>,
    inbound: Inbound,
    endpoint: Endpoint,
    row: UsageRow,
    ticket: Ticket,
) -> Result<(Box<Exchange>, Outgoing), GatewayError> {
    let services = &gateway.services;
    let ring = if chosen.shared { &standing.platform.keys } else { &standing.tenant.keys };
    let (sealed, owner_key) = ring.sealed_of(chosen.key).ok_or_else(GatewayError::unavailable)?;
    let version = &sealed.key.current;
    let provider = sealed.key.provider;
    let custom_url = version.custom_url.as_deref();
    if custom_url.is_some_and(|url| !services.url_still_allowed(url, provider)) {
        return Err(GatewayError::url_refused());
    }
    let seat = Seat {
        owner: sealed.key.owner,
        key: sealed.key.id,
        version: version.version,
        provider,
        custom_url,
        settings: &version.settings,
    };
    let secret = custody::open(&services.keyring, owner_key, &sealed.sealed, &seat).map_err(|error| {
        tracing::error!(error = &error as &dyn std::error::Error, key = %sealed.key.id, "a provider key did not open");
        GatewayError::key_unusable(chosen.key)
    })?;
    let bearer = match services.bearer(chosen.key, &secret).await {
        Ok(bearer) => bearer,
        Err(error) => return Err(no_bearer(services, chosen.key, &row, &error)),
    };
    let credential = Credential {
        secret: &secret,
        custom_url,
        settings: &version.settings,
        origins: &services.options.origins,
        bearer: bearer.as_ref(),
    };
    let outgoing = providers::of(provider)
        .route(inbound, &credential)
        .map_err(|error| GatewayError::invalid(error.to_string()))?;
    let exchange = Exchange {
        services: Arc::clone(services),
        outbound: gateway.outbound.clone(),
        platform: Arc::clone(&standing.platform),
        key: chosen.key.clone(),
        endpoint,
        trust: Trust::of(custom_url, &services.options.urls),
        recorded_first: false,
        row,
        ticket,
    };
    Ok((Box::new(exchange), outgoing))
}

/// A service account that gets no token: nothing was sent to where the request would have gone.
fn no_bearer(services: &Services, key: &KeyView, row: &UsageRow, error: &ExchangeError) -> GatewayError {
    tracing::warn!(error = error as &dyn std::error::Error, key = %key.id, "no access token for a service account");
    let (verdict, answer) = match error {
        ExchangeError::Refused(_) => (Some(Verdict::Rejected), GatewayError::key_rejected(key)),
        ExchangeError::Send(error) => {
            // That it was not taken says nothing of the key.
            let verdict = (*error != SendError::NotTaken).then_some(Verdict::Unreachable);
            (verdict, GatewayError::no_bearer(*error, key.provider.label()))
        }
    };
    if let Some(verdict) = verdict {
        services.key_states.observe(key, verdict, began(row));
    }
    answer
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
