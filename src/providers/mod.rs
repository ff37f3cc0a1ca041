//! Providers: one trait, one file each, pure. A provider builds requests, judges answers and reads
//! usage; sending is for `outbound`. A new provider is a file and a line in `of`.

pub mod anthropic;

use bytes::Bytes;
use http::{HeaderMap, Method};
use url::Url;

use crate::crypto::secret::Secret;
use crate::domain::clock::Moment;
use crate::domain::provider_key::{Provider as Kind, Verdict};
use crate::domain::usage::{ServedAs, TokenUsage};

/// What people need to know of a provider, and what its forms and pages are made from.
#[derive(Debug)]
pub struct Spec {
    pub kind: Kind,
    /// "Anthropic (Claude)".
    pub title: &'static str,
    /// What a key of the expected form begins with.
    pub key_prefix: &'static str,
    /// Where keys are made, money is paid in and limits are set, in the provider's own console.
    pub keys_url: &'static str,
    pub billing_url: &'static str,
    pub limits_url: &'static str,
    pub docs_url: &'static str,
    /// How to get a key, step by step.
    pub steps: &'static [&'static str],
    /// Where requests go that name no custom URL.
    pub default_origin: &'static str,
    /// The model of the live check where the tenant chose none.
    pub probe_model: &'static str,
}

/// What a request is for, whatever its dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Messages,
    CountTokens,
    Models,
    Model(String),
}

impl Endpoint {
    /// Whether the provider generates for it, which is what costs.
    #[must_use]
    pub fn is_metered(&self) -> bool {
        matches!(self, Self::Messages)
    }
}

/// A request as it came in, with those of its headers that the provider passes.
#[derive(Debug)]
pub struct Inbound {
    pub endpoint: Endpoint,
    pub query: Option<String>,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// The credential that a request goes out with, and where it goes.
pub struct Credential<'a> {
    pub secret: &'a Secret,
    /// The canonical custom URL, or `None` for `origin`.
    pub custom_url: Option<&'a str>,
    /// The operator's origin for this provider.
    pub origin: &'a Url,
}

/// A request ready to be sent. The credential's header is marked sensitive.
pub struct Outgoing {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What an answer says: of the key, and by which code of the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    pub verdict: Verdict,
    pub code: Option<String>,
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

pub trait Provider: Send + Sync {
    fn spec(&self) -> &'static Spec;

    /// Looks at a pasted key's form, which catches wrong kinds with a helpful message. The live
    /// check decides about the rest. Gives the prefix that may be shown.
    ///
    /// # Errors
    /// A sentence that says what was pasted, where it is known to be of the wrong kind.
    fn recognise(&self, secret: &str, custom_url: bool) -> Result<&'static str, WrongKind>;

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
    fn read_usage(&self, body: &[u8]) -> Report;

    fn stream_reader(&self) -> Box<dyn UsageReader>;
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
}

/// All providers. Tests walk this list: each must prove that the own key is what goes out.
pub const ALL: &[&dyn Provider] = &[&anthropic::Anthropic];

/// The provider of this kind.
#[must_use]
pub fn of(kind: Kind) -> &'static dyn Provider {
    match kind {
        Kind::Anthropic => &anthropic::Anthropic,
    }
}

/// What may become a segment of a URL's path: `[A-Za-z0-9._@-]+`, but neither `.` nor `..`.
#[must_use]
pub fn is_path_segment(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 256
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._@-".contains(&b))
        && !matches!(text, "." | "..")
}
