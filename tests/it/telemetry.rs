//! What the process tells of itself: its logs, its metrics, and whether it is ready.

use std::fs::File;
use std::time::Duration;

use keyward::domain::billing::UsageMode;
use serde_json::Value;

use crate::console::PASSWORD;
use crate::process::Process;
use crate::support::{On, World, port_to_come_back_to, test_key};
use crate::visitor::{Page, Visitor};

/// A page that fails, and what the process logs meanwhile. Path and query of the request carry a canary.
async fn failing(world: &World, format: &str) -> (Page, String) {
    let path = world.dir.path().join(format!("{format}.log"));
    let log = File::create(&path).unwrap();
    let process = Process::serve_with(world, |command| {
        command.env("KEYWARD_LOG", format).stderr(log);
    })
    .await;
    let page = Visitor::new(&world.url).get("/setup/canary-of-the-path?next=canary-of-the-query").await;
    process.stop().await;
    assert_eq!(page.status, 500);
    (page, std::fs::read_to_string(path).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_name_the_route_and_not_what_was_asked() {
    let mut world = World::new(On::Sqlite).await;
    // With somebody there, no link for the first super admin is made at the start.
    world.user("ada@acme.example", PASSWORD, None, None).await;
    world.stop().await;
    world.sql("ALTER TABLE one_time_link RENAME TO one_time_link_elsewhere").await;

    let (page, json) = failing(&world, "json").await;
    let lines: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    for line in &lines {
        let told = ["timestamp", "level", "message"].iter().all(|field| line[*field].is_string());
        assert!(line.is_object() && told, "{line}");
    }
    let answered = lines.iter().find(|line| line["message"] == "answered").expect("a line for the request");
    assert_eq!(answered["level"], "ERROR");
    let request = &answered["span"];
    assert_eq!(request["method"], "GET");
    assert_eq!(request["route"], "/setup/{token}");
    assert_eq!(request["status"], 500);
    page.says(request["request_id"].as_str().unwrap());

    let (_, text) = failing(&world, "text").await;
    assert!(text.lines().all(|line| serde_json::from_str::<Value>(line).is_err()), "{text}");
    assert!(text.lines().any(|line| line.contains("ERROR") && line.contains("/setup/{token}")), "{text}");
    for log in [json, text] {
        assert!(!log.contains("canary"), "{log}");
    }
    world.end().await;
}

const REFUSED: &str = "keyward_gateway_refusals{code=\"keyward_token_invalid\"} ";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_told_on_an_address_of_their_own() {
    let mut world = World::new(On::Sqlite).await;
    let tenant = world.tenant("acme", UsageMode::Byok).await;
    world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
    let token = world.token(&tenant).await;
    let address = format!("127.0.0.1:{}", port_to_come_back_to());
    world.stop().await;
    let process = Process::serve_with(&world, |command| {
        command.env("KEYWARD_METRICS_BIND", &address);
    })
    .await;
    let metrics = async || {
        let answer = world.http.get(format!("http://{address}/metrics")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("text/plain"));
        answer.text().await.unwrap()
    };
    let refusals = |text: &str| {
        let count = text.lines().find_map(|line| line.strip_prefix(REFUSED));
        count.map_or(0, |count| count.parse::<u32>().unwrap())
    };

    assert_eq!(refusals(&metrics().await), 0);
    for count in 1..=2 {
        assert_eq!(world.message("kwt_nonsense").send().await.unwrap().status(), 401);
        assert_eq!(refusals(&metrics().await), count);
    }
    assert_eq!(world.message(&token).send().await.unwrap().status(), 200);
    let text = metrics().await;
    assert_eq!(refusals(&text), 2, "an answer is no refusal");
    assert!(text.lines().any(|line| line == "# TYPE keyward_gateway_refusals counter"), "{text}");

    let public = world.http.get(format!("{}/metrics", world.url)).send().await.unwrap();
    assert_eq!(public.status(), 404);
    assert!(!public.text().await.unwrap().contains("keyward_gateway_refusals"));
    process.stop().await;
    world.end().await;
}

/// Whoever shares out requests sends it no more, and nobody takes it for dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_stops_is_alive_and_not_ready() {
    let mut world = World::new(On::Sqlite).await;
    let tenant = world.tenant("acme", UsageMode::Byok).await;
    world.add_key(&tenant, "production", &test_key("slow")).await.unwrap();
    let token = world.token(&tenant).await;
    let (http, url) = (world.http.clone(), world.url.clone());
    let ask = async |path: &str| http.get(format!("{url}{path}")).send().await.unwrap().status().as_u16();
    assert_eq!((ask("/healthz").await, ask("/readyz").await), (200, 200));

    world.forget_arrived().await;
    let call = tokio::spawn(world.message(&token).send());
    let on_its_way = async {
        while world.arrived().await.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), on_its_way).await.expect("the call goes out");
    let asked = async {
        while ask("/readyz").await != 503 {}
        (ask("/healthz").await, call.is_finished())
    };
    let ((), asked) = tokio::join!(world.stop(), asked);
    assert_eq!(asked, (200, false), "alive, and the call was still under way");
    assert_eq!(call.await.unwrap().unwrap().status(), 200, "which ends as it would have");
    world.end().await;
}
