//! Anthropic: the Messages API. Wire facts are from the official SDK (`PyPI` `anthropic` 2.11,
//! npm `@anthropic-ai/sdk`) and the API reference at platform.claude.com.

mod judge;
mod usage;

use std::borrow::Cow;

use bytes::Bytes;
use http::header::ACCEPT;
use http::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::{
    BaseUrl, ConsoleLinks, Credential, Endpoint, Inbound, Judged, Need, Origins, Outgoing, PathVersion,
    Provider, Recognised, Report, Spec, Unroutable, UsageReader, WrongKind, extended, is_plain,
    prepare_headers, secret_header, segment,
};
use crate::domain::clock::Moment;
use crate::domain::provider_key::Provider as Kind;
use crate::domain::usage::Dialect;

/// The provider; all that it knows is in its functions.
#[derive(Debug)]
pub struct Anthropic;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const VERSION: HeaderName = HeaderName::from_static("anthropic-version");
const DEFAULT_VERSION: HeaderValue = HeaderValue::from_static("2023-06-01");
const PREFIX: &str = "sk-ant-api03-";

static SPEC: Spec = Spec {
    kind: Kind::Anthropic,
    title: "Anthropic (Claude)",
    key_label: "API key",
    key_prefix: PREFIX,
    key_is_document: false,
    base_url: BaseUrl {
        need: Need::Optional,
        label: "URL of an Anthropic-compatible API",
        help: "Leave empty for Anthropic itself. Must be https on a public host.",
        placeholder: "https://llm.example.com",
    },
    fields: &[],
    console: Some(ConsoleLinks {
        keys: "https://platform.claude.com/settings/keys",
        billing: "https://platform.claude.com/settings/billing",
        limits: "https://platform.claude.com/settings/limits",
    }),
    docs_url: "https://platform.claude.com/docs/en/api/overview",
    steps: &[
        "Sign in to the Claude Console with an account that may manage API keys.",
        "Open Settings, then API keys, and choose Create key. A workspace of its own keeps this usage apart.",
        "Copy the key. It starts with sk-ant-api03- and the console shows it only once.",
        "Paste it here. Keyward makes one tiny call with it before anything is stored.",
    ],
    probe_model: "claude-haiku-4-5",
};

/// The readers of Anthropic's usage, for whoever else serves its models.
pub(super) fn reader() -> Box<dyn UsageReader> {
    Box::new(usage::Stream::default())
}

pub(super) fn read(body: &[u8]) -> Report {
    usage::read(body)
}

impl Provider for Anthropic {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn recognise(&self, secret: &str, custom_url: bool, _: &Origins) -> Result<Recognised, WrongKind> {
        let wrong = |what: &str| {
            Err(WrongKind(format!("This is {what}. Paste an API key: it starts with {PREFIX}.")))
        };
        is_plain(secret)?;
        let fits = |prefix| Ok(Recognised::prefix(prefix));
        match secret {
            _ if secret.starts_with(PREFIX) => fits(PREFIX),
            _ if secret.starts_with("kwt_") || secret.starts_with("kws_") => wrong("a Keyward access token"),
            // A custom deployment may issue keys of any form.
            _ if custom_url => fits(""),
            _ if secret.starts_with("sk-ant-admin") => wrong("an Admin key"),
            _ if secret.starts_with("sk-ant-oat") => wrong("an OAuth token"),
            _ if secret.starts_with("sk-ant-api01-") => {
                wrong("an API key of a form that is no longer issued")
            }
            _ if secret.starts_with("sk-ant-") => fits("sk-ant-"),
            _ if secret.starts_with("AIza") || secret.starts_with("AQ.") => wrong("a Google API key"),
            _ if secret.starts_with("sk-") => wrong("a key of another provider, by its form OpenAI"),
            _ if secret.starts_with('{') => wrong("a JSON document"),
            _ => Err(WrongKind(format!("This is not an Anthropic API key: those start with {PREFIX}."))),
        }
    }

