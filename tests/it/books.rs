//! Books: rows, rollups, days and statements say the same, whatever ran when, where and for whom, and whenever
//! it was written down.

use keyward::domain::account::Tenant;
use keyward::domain::billing::{Fallback, Funding, UsageMode};
use keyward::domain::clock::{DAY, HOUR, Moment};
use keyward::domain::ids::Owner;
use keyward::domain::money::Nanos;
use keyward::domain::price::Multiplier;
use keyward::domain::statement::{EARLIER, Section, Statement};
use keyward::domain::usage::{Dimension, Labels, UsageRow, UsageState};
use keyward::services::credits::TypedEntry;
use keyward::services::statements::TypedTerms;

use keyward::storage::holds::{self, Used};
use keyward::storage::{audit, usage_report};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::metering::sample;
use crate::on_both;
use crate::support::{World, holder, test_key};

const NOTHING_SUMMED: Moment = Moment(0);

/// Clocks change in March or April in most of them, in one by half an hour.
const ZONES: [&str; 8] = [
    "UTC",
    "Europe/Berlin",
    "America/St_Johns",
    "Australia/Lord_Howe",
    "America/Santiago",
    "Asia/Kathmandu",
    "Pacific/Kiritimati",
    "Africa/Cairo",
];

/// A request, but for when it ran.
#[derive(Clone, Debug)]
struct Request {
    /// Of the time in question, in millionths.
    at: i64,
    mode: UsageMode,
    funding: Funding,
    fallback: Option<Fallback>,
    state: UsageState,
    unpriced: bool,
    rate: i32,
    cost: i64,
    label: usize,
}

fn request() -> impl Strategy<Value = Request> {
    let mode = prop_oneof![Just(UsageMode::Byok), Just(UsageMode::Managed)];
    let funding = prop_oneof![Just(Funding::Included), Just(Funding::Metered), Just(Funding::Credits)];
    let fallback =
        prop_oneof![4 => Just(None), 1 => Just(Some(Fallback::NoKey)), 1 => Just(Some(Fallback::Limit))];
    let state = prop_oneof![
        6 => Just(UsageState::Final),
        1 => Just(UsageState::Partial),
        1 => Just(UsageState::Estimated)
    ];
    let rate = prop_oneof![3 => Just(1_000), 1 => 1..3_000];
    let (cost, label) = (0..5_000_000_000_i64, 0..4_usize);
    let rest = (proptest::bool::weighted(0.1), rate, cost, label);
    (0..1_000_000_i64, mode, funding, fallback, state, rest).prop_map(
        |(at, mode, funding, fallback, state, (unpriced, rate, cost, label))| {
            let fallback = fallback.filter(|_| mode == UsageMode::Managed);
            let cost = if unpriced { 0 } else { cost };
            Request { at, mode, funding, fallback, state, unpriced, rate, cost, label }
        },
    )
}

/// Some requests at random.
fn some(runner: &mut TestRunner) -> Vec<Request> {
    proptest::collection::vec(request(), 0..60).new_tree(runner).unwrap().current()
}

/// Writes them down as requests of a time, in as many goes as they have labels.
async fn write(
    world: &World,
    tenant: &Tenant,
    (from, to): (Moment, Moment),
    requests: &[Request],
) -> Vec<UsageRow> {
    let rows: Vec<UsageRow> = requests
        .iter()
        .map(|one| {
            let at = from
                .plus(i64::try_from(i128::from(to.since(from)) * i128::from(one.at) / 1_000_000).unwrap());
            let is_billed = one.mode == UsageMode::Managed && one.funding != Funding::Included;
            let endpoint = (one.label > 0).then(|| format!("till-{}", one.label));
            UsageRow {
                mode: one.mode,
                funding: one.funding,
                fallback: one.fallback,
                state: one.state,
                unpriced: one.unpriced,
                rate: Multiplier(one.rate),
                billed: Nanos(if is_billed { one.cost } else { 0 }),
                labels: Labels { endpoint, ..Labels::default() },
                status: Some(200),
                ended_at: Some(at),
                ..sample(
                    world,
                    tenant,
                    at,
                    if one.unpriced { "claude-unheard-of" } else { "claude-haiku-4-5" },
                    one.cost,
                )
            }
        })
        .collect();
    for label in 0..4 {
        let part = rows.iter().zip(requests).filter(|(_, one)| one.label == label).map(|(row, _)| row);
        let part: Vec<&UsageRow> = part.collect();
        // By turns both ways that SQLite knows.
        let written = match world.services.db.at_once().await.filter(|_| label % 2 == 0) {
            Some(turn) => holds::record_at_once(turn, &[], &part, &Used::default()),
            None => holds::record(&world.services.db, &[], &part, NOTHING_SUMMED).await,
        };
        assert!(written.unwrap().is_empty());
    }
    rows
}

