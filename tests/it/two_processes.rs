//! Two processes on one database: what is changed through one holds in the other.

use std::time::Duration;

use keyward::config::Settings;
use keyward::domain::billing::UsageMode;
use keyward::startup::{self, Replacements};
use tokio::time::Instant;

use crate::support::{On, World, free_port, holder, message, sha256, test_key};

/// Within which every process uses what was changed through another.
const SOON: Duration = Duration::from_secs(2);

/// On PostgreSQL alone: an SQLite database has one server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_key_is_used_by_every_process_soon() {
    let world = World::new(On::Postgres).await;
    let listener = free_port();
    let settings = Settings { bind: listener.local_addr().unwrap(), ..world.settings.clone() };
    let replace = Replacements { clock: world.clock.clone(), ..Replacements::default() };
    let services = startup::open(&settings, replace).await.unwrap();
    let other = startup::start(services, &settings, listener).await.unwrap();
    let url = format!("http://{}", settings.bind);

    let tenant = world.tenant("acme", UsageMode::Byok).await;
    let mut current = test_key("ok");
    world.add_key(&tenant, "production", &current).await.unwrap();
    let token = world.token(&tenant).await;
    // More than once: a process that has heard of one change hears of the next as well.
    for round in 0..3 {
        assert_eq!(key_used(&world, &url, &token).await, sha256(&current), "round {round}");
        current = test_key("ok");
        world.rotate(&world.admin(&tenant), holder(&tenant), "production", &current).await.unwrap();
        let rotated = Instant::now();
        loop {
            let asked = Instant::now();
            if key_used(&world, &url, &token).await == sha256(&current) {
                break;
            }
            assert!(asked < rotated + SOON, "round {round}: the old key still goes out");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    other.stop().await;
    world.end().await;
}

/// The hash of the key that a call through this server goes out with, as the provider saw it.
async fn key_used(world: &World, server: &str, token: &str) -> String {
    world.forget_arrived().await;
    let call = world.http.post(format!("{server}/v1/messages")).header("x-api-key", token);
    let call = call.header("anthropic-version", "2023-06-01").json(&message("claude-haiku-4-5", 64));
    assert_eq!(call.send().await.unwrap().status(), 200);
    let arrived = world.arrived().await;
    let calls: Vec<_> = arrived.iter().filter(|request| request["path"] == "/v1/messages").collect();
    assert_eq!(calls.len(), 1, "{arrived:?}");
    calls[0]["credential_sha256"].as_str().unwrap().to_owned()
}
