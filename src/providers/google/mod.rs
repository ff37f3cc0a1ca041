//! Google AI Studio: the Gemini API. Wire facts are from the official SDK (`PyPI` `google-genai` 3.4)
//! and the API reference at ai.google.dev. Vertex AI answers in the same shape.

mod judge;
mod usage;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};

use super::{
    BaseUrl, ConsoleLinks, Credential, Endpoint, Inbound, Judged, Origins, Outgoing, PathVersion, Provider,
    Recognised, Report, Spec, Unroutable, UsageReader, WrongKind, extended, form_of, is_plain,
    prepare_headers, secret_header, segment,
};
use crate::domain::clock::Moment;
use crate::domain::provider_key::Provider as Kind;
use crate::domain::usage::Dialect;

pub(super) use {judge::judge, usage::read, usage::reader};

/// The provider; all that it knows is in its functions.
#[derive(Debug)]
pub struct Google;

const API_KEY: HeaderName = HeaderName::from_static("x-goog-api-key");
const PREFIXES: [&str; 2] = ["AQ.", "AIza"];

static SPEC: Spec = Spec {
    kind: Kind::Google,
    title: "Google AI Studio (Gemini)",
    key_label: "API key",
    key_prefix: "AQ.",
    key_is_document: false,
    base_url: BaseUrl::NONE,
    fields: &[],
    console: Some(ConsoleLinks {
        keys: "https://aistudio.google.com/api-keys",
        billing: "https://aistudio.google.com/billing",
        limits: "https://aistudio.google.com/rate-limit",
    }),
    docs_url: "https://ai.google.dev/gemini-api/docs",
    steps: &[
        "Sign in to Google AI Studio with an account that may manage API keys.",
        "Open API keys and choose Create API key. A project of its own keeps this usage apart.",
        "Copy the key. It starts with AQ., an older one with AIza.",
        "Paste it here. Keyward makes one tiny call with it before anything is stored.",
    ],
    probe_model: "gemini-3.1-flash-lite",
};

impl Provider for Google {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn recognise(&self, secret: &str, _: bool, _: &Origins) -> Result<Recognised, WrongKind> {
        if secret.starts_with('{') {
            let told = "This is a JSON document. A service account's key file goes with Vertex AI; for Google AI Studio paste an API key.";
            return Err(WrongKind(told.into()));
        }
        is_plain(secret)?;
        if let Some(prefix) = PREFIXES.into_iter().find(|prefix| secret.starts_with(prefix)) {
            return Ok(Recognised::prefix(prefix));
        }
        let want = "it starts with AQ. or AIza";
        Err(WrongKind(match form_of(secret) {
            Some(what) => format!("This is {what}. Paste a Gemini API key: {want}."),
            None => format!("This is not a Gemini API key: {want}."),
        }))
    }

    fn probe(
        &self,
        credential: &Credential<'_>,
        model: &str,
    ) -> Result<Vec<(Endpoint, Outgoing)>, Unroutable> {
        probe(Endpoint::Models, model, |inbound| self.route(inbound, credential))
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
        let version = match inbound.version {
            PathVersion::V1 => "v1",
            PathVersion::V1Beta => "v1beta",
        };
        let path = match &inbound.endpoint {
            Endpoint::Models => format!("/{version}/models"),
            Endpoint::Model(id) => format!("/{version}/models/{}", segment(id)?),
            endpoint => format!("/{version}/models/{}", action(endpoint)?),
        };
        let mut url = extended(&credential.origins.google, &path);
        url.set_query(inbound.query.as_deref().filter(|query| !query.is_empty()));
        let mut headers = inbound.headers;
        prepare_headers(&mut headers, &inbound.endpoint);
        headers.insert(API_KEY, secret_header("", credential.secret)?);
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

/// The live check: a question that costs nothing, then one token.
pub(super) fn probe(
    first: Endpoint,
    model: &str,
    route: impl Fn(Inbound) -> Result<Outgoing, Unroutable>,
) -> Result<Vec<(Endpoint, Outgoing)>, Unroutable> {
    let hello = serde_json::json!([{ "role": "user", "parts": [{ "text": "Hi" }] }]);
    let ask = |endpoint: Endpoint, body: Bytes| {
        let inbound = Inbound {
            endpoint: endpoint.clone(),
            dialect: Dialect::Gemini,
            version: PathVersion::V1Beta,
            model: model.to_owned(),
            query: None,
            headers: HeaderMap::new(),
            body,
        };
        route(inbound).map(|outgoing| (endpoint, outgoing))
    };
    let first_body = match &first {
        Endpoint::Models => Bytes::new(),
        _ => serde_json::json!({ "contents": hello }).to_string().into(),
    };
    let message = serde_json::json!({ "contents": hello, "generationConfig": { "maxOutputTokens": 1 } });
    let generate = Endpoint::Generate { model: model.to_owned(), stream: false };
    Ok(vec![ask(first, first_body)?, ask(generate, message.to_string().into())?])
}

pub(super) fn understands(endpoint: &Endpoint, body: &[u8]) -> bool {
    let Ok(answer) = serde_json::from_slice::<serde_json::Value>(body) else { return false };
    match endpoint {
        Endpoint::Generate { .. } => answer["candidates"].is_array() || answer["usageMetadata"].is_object(),
        Endpoint::CountContent { .. } => answer["totalTokens"].is_u64(),
        Endpoint::Models => answer["models"].is_array() || answer["publisherModels"].is_array(),
        Endpoint::Model(_) => answer["name"].is_string(),
        _ => false,
    }
}

pub(super) fn passes(header: &str) -> bool {
    matches!(
        header,
        "content-type" | "accept" | "x-goog-api-client" | "x-goog-request-params" | "x-server-timeout"
    )
}

/// A model and what it is asked to do, as the end of a path.
pub(super) fn action(endpoint: &Endpoint) -> Result<String, Unroutable> {
    match endpoint {
        Endpoint::Generate { model, stream: false } => Ok(format!("{}:generateContent", segment(model)?)),
        Endpoint::Generate { model, stream: true } => {
            Ok(format!("{}:streamGenerateContent", segment(model)?))
        }
        Endpoint::CountContent { model } => Ok(format!("{}:countTokens", segment(model)?)),
        _ => Err(Unroutable::Endpoint),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_kinds_are_told_what_they_are() {
        let origins = super::super::tests::origins();
        let told = |secret: &str| Google.recognise(secret, false, &origins).unwrap_err().0;
        assert!(told("{\"type\":\"service_account\"}").contains("Vertex AI"));
        assert!(told("ya29.x").starts_with("This is a Google OAuth token."));
        assert!(told("sk-x").contains("OpenAI"));
        assert!(told("hello").starts_with("This is not a Gemini API key"));
        let prefix = |secret: &str| Google.recognise(secret, false, &origins).unwrap().prefix;
        assert_eq!((prefix("AQ.x"), prefix("AIzaSyx")), ("AQ.", "AIza"));
    }
}