/// Requests, what they cost at list price, and what is due for them, as the lines of statements say it.
fn in_lines<'a>(statements: impl Iterator<Item = &'a Statement>) -> (i64, i64, i64) {
    let mut sums = (0, 0, 0);
    for statement in statements {
        let counted = statement.lines.iter().filter(|line| line.list.is_some() && line.count.is_some());
        for line in counted {
            sums.0 += line.count.unwrap();
            sums.1 += line.list.unwrap().0;
            sums.2 += if line.section == Section::Due { line.amount.0 } else { 0 };
        }
    }
    sums
}

fn in_rows<'a>(rows: impl Iterator<Item = &'a UsageRow>) -> (i64, i64, i64) {
    let mut sums = (0, 0, 0);
    for row in rows {
        let is_due = row.mode == UsageMode::Managed && row.funding == Funding::Metered;
        sums.0 += 1;
        sums.1 += row.rate.list_of(row.cost).0;
        sums.2 += if is_due { row.billed.0 } else { 0 };
    }
    sums
}

fn go_to(world: &World, date: jiff::civil::Date) {
    let to = Moment::start_of(date, &jiff::tz::TimeZone::UTC).plus(12 * HOUR);
    world.clock.advance(to.since(world.clock.now()));
}

async fn all_statements(world: &World, tenant: &Tenant) -> (Vec<Statement>, Vec<Statement>) {
    world.services.statements(&world.admin(tenant), &holder(tenant).scope, tenant).await.unwrap()
}

