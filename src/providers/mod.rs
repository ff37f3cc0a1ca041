//! Providers: one trait, one file each, pure. A provider builds requests, judges answers and reads
//! usage; sending is for `outbound`. A new provider is a file and a line in `of`.

pub mod anthropic;
pub mod azure;
pub mod body;
pub mod custom;
pub mod google;
mod lines;
pub mod openai;
pub mod payment;
pub mod reports;
pub mod stripe;
pub mod vertex;

pub use lines::Lines;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use url::Url;

use crate::crypto::secret::Secret;
use crate::domain::clock::Moment;
use crate::domain::provider_key::{KeySettings, Provider as Kind, Verdict};
use crate::domain::usage::{Dialect, ServedAs, TokenUsage};

/// Where requests to providers go that carry no custom URL, as the operator has set it.
#[derive(Clone, Debug)]
pub struct Origins {
    pub anthropic: Url,
    pub openai: Url,
    pub google: Url,
    /// `None`: the origin of each key's location.
    pub vertex: Option<Url>,
    /// Gives access tokens to Google's service accounts.
    pub google_token: Url,
}

/// What people need to know of a provider, and what its forms and pages are made from.
#[derive(Debug)]
pub struct Spec {
    pub kind: Kind,
    /// "Anthropic (Claude)".
    pub title: &'static str,
    /// What is pasted: "API key".
    pub key_label: &'static str,
    /// What a key of the expected form begins with; empty where keys have no form.
    pub key_prefix: &'static str,
    /// The key is a document of many lines.
    pub key_is_document: bool,
    pub base_url: BaseUrl,
    /// What else its form asks for.
    pub fields: &'static [Field],
    /// The provider's own console: where keys are made, money is paid in and limits are set.
    pub console: Option<ConsoleLinks>,
    pub docs_url: &'static str,
    /// How to get a key, step by step.
    pub steps: &'static [&'static str],
    /// The model of the live check where the tenant chose none.
    pub probe_model: &'static str,
}

#[derive(Clone, Copy, Debug)]
pub struct ConsoleLinks {
    pub keys: &'static str,
    pub billing: &'static str,
    pub limits: &'static str,
}

/// Whether a key goes with a URL of the tenant's.
#[derive(Clone, Copy, Debug)]
pub struct BaseUrl {
    pub need: Need,
    pub label: &'static str,
    pub help: &'static str,
    pub placeholder: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    None,
    Optional,
    Required,
}

impl BaseUrl {
    const NONE: Self = Self { need: Need::None, label: "", help: "", placeholder: "" };
}

/// A setting of a key beside its secret and its URL.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub name: &'static str,
    pub label: &'static str,
    pub help: &'static str,
    pub placeholder: &'static str,
    /// A box to tick, whose value is `yes` or nothing.
    pub is_switch: bool,
}

pub const LOCATION: &str = "location";
pub const API_VERSION: &str = "api_version";
pub const STREAM_USAGE: &str = "stream_usage";
/// Every setting that some provider has.
pub const SETTINGS: [&str; 3] = [LOCATION, API_VERSION, STREAM_USAGE];

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Anthropic's.
    Messages,
    CountTokens,
    /// `OpenAI`'s.
    ChatCompletions,
    Responses,
    Embeddings,
    /// Gemini's, whose model is part of the path.
    Generate {
        model: String,
        stream: bool,
    },
    CountContent {
        model: String,
    },
    /// Any dialect's.
    Models,
    Model(String),
}

impl Endpoint {
    /// Whether the provider generates for it, which is what costs.
    #[must_use]
    pub fn is_metered(&self) -> bool {
        matches!(
            self,
            Self::Messages
                | Self::ChatCompletions
                | Self::Responses
                | Self::Embeddings
                | Self::Generate { .. }
        )
    }

    #[must_use]
    pub fn has_body(&self) -> bool {
        !matches!(self, Self::Models | Self::Model(_))
    }

    #[must_use]
    pub fn method(&self) -> Method {
        if self.has_body() { Method::POST } else { Method::GET }
    }
}

/// The version that Gemini's callers put into the path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PathVersion {
    #[default]
    V1,
    V1Beta,
}

/// A request as it came in, with those of its headers that the provider passes.
#[derive(Debug)]
pub struct Inbound {
    pub endpoint: Endpoint,
    pub dialect: Dialect,
    pub version: PathVersion,
    /// The model that the body or the path names.
    pub model: String,
    pub query: Option<String>,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// The ids in a list of models, in the shape of any provider; `None` if it is none, or names nothing.
#[must_use]
pub fn listed_models(body: &[u8]) -> Option<std::collections::BTreeSet<String>> {
    let answer: serde_json::Value = serde_json::from_slice(body).ok()?;
    let (list, field) = match (answer.get("data"), answer.get("models")) {
        (Some(list), _) => (list, "id"),
        (None, Some(list)) => (list, "name"),
        (None, None) => return None,
    };
    let names = list.as_array()?.iter().filter_map(|model| model.get(field)?.as_str());
    let ids = names.map(|name| name.strip_prefix("models/").unwrap_or(name));
    let ids: std::collections::BTreeSet<String> =
        ids.filter(|id| (1..=128).contains(&id.len())).take(5_000).map(str::to_owned).collect();
    (!ids.is_empty()).then_some(ids)
}

/// The credential that a request goes out with, and where it goes.
pub struct Credential<'a> {
    pub secret: &'a Secret,
    /// The canonical custom URL, or `None` for the operator's origin.
    pub custom_url: Option<&'a str>,
    pub settings: &'a KeySettings,
    pub origins: &'a Origins,
    /// What the secret was exchanged for, where `assertion` gave something to exchange.
    pub bearer: Option<&'a Secret>,
}

