//! What the gateway does when others fail: the provider, the database, the process itself.

use std::time::Duration;

use futures_util::future::join_all;
use keyward::domain::billing::{Funding, UsageMode};
use keyward::domain::ids::RequestId;
use keyward::domain::usage::{UsageRow, UsageState};
use keyward::services::budgets::TypedBudget;
use keyward::services::credits::TypedEntry;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::on_both;
use crate::process::Process;
use crate::support::{On, Setup, World, error_code, message, test_key};

fn streamed() -> Value {
    let mut body = message("claude-haiku-4-5", 40);
    body["stream"] = json!(true);
    body
}

on_both! {
    async fn a_broken_answer_is_a_clear_error_with_one_row(world: World) {
        for (word, code, state) in [
            ("truncated", "keyward_upstream_unreachable", UsageState::Estimated),
            ("garbage", "keyward_upstream_unreachable", UsageState::Estimated),
            ("huge", "keyward_upstream_unreachable", UsageState::Estimated),
        ] {
            let tenant = world.tenant(word, UsageMode::Byok).await;
            world.add_key(&tenant, "production", &test_key(word)).await.unwrap();
            let answer = world.message(&world.token(&tenant).await).send().await.unwrap();
            assert_eq!(answer.status(), 502, "{word}");
            assert_eq!(error_code(&answer.json::<Value>().await.unwrap()), code, "{word}");
            let row = only_row(world, &tenant).await;
            assert_eq!((row.state, row.error_code.as_deref()), (state, Some(code)), "{word}");
            assert!(row.cost.0 > 0, "{word}: what cannot be known is estimated, not free");
        }
    }
}

on_both! {
    async fn half_a_stream_ends_in_an_error_event(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        world.add_key(&tenant, "production", &test_key("truncated")).await.unwrap();
        let answer = world.send(&world.token(&tenant).await, &streamed()).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let text = answer.text().await.unwrap();
        let (sent, error) = text.split_once("\nevent: ping\n\nevent: error\ndata: ").expect("an error event at the end");
        assert!(sent.starts_with("event: message_start"), "what came was passed on");
        let error: Value = serde_json::from_str(error.trim()).unwrap();
        assert_eq!(error_code(&error), "keyward_upstream_unreachable");
        let row = only_row(world, &tenant).await;
        assert_eq!(row.state, UsageState::Partial);
        assert!(row.tokens.input > 0 && row.cost.0 > 0);
    }
}

on_both! {
    async fn a_stream_of_junk_ends_in_an_error_event(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        world.add_key(&tenant, "production", &test_key("garbage")).await.unwrap();
        let answer = world.send(&world.token(&tenant).await, &streamed()).send().await.unwrap();
        let text = answer.text().await.unwrap();
        assert!(text.contains("event: error") && text.contains("keyward_upstream_unreachable"), "{text}");
        assert_eq!(only_row(world, &tenant).await.state, UsageState::Estimated);
    }
}

on_both! {
    async fn an_overloaded_provider_is_passed_on_and_not_held_against_the_key(world: World) {
        for (word, status) in [("overloaded", 529), ("servererror", 500)] {
            let tenant = world.tenant(word, UsageMode::Byok).await;
            world.add_key(&tenant, "production", &test_key(word)).await.unwrap();
            let token = world.token(&tenant).await;
            for _ in 0..3 {
                let answer = world.message(&token).send().await.unwrap();
                assert_eq!(answer.status(), status);
                assert_eq!(answer.headers()["x-keyward-key"], "production@1");
                assert_eq!(answer.headers().get("x-should-retry"), None, "SDKs decide as they would without Keyward");
            }
            let rows = world.rows(&tenant).await;
            assert!(rows.iter().all(|row| row.cost.0 == 0 && row.status == Some(status)), "{rows:?}");
        }
    }
}

