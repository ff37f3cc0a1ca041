//! Usage rows, rollups and what the Billing page adds up.

use keyward::access::scope::Scope;
use keyward::domain::account::Tenant;
use keyward::domain::billing::UsageMode;
use keyward::domain::clock::{DAY, HOUR, MINUTE, Moment};

use futures_util::StreamExt as _;
use keyward::domain::ids::{InstanceId, Owner, PriceId, RequestId};
use keyward::domain::money::Nanos;
use keyward::domain::price::Multiplier;
use keyward::domain::usage::{Dimension, Labels, UsageRow, UsageState, bucket_of};
use keyward::services::meter;
use keyward::services::usage::{Days, UsageQuery};
use keyward::storage::adjustments::{self, Adjustment};
use keyward::storage::usage_report::{self, Totals};
use keyward::storage::{Database, changes, day_sums, holds, usage};
use serde_json::{Value, json};

use crate::on_both;
use crate::support::{World, holder, message, test_key};

on_both! {
    async fn nothing_answered_goes_unrecorded(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
        let token = world.token(&tenant).await;
        let calls = (0..120).map(|i| {
            let request = world.send(&token, &message(["claude-haiku-4-5", "claude-opus-5"][i % 2], 20));
            async move { request.send().await.unwrap() }
        });
        let answers = futures_util::future::join_all(calls).await;
        let mut cost = 0;
        for answer in answers {
            assert_eq!(answer.status(), 200);
            let row = world.row_of(&answer).await;
            assert_eq!(row.state, UsageState::Final);
            cost += row.cost.0;
        }
        assert_eq!(world.rows(&tenant).await.len(), 120);

        // Rollups, days and groups say the same.
        let scope = Scope::of_token(tenant.id);
        let report = world.services.billing_report(&world.admin(&tenant), &scope, &tenant, Dimension::Model).await.unwrap();
        assert_eq!((report.totals.requests, report.totals.cost, report.totals.failed), (120, cost, 0));
        assert_eq!(report.days.len(), 30);
        assert_eq!(report.days[29].byok.requests, 120);
        let groups = report.groups.unwrap();
        let names: Vec<(&str, i64)> = groups.iter().map(|line| (line.name.as_str(), line.byok.requests)).collect();
        assert_eq!(names, [("claude-opus-5", 60), ("claude-haiku-4-5", 60)], "the costliest first");
        assert_eq!(report.previous, Totals::default());
        let line = &world.services.key_lines(holder(&tenant)).await.unwrap()[0];
        assert_eq!(line.cost_30d.0, cost);
        assert!(world.clock.now().since(line.key.last_used_at.unwrap()) < MINUTE);
        // Tokens remember their last use too.
        let tokens = world.services.tokens(&world.admin(&tenant), holder(&tenant)).await.unwrap();
        assert!(tokens[0].last_used_at.is_some());
    }
}

