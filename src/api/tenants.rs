//! `/api/v1/tenants`: for the operator's backend, with a service token.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::keys::{SavedKey, provider_of, told_at, with_pasted_key};
use super::problem::Problem;
use super::{Api, Asked, read, write};
use crate::access::actor::Actor;
use crate::services::platform::NewTenant;
use crate::services::provider_keys::NewKey;
use crate::services::tokens::TokenScope;
use crate::storage::tenants::TenantRecord;

#[derive(Serialize, ToSchema)]
pub struct Tenant {
    #[schema(example = "northwind")]
    slug: String,
    name: String,
    /// The plan's slug.
    plan: String,
    /// `byok` or `managed`.
    #[schema(example = "managed")]
    usage_mode: &'static str,
    /// `active` or `suspended`.
    #[schema(example = "active")]
    state: &'static str,
    #[schema(example = "Europe/Berlin")]
    time_zone: String,
    created_at: String,
}

impl Tenant {
    fn of(record: &TenantRecord, plan: &str) -> Self {
        Self {
            slug: record.tenant.slug.to_string(),
            name: record.tenant.name.clone(),
            plan: plan.to_owned(),
            usage_mode: record.policy.mode.as_str(),
            state: record.tenant.state.as_str(),
            time_zone: record.tenant.time_zone.clone(),
            created_at: record.tenant.created_at.rfc3339(),
        }
    }
}

#[derive(Serialize, ToSchema)]
pub struct Tenants {
    /// By name, at most 200.
    tenants: Vec<Tenant>,
}

/// A new tenant. Its first admin is made by `keyward user create` or on the platform's pages.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateTenant {
    /// Lower-case letters, digits and hyphens.
    #[schema(example = "northwind", pattern = "^[a-z0-9]+(-[a-z0-9]+)*$", max_length = 40)]
    slug: String,
    #[schema(
        example = "Northwind Support",
        min_length = 1,
        max_length = 80,
        pattern = r"^[^\x00-\x1f\x7f]*$"
    )]
    name: String,
    /// The plan's slug.
    #[schema(example = "pro")]
    plan: String,
    /// IANA; UTC where it is left out.
    #[serde(default)]
    #[schema(example = "Europe/Berlin")]
    time_zone: Option<String>,
    /// The tenant's own credential. With it, the tenant begins in the mode `byok`.
    #[serde(default)]
    model: Option<Model>,
}

with_pasted_key! {
    /// The credential that a tenant begins with.
    pub struct Model {
        #[schema(value_type = super::keys::ProviderName)]
        provider: String,
        /// The key's name; `production` where it is left out.
        #[serde(default)]
        key_slug: Option<String>,
    }
}

#[derive(Serialize, ToSchema)]
pub struct CreatedTenant {
    tenant: Tenant,
    /// The key of `model`, where one was given.
    key: Option<SavedKey>,
}

/// Lists tenants.
#[utoipa::path(get,
    operation_id = "listTenants", path = "/api/v1/tenants", tag = "tenants", security(("service_token" = ["keys:read"])),
    responses((status = 200, description = "Here it is", body = Tenants), (status = "default", response = super::docs::Failed)))]
pub async fn list(api: web::Data<Api>, request: HttpRequest) -> HttpResponse {
    let asked = match Asked::by(api, request, TokenScope::KeysRead).await {
        Ok(asked) => asked,
        Err(problem) => return problem.respond(),
    };
    let work = async {
        let actor = operator(&asked)?;
        let (records, plans) = asked.services().list_tenants(&actor, "").await?;
        let tenants = records.iter().map(|record| Tenant::of(record, plan_of(record, &plans))).collect();
        Ok(HttpResponse::Ok().json(Tenants { tenants }))
    };
    asked.answer(work.await)
}

/// Shows one tenant.
#[utoipa::path(get,
    operation_id = "getTenant", path = "/api/v1/tenants/{slug}", tag = "tenants", security(("service_token" = ["keys:read"])),
    params(("slug" = String, Path, description = "The tenant's slug")),
    responses((status = 200, description = "Here it is", body = Tenant), (status = "default", response = super::docs::Failed)))]
pub async fn show(api: web::Data<Api>, request: HttpRequest, slug: web::Path<String>) -> HttpResponse {
    let asked = match Asked::by(api, request, TokenScope::KeysRead).await {
        Ok(asked) => asked,
        Err(problem) => return problem.respond(),
    };
    let work = async {
        let actor = operator(&asked)?;
        Ok(HttpResponse::Ok().json(find(&asked, &actor, &slug).await?))
    };
    asked.answer(work.await)
}

