//! Platform → Status: what it says of processes, their jobs and what waits.

use std::time::Duration;

use keyward::domain::billing::UsageMode;
use keyward::domain::clock::{HOUR, MINUTE, SECOND};
use keyward::domain::ids::InstanceId;
use keyward::domain::process::Process;
use keyward::domain::usage::UsageRow;
use keyward::storage::{changes, status, usage};

use crate::console::{cast, sign_in};
use crate::metering::sample;
use crate::on_both;
use crate::support::{World, root as root_folder};

const PAGE: &str = "/platform/status";

/// Another process of this installation, last heard of so long ago.
async fn other(world: &World, version: &str, silent: i64) -> InstanceId {
    let now = world.clock.now();
    let process = Process {
        id: InstanceId::new(),
        version: version.to_owned(),
        started_at: now.minus(HOUR),
        beat_at: now.minus(silent),
        followed_at: Some(now.minus(silent)),
        under_way: 0,
        jobs: Vec::new(),
    };
    let mut tx = world.services.db.meter().await.unwrap();
    changes::beat(&mut tx, process.id, process.beat_at).await.unwrap();
    status::report(&mut tx, &process).await.unwrap();
    tx.commit().await.unwrap();
    process.id
}

on_both! {
    async fn what_needs_attention_is_said(world: World) {
        cast(world).await;
        let mut root = sign_in(world, "root").await;
        let page = root.get(PAGE).await;
        page.says("Everything works.").says("answers this page").says("number 1 is active");
        let migrations = std::fs::read_dir(root_folder().join("migrations/sqlite")).unwrap().count();
        page.says(&format!("Migration {migrations}"));
        page.says(&format!("Keyward {}", env!("CARGO_PKG_VERSION")));

        let now = world.clock.now();
        world.services.runs.note("sum days", (now, Duration::from_millis(1_234)), Duration::from_mins(10), true);
        let page = root.get(PAGE).await;
        page.says("could not sum days. Its log says why").says("1,234 ms");
        assert!(!page.body.contains("Everything works."));
        let (took, pause) = (Duration::from_millis(5), Duration::from_mins(10));
        world.services.runs.note("sum days", (now.minus(HOUR), took), pause, false);
        root.get(PAGE).await.says("has not tried for long to sum days.");
        world.services.runs.note("sum days", (now, took), pause, false);
        root.get(PAGE).await.says("Everything works.");

        let silent = other(world, env!("CARGO_PKG_VERSION"), 2 * MINUTE).await.to_string();
        root.get(PAGE).await.says(&format!("Process {} has been silent for over a minute", &silent[silent.len() - 8..]));
        let busy = other(world, "0.0.1", 5 * SECOND).await;
        root.get(PAGE).await.says("Processes of different versions are running.");
        // Under way in that process, for longer than any answer takes.
        let tenant = world.tenant("late", UsageMode::Byok).await;
        let row = UsageRow { instance: busy, ..sample(world, &tenant, now.minus(HOUR), "claude-haiku-4-5", 0) };
        let mut tx = world.services.db.meter().await.unwrap();
        usage::upsert(&mut tx, &[row]).await.unwrap();
        tx.commit().await.unwrap();
        root.get(PAGE).await.says("A request has been unsettled since").says("1 request, the oldest");
    }
}
