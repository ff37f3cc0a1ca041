//! What the log calls a request to the console.

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use tracing::Span;
use tracing_actix_web::{RequestId, RootSpanBuilder};

/// The span of a request to the console: method, route and status, and nothing of what it carried.
pub struct RequestSpan;

impl RootSpanBuilder for RequestSpan {
    fn on_request_start(request: &ServiceRequest) -> Span {
        use actix_web::HttpMessage as _;
        let id = request.extensions().get::<RequestId>().map(ToString::to_string);
        tracing::info_span!(
            "request",
            method = %request.method(),
            route = tracing::field::Empty,
            status = tracing::field::Empty,
            request_id = id.unwrap_or_default(),
        )
    }

    fn on_request_end<B: MessageBody>(span: Span, outcome: &Result<ServiceResponse<B>, actix_web::Error>) {
        match outcome {
            Ok(response) => {
                let route = response.request().match_pattern().unwrap_or_else(|| "-".to_owned());
                span.record("route", route);
                span.record("status", response.status().as_u16());
                let _inside = span.enter();
                if response.status().is_server_error() {
                    tracing::error!("answered");
                } else {
                    tracing::debug!("answered");
                }
            }
            Err(error) => {
                span.record("status", error.as_response_error().status_code().as_u16());
            }
        }
    }
}
