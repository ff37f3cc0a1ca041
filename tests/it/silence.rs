//! What the gateway does when nothing comes: from a provider, or from a client that has left.

use std::time::Duration;

use keyward::domain::account::Tenant;
use keyward::domain::billing::UsageMode;
use keyward::domain::provider_key::{KeyState, ProviderKey, Verdict};
use keyward::domain::usage::{TokenUsage, UsageRow, UsageState, estimate};
use keyward::outbound::{Parts, Patience};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::faults::only_row;
use crate::support::{On, Setup, World, error_code, holder, message, test_key};

/// In place of minutes.
const SHORT: Duration = Duration::from_secs(1);
/// Longer than anything here takes, and shorter than what is waited for by default.
const LONG: Duration = Duration::from_secs(30);
/// By this a call is told from the checks of a key.
const CALLER: &str = "a-caller-of-the-gateway";

const STREAM: &str = "text/event-stream";
const JSON: &str = "application/json";
const HALF_A_MESSAGE: &str = r#"{"type":"message","#;

const TIMEOUT: &str = "keyward_upstream_timeout";
const UNREACHABLE: &str = "keyward_upstream_unreachable";
const CLIENT_LEFT: &str = "keyward_client_left";

/// A provider that takes every key, and leaves the answers to calls to the test.
struct Provider {
    url: String,
    calls: mpsc::UnboundedReceiver<Call>,
}

/// The connection of a call that waits for its answer, which ends with it.
struct Call(TcpStream);

impl Provider {
    async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, calls) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, sender.clone()));
            }
        });
        Self { url, calls }
    }

    /// Takes the next call, and sends so much of its answer.
    async fn take(&mut self, begun: &str) -> Call {
        let taken = timeout(LONG, self.calls.recv()).await.expect("no call came");
        let mut call = taken.unwrap();
        call.0.write_all(begun.as_bytes()).await.unwrap();
        call
    }
}

impl Call {
    /// Sends this again and again, until nobody is there any more who takes it.
    async fn until_closed(&mut self, piece: &str) {
        let closed = async {
            let mut ticks = tokio::time::interval(Duration::from_millis(20));
            let mut byte = [0];
            loop {
                tokio::select! {
                    read = self.0.read(&mut byte) => {
                        assert!(matches!(read, Ok(0) | Err(_)), "nothing follows a request");
                        break;
                    }
                    _ = ticks.tick() => {
                        if self.0.write_all(piece.as_bytes()).await.is_err() {
                            break;
                        }
                    }
                }
            }
        };
        timeout(LONG, closed).await.expect("the connection is kept");
    }
}

