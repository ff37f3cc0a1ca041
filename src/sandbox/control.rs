//! `/sandbox`: the controls for tests and developers, which no provider has.

use std::sync::LazyLock;

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::json;

use super::behaviour::Behaviour;
use super::error::ApiError;
use super::google;
use super::state::{Hash, State};

const HELP: &str = "\
Keyward sandbox: a local provider that speaks the wire formats of Anthropic, OpenAI and Gemini.

POST   /v1/messages               answers every model of the price list, as JSON or as a stream
POST   /v1/messages/count_tokens
POST   /v1/chat/completions, /v1/responses, /v1/embeddings; the same under /custom/v1 (any key),
       /openai/v1 and /openai/deployments/{model} (Azure)
POST   /v1beta/models/{model}:generateContent, :streamGenerateContent, :countTokens; also under /v1
POST   /token, /v1/projects/...   Google's token endpoint, and Vertex AI
GET    /v1/models[/{id}], /v1beta/models[/{id}]

POST   /sandbox/lift              {\"sha256\": \"<hex of the key>\"} ends the key's limit
POST   /sandbox/impose            {\"sha256\": \"...\", \"behaviour\": \"revoked\"}
GET    /sandbox/service-account/{word}   a service account's key file for Vertex AI
GET    /sandbox/requests?limit=   what arrived, newest first, with the credential's SHA-256
DELETE /sandbox/requests

POST   /v1/checkout/sessions      a payment provider's checkout, for keys that begin sk_test_sandbox
GET    /sandbox/pay/{id}          its page: pay, cancel, refund
POST   /sandbox/hook              takes any webhook

A key says what it does. Anthropic's go as x-api-key; the others are the same with another
beginning: sk-proj- as Bearer (OpenAI), AQ. as x-goog-api-key (Gemini), and none as api-key (Azure)
or Bearer (custom):
";

const LISTED_BY_DEFAULT: usize = 100;

pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/", web::get().to(help))
        .route("/sandbox", web::get().to(help))
        .route("/sandbox/", web::get().to(help))
        .route("/sandbox/lift", web::post().to(lift))
        .route("/sandbox/impose", web::post().to(impose))
        .route("/sandbox/hook", web::post().to(hook))
        .route("/sandbox/requests", web::get().to(requests))
        .route("/sandbox/requests", web::delete().to(clear))
        .route("/sandbox/service-account/{word}", web::get().to(service_account));
}

async fn help() -> HttpResponse {
    let keys: Vec<String> =
        Behaviour::ALL.iter().map(|word| format!("  sk-ant-api03-sandbox-{word}-0001-AAAA\n")).collect();
    HttpResponse::Ok().content_type("text/plain; charset=utf-8").body(format!("{HELP}{}", keys.concat()))
}

#[derive(Deserialize)]
struct Lift {
    sha256: String,
}

async fn lift(state: web::Data<State>, body: web::Bytes) -> HttpResponse {
    answer(&state, read::<Lift>(&body).and_then(|lift| change(&state, &lift.sha256, Behaviour::Ok)))
}

#[derive(Deserialize)]
struct Impose {
    sha256: String,
    behaviour: String,
}

async fn impose(state: web::Data<State>, body: web::Bytes) -> HttpResponse {
    let outcome = read::<Impose>(&body).and_then(|impose| {
        let behaviour =
            Behaviour::parse(&impose.behaviour).ok_or_else(|| unknown_behaviour(&impose.behaviour))?;
        change(&state, &impose.sha256, behaviour)
    });
    answer(&state, outcome)
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::invalid(error.to_string()))
}

fn unknown_behaviour(word: &str) -> ApiError {
    let known: Vec<&str> = Behaviour::ALL.iter().map(|known| known.as_str()).collect();
    ApiError::invalid(format!("behaviour: unknown word \"{word}\"; known are {}", known.join(", ")))
}

fn change(state: &State, sha256: &str, behaviour: Behaviour) -> Result<serde_json::Value, ApiError> {
    let mut hash = Hash::default();
    hex::decode_to_slice(sha256, &mut hash)
        .map_err(|_| ApiError::invalid("sha256: must be the key's SHA-256 as 64 hexadecimal digits"))?;
    state.impose(hash, behaviour);
    Ok(json!({ "sha256": hex::encode(hash), "behaviour": behaviour }))
}

fn answer(state: &State, outcome: Result<serde_json::Value, ApiError>) -> HttpResponse {
    let id = state.id("req");
    match outcome {
        Ok(body) => HttpResponse::Ok().json(body),
        Err(error) => {
            HttpResponse::BadRequest().insert_header(("request-id", id.as_str())).json(error.body(&id))
        }
    }
}

/// The private key of all test accounts: made when first asked for, gone with the process.
static PRIVATE_KEY: LazyLock<Option<String>> = LazyLock::new(private_key);

fn private_key() -> Option<String> {
    use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use base64::Engine as _;
    let pair = KeyPair::generate(KeySize::Rsa2048).ok()?;
    let der: Pkcs8V1Der<'_> = pair.as_der().ok()?;
    let text = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    Some(format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n")))
}

async fn service_account(state: web::Data<State>, word: web::Path<String>) -> HttpResponse {
    let made = Behaviour::parse(&word).ok_or_else(|| unknown_behaviour(&word)).and_then(|word| {
        let key = PRIVATE_KEY.as_deref().ok_or_else(ApiError::internal)?;
        Ok(google::service_account(word, key))
    });
    answer(&state, made)
}

#[derive(Deserialize)]
struct Page {
    limit: Option<usize>,
}

async fn requests(state: web::Data<State>, page: web::Query<Page>) -> HttpResponse {
    let records = state.journal.newest(page.limit.unwrap_or(LISTED_BY_DEFAULT));
    HttpResponse::Ok().json(json!({ "requests": records }))
}

/// Takes any webhook, as a receiver would that is pleased with all of them.
async fn hook() -> HttpResponse {
    HttpResponse::NoContent().finish()
}

async fn clear(state: web::Data<State>) -> HttpResponse {
    state.journal.clear();
    HttpResponse::NoContent().finish()
}
