//! Who is asking, and what their headers say.

use actix_web::HttpRequest;
use actix_web::http::header::{self, AUTHORIZATION};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::error::GatewayError;
use crate::access::scope::Scope;
use crate::domain::ids::{TenantId, TokenId};
use crate::domain::provider_key::Provider as Kind;
use crate::domain::usage::{Dialect, Labels};
use crate::providers::Provider;
use crate::services::Services;
use crate::services::tokens::TokenScope;

/// The tenant that a request acts for, proved by an access token.
pub struct Caller {
    pub scope: Scope,
    pub tenant: TenantId,
    /// `None` for Keyward itself.
    pub token: Option<TokenId>,
}

/// What Keyward's own headers ask for.
#[derive(Debug, Default)]
pub struct Asked {
    pub feature: Option<String>,
    pub key_name: Option<String>,
    pub provider: Option<Kind>,
    pub labels: Labels,
}

const PREFIX: &str = "x-keyward-";
const TENANT: header::HeaderName = header::HeaderName::from_static("x-keyward-tenant");
const API_KEY: header::HeaderName = header::HeaderName::from_static("x-api-key");
const GOOGLE_API_KEY: header::HeaderName = header::HeaderName::from_static("x-goog-api-key");
const MAX_LABEL: usize = 128;
/// SDKs send a few words.
const MAX_QUERY: usize = 8 * 1_024;

/// Finds the tenant behind the request's token.
///
/// # Errors
/// A refusal in the dialect's own shape.
pub async fn authenticate(services: &Services, request: &HttpRequest) -> Result<Caller, GatewayError> {
    let named = header(request, &TENANT)?;
    let bearer = services.bearer_of(presented(request)?, TokenScope::Gateway, named).await?;
    let tenant = bearer
        .tenant
        .ok_or_else(|| GatewayError::invalid("A service token needs x-keyward-tenant, the tenant's slug."))?;
    Ok(Caller { scope: Scope::of_token(tenant), tenant, token: Some(bearer.token.id) })
}

fn presented(request: &HttpRequest) -> Result<&str, GatewayError> {
    let missing = || {
        GatewayError::token_invalid(
            "Send your Keyward access token as a Bearer token, as x-api-key or as x-goog-api-key.",
        )
    };
    let bearer = header(request, &AUTHORIZATION)?
        .map(|value| {
            value
                .split_once(' ')
                .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
                .map(|(_, token)| token.trim())
                .ok_or_else(missing)
        })
        .transpose()?;
    let sent = [bearer, header(request, &API_KEY)?, header(request, &GOOGLE_API_KEY)?];
    let mut sent = sent.into_iter().flatten();
    let token = sent.next().ok_or_else(missing)?;
    if sent.any(|other| other != token) {
        return Err(GatewayError::token_invalid("The request's headers carry different tokens."));
    }
    Ok(token)
}

/// The dialect of a path that several share.
pub fn dialect(request: &HttpRequest) -> Dialect {
    let headers = request.headers();
    if headers.contains_key("anthropic-version") {
        Dialect::Anthropic
    } else if headers.contains_key("x-goog-api-key") {
        Dialect::Gemini
    } else {
        Dialect::Openai
    }
}

/// A header that may be sent once, as text.
fn header<'a>(request: &'a HttpRequest, name: &header::HeaderName) -> Result<Option<&'a str>, GatewayError> {
    let mut values = request.headers().get_all(name);
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().ok().filter(|_| values.next().is_none());
    text.map(|text| Some(text.trim()))
        .ok_or_else(|| GatewayError::invalid(format!("{name} may be sent once, as plain text.")))
}

/// Reads what the headers ask for.
///
/// # Errors
/// A refusal that names the header that cannot be understood.
pub fn read_headers(request: &HttpRequest) -> Result<Asked, GatewayError> {
    if request.headers().contains_key("content-encoding") {
        return Err(GatewayError::invalid("Send the body as it is: compressed requests are not taken."));
    }
    judge_query(request.query_string())?;
    let mut asked = Asked::default();
    for (name, _) in request.headers() {
        let Some(own) = name.as_str().strip_prefix(PREFIX) else { continue };
        if own == "tenant" {
            continue;
        }
        let text = label(name.as_str(), header(request, name)?.unwrap_or_default())?;
        match own {
            "feature" => asked.feature = Some(text),
            "key" => asked.key_name = Some(text),
            "provider" => {
                let known = Kind::parse(&text);
                asked.provider =
                    Some(known.ok_or_else(|| GatewayError::invalid(format!("{text} is not a provider.")))?);
            }
            "endpoint" => asked.labels.endpoint = Some(text),
            "session" => asked.labels.session = Some(text),
            "prompt" => asked.labels.prompt = Some(text),
            _ => return Err(GatewayError::invalid(format!("{name} is not a header that Keyward knows."))),
        }
    }
    Ok(asked)
}

fn label(name: &str, text: &str) -> Result<String, GatewayError> {
    let fits =
        !text.is_empty() && text.len() <= MAX_LABEL && text.bytes().all(|b| (b' '..=b'~').contains(&b));
    if fits {
        Ok(text.to_owned())
    } else {
        Err(GatewayError::invalid(format!("{name} takes 1 to {MAX_LABEL} printable characters.")))
    }
}

/// The headers that go on to this provider.
#[must_use]
pub fn passing(request: &HttpRequest, provider: &dyn Provider) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(8);
    for (name, value) in request.headers() {
        if !provider.passes(name.as_str()) {
            continue;
        }
        // The two crates speak different versions of the header types.
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_ref()), HeaderValue::from_bytes(value.as_bytes()))
        {
            headers.append(name, value);
        }
    }
    headers
}

/// How credentials of known kinds begin.
const SECRETS: [&str; 6] = ["kwt_", "kws_", "sk-", "ya29.", "AIza", "AQ."];

/// A credential in a URL ends in logs; a request that carries one there is refused, and one whose URL no
/// provider would take.
fn judge_query(query: &str) -> Result<(), GatewayError> {
    if query.len() > MAX_QUERY {
        return Err(GatewayError::invalid(format!("The URL's query is longer than {MAX_QUERY} bytes.")));
    }
    let carries = url::form_urlencoded::parse(query.as_bytes()).any(|(name, value)| {
        let name = name.to_ascii_lowercase().replace(['-', '_'], "");
        matches!(
            name.as_str(),
            "key"
                | "apikey"
                | "xapikey"
                | "xgoogapikey"
                | "accesstoken"
                | "oauthtoken"
                | "token"
                | "auth"
                | "authorization"
                | "bearer"
        ) || SECRETS.iter().any(|mark| value.contains(mark))
    });
    if carries {
        Err(GatewayError::invalid("Send the access token in a header, not in the URL."))
    } else {
        Ok(())
    }
}
