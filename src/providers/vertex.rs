//! Vertex AI: Gemini and Claude in a Google Cloud project, by a service account. Wire facts are from
//! the official SDKs (`PyPI` `google-genai` 3.4, `anthropic` 2.11 with its Vertex client) and
//! developers.google.com/identity/protocols/oauth2/service-account.

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use url::Url;
use zeroize::Zeroizing;

use super::{
    BaseUrl, ConsoleLinks, Credential, Endpoint, Field, Inbound, Judged, LOCATION, Origins, Outgoing,
    PathVersion, Provider, Recognised, Report, Spec, Unroutable, UsageReader, WrongKind, anthropic, body,
    extended, form_of, google, is_path_segment, prepare_headers, secret_header, segment,
};
use crate::crypto::secret::Secret;
use crate::domain::clock::{HOUR, Moment, SECOND};
use crate::domain::provider_key::Provider as Kind;

/// The provider; all that it knows is in its functions.
#[derive(Debug)]
pub struct Vertex;

const ANTHROPIC_VERSION: &str = "\"vertex-2023-10-16\"";
const CLOUD_SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// Where Google's own key files say that tokens come from. Nothing is ever sent to what a file says.
const GOOGLE_TOKEN_URIS: [&str; 2] =
    ["https://oauth2.googleapis.com/token", "https://accounts.google.com/o/oauth2/token"];
const DEFAULT_LOCATION: &str = "global";

static SPEC: Spec = Spec {
    kind: Kind::Vertex,
    title: "Vertex AI (Gemini and Claude)",
    key_label: "Service account key (JSON)",
    key_prefix: "",
    key_is_document: true,
    base_url: BaseUrl::NONE,
    fields: &[Field {
        name: LOCATION,
        label: "Location",
        help: "Where requests are served, such as global, eu or us-central1. Empty means global.",
        placeholder: DEFAULT_LOCATION,
        is_switch: false,
    }],
    console: Some(ConsoleLinks {
        keys: "https://console.cloud.google.com/iam-admin/serviceaccounts",
        billing: "https://console.cloud.google.com/billing",
        limits: "https://console.cloud.google.com/iam-admin/quotas",
    }),
    docs_url: "https://cloud.google.com/vertex-ai/generative-ai/docs",
    steps: &[
        "In the Google Cloud console, open IAM and admin, then Service accounts, in a project with the Vertex AI API enabled.",
        "Create a service account with the role Vertex AI User, and nothing more.",
        "Under Keys, add a key of type JSON. The browser downloads a file.",
        "Paste the whole file here. Keyward asks Google for a token with it and makes one tiny call before anything is stored.",
    ],
    probe_model: "gemini-3.1-flash-lite",
};

/// What is kept of a service account's key file.
#[derive(Deserialize, Serialize)]
struct Account {
    #[serde(rename = "type")]
    kind: String,
    project_id: String,
    private_key_id: String,
    private_key: Zeroizing<String>,
    client_email: String,
}

impl Account {
    fn of(secret: &Secret) -> Result<Self, Unroutable> {
        serde_json::from_str(secret.expose()).map_err(|_| Unroutable::Secret)
    }

    fn signer(&self) -> Option<jsonwebtoken::EncodingKey> {
        jsonwebtoken::EncodingKey::from_rsa_pem(self.private_key.as_bytes()).ok()
    }
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    scope: &'a str,
    aud: &'a str,
    iat: i64,
    exp: i64,
}