    fn probe(
        &self,
        credential: &Credential<'_>,
        model: &str,
    ) -> Result<Vec<(Endpoint, Outgoing)>, Unroutable> {
        let ask = |endpoint: Endpoint, query: Option<&str>, body: Bytes| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
            let inbound = Inbound {
                endpoint: endpoint.clone(),
                dialect: Dialect::Anthropic,
                version: PathVersion::V1,
                model: model.to_owned(),
                query: query.map(str::to_owned),
                headers,
                body,
            };
            self.route(inbound, credential).map(|outgoing| (endpoint, outgoing))
        };
        let message = serde_json::json!({
            "model": model,
            "max_tokens": 1,
            "messages": [{ "role": "user", "content": "Hi" }],
        });
        Ok(vec![
            ask(Endpoint::Models, Some("limit=1"), Bytes::new())?,
            ask(Endpoint::Messages, None, message.to_string().into())?,
        ])
    }

    fn understands(&self, endpoint: &Endpoint, body: &[u8]) -> bool {
        let Ok(answer) = serde_json::from_slice::<serde_json::Value>(body) else { return false };
        match endpoint {
            Endpoint::Messages => answer["type"] == "message",
            Endpoint::CountTokens => answer["input_tokens"].is_u64(),
            Endpoint::Models => answer["data"].is_array(),
            Endpoint::Model(_) => answer["id"].is_string(),
            _ => false,
        }
    }

    fn judge(
        &self,
        endpoint: &Endpoint,
        status: u16,
        headers: &HeaderMap,
        body: &[u8],
        now: Moment,
    ) -> Judged {
        judge::judge(endpoint, status, headers, body, now)
    }

    fn passes(&self, header: &str) -> bool {
        matches!(header, "content-type" | "accept" | "idempotency-key") || header.starts_with("anthropic-")
    }

    fn route(&self, inbound: Inbound, credential: &Credential<'_>) -> Result<Outgoing, Unroutable> {
        let mut headers = inbound.headers;
        prepare_headers(&mut headers, &inbound.endpoint);
        headers.entry(VERSION).or_insert(DEFAULT_VERSION);
        headers.insert(API_KEY, secret_header("", credential.secret)?);
        let mut url = url(&inbound.endpoint, credential)?;
        url.set_query(inbound.query.as_deref().filter(|query| !query.is_empty()));
        let method = inbound.endpoint.method();
        Ok(Outgoing { method, url, headers, body: inbound.body, hides_usage: false })
    }

    fn read_usage(&self, _: &Endpoint, body: &[u8]) -> Report {
        read(body)
    }

    fn stream_reader(&self, _: &Endpoint) -> Box<dyn UsageReader> {
        reader()
    }
}

