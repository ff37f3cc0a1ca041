//! `/api/v1/keys`: a tenant's provider keys.

use std::collections::{BTreeMap, BTreeSet};

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::problem::Problem;
use super::{Api, Asked, read, write};
use crate::crypto::secret::Secret;
use crate::domain::clock::Moment;
use crate::domain::provider_key::{KeyScope, KeySettings, Provider, ProviderKey};
use crate::services::pasted::TypedKey;
use crate::services::provider_keys::{NewKey, Saved, short};
use crate::services::tokens::TokenScope;
use crate::services::{Problems, ServiceError};

/// A provider key: everything that is known of it but the key itself.
#[derive(Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "the names are those of the wire")]
pub struct Key {
    /// What requests name it by.
    #[schema(example = "production")]
    key_name: String,
    label: Option<String>,
    #[schema(example = "anthropic")]
    provider: &'static str,
    /// Used by requests to this provider that name no key.
    is_default: bool,
    /// `valid`, `rejected`, `out_of_credit`, `spend_limit`, `rate_limited`, `unreachable` or `disabled`.
    #[schema(example = "valid")]
    state: &'static str,
    /// Since when it is in this state, RFC 3339.
    #[schema(example = "2026-11-21T09:30:00Z")]
    state_since: String,
    /// When a limit ends, where that is known.
    state_until: Option<String>,
    /// The beginning that its kind has, and its last four characters.
    #[schema(example = "sk-ant-api03-…7Qx4")]
    hint: String,
    /// Twelve hexadecimal digits of a keyed hash: the same key in the same tenant has the same.
    #[schema(example = "3f9a7c21d5e0")]
    fingerprint: String,
    version: i32,
    /// The canonical URL that its requests go to, where that is not the provider's own.
    base_url: Option<String>,
    /// What its provider asks for beside, such as `location` or `api_version`.
    settings: BTreeMap<String, String>,
    scope: Scope,
    created_at: String,
    created_by: String,
    last_used_at: Option<String>,
    last_checked_at: Option<String>,
}

/// What a key may be used for. `null` means everything.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// Slugs of features.
    #[serde(default)]
    features: Option<BTreeSet<String>>,
    /// Names of models; dated snapshots count as their model.
    #[serde(default)]
    models: Option<BTreeSet<String>>,
}

impl Key {
    fn of(key: &ProviderKey, now: Moment) -> Self {
        let current = &key.current;
        Self {
            key_name: key.name.to_string(),
            label: key.label.clone(),
            provider: key.provider.as_str(),
            is_default: key.is_default,
            state: key.state_at(now).as_str(),
            state_since: current.status.since.rfc3339(),
            state_until: current.status.until.map(Moment::rfc3339),
            hint: current.hint.clone(),
            fingerprint: short(&current.fingerprint).to_owned(),
            version: current.version,
            base_url: current.custom_url.clone(),
            settings: current.settings.0.clone(),
            scope: Scope { features: key.scope.features.clone(), models: key.scope.models.clone() },
            created_at: key.created_at.rfc3339(),
            created_by: key.created_by_name.clone(),
            last_used_at: key.last_used_at.map(Moment::rfc3339),
            last_checked_at: current.checked_at.map(Moment::rfc3339),
        }
    }
}

/// Where a key belongs.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "stands for the word in the description")]
pub enum ProviderName {
    Anthropic,
    Openai,
    Google,
    Vertex,
    Azure,
    Custom,
}

#[derive(Serialize, ToSchema)]
pub struct Keys {
    keys: Vec<Key>,
}