/// A request ready to be sent. The credential's header is marked sensitive.
#[derive(Clone)]
pub struct Outgoing {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The stream's chunk of usage was asked for by Keyward alone: it is not passed on.
    pub hides_usage: bool,
}

/// What an answer says: of the key, and by which code of the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    pub verdict: Verdict,
    pub code: Option<String>,
}

impl Judged {
    pub(crate) fn new(verdict: Verdict, code: Option<String>) -> Self {
        Self { verdict, code: code.filter(|code| is_error_code(code)) }
    }
}

/// Whether a provider's error code is one: words of letters and numbers of digits. Whatever else
/// stands in its place, such as a key that an endpoint sends back, is written and shown nowhere.
#[must_use]
pub fn is_error_code(code: &str) -> bool {
    let word = |word: &str| {
        let all = |one: fn(&u8) -> bool| word.bytes().all(|byte| one(&byte));
        !word.is_empty() && word.len() <= 32 && (all(u8::is_ascii_alphabetic) || all(u8::is_ascii_digit))
    };
    code.len() <= 64 && code.split(['_', '.', '-']).all(word)
}

/// What was read of a request's usage when its answer ended.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// `None` where the provider reported nothing.
    pub tokens: Option<TokenUsage>,
    pub served_as: ServedAs,
    pub model: Option<String>,
    /// The provider's usage object as it came.
    pub raw: Option<String>,
    /// Whether the answer came to its proper end.
    pub complete: bool,
    /// An error that was told inside an answer of status 200.
    pub error_code: Option<String>,
    /// Characters of output seen, for an estimate where nothing was reported.
    pub output_chars: u64,
}

/// Reads usage from a streamed answer as it passes by.
pub trait UsageReader: Send {
    fn push(&mut self, chunk: &[u8]);
    fn finish(self: Box<Self>) -> Report;
}

/// Why a pasted key is not even tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongKind(pub String);

/// A pasted key of a form that may be right.
#[derive(Debug)]
pub struct Recognised {
    /// What may be shown of its beginning.
    pub prefix: &'static str,
    /// What its hint shows the end of, where that is not the key itself.
    pub hint_of: Option<String>,
    /// What is kept of it, where that is less than was pasted.
    pub kept: Option<Secret>,
}

impl Recognised {
    #[must_use]
    pub fn prefix(prefix: &'static str) -> Self {
        Self { prefix, hint_of: None, kept: None }
    }
}

pub trait Provider: Send + Sync {
    fn spec(&self) -> &'static Spec;

    /// Looks at a pasted key's form, which catches wrong kinds with a helpful message. The live
    /// check decides about the rest.
    ///
    /// # Errors
    /// A sentence that says what was pasted, where it is known to be of the wrong kind.
    fn recognise(&self, secret: &str, custom_url: bool, origins: &Origins) -> Result<Recognised, WrongKind>;

    /// The request that exchanges the secret for a token that requests go out with, where the
    /// provider wants one.
    ///
    /// # Errors
    /// When the secret cannot sign.
    fn assertion(&self, _: &Secret, _: &Origins, _: Moment) -> Result<Option<Outgoing>, Unroutable> {
        Ok(None)
    }

    /// What is wrong with a URL and settings that pass by themselves, by field.
    fn objection(&self, _: Option<&str>, _: &KeySettings) -> Option<(&'static str, &'static str)> {
        None
    }

    /// The requests of a live check, in order: cheap first, then the smallest possible generation.
    fn probe(
        &self,
        credential: &Credential<'_>,
        model: &str,
    ) -> Result<Vec<(Endpoint, Outgoing)>, Unroutable>;

    /// Whether the body of a successful answer is one that this provider gives.
    fn understands(&self, endpoint: &Endpoint, body: &[u8]) -> bool;

    fn judge(
        &self,
        endpoint: &Endpoint,
        status: u16,
        headers: &HeaderMap,
        body: &[u8],
        now: Moment,
    ) -> Judged;

    /// Whether a header of the caller's means something to this provider, by its name in lower
    /// case. Everything else stays here, above all whatever the caller authenticated with.
    fn passes(&self, header: &str) -> bool;

