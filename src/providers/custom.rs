//! Any server that speaks `OpenAI`'s dialect, at a URL of the tenant's.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use url::Url;

use super::{
    BaseUrl, Credential, Endpoint, Field, Inbound, Judged, Need, Origins, Outgoing, Provider, Recognised,
    Report, STREAM_USAGE, Spec, Unroutable, UsageReader, WrongKind, extended, form_of, is_plain, openai,
    secret_header,
};
use crate::domain::clock::Moment;
use crate::domain::provider_key::Provider as Kind;

/// The provider; all that it knows is in its functions.
#[derive(Debug)]
pub struct Custom;

static SPEC: Spec = Spec {
    kind: Kind::Custom,
    title: "Custom endpoint (OpenAI-compatible)",
    key_label: "API key",
    key_prefix: "",
    key_is_document: false,
    base_url: BaseUrl {
        need: Need::Required,
        label: "Base URL",
        help: "What comes before /chat/completions, mostly with /v1 at its end. Must be https on a public host.",
        placeholder: "https://llm.example.com/v1",
    },
    fields: &[Field {
        name: STREAM_USAGE,
        label: "Ask streams for their usage",
        help: "Sets stream_options.include_usage, so that streamed answers are metered exactly. Leave it off if the server refuses that option.",
        placeholder: "",
        is_switch: true,
    }],
    console: None,
    docs_url: "https://developers.openai.com/api/reference/resources/chat",
    steps: &[
        "Find the base URL of your server or service in its documentation, under OpenAI compatibility.",
        "Make an API key there that is meant for this product alone.",
        "Paste both here. Keyward lists the models and asks for one token before anything is stored.",
    ],
    probe_model: "default",
};

impl Provider for Custom {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn recognise(&self, secret: &str, _: bool, _: &Origins) -> Result<Recognised, WrongKind> {
        is_plain(secret)?;
        match form_of(secret) {
            Some(what @ ("a Keyward access token" | "a JSON document")) => {
                Err(WrongKind(format!("This is {what}. Paste the API key of your endpoint.")))
            }
            _ => Ok(Recognised::prefix("")),
        }
    }

    fn probe(
        &self,
        credential: &Credential<'_>,
        model: &str,
    ) -> Result<Vec<(Endpoint, Outgoing)>, Unroutable> {
        openai::probe(model, |inbound| self.route(inbound, credential))
    }

    fn understands(&self, endpoint: &Endpoint, body: &[u8]) -> bool {
        openai::understands(endpoint, body)
    }

    fn judge(
        &self,
        endpoint: &Endpoint,
        status: u16,
        headers: &HeaderMap,
        body: &[u8],
        now: Moment,
    ) -> Judged {
        openai::judge(endpoint, status, headers, body, now)
    }

    fn passes(&self, header: &str) -> bool {
        openai::passes(header)
    }

    fn route(&self, inbound: Inbound, credential: &Credential<'_>) -> Result<Outgoing, Unroutable> {
        let base = credential.custom_url.ok_or(Unroutable::Url)?;
        let base = Url::parse(openai::without_endpoint(base)).map_err(|_| Unroutable::Url)?;
        let url = extended(&base, &openai::path(&inbound.endpoint)?);
        let asks_usage = credential.settings.get(STREAM_USAGE) == Some("yes");
        openai::outgoing(inbound, url, asks_usage, |headers| {
            headers.insert(AUTHORIZATION, secret_header("Bearer ", credential.secret)?);
            Ok(())
        })
    }

    fn read_usage(&self, endpoint: &Endpoint, body: &[u8]) -> Report {
        openai::read(endpoint, body)
    }

    fn stream_reader(&self, endpoint: &Endpoint) -> Box<dyn UsageReader> {
        openai::reader(endpoint)
    }
}
