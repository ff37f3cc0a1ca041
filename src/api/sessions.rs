//! `/api/v1/sessions`: what a session pins holds for every request that names it.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Api, Asked, read, write};
use crate::services::pinned_sessions::NewSession;
use crate::services::tokens::TokenScope;
use crate::storage::pinned_sessions::PinnedSession;

/// What to pin. Whatever is left out stays as each request has it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSession {
    /// The name of the key that requests use.
    #[serde(default)]
    #[schema(example = "production")]
    key_slug: Option<String>,
    #[serde(default)]
    #[schema(value_type = Option<super::keys::ProviderName>)]
    provider: Option<String>,
    /// Takes the place of the model that a request names.
    #[serde(default)]
    #[schema(example = "claude-haiku-4-5", min_length = 1, max_length = 256, pattern = "^[!-~]+$")]
    model: Option<String>,
    /// The feature of requests that name none.
    #[serde(default)]
    feature: Option<String>,
    /// Seconds until it ends: 60 to 2,592,000; a day where it is left out.
    #[serde(default)]
    #[schema(minimum = 60, maximum = 2_592_000, example = 3600)]
    expires_in: Option<i64>,
}

#[derive(Serialize, ToSchema)]
pub struct Session {
    /// Goes into the header `x-keyward-session`.
    #[schema(example = "ses_8sJ2m4")]
    id: String,
    key_slug: Option<String>,
    provider: Option<&'static str>,
    model: Option<String>,
    feature: Option<String>,
    created_at: String,
    expires_at: String,
}

impl Session {
    fn of(session: PinnedSession) -> Self {
        Self {
            id: session.id,
            key_slug: session.key_name,
            provider: session.provider.map(crate::domain::provider_key::Provider::as_str),
            model: session.model,
            feature: session.feature,
            created_at: session.created_at.rfc3339(),
            expires_at: session.expires_at.rfc3339(),
        }
    }
}

/// Makes a session. A key named on a request wins for that request alone, and changes nothing here.
#[utoipa::path(post,
    operation_id = "createSession", path = "/api/v1/sessions", tag = "sessions", security(("token" = ["gateway"])),
    params(super::docs::TenantHeader, super::docs::IdempotencyHeader), request_body = CreateSession,
    responses((status = 201, description = "It was made", body = Session), (status = "default", response = super::docs::Failed)))]
pub async fn create(api: web::Data<Api>, request: HttpRequest, payload: web::Payload) -> HttpResponse {
    write(api, request, payload, TokenScope::Gateway, async |asked, body| {
        let caller = asked.caller().await?;
        let form: CreateSession = read(&asked.request, body)?;
        let new = NewSession {
            key_slug: form.key_slug,
            provider: form.provider,
            model: form.model,
            feature: form.feature,
            expires_in: form.expires_in,
        };
        let made = asked.services().create_session(caller.tenant, &new).await?;
        let place = format!("/api/v1/sessions/{}", made.id);
        Ok(HttpResponse::Created().insert_header(("location", place)).json(Session::of(made)))
    })
    .await
}

/// Shows a session that is not over.
#[utoipa::path(get,
    operation_id = "getSession", path = "/api/v1/sessions/{id}", tag = "sessions", security(("token" = ["gateway"])),
    params(super::docs::TenantHeader, ("id" = String, Path, description = "The session's id")),
    responses((status = 200, description = "Here it is", body = Session), (status = "default", response = super::docs::Failed)))]
pub async fn show(api: web::Data<Api>, request: HttpRequest, id: web::Path<String>) -> HttpResponse {
    let asked = match Asked::by(api, request, TokenScope::Gateway).await {
        Ok(asked) => asked,
        Err(problem) => return problem.respond(),
    };
    let work = async {
        let caller = asked.caller().await?;
        Ok(HttpResponse::Ok().json(Session::of(asked.services().session(caller.tenant, &id).await?)))
    };
    asked.answer(work.await)
}

/// Ends a session at once.
#[utoipa::path(delete,
    operation_id = "endSession", path = "/api/v1/sessions/{id}", tag = "sessions", security(("token" = ["gateway"])),
    params(super::docs::TenantHeader, ("id" = String, Path, description = "The session's id")),
    responses((status = 204, description = "It has ended"), (status = "default", response = super::docs::Failed)))]
pub async fn end(api: web::Data<Api>, request: HttpRequest, id: web::Path<String>) -> HttpResponse {
    let asked = match Asked::by(api, request, TokenScope::Gateway).await {
        Ok(asked) => asked,
        Err(problem) => return problem.respond(),
    };
    let work = async {
        let caller = asked.caller().await?;
        asked.services().end_session(caller.tenant, &id).await?;
        Ok(HttpResponse::NoContent().finish())
    };
    asked.answer(work.await)
}
