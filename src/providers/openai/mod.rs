//! `OpenAI`: chat completions, responses, embeddings and models. Wire facts are from the official
//! SDK (`PyPI` `openai` 3.52) and the API reference at developers.openai.com. What others share who
//! speak this dialect is here too.

mod judge;
mod stream;
mod usage;

use bytes::Bytes;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde::Deserialize;
use serde_json::value::RawValue;
use url::Url;

use super::{
    BaseUrl, ConsoleLinks, Credential, Endpoint, Inbound, Judged, Need, Origins, Outgoing, PathVersion,
    Provider, Recognised, Report, Spec, Unroutable, UsageReader, WrongKind, body, extended, form_of,
    is_plain, prepare_headers, secret_header, segment,
};
use crate::domain::clock::Moment;
use crate::domain::provider_key::Provider as Kind;
use crate::domain::usage::Dialect;

pub use stream::UsageFilter;
pub(super) use {judge::judge, usage::read, usage::reader};

/// The provider; all that it knows is in its functions.
#[derive(Debug)]
pub struct Openai;

static SPEC: Spec = Spec {
    kind: Kind::Openai,
    title: "OpenAI",
    key_label: "API key",
    key_prefix: "sk-proj-",
    key_is_document: false,
    base_url: BaseUrl {
        need: Need::Optional,
        label: "Regional URL of OpenAI's API",
        help: "Leave empty for api.openai.com. With it, end the URL in /v1, as in https://eu.api.openai.com/v1.",
        placeholder: "https://eu.api.openai.com/v1",
    },
    fields: &[],
    console: Some(ConsoleLinks {
        keys: "https://platform.openai.com/api-keys",
        billing: "https://platform.openai.com/settings/organization/billing/overview",
        limits: "https://platform.openai.com/settings/organization/limits",
    }),
    docs_url: "https://developers.openai.com/api/docs",
    steps: &[
        "Sign in to the OpenAI platform with an account that may manage API keys.",
        "Choose a project. One of its own keeps this usage and its limits apart.",
        "Open API keys and choose Create new secret key. It starts with sk-proj- and is shown only once.",
        "Paste it here. Keyward makes one tiny call with it before anything is stored.",
    ],
    probe_model: "gpt-5.4-nano",
};

impl Provider for Openai {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn recognise(&self, secret: &str, custom_url: bool, _: &Origins) -> Result<Recognised, WrongKind> {
        is_plain(secret)?;
        let known = ["sk-proj-", "sk-svcacct-"].into_iter().find(|prefix| secret.starts_with(prefix));
        match (known, form_of(secret)) {
            (Some(prefix), _) => Ok(Recognised::prefix(prefix)),
            (None, Some("an OpenAI API key")) => Ok(Recognised::prefix("sk-")),
            (None, Some(what)) => {
                Err(WrongKind(format!("This is {what}. Paste an OpenAI API key: it starts with sk-.")))
            }
            (None, None) if custom_url => Ok(Recognised::prefix("")),
            (None, None) => Err(WrongKind("This is not an OpenAI API key: those start with sk-.".into())),
        }
    }

    fn probe(
        &self,
        credential: &Credential<'_>,
        model: &str,
    ) -> Result<Vec<(Endpoint, Outgoing)>, Unroutable> {
        probe(model, |inbound| self.route(inbound, credential))
    }

    fn understands(&self, endpoint: &Endpoint, body: &[u8]) -> bool {
        understands(endpoint, body)
    }

    fn judge(
        &self,
        endpoint: &Endpoint,
        status: u16,
        headers: &HeaderMap,
        body: &[u8],
        now: Moment,
    ) -> Judged {
        judge(endpoint, status, headers, body, now)
    }

    fn passes(&self, header: &str) -> bool {
        passes(header)
    }

    fn route(&self, inbound: Inbound, credential: &Credential<'_>) -> Result<Outgoing, Unroutable> {
        let base = match credential.custom_url {
            Some(custom) => Url::parse(custom).map_err(|_| Unroutable::Url)?,
            None => extended(&credential.origins.openai, "/v1"),
        };
        let url = extended(&base, &path(&inbound.endpoint)?);
        outgoing(inbound, url, true, |headers| {
            headers.insert(AUTHORIZATION, secret_header("Bearer ", credential.secret)?);
            Ok(())
        })
    }

    fn read_usage(&self, endpoint: &Endpoint, body: &[u8]) -> Report {
        read(endpoint, body)
    }

    fn stream_reader(&self, endpoint: &Endpoint) -> Box<dyn UsageReader> {
        reader(endpoint)
    }
}