on_both! {
    async fn rows_rollups_days_and_statements_agree(world: World) {
        let mut runner = TestRunner::default();
        let date = jiff::civil::date;
        go_to(world, date(2027, 2, 10));
        let begun = world.clock.now();
        let mut cases = Vec::new();
        for (zone, i) in ZONES.into_iter().zip(0..) {
            let mut tenant = world.tenant(&format!("tenant-{i}"), UsageMode::Managed).await;
            let sql = format!("UPDATE tenant SET time_zone = '{zone}' WHERE slug = 'tenant-{i}'");
            world.sql(Box::leak(sql.into_boxed_str())).await;
            tenant.time_zone = zone.to_owned();
            cases.push((tenant, Vec::<UsageRow>::new()));
        }
        // February is closed without what comes late of it; March with that; April is running.
        let mut since = begun;
        for (day, late) in [(date(2027, 3, 5), 0), (date(2027, 4, 20), 1), (date(2027, 4, 21), 2)] {
            go_to(world, day);
            let now = world.clock.now();
            for (tenant, rows) in &mut cases {
                rows.extend(write(world, tenant, (since, now), &some(&mut runner)).await);
                if late > 0 {
                    rows.extend(write(world, tenant, (begun, since), &some(&mut runner)).await);
                }
            }
            world.services.close_months().await.unwrap();
            since = now;
        }
        for (tenant, rows) in &cases {
            let (zone, scope) = (jiff::tz::TimeZone::get(&tenant.time_zone).unwrap(), holder(tenant).scope);
            let (open, closed) = all_statements(world, tenant).await;
            let months: Vec<&str> = closed.iter().map(|one| one.month.as_str()).collect();
            assert_eq!((months, open.len(), open[0].month.as_str()), (vec!["2027-03", "2027-02"], 1, "2027-04"));
            let context = format!("{}: {rows:#?}", tenant.time_zone);
            assert_eq!(in_lines(open.iter().chain(&closed)), in_rows(rows.iter()), "{context}");
            // Each closed one holds what it has to.
            let february = closed[1].period;
            let first = in_lines(closed[1..].iter());
            assert!(first.0 <= in_rows(rows.iter().filter(|row| february.has(row.started_at))).0);

            let mut tx = world.services.db.read().await.unwrap();
            for period in [closed[1].period, closed[0].period, open[0].period] {
                let totals = usage_report::totals(&mut tx, &scope, period.start, period.end).await.unwrap();
                let inside = || rows.iter().filter(|row| period.has(row.started_at));
                let (requests, list, _) = in_rows(inside());
                assert_eq!((totals.requests, totals.list_cost), (requests, list), "{context}");
                let billed: i64 = inside().map(|row| row.billed.0).sum();
                let cost: i64 = inside().map(|row| row.cost.0).sum();
                assert_eq!((totals.billed, totals.cost), (billed, cost), "{context}");
            }
            tx.rollback().await.unwrap();
            // The days of the range, over the change of clocks.
            let report = world.services.billing_report(&world.admin(tenant), &scope, tenant, Dimension::Endpoint).await.unwrap();
            let of_day = |date: jiff::civil::Date| {
                let (from, to) = (Moment::start_of(date, &zone), Moment::start_of(date.tomorrow().unwrap(), &zone));
                rows.iter().filter(move |row| row.started_at >= from && row.started_at < to).map(|row| row.cost.0).sum::<i64>()
            };
            let mut sum = 0;
            for day in &report.days {
                assert_eq!(day.byok.cost + day.managed.cost, of_day(day.date), "{} {context}", day.date);
                sum += of_day(day.date);
            }
            assert_eq!((report.days.len(), report.totals.cost), (30, sum), "{context}");
            let groups: i64 = report.groups.unwrap().iter().map(|line| line.byok.cost + line.managed.cost).sum();
            assert_eq!(groups, sum, "{context}");
        }
        let (tenant, _) = &cases[0];
        let mut tx = world.services.db.read().await.unwrap();
        let log = audit::list(&mut tx, Owner::Tenant(tenant.id), 50).await.unwrap();
        let closings = log.iter().filter(|row| row.action == "billing.statement_closed");
        assert_eq!(closings.map(|row| row.target.as_str()).collect::<Vec<_>>(), ["2027-03", "2027-02"]);
    }
}

on_both! {
    /// A clock that is ahead closes months that are not over. What runs in them goes into the next that is closed.
    async fn what_runs_in_a_month_that_a_wrong_clock_closed_is_in_the_next(world: World) {
        let terms = TypedTerms { subscription: "0".into(), endpoints_included: "0".into(), endpoint_fee: "0".into(), byok_percent: "10".into() };
        world.services.set_plan_terms(&world.super_admin(), "pro", &terms).await.unwrap();
        // Early in a month, and late in one.
        for (slug, begun) in [("early", jiff::civil::date(2027, 1, 3)), ("late", jiff::civil::date(2027, 8, 30))] {
            go_to(world, begun);
            let tenant = world.tenant(slug, UsageMode::Byok).await;
            world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
            let token = world.token(&tenant).await;
            let call = async || {
                let answer = world.message(&token).send().await.unwrap();
                world.row_of(&answer).await
            };
            let mut rows = vec![call().await];
            world.clock.advance(150 * DAY);
            // Two processes find them over at once.
            let (one, other) = tokio::join!(world.services.close_months(), world.services.close_months());
            assert!(one.unwrap() > 0 && other.unwrap() > 0);
            let (_, closed) = all_statements(world, &tenant).await;
            assert!(closed.len() >= 4, "{}", closed.len());
            world.clock.advance(-150 * DAY);
            for _ in 0..2 {
                rows.push(call().await);
            }
            // And one that was behind for a while.
            world.clock.advance(-400 * DAY);
            rows.push(call().await);
            world.clock.advance(400 * DAY);
            assert_eq!(world.services.close_months().await.unwrap(), 0);
            let (open, still) = all_statements(world, &tenant).await;
            assert_eq!(still, closed, "a closed month never changes");
            assert_eq!(open.len(), 1);
            assert_eq!(open[0].period.start, closed[0].period.end, "the first month that is not closed");
            assert_eq!(in_lines(open.iter().chain(&closed)), in_rows(rows.iter()));
            let month = begun.strftime("%Y-%m").to_string();
            for (of, count) in [(month.as_str(), 2), (EARLIER, 1)] {
                let of = format!("; of {of}, recorded later");
                let line = open[0].lines.iter().find(|line| line.text.ends_with(&of) && line.count.is_some());
                assert_eq!(line.unwrap().count, Some(count), "{open:#?}");
            }
            // Each of the calls is in one, and has paid its fee once. Before there were statements there was none.
            for _ in 0..8 {
                world.clock.advance(31 * DAY);
                world.services.close_months().await.unwrap();
            }
            let (open, closed) = all_statements(world, &tenant).await;
            assert_eq!(in_lines(open.iter().chain(&closed)), in_rows(rows.iter()));
            let due: i64 = open.iter().chain(&closed).map(|one| one.due.0).sum();
            let tenth = rows[..3].iter().map(|row| row.cost.0).sum::<i64>() / 10;
            assert!((due - tenth).abs() <= 1, "{due} of {tenth}");
        }
    }
}