impl Provider for Vertex {
    fn spec(&self) -> &'static Spec {
        &SPEC
    }

    fn recognise(&self, secret: &str, _: bool, origins: &Origins) -> Result<Recognised, WrongKind> {
        #[derive(Deserialize)]
        struct Kind {
            #[serde(rename = "type")]
            kind: Option<String>,
            token_uri: Option<String>,
        }
        let wrong = |text: &str| Err(WrongKind(text.to_owned()));
        let Ok(kind) = serde_json::from_str::<Kind>(secret) else {
            return match form_of(secret) {
                Some(what) if !what.contains("JSON") => Err(WrongKind(format!(
                    "This is {what}. Paste the JSON key file of a service account, all of it."
                ))),
                _ => wrong("This is not the JSON key file of a service account. Paste all of the file."),
            };
        };
        match kind.kind.as_deref() {
            Some("service_account") => {}
            Some("authorized_user") => {
                return wrong(
                    "These are a person's own credentials. Paste the JSON key file of a service account.",
                );
            }
            Some("external_account") => {
                return wrong(
                    "This is a workload identity configuration, which holds no key. Paste the JSON key file of a service account.",
                );
            }
            _ => return wrong("This JSON is not the key file of a service account: its type is another."),
        }
        let foreign = kind.token_uri.is_some_and(|uri| {
            !GOOGLE_TOKEN_URIS.contains(&uri.as_str()) && uri != origins.google_token.as_str()
        });
        if foreign {
            return wrong(
                "The token_uri of this file is not Google's. Download the key file again from the Google Cloud console.",
            );
        }
        let Ok(account) = serde_json::from_str::<Account>(secret) else {
            return wrong(
                "This key file is not complete: it needs project_id, private_key_id, private_key and client_email.",
            );
        };
        let plain =
            |text: &str| !text.is_empty() && text.len() <= 256 && text.bytes().all(|b| b.is_ascii_graphic());
        if !is_path_segment(&account.project_id)
            || !plain(&account.client_email)
            || !plain(&account.private_key_id)
        {
            return wrong(
                "The project or the account in this key file is not one that Google could have given.",
            );
        }
        if account.signer().is_none() {
            return wrong(
                "The private key in this file is broken. Copy all of the file, with its line ends as they are.",
            );
        }
        let kept =
            serde_json::to_string(&account).map_err(|_| WrongKind("This key file cannot be kept.".into()))?;
        Ok(Recognised { prefix: "", hint_of: Some(account.private_key_id), kept: Some(Secret::new(kept)) })
    }

    fn assertion(
        &self,
        secret: &Secret,
        origins: &Origins,
        now: Moment,
    ) -> Result<Option<Outgoing>, Unroutable> {
        let account = Account::of(secret)?;
        let signer = account.signer().ok_or(Unroutable::Secret)?;
        let issued = now.0 / SECOND;
        let claims = Claims {
            iss: &account.client_email,
            scope: CLOUD_SCOPE,
            aud: origins.google_token.as_str(),
            iat: issued,
            exp: issued + HOUR / SECOND,
        };
        let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::RS256);
        header.kid = Some(account.private_key_id.clone());
        let signed = jsonwebtoken::encode(&header, &claims, &signer).map_err(|_| Unroutable::Secret)?;
        let body =
            format!("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={signed}");
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        Ok(Some(Outgoing {
            method: Method::POST,
            url: origins.google_token.clone(),
            headers,
            body: body.into(),
            hides_usage: false,
        }))
    }

    fn probe(
        &self,
        credential: &Credential<'_>,
        model: &str,
    ) -> Result<Vec<(Endpoint, Outgoing)>, Unroutable> {
        let count = Endpoint::CountContent { model: model.to_owned() };
        google::probe(count, model, |inbound| self.route(inbound, credential))
    }

    fn understands(&self, endpoint: &Endpoint, body: &[u8]) -> bool {
        match endpoint {
            Endpoint::Messages | Endpoint::CountTokens => anthropic::Anthropic.understands(endpoint, body),
            _ => google::understands(endpoint, body),
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
        google::judge(endpoint, status, headers, body, now)
    }

    fn passes(&self, header: &str) -> bool {
        google::passes(header) || header == "anthropic-beta"
    }

    fn route(&self, inbound: Inbound, credential: &Credential<'_>) -> Result<Outgoing, Unroutable> {
        let token = credential.bearer.ok_or(Unroutable::Secret)?;
        let project = Account::of(credential.secret)?.project_id;
        let location = credential.settings.get(LOCATION).unwrap_or(DEFAULT_LOCATION);
        let origin = match &credential.origins.vertex {
            Some(origin) => origin.clone(),
            None => {
                Url::parse(&format!("https://{}", host(segment(location)?))).map_err(|_| Unroutable::Url)?
            }
        };
        let version = match inbound.version {
            PathVersion::V1 => "v1",
            PathVersion::V1Beta => "v1beta1",
        };
        let place = format!("projects/{}/locations/{}", segment(&project)?, segment(location)?);
        let (version, publisher, rest, body) = match &inbound.endpoint {
            Endpoint::Messages => {
                let (streams, body) = claude_body(&inbound.body)?;
                let how = if streams { "streamRawPredict" } else { "rawPredict" };
                ("v1", "anthropic", format!("{}:{how}", segment(&inbound.model)?), body)
            }
            // The model stays in the body here: the path has none.
            Endpoint::CountTokens => {
                ("v1", "anthropic", "count-tokens:rawPredict".to_owned(), with_version(&inbound.body)?)
            }
            endpoint => (version, "google", google::action(endpoint)?, inbound.body.clone()),
        };
        let mut url = extended(&origin, &format!("/{version}/{place}/publishers/{publisher}/models/{rest}"));
        // What Anthropic's clients put into the query, such as `beta=true`, is nothing to Google.
        let passes = !matches!(inbound.endpoint, Endpoint::Messages | Endpoint::CountTokens);
        url.set_query(inbound.query.as_deref().filter(|query| passes && !query.is_empty()));
        let mut headers = inbound.headers;
        prepare_headers(&mut headers, &inbound.endpoint);
        headers.insert(AUTHORIZATION, secret_header("Bearer ", token)?);
        Ok(Outgoing { method: Method::POST, url, headers, body, hides_usage: false })
    }

    fn read_usage(&self, endpoint: &Endpoint, body: &[u8]) -> Report {
        match endpoint {
            Endpoint::Messages => anthropic::read(body),
            _ => google::read(body),
        }
    }

    fn stream_reader(&self, endpoint: &Endpoint) -> Box<dyn UsageReader> {
        match endpoint {
            Endpoint::Messages => anthropic::reader(),
            _ => google::reader(),
        }
    }
}