/// A provider that is not there, answers with a redirect, or without a body.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strange_providers_are_told_as_unreachable() {
    // On a listener of its own, so that it is gone when it is dropped.
    let provider = MockServer::builder().listener(crate::support::free_port()).start().await;
    let probe = json!({ "data": [], "type": "message", "input_tokens": 1, "id": "x" });
    Mock::given(any()).respond_with(ResponseTemplate::new(200).set_body_json(&probe)).mount(&provider).await;
    let setup = Setup { anthropic_url: Some(provider.uri()), ..Setup::default() };
    let world = World::with(On::Sqlite, setup).await;
    let tenant = world.tenant("acme", UsageMode::Byok).await;
    world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
    let token = world.token(&tenant).await;
    for (template, status) in [
        (ResponseTemplate::new(302).insert_header("location", "http://127.0.0.1:1/"), 502),
        (ResponseTemplate::new(200).set_body_raw("", "application/json"), 502),
        (ResponseTemplate::new(200).set_body_raw("<html>", "text/html"), 502),
        (ResponseTemplate::new(204), 502),
        (ResponseTemplate::new(418).set_body_raw("tea", "text/plain"), 418),
    ] {
        provider.reset().await;
        Mock::given(any()).respond_with(template).mount(&provider).await;
        let answer = world.message(&token).send().await.unwrap();
        assert_eq!(answer.status(), status);
    }
    drop(provider);
    let answer = world.message(&token).send().await.unwrap();
    assert_eq!(answer.status(), 502);
    assert_eq!(error_code(&answer.json::<Value>().await.unwrap()), "keyward_upstream_unreachable");
    let rows = world.rows(&tenant).await;
    assert_eq!(rows.len(), 6);
    assert_eq!(rows[5].status, None);
    assert!(rows.iter().all(|row| row.state != UsageState::Pending));
    world.end().await;
}

/// Without its database the gateway answers nothing that it could not record.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_database_the_gateway_refuses() {
    let world = World::new(On::Sqlite).await;
    let tenant = world.tenant("acme", UsageMode::Byok).await;
    world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
    let token = world.token(&tenant).await;
    assert_eq!(world.message(&token).send().await.unwrap().status(), 200);
    assert_eq!(ready(&world).await, 200);
    world.services.db.close().await;
    let answer = world.message(&token).send().await.unwrap();
    assert_eq!(answer.status(), 503);
    assert_eq!(error_code(&answer.json::<Value>().await.unwrap()), "keyward_unavailable");
    assert_eq!(ready(&world).await, 503);
    let alive = world.http.get(format!("{}/healthz", world.url)).send().await.unwrap();
    assert_eq!(alive.status(), 200);
}

async fn ready(world: &World) -> u16 {
    world.http.get(format!("{}/readyz", world.url)).send().await.unwrap().status().as_u16()
}

/// A request to stop lets a stream under way finish, and its row is final.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_lets_streams_finish() {
    let mut world = World::new(On::Sqlite).await;
    let tenant = world.tenant("acme", UsageMode::Byok).await;
    world.add_key(&tenant, "production", &test_key("slow")).await.unwrap();
    let token = world.token(&tenant).await;
    let mut answer = world.send(&token, &streamed()).send().await.unwrap();
    let id = RequestId::parse(answer.headers()["x-keyward-request-id"].to_str().unwrap()).unwrap();
    answer.chunk().await.unwrap().unwrap();
    let reading = tokio::spawn(async move {
        let mut text = String::new();
        while let Some(chunk) = answer.chunk().await.unwrap() {
            text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
        text
    });
    world.stop().await;
    assert!(reading.await.unwrap().contains("event: message_stop"));
    let database = keyward::startup::open_database(&world.settings).await.unwrap();
    let mut tx = database.read().await.unwrap();
    let row = keyward::storage::usage::find(&mut tx, id).await.unwrap().unwrap();
    assert_eq!(row.state, UsageState::Final);
    drop(tx);
    database.close().await;
    world.end().await;
}