/// Declares a body that holds a pasted key beside other fields. A flattened field would do the same,
/// but could not refuse unknown ones, and would copy the key about.
macro_rules! with_pasted_key {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$meta])*
        #[derive(serde::Deserialize, utoipa::ToSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $kind,)*
            /// The key; or for Vertex AI `credentials`.
            #[serde(default)]
            #[schema(value_type = Option<String>, format = Password, write_only, example = "sk-ant-api03-sandbox-ok-0001-AAAA")]
            pub api_key: Option<crate::crypto::secret::Secret>,
            /// A service account's key file, as an object.
            #[serde(default)]
            #[schema(value_type = Option<Object>, write_only)]
            pub credentials: Option<serde_json::Map<String, serde_json::Value>>,
            /// Where its requests go: needed for `azure` and `custom`.
            #[serde(default)]
            pub base_url: Option<String>,
            /// Where Vertex AI serves, such as `global` or `eu`.
            #[serde(default)]
            pub location: Option<String>,
            /// For classic deployments of Azure `OpenAI`.
            #[serde(default)]
            pub api_version: Option<String>,
            /// For `custom`: ask streams for their usage.
            #[serde(default)]
            pub stream_usage: Option<bool>,
        }

        impl $name {
            /// The pasted key alone.
            pub fn pasted(&self) -> $crate::api::keys::PastedKey<'_> {
                $crate::api::keys::PastedKey {
                    api_key: self.api_key.as_ref(),
                    credentials: self.credentials.as_ref(),
                    location: self.location.as_deref(),
                    api_version: self.api_version.as_deref(),
                    stream_usage: self.stream_usage,
                }
            }
        }
    };
}
pub(super) use with_pasted_key;

with_pasted_key! {
    /// A key as it is pasted. URL and settings that are left out stay as they were; an empty URL is
    /// the provider's own.
    pub struct RotateKey {}
}

with_pasted_key! {
    /// A new key.
    pub struct CreateKey {
        /// What requests name it by: lower-case letters, digits and hyphens.
        #[schema(example = "production", pattern = "^[a-z0-9]+(-[a-z0-9]+)*$", max_length = 40)]
        key_name: String,
        #[schema(value_type = ProviderName)]
        provider: String,
        #[serde(default)]
        #[schema(max_length = 80, pattern = r"^[^\x00-\x1f\x7f]*$")]
        label: Option<String>,
    }
}

const API_KEY: &str = "api_key";

/// A problem of a service, with what is wrong with the key told at the field that it came in.
pub fn told_at(place: &str, error: ServiceError) -> Problem {
    Problem::from(error).with_names(|field| if field == API_KEY { place } else { field }.to_owned())
}

/// A pasted key, whatever body it came in.
#[derive(Clone, Copy)]
pub struct PastedKey<'a> {
    pub api_key: Option<&'a Secret>,
    pub credentials: Option<&'a serde_json::Map<String, serde_json::Value>>,
    pub location: Option<&'a str>,
    pub api_version: Option<&'a str>,
    pub stream_usage: Option<bool>,
}

impl PastedKey<'_> {
    /// The secret, however it was given.
    ///
    /// # Errors
    /// When it was given twice, or not at all.
    pub fn secret(&self) -> Result<Secret, Problem> {
        match (self.api_key, self.credentials) {
            (Some(_), Some(_)) => {
                let both = Problems::field("credentials", "Give api_key or credentials, not both.");
                Err(ServiceError::Invalid(both).into())
            }
            (Some(key), None) => Ok(key.clone()),
            (None, Some(account)) => Ok(Secret::new(serde_json::to_string(account).unwrap_or_default())),
            (None, None) => {
                let none = Problems::field("api_key", "Give api_key, or credentials for Vertex AI.");
                Err(ServiceError::Invalid(none).into())
            }
        }
    }

    /// The field that the key came in: what is wrong with the key is told there.
    pub fn place(&self) -> &'static str {
        if self.credentials.is_some() { "credentials" } else { API_KEY }
    }

    pub fn settings(&self) -> KeySettings {
        self.settings_over(KeySettings::default())
    }

    /// What is left out stays as it was.
    fn settings_over(&self, mut before: KeySettings) -> KeySettings {
        if self.stream_usage == Some(false) {
            before.0.remove(crate::providers::STREAM_USAGE);
        }
        let stream_usage = self.stream_usage.filter(|yes| *yes).map(|_| "yes".to_owned());
        let all = [
            (crate::providers::LOCATION, self.location.map(str::to_owned)),
            (crate::providers::API_VERSION, self.api_version.map(str::to_owned)),
            (crate::providers::STREAM_USAGE, stream_usage),
        ];
        before.0.extend(all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        before
    }
}

