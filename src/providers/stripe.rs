//! Stripe Checkout by its REST API. Shapes, codes and the signature are those of the official SDK
//! (`stripe` 16.1.0 for Python) and of <https://docs.stripe.com/webhooks>.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::Deserialize;
use serde_json::Value;
use url::Url;
use url::form_urlencoded::Serializer;

use super::payment::{Checkout, CheckoutError, EventError, ForCheckout, Payments};
use super::{Outgoing, is_error_code};
use crate::crypto::secret::Secret;
use crate::crypto::signature;
use crate::domain::clock::{Moment, SECOND};
use crate::domain::ids::OrderId;
use crate::domain::payment::{PaymentEvent, PaymentMethod, PaymentNews};

/// The version that these shapes are of.
const VERSION: &str = "2026-10-28.endive";
/// By how much a message's time may differ from ours, in seconds: a copy that is sent again later
/// is refused.
const TOLERANCE: i64 = 300;
/// By which Keyward knows its own among the account's payments.
const MARK: &str = "keyward_order";

pub struct Stripe {
    pub origin: Url,
    pub secret_key: Secret,
    pub webhook_secret: Secret,
}

impl Payments for Stripe {
    fn method(&self) -> PaymentMethod {
        PaymentMethod::Stripe
    }

    fn checkout(&self, new: &ForCheckout<'_>) -> Option<Outgoing> {
        let ForCheckout { order, title, back } = new;
        let id = order.id.to_string();
        let body = Serializer::new(String::new())
            .append_pair("mode", "payment")
            .append_pair("line_items[0][quantity]", "1")
            .append_pair("line_items[0][price_data][currency]", "usd")
            .append_pair("line_items[0][price_data][unit_amount]", &order.amount.cents().to_string())
            .append_pair("line_items[0][price_data][product_data][name]", title)
            .append_pair("client_reference_id", &id)
            .append_pair(&format!("metadata[{MARK}]"), &id)
            .append_pair(&format!("payment_intent_data[metadata][{MARK}]"), &id)
            // Another currency's amount would not be the one that was ordered.
            .append_pair("adaptive_pricing[enabled]", "false")
            .append_pair("success_url", back)
            .append_pair("cancel_url", back)
            .finish();
        let mut key = HeaderValue::from_str(&format!("Bearer {}", self.secret_key.expose())).ok()?;
        key.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, key);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(HeaderName::from_static("stripe-version"), HeaderValue::from_static(VERSION));
        headers.insert(HeaderName::from_static("idempotency-key"), HeaderValue::from_str(&id).ok()?);
        let url = self.origin.join("/v1/checkout/sessions").ok()?;
        Some(Outgoing { method: Method::POST, url, headers, body: Bytes::from(body), hides_usage: false })
    }

    fn read_checkout(&self, status: u16, body: &[u8]) -> Result<Checkout, CheckoutError> {
        #[derive(Deserialize)]
        struct Session {
            id: String,
            url: Option<String>,
        }
        let refused = |code: &str| {
            let code = if is_error_code(code) { code } else { "unknown" };
            CheckoutError { status, code: code.to_owned() }
        };
        if status != 200 {
            let body: Value = serde_json::from_slice(body).unwrap_or_default();
            let error = &body["error"];
            return Err(refused(error["code"].as_str().or(error["type"].as_str()).unwrap_or_default()));
        }
        let session: Session = serde_json::from_slice(body).map_err(|_| refused("unreadable"))?;
        // It goes into a link: nothing but a page may stand there.
        let url = session.url.filter(|url| url.starts_with("https://") || self.is_ours(url));
        Ok(Checkout { id: session.id, url: url.ok_or_else(|| refused("no_url"))? })
    }

    fn read_event(&self, headers: &HeaderMap, body: &[u8], now: Moment) -> Result<PaymentEvent, EventError> {
        let header = headers.get("stripe-signature").and_then(|value| value.to_str().ok());
        let header = header.ok_or(EventError::Signature)?;
        let signed = signature::stamped(&self.webhook_secret, header, body).ok_or(EventError::Signature)?;
        if (now.0 / SECOND).abs_diff(signed) > TOLERANCE.unsigned_abs() {
            return Err(EventError::Stale);
        }
        let event: Event = serde_json::from_slice(body).map_err(|_| EventError::Shape)?;
        if event.object != "event" {
            return Err(EventError::Shape);
        }
        let news = news(&event.kind, &event.data.object)?;
        Ok(PaymentEvent { id: event.id, news })
    }

    fn instructions(&self) -> Option<&str> {
        None
    }
}

