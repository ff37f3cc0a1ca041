//! The sandbox as a client meets it: a real server on a free port, over HTTP.

#![allow(clippy::expect_used, reason = "clippy does not know the helpers of tests as tests")]

use std::net::TcpListener;
use std::time::{Duration, Instant};

use actix_web::dev::ServerHandle;
use keyward::domain::clock::{Clock, Moment};
use keyward::domain::price_list::models;
use keyward::domain::provider_key::Provider;
use keyward::sandbox::{Options, server};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const OK: &str = "sk-ant-api03-sandbox-ok-0001-AAAA";
const MODEL: &str = "claude-sonnet-5-5";

struct Sandbox {
    base: String,
    client: Client,
    handle: ServerHandle,
    clock: Clock,
}

impl Sandbox {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let clock = Clock::adjustable();
        let server =
            server(listener, Options { clock: clock.clone(), workers: 1, courier: None }).expect("a server");
        let handle = server.handle();
        tokio::spawn(server);
        let client = Client::builder().no_proxy().build().expect("a client");
        Self { base, client, handle, clock }
    }

    async fn stop(self) {
        self.handle.stop(false).await;
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    fn call(&self, method: Method, path: &str, key: &str) -> RequestBuilder {
        self.request(method, path).header("x-api-key", key).header("anthropic-version", "2023-06-01")
    }

    async fn models(&self, key: &str) -> Response {
        self.call(Method::GET, "/v1/models", key).send().await.expect("an answer")
    }

    async fn message(&self, key: &str, body: &Value) -> Response {
        self.call(Method::POST, "/v1/messages", key).json(body).send().await.expect("an answer")
    }

    async fn answered(&self, key: &str, body: &Value) -> Value {
        json_of(self.message(key, body).await).await
    }

    /// Status, type and message of the refusal of a message.
    async fn refused(&self, key: &str, body: &Value) -> (u16, String, String) {
        refusal(self.message(key, body).await).await
    }

    async fn control(&self, path: &str, body: Value) -> Response {
        self.request(Method::POST, path).json(&body).send().await.expect("an answer")
    }

    async fn requests(&self) -> Value {
        let list = self.request(Method::GET, "/sandbox/requests").send().await.expect("an answer");
        list.json::<Value>().await.expect("JSON")["requests"].take()
    }
}

fn key(behaviour: &str) -> String {
    format!("sk-ant-api03-sandbox-{behaviour}-0001-AAAA")
}

fn sha256(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

fn hello() -> Value {
    json!({ "model": MODEL, "max_tokens": 1024, "messages": [{ "role": "user", "content": "Hello there" }] })
}

/// A body with some of its fields replaced.
fn with(mut body: Value, changes: &Value) -> Value {
    for (name, value) in changes.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body
}

fn probe() -> Value {
    with(hello(), &json!({ "max_tokens": 1 }))
}

fn streamed() -> Value {
    with(hello(), &json!({ "stream": true }))
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().expect("text"))
}

async fn json_of(response: Response) -> Value {
    response.json().await.expect("JSON")
}

async fn refusal(response: Response) -> (u16, String, String) {
    let status = response.status().as_u16();
    let request_id = header(&response, "request-id").expect("a request id").to_owned();
    let body = json_of(response).await;
    assert_eq!(body["type"], "error");
    assert_eq!(body["request_id"], request_id.as_str());
    let text = |field: &str| body["error"][field].as_str().expect("text").to_owned();
    (status, text("type"), text("message"))
}

/// The events of a stream as (name, data).
fn events(text: &str) -> Vec<(String, Value)> {
    text.split_terminator("\n\n")
        .map(|event| {
            let (name, data) = event.split_once('\n').expect("two lines");
            let data = serde_json::from_str(data.strip_prefix("data: ").expect("data")).expect("JSON");
            (name.strip_prefix("event: ").expect("a name").to_owned(), data)
        })
        .collect()
}