on_both! {
    /// While another process keeps the database to itself, calls go out and no answer comes back. A few wait
    /// to be written where they are answered, many are left to the writer.
    async fn no_answer_comes_before_its_row(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
        let token = world.token(&tenant).await;
        let mut before = 0;
        for count in [1, 20, 200] {
            world.forget_arrived().await;
            let elsewhere = Elsewhere::write(world).await;
            let call = || tokio::spawn(world.message(&token).send());
            let mut calls: futures_util::stream::FuturesUnordered<_> = (0..count).map(|_| call()).collect();
            let patience = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
            while world.arrived().await.len() < count {
                assert!(tokio::time::Instant::now() < patience, "of {count} calls {} went out", world.arrived().await.len());
                // Asking costs the sandbox as much as the calls do.
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            let early = tokio::time::timeout(std::time::Duration::from_millis(300), calls.next()).await;
            assert!(early.is_err(), "an answer without a row");
            elsewhere.end().await;
            while let Some(answer) = calls.next().await {
                assert_eq!(answer.unwrap().unwrap().status(), 200);
            }
            let rows = world.rows(&tenant).await;
            assert_eq!(rows.len(), before + count);
            assert!(rows.iter().all(|row| row.state == UsageState::Final));
            before += count;
        }
    }
}

/// A transaction of another process that writes usage.
enum Elsewhere {
    Sqlite(rusqlite::Connection),
    Postgres(sqlx::Transaction<'static, sqlx::Postgres>),
}

impl Elsewhere {
    async fn write(world: &World) -> Self {
        match &world.services.db {
            Database::Sqlite(_) => {
                let connection = rusqlite::Connection::open(world.dir.path().join("keyward.db")).unwrap();
                connection.execute_batch("BEGIN IMMEDIATE").unwrap();
                Self::Sqlite(connection)
            }
            Database::Postgres(pool) => {
                let mut tx = pool.begin().await.unwrap();
                sqlx::query("LOCK TABLE usage IN EXCLUSIVE MODE").execute(&mut *tx).await.unwrap();
                Self::Postgres(tx)
            }
        }
    }

    async fn end(self) {
        match self {
            Self::Sqlite(connection) => connection.execute_batch("COMMIT").unwrap(),
            Self::Postgres(tx) => tx.commit().await.unwrap(),
        }
    }
}

on_both! {
    async fn a_model_without_a_price_is_flagged_and_never_free(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        let row = sample(world, &tenant, world.clock.now(), "claude-fable-9", 0);
        let report = keyward::providers::Report {
            tokens: Some(row.tokens),
            complete: true,
            model: Some("claude-fable-9".into()),
            ..Default::default()
        };
        let platform = world.services.directory.platform().await.unwrap();
        let ending = meter::Ending { status: Some(200), ..Default::default() };
        let settled = meter::settle(row, report, ending, &platform.prices, world.clock.now());
        assert!(settled.unpriced && settled.cost.0 == 0);
        world.services.meter.settle(settled);
        world.services.meter.flush().await;
        let scope = Scope::of_token(tenant.id);
        let report = world.services.billing_report(&world.admin(&tenant), &scope, &tenant, Dimension::Feature).await.unwrap();
        assert_eq!(report.unpriced, [("claude-fable-9".to_owned(), 1)]);
        assert_eq!(report.totals.unpriced, 1);
    }
}

on_both! {
    async fn a_client_that_leaves_does_not_stop_the_meter(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        world.add_key(&tenant, "production", &test_key("slow")).await.unwrap();
        let token = world.token(&tenant).await;
        let mut body = message("claude-haiku-4-5", 40);
        body["stream"] = json!(true);
        let mut answer = world.send(&token, &body).send().await.unwrap();
        let id = RequestId::parse(answer.headers()["x-keyward-request-id"].to_str().unwrap()).unwrap();
        answer.chunk().await.unwrap().unwrap();
        drop(answer);
        // One that never saw the head of its answer.
        let impatient = world.send(&token, &message("claude-opus-5", 40)).timeout(std::time::Duration::from_millis(300)).send().await;
        assert!(impatient.is_err());

        let row = world.row(id).await;
        assert_eq!(row.state, UsageState::Final, "the answer was read to its end");
        assert!(row.tokens.output > 1 && row.cost.0 > 0);
        let rows = loop {
            let rows = world.rows(&tenant).await;
            if rows.len() == 2 && rows.iter().all(|row| row.state != UsageState::Pending) {
                break rows;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        };
        assert!(rows.iter().all(|row| row.state == UsageState::Final && row.cost.0 > 0), "{rows:?}");
    }
}

on_both! {
    async fn rows_of_a_process_that_died_are_settled_by_estimate(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        let now = world.clock.now();
        let (dead, alive) = (InstanceId::new(), InstanceId::new());
        let mut tx = world.services.db.meter().await.unwrap();
        changes::beat(&mut tx, alive, now).await.unwrap();
        changes::beat(&mut tx, dead, now.minus(HOUR)).await.unwrap();
        let row = |instance| UsageRow { instance, ..sample(world, &tenant, now.minus(MINUTE), "claude-haiku-4-5", 0) };
        let (orphan, busy) = (row(dead), row(alive));
        usage::upsert(&mut tx, &[orphan.clone(), busy.clone()]).await.unwrap();
        tx.commit().await.unwrap();
        world.services.keep_meter().await.unwrap();

        let settled = world.row(orphan.id).await;
        assert_eq!((settled.state, settled.cost.0), (UsageState::Estimated, 100 * 1_000 + 50 * 5_000));
        let mut tx = world.services.db.read().await.unwrap();
        let waiting = usage::find(&mut tx, busy.id).await.unwrap().unwrap();
        assert_eq!(waiting.state, UsageState::Pending, "another process still owes it");
        let scope = Scope::of_token(tenant.id);
        let totals = usage_report::totals(&mut tx, &scope, bucket_of(now.minus(HOUR)), now.plus(HOUR)).await.unwrap();
        assert_eq!((totals.requests, totals.estimated, totals.estimated_cost), (1, 1, settled.cost.0));
    }
}

on_both! {
    async fn days_add_up_to_the_range_in_every_zone(world: World) {
        let now = world.clock.now();
        for zone in ["UTC", "Asia/Kathmandu", "America/St_Johns", "Pacific/Kiritimati", "Europe/Berlin"] {
            let slug = zone.to_lowercase().replace(['/', '_'], "-");
            let mut tenant = world.tenant(&slug, UsageMode::Byok).await;
            tenant.time_zone = zone.to_owned();
            let rows: Vec<UsageRow> = (0..600_i64)
                .map(|i| {
                    let at = now.minus(i * 61 * DAY / 600 - MINUTE * 3);
                    let mode = if i % 3 == 0 { UsageMode::Managed } else { UsageMode::Byok };
                    UsageRow { mode, state: UsageState::Final, status: Some(200), ..sample(world, &tenant, at, "claude-haiku-4-5", 1_000 + i) }
                })
                .collect();
            let mut tx = world.services.db.meter().await.unwrap();
            usage::upsert(&mut tx, &rows).await.unwrap();
            usage::roll_up(&mut tx, &rows).await.unwrap();
            tx.commit().await.unwrap();
            let scope = Scope::of_token(tenant.id);
            let report = world.services.billing_report(&world.admin(&tenant), &scope, &tenant, Dimension::Key).await.unwrap();
            let within = |from: Moment, to: Moment| {
                rows.iter().filter(move |row| row.started_at >= from && row.started_at < to).map(|row| row.cost.0).sum::<i64>()
            };
            assert_eq!(report.totals.cost, within(report.from, report.to), "{zone}");
            for (day, part) in report.days.iter().zip(0..) {
                let zone = jiff::tz::TimeZone::get(zone).unwrap();
                let from = Moment::start_of(day.date, &zone);
                let to = Moment::start_of(day.date.tomorrow().unwrap(), &zone);
                assert_eq!(day.byok.cost + day.managed.cost, within(from, to), "{part} {}", day.date);
            }
            let groups = report.groups.unwrap();
            assert_eq!(groups.iter().map(|line| line.byok.cost + line.managed.cost).sum::<i64>(), report.totals.cost);
            assert!(report.previous.cost > 0);
        }
    }
}

on_both! {
    async fn sums_of_days_change_no_figure(world: World) {
        const ZONES: [(&str, &str); 3] = [
            ("America/St_Johns", "UPDATE tenant SET time_zone = 'America/St_Johns'"),
            ("Pacific/Kiritimati", "UPDATE tenant SET time_zone = 'Pacific/Kiritimati'"),
            ("UTC", "UPDATE tenant SET time_zone = 'UTC'"),
        ];
        let now = world.clock.now();
        for (zone, in_it) in ZONES {
            let mut tenant = world.tenant(&zone.to_lowercase().replace(['/', '_'], "-"), UsageMode::Byok).await;
            world.sql(in_it).await;
            tenant.time_zone = zone.to_owned();
            let mut rows: Vec<UsageRow> = (0..400_i64)
                .map(|i| {
                    // Weeks without any use lie between.
                    let at = now.minus(i * DAY / 16 + (i / 100) * 11 * DAY + MINUTE);
                    let mode = if i % 3 == 0 { UsageMode::Managed } else { UsageMode::Byok };
                    let feature = format!("feature-{}", i % 4);
                    UsageRow { mode, feature, unpriced: i % 90 == 0, state: UsageState::Final, status: Some(200), ..sample(world, &tenant, at, model_of(i % 90 == 0), 1_000 + i) }
                })
                .collect();
            holds::record(&world.services.db, &[], &rows, Moment(0)).await.unwrap();
            sum_days(world).await;
            figures_are_those_of(world, &tenant, &rows).await;
            assert!(through(world, &tenant).await > now.minus(40 * HOUR), "{zone}");

            // What settles late is in no sum until its day is summed again.
            let late = UsageRow { state: UsageState::Final, status: Some(200), ended_at: Some(now), ..sample(world, &tenant, now.minus(9 * DAY), "claude-haiku-4-5", 77) };
            world.services.meter.settle(late.clone());
            world.services.meter.flush().await;
            let left = through(world, &tenant).await;
            assert!(left <= late.started_at && late.started_at.since(left) < 25 * HOUR, "{zone}");
            rows.push(late);
            figures_are_those_of(world, &tenant, &rows).await;
            sum_days(world).await;
            figures_are_those_of(world, &tenant, &rows).await;

            // So is what is rated again.
            let adjustment = Adjustment { at: now, price: PriceId(uuid::Uuid::now_v7()), cost: Nanos(500), billed: Nanos(0) };
            let unpriced: Vec<_> = rows.iter().filter(|row| row.unpriced).map(|row| (row.clone(), adjustment)).collect();
            let mut tx = world.services.db.meter().await.unwrap();
            assert_eq!(adjustments::append(&mut tx, &unpriced).await.unwrap(), unpriced.len());
            assert_eq!(adjustments::append(&mut tx, &unpriced).await.unwrap(), 0);
            tx.commit().await.unwrap();
            for row in rows.iter_mut().filter(|row| row.unpriced) {
                row.cost = Nanos(row.cost.0 + 500);
            }
            figures_are_those_of(world, &tenant, &rows).await;
            sum_days(world).await;
            figures_are_those_of(world, &tenant, &rows).await;
        }
    }
}

on_both! {
    async fn days_are_summed_while_rows_settle_in_them(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        let now = world.clock.now();
        let rows: Vec<UsageRow> = (0..400_i64)
            .map(|i| {
                let at = now.minus((i % 8 + 3) * DAY);
                UsageRow { state: UsageState::Final, status: Some(200), ..sample(world, &tenant, at, "claude-haiku-4-5", 1_000 + i) }
            })
            .collect();
        let settling = async {
            for batch in rows.chunks(4) {
                holds::record(&world.services.db, &[], batch, now).await.unwrap();
            }
        };
        let summing = async {
            for _ in 0..100 {
                world.services.sum_days().await.unwrap();
            }
        };
        tokio::join!(settling, summing);
        figures_are_those_of(world, &tenant, &rows).await;
        sum_days(world).await;
        figures_are_those_of(world, &tenant, &rows).await;
    }
}

/// One that no job can rate while a test looks, where it is to be without a price.
fn model_of(unpriced: bool) -> &'static str {
    if unpriced { "claude-unheard-of" } else { "claude-haiku-4-5" }
}

/// Announced, and then done.
async fn sum_days(world: &World) {
    world.services.sum_days().await.unwrap();
    world.services.sum_days().await.unwrap();
}

async fn through(world: &World, tenant: &Tenant) -> Moment {
    let mut tx = world.services.db.read().await.unwrap();
    let scope = Scope::of_token(tenant.id);
    day_sums::cover(&mut tx, &scope, Moment(0), Moment(i64::MAX)).await.unwrap().days_to
}

/// Asks for ranges that begin and end anywhere.
async fn figures_are_those_of(world: &World, tenant: &Tenant, rows: &[UsageRow]) {
    let (now, scope) = (world.clock.now(), Scope::of_token(tenant.id));
    let cost = |from: Moment, to: Moment| {
        rows.iter()
            .filter(|row| row.started_at >= from && row.started_at < to)
            .map(|row| row.cost.0)
            .sum::<i64>()
    };
    let mut tx = world.services.db.read().await.unwrap();
    for step in 0..60_i64 {
        let from = bucket_of(now.minus((step * 37 % 61) * DAY + step * 17 * MINUTE));
        let to = bucket_of(from.plus((step * 13 % 40) * DAY / 3 + 45 * MINUTE));
        let totals = usage_report::totals(&mut tx, &scope, from, to).await.unwrap();
        assert_eq!(totals.cost, cost(from, to), "{} {} to {}", tenant.slug, from.rfc3339(), to.rfc3339());
        let used = usage_report::latest_of_each(&mut tx, &[tenant.id], from).await.unwrap()[&tenant.id];
        let last = rows.iter().map(|row| bucket_of(row.started_at)).max();
        assert_eq!(used, (last, Nanos(cost(from, Moment(i64::MAX)))), "{} {}", tenant.slug, from.rfc3339());
    }
    tx.rollback().await.unwrap();
    let report =
        world.services.billing_report(&world.admin(tenant), &scope, tenant, Dimension::Key).await.unwrap();
    let zone = jiff::tz::TimeZone::get(&tenant.time_zone).unwrap();
    for day in &report.days {
        let start = |date| Moment::start_of(date, &zone);
        let expected = cost(start(day.date), start(day.date.tomorrow().unwrap()));
        assert_eq!(day.byok.cost + day.managed.cost, expected, "{} {}", tenant.slug, day.date);
    }
}

on_both! {
    async fn every_grouping_sums_the_same_rows(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        let now = world.clock.now();
        let rows: Vec<UsageRow> = (0..300_i64)
            .map(|i| {
                let label = |name: &str, of: i64| (i % of != 0).then(|| format!("{name}-{}", i % of));
                UsageRow {
                    mode: if i % 3 == 0 { UsageMode::Managed } else { UsageMode::Byok },
                    state: [UsageState::Final, UsageState::Partial, UsageState::Estimated][usize::try_from(i % 3).unwrap()],
                    status: (i % 7 != 0).then_some(200),
                    feature: format!("feature-{}", i % 4),
                    unpriced: i % 50 == 0,
                    billed: Nanos(if i % 3 == 0 { 1_000 + i } else { 0 }),
                    labels: Labels { endpoint: label("till", 5), session: label("ses", 11), prompt: label("prompt", 6) },
                    ..sample(world, &tenant, now.minus(i * DAY / 40), model_of(i % 50 == 0), 1_000 + i)
                }
            })
            .collect();
        let pending = UsageRow { state: UsageState::Pending, ..sample(world, &tenant, now.minus(MINUTE), "claude-haiku-4-5", 0) };
        let mut tx = world.services.db.meter().await.unwrap();
        usage::upsert(&mut tx, &rows).await.unwrap();
        usage::roll_up(&mut tx, &rows).await.unwrap();
        usage::upsert(&mut tx, &[pending]).await.unwrap();
        tx.commit().await.unwrap();
        let (admin, scope) = (world.admin(&tenant), Scope::of_token(tenant.id));
        let days = Days { first: now.minus(30 * DAY).date(&jiff::tz::TimeZone::UTC), last: now.date(&jiff::tz::TimeZone::UTC) };
        let mut all: Option<Totals> = None;
        for by in Dimension::ALL {
            for then in [None].into_iter().chain(Dimension::ALL.iter().copied().map(Some)) {
                let query = UsageQuery { days, by: *by, then: then.filter(|then| then != by), filters: Vec::new() };
                let report = world.services.usage_report(&admin, &scope, &tenant, &query, false).await.unwrap();
                assert_eq!(*all.get_or_insert(report.totals), report.totals, "{by} {then:?}");
                // A filter keeps what its line has.
                let line = report.lines.last().unwrap();
                let filters = vec![(*by, line.name.clone())];
                let narrowed = UsageQuery { filters: filters.clone(), ..query.clone() };
                let narrow = world.services.usage_report(&admin, &scope, &tenant, &narrowed, false).await.unwrap();
                let expected = report.lines.iter().filter(|other| other.name == line.name).fold(Totals::default(), |sum, line| sum.plus(&line.sum()));
                assert_eq!(narrow.totals, expected, "{by} {then:?} {filters:?}");
                if *by != Dimension::Key {
                    let (found, _) = world.services.requests(&admin, &tenant, &narrowed, None, 1_000).await.unwrap();
                    assert_eq!(found.iter().map(|row| row.cost.0).sum::<i64>(), expected.cost, "{by} {filters:?}");
                }
            }
        }
        let all = all.unwrap();
        assert_eq!((all.requests, all.cost), (300, rows.iter().map(|row| row.cost.0).sum()));
        assert_eq!(all.billed, rows.iter().map(|row| row.billed.0).sum::<i64>());
        // A page of requests begins where the one before ended.
        let query = UsageQuery { days, by: Dimension::Feature, then: None, filters: Vec::new() };
        let mut seen = Vec::new();
        let mut before = None;
        loop {
            let (page, _) = world.services.requests(&admin, &tenant, &query, before, 70).await.unwrap();
            let Some(last) = page.last() else { break };
            before = Some((last.started_at, last.id));
            seen.extend(page.into_iter().map(|row| row.id));
        }
        let mut expected: Vec<_> = rows.iter().map(|row| (row.started_at, row.id)).collect();
        expected.sort_unstable();
        assert_eq!(seen, expected.into_iter().rev().map(|(_, id)| id).collect::<Vec<_>>());
    }
}

on_both! {
    async fn switching_mode_is_dated_and_touches_no_past_row(world: World) {
        world.add_shared_key(&test_key("ok")).await;
        let tenant = world.tenant("acme", UsageMode::Managed).await;
        world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
        let (token, admin, scope) = (world.token(&tenant).await, world.admin(&tenant), Scope::of_token(tenant.id));
        let before = world.message(&token).send().await.unwrap();
        world.services.set_mode(&admin, &scope, &tenant, UsageMode::Byok).await.unwrap();
        let after = world.message(&token).send().await.unwrap();
        assert_eq!(world.row_of(&before).await.mode, UsageMode::Managed);
        assert_eq!(world.row_of(&after).await.mode, UsageMode::Byok);
        let again = world.services.set_mode(&admin, &scope, &tenant, UsageMode::Byok).await;
        assert!(matches!(again, Err(keyward::services::ServiceError::Conflict(_))));
        // Two who want the same at once: one does it, and there is one date.
        let to = UsageMode::Managed;
        let (one, other) = tokio::join!(
            world.services.set_mode(&admin, &scope, &tenant, to),
            world.services.set_mode(&admin, &scope, &tenant, to)
        );
        assert_eq!([one.is_ok(), other.is_ok()].iter().filter(|done| **done).count(), 1, "{one:?} {other:?}");
        world.services.set_mode(&admin, &scope, &tenant, UsageMode::Byok).await.unwrap();
        let report = world.services.billing_report(&admin, &scope, &tenant, Dimension::Feature).await.unwrap();
        let modes: Vec<UsageMode> = report.mode_changes.iter().map(|change| change.mode).collect();
        let expected = [UsageMode::Byok, UsageMode::Managed, UsageMode::Byok];
        assert_eq!(modes, expected, "the mode that it began with is no switch");
        let line = &report.groups.unwrap()[0];
        assert_eq!((line.byok.requests, line.managed.requests), (1, 1));
    }
}

on_both! {
    async fn cache_kinds_and_searches_are_rated_apart(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
        let token = world.token(&tenant).await;
        let text = "A long preamble that is worth caching. ".repeat(40);
        let body = json!({
            "model": "claude-sonnet-4-6", "max_tokens": 30,
            "system": [{ "type": "text", "text": text, "cache_control": { "type": "ephemeral", "ttl": "1h" } }],
            "tools": [{ "type": "web_search_20250305", "name": "web_search" }],
            "messages": [{ "role": "user", "content": "Go." }],
        });
        let first = world.send(&token, &body).send().await.unwrap();
        let row = world.row_of(&first).await;
        let usage = first.json::<Value>().await.unwrap()["usage"].clone();
        assert!(row.tokens.cache_write_1h > 0 && row.tokens.web_searches == 1, "{usage}");
        let of = |name: &str| usage[name].as_i64().unwrap();
        // Sonnet 4.6: $3 in, $15 out, $6 for an hour's cache write; a search is a cent.
        let expected = of("input_tokens") * 3_000 + of("output_tokens") * 15_000
            + usage["cache_creation"]["ephemeral_1h_input_tokens"].as_i64().unwrap() * 6_000
            + usage["cache_creation"]["ephemeral_5m_input_tokens"].as_i64().unwrap() * 3_750
            + of("cache_read_input_tokens") * 300 + 10_000_000;
        assert_eq!(row.cost.0, expected);
        let second = world.send(&token, &body).send().await.unwrap();
        let row = world.row_of(&second).await;
        assert!(row.tokens.cache_read > 0 && row.tokens.cache_write_1h == 0);
    }
}

pub fn sample(
    world: &World,
    tenant: &keyward::domain::account::Tenant,
    at: Moment,
    model: &str,
    cost: i64,
) -> UsageRow {
    use keyward::domain::billing::Funding;
    use keyward::domain::ids::KeyId;
    use keyward::domain::money::Nanos;
    use keyward::domain::provider_key::Provider;
    use keyward::domain::usage::{Dialect, Labels, ServedAs, TokenUsage};
    let _ = Owner::Platform;
    UsageRow {
        id: RequestId::new(),
        tenant_id: tenant.id,
        instance: world.services.instance,
        started_at: at,
        ended_at: None,
        feature: "general".into(),
        provider: Provider::Anthropic,
        dialect: Dialect::Anthropic,
        key_id: KeyId(uuid::Uuid::from_u128(7)),
        key_name: "gone".into(),
        key_version: 1,
        mode: UsageMode::Byok,
        funding: Funding::Included,
        fallback: None,
        model_asked: model.into(),
        model_served: None,
        labels: Labels::default(),
        tokens: TokenUsage { input: 100, output: 50, ..TokenUsage::default() },
        served_as: ServedAs::default(),
        raw_usage: None,
        rate: Multiplier::LIST,
        price_id: None,
        cost: Nanos(cost),
        billed: Nanos(0),
        held: Nanos(0),
        unpriced: false,
        state: UsageState::Pending,
        status: None,
        error_code: None,
        first_byte_us: None,
        total_us: None,
    }
}