/// What is read on for a client who has left comes by a connection of the worker that served it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_lets_what_is_read_on_be_read() {
    let mut world = World::new(On::Sqlite).await;
    let tenant = world.tenant("acme", UsageMode::Byok).await;
    world.add_key(&tenant, "production", &test_key("slow")).await.unwrap();
    world.add_key(&tenant, "quick", &test_key("ok")).await.unwrap();
    let token = world.token(&tenant).await;
    let mut answer = world.send(&token, &streamed()).send().await.unwrap();
    let id = RequestId::parse(answer.headers()["x-keyward-request-id"].to_str().unwrap()).unwrap();
    answer.chunk().await.unwrap().unwrap();
    drop(answer);
    // Nothing new begins meanwhile.
    let next = world.message(&token).header("x-keyward-key", "quick");
    let refused = async {
        loop {
            let answer = next.try_clone().unwrap().send().await.unwrap();
            if answer.status() != 200 {
                break (answer.status().as_u16(), error_code(&answer.json().await.unwrap()).to_owned());
            }
        }
    };
    let ((), refused) = tokio::join!(world.stop(), refused);
    assert_eq!(refused, (503, "keyward_unavailable".to_owned()));
    let rows = rows_on_disk(&world, &tenant).await;
    let row = rows.iter().find(|row| row.id == id).unwrap();
    assert_eq!((row.state, row.error_code.as_deref()), (UsageState::Final, None));
    world.end().await;
}

/// A provider that never answers keeps no process from ending, and what it was sent is charged by estimate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_has_an_end() {
    let mut world = World::new(On::Sqlite).await;
    let tenant = world.tenant("acme", UsageMode::Byok).await;
    world.add_key(&tenant, "production", &test_key("hang")).await.unwrap();
    let token = world.token(&tenant).await;
    world.forget_arrived().await;
    let calls = [tokio::spawn(world.message(&token).send()), tokio::spawn(world.message(&token).send())];
    while world.arrived().await.len() < calls.len() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The client of one of them has left.
    calls[1].abort();
    let begun = tokio::time::Instant::now();
    world.stop().await;
    let limit = Duration::from_secs(world.settings.shutdown_seconds);
    assert!(begun.elapsed() >= limit, "it waits for them");
    assert!(begun.elapsed() < limit + Duration::from_secs(10), "{:?}", begun.elapsed());
    let rows = rows_on_disk(&world, &tenant).await;
    assert_eq!(rows.len(), calls.len());
    assert!(rows.iter().all(|row| row.state == UsageState::Estimated && row.cost.0 > 0), "{rows:?}");
    world.end().await;
}