fn text_of(events: &[(String, Value)]) -> String {
    events.iter().filter_map(|(_, data)| data["delta"]["text"].as_str()).collect()
}

#[tokio::test]
async fn a_message_has_the_provider_s_shape() {
    let sandbox = Sandbox::start();
    let response = sandbox.message(OK, &hello()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(header(&response, "content-type"), Some("application/json"));
    assert!(header(&response, "request-id").is_some_and(|id| id.starts_with("req_")));
    assert!(header(&response, "anthropic-organization-id").is_some());
    assert_eq!(header(&response, "anthropic-ratelimit-requests-limit"), Some("4000"));
    assert_eq!(header(&response, "anthropic-ratelimit-requests-remaining"), Some("3999"));
    assert!(header(&response, "anthropic-ratelimit-tokens-reset").is_some_and(|time| time.ends_with('Z')));

    let message = json_of(response).await;
    assert!(message["id"].as_str().is_some_and(|id| id.starts_with("msg_")));
    assert_eq!(message["type"], "message");
    assert_eq!(message["role"], "assistant");
    assert_eq!(message["model"], MODEL);
    assert_eq!(message["stop_reason"], "end_turn");
    assert!(message["stop_sequence"].is_null());
    let text = message["content"][0]["text"].as_str().unwrap();
    assert!(text.starts_with("You wrote: \"Hello there\"."), "{text}");
    assert_eq!(
        message["usage"],
        json!({
            "input_tokens": 3,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": { "ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0 },
            "output_tokens": text.len().div_ceil(4),
            "service_tier": "standard",
            "inference_geo": "global",
        })
    );

    let again = sandbox.answered(OK, &hello()).await;
    assert_eq!(again["content"], message["content"], "the same words");
    assert_ne!(again["id"], message["id"], "another message");
    sandbox.stop().await;
}

#[tokio::test]
async fn an_answer_keeps_to_max_tokens() {
    let sandbox = Sandbox::start();
    let message = sandbox.answered(OK, &probe()).await;
    assert_eq!(message["usage"]["output_tokens"], 1);
    assert_eq!(message["stop_reason"], "max_tokens");
    let warm = with(hello(), &json!({ "max_tokens": 0 }));
    let message = sandbox.answered(OK, &warm).await;
    assert_eq!(message["usage"]["output_tokens"], 0);
    assert_eq!(message["content"], json!([]));
    sandbox.stop().await;
}

#[tokio::test]
async fn a_stream_has_the_provider_s_order_and_totals() {
    let sandbox = Sandbox::start();
    let whole = sandbox.answered(OK, &hello()).await;
    let response = sandbox.message(OK, &streamed()).await;
    assert_eq!(header(&response, "content-type"), Some("text/event-stream; charset=utf-8"));
    let events = events(&response.text().await.unwrap());
    let mut names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    names.dedup();
    assert_eq!(
        names,
        [
            "message_start",
            "content_block_start",
            "ping",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop"
        ]
    );
    assert!(events.iter().all(|(name, data)| data["type"] == name.as_str()));
    assert_eq!(text_of(&events), whole["content"][0]["text"].as_str().unwrap());

    let start = &events[0].1["message"];
    assert_eq!(start["content"], json!([]));
    assert!(start["stop_reason"].is_null());
    assert_eq!(start["usage"]["output_tokens"], 1);
    assert!(start["usage"]["cache_creation"].is_object());
    let end = &events[events.len() - 2].1;
    assert_eq!(end["delta"]["stop_reason"], "end_turn");
    assert_eq!(
        end["usage"],
        json!({
            "input_tokens": 3,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": whole["usage"]["output_tokens"],
        })
    );

    let long = sandbox.message(&key("long"), &streamed()).await.text().await.unwrap();
    assert_eq!(long.matches("event: content_block_delta\n").count(), 200);
    sandbox.stop().await;
}

