//! `Idempotency-Key`: a POST that is sent again gets the answer of the first.

use std::future::Future;

use actix_web::HttpResponse;
use actix_web::body::MessageBody as _;
use actix_web::http::StatusCode;
use sha2::{Digest, Sha256};

use super::problem::Problem;
use super::{Asked, header};
use crate::storage::idempotency::{self, Answer, Claim};

const LONGEST_KEY: usize = 255;

/// Does the work, or gives the answer that it had before. Answers of status 500 and above are not
/// kept: the request may be tried again.
pub async fn once(
    asked: &Asked,
    body: &[u8],
    work: impl Future<Output = Result<HttpResponse, Problem>>,
) -> HttpResponse {
    match replayed(asked, body).await {
        Err(problem) => asked.answer(Err(problem)),
        Ok(Outcome::Known(response)) => asked.answer(Ok(response)),
        Ok(Outcome::NoKey) => asked.answer(work.await),
        Ok(Outcome::First(key)) => {
            let response = asked.answer(work.await);
            kept(asked, &key, response).await
        }
    }
}

enum Outcome {
    NoKey,
    First(String),
    Known(HttpResponse),
}

async fn replayed(asked: &Asked, body: &[u8]) -> Result<Outcome, Problem> {
    let Some(key) = header(&asked.request, "idempotency-key")? else { return Ok(Outcome::NoKey) };
    if key.is_empty() || key.len() > LONGEST_KEY || !key.bytes().all(|b| b.is_ascii_graphic()) {
        let text = format!("Idempotency-Key takes 1 to {LONGEST_KEY} printable characters without spaces.");
        return Err(Problem::bad_request(text));
    }
    let services = asked.services();
    let tenant = asked.bearer.tenant.map(|tenant| tenant.0.to_string()).unwrap_or_default();
    // Blinded: the body may hold a key, and a bare hash could be tried against guesses.
    let body = hex::encode(Sha256::digest(body));
    let request = services.root.blind("api request", &format!("{}\0{tenant}\0{body}", asked.request.path()));
    let token = asked.bearer.token.id;
    let mut tx = services.db.write().await?;
    let claim = idempotency::claim(&mut tx, token, key, request.as_bytes(), services.clock.now()).await?;
    tx.commit().await?;
    match claim {
        Claim::First => Ok(Outcome::First(key.to_owned())),
        Claim::Other => Err(Problem::reused_idempotency_key()),
        Claim::UnderWay => {
            Err(Problem::conflict("The first request with this Idempotency-Key is under way."))
        }
        Claim::Done(Answer { status, body, location }) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
            let kind = if status.is_success() { "application/json" } else { "application/problem+json" };
            let mut response = HttpResponse::build(status);
            response.insert_header(("idempotency-replayed", "true"));
            if let Some(location) = location {
                response.insert_header(("location", location));
            }
            let response =
                if body.is_empty() { response.finish() } else { response.content_type(kind).body(body) };
            Ok(Outcome::Known(response))
        }
    }
}

async fn kept(asked: &Asked, key: &str, response: HttpResponse) -> HttpResponse {
    let services = asked.services();
    let token = asked.bearer.token.id;
    let (head, body) = response.into_parts();
    let bytes = body.try_into_bytes().unwrap_or_default();
    let location = head.headers().get("location").and_then(|place| place.to_str().ok());
    let answer = Answer {
        status: head.status().as_u16(),
        body: String::from_utf8_lossy(&bytes).into_owned(),
        location: location.map(str::to_owned),
    };
    let written = async {
        let mut tx = services.db.write().await?;
        if answer.status < 500 && answer.status != 429 {
            idempotency::finish(&mut tx, token, key, &answer).await?;
        } else {
            idempotency::release(&mut tx, token, key).await?;
        }
        tx.commit().await
    };
    if let Err(error) = written.await {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "an answer could not be kept for its repetition"
        );
    }
    head.set_body(actix_web::body::BoxBody::new(bytes))
}
