//! A payment provider's hosted checkout, as Stripe has it: a session is made by REST, paid on a page
//! with two buttons, and told of by a signed message.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::future::BoxFuture;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Deserialize;
use serde_json::{Value, json};

use super::state::{State, lock};
use crate::domain::clock::SECOND;

/// The keys that the sandbox takes begin so.
const KEY: &str = "sk_test_sandbox";

/// Sends a message: URL, signature and body in, the receiver's status out.
pub type Send = dyn Fn(String, String, String) -> BoxFuture<'static, Option<u16>> + std::marker::Send + Sync;

/// Where messages go and how they are signed.
#[derive(Clone)]
pub struct Courier {
    /// The receiver's whole URL.
    pub url: String,
    pub secret: String,
    pub send: Arc<Send>,
}

impl fmt::Debug for Courier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Courier to {}", self.url)
    }
}

/// What was begun, by its id.
#[derive(Default)]
pub struct Sessions(Mutex<HashMap<String, Session>>);

#[derive(Clone)]
struct Session {
    title: String,
    cents: i64,
    back: String,
    metadata: serde_json::Map<String, Value>,
    state: &'static str,
}

pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/v1/checkout/sessions", web::post().to(begin))
        .route("/sandbox/pay/{id}", web::get().to(page))
        .route("/sandbox/pay/{id}", web::post().to(pay));
}

fn refused(status: u16, kind: &str, code: &str, message: &str) -> HttpResponse {
    let status = actix_web::http::StatusCode::from_u16(status).unwrap_or_default();
    HttpResponse::build(status).json(json!({ "error": { "type": kind, "code": code, "message": message } }))
}

async fn begin(request: HttpRequest, state: web::Data<State>, body: web::Bytes) -> HttpResponse {
    let key = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    if !key.and_then(|key| key.strip_prefix("Bearer ")).is_some_and(|key| key.starts_with(KEY)) {
        return refused(401, "invalid_request_error", "api_key_invalid", "Invalid API Key provided.");
    }
    let form: HashMap<String, String> = url::form_urlencoded::parse(&body).into_owned().collect();
    let field = |name: &str| form.get(name).map(String::as_str);
    let cents = field("line_items[0][price_data][unit_amount]").and_then(|text| text.parse::<i64>().ok());
    let (Some("payment"), Some(cents), Some("usd"), Some(back)) =
        (field("mode"), cents, field("line_items[0][price_data][currency]"), field("success_url"))
    else {
        return refused(400, "invalid_request_error", "parameter_missing", "Missing required param.");
    };
    if cents < 50 {
        return refused(400, "invalid_request_error", "amount_too_small", "At least 50 cents.");
    }
    // The same request twice is one session.
    let id = match request.headers().get("idempotency-key").and_then(|key| key.to_str().ok()) {
        Some(key) => format!("cs_test_{key}"),
        None => state.id("cs_test"),
    };
    let metadata = form.iter().filter_map(|(name, value)| {
        let name = name.strip_prefix("metadata[")?.strip_suffix(']')?;
        Some((name.to_owned(), json!(value)))
    });
    let session = Session {
        title: field("line_items[0][price_data][product_data][name]").unwrap_or_default().to_owned(),
        cents,
        back: back.to_owned(),
        metadata: metadata.collect(),
        state: "open",
    };
    lock(&state.payments.0).entry(id.clone()).or_insert(session);
    let host = request.connection_info().host().to_owned();
    HttpResponse::Ok().json(json!({
        "id": id, "object": "checkout.session", "mode": "payment", "status": "open",
        "payment_status": "unpaid", "amount_total": cents, "currency": "usd", "payment_intent": null,
        "url": format!("http://{host}/sandbox/pay/{id}"),
    }))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

async fn page(state: web::Data<State>, id: web::Path<String>) -> HttpResponse {
    let Some(session) = lock(&state.payments.0).get(id.as_str()).cloned() else {
        return HttpResponse::NotFound().body("No such session.\n");
    };
    let (title, cents) = (escaped(&session.title), session.cents);
    let buttons = match session.state {
        "open" => {
            "<form method=post><button name=do value=pay>Pay</button> <button name=do value=cancel>Cancel</button></form>"
        }
        "complete" => "<p>Paid.</p><form method=post><button name=do value=refund>Refund it</button></form>",
        _ => "<p>This session has ended.</p>",
    };
    HttpResponse::Ok().content_type("text/html; charset=utf-8").body(format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>Sandbox checkout</title><h1>Sandbox checkout</h1><p>No money moves here.</p>\
         <p>{title}: ${}.{:02}</p>{buttons}",
        cents / 100,
        cents % 100
    ))
}

#[derive(Deserialize)]
struct Act {
    #[serde(rename = "do")]
    act: String,
}

async fn pay(state: web::Data<State>, id: web::Path<String>, form: web::Form<Act>) -> HttpResponse {
    let (kind, status) = match form.act.as_str() {
        "pay" => ("checkout.session.completed", "complete"),
        "refund" => ("charge.refunded", "refunded"),
        _ => ("checkout.session.expired", "expired"),
    };
    let wanted = if form.act == "refund" { "complete" } else { "open" };
    let session = {
        let mut sessions = lock(&state.payments.0);
        let Some(session) = sessions.get_mut(id.as_str()) else {
            return HttpResponse::NotFound().body("No such session.\n");
        };
        // A button that is pressed twice acts once.
        let acts = session.state == wanted;
        if acts {
            session.state = status;
        }
        acts.then(|| session.clone()).ok_or_else(|| session.back.clone())
    };
    let back = |to: &str| HttpResponse::SeeOther().insert_header(("location", to)).finish();
    let session = match session {
        Ok(session) => session,
        Err(to) => return back(&to),
    };
    let payment = format!("pi_{}", id.trim_start_matches("cs_test_"));
    let object = if form.act == "refund" {
        json!({
            "id": state.id("ch"), "object": "charge", "payment_intent": payment, "amount": session.cents,
            "amount_refunded": session.cents, "currency": "usd", "refunded": true,
        })
    } else {
        json!({
            "id": *id, "object": "checkout.session", "mode": "payment", "status": status,
            "payment_status": if form.act == "pay" { "paid" } else { "unpaid" },
            "amount_total": session.cents, "currency": "usd", "payment_intent": payment,
            "metadata": session.metadata,
        })
    };
    let seconds = state.clock.now().0 / SECOND;
    let message = json!({
        "id": state.id("evt"), "object": "event", "type": kind, "created": seconds, "livemode": false,
        "data": { "object": object },
    });
    if let Some(courier) = &state.courier {
        let (body, signature) = signed(courier, seconds, &message);
        (courier.send)(courier.url.clone(), signature, body).await;
    }
    back(&session.back)
}

fn signed(courier: &Courier, seconds: i64, message: &Value) -> (String, String) {
    let body = message.to_string();
    let Ok(mut mac) = Hmac::<sha2::Sha256>::new_from_slice(courier.secret.as_bytes()) else {
        unreachable!("HMAC takes keys of any length")
    };
    mac.update(format!("{seconds}.{body}").as_bytes());
    let signature = format!("t={seconds},v1={}", hex::encode(mac.finalize().into_bytes()));
    (body, signature)
}