#[tokio::test]
async fn the_credential_is_x_api_key_and_nothing_else() {
    let sandbox = Sandbox::start();
    let bearer = sandbox
        .request(Method::GET, "/v1/models")
        .header("anthropic-version", "2023-06-01")
        .bearer_auth(OK)
        .send()
        .await
        .unwrap();
    let (status, kind, message) = refusal(bearer).await;
    assert_eq!((status, kind.as_str()), (401, "authentication_error"));
    assert_eq!(message, "x-api-key header is required");
    for unknown in ["sk-ant-api03-sandbox-0001-AAAA", "sk-ant-admin01-sandbox-ok-0001-AAAA", "sk-proj-ok-1"] {
        let (status, _, message) = refusal(sandbox.models(unknown).await).await;
        assert_eq!((status, message.as_str()), (401, "invalid x-api-key"), "{unknown}");
    }
    sandbox.stop().await;
}

#[tokio::test]
async fn rejected_keys_fail_everywhere() {
    let sandbox = Sandbox::start();
    for (behaviour, expected) in
        [("revoked", (401, "authentication_error")), ("forbidden", (403, "permission_error"))]
    {
        for response in
            [sandbox.models(&key(behaviour)).await, sandbox.message(&key(behaviour), &probe()).await]
        {
            let (status, kind, _) = refusal(response).await;
            assert_eq!((status, kind.as_str()), expected, "{behaviour}");
        }
    }
    sandbox.stop().await;
}

#[tokio::test]
async fn cached_and_thought_tokens_show_in_both_forms() {
    let sandbox = Sandbox::start();
    let system = json!([{ "type": "text", "text": "eight by", "cache_control": { "type": "ephemeral" } }]);
    let tools = json!([{ "type": "web_search_20260209", "name": "web_search" }]);
    let changes = json!({ "system": system, "tools": tools, "thinking": { "type": "adaptive" } });
    let whole = sandbox.answered(OK, &with(hello(), &changes)).await["usage"].take();
    assert_eq!(whole["cache_creation_input_tokens"], 2);
    let text = sandbox.message(OK, &with(streamed(), &changes)).await.text().await.unwrap();
    let events = events(&text);
    let deltas: Vec<&str> = events.iter().filter_map(|(_, data)| data["delta"]["type"].as_str()).collect();
    for kind in ["thinking_delta", "signature_delta", "input_json_delta", "text_delta"] {
        assert!(deltas.contains(&kind), "{kind}");
    }
    assert_eq!(events[0].1["message"]["usage"]["cache_read_input_tokens"], 2);
    let end = &events[events.len() - 2].1["usage"];
    for same in ["output_tokens", "output_tokens_details", "server_tool_use"] {
        assert!(!whole[same].is_null() && end[same] == whole[same], "{same}");
    }
    sandbox.stop().await;
}

#[tokio::test]
async fn limits_refuse_messages_and_even_the_probe() {
    let sandbox = Sandbox::start();
    let december = Moment::from_timestamp("2099-12-15T12:00:00Z".parse().unwrap());
    sandbox.clock.advance(december.since(sandbox.clock.now()));
    for (behaviour, expected, begins) in [
        ("nocredit", (400, "invalid_request_error"), "Your credit balance is too low to access"),
        (
            "spendlimit",
            (400, "invalid_request_error"),
            "You have reached your specified API usage limits. You will regain access on 2100-01-01 at 00:00 UTC.",
        ),
        ("ratelimited", (429, "rate_limit_error"), "This request would exceed"),
        ("enforced", (429, "rate_limit_error"), "Your organization has crossed"),
    ] {
        let key = key(behaviour);
        assert_eq!(sandbox.models(&key).await.status(), StatusCode::OK, "{behaviour}");
        let count = sandbox.call(Method::POST, "/v1/messages/count_tokens", &key).json(&hello());
        assert_eq!(json_of(count.send().await.unwrap()).await, json!({ "input_tokens": 3 }), "{behaviour}");
        for body in [hello(), streamed(), probe()] {
            let (status, kind, message) = sandbox.refused(&key, &body).await;
            assert_eq!((status, kind.as_str()), expected, "{behaviour}");
            assert!(message.starts_with(begins), "{message}");
        }
    }
    let limited = sandbox.message(&key("ratelimited"), &hello()).await;
    assert_eq!(header(&limited, "retry-after"), Some("30"));
    assert_eq!(header(&limited, "anthropic-ratelimit-requests-remaining"), Some("0"));
    let enforced = sandbox.message(&key("enforced"), &hello()).await;
    assert_eq!(header(&enforced, "retry-after"), None);
    assert_eq!(json_of(enforced).await["error"]["details"]["error_code"], "enforced_spend_limit_reached");
    sandbox.stop().await;
}