/// What became of a key that was saved.
#[derive(Serialize, ToSchema)]
pub struct SavedKey {
    #[schema(example = "production")]
    key_name: String,
    version: i32,
    /// It works, or is at a limit. A key that the provider rejects is not saved.
    #[schema(example = "valid")]
    state: &'static str,
    /// It stays disabled: no request uses it.
    disabled: bool,
}

impl SavedKey {
    pub fn of(saved: &Saved) -> Self {
        Self {
            key_name: saved.name.to_string(),
            version: saved.version,
            state: saved.state.as_str(),
            disabled: saved.disabled,
        }
    }
}

pub fn provider_of(word: &str) -> Result<Provider, Problem> {
    Provider::parse(word).ok_or_else(|| {
        let known: Vec<&str> = Provider::ALL.iter().map(|provider| provider.as_str()).collect();
        let told = Problems::field("provider", format!("Known providers are {}.", known.join(", ")));
        ServiceError::Invalid(told).into()
    })
}

/// Lists the tenant's keys: defaults first, then by name.
#[utoipa::path(get,
    operation_id = "listKeys", path = "/api/v1/keys", tag = "keys", security(("token" = ["keys:read"])),
    params(super::docs::TenantHeader),
    responses((status = 200, description = "Here it is", body = Keys), (status = "default", response = super::docs::Failed)))]
pub async fn list(api: web::Data<Api>, request: HttpRequest) -> HttpResponse {
    let asked = match Asked::by(api, request, TokenScope::KeysRead).await {
        Ok(asked) => asked,
        Err(problem) => return problem.respond(),
    };
    let work = async {
        let caller = asked.caller().await?;
        let now = asked.services().clock.now();
        let found = asked.services().keys(caller.holder).await?;
        Ok(HttpResponse::Ok().json(Keys { keys: found.iter().map(|key| Key::of(key, now)).collect() }))
    };
    asked.answer(work.await)
}

/// Shows one key.
#[utoipa::path(get,
    operation_id = "getKey", path = "/api/v1/keys/{name}", tag = "keys", security(("token" = ["keys:read"])),
    params(super::docs::TenantHeader, ("name" = String, Path, description = "The key's name")),
    responses((status = 200, description = "Here it is", body = Key), (status = "default", response = super::docs::Failed)))]
pub async fn show(api: web::Data<Api>, request: HttpRequest, name: web::Path<String>) -> HttpResponse {
    let asked = match Asked::by(api, request, TokenScope::KeysRead).await {
        Ok(asked) => asked,
        Err(problem) => return problem.respond(),
    };
    let work = async {
        let caller = asked.caller().await?;
        let key = find(&asked, &caller.holder, &name).await?;
        Ok(HttpResponse::Ok().json(Key::of(&key, asked.services().clock.now())))
    };
    asked.answer(work.await)
}

async fn find(
    asked: &Asked,
    holder: &crate::services::provider_keys::Holder,
    name: &str,
) -> Result<ProviderKey, Problem> {
    let found = asked.services().keys(*holder).await?;
    let key = found.into_iter().find(|key| key.name.as_str() == name);
    key.ok_or_else(|| Problem::not_found(format!("There is no key named {name}.")))
}

/// Adds a key after a live check. One that the provider rejects or that cannot be reached is not stored.
#[utoipa::path(post,
    operation_id = "createKey", path = "/api/v1/keys", tag = "keys", security(("token" = ["keys:write"])),
    params(super::docs::TenantHeader, super::docs::IdempotencyHeader), request_body = CreateKey,
    responses((status = 201, description = "It was made", body = SavedKey), (status = "default", response = super::docs::Failed)))]
