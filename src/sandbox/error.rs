//! Refusals in Anthropic's shape.

use std::borrow::Cow;

use serde_json::{Value, json};

/// One refusal: status, `error.type`, message, and what goes with some of them.
#[derive(Clone, Debug)]
pub struct ApiError {
    pub status: u16,
    kind: &'static str,
    message: Cow<'static, str>,
    code: Option<&'static str>,
    /// Seconds for the header `retry-after`.
    pub retry_after: Option<u32>,
}

impl ApiError {
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, "invalid_request_error", message)
    }

    pub fn authentication(message: &'static str) -> Self {
        Self::new(401, "authentication_error", message)
    }

    pub fn permission(message: &'static str) -> Self {
        Self::new(403, "permission_error", message)
    }

    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(404, "not_found_error", message)
    }

    pub fn too_large() -> Self {
        Self::new(413, "request_too_large", "Request exceeds the maximum size")
    }

    pub fn rate_limit(message: &'static str) -> Self {
        Self::new(429, "rate_limit_error", message)
    }

    pub fn internal() -> Self {
        Self::new(500, "api_error", "Internal server error")
    }

    pub fn overloaded() -> Self {
        Self::new(529, "overloaded_error", "Overloaded")
    }

    fn new(status: u16, kind: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, kind, message: message.into(), code: None, retry_after: None }
    }

    /// Adds `error.details.error_code`.
    pub fn code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    pub fn retry_after(self, seconds: u32) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    pub fn body(&self, request_id: &str) -> Value {
        let mut error = json!({ "type": self.kind, "message": self.message });
        if let Some(code) = self.code {
            error["details"] = json!({ "error_code": code });
        }
        json!({ "type": "error", "error": error, "request_id": request_id })
    }
}
