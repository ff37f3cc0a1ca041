//! The breaker for unusual spend: it trips on an hour that is several times the usual, and on no
//! other.

use keyward::domain::account::Tenant;
use keyward::domain::clock::{DAY, HOUR, MINUTE, Moment};
use keyward::domain::notice::NoticeKind;
use keyward::domain::usage::{UsageRow, UsageState};
use keyward::services::breaker::TypedBreaker;
use serde_json::Value;

use crate::console::{cast, sign_in};
use crate::metering::sample;
use crate::on_both;
use crate::support::{World, error_code, holder};

const DOLLAR: i64 = 1_000_000_000;

async fn spend(world: &World, tenant: &Tenant, at: Moment, dollars: i64) {
    let row = UsageRow {
        state: UsageState::Final,
        status: Some(200),
        ended_at: Some(at),
        ..sample(world, tenant, at, "claude-haiku-4-5", dollars * DOLLAR)
    };
    world.services.meter.settle(row);
    world.services.meter.flush().await;
}

async fn set(world: &World, tenant: &Tenant, on_trip: &str) {
    let typed = TypedBreaker { factor: "3".into(), least: "5".into(), on_trip: on_trip.into() };
    let (admin, scope) = (world.admin(tenant), holder(tenant).scope);
    world.services.set_breaker(&admin, &scope, tenant, &typed).await.unwrap();
}

async fn told(world: &World, tenant: &Tenant) -> Vec<String> {
    world.services.watch_spend().await.unwrap();
    let (admin, scope) = (world.admin(tenant), holder(tenant).scope);
    let all = world.services.notifications(&admin, &scope, tenant).await.unwrap();
    all.into_iter().filter(|one| one.kind == NoticeKind::UnusualSpend).map(|one| one.text).collect()
}

on_both! {
    async fn an_unusual_hour_pauses_until_somebody_resumes(world: World) {
        let cast = cast(world).await;
        let tenant = &cast.tenant;
        let now = world.clock.now();
        // Off by default, whatever is spent.
        spend(world, tenant, now, 900).await;
        assert!(told(world, tenant).await.is_empty());
        for day in 1..=5 {
            spend(world, tenant, now.minus(day * DAY), 2).await;
        }
        world.clock.advance(3 * HOUR);
        set(world, tenant, "pause").await;
        world.clock.advance(MINUTE);
        spend(world, tenant, world.clock.now(), 6).await;
        assert!(told(world, tenant).await.is_empty(), "three times the usual is not more than three times");
        spend(world, tenant, world.clock.now(), 1).await;
        let texts = told(world, tenant).await;
        assert_eq!(
            texts,
            ["The last hour cost $7.00, where the busiest hour of a usual day costs $2.00. AI is paused until somebody resumes it."]
        );
        // Told once.
        assert_eq!(told(world, tenant).await.len(), 1);

        let token = world.token(tenant).await;
        let refused = world.message(&token).send().await.unwrap();
        assert_eq!(refused.status(), 402);
        assert_eq!(refused.headers()["x-should-retry"], "false");
        let body: Value = refused.json().await.unwrap();
        assert_eq!(error_code(&body), "keyward_paused");
        assert!(body["error"]["message"].as_str().unwrap().contains("/t/acme/billing/breaker"), "{body}");

        let mut admin = sign_in(world, "admin").await;
        admin.get("/t/acme/billing").await.says("AI is paused: spend was unusual.");
        admin.get("/t/acme/settings/api-keys").await.says("AI is paused: spend was unusual.");
        let page = "/t/acme/billing/breaker";
        admin.get(page).await.says("Requests are refused").says("Resume AI");
        assert_eq!(admin.post(&format!("{page}/reset"), &[]).await.status, 303);
        admin.get(page).await.says("Resumed.").says("Watching");
        admin.post(&format!("{page}/reset"), &[]).await;
        admin.get(page).await.says("Nothing is paused for unusual spend.");
        assert_eq!(world.message(&token).send().await.unwrap().status(), 200);
        // What was spent before it was resumed no longer counts; what comes after does.
        assert_eq!(told(world, tenant).await.len(), 1);
        world.clock.advance(MINUTE);
        spend(world, tenant, world.clock.now(), 7).await;
        assert_eq!(told(world, tenant).await.len(), 2);
        assert_eq!(admin.post(&format!("{page}/remove"), &[]).await.status, 303);
        assert_eq!(world.message(&token).send().await.unwrap().status(), 200);
    }
}

on_both! {
    async fn a_warning_pauses_nothing_and_comes_once_a_day(world: World) {
        let cast = cast(world).await;
        let tenant = &cast.tenant;
        set(world, tenant, "warn").await;
        world.clock.advance(MINUTE);
        spend(world, tenant, world.clock.now(), 4).await;
        assert!(told(world, tenant).await.is_empty());
        spend(world, tenant, world.clock.now(), 2).await;
        // Nothing tells what is usual yet: the least amount alone counts.
        assert_eq!(told(world, tenant).await, ["The last hour cost $6.00. Nothing is paused."]);
        let token = world.token(tenant).await;
        assert_eq!(world.message(&token).send().await.unwrap().status(), 200);
        world.clock.advance(2 * HOUR);
        spend(world, tenant, world.clock.now(), 9).await;
        assert_eq!(told(world, tenant).await.len(), 1);
        world.clock.advance(DAY);
        spend(world, tenant, world.clock.now(), 9).await;
        assert_eq!(told(world, tenant).await.len(), 2);
    }
}