pub async fn create(api: web::Data<Api>, request: HttpRequest, payload: web::Payload) -> HttpResponse {
    write(api, request, payload, TokenScope::KeysWrite, async move |asked, body| {
        let caller = asked.caller().await?;
        let form: CreateKey = read(&asked.request, body)?;
        let place = form.pasted().place();
        let new = NewKey {
            provider: provider_of(&form.provider)?,
            secret: form.pasted().secret()?,
            settings: form.pasted().settings(),
            custom_url: form.base_url.unwrap_or_default(),
            name: form.key_name,
            label: form.label.unwrap_or_default(),
            switch_mode: false,
        };
        let saved = asked.services().add_key(&caller.actor, caller.holder, new).await;
        let saved = saved.map_err(|error| told_at(place, error))?;
        let place = format!("/api/v1/keys/{}", saved.name);
        Ok(HttpResponse::Created().insert_header(("location", place)).json(SavedKey::of(&saved)))
    })
    .await
}

/// Replaces a key by a new version after a live check. The next request uses it; the old one can be
/// brought back for 24 hours.
#[utoipa::path(post,
    operation_id = "rotateKey", path = "/api/v1/keys/{name}/rotate", tag = "keys", security(("token" = ["keys:write"])),
    params(super::docs::TenantHeader, super::docs::IdempotencyHeader, ("name" = String, Path, description = "The key's name")),
    request_body = RotateKey,
    responses((status = 200, description = "Here it is", body = SavedKey), (status = "default", response = super::docs::Failed)))]
pub async fn rotate(
    api: web::Data<Api>,
    request: HttpRequest,
    name: web::Path<String>,
    payload: web::Payload,
) -> HttpResponse {
    write(api, request, payload, TokenScope::KeysWrite, async move |asked, body| {
        let caller = asked.caller().await?;
        let form: RotateKey = read(&asked.request, body)?;
        let secret = form.pasted().secret()?;
        let known = asked.services().keys(caller.holder).await?;
        let current = known.into_iter().find(|key| key.name.as_str() == *name).map(|key| key.current);
        let current = current.ok_or(ServiceError::NotFound)?;
        let settings = form.pasted().settings_over(current.settings);
        let custom_url = form.base_url.clone().or(current.custom_url).unwrap_or_default();
        let typed = TypedKey { secret: &secret, custom_url: &custom_url, settings: &settings };
        let saved = asked.services().rotate_key(&caller.actor, caller.holder, &name, &typed).await;
        let saved = saved.map_err(|error| told_at(form.pasted().place(), error))?;
        Ok(HttpResponse::Ok().json(SavedKey::of(&saved)))
    })
    .await
}

/// Brings the version that was replaced last back, after a live check.
#[utoipa::path(post,
    operation_id = "undoRotation", path = "/api/v1/keys/{name}/undo", tag = "keys", security(("token" = ["keys:write"])),
    params(super::docs::TenantHeader, super::docs::IdempotencyHeader, ("name" = String, Path, description = "The key's name")),
    responses((status = 200, description = "Here it is", body = SavedKey), (status = "default", response = super::docs::Failed)))]
pub async fn undo(
    api: web::Data<Api>,
    request: HttpRequest,
    name: web::Path<String>,
    payload: web::Payload,
) -> HttpResponse {
    write(api, request, payload, TokenScope::KeysWrite, async move |asked, _| {
        let caller = asked.caller().await?;
        let saved = asked.services().undo_rotation(&caller.actor, caller.holder, &name).await?;
        Ok(HttpResponse::Ok().json(SavedKey::of(&saved)))
    })
    .await
}

