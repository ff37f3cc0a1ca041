//! What Keyward is compared with: the least that actix-web and reqwest can do. It puts in a key
//! and passes bodies and streams on; it knows no tenants, opens no keys and counts nothing.

use std::net::TcpListener;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::web::{self, Bytes, Data};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};

use super::Failure;

struct Upstream {
    client: reqwest::Client,
    origin: String,
    key: String,
}

pub async fn serve(listener: TcpListener, origin: String, key: String) -> Result<(), Failure> {
    // As in src/outbound.
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .retry(reqwest::retry::never())
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        .pool_idle_timeout(Duration::from_mins(1))
        .build()?;
    let upstream = Data::new(Upstream { client, origin, key });
    let app = move || {
        App::new()
            .app_data(upstream.clone())
            .app_data(web::PayloadConfig::new(32 * 1_024 * 1_024))
            .default_service(web::to(forward))
    };
    let server = HttpServer::new(app).workers(1).tcp_nodelay(true).h1_allow_half_closed(false);
    Ok(server.keep_alive(Duration::from_secs(75)).listen(listener)?.run().await?)
}

async fn forward(request: HttpRequest, body: Bytes, upstream: Data<Upstream>) -> HttpResponse {
    match pass(&request, body, &upstream).await {
        Ok(response) => response,
        Err(error) => HttpResponse::BadGateway().body(error.to_string()),
    }
}

async fn pass(request: &HttpRequest, body: Bytes, upstream: &Upstream) -> Result<HttpResponse, Failure> {
    let mut outgoing = upstream.client.post(format!("{}{}", upstream.origin, request.uri()));
    for name in ["content-type", "anthropic-version", "accept"] {
        if let Some(value) = request.headers().get(name) {
            outgoing = outgoing.header(name, value.as_bytes());
        }
    }
    let outgoing = outgoing.header("accept-encoding", "identity");
    let outgoing = match request.path() {
        path if path.starts_with("/v1beta") => {
            outgoing.header("x-goog-api-key", format!("AQ.{}", upstream.key))
        }
        "/v1/chat/completions" => {
            outgoing.header("authorization", format!("Bearer sk-proj-{}", upstream.key))
        }
        _ => outgoing.header("x-api-key", format!("sk-ant-api03-{}", upstream.key)),
    };
    let answer = outgoing.body(body).send().await?;
    let mut response = HttpResponse::build(StatusCode::from_u16(answer.status().as_u16())?);
    for (name, value) in answer.headers() {
        if !matches!(name.as_str(), "connection" | "transfer-encoding" | "content-length" | "date") {
            response.append_header((name.as_str(), value.as_bytes()));
        }
    }
    if answer
        .headers()
        .get("content-type")
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
    {
        return Ok(response.streaming(answer.bytes_stream()));
    }
    Ok(response.body(answer.bytes().await?))
}
