//! Proof that a form was written for whoever sends it: a token bound to the session (or, before
//! sign-in, to the browser), and a look at where the browser says that the request comes from.

use actix_session::Session;
use actix_web::HttpRequest;
use actix_web::http::header::{HOST, HeaderName, ORIGIN, REFERER};
use subtle::ConstantTimeEq;

use super::error::WebError;
use super::session::SignedIn;
use super::{Console, device, session};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The token that forms of this request's page carry.
pub fn token(console: &Console, request: &HttpRequest, session: &Session) -> String {
    match session::signed_in(session) {
        Some(signed_in) => token_of(console, &signed_in),
        None => console.services.root.csrf_token(&format!("visitor:{}", device::of(request))),
    }
}

/// The same for somebody who is signed in.
pub fn token_of(console: &Console, signed_in: &SignedIn) -> String {
    console.services.root.csrf_token(&format!("session:{}", signed_in.nonce))
}

/// # Errors
/// `StaleForm` for a form that was not written for this session or browser.
pub fn check(
    console: &Console,
    request: &HttpRequest,
    session: &Session,
    sent: &str,
) -> Result<(), WebError> {
    let expected = token(console, request, session);
    if bool::from(expected.as_bytes().ct_eq(sent.as_bytes())) { Ok(()) } else { Err(stale(request)) }
}

/// # Errors
/// `StaleForm` when the browser says that another site sent the form.
pub fn check_source(console: &Console, request: &HttpRequest) -> Result<(), WebError> {
    let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap_or("?"));
    // `none` is the person themselves, who typed or bookmarked; no page can send that.
    if header(SEC_FETCH_SITE).is_some_and(|site| !matches!(site, "same-origin" | "none")) {
        return Err(stale(request));
    }
    if let Some(origin) = header(ORIGIN) {
        let public = &console.services.options.public_url;
        let ours = url::Url::parse(public).is_ok_and(|url| url.origin().ascii_serialization() == origin);
        let host = header(HOST).unwrap_or_default();
        let this = origin.split_once("://").is_some_and(|(_, sender)| !host.is_empty() && sender == host);
        if !ours && !this {
            return Err(stale(request));
        }
    }
    Ok(())
}

/// Leads back to the page that held the form, if that was one of ours.
fn stale(request: &HttpRequest) -> WebError {
    let back = request
        .headers()
        .get(REFERER)
        .and_then(|value| url::Url::parse(value.to_str().ok()?).ok())
        .filter(|url| {
            let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
            let sender = match (url.host_str(), url.port()) {
                (Some(name), Some(port)) => format!("{name}:{port}"),
                (Some(name), None) => name.to_owned(),
                (None, _) => return false,
            };
            sender == host
        })
        .map(|url| url.path().to_owned())
        .filter(|path| path.starts_with('/') && !path.starts_with("//"));
    WebError::StaleForm { back }
}