#[tokio::test]
async fn faults_spare_the_probe() {
    let sandbox = Sandbox::start();
    for behaviour in ["slow", "truncated", "garbage", "hang", "huge", "overloaded", "servererror"] {
        let response = sandbox.message(&key(behaviour), &probe()).await;
        assert_eq!(response.status(), StatusCode::OK, "{behaviour}");
        assert_eq!(json_of(response).await["usage"]["output_tokens"], 1, "{behaviour}");
    }
    let (status, kind, message) = sandbox.refused(&key("overloaded"), &hello()).await;
    assert_eq!((status, kind.as_str(), message.as_str()), (529, "overloaded_error", "Overloaded"));
    let (status, kind, _) = sandbox.refused(&key("servererror"), &streamed()).await;
    assert_eq!((status, kind.as_str()), (500, "api_error"));
    sandbox.stop().await;
}

#[tokio::test]
async fn truncated_answers_break_off() {
    let sandbox = Sandbox::start();
    let response = sandbox.message(&key("truncated"), &hello()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.content_length().is_some_and(|promised| promised > 0));
    assert!(response.bytes().await.is_err(), "less came than was promised");

    let mut response = sandbox.message(&key("truncated"), &streamed()).await;
    let mut received = Vec::new();
    let ending = loop {
        match response.chunk().await {
            Ok(Some(chunk)) => received.extend_from_slice(&chunk),
            ending => break ending,
        }
    };
    assert!(ending.is_err(), "the stream is cut, not ended");
    let text = String::from_utf8(received).unwrap();
    assert!(text.starts_with("event: message_start\n") && text.contains("content_block_delta"), "{text}");
    assert!(!text.ends_with("\n\n") && !text.contains("message_stop"), "in the middle of an event: {text}");
    sandbox.stop().await;
}

#[tokio::test]
async fn garbage_has_the_right_type_and_no_sense() {
    let sandbox = Sandbox::start();
    for (body, kind) in [(hello(), "application/json"), (streamed(), "text/event-stream; charset=utf-8")] {
        let response = sandbox.message(&key("garbage"), &body).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(header(&response, "content-type"), Some(kind));
        assert!(response.text().await.unwrap().starts_with("<!DOCTYPE html>"));
    }
    sandbox.stop().await;
}

#[tokio::test]
async fn slow_and_hanging_keys_take_their_time() {
    let sandbox = Sandbox::start();
    let begun = Instant::now();
    let response = sandbox.message(&key("slow"), &streamed()).await;
    assert!(begun.elapsed() >= Duration::from_secs(2), "before the first byte");
    let first = Instant::now();
    let events = events(&response.text().await.unwrap());
    assert!(first.elapsed() >= Duration::from_millis(10) * u32::try_from(events.len()).unwrap());

    let hanging = sandbox.call(Method::POST, "/v1/messages", &key("hang")).json(&hello());
    let error = hanging.timeout(Duration::from_millis(300)).send().await.unwrap_err();
    assert!(error.is_timeout());
    assert!(sandbox.requests().await[0]["status"].is_null(), "it arrived and has no answer");
    sandbox.stop().await;
}

