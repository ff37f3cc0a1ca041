//! Refusals and failures, in the dialect's own shape with a stable code, so that official SDKs
//! raise their normal exceptions.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;

use crate::domain::billing::Shortage;
use crate::domain::clock::SECOND;
use crate::domain::gate::Gate;
use crate::domain::ids::RequestId;
use crate::domain::money::grouped;
use crate::domain::plan::TokenBudget;
use crate::domain::provider_key::KeyView;
use crate::domain::resolve::{Refusal, RefusalCode};
use crate::domain::usage::Dialect;
use crate::domain::usage::TokenUsage;
use crate::outbound::SendError;
use crate::providers::Endpoint;
use crate::services::features::way_out;
use crate::services::meter::NotRecorded;
use crate::services::overview::Standing;
use crate::services::tokens::BearerError;
use crate::services::{Options, ServiceError};
use crate::storage::StorageError;

#[derive(Debug)]
pub struct GatewayError {
    status: u16,
    code: &'static str,
    message: String,
    /// Seconds after which a retry may succeed.
    retry_after: Option<i64>,
    /// No retry will succeed, whatever the status says.
    lasting: bool,
    /// The provider had the request, and may bill it.
    begun: bool,
}

impl GatewayError {
    fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None, lasting: false, begun: false }
    }

    pub fn token_invalid(message: impl Into<String>) -> Self {
        Self::new(401, "keyward_token_invalid", message)
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "keyward_invalid_request", message)
    }

    pub fn no_such_path(method: &str) -> Self {
        Self::new(404, "keyward_invalid_request", format!("There is no {method} on this path."))
    }

    /// The key that was chosen may not be used for the model that stands in for none.
    pub fn model_out_of_scope(key: &str, model: &str) -> Self {
        let message =
            format!("The key {key} may not be used for the model {model}. Name another in the body.");
        Self::new(403, "keyward_gate_closed", message)
    }

    pub fn key_rejected(key: &KeyView) -> Self {
        let message = format!("{} rejected the key {}. Paste a new one.", key.provider.label(), key.name);
        Self::new(403, "keyward_key_rejected", message)
    }

    pub fn tenant_not_found(message: impl Into<String>) -> Self {
        Self::new(404, "keyward_tenant_not_found", message)
    }

    pub fn too_large(limit: usize) -> Self {
        Self::new(413, "keyward_too_large", format!("The body is larger than {} MiB.", limit / 1_024 / 1_024))
    }

    pub fn unavailable() -> Self {
        Self::new(503, "keyward_unavailable", "Keyward cannot serve this request now. Try again in a moment.")
    }

    pub fn upstream_unreachable(message: impl Into<String>) -> Self {
        Self::new(502, "keyward_upstream_unreachable", message)
    }

    /// The URL policy refuses where this key leads.
    pub fn url_refused() -> Self {
        let error = Self::upstream_unreachable("The custom URL of this key is not allowed.");
        Self { lasting: true, ..error }
    }

    /// The key does not open: its row was changed behind Keyward's back.
    pub fn key_unusable(key: &KeyView) -> Self {
        let message = format!("The key {} cannot be opened. Remove it and add it again.", key.name);
        Self { lasting: true, ..Self::new(503, "keyward_unavailable", message) }
    }

    /// What became of the call upstream.
    pub fn upstream(error: SendError, provider: &str) -> Self {
        match error {
            SendError::Timeout => {
                let message = format!("{provider} did not answer in time.");
                Self { begun: true, ..Self::new(504, "keyward_upstream_timeout", message) }
            }
            SendError::Unreachable => Self::upstream_unreachable(format!("{provider} could not be reached.")),
            SendError::NotTaken => {
                Self::upstream_unreachable(format!("{provider} did not take the request. Send it again."))
            }
            SendError::Refused => Self::url_refused(),
            SendError::Broken => {
                let message = format!("The answer of {provider} broke off.");
                Self { begun: true, ..Self::upstream_unreachable(message) }
            }
        }
    }

    /// The same of the exchange for an access token, before which nothing is sent.
    pub fn no_bearer(error: SendError, provider: &str) -> Self {
        Self { begun: false, ..Self::upstream(error, provider) }
    }

    /// An answer that no SDK could read.
    pub fn unreadable(provider: &str) -> Self {
        let message = format!("{provider} sent an answer that cannot be read.");
        Self { begun: true, ..Self::upstream_unreachable(message) }
    }

    /// An answer beyond the limit in bytes.
    pub fn too_long(provider: &str, limit: usize) -> Self {
        let message = format!("The answer of {provider} is longer than {} MiB.", limit / 1_024 / 1_024);
        Self { begun: true, ..Self::upstream_unreachable(message) }
    }

    /// A refusal by resolution: what is closed, and where to open it.
    pub fn refused(refusal: &Refusal, gates: &[Gate], standing: &Standing, options: &Options) -> Self {
        let (status, code) = match refusal.code {
            RefusalCode::FeatureUnknown => (400, "keyward_feature_unknown"),
            RefusalCode::GateClosed => (403, "keyward_gate_closed"),
            RefusalCode::KeyNotFound => (404, "keyward_key_not_found"),
            RefusalCode::ProviderMismatch => (400, "keyward_provider_mismatch"),
            RefusalCode::KeyRejected => (403, "keyward_key_rejected"),
            RefusalCode::Paused => (402, "keyward_paused"),
            RefusalCode::RateLimited => (429, "keyward_too_many_requests"),
            RefusalCode::Unavailable => (503, "keyward_unavailable"),
            RefusalCode::Short(shortage) => (402, code_of(shortage)),
        };
        let mut message = refusal.message.clone();
        if let Some(until) = refusal.until {
            message.push_str(" It ends at ");
            message.push_str(&until.rfc3339());
            message.push('.');
        }
        let opener = gates.iter().find_map(|gate| gate.closed.as_ref()).map(|closed| closed.opener);
        let slug = standing.tenant.tenant.slug.as_str();
        if let Some(way_out) = opener.and_then(|opener| way_out(opener, slug)) {
            message.push(' ');
            message.push_str(&way_out.sentence(&options.public_url));
        }
        let retry_after = (refusal.code == RefusalCode::RateLimited)
            .then(|| refusal.until.map_or(1, |until| until.since(standing.now) / SECOND + 1).max(1));
        Self { retry_after, ..Self::new(status, code, message) }
    }

    /// It may use more than one request of its feature has.
    pub fn over_budget(feature: &str, budget: TokenBudget, most: &TokenUsage) -> Self {
        Self::invalid(format!(
            "A request of {feature} has at most {} tokens in and {} out; this one may take {} in and {} out.",
            grouped(budget.input),
            grouped(budget.output),
            grouped(most.input),
            grouped(most.output)
        ))
    }

    /// Nobody knows what the model costs, so nothing can be kept back for it.
    pub fn unpriced(model: &str, from: &str) -> Self {
        let message =
            format!("The model {model} has no price, so it cannot be paid from {from}. Use another.");
        Self::new(403, "keyward_gate_closed", message)
    }

    fn short(shortage: Shortage) -> Self {
        let then = match shortage {
            Shortage::Credits => "Billing → Credits says how to get more; or use a key of your own.",
            Shortage::TenantBudget | Shortage::KeyBudget => "An admin can raise it on the Billing page.",
        };
        Self::new(402, code_of(shortage), format!("{} {then}", shortage.why()))
    }

    /// In a sentence or two, for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether there was nobody who took it.
    pub fn is_unreachable(&self) -> bool {
        matches!(self.code, "keyward_upstream_unreachable" | "keyward_upstream_timeout")
            && !self.begun
            && !self.lasting
    }

    /// Whether the same request may be sent again without being billed twice: a gate was closed, a limit
    /// reached, or the provider not there. What is wrong with the request itself stays wrong.
    pub fn can_be_sent_later(&self) -> bool {
        !self.begun && !self.lasting && self.code != "keyward_invalid_request"
    }

    /// The code for usage rows.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// The error as the dialect's clients expect it.
    pub fn body(&self, dialect: Dialect, id: RequestId) -> String {
        match dialect {
            Dialect::Anthropic => serde_json::json!({
                "type": "error",
                "error": {
                    "type": self.kind(),
                    "message": self.message,
                    "details": { "error_code": self.code },
                },
                "request_id": id,
            }),
            Dialect::Openai => serde_json::json!({
                "error": {
                    "message": self.message,
                    "type": self.kind(),
                    "param": null,
                    "code": self.code,
                },
            }),
            Dialect::Gemini => serde_json::json!({
                "error": {
                    "code": self.status,
                    "message": self.message,
                    "status": self.rpc_status(),
                    "details": [{
                        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                        "reason": self.code,
                        "domain": "keyward",
                        "metadata": { "request_id": id },
                    }],
                },
            }),
        }
        .to_string()
    }

    /// The error's type, which Anthropic and `OpenAI` name alike.
    fn kind(&self) -> &'static str {
        match self.status {
            400 => "invalid_request_error",
            401 => "authentication_error",
            402 => "billing_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            504 => "timeout_error",
            _ => "api_error",
        }
    }

    /// Google's name for a status (`google.rpc.Code`).
    fn rpc_status(&self) -> &'static str {
        match self.status {
            400 | 413 => "INVALID_ARGUMENT",
            401 => "UNAUTHENTICATED",
            402 | 429 => "RESOURCE_EXHAUSTED",
            403 => "PERMISSION_DENIED",
            404 => "NOT_FOUND",
            504 => "DEADLINE_EXCEEDED",
            _ => "UNAVAILABLE",
        }
    }

    pub fn respond(&self, dialect: Dialect, id: RequestId) -> HttpResponse {
        metrics::counter!("keyward_gateway_refusals", "code" => self.code).increment(1);
        let mut response = HttpResponse::build(
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        );
        let own = if dialect == Dialect::Anthropic { "request-id" } else { "x-request-id" };
        response
            .content_type("application/json")
            .insert_header(("x-keyward-request-id", id.to_string()))
            .insert_header((own, id.to_string()));
        match self.retry_after {
            Some(seconds) => {
                response.insert_header(("retry-after", seconds.to_string()));
            }
            None if self.status < 500 || self.lasting => {
                response.insert_header(("x-should-retry", "false"));
            }
            None => {}
        }
        response.body(self.body(dialect, id))
    }

    /// The last words of a stream that broke off, for clients of this endpoint. `whole` tells
    /// whether what was sent ends with a whole event; if it does not, only Anthropic's clients can
    /// be told anything, and the others notice that the connection breaks.
    pub fn last_words(
        &self,
        dialect: Dialect,
        endpoint: &Endpoint,
        whole: bool,
        id: RequestId,
    ) -> Option<String> {
        let body = self.body(dialect, id);
        match (dialect, endpoint) {
            // The blank line and the empty ping before it close whatever half of an event was
            // sent: clients skip pings unread.
            (Dialect::Anthropic, _) => Some(format!("\nevent: ping\n\nevent: error\ndata: {body}\n\n")),
            _ if !whole => None,
            (_, Endpoint::Responses) => Some(format!("event: error\ndata: {body}\n\n")),
            _ => Some(format!("data: {body}\n\n")),
        }
    }
}