/// The live check: the list of models, then one token. A model that needs more than one for its
/// thoughts says so in its answer and has shown by then that the key is good.
pub(super) fn probe(
    model: &str,
    route: impl Fn(Inbound) -> Result<Outgoing, Unroutable>,
) -> Result<Vec<(Endpoint, Outgoing)>, Unroutable> {
    let ask = |endpoint: Endpoint, body: Bytes| {
        let inbound = Inbound {
            endpoint: endpoint.clone(),
            dialect: Dialect::Openai,
            version: PathVersion::V1,
            model: model.to_owned(),
            query: None,
            headers: HeaderMap::new(),
            body,
        };
        route(inbound).map(|outgoing| (endpoint, outgoing))
    };
    let message = serde_json::json!({
        "model": model,
        "max_completion_tokens": 1,
        "messages": [{ "role": "user", "content": "Hi" }],
    });
    Ok(vec![
        ask(Endpoint::Models, Bytes::new())?,
        ask(Endpoint::ChatCompletions, message.to_string().into())?,
    ])
}

pub(super) fn understands(endpoint: &Endpoint, body: &[u8]) -> bool {
    let Ok(answer) = serde_json::from_slice::<serde_json::Value>(body) else { return false };
    match endpoint {
        Endpoint::ChatCompletions => answer["choices"].is_array(),
        Endpoint::Responses => answer["output"].is_array(),
        Endpoint::Embeddings | Endpoint::Models => answer["data"].is_array(),
        Endpoint::Model(_) => answer["id"].is_string(),
        _ => false,
    }
}

/// These choose whose account pays: that is for the key alone to say.
const SELECTS_ACCOUNT: [&str; 2] = ["openai-organization", "openai-project"];

pub(super) fn passes(header: &str) -> bool {
    matches!(
        header,
        "content-type" | "accept" | "idempotency-key" | "x-client-request-id" | "x-ms-client-request-id"
    ) || header.starts_with("openai-") && !SELECTS_ACCOUNT.contains(&header)
}

/// The path of an endpoint after the version.
pub(super) fn path(endpoint: &Endpoint) -> Result<String, Unroutable> {
    Ok(match endpoint {
        Endpoint::ChatCompletions => "/chat/completions".to_owned(),
        Endpoint::Responses => "/responses".to_owned(),
        Endpoint::Embeddings => "/embeddings".to_owned(),
        Endpoint::Models => "/models".to_owned(),
        Endpoint::Model(id) => format!("/models/{}", segment(id)?),
        _ => return Err(Unroutable::Endpoint),
    })
}

/// A base URL that was copied together with one of its endpoints, without it.
pub(super) fn without_endpoint(url: &str) -> &str {
    ["/chat/completions", "/responses", "/embeddings", "/models"]
        .into_iter()
        .find_map(|ending| url.strip_suffix(ending))
        .unwrap_or(url)
}

/// Builds the request for a URL. `asks_usage`: streams of chat are asked to tell what they used.
pub(super) fn outgoing(
    inbound: Inbound,
    mut url: Url,
    asks_usage: bool,
    authenticate: impl FnOnce(&mut HeaderMap) -> Result<(), Unroutable>,
) -> Result<Outgoing, Unroutable> {
    let mut headers = inbound.headers;
    prepare_headers(&mut headers, &inbound.endpoint);
    authenticate(&mut headers)?;
    if let Some(query) = inbound.query.as_deref().filter(|query| !query.is_empty()) {
        let joined = url.query().map_or_else(|| query.to_owned(), |own| format!("{own}&{query}"));
        url.set_query(Some(&joined));
    }
    let asked = if asks_usage && inbound.endpoint == Endpoint::ChatCompletions {
        with_stream_usage(&inbound.body)?
    } else {
        None
    };
    let hides_usage = asked.is_some();
    let method = inbound.endpoint.method();
    Ok(Outgoing { method, url, headers, body: asked.unwrap_or(inbound.body), hides_usage })
}

