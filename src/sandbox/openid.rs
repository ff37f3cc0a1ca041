//! An identity provider: `OpenID` Connect with a page that asks for an address and believes it. The word before
//! the `@` may say what goes wrong: `doubtful` is an address that is not known to be theirs, `silent` one that
//! is not told, `forged` a token signed by somebody else.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

use actix_web::{HttpRequest, HttpResponse, web};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::{Value, json};

use super::state::{State, lock, sha256};
use crate::domain::clock::SECOND;

/// The client's secret: whichever begins so is taken.
const SECRET: &str = "sandbox-";
const TOKEN_LIVES: i64 = 300;

/// Codes that were given out, until they are redeemed.
#[derive(Default)]
pub struct Codes(Mutex<HashMap<String, Code>>);

struct Code {
    email: String,
    asked: Asked,
}

/// What the browser brings.
#[derive(Clone, Deserialize)]
struct Asked {
    client_id: String,
    redirect_uri: String,
    state: String,
    nonce: String,
    code_challenge: String,
    #[serde(default)]
    login_hint: String,
}

pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/openid/.well-known/openid-configuration", web::get().to(configuration))
        .route("/openid/keys", web::get().to(keys))
        .route("/openid/authorize", web::get().to(page))
        .route("/openid/authorize", web::post().to(authorize))
        .route("/openid/token", web::post().to(token));
}

struct Pair {
    document: Vec<u8>,
    public: Vec<u8>,
}

fn pair() -> Option<Pair> {
    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let document = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).ok()?;
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref()).ok()?;
    Some(Pair { document: document.as_ref().to_vec(), public: pair.public_key().as_ref().to_vec() })
}

/// What it signs with, and what somebody else would.
static KEY: LazyLock<Option<Pair>> = LazyLock::new(pair);
static FOREIGN: LazyLock<Option<Pair>> = LazyLock::new(pair);

fn issuer(request: &HttpRequest) -> String {
    format!("http://{}/openid", request.connection_info().host())
}

async fn configuration(request: HttpRequest) -> HttpResponse {
    let issuer = issuer(&request);
    HttpResponse::Ok().json(json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/authorize"),
        "token_endpoint": format!("{issuer}/token"),
        "jwks_uri": format!("{issuer}/keys"),
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
        "scopes_supported": ["openid", "email"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic"],
    }))
}

async fn keys() -> HttpResponse {
    // An uncompressed point: a byte of its form, and two coordinates.
    let Some((x, y)) = KEY.as_ref().and_then(|pair| pair.public.get(1..)?.split_at_checked(32)) else {
        return HttpResponse::InternalServerError().finish();
    };
    HttpResponse::Ok().json(json!({ "keys": [{
        "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "sandbox",
        "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
    }] }))
}

async fn page(asked: web::Query<Asked>) -> HttpResponse {
    let hint = asked.login_hint.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
    HttpResponse::Ok().content_type("text/html; charset=utf-8").body(format!(
        "<!doctype html><html lang=en><title>Identity provider</title><h1>Identity provider</h1><p>Of the sandbox. It believes whatever you say.</p><form method=post><label>E-mail address <input name=email type=email value=\"{hint}\"></label> <button>Sign in</button></form>"
    ))
}

#[derive(Deserialize)]
struct Typed {
    email: String,
}

async fn authorize(
    state: web::Data<State>,
    asked: web::Query<Asked>,
    typed: web::Form<Typed>,
) -> HttpResponse {
    let asked = asked.into_inner();
    let Ok(mut back) = url::Url::parse(&asked.redirect_uri) else {
        return HttpResponse::BadRequest().body("No such place to go back to.\n");
    };
    let code = state.id("code");
    back.query_pairs_mut().append_pair("code", &code).append_pair("state", &asked.state);
    lock(&state.codes.0).insert(code, Code { email: typed.into_inner().email, asked });
    HttpResponse::SeeOther().insert_header(("location", back.to_string())).finish()
}

fn refused(error: &str) -> HttpResponse {
    HttpResponse::BadRequest().json(json!({ "error": error }))
}

async fn token(request: HttpRequest, state: web::Data<State>, body: web::Bytes) -> HttpResponse {
    let form: HashMap<String, String> = url::form_urlencoded::parse(&body).into_owned().collect();
    let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    let Some(code) = lock(&state.codes.0).remove(field("code")) else { return refused("invalid_grant") };
    let basic = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    let basic = basic.and_then(|value| STANDARD.decode(value.strip_prefix("Basic ")?).ok());
    let basic = basic.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
    // Both halves are encoded as in forms (RFC 6749, 2.3.1).
    let decoded = |half: &str| {
        let pair = format!("={half}");
        url::form_urlencoded::parse(pair.as_bytes()).map(|(_, value)| value.into_owned()).collect::<String>()
    };
    let (id, secret) =
        basic.split_once(':').map(|(id, secret)| (decoded(id), decoded(secret))).unwrap_or_default();
    if id != code.asked.client_id || !secret.starts_with(SECRET) {
        return HttpResponse::Unauthorized().json(json!({ "error": "invalid_client" }));
    }
    let challenge = URL_SAFE_NO_PAD.encode(sha256(field("code_verifier").as_bytes()));
    if challenge != code.asked.code_challenge || field("redirect_uri") != code.asked.redirect_uri {
        return refused("invalid_grant");
    }
    let now = state.clock.now().0 / SECOND;
    let word = code.email.split('@').next().unwrap_or_default();
    let mut claims = json!({
        "iss": issuer(&request), "aud": code.asked.client_id, "nonce": code.asked.nonce,
        "sub": hex::encode(&sha256(code.email.to_lowercase().as_bytes())[..8]),
        "iat": now, "exp": now + TOKEN_LIVES, "auth_time": now,
        "email": code.email, "email_verified": word != "doubtful",
    });
    if word == "silent" {
        claims.as_object_mut().map(|claims| claims.remove("email"));
    }
    let pair = if word == "forged" { FOREIGN.as_ref() } else { KEY.as_ref() };
    match pair.and_then(|pair| signed(pair, &claims)) {
        Some(token) => HttpResponse::Ok().json(json!({
            "access_token": state.id("access"), "token_type": "Bearer", "expires_in": TOKEN_LIVES, "id_token": token,
        })),
        None => HttpResponse::InternalServerError().finish(),
    }
}

fn signed(pair: &Pair, claims: &Value) -> Option<String> {
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    let header = Header { kid: Some("sandbox".to_owned()), ..Header::new(Algorithm::ES256) };
    encode(&header, claims, &EncodingKey::from_ec_der(&pair.document)).ok()
}