/// Makes a tenant, and with `model` its first key. A key that the provider does not take makes no tenant.
#[utoipa::path(post,
    operation_id = "createTenant", path = "/api/v1/tenants", tag = "tenants", security(("service_token" = ["keys:write"])),
    params(super::docs::IdempotencyHeader), request_body = CreateTenant,
    responses((status = 201, description = "It was made", body = CreatedTenant), (status = "default", response = super::docs::Failed)))]
pub async fn create(api: web::Data<Api>, request: HttpRequest, payload: web::Payload) -> HttpResponse {
    write(api, request, payload, TokenScope::KeysWrite, async |asked, body| {
        let actor = operator(asked)?;
        let form: CreateTenant = read(&asked.request, body)?;
        make(asked, &actor, form).await
    })
    .await
}

#[derive(Serialize, ToSchema)]
pub struct ClaimLink {
    /// Opened once, it makes whoever opens it the tenant's first admin.
    #[schema(example = "https://keys.example.com/claim/4GZ…")]
    url: String,
    /// RFC 3339.
    expires_at: String,
}

/// Makes a link by which a tenant without an admin is claimed. It replaces the one before, and is told only in this
/// answer.
#[utoipa::path(post,
    operation_id = "makeClaimLink", path = "/api/v1/tenants/{slug}/claim-link", tag = "tenants", security(("service_token" = ["keys:write"])),
    params(("slug" = String, Path, description = "The tenant's slug")),
    responses((status = 201, description = "It was made", body = ClaimLink), (status = "default", response = super::docs::Failed)))]
pub async fn claim_link(api: web::Data<Api>, request: HttpRequest, slug: web::Path<String>) -> HttpResponse {
    let asked = match Asked::by(api, request, TokenScope::KeysWrite).await {
        Ok(asked) => asked,
        Err(problem) => return problem.respond(),
    };
    let work = async {
        let actor = operator(&asked)?;
        let (url, expires_at) = asked.services().make_claim_link(&actor, &slug).await?;
        Ok(HttpResponse::Created().json(ClaimLink { url, expires_at: expires_at.rfc3339() }))
    };
    asked.answer(work.await)
}

async fn make(asked: &Asked, actor: &Actor, form: CreateTenant) -> Result<HttpResponse, Problem> {
    let place = form.model.as_ref().map_or("", |model| model.pasted().place());
    let first_key = form.model.map(first_key).transpose().map_err(in_model)?;
    let new = NewTenant {
        name: form.name,
        slug: form.slug,
        plan: form.plan,
        time_zone: form.time_zone.unwrap_or_else(|| "UTC".to_owned()),
        admin_email: None,
        first_key,
    };
    let made = asked.services().create_tenant(actor, new).await;
    let made = made.map_err(|error| in_model(told_at(place, error)))?;
    let tenant = find(asked, actor, made.slug.as_str()).await?;
    let place = format!("/api/v1/tenants/{}", made.slug);
    let key = made.key.as_ref().map(SavedKey::of);
    Ok(HttpResponse::Created().insert_header(("location", place)).json(CreatedTenant { tenant, key }))
}

fn first_key(model: Model) -> Result<NewKey, Problem> {
    Ok(NewKey {
        provider: provider_of(&model.provider)?,
        secret: model.pasted().secret()?,
        settings: model.pasted().settings(),
        name: model.key_slug.unwrap_or_else(|| "production".to_owned()),
        label: String::new(),
        custom_url: model.base_url.unwrap_or_default(),
        switch_mode: true,
    })
}

/// Names the fields of `model` by their place.
fn in_model(problem: Problem) -> Problem {
    problem.with_names(|field| match field {
        "slug" | "name" | "plan" | "time_zone" | "" => field.to_owned(),
        "key_name" => "model.key_slug".to_owned(),
        field => format!("model.{field}"),
    })
}

/// Only service tokens, which a super admin made, act for the platform.
fn operator(asked: &Asked) -> Result<Actor, Problem> {
    if asked.bearer.token.tenant_id.is_some() {
        return Err(Problem::forbidden("Tenants are for service tokens."));
    }
    if asked.bearer.tenant.is_some() {
        return Err(Problem::bad_request(
            "Leave x-keyward-tenant out here: the path or the body names tenants.",
        ));
    }
    Ok(asked.actor(None))
}

async fn find(asked: &Asked, actor: &Actor, slug: &str) -> Result<Tenant, Problem> {
    let (records, plans) = asked.services().list_tenants(actor, slug).await?;
    let record = records.iter().find(|record| record.tenant.slug.as_str() == slug);
    let record = record.ok_or_else(|| Problem::not_found(format!("There is no tenant {slug}.")))?;
    Ok(Tenant::of(record, plan_of(record, &plans)))
}

fn plan_of<'a>(record: &TenantRecord, plans: &'a [crate::domain::plan::Plan]) -> &'a str {
    plans.iter().find(|plan| plan.id == record.tenant.plan_id).map_or("", |plan| plan.slug.as_str())
}
