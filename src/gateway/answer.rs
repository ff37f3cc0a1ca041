//! The answer as the client gets it: the provider's own, and what Keyward says of how it came about.

use actix_web::HttpResponse;
use actix_web::body::{BodyStream, BoxBody};
use actix_web::http::header::{HeaderName, HeaderValue};
use bytes::Bytes;

use super::Used;
use super::exchange::{AnswerBody, Head};
use crate::domain::ids::RequestId;

pub fn respond(head: Head, id: RequestId, used: Used) -> HttpResponse {
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
    let mut mark = |name: &'static str, value: Bytes| {
        if let Ok(value) = HeaderValue::from_maybe_shared(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    mark("x-keyward-request-id", id.to_string().into());
    mark("x-keyward-usage-mode", Bytes::from_static(used.mode.as_str().as_bytes()));
    mark("x-keyward-key", used.key.into());
    mark("x-keyward-key-fingerprint", used.fingerprint.into());
    if let Some(fallback) = used.fallback {
        mark("x-keyward-fallback", Bytes::from_static(fallback.as_str().as_bytes()));
    }
    response
}

/// The provider's headers that mean something to an SDK. The rest is about the connection between
/// Keyward and the provider, or about the account behind the key.
fn may_return(name: &str) -> bool {
    matches!(
        name,
        "content-type"
            | "request-id"
            | "x-request-id"
            | "apim-request-id"
            | "retry-after"
            | "retry-after-ms"
            | "x-should-retry"
            | "cache-control"
    ) || name.starts_with("x-ratelimit-")
        || name.starts_with("anthropic-ratelimit-")
        || name.starts_with("anthropic-priority-")
        || name.starts_with("anthropic-fast-")
}