#[tokio::test]
async fn a_huge_answer_comes_without_a_length() {
    let sandbox = Sandbox::start();
    for body in [hello(), streamed()] {
        let mut response = sandbox.message(&key("huge"), &body).await;
        assert_eq!(response.content_length(), None);
        let (mut size, mut last) = (0, bytes::Bytes::new());
        while let Some(chunk) = response.chunk().await.unwrap() {
            size += chunk.len();
            last = chunk;
        }
        assert!((80 << 20..81 << 20).contains(&size), "{size}");
        assert!(last.ends_with(b"}") || last.ends_with(b"}\n\n"));
    }
    sandbox.stop().await;
}

#[tokio::test]
async fn requests_are_checked_as_the_provider_does() {
    let sandbox = Sandbox::start();
    let nameless = json!({ "max_tokens": 1, "messages": [] });
    let (status, kind, message) = sandbox.refused(OK, &nameless).await;
    assert_eq!((status, kind.as_str()), (400, "invalid_request_error"));
    assert_eq!(message, "model: Field required");
    let (status, kind, message) = sandbox.refused(OK, &with(hello(), &json!({ "model": "claude-x" }))).await;
    assert_eq!((status, kind.as_str(), message.as_str()), (404, "not_found_error", "model: claude-x"));

    let send = |body: Vec<u8>| sandbox.call(Method::POST, "/v1/messages", OK).body(body).send();
    let (status, kind, _) = refusal(send(b"{".to_vec()).await.unwrap()).await;
    assert_eq!((status, kind.as_str()), (400, "invalid_request_error"));
    let (status, kind, _) = refusal(send(vec![b' '; (32 << 20) + 1]).await.unwrap()).await;
    assert_eq!((status, kind.as_str()), (413, "request_too_large"));

    let get = |path: &str| sandbox.request(Method::GET, path).header("x-api-key", OK);
    let (status, _, message) = refusal(get("/v1/models").send().await.unwrap()).await;
    assert_eq!((status, message.as_str()), (400, "anthropic-version: header is required"));
    let version = |version| get("/v1/models").header("anthropic-version", version).send();
    assert_eq!(version("2026-10-21").await.unwrap().status(), StatusCode::OK, "the newest official one");
    assert_eq!(refusal(version("latest").await.unwrap()).await.0, 400);
    let (status, kind, _) = refusal(get("/v1/nothing").send().await.unwrap()).await;
    assert_eq!((status, kind.as_str()), (404, "not_found_error"));
    sandbox.stop().await;
}

#[tokio::test]
async fn every_model_of_the_price_list_is_listed_and_answers() {
    let sandbox = Sandbox::start();
    let get = |path: String| sandbox.call(Method::GET, &path, OK).send();
    let list = json_of(get("/v1/models".to_owned()).await.unwrap()).await;
    let ids: Vec<&str> =
        list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    let claude = models().iter().filter(|model| model.maker() == Provider::Anthropic);
    assert_eq!(ids, claude.map(|model| model.id.as_str()).collect::<Vec<_>>());
    assert_eq!((&list["has_more"], &list["first_id"]), (&json!(false), &json!(ids[0])));
    for id in &ids {
        let message = sandbox.answered(OK, &with(hello(), &json!({ "model": id }))).await;
        assert_eq!(message["model"], *id);
    }

    let page = json_of(get(format!("/v1/models?limit=2&after_id={}", ids[1])).await.unwrap()).await;
    assert_eq!((&page["first_id"], &page["has_more"]), (&json!(ids[2]), &json!(true)));

    let model = json_of(get("/v1/models/claude-sonnet-4-5-20250929".to_owned()).await.unwrap()).await;
    assert_eq!(model["id"], "claude-sonnet-4-5-20250929");
    assert_eq!((&model["line"], &model["lifecycle"]), (&json!("sonnet"), &json!("deprecated")));
    assert_eq!(
        (&model["max_tokens"], &model["retires_at"]),
        (&json!(64_000), &json!("2026-11-30T00:00:00Z"))
    );
    assert_eq!(get("/v1/models/claude-x".to_owned()).await.unwrap().status(), StatusCode::NOT_FOUND);
    sandbox.stop().await;
}