/// The host of a location, as the official SDKs have it.
fn host(location: &str) -> String {
    match location {
        "global" => "aiplatform.googleapis.com".to_owned(),
        "us" | "eu" => format!("aiplatform.{location}.rep.googleapis.com"),
        region => format!("{region}-aiplatform.googleapis.com"),
    }
}

#[derive(Deserialize)]
struct ClaudeFields<'a> {
    #[serde(borrow, default)]
    model: Option<&'a RawValue>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(borrow, default)]
    anthropic_version: Option<&'a RawValue>,
}

/// Whether a message streams, and its body as Vertex wants it: with the version, and without the
/// model, which is in the path.
fn claude_body(bytes: &bytes::Bytes) -> Result<(bool, bytes::Bytes), Unroutable> {
    let fields: ClaudeFields<'_> = serde_json::from_slice(bytes).map_err(|_| Unroutable::Body)?;
    let streams = fields.stream == Some(true);
    let bytes = match fields.model {
        Some(model) => body::without_field(bytes, model),
        None => bytes.clone(),
    };
    Ok((streams, with_version(&bytes)?))
}

fn with_version(bytes: &bytes::Bytes) -> Result<bytes::Bytes, Unroutable> {
    let fields: ClaudeFields<'_> = serde_json::from_slice(bytes).map_err(|_| Unroutable::Body)?;
    Ok(match fields.anthropic_version {
        Some(_) => bytes.clone(),
        None => body::with_field(bytes, 0, "anthropic_version", ANTHROPIC_VERSION),
    })
}
