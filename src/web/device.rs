//! The browser's own cookie: random, long-lived, the same before and after sign-in. Sign-in
//! attempts are counted by it, and forms of people who are not signed in yet are bound to it.

use actix_web::body::MessageBody;
use actix_web::cookie::time::Duration;
use actix_web::cookie::{Cookie, SameSite};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{Error, HttpMessage, HttpRequest};

use super::Console;
use crate::crypto::token;

/// The most that browsers keep a cookie for.
const KEPT_FOR: Duration = Duration::days(400);
const LENGTH: usize = 43;

#[derive(Clone)]
struct Device(String);

/// Gives a browser without the cookie one, before its first form is written.
pub async fn remember(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let secure = request.app_data::<Data<Console>>().is_some_and(|console| console.secure);
    let name = if secure { "__Host-keyward-device" } else { "keyward-device" };
    let known = request
        .cookie(name)
        .map(|cookie| cookie.value().to_owned())
        .filter(|value| value.len() == LENGTH && value.bytes().all(|b| b.is_ascii_alphanumeric()));
    let fresh = known.is_none();
    let value = known.unwrap_or_else(token::random_text);
    request.extensions_mut().insert(Device(value.clone()));
    let mut answer = next.call(request).await?;
    if fresh {
        let cookie = Cookie::build(name, value)
            .path("/")
            .secure(secure)
            .http_only(true)
            .same_site(SameSite::Lax)
            .max_age(KEPT_FOR)
            .finish();
        answer.response_mut().add_cookie(&cookie)?;
    }
    Ok(answer)
}

/// The browser that sent this request.
pub fn of(request: &HttpRequest) -> String {
    request.extensions().get::<Device>().map(|device| device.0.clone()).unwrap_or_default()
}
