//! Errors of the API: RFC 9457 problem details with a stable code.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::Limits;
use crate::services::tokens::BearerError;
use crate::services::{Problems, ServiceError};
use crate::storage::StorageError;

/// What went wrong, as `application/problem+json`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// Names the kind of problem; the same as `code`, as a URI.
    #[serde(rename = "type")]
    #[schema(example = "urn:keyward:invalid")]
    kind: &'static str,
    /// In few words, the same for every problem of this kind.
    #[schema(example = "The request is not valid")]
    title: &'static str,
    #[schema(example = 422, minimum = 400, maximum = 599)]
    status: u16,
    /// What is wrong with this request, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// Stable, for programs.
    #[schema(example = "invalid")]
    code: &'static str,
    /// Which fields are wrong, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldProblem>,
    /// Seconds after which the request may be sent again.
    #[serde(skip)]
    retry_after: Option<u64>,
    /// The policy refused it: that goes on the record.
    #[serde(skip)]
    pub denied: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct FieldProblem {
    /// The field's name; empty for the request as a whole.
    field: String,
    detail: String,
}

impl Problem {
    fn new(status: u16, kind: &'static str, title: &'static str) -> Self {
        let code = kind.strip_prefix("urn:keyward:").unwrap_or(kind);
        Self { kind, title, status, detail: None, code, errors: Vec::new(), retry_after: None, denied: false }
    }

    fn because(self, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }

    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(400, "urn:keyward:bad_request", "The request cannot be read").because(detail)
    }

    pub fn unauthenticated(detail: impl Into<String>) -> Self {
        Self::new(401, "urn:keyward:token_invalid", "The access token does not do").because(detail)
    }

    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(403, "urn:keyward:forbidden", "That is not permitted").because(detail)
    }

    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(404, "urn:keyward:not_found", "There is no such thing").because(detail)
    }

    pub fn method_not_allowed() -> Self {
        Self::new(405, "urn:keyward:method_not_allowed", "That method is not for this path")
    }

    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(409, "urn:keyward:conflict", "Something else was first").because(detail)
    }

    pub fn too_large() -> Self {
        Self::new(413, "urn:keyward:too_large", "The body is too large")
    }

    pub fn unsupported_media_type() -> Self {
        Self::new(415, "urn:keyward:unsupported_media_type", "Send the body as application/json")
    }

    pub fn reused_idempotency_key() -> Self {
        Self::new(
            422,
            "urn:keyward:idempotency_key_reused",
            "That Idempotency-Key was used for another request",
        )
    }

    pub fn too_many_requests(seconds: u64) -> Self {
        let problem = Self::new(429, "urn:keyward:too_many_requests", "Too many requests with this token");
        Self { retry_after: Some(seconds), ..problem }
    }

    pub fn unavailable() -> Self {
        let problem = Self::new(503, "urn:keyward:unavailable", "Keyward cannot do that now");
        problem.because("Try again in a moment.")
    }

    fn invalid(problems: Problems) -> Self {
        let errors = problems.fields.into_iter();
        Self {
            detail: problems.summary,
            errors: errors.map(|(field, detail)| FieldProblem { field: named(field), detail }).collect(),
            ..Self::new(422, "urn:keyward:invalid", "The request is not valid")
        }
    }

    /// Calls the fields by other names.
    pub fn with_names(mut self, name: impl Fn(&str) -> String) -> Self {
        for error in &mut self.errors {
            error.field = name(&error.field);
        }
        self
    }

    pub fn respond(&self) -> HttpResponse {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = HttpResponse::build(status);
        if let Some(seconds) = self.retry_after {
            response.insert_header(("retry-after", seconds));
        }
        if self.status == 401 {
            response.insert_header(("www-authenticate", "Bearer"));
        }
        let body = serde_json::to_string(self).unwrap_or_default();
        let mut response = response.content_type("application/problem+json").body(body);
        if let Some(seconds) = self.retry_after {
            Limits { remaining: 0, reset: seconds }.put(&mut response);
        }
        response
    }
}

/// What the API calls a field of the console's forms.
fn named(field: &str) -> String {
    if field == "custom_url" { "base_url".to_owned() } else { field.to_owned() }
}

impl From<StorageError> for Problem {
    fn from(error: StorageError) -> Self {
        tracing::error!(error = &error as &dyn std::error::Error, "the API could not use the database");
        Self::unavailable()
    }
}

impl From<ServiceError> for Problem {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::NotFound => Self::not_found("There is none of that name or id here."),
            ServiceError::Denied | ServiceError::Confirm => {
                let problem =
                    Self::forbidden("This token may not do that: see who may change provider keys.");
                Self { denied: true, ..problem }
            }
            ServiceError::Invalid(problems) => Self::invalid(problems),
            ServiceError::Conflict(message) => Self::conflict(message),
            error => {
                tracing::error!(error = &error as &dyn std::error::Error, "the API failed");
                Self::unavailable()
            }
        }
    }
}

impl From<BearerError> for Problem {
    fn from(error: BearerError) -> Self {
        match error {
            BearerError::Invalid => Self::unauthenticated(
                "That access token is not valid. It may be mistyped, expired or revoked.",
            ),
            BearerError::Scope(scope) => {
                Self::forbidden(format!("This token lacks the scope {scope}. Make another with it."))
            }
            BearerError::NamesTenant => Self::forbidden("x-keyward-tenant goes with service tokens only."),
            BearerError::NoTenant(slug) => Self::not_found(format!("There is no tenant {slug}.")),
            BearerError::Storage(error) => error.into(),
        }
    }
}