fn code_of(shortage: Shortage) -> &'static str {
    match shortage {
        Shortage::Credits => "keyward_credits_exhausted",
        Shortage::TenantBudget | Shortage::KeyBudget => "keyward_budget_exceeded",
    }
}

impl From<BearerError> for GatewayError {
    fn from(error: BearerError) -> Self {
        match error {
            BearerError::Invalid => {
                Self::token_invalid("That access token is not valid. It may be mistyped, expired or revoked.")
            }
            BearerError::Scope(_) => Self::token_invalid("That access token may not use the gateway."),
            BearerError::NamesTenant => Self::invalid("x-keyward-tenant goes with service tokens only."),
            BearerError::NoTenant(slug) => Self::tenant_not_found(format!("There is no tenant {slug}.")),
            BearerError::Storage(error) => error.into(),
        }
    }
}

impl From<NotRecorded> for GatewayError {
    fn from(error: NotRecorded) -> Self {
        match error {
            NotRecorded::Away => Self::unavailable(),
            NotRecorded::Short(shortage) => Self::short(shortage),
        }
    }
}

impl From<StorageError> for GatewayError {
    fn from(error: StorageError) -> Self {
        tracing::error!(error = &error as &dyn std::error::Error, "the gateway could not read the database");
        Self::unavailable()
    }
}

impl From<ServiceError> for GatewayError {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::NotFound => Self::tenant_not_found("There is no such tenant."),
            error => {
                tracing::error!(error = &error as &dyn std::error::Error, "the gateway failed");
                Self::unavailable()
            }
        }
    }
}