/// Answers a check, or hands a call over. One request on each connection.
async fn serve(mut stream: TcpStream, calls: mpsc::UnboundedSender<Call>) {
    let mut request: Vec<u8> = Vec::new();
    while !is_whole(&request) {
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    if String::from_utf8(request).unwrap().contains(CALLER) {
        let _ = calls.send(Call(stream));
    } else {
        let answer = begun(JSON, &json!({ "type": "message", "data": [] }).to_string());
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    }
}

fn is_whole(request: &[u8]) -> bool {
    let request = String::from_utf8_lossy(request);
    let Some((head, body)) = request.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    body.len() >= length.unwrap_or(0)
}

/// An answer as far as there is something of its body.
fn begun(kind: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n{body}")
}

fn event(name: &str, mut data: Value) -> String {
    data["type"] = json!(name);
    format!("event: {name}\ndata: {data}\n\n")
}

fn start() -> String {
    let usage = json!({ "input_tokens": 25, "output_tokens": 1 });
    event("message_start", json!({ "message": { "model": "claude-haiku-4-5", "usage": usage } }))
}

fn said(text: &str) -> String {
    event("content_block_delta", json!({ "index": 0, "delta": { "type": "text_delta", "text": text } }))
}

fn end(output: u64) -> String {
    let delta = json!({ "delta": { "stop_reason": "end_turn" }, "usage": { "output_tokens": output } });
    event("message_delta", delta) + &event("message_stop", json!({}))
}

fn asked(stream: bool) -> Value {
    let mut body = message("claude-haiku-4-5", 64);
    body["stream"] = json!(stream);
    body["metadata"] = json!({ "user_id": CALLER });
    body
}

/// What a call counts as whose provider has told nothing.
fn expected(stream: bool) -> TokenUsage {
    estimate(asked(stream).to_string().len(), Some(64))
}

/// The row says what became of the call, and costs what it says. Haiku 4.5: one dollar per million tokens in,
/// five out.
fn assert_settled(row: &UsageRow, state: UsageState, status: Option<u16>, code: Option<&str>) {
    assert_eq!((row.state, row.status, row.error_code.as_deref()), (state, status, code), "{row:?}");
    let cost = row.tokens.input * 1_000 + row.tokens.output * 5_000;
    assert_eq!(row.cost.0, i64::try_from(cost).unwrap(), "{row:?}");
}

async fn world(on: On, patience: Patience) -> (World, Provider) {
    let provider = Provider::start().await;
    let setup = Setup {
        outbound: Some(Parts { patience, ..Parts::default() }),
        anthropic_url: Some(provider.url.clone()),
        ..Setup::default()
    };
    (World::with(on, setup).await, provider)
}

async fn customer(world: &World, slug: &str) -> (Tenant, String) {
    let tenant = world.tenant(slug, UsageMode::Byok).await;
    world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
    let token = world.token(&tenant).await;
    (tenant, token)
}

async fn key(world: &World, tenant: &Tenant, name: &str) -> ProviderKey {
    let keys = world.services.keys(holder(tenant)).await.unwrap();
    keys.into_iter().find(|key| key.name.as_str() == name).unwrap()
}

/// Returns when everything is written down that was observed of keys so far: it happens one after the other.
async fn observed(world: &World, tenant: &Tenant) {
    world.add_key(tenant, "witness", &test_key("ok")).await.unwrap();
    let witness = key(world, tenant, "witness").await;
    world.services.key_states.observe(&witness.view(), Verdict::Unreachable, world.clock.now());
    let written = async {
        while key(world, tenant, "witness").await.current.status.state != KeyState::Unreachable {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, written).await.expect("nothing is observed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_does_not_finish_its_answer_is_given_up() {
    let longest = Patience::default();
    for on in [On::Sqlite, On::Postgres] {
        for (sent, patience, status) in [
            (String::new(), Patience { first_byte: SHORT, ..longest }, None),
            (begun(JSON, HALF_A_MESSAGE), Patience { idle: SHORT, ..longest }, Some(200)),
        ] {
            let (world, mut provider) = world(on, patience).await;
            let (tenant, token) = customer(&world, "acme").await;
            let before = key(&world, &tenant, "production").await.current.status;
            let since = Instant::now();
            let call = world.send(&token, &asked(false)).send();
            let (answer, _call) = tokio::join!(call, provider.take(&sent));
            assert!(since.elapsed() >= SHORT, "it is waited for");
            let answer = answer.unwrap();
            assert_eq!(answer.status(), 504);
            let body: Value = answer.json().await.unwrap();
            assert_eq!(body["type"], "error");
            assert_eq!(body["error"]["type"], "timeout_error");
            assert_eq!(body["error"]["details"]["error_code"], TIMEOUT);

            // The provider may bill it, and did not say what for.
            let row = only_row(&world, &tenant).await;
            assert_settled(&row, UsageState::Estimated, status, Some(TIMEOUT));
            assert_eq!(row.tokens, expected(false));
            observed(&world, &tenant).await;
            assert_eq!(key(&world, &tenant, "production").await.current.status, before);
            world.end().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_falls_silent_ends_in_an_error_event() {
    for on in [On::Sqlite, On::Postgres] {
        let (world, mut provider) = world(on, Patience { idle: SHORT, ..Patience::default() }).await;
        let (tenant, token) = customer(&world, "acme").await;
        let text = "Rhine, Rhone, Danube. ".repeat(200);
        let sent = start() + &said(&text);
        let answer = begun(STREAM, &sent);
        let call = world.send(&token, &asked(true)).send();
        let (answer, _call) = tokio::join!(call, provider.take(&answer));
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 200);
        let received = answer.text().await.unwrap();
        let added = received.strip_prefix(&sent).expect("what came is passed on");
        assert_eq!(last_words(added), TIMEOUT);

        let row = only_row(&world, &tenant).await;
        assert_settled(&row, UsageState::Partial, Some(200), Some(TIMEOUT));
        assert_eq!(row.tokens.input, 25);
        // Four characters are taken for a token, and the provider's own count was of the beginning.
        assert!(row.tokens.output.abs_diff(text.len() as u64 / 4) < 10, "{row:?}");
        world.end().await;
    }
}

/// The code in what the gateway adds to a stream that broke off.
fn last_words(added: &str) -> String {
    let error = added.strip_prefix("\nevent: ping\n\nevent: error\ndata: ");
    let error = error.unwrap_or_else(|| panic!("no error event: {added}"));
    error_code(&serde_json::from_str(error.trim()).unwrap()).to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_goes_on_without_its_client_is_cut_off() {
    for on in [On::Sqlite, On::Postgres] {
        let (world, mut provider) = world(on, Patience { drain: SHORT, ..Patience::default() }).await;
        let (tenant, token) = customer(&world, "acme").await;
        let sent = begun(STREAM, &start());
        let call = world.send(&token, &asked(true)).send();
        let (answer, mut call) = tokio::join!(call, provider.take(&sent));
        let mut answer = answer.unwrap();
        answer.chunk().await.unwrap().unwrap();
        let left = Instant::now();
        drop(answer);
        call.until_closed(&said(&"On and on. ".repeat(40))).await;
        assert!(left.elapsed() >= SHORT, "it is read on for a while");
        let row = only_row(&world, &tenant).await;
        assert_settled(&row, UsageState::Partial, Some(200), Some(CLIENT_LEFT));
        assert_eq!(row.tokens.input, 25);
        assert!(row.tokens.output >= 100, "what was read on counts: {row:?}");
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_does_not_come_is_not_waited_for_without_its_client() {
    for on in [On::Sqlite, On::Postgres] {
        let (world, mut provider) = world(on, Patience { drain: SHORT, ..Patience::default() }).await;
        for (slug, sent, status) in
            [("nothing", String::new(), None), ("half", begun(JSON, HALF_A_MESSAGE), Some(200))]
        {
            let (tenant, token) = customer(&world, slug).await;
            let client = tokio::spawn(world.send(&token, &asked(false)).send());
            let mut call = provider.take(&sent).await;
            let left = Instant::now();
            client.abort();
            call.until_closed("").await;
            assert!(left.elapsed() >= SHORT, "{slug}: it is waited for a while");
            let row = only_row(&world, &tenant).await;
            assert_settled(&row, UsageState::Partial, status, Some(CLIENT_LEFT));
            assert_eq!(row.tokens, expected(false), "{slug}");
        }
        world.end().await;
    }
}

/// The time is counted from when the client left, whatever came meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_in_the_meantime_does_not_make_it_longer() {
    let drain = Duration::from_secs(2);
    let (world, mut provider) = world(On::Sqlite, Patience { drain, ..Patience::default() }).await;
    for (slug, stream, head) in
        [("json", false, begun(JSON, HALF_A_MESSAGE)), ("stream", true, begun(STREAM, &start()))]
    {
        let (tenant, token) = customer(&world, slug).await;
        let client = tokio::spawn(world.send(&token, &asked(stream)).send());
        let mut call = provider.take("").await;
        let left = Instant::now();
        client.abort();
        tokio::time::sleep(drain.mul_f32(0.75)).await;
        call.0.write_all(head.as_bytes()).await.unwrap();
        call.until_closed("").await;
        assert!(left.elapsed() < drain.mul_f32(1.5), "{slug}: it was read on for {:?}", left.elapsed());
        let row = only_row(&world, &tenant).await;
        assert_eq!(
            (row.state, row.error_code.as_deref()),
            (UsageState::Partial, Some(CLIENT_LEFT)),
            "{slug}"
        );
    }
    world.end().await;
}

/// One whose connection stands, as a laptop's that was closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_nothing_is_as_good_as_gone() {
    for on in [On::Sqlite, On::Postgres] {
        let patience = Patience { idle: Duration::from_secs(1), drain: SHORT, ..Patience::default() };
        let (world, mut provider) = world(on, patience).await;
        let (tenant, token) = customer(&world, "acme").await;
        let sent = begun(STREAM, &start());
        let call = world.send(&token, &asked(true)).send();
        let (answer, mut call) = tokio::join!(call, provider.take(&sent));
        let answer = answer.unwrap();
        call.until_closed(&said(&"x".repeat(64 * 1_024)).repeat(16)).await;
        let row = only_row(&world, &tenant).await;
        assert_settled(&row, UsageState::Partial, Some(200), Some(CLIENT_LEFT));
        // Should it read on after all, it must not take what it gets for the whole.
        assert!(answer.bytes().await.is_err(), "a stream that was cut ends like one that was not");
        world.end().await;
    }
}

/// Far more than is held anywhere on the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn huge_streams_are_passed_on_byte_for_byte() {
    const HUGE: usize = 64 * 1_024 * 1_024;
    let told = TokenUsage { input: 25, output: 9_000, ..TokenUsage::default() };
    for on in [On::Sqlite, On::Postgres] {
        let (world, mut provider) = world(on, Patience::default()).await;
        for (slug, stream, state, code, tokens) in [
            (
                "many-events",
                start() + &said(&"x".repeat(1_000)).repeat(HUGE / 1_000) + &end(told.output),
                UsageState::Final,
                None,
                told,
            ),
            (
                "one-event-without-an-end",
                format!("event: content_block_delta\ndata: {}", "x".repeat(HUGE)),
                UsageState::Estimated,
                Some(UNREACHABLE),
                expected(true),
            ),
        ] {
            let (tenant, token) = customer(&world, slug).await;
            let head = begun(STREAM, "");
            let call = world.send(&token, &asked(true)).send();
            let (answer, mut call) = tokio::join!(call, provider.take(&head));
            let mut answer = answer.unwrap();
            let sending = async {
                call.0.write_all(stream.as_bytes()).await.unwrap();
                call.0.shutdown().await.unwrap();
            };
            let reading = async {
                let (mut at, mut added) = (0, Vec::new());
                while let Some(chunk) = answer.chunk().await.unwrap() {
                    let (own, more) = chunk.split_at(chunk.len().min(stream.len() - at));
                    let same = stream.as_bytes()[at..].starts_with(own);
                    assert!(same, "{slug}: it is another one from byte {at} on");
                    at += own.len();
                    added.extend_from_slice(more);
                }
                assert_eq!(at, stream.len(), "{slug}");
                String::from_utf8(added).unwrap()
            };
            let (added, ()) = tokio::join!(reading, sending);
            match code {
                Some(code) => assert_eq!(last_words(&added), code, "{slug}"),
                None => assert_eq!(added, "", "{slug}"),
            }
            let row = only_row(&world, &tenant).await;
            assert_settled(&row, state, Some(200), code);
            assert_eq!(row.tokens, tokens, "{slug}");
        }
        world.end().await;
    }
}
