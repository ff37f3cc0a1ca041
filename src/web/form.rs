//! Forms as they arrive: at most 64 KiB unless said otherwise, with a token of this session, and with no field that
//! the page does not have. A handler that takes `Posted` cannot forget any of it.

use std::time::Duration;

use actix_session::SessionExt;
use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::web::BytesMut;
use actix_web::{FromRequest, HttpMessage, HttpRequest};
use futures_util::StreamExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::csrf;
use super::error::WebError;
use super::viewer::{Extracting, console};
use crate::crypto::secret::Secret;
use crate::services::second_factors::Evidence;
use crate::services::{Problems, ServiceError};

const LIMIT: usize = 64 * 1_024;
/// Who sends it is known when it begins to arrive, and must not have changed much when it has.
const PATIENCE: Duration = Duration::from_mins(1);

/// Another limit in bytes, for a form with a long text: encoded, a letter may take nine.
#[derive(Clone, Copy)]
pub struct Limit(pub usize);

/// Where a person shows again that it is them, one of these.
pub const EVIDENCE: [&str; 3] = ["current_password", "current_code", "current_passkey"];

/// Fields that never go back into a page, beside the token and the evidence.
const SECRET: [&str; 5] = ["password", "new_password", "api_key", "client_secret", "credential"];

/// A form that was sent by one of our own pages to whom it was written for.
pub struct Posted<T> {
    pub fields: T,
    /// Given where a change asks again whether it is them.
    pub evidence: Option<Evidence>,
    /// What may be put into a page again, to be sent once more.
    pub carried: Vec<(String, String)>,
}

impl<T> Posted<T> {
    /// The fields, and the rest of the form as that of a button.
    pub fn split(self) -> (T, Posted<Nothing>) {
        let Self { fields, evidence, carried } = self;
        (fields, Posted { fields: Nothing {}, evidence, carried })
    }
}

/// A form with nothing but a button.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

impl<T: DeserializeOwned + 'static> FromRequest for Posted<T> {
    type Error = WebError;
    type Future = Extracting<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let request = request.clone();
        let payload = payload.take();
        Box::pin(async move {
            let console = console(&request)?;
            csrf::check_source(&console, &request)?;
            if !request.content_type().eq_ignore_ascii_case("application/x-www-form-urlencoded") {
                return Err(WebError::BadForm);
            }
            let limit = request.app_data::<Limit>().map_or(LIMIT, |limit| limit.0);
            let reading = tokio::time::timeout(PATIENCE, read(payload, limit));
            let body = reading.await.map_err(|_| WebError::TooSlow)??;
            let pairs: Vec<(String, String)> =
                serde_html_form::from_bytes(&body).map_err(|_| WebError::BadForm)?;
            let sent = pairs.iter().find(|(name, _)| name == "csrf").map_or("", |(_, token)| token);
            csrf::check(&console, &request, &request.get_session(), sent)?;
            parse(pairs)
        })
    }
}

async fn read(mut payload: Payload, limit: usize) -> Result<BytesMut, WebError> {
    let mut body = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| WebError::BadForm)?;
        if body.len() + chunk.len() > limit {
            return Err(WebError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn parse<T: DeserializeOwned>(pairs: Vec<(String, String)>) -> Result<Posted<T>, WebError> {
    let mut evidence = None;
    let mut carried = Vec::new();
    let mut rest = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in pairs {
        match name.as_str() {
            "csrf" => {}
            // Whichever of them was filled in.
            name if EVIDENCE.contains(&name) && value.trim().is_empty() => {}
            // Browsers fill passwords in by themselves: what was given besides is what was meant.
            "current_password" => {
                evidence = evidence.or_else(|| Some(Evidence::Password(Secret::new(value))));
            }
            "current_passkey" => evidence = Some(Evidence::Passkey { answer: value, ceremony: None }),
            "current_code" => evidence = Some(Evidence::Code(Secret::new(value))),
            _ => {
                rest.append_pair(&name, &value);
                if SECRET.contains(&name.as_str()) {
                    drop(Zeroizing::new(value));
                } else {
                    carried.push((name, value));
                }
            }
        }
    }
    let rest = Zeroizing::new(rest.finish());
    let fields = serde_html_form::from_str(&rest).map_err(|_| WebError::BadForm)?;
    Ok(Posted { fields, evidence, carried })
}

/// Why a form comes back, and with which status.
pub struct Failure {
    pub status: StatusCode,
    pub problems: Problems,
    pub retry_after: Option<i64>,
}

impl Failure {
    /// Sorts errors that a form can show at its fields from those that need a page of their own.
    ///
    /// # Errors
    /// Whatever no field can help with.
    pub fn of(error: ServiceError) -> Result<Self, WebError> {
        let failure = |status, problems| Self { status, problems, retry_after: None };
        match error {
            ServiceError::Invalid(problems) => Ok(failure(StatusCode::UNPROCESSABLE_ENTITY, problems)),
            ServiceError::Confirm => Ok(failure(
                StatusCode::UNPROCESSABLE_ENTITY,
                Problems::field("current_password", "Confirm that it is you to go on."),
            )),
            ServiceError::ConfirmStrongly => Ok(failure(
                StatusCode::UNPROCESSABLE_ENTITY,
                Problems::field("current_code", "Here only a code or a passkey will do, not the password."),
            )),
            ServiceError::Conflict(message) => Ok(failure(
                StatusCode::CONFLICT,
                Problems { summary: Some(message.to_owned()), fields: Vec::new() },
            )),
            ServiceError::Throttled { seconds } => {
                let message = format!("Too many attempts. Try again in {}.", super::time::span(seconds));
                Ok(Self {
                    status: StatusCode::TOO_MANY_REQUESTS,
                    problems: Problems::field("current_password", message),
                    retry_after: Some(seconds),
                })
            }
            error => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Example {
        name: String,
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn unknown_and_repeated_fields_are_refused() {
        let good = parse::<Example>(pairs(&[("csrf", "x"), ("name", "a & b")])).unwrap();
        assert_eq!(good.fields.name, "a & b");
        assert_eq!(good.carried, pairs(&[("name", "a & b")]));
        assert!(parse::<Example>(pairs(&[("name", "a"), ("admin", "1")])).is_err());
        assert!(parse::<Example>(pairs(&[("name", "a"), ("name", "b")])).is_err());
        assert!(parse::<Nothing>(pairs(&[("name", "a")])).is_err());
    }

    #[test]
    fn secrets_are_not_carried() {
        let form = parse::<HashMapForm>(pairs(&[("api_key", "k"), ("current_password", "p"), ("l", "v")]));
        let form = form.unwrap();
        assert_eq!(form.carried, pairs(&[("l", "v")]));
        assert!(matches!(form.evidence, Some(Evidence::Password(typed)) if typed.expose() == "p"));
    }

    type HashMapForm = std::collections::HashMap<String, String>;
}