/// The body with `stream_options.include_usage` true; `None` where it is so already, or where
/// nothing is streamed.
fn with_stream_usage(bytes: &Bytes) -> Result<Option<Bytes>, Unroutable> {
    #[derive(Deserialize)]
    struct Fields<'a> {
        #[serde(default)]
        stream: Option<bool>,
        #[serde(borrow, default)]
        stream_options: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct StreamOptions<'a> {
        #[serde(borrow, default)]
        include_usage: Option<&'a RawValue>,
    }
    // Most bodies stream nothing, and the word is found faster than the body is read.
    if memchr::memmem::find(bytes, b"stream").is_none() && !bytes.contains(&b'\\') {
        return Ok(None);
    }
    let fields: Fields<'_> = serde_json::from_slice(bytes).map_err(|_| Unroutable::Body)?;
    if fields.stream != Some(true) {
        return Ok(None);
    }
    let Some(options) = fields.stream_options.filter(|options| options.get() != "null") else {
        let all = r#"{"include_usage":true}"#;
        return Ok(Some(match null_span(bytes) {
            Some(null) => body::replaced(bytes, null, all.as_bytes()),
            None => body::with_field(bytes, 0, "stream_options", all),
        }));
    };
    let inner: StreamOptions<'_> = serde_json::from_str(options.get()).map_err(|_| Unroutable::Body)?;
    Ok(match inner.include_usage.map(RawValue::get) {
        Some("true") => None,
        Some(_) => inner.include_usage.map(|value| body::replaced(bytes, body::span(bytes, value), b"true")),
        None => match null_span(options.get().as_bytes()) {
            // `include_usage` is there, and null.
            Some(null) => {
                let start = body::span(bytes, options).start;
                Some(body::replaced(bytes, start + null.start..start + null.end, b"true"))
            }
            None => Some(body::with_field(bytes, body::span(bytes, options).start, "include_usage", "true")),
        },
    })
}

/// Where the null of the only field that is looked for stands. An optional raw value that is null
/// reads as absent; this tells the two apart.
fn null_span(bytes: &[u8]) -> Option<std::ops::Range<usize>> {
    #[derive(Deserialize)]
    struct Fields<'a> {
        #[serde(borrow, default, deserialize_with = "present", alias = "include_usage")]
        stream_options: Option<&'a RawValue>,
    }
    fn present<'de: 'a, 'a, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<&'a RawValue>, D::Error> {
        <&RawValue>::deserialize(deserializer).map(Some)
    }
    let fields: Fields<'_> = serde_json::from_slice(bytes).ok()?;
    fields.stream_options.filter(|value| value.get() == "null").map(|value| body::span(bytes, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_kinds_are_told_what_they_are() {
        let origins = super::super::tests::origins();
        let told = |secret: &str| Openai.recognise(secret, false, &origins).unwrap_err().0;
        assert_eq!(
            told("sk-ant-api03-x"),
            "This is an Anthropic API key. Paste an OpenAI API key: it starts with sk-."
        );
        assert!(told("sk-admin-x").contains("an OpenAI Admin key"));
        assert!(told("AIzaSyx").contains("Google"));
        assert!(told("kws_x").contains("Keyward"));
        assert!(told("hello").starts_with("This is not an OpenAI API key"));
        let prefix = |secret: &str| Openai.recognise(secret, false, &origins).unwrap().prefix;
        assert_eq!(
            (prefix("sk-proj-x"), prefix("sk-svcacct-x"), prefix("sk-x")),
            ("sk-proj-", "sk-svcacct-", "sk-")
        );
    }

    #[test]
    fn streams_of_chat_are_asked_for_their_usage() {
        for (before, after) in [
            (r#"{"model":"m"}"#, None),
            (r#"{"model":"m","stream":false}"#, None),
            (r#"{"stream":true,"stream_options":{"include_usage":true}}"#, None),
            (
                r#"{"stream":true,"a":1.0}"#,
                Some(r#"{"stream_options":{"include_usage":true},"stream":true,"a":1.0}"#),
            ),
            (
                r#"{"stream":true,"stream_options":null,"a":null}"#,
                Some(r#"{"stream":true,"stream_options":{"include_usage":true},"a":null}"#),
            ),
            (
                r#"{"stream":true,"stream_options":{ }}"#,
                Some(r#"{"stream":true,"stream_options":{"include_usage":true }}"#),
            ),
            (
                r#"{"stream":true,"stream_options":{"include_obfuscation":false,"include_usage" : false}}"#,
                Some(
                    r#"{"stream":true,"stream_options":{"include_obfuscation":false,"include_usage" : true}}"#,
                ),
            ),
            (
                r#"{"stream":true,"stream_options":{"include_usage":null}}"#,
                Some(r#"{"stream":true,"stream_options":{"include_usage":true}}"#),
            ),
            (
                r#"{"str\u0065am":true}"#,
                Some(r#"{"stream_options":{"include_usage":true},"str\u0065am":true}"#),
            ),
        ] {
            let out = with_stream_usage(&Bytes::from_static(before.as_bytes())).unwrap();
            assert_eq!(out.as_deref().map(|out| std::str::from_utf8(out).unwrap()), after, "{before}");
        }
        let twice = Bytes::from_static(br#"{"stream":true,"stream":false}"#);
        assert_eq!(with_stream_usage(&twice), Err(Unroutable::Body));
    }
}