/// A custom URL is kept as that of its messages endpoint; its neighbours are found from there.
fn url(endpoint: &Endpoint, credential: &Credential<'_>) -> Result<Url, Unroutable> {
    let path = match endpoint {
        Endpoint::Messages => Cow::Borrowed("/v1/messages"),
        Endpoint::CountTokens => Cow::Borrowed("/v1/messages/count_tokens"),
        Endpoint::Models => Cow::Borrowed("/v1/models"),
        Endpoint::Model(id) => Cow::Owned(format!("/v1/models/{}", segment(id)?)),
        _ => return Err(Unroutable::Endpoint),
    };
    let Some(custom) = credential.custom_url else {
        return Ok(extended(&credential.origins.anthropic, &path));
    };
    let mut url = Url::parse(custom).map_err(|_| Unroutable::Url)?;
    let base = url.path().strip_suffix("/messages").unwrap_or_else(|| url.path()).to_owned();
    url.set_path(&base);
    Ok(extended(&url, &path["/v1".len()..]))
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::super::tests::origins;
    use super::*;
    use crate::crypto::secret::Secret;
    use crate::domain::provider_key::KeySettings;

    fn credential<'a>(secret: &'a Secret, custom_url: Option<&'a str>) -> Credential<'a> {
        static ORIGINS: LazyLock<Origins> = LazyLock::new(origins);
        static NONE: LazyLock<KeySettings> = LazyLock::new(KeySettings::default);
        Credential { secret, custom_url, settings: &NONE, origins: &ORIGINS, bearer: None }
    }

    #[test]
    fn wrong_kinds_are_told_what_they_are() {
        let told = |secret: &str| Anthropic.recognise(secret, false, &origins()).unwrap_err().0;
        assert_eq!(
            told("sk-ant-admin01-abc"),
            "This is an Admin key. Paste an API key: it starts with sk-ant-api03-."
        );
        assert!(told("sk-ant-oat01-abc").starts_with("This is an OAuth token."));
        assert!(told("sk-ant-api01-abc").contains("no longer issued"));
        assert!(told("sk-proj-abc").contains("OpenAI"));
        assert!(told("AIzaSyabc").contains("Google"));
        assert!(told("kwt_abc").contains("Keyward"));
        assert!(told("hello").starts_with("This is not an Anthropic API key"));
        assert!(told("sk-ant-api03-a b").contains("spaces"));
        let prefix = |secret, custom| Anthropic.recognise(secret, custom, &origins()).unwrap().prefix;
        assert_eq!(prefix("sk-ant-api03-abc", false), PREFIX);
        assert_eq!(prefix("sk-ant-new-abc", false), "sk-ant-");
        assert_eq!(prefix("hello", true), "");
    }

    #[test]
    fn only_the_tenants_key_and_meaningful_headers_go_out() {
        let secret = Secret::new("sk-ant-api03-own".into());
        let sent = [
            ("authorization", "Bearer kwt_x"),
            ("x-api-key", "kwt_x"),
            ("x-keyward-feature", "drafts"),
            ("cookie", "a=b"),
            ("anthropic-beta", "a-2026-01-01"),
            ("anthropic-version", "2024-01-01"),
            ("accept-encoding", "gzip"),
            ("content-type", "application/json"),
        ];
        let headers = sent
            .into_iter()
            .filter(|(name, _)| Anthropic.passes(name))
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let inbound = Inbound {
            endpoint: Endpoint::Messages,
            dialect: Dialect::Anthropic,
            version: PathVersion::V1,
            model: "m".into(),
            query: Some("beta=true".into()),
            headers,
            body: Bytes::from_static(b"{}"),
        };
        let out = Anthropic.route(inbound, &credential(&secret, None)).unwrap();
        assert_eq!(out.url.as_str(), "https://api.anthropic.com/v1/messages?beta=true");
        let mut names: Vec<&str> = out.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["accept-encoding", "anthropic-beta", "anthropic-version", "content-type", "x-api-key"]
        );
        assert_eq!(out.headers[API_KEY], "sk-ant-api03-own");
        assert!(out.headers[API_KEY].is_sensitive());
        assert_eq!(out.headers[VERSION], "2024-01-01");
        assert_eq!(out.headers["accept-encoding"], "identity");
    }

    #[test]
    fn neighbours_of_a_custom_url_are_found() {
        let secret = Secret::new("k".into());
        let custom = credential(&secret, Some("https://llm.example.com/a/v1/messages"));
        let at = |endpoint| url(&endpoint, &custom).unwrap().to_string();
        assert_eq!(at(Endpoint::Messages), "https://llm.example.com/a/v1/messages");
        assert_eq!(at(Endpoint::CountTokens), "https://llm.example.com/a/v1/messages/count_tokens");
        assert_eq!(at(Endpoint::Models), "https://llm.example.com/a/v1/models");
        assert_eq!(at(Endpoint::Model("m-1".into())), "https://llm.example.com/a/v1/models/m-1");
        assert_eq!(url(&Endpoint::Model("../x".into()), &custom), Err(Unroutable::Path));
    }
}