on_both! {
    /// Whatever is entered into a month that is closed, the balance goes on from where it was.
    async fn balances_go_on_where_the_statement_before_ended(world: World) {
        go_to(world, jiff::civil::date(2027, 1, 10));
        let operator = world.super_admin();
        let tenant = world.tenant("acme", UsageMode::Managed).await;
        world.services.set_funding(&operator, &tenant, Funding::Included, Funding::Credits).await.unwrap();
        let enter = async |amount: &str| {
            let typed = TypedEntry { amount: amount.into(), note: "For the test".into(), form_id: String::new() };
            world.services.enter_credits(&world.super_admin(), &tenant, &typed).await.unwrap();
        };
        enter("20").await;
        world.clock.advance(40 * DAY);
        world.services.close_months().await.unwrap();
        // The clock was ahead.
        world.clock.advance(-40 * DAY);
        enter("5").await;
        for _ in 0..2 {
            world.clock.advance(40 * DAY);
            world.services.close_months().await.unwrap();
            enter("1").await;
        }
        let (mut open, closed) = all_statements(world, &tenant).await;
        open.extend(closed);
        let mut after = Nanos::ZERO;
        for statement in open.iter().rev() {
            let credits: Vec<_> = statement.lines.iter().filter(|line| line.section == Section::Credits).collect();
            let [before, entries @ .., last] = credits.as_slice() else { panic!("{statement:#?}") };
            assert_eq!((before.text.as_str(), before.amount), ("Balance before", after), "{statement:#?}");
            after = last.amount;
            assert_eq!(entries.iter().map(|line| line.amount.0).sum::<i64>(), after.0 - before.amount.0);
        }
        let late = |one: &&Statement| one.lines.iter().any(|line| line.text == "Entered after the month before was closed");
        assert_eq!(open.iter().filter(late).count(), 1);
        assert_eq!(after, Nanos(27_000_000_000));
    }
}

on_both! {
    /// A version that does not note what its statements hold may run beside this one while it is replaced.
    async fn what_an_older_version_closed_is_not_charged_again(world: World) {
        go_to(world, jiff::civil::date(2027, 1, 10));
        let tenant = world.tenant("acme", UsageMode::Managed).await;
        let begun = world.clock.now();
        let rows = write(world, &tenant, (begun, begun.plus(DAY)), &some(&mut TestRunner::default())).await;
        go_to(world, jiff::civil::date(2027, 2, 10));
        assert_eq!(world.services.close_months().await.unwrap(), 1);
        world.sql("DELETE FROM statement_use").await;
        let (open, closed) = all_statements(world, &tenant).await;
        assert_eq!(in_lines(closed.iter()), in_rows(rows.iter()));
        assert_eq!(in_lines(open.iter()), (0, 0, 0));
    }
}