/// The settled row of the only call that this tenant has made.
pub async fn only_row(world: &World, tenant: &keyward::domain::account::Tenant) -> UsageRow {
    for _ in 0..200 {
        let mut rows = world.rows(tenant).await;
        assert!(rows.len() <= 1, "{rows:?}");
        if let Some(row) = rows.pop().filter(|row| row.state != UsageState::Pending) {
            return row;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("the row was never settled");
}

/// Connections that come while the process does nothing are there when it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_come_all_at_once_are_let_in() {
    let mut world = World::new(On::Sqlite).await;
    world.stop().await;
    let process = Process::serve(&world).await;
    process.freeze();
    let address = world.settings.bind;
    let connect = || async move {
        let stream = tokio::time::timeout(Duration::from_secs(5), TcpStream::connect(address)).await;
        stream.expect("its turn never came").unwrap()
    };
    let streams = join_all((0..400).map(|_| connect())).await;
    process.go_on();
    for mut stream in streams {
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    process.stop().await;
    world.end().await;
}

/// kill -9 in the middle of a call: the row that was pending is settled by the next start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_leaves_no_row_unsettled() {
    let mut world = World::new(On::Sqlite).await;
    let tenant = world.tenant("acme", UsageMode::Byok).await;
    world.add_key(&tenant, "production", &test_key("hang")).await.unwrap();
    let token = world.token(&tenant).await;
    world.stop().await;

    let process = Process::serve(&world).await;
    world.forget_arrived().await;
    let call = tokio::spawn(world.message(&token).send());
    while world.arrived().await.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The pending row is committed while the call runs.
    while rows_on_disk(&world, &tenant).await.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    process.kill();
    assert!(call.await.unwrap().is_err());

    Process::serve(&world).await.stop().await;
    let rows = rows_on_disk(&world, &tenant).await;
    assert_eq!(rows.len(), 1);
    assert_eq!(
        (rows[0].state, rows[0].error_code.as_deref()),
        (UsageState::Estimated, Some("keyward_interrupted"))
    );
    assert!(rows[0].cost.0 > 0);
    world.end().await;
}

/// kill -9 at any moment during traffic, again and again: what was answered is on record, and the ledger
/// and the budget are whole. `KEYWARD_TEST_KILLS` says how often, for a longer run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_charged_twice_however_often_the_process_is_killed() {
    killed_again_and_again(On::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_on_postgres() {
    killed_again_and_again(On::Postgres).await;
}

async fn killed_again_and_again(on: On) {
    let kills: usize = std::env::var("KEYWARD_TEST_KILLS").map_or(12, |kills| kills.parse().unwrap());
    let mut world = World::new(on).await;
    world.add_shared_key(&test_key("ok")).await;
    let paying = world.tenant("paying", UsageMode::Managed).await;
    let operator = world.super_admin();
    world.services.set_funding(&operator, &paying, Funding::Included, Funding::Credits).await.unwrap();
    let grant = TypedEntry { amount: "1000".into(), note: "Test".into(), form_id: String::new() };
    world.services.enter_credits(&operator, &paying, &grant).await.unwrap();
    let limited = world.tenant("limited", UsageMode::Byok).await;
    world.add_key(&limited, "production", &test_key("ok")).await.unwrap();
    let scope = crate::support::holder(&limited).scope;
    let budget = TypedBudget { amount: "1000".into(), on_reach: "pause".into(), ..TypedBudget::default() };
    world.services.set_budget(&world.admin(&limited), &scope, &limited, &budget).await.unwrap();
    let tokens = [world.token(&paying).await, world.token(&limited).await];
    world.stop().await;

    let answered = std::sync::Mutex::new(Vec::new());
    for round in 0..kills {
        let process = Process::serve(&world).await;
        let before = answered.lock().unwrap().len();
        let traffic = join_all((0..8).map(|at: usize| {
            let (world, token, answered) = (&world, &tokens[at % 2], &answered);
            async move {
                loop {
                    let body = if at < 4 { message("claude-haiku-4-5", 40) } else { streamed() };
                    let Ok(answer) = world.send(token, &body).send().await else { return };
                    assert_eq!(answer.status(), 200);
                    let id = answer.headers()["x-keyward-request-id"].to_str().unwrap().to_owned();
                    // Told by the head already: whoever has it has an answer.
                    answered.lock().unwrap().push(RequestId::parse(&id).unwrap());
                    if answer.bytes().await.is_err() {
                        return;
                    }
                }
            }
        }));
        // After some answers and a moment more, another number and another moment each time.
        let killed = async {
            while answered.lock().unwrap().len() < before + round * 7 % 23 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            tokio::time::sleep(Duration::from_micros((round as u64 * 7_919 + 1_237) % 25_000)).await;
            process.kill();
        };
        tokio::time::timeout(Duration::from_mins(1), futures_util::future::join(traffic, killed))
            .await
            .expect("traffic ends with the process");
    }
    let database = keyward::startup::open_database(&world.settings).await.unwrap();
    if let keyward::storage::Database::Postgres(pool) = &database {
        // There, others may be alive: they are believed to be dead when their hearts have not beaten for long.
        sqlx::query("UPDATE instance SET beat_at = 0").execute(pool).await.unwrap();
    }
    database.close().await;
    let process = Process::serve(&world).await;
    for _ in 0..600 {
        let rows = [rows_on_disk(&world, &paying).await, rows_on_disk(&world, &limited).await];
        if rows.iter().flatten().all(|row| row.state != UsageState::Pending) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    process.stop().await;

    let answered = answered.into_inner().unwrap();
    let database = keyward::startup::open_database(&world.settings).await.unwrap();
    let mut tx = database.read().await.unwrap();
    for id in &answered {
        let row = keyward::storage::usage::find(&mut tx, *id).await.unwrap();
        let row = row.unwrap_or_else(|| panic!("{id} was answered and is not on record"));
        assert_ne!(row.state, UsageState::Pending, "{id}");
    }
    let all = (keyward::domain::clock::Moment(0), keyward::domain::clock::Moment(i64::MAX));
    let mut sums = Vec::new();
    for tenant in [&paying, &limited] {
        let rows = keyward::storage::usage::page(&mut tx, tenant.id, all.0, all.1, &[], None, 1_000_000)
            .await
            .unwrap();
        assert!(rows.iter().all(|row| row.state != UsageState::Pending));
        let scope = keyward::access::scope::Scope::of_token(tenant.id);
        let (cost, billed) =
            rows.iter().fold((0, 0), |(cost, billed), row| (cost + row.cost.0, billed + row.billed.0));
        let totals = keyward::storage::usage_report::totals(&mut tx, &scope, all.0, all.1).await.unwrap();
        assert_eq!(
            (totals.cost, totals.billed, totals.requests),
            (cost, billed, i64::try_from(rows.len()).unwrap())
        );
        sums.push((cost, billed));
    }
    let account = keyward::storage::credits::find(&mut tx, paying.id).await.unwrap();
    assert_eq!((account.balance.0, account.held.0), (1_000_000_000_000 - sums[0].1, 0));
    assert_eq!(keyward::storage::credits::unbalanced(&mut tx).await.unwrap(), []);
    let budget = &keyward::storage::budgets::list(&mut tx, &scope).await.unwrap()[0];
    assert_eq!((budget.spent.0, budget.held.0), (sums[1].0, 0));
    tx.rollback().await.unwrap();
    database.close().await;
    world.end().await;
}

/// What another process sees in the database file.
pub async fn rows_on_disk(world: &World, tenant: &keyward::domain::account::Tenant) -> Vec<UsageRow> {
    let database = keyward::startup::open_database(&world.settings).await.unwrap();
    let mut tx = database.read().await.unwrap();
    let all = (keyward::domain::clock::Moment(0), keyward::domain::clock::Moment(i64::MAX));
    let rows =
        keyward::storage::usage::page(&mut tx, tenant.id, all.0, all.1, &[], None, 1_000_000).await.unwrap();
    tx.rollback().await.unwrap();
    database.close().await;
    rows
}

/// A tenant's own endpoint can report anything: that spoils its own row and nobody else's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn absurd_usage_stops_nothing() {
    for on in [On::Sqlite, On::Postgres] {
        let provider = MockServer::start().await;
        let good =
            json!({ "data": [], "type": "message", "usage": { "input_tokens": 1, "output_tokens": 1 } });
        Mock::given(any())
            .respond_with(ResponseTemplate::new(200).set_body_json(&good))
            .mount(&provider)
            .await;
        let world = World::with(on, Setup { anthropic_url: Some(provider.uri()), ..Setup::default() }).await;
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
        let token = world.token(&tenant).await;
        for absurd in [
            json!({ "type": "message", "usage": { "input_tokens": 9_000_000_000_000_000_000_u64, "output_tokens": u64::MAX } }),
            json!({ "type": "message", "model": "a\u{0}b", "usage": { "input_tokens": 1, "output_tokens": 1 } }),
            json!({ "type": "message", "model": "x".repeat(5_000), "usage": { "output_tokens": 1, "note": "\u{0}" } }),
            json!({ "type": "message", "usage": { "input_tokens": -1 } }),
            json!({ "type": "message", "usage": { "output_tokens": 1, "iterations": [
                { "type": "compaction", "input_tokens": u64::MAX, "output_tokens": u64::MAX },
                { "type": "compaction", "input_tokens": u64::MAX, "output_tokens": u64::MAX } ] } }),
        ] {
            provider.reset().await;
            Mock::given(any())
                .respond_with(ResponseTemplate::new(200).set_body_json(&absurd))
                .mount(&provider)
                .await;
            for _ in 0..3 {
                let answer = world.message(&token).send().await.unwrap();
                assert_eq!(answer.status(), 200, "{absurd}");
                let row = world.row_of(&answer).await;
                assert_ne!(row.state, UsageState::Pending);
                assert!(row.cost.0 < 1_000_000_000_000, "{absurd} costs {:?}", row.cost);
            }
        }
        assert_eq!(world.rows(&tenant).await.len(), 15);
        let rows = world.rows(&tenant).await;
        let scope = keyward::access::scope::Scope::of_token(tenant.id);
        let group = keyward::domain::usage::Dimension::Model;
        let report =
            world.services.billing_report(&world.admin(&tenant), &scope, &tenant, group).await.unwrap();
        assert_eq!(report.totals.cost, rows.iter().map(|row| row.cost.0).sum::<i64>());
        world.end().await;
    }
}

on_both! {
    /// A database that answers and takes no usage, as one that is full does: what was called upstream is kept as
    /// it is, nothing more goes out, and all of it is written as soon as that is possible.
    async fn what_cannot_be_written_now_is_kept_whole(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
        let token = world.token(&tenant).await;
        world.message(&token).send().await.unwrap();
        let first = only_row(world, &tenant).await;
        world.forget_arrived().await;

        world.sql("ALTER TABLE usage RENAME TO usage_elsewhere").await;
        for _ in 0..5 {
            assert_eq!(world.message(&token).send().await.unwrap().status(), 503);
        }
        assert_eq!(world.arrived().await.len(), 1, "the others are refused before they go out");
        world.sql("ALTER TABLE usage_elsewhere RENAME TO usage").await;
        world.services.meter.flush().await;
        let rows = world.rows(&tenant).await;
        assert_eq!(rows.len(), 2);
        let kept = rows.iter().find(|row| row.id != first.id).unwrap();
        assert_eq!((kept.state, kept.cost, &kept.raw_usage), (first.state, first.cost, &first.raw_usage));
        assert!(kept.cost.0 > 0 && kept.raw_usage.is_some());
        assert_eq!(world.message(&token).send().await.unwrap().status(), 200);
    }
}

/// A settlement that is handed in twice counts once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_settlement_counts_once() {
    for on in [On::Sqlite, On::Postgres] {
        let world = World::new(on).await;
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
        let answer = world.message(&world.token(&tenant).await).send().await.unwrap();
        let row = world.row_of(&answer).await;
        // As after a commit whose answer was lost, and as another process would that took this
        // one for dead.
        world.services.meter.settle(row.clone());
        world.services.meter.settle(UsageRow { state: UsageState::Estimated, ..row.clone() });
        world.services.meter.flush().await;
        let scope = keyward::access::scope::Scope::of_token(tenant.id);
        let group = keyward::domain::usage::Dimension::Model;
        let report =
            world.services.billing_report(&world.admin(&tenant), &scope, &tenant, group).await.unwrap();
        assert_eq!((report.totals.requests, report.totals.cost), (1, row.cost.0));
        assert_eq!(world.row(row.id).await.state, UsageState::Final);
        world.end().await;
    }
}
