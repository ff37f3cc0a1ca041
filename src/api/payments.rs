//! Messages of payment providers. They prove themselves by their signature, not by a token.

use std::sync::Arc;

use actix_web::web::{self, Bytes, Data, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;

use crate::domain::payment::PaymentMethod;
use crate::services::Services;
use crate::services::purchases::TakeError;

const MAX_BODY: usize = 256 * 1_024;

pub fn configure(cfg: &mut ServiceConfig, services: Arc<Services>) {
    cfg.service(
        web::resource("/webhooks/stripe")
            .app_data(Data::from(services))
            .app_data(web::PayloadConfig::new(MAX_BODY))
            .route(web::post().to(stripe)),
    );
}

async fn stripe(services: Data<Services>, request: HttpRequest, body: Bytes) -> HttpResponse {
    // actix speaks an older version of the http crate.
    let mut headers = http::HeaderMap::new();
    let signature = request.headers().get("stripe-signature");
    if let Some(value) = signature.and_then(|value| http::HeaderValue::from_bytes(value.as_bytes()).ok()) {
        headers.insert("stripe-signature", value);
    }
    let refused = |code: &str| json!({ "error": code });
    match services.take_payment_event(PaymentMethod::Stripe, &headers, &body).await {
        Ok(()) => HttpResponse::Ok().json(json!({ "received": true })),
        Err(TakeError::NoPayments) => HttpResponse::NotFound().json(refused("not_found")),
        Err(TakeError::Event(error)) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "a payment message was refused");
            HttpResponse::BadRequest().json(refused("invalid_message"))
        }
        Err(TakeError::Amount(error)) => {
            tracing::error!(error = &error as &dyn std::error::Error, "a payment was refused");
            HttpResponse::UnprocessableEntity().json(refused("wrong_amount"))
        }
        // It will be sent again.
        Err(TakeError::Service(error)) => {
            tracing::error!(error = &error as &dyn std::error::Error, "a payment could not be entered");
            HttpResponse::ServiceUnavailable().json(refused("unavailable"))
        }
    }
}