#[tokio::test]
async fn a_limit_can_be_lifted_and_a_behaviour_imposed() {
    let sandbox = Sandbox::start();
    let limited = key("nocredit");
    let answer = sandbox.control("/sandbox/lift", json!({ "sha256": sha256(&limited) })).await;
    assert_eq!(json_of(answer).await, json!({ "sha256": sha256(&limited), "behaviour": "ok" }));
    assert_eq!(sandbox.message(&limited, &hello()).await.status(), StatusCode::OK);

    for (behaviour, status) in [("revoked", 401), ("ratelimited", 429), ("ok", 200)] {
        let change = json!({ "sha256": sha256(OK), "behaviour": behaviour });
        assert_eq!(sandbox.control("/sandbox/impose", change).await.status(), StatusCode::OK);
        assert_eq!(sandbox.message(OK, &hello()).await.status().as_u16(), status, "{behaviour}");
    }

    let change = json!({ "sha256": sha256(OK), "behaviour": "sleepy" });
    let (status, _, message) = refusal(sandbox.control("/sandbox/impose", change).await).await;
    assert_eq!(status, 400);
    assert!(message.contains("\"sleepy\"") && message.contains("nocredit"), "{message}");
    let malformed = sandbox.control("/sandbox/lift", json!({ "sha256": OK })).await;
    assert_eq!(malformed.status(), StatusCode::BAD_REQUEST);
    sandbox.stop().await;
}

#[tokio::test]
async fn what_arrived_is_listed_with_the_hash_and_never_the_key() {
    let sandbox = Sandbox::start();
    sandbox.models(OK).await;
    let body = streamed().to_string();
    let request = sandbox.call(Method::POST, "/v1/messages", OK).body(body.clone());
    request.header("anthropic-beta", "some-beta").header("x-other", "private").send().await.unwrap();
    sandbox.request(Method::GET, "/v1/models").bearer_auth(OK).send().await.unwrap();

    let requests = sandbox.requests().await;
    let text = requests.to_string();
    assert!(!text.contains("sk-ant") && !text.contains("private"), "{text}");
    assert_eq!(requests.as_array().unwrap().len(), 3);
    assert_eq!(requests[0]["credential_header"], "authorization");
    assert_eq!(requests[0]["status"], 401);
    let newest = &requests[1];
    assert_eq!(newest["method"], "POST");
    assert_eq!(newest["path"], "/v1/messages");
    assert_eq!(newest["credential_header"], "x-api-key");
    assert_eq!(newest["credential_sha256"], sha256(OK));
    assert_eq!(newest["headers"]["anthropic-beta"], "some-beta");
    assert!(newest["header_names"].as_array().unwrap().contains(&json!("x-other")));
    assert_eq!((&newest["model"], &newest["stream"]), (&json!(MODEL), &json!(true)));
    assert_eq!(newest["body_sha256"], sha256(&body));
    assert_eq!((&newest["body_bytes"], &newest["status"]), (&json!(body.len()), &json!(200)));
    assert_eq!(requests[2]["path"], "/v1/models");

    let clear = sandbox.request(Method::DELETE, "/sandbox/requests").send().await.unwrap();
    assert_eq!(clear.status(), StatusCode::NO_CONTENT);
    assert_eq!(sandbox.requests().await, json!([]));
    let help = sandbox.request(Method::GET, "/sandbox/").send().await.unwrap().text().await.unwrap();
    assert!(help.contains(OK) && help.contains("/sandbox/impose"), "{help}");
    sandbox.stop().await;
}
