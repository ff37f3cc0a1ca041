//! Azure `OpenAI`: the v1 API, and classic deployment URLs with an API version. Wire facts are from
//! the official SDK (`PyPI` `openai` 3.52, its Azure client) and learn.microsoft.com/azure.

use http::{HeaderMap, HeaderName};
use url::Url;

use super::{
    API_VERSION, BaseUrl, ConsoleLinks, Credential, Endpoint, Field, Inbound, Judged, Need, Origins,
    Outgoing, Provider, Recognised, Report, Spec, Unroutable, UsageReader, WrongKind, extended, form_of,
    is_plain, openai, secret_header, segment,
};
use crate::domain::clock::Moment;
use crate::domain::provider_key::{KeySettings, Provider as Kind};

/// The provider; all that it knows is in its functions.
#[derive(Debug)]
pub struct Azure;

const API_KEY: HeaderName = HeaderName::from_static("api-key");
const DEPLOYMENTS: &str = "/openai/deployments/";

static SPEC: Spec = Spec {
    kind: Kind::Azure,
    title: "Azure OpenAI",
    key_label: "API key",
    key_prefix: "",
    key_is_document: false,
    base_url: BaseUrl {
        need: Need::Required,
        label: "Endpoint",
        help: "Of your resource, such as https://example.openai.azure.com, or the URL of one deployment. Leave out what follows a question mark.",
        placeholder: "https://example.openai.azure.com",
    },
    fields: &[Field {
        name: API_VERSION,
        label: "API version",
        help: "Leave empty for the v1 API. Classic deployments need one, such as 2024-10-21.",
        placeholder: "2024-10-21",
        is_switch: false,
    }],
    console: Some(ConsoleLinks {
        keys: "https://portal.azure.com/#view/Microsoft_Azure_ProjectOxford/CognitiveServicesHub/~/OpenAI",
        billing: "https://portal.azure.com/#view/Microsoft_Azure_CostManagement/Menu/~/overview",
        limits: "https://ai.azure.com/quota",
    }),
    docs_url: "https://learn.microsoft.com/azure/foundry/openai/reference",
    steps: &[
        "Open your Azure OpenAI resource in the Azure portal.",
        "Under Resource Management, choose Keys and Endpoint.",
        "Copy KEY 1 or KEY 2, and the endpoint. Requests name your deployments as their model.",
        "Paste both here. Keyward makes one tiny call with them before anything is stored.",
    ],
    probe_model: "gpt-5.4-nano",
};

impl Provider for Azure {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn recognise(&self, secret: &str, _: bool, _: &Origins) -> Result<Recognised, WrongKind> {
        is_plain(secret)?;
        match form_of(secret) {
            Some(what) => {
                Err(WrongKind(format!("This is {what}. Paste KEY 1 or KEY 2 of your Azure OpenAI resource.")))
            }
            None => Ok(Recognised::prefix("")),
        }
    }

    fn objection(
        &self,
        custom_url: Option<&str>,
        settings: &KeySettings,
    ) -> Option<(&'static str, &'static str)> {
        let classic = custom_url.is_some_and(|url| url.contains(DEPLOYMENTS));
        (classic && settings.get(API_VERSION).is_none())
            .then_some((API_VERSION, "The URL of a deployment needs an API version, such as 2024-10-21."))
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
        let url = url(&inbound, credential)?;
        openai::outgoing(inbound, url, true, |headers| {
            headers.insert(API_KEY, secret_header("", credential.secret)?);
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

/// Where a request goes: `…/openai/v1/…`, or with an API version `…/openai/deployments/{name}/…`.
fn url(inbound: &Inbound, credential: &Credential<'_>) -> Result<Url, Unroutable> {
    let base = credential.custom_url.ok_or(Unroutable::Url)?;
    let base = openai::without_endpoint(base).trim_end_matches('/');
    let (resource, deployment) = base.split_once(DEPLOYMENTS).unwrap_or((base, ""));
    let resource = resource.strip_suffix("/openai/v1").unwrap_or(resource);
    let resource = resource.strip_suffix("/openai").unwrap_or(resource);
    let resource = Url::parse(resource).map_err(|_| Unroutable::Url)?;
    let path = openai::path(&inbound.endpoint)?;
    let Some(version) = credential.settings.get(API_VERSION) else {
        return Ok(extended(&resource, &format!("/openai/v1{path}")));
    };
    let deployment = if deployment.is_empty() { inbound.model.as_str() } else { deployment };
    let mut url = match inbound.endpoint {
        // Only these belong to a deployment.
        Endpoint::ChatCompletions | Endpoint::Embeddings => {
            extended(&resource, &format!("{DEPLOYMENTS}{}{path}", segment(deployment)?))
        }
        _ => extended(&resource, &format!("/openai{path}")),
    };
    url.query_pairs_mut().append_pair("api-version", version);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::{PathVersion, tests::origins};
    use super::*;
    use crate::crypto::secret::Secret;
    use crate::domain::usage::Dialect;

    #[test]
    fn both_kinds_of_url_lead_to_the_deployment() {
        let secret = Secret::new("0123456789abcdef0123456789abcdef".into());
        let at = |base: &str, version: Option<&str>, endpoint: Endpoint| {
            let settings =
                KeySettings(version.map(|v| (API_VERSION.to_owned(), v.to_owned())).into_iter().collect());
            let inbound = Inbound {
                endpoint,
                dialect: Dialect::Openai,
                version: PathVersion::V1,
                model: "my-gpt".into(),
                query: None,
                headers: HeaderMap::new(),
                body: Bytes::from_static(b"{}"),
            };
            let credential = Credential {
                secret: &secret,
                custom_url: Some(base),
                settings: &settings,
                origins: &origins(),
                bearer: None,
            };
            let out = Azure.route(inbound, &credential).unwrap();
            assert_eq!(out.headers["api-key"], secret.expose());
            assert!(out.headers["api-key"].is_sensitive() && !out.headers.contains_key("authorization"));
            out.url.to_string()
        };
        let chat = Endpoint::ChatCompletions;
        let v1 = "https://a.openai.azure.com/openai/v1/chat/completions";
        for base in [
            "https://a.openai.azure.com/",
            "https://a.openai.azure.com/openai",
            "https://a.openai.azure.com/openai/v1",
            "https://a.openai.azure.com/openai/v1/chat/completions",
        ] {
            assert_eq!(at(base, None, chat.clone()), v1, "{base}");
        }
        let classic =
            "https://a.openai.azure.com/openai/deployments/my-gpt/chat/completions?api-version=2024-10-21";
        let version = Some("2024-10-21");
        assert_eq!(at("https://a.openai.azure.com/", version, chat.clone()), classic);
        assert_eq!(
            at("https://a.openai.azure.com/openai/deployments/other/chat/completions", version, chat),
            classic.replace("my-gpt", "other")
        );
        assert_eq!(
            at("https://a.openai.azure.com/", version, Endpoint::Models),
            "https://a.openai.azure.com/openai/models?api-version=2024-10-21"
        );
        assert_eq!(
            at("https://gate.example.com/ai", None, Endpoint::Responses),
            "https://gate.example.com/ai/openai/v1/responses"
        );
        let none = KeySettings::default();
        assert!(Azure.objection(Some("https://a.openai.azure.com/openai/deployments/x"), &none).is_some());
        assert!(Azure.objection(Some("https://a.openai.azure.com/"), &none).is_none());
    }
}