impl Stripe {
    /// A stand-in that the operator has set may speak plain http.
    fn is_ours(&self, url: &str) -> bool {
        Url::parse(url).is_ok_and(|url| url.origin() == self.origin.origin())
    }
}

#[derive(Deserialize)]
struct Event {
    id: String,
    object: String,
    #[serde(rename = "type")]
    kind: String,
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    object: Value,
}

fn news(kind: &str, object: &Value) -> Result<PaymentNews, EventError> {
    let text = |name: &str| object[name].as_str().map(str::to_owned);
    // An account may sell other things too, and have other Keywards beside it.
    let order = || object["metadata"][MARK].as_str().and_then(OrderId::parse);
    Ok(match kind {
        "checkout.session.completed" | "checkout.session.async_payment_succeeded" => match order() {
            // Some ways of paying take days; word of them comes later.
            Some(order) if object["payment_status"] == "unpaid" => PaymentNews::Processing { order },
            Some(order) => PaymentNews::Paid {
                order,
                cents: object["amount_total"].as_i64().ok_or(EventError::Shape)?,
                currency: text("currency").ok_or(EventError::Shape)?,
                payment: id_of(&object["payment_intent"]),
            },
            None => PaymentNews::Other,
        },
        "checkout.session.async_payment_failed" => {
            order().map_or(PaymentNews::Other, |order| PaymentNews::Failed { order })
        }
        "checkout.session.expired" => {
            order().map_or(PaymentNews::Other, |order| PaymentNews::Expired { order })
        }
        "charge.refunded" => match id_of(&object["payment_intent"]) {
            Some(payment) => PaymentNews::Refunded {
                payment,
                cents: object["amount_refunded"].as_i64().ok_or(EventError::Shape)?,
                currency: text("currency").ok_or(EventError::Shape)?,
            },
            None => PaymentNews::Other,
        },
        _ => PaymentNews::Other,
    })
}