/// Asks the provider about a key now.
#[utoipa::path(post,
    operation_id = "checkKey", path = "/api/v1/keys/{name}/check", tag = "keys", security(("token" = ["keys:write"])),
    params(super::docs::TenantHeader, super::docs::IdempotencyHeader, ("name" = String, Path, description = "The key's name")),
    responses((status = 200, description = "Here it is", body = Key), (status = "default", response = super::docs::Failed)))]
pub async fn check(
    api: web::Data<Api>,
    request: HttpRequest,
    name: web::Path<String>,
    payload: web::Payload,
) -> HttpResponse {
    write(api, request, payload, TokenScope::KeysWrite, async move |asked, _| {
        let caller = asked.caller().await?;
        asked.services().check_key(&caller.actor, caller.holder, &name).await?;
        let key = find(asked, &caller.holder, &name).await?;
        Ok(HttpResponse::Ok().json(Key::of(&key, asked.services().clock.now())))
    })
    .await
}

/// Makes a key the one that requests to its provider use which name none.
#[utoipa::path(post,
    operation_id = "makeKeyDefault", path = "/api/v1/keys/{name}/default", tag = "keys", security(("token" = ["keys:write"])),
    params(super::docs::TenantHeader, super::docs::IdempotencyHeader, ("name" = String, Path, description = "The key's name")),
    responses((status = 200, description = "Here it is", body = Key), (status = "default", response = super::docs::Failed)))]
pub async fn make_default(
    api: web::Data<Api>,
    request: HttpRequest,
    name: web::Path<String>,
    payload: web::Payload,
) -> HttpResponse {
    write(api, request, payload, TokenScope::KeysWrite, async move |asked, _| {
        let caller = asked.caller().await?;
        asked.services().set_default_key(&caller.actor, caller.holder, &name).await?;
        let key = find(asked, &caller.holder, &name).await?;
        Ok(HttpResponse::Ok().json(Key::of(&key, asked.services().clock.now())))
    })
    .await
}

/// Sets what a key may be used for. Requests outside of it are refused; nothing stands in.
#[utoipa::path(post,
    operation_id = "setKeyScope", path = "/api/v1/keys/{name}/scope", tag = "keys", security(("token" = ["keys:write"])),
    params(super::docs::TenantHeader, super::docs::IdempotencyHeader, ("name" = String, Path, description = "The key's name")),
    request_body = Scope,
    responses((status = 200, description = "Here it is", body = Key), (status = "default", response = super::docs::Failed)))]
pub async fn set_scope(
    api: web::Data<Api>,
    request: HttpRequest,
    name: web::Path<String>,
    payload: web::Payload,
) -> HttpResponse {
    write(api, request, payload, TokenScope::KeysWrite, async move |asked, body| {
        let caller = asked.caller().await?;
        let form: Scope = read(&asked.request, body)?;
        let scope = KeyScope { features: form.features, models: form.models };
        asked.services().scope_key(&caller.actor, caller.holder, &name, scope).await?;
        let key = find(asked, &caller.holder, &name).await?;
        Ok(HttpResponse::Ok().json(Key::of(&key, asked.services().clock.now())))
    })
    .await
}

/// Removes a key for good. Its sealed secrets are deleted at once.
#[utoipa::path(delete,
    operation_id = "removeKey", path = "/api/v1/keys/{name}", tag = "keys", security(("token" = ["keys:write"])),
    params(super::docs::TenantHeader, ("name" = String, Path, description = "The key's name")),
    responses((status = 204, description = "It is gone"), (status = "default", response = super::docs::Failed)))]
pub async fn remove(
    api: web::Data<Api>,
    request: HttpRequest,
    name: web::Path<String>,
    payload: web::Payload,
) -> HttpResponse {
    write(api, request, payload, TokenScope::KeysWrite, async move |asked, _| {
        let caller = asked.caller().await?;
        // The name in the path is what a person would type to confirm.
        asked.services().remove_key(&caller.actor, caller.holder, &name, &name).await?;
        Ok(HttpResponse::NoContent().finish())
    })
    .await
}
