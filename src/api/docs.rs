//! The API's description: `OpenAPI` 3.1 for programs, and a page made from it for people.

use actix_web::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY};
use actix_web::{HttpRequest, HttpResponse, web};
use askama::Template;
use serde_json::Value;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{IntoParams, Modify, OpenApi, ToResponse};

use super::problem::{FieldProblem, Problem};
use super::{Api, features, generations, keys, questions, sessions, tenants, usage};

/// Whatever went wrong.
#[derive(ToResponse)]
#[response(description = "What went wrong", content_type = "application/problem+json")]
pub struct Failed(#[expect(dead_code, reason = "read by the derive alone")] Problem);

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "read by the derive alone")]
pub struct TenantHeader {
    /// The tenant's slug: with service tokens, which need it, and only with them.
    #[param(rename = "x-keyward-tenant", required = false, pattern = "^[a-z0-9]+(-[a-z0-9]+)*$")]
    tenant: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "read by the derive alone")]
pub struct IdempotencyHeader {
    /// Sent again with the same request within a day, it gives the first answer again.
    #[param(
        rename = "Idempotency-Key",
        required = false,
        min_length = 1,
        max_length = 255,
        pattern = "^[!-~]+$"
    )]
    key: Option<String>,
}

struct Tokens;

impl Modify for Tokens {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        for (name, what) in [
            (
                "token",
                "An access token of the tenant (`kwt_…`), or a service token (`kws_…`) with x-keyward-tenant.",
            ),
            ("service_token", "A service token (`kws_…`), made by a super admin."),
        ] {
            let mut scheme = Http::new(HttpAuthScheme::Bearer);
            scheme.description = Some(what.to_owned());
            components.add_security_scheme(name, SecurityScheme::Http(scheme));
        }
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Keyward",
        description = "Keys, features, generations, questions, usage, sessions and tenants. Every answer carries `ratelimit-limit`, `ratelimit-remaining` and `ratelimit-reset`: a token may send 600 requests a minute. Errors are problem details (RFC 9457). A key that was sent is never sent back.",
    ),
    tags(
        (name = "keys", description = "A tenant's provider keys"),
        (name = "features", description = "What a tenant may do with AI, and what keeps it from more"),
        (name = "generations", description = "What the community manager writes, and people approve"),
        (name = "questions", description = "What a bot could not answer"),
        (name = "usage", description = "What was used, and what it cost"),
        (name = "sessions", description = "A key and a model for many requests"),
        (name = "tenants", description = "For the operator's backend"),
    ),
    paths(
        keys::list, keys::create, keys::show, keys::remove, keys::rotate, keys::undo, keys::check,
        keys::make_default, keys::set_scope, features::list, generations::list, generations::create,
        generations::show, questions::list, questions::create, questions::show, usage::rows, usage::summary, sessions::create, sessions::show,
        sessions::end, tenants::list, tenants::create, tenants::show, tenants::claim_link,
    ),
    components(schemas(Problem, FieldProblem, keys::ProviderName, usage::Grouping, generations::GenerationKindName), responses(Failed)),
    modifiers(&Tokens),
)]
struct Description;

fn description(api: &Api) -> Value {
    let mut openapi = Description::openapi();
    openapi.servers = Some(vec![utoipa::openapi::Server::new(api.services.options.public_url.clone())]);
    serde_json::to_value(openapi).unwrap_or_default()
}

pub async fn openapi(api: web::Data<Api>, _: HttpRequest) -> HttpResponse {
    HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-cache")).json(description(&api))
}

#[derive(Template)]
#[template(path = "pages/api_docs.html")]
struct DocsPage {
    lead: String,
    groups: Vec<Group>,
    schemas: Vec<Schema>,
}

struct Group {
    name: String,
    description: String,
    operations: Vec<Operation>,
}

struct Operation {
    id: String,
    method: String,
    path: String,
    summary: String,
    scope: String,
    parameters: Vec<Property>,
    body: Option<String>,
    answers: Vec<(String, Option<String>)>,
}

struct Schema {
    name: String,
    description: String,
    properties: Vec<Property>,
}

struct Property {
    name: String,
    place: String,
    kind: String,
    required: bool,
    description: String,
}