/// What refers to another object is its id, or the object itself.
fn id_of(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value["id"].as_str()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use hmac::{Hmac, KeyInit as _, Mac as _};
    use serde_json::json;

    use super::*;
    use crate::domain::ids::TenantId;
    use crate::domain::money::Nanos;
    use crate::domain::payment::{Order, OrderState};

    const NOW: Moment = Moment(1_763_640_100 * SECOND);

    fn stripe() -> Stripe {
        Stripe {
            origin: Url::parse("https://api.stripe.com").unwrap(),
            secret_key: Secret::new("sk_test_1".to_owned()),
            webhook_secret: Secret::new("whsec_1".to_owned()),
        }
    }

    fn order() -> Order {
        Order {
            id: OrderId::new(),
            tenant: TenantId::new(),
            method: PaymentMethod::Stripe,
            amount: Nanos(25_500_000_000),
            state: OrderState::Open,
            checkout: None,
            url: None,
            payment: None,
            refunded: Nanos::ZERO,
            created_at: NOW,
            created_by: String::new(),
            settled_at: None,
            settled_by: None,
        }
    }

    fn signed(body: &str, seconds: i64) -> HeaderMap {
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(b"whsec_1").unwrap();
        mac.update(format!("{seconds}.{body}").as_bytes());
        let value = format!("t={seconds},v1={}", hex::encode(mac.finalize().into_bytes()));
        HeaderMap::from_iter([(HeaderName::from_static("stripe-signature"), value.parse().unwrap())])
    }

    fn event(kind: &str, object: &Value) -> String {
        json!({ "id": "evt_1", "object": "event", "type": kind, "data": { "object": object } }).to_string()
    }

    fn read(kind: &str, object: &Value) -> Result<PaymentNews, EventError> {
        let body = event(kind, object);
        let headers = signed(&body, NOW.0 / SECOND);
        stripe().read_event(&headers, body.as_bytes(), NOW).map(|event| event.news)
    }

    #[test]
    fn a_checkout_is_asked_for_in_cents_and_once() {
        let order = order();
        let back = "https://keyward.example.com/t/acme/x";
        let asked = stripe().checkout(&ForCheckout { order: &order, title: "Credits & more", back }).unwrap();
        assert_eq!(asked.url.as_str(), "https://api.stripe.com/v1/checkout/sessions");
        assert!(asked.headers[AUTHORIZATION].is_sensitive());
        assert_eq!(asked.headers["idempotency-key"], order.id.to_string());
        let form: std::collections::HashMap<String, String> =
            url::form_urlencoded::parse(&asked.body).into_owned().collect();
        assert_eq!(form["line_items[0][price_data][unit_amount]"], "2550");
        assert_eq!(form["line_items[0][price_data][product_data][name]"], "Credits & more");
        assert_eq!(form["metadata[keyward_order]"], order.id.to_string());
    }

    #[test]
    fn only_pages_are_linked_and_only_codes_are_told() {
        let read = |status, body: Value| stripe().read_checkout(status, body.to_string().as_bytes());
        let good = json!({ "id": "cs_1", "url": "https://checkout.stripe.com/c/pay/cs_1" });
        assert_eq!(read(200, good).unwrap().id, "cs_1");
        for bad in ["javascript:alert(1)", "http://evil.example.com/", ""] {
            assert!(read(200, json!({ "id": "cs_1", "url": bad })).is_err(), "{bad}");
        }
        let refused = read(400, json!({ "error": { "code": "amount_too_small", "message": "sk_live_1" } }));
        assert_eq!(refused.unwrap_err().code, "amount_too_small");
        let odd = read(401, json!({ "error": { "code": "sk_live_51 is wrong" } }));
        assert_eq!(odd.unwrap_err().code, "unknown");
    }

    #[test]
    fn messages_are_read_when_they_are_signed_lately() {
        let id = OrderId::new();
        let session = |status: &str| {
            json!({
                "id": "cs_1", "amount_total": 2_550, "currency": "usd", "payment_status": status,
                "payment_intent": "pi_1", "metadata": { "keyward_order": id },
            })
        };
        let paid = PaymentNews::Paid {
            order: id,
            cents: 2_550,
            currency: "usd".into(),
            payment: Some("pi_1".into()),
        };
        assert_eq!(read("checkout.session.completed", &session("paid")), Ok(paid.clone()));
        let processing = PaymentNews::Processing { order: id };
        assert_eq!(read("checkout.session.completed", &session("unpaid")), Ok(processing));
        assert_eq!(read("checkout.session.async_payment_succeeded", &session("paid")), Ok(paid));
        assert_eq!(
            read("checkout.session.async_payment_failed", &session("unpaid")),
            Ok(PaymentNews::Failed { order: id })
        );
        let foreign =
            json!({ "amount_total": 1, "currency": "usd", "payment_status": "paid", "metadata": {} });
        assert_eq!(read("checkout.session.completed", &foreign), Ok(PaymentNews::Other));
        let charge = json!({ "payment_intent": { "id": "pi_1" }, "amount_refunded": 100, "currency": "usd" });
        assert_eq!(
            read("charge.refunded", &charge),
            Ok(PaymentNews::Refunded { payment: "pi_1".into(), cents: 100, currency: "usd".into() })
        );
        assert_eq!(read("customer.created", &json!({})), Ok(PaymentNews::Other));
        assert_eq!(
            read("charge.refunded", &json!({ "payment_intent": "pi_1", "amount_refunded": "100" })),
            Err(EventError::Shape)
        );

        let body = event("customer.created", &json!({}));
        let at = |seconds: i64| {
            stripe().read_event(&signed(&body, NOW.0 / SECOND + seconds), body.as_bytes(), NOW).map(|_| ())
        };
        assert_eq!((at(-300), at(300)), (Ok(()), Ok(())));
        assert_eq!((at(-301), at(301)), (Err(EventError::Stale), Err(EventError::Stale)));
        let unsigned = stripe().read_event(&HeaderMap::new(), body.as_bytes(), NOW);
        assert_eq!(unsigned, Err(EventError::Signature));
        let headers = signed(&body, NOW.0 / SECOND);
        assert_eq!(stripe().read_event(&headers, b"{}", NOW), Err(EventError::Signature));
    }
}
