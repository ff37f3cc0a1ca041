//! Google Cloud: the token endpoint for service accounts, and Vertex AI with Gemini and Claude.
//!
//! A service account's e-mail address carries the word that says what its key does, as in
//! `sandbox-ok-0001@project.iam.gserviceaccount.com`. Assertions are read, not verified: the sandbox
//! knows no account's public key.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::behaviour::Behaviour;
use super::delivery::Reply;
use super::door::Call;
use super::gemini::{self, Refusal, error};
use super::state::{State, sha256};
use super::{anthropic, error::ApiError, prompt::Prompt};

const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const LASTS: i64 = 3_599;
const TOKEN_PREFIX: &str = "ya29.";

pub fn is_vertex(path: &str) -> bool {
    path.starts_with("/v1/projects/") || path.starts_with("/v1beta1/projects/")
}

/// Exchanges an assertion for an access token.
pub fn token(state: &State, call: &Call<'_>) -> Reply {
    let refuse =
        |error: &str, told: &str| Reply::json(400, &json!({ "error": error, "error_description": told }));
    let form = call.form();
    let field = |name: &str| form.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str());
    if field("grant_type") != Some(GRANT) {
        return refuse("unsupported_grant_type", "Invalid grant_type");
    }
    let Some(claims) = field("assertion").and_then(claims) else {
        return refuse("invalid_grant", "Invalid JWT.");
    };
    let now = state.clock.now().0 / 1_000_000;
    let holds = |name: &str| claims[name].as_i64().unwrap_or_default();
    if holds("iat") > now + 300 || holds("exp") < now || holds("exp") - holds("iat") > 3_600 {
        return refuse("invalid_grant", "Invalid JWT: Token must be a short-lived token.");
    }
    let email = claims["iss"].as_str().unwrap_or_default();
    let account = email.split('@').next().unwrap_or_default();
    let hash = sha256(email.as_bytes());
    match state.behaviour(&format!("{account}-{email}"), &hash, &[""]) {
        None => refuse("invalid_grant", "Invalid grant: account not found"),
        Some(Behaviour::Revoked) => refuse("invalid_grant", "Invalid JWT Signature."),
        Some(behaviour) => Reply::json(
            200,
            &json!({
                "access_token": format!("{TOKEN_PREFIX}sandbox-{behaviour}-{}", &hex::encode(hash)[..24]),
                "expires_in": LASTS,
                "token_type": "Bearer",
            }),
        ),
    }
}

fn claims(assertion: &str) -> Option<Value> {
    let mut parts = assertion.split('.');
    let (header, claims, signature) = (parts.next()?, parts.next()?, parts.next()?);
    let read =
        |part: &str| -> Option<Value> { serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok() };
    let signed = URL_SAFE_NO_PAD.decode(signature).is_ok_and(|signature| signature.len() >= 256);
    (parts.next().is_none() && signed && read(header)?["alg"] == "RS256").then(|| read(claims))?
}

/// Answers for a model in a project.
pub fn answer(state: &State, call: &Call<'_>) -> Reply {
    decide(state, call).unwrap_or_else(|refusal| refusal)
}

fn decide(state: &State, call: &Call<'_>) -> Result<Reply, Refusal> {
    let unknown = || {
        error(
            401,
            "UNAUTHENTICATED",
            Some("ACCESS_TOKEN_TYPE_UNSUPPORTED"),
            "Request had invalid authentication credentials.",
        )
    };
    let text = call.bearer().ok_or_else(unknown)?;
    let key = sha256(text.as_bytes());
    let behaviour = state.behaviour(text, &key, &[TOKEN_PREFIX]).ok_or_else(unknown)?;
    if behaviour == Behaviour::Forbidden {
        let told = "Permission 'aiplatform.endpoints.predict' denied on resource.";
        return Err(error(403, "PERMISSION_DENIED", Some("CONSUMER_SUSPENDED"), told));
    }
    let not_found = || error(404, "NOT_FOUND", None, "Publisher Model was not found.");
    let (model, action) = gemini::model_in(call.path).ok_or_else(not_found)?;
    if call.path.contains("/publishers/google/") {
        return gemini::act(state, call, &key, behaviour, model, action);
    }
    let invalid = |error: ApiError| Reply::json(error.status, &error.body(""));
    let body = call.json.filter(|body| body.is_object()).ok_or_else(not_found)?;
    if body["anthropic_version"] != "vertex-2023-10-16" {
        return Err(invalid(ApiError::invalid("anthropic_version: Field required")));
    }
    if model == "count-tokens" {
        let counted = Prompt::to_count(body).map_err(invalid)?;
        return Ok(Reply::json(200, &json!({ "input_tokens": counted.tokens() })));
    }
    if body.get("model").is_some() {
        return Err(invalid(ApiError::invalid("model: Extra inputs are not permitted")));
    }
    let mut body = body.clone();
    body["model"] = json!(model);
    body["stream"] = json!(action == "streamRawPredict");
    anthropic::create(state, &key, behaviour, &body).map(|(reply, ..)| reply).map_err(invalid)
}

/// A service account's key file whose key behaves as a word says, with a private key of its own.
pub fn service_account(word: Behaviour, private_key_pem: &str) -> Value {
    let email = format!("sandbox-{word}-0001@sandbox-project.iam.gserviceaccount.com");
    json!({
        "type": "service_account",
        "project_id": "sandbox-project",
        "private_key_id": hex::encode(&sha256(private_key_pem.as_bytes())[..20]),
        "private_key": private_key_pem,
        "client_email": email,
        "client_id": "100000000000000000000",
        "auth_uri": "https://accounts.google.com/o/oauth2/auth",
        "token_uri": "https://oauth2.googleapis.com/token",
        "universe_domain": "googleapis.com",
    })
}