pub async fn page(api: web::Data<Api>, _: HttpRequest) -> HttpResponse {
    let openapi = description(&api);
    let page = DocsPage {
        lead: text(&openapi["info"]["description"]),
        groups: list(&openapi["tags"]).map(|tag| group(&openapi, tag)).collect(),
        schemas: entries(&openapi["components"]["schemas"])
            .map(|(name, schema)| schema_of(name, schema))
            .collect(),
    };
    match page.render() {
        Ok(html) => HttpResponse::Ok()
            .insert_header((CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"))
            .insert_header(("x-content-type-options", "nosniff"))
            .insert_header(("referrer-policy", "no-referrer"))
            .content_type("text/html; charset=utf-8")
            .body(html),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the API's page could not be made");
            HttpResponse::InternalServerError().finish()
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().replace('`', "")
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn group(openapi: &Value, tag: &Value) -> Group {
    let name = text(&tag["name"]);
    let mut operations = Vec::new();
    for (path, methods) in entries(&openapi["paths"]) {
        for (method, operation) in entries(methods) {
            if list(&operation["tags"]).any(|tag| tag == name.as_str()) {
                operations.push(operation_of(path, method, operation));
            }
        }
    }
    Group { description: text(&tag["description"]), name, operations }
}

fn operation_of(path: &str, method: &str, operation: &Value) -> Operation {
    let words = [text(&operation["summary"]), text(&operation["description"])];
    let scopes = list(&operation["security"]).flat_map(entries).flat_map(|(_, scopes)| list(scopes));
    Operation {
        id: text(&operation["operationId"]),
        method: method.to_uppercase(),
        path: path.to_owned(),
        summary: words.into_iter().filter(|words| !words.is_empty()).collect::<Vec<_>>().join(" "),
        scope: scopes.map(text).collect::<Vec<_>>().join(", "),
        parameters: list(&operation["parameters"])
            .map(|parameter| Property {
                name: text(&parameter["name"]),
                place: text(&parameter["in"]),
                kind: kind_of(&parameter["schema"]),
                required: parameter["required"] == true,
                description: text(&parameter["description"]),
            })
            .collect(),
        body: schema_in(&operation["requestBody"]),
        answers: entries(&operation["responses"])
            .map(|(status, answer)| (status.clone(), schema_in(answer)))
            .filter(|(status, _)| status != "default")
            .collect(),
    }
}

/// The name of the schema that a body or an answer has.
fn schema_in(holder: &Value) -> Option<String> {
    let (_, content) = entries(&holder["content"]).next()?;
    Some(kind_of(&content["schema"]))
}

fn schema_of(name: &str, schema: &Value) -> Schema {
    // A flattened part stands beside the rest.
    let parts: Vec<&Value> = std::iter::once(schema).chain(list(&schema["allOf"])).collect();
    let required: Vec<&str> =
        parts.iter().flat_map(|part| list(&part["required"])).filter_map(Value::as_str).collect();
    let mut properties: Vec<Property> = parts
        .iter()
        .flat_map(|part| entries(&part["properties"]))
        .map(|(name, property)| Property {
            name: name.clone(),
            place: String::new(),
            kind: kind_of(property),
            required: required.contains(&name.as_str()),
            description: text(&property["description"]),
        })
        .collect();
    for part in list(&schema["allOf"]).filter(|part| part["$ref"].is_string()) {
        properties.push(Property {
            name: "and".to_owned(),
            place: String::new(),
            kind: kind_of(part),
            required: false,
            description: "All of its fields too.".to_owned(),
        });
    }
    Schema { name: name.to_owned(), description: text(&schema["description"]), properties }
}

fn kind_of(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        return reference.rsplit('/').next().unwrap_or_default().to_owned();
    }
    if let Some(one_of) = schema["oneOf"].as_array() {
        return one_of.iter().map(kind_of).collect::<Vec<_>>().join(" or ");
    }
    let kind = match &schema["type"] {
        Value::String(kind) => kind.clone(),
        Value::Array(kinds) => kinds.iter().map(text).collect::<Vec<_>>().join(" or "),
        _ => "any".to_owned(),
    };
    if kind.contains("array") { format!("list of {}", kind_of(&schema["items"])) } else { kind }
}