    /// Builds the request that goes out.
    ///
    /// # Errors
    /// When secret, URL or headers cannot be put into a request.
    fn route(&self, inbound: Inbound, credential: &Credential<'_>) -> Result<Outgoing, Unroutable>;

    /// Reads usage from a whole answer.
    fn read_usage(&self, endpoint: &Endpoint, body: &[u8]) -> Report;

    fn stream_reader(&self, endpoint: &Endpoint) -> Box<dyn UsageReader>;
}

/// A request that cannot be built. Says nothing of the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unroutable {
    #[error("the key holds characters that no header can carry")]
    Secret,
    #[error("the model's name cannot be part of a URL")]
    Path,
    #[error("the custom URL cannot be read")]
    Url,
    #[error("the provider of this key does not have that endpoint")]
    Endpoint,
    #[error("the body is not a JSON object that can be passed on to this provider")]
    Body,
}

/// All providers. Tests walk this list: each must prove that the own key is what goes out.
pub const ALL: &[&dyn Provider] = &[
    &anthropic::Anthropic,
    &openai::Openai,
    &google::Google,
    &vertex::Vertex,
    &azure::Azure,
    &custom::Custom,
];

/// The provider of this kind.
#[must_use]
pub fn of(kind: Kind) -> &'static dyn Provider {
    match kind {
        Kind::Anthropic => &anthropic::Anthropic,
        Kind::Openai => &openai::Openai,
        Kind::Google => &google::Google,
        Kind::Vertex => &vertex::Vertex,
        Kind::Azure => &azure::Azure,
        Kind::Custom => &custom::Custom,
    }
}

/// A secret as a header's value, which no log shows.
fn secret_header(scheme: &str, secret: &Secret) -> Result<HeaderValue, Unroutable> {
    let mut value = zeroize::Zeroizing::new(String::with_capacity(scheme.len() + secret.expose().len()));
    value.push_str(scheme);
    value.push_str(secret.expose());
    let mut value = HeaderValue::from_str(&value).map_err(|_| Unroutable::Secret)?;
    value.set_sensitive(true);
    Ok(value)
}

/// What every request carries, whatever its provider.
fn prepare_headers(headers: &mut HeaderMap, endpoint: &Endpoint) {
    if endpoint.has_body() {
        headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
    }
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
}

/// A URL with more segments at the end of its path.
fn extended(base: &Url, rest: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}{rest}", base.path().trim_end_matches('/')));
    url
}

/// A model's name as a segment of a path.
fn segment(model: &str) -> Result<&str, Unroutable> {
    if is_path_segment(model) { Ok(model) } else { Err(Unroutable::Path) }
}

/// What a pasted text is by its form, if that is known.
fn form_of(secret: &str) -> Option<&'static str> {
    Some(match secret {
        _ if secret.starts_with("kwt_") || secret.starts_with("kws_") => "a Keyward access token",
        _ if secret.starts_with("sk-ant-admin") => "an Anthropic Admin key",
        _ if secret.starts_with("sk-ant-oat") => "an Anthropic OAuth token",
        _ if secret.starts_with("sk-ant-") => "an Anthropic API key",
        _ if secret.starts_with("sk-admin-") => "an OpenAI Admin key",
        _ if secret.starts_with("sk-") => "an OpenAI API key",
        _ if secret.starts_with("AIza") || secret.starts_with("AQ.") => "a Google API key",
        _ if secret.starts_with("ya29.") => "a Google OAuth token",
        _ if secret.starts_with('{') => "a JSON document",
        _ => return None,
    })
}

/// Whether a key could be put into a header at all.
fn is_plain(secret: &str) -> Result<(), WrongKind> {
    if secret.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    Err(WrongKind("The key holds spaces or other characters that no key has. Copy it again.".into()))
}

/// What may become a segment of a URL's path: `[A-Za-z0-9._@-]+`, but neither `.` nor `..`.
#[must_use]
pub fn is_path_segment(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 256
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._@-".contains(&b))
        && !matches!(text, "." | "..")
}

/// Seconds that an answer asks to wait, at most a day.
fn retry_after(headers: &HeaderMap) -> Option<i64> {
    let seconds: f64 = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    #[expect(clippy::cast_possible_truncation, reason = "clamped to a day before it is cut")]
    seconds.is_finite().then(|| seconds.clamp(0.0, 86_400.0).ceil() as i64)
}

#[cfg(test)]
mod tests {
    use super::Origins;

    pub fn origins() -> Origins {
        let url = |text: &str| url::Url::parse(text).unwrap();
        Origins {
            anthropic: url("https://api.anthropic.com"),
            openai: url("https://api.openai.com"),
            google: url("https://generativelanguage.googleapis.com"),
            vertex: None,
            google_token: url("https://oauth2.googleapis.com/token"),
        }
    }

    #[test]
    fn only_words_pass_for_error_codes() {
        for code in
            ["invalid_api_key", "RESOURCE_EXHAUSTED", "DeploymentNotFound", "429", "http_401", "a.b-c"]
        {
            assert!(super::is_error_code(code), "{code}");
        }
        for other in
            ["", "_", "sk-ant-api03-canary-ok", "AIzaSyA1", "two words", "a\nb", "e9b1c4", &"a".repeat(33)]
        {
            assert!(!super::is_error_code(other), "{other}");
        }
    }
}
