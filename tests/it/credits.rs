//! Credits and budgets: what is held, what is charged, and that it never comes apart.

use std::collections::HashMap;
use std::sync::Arc;

use keyward::access::scope::Scope;
use keyward::domain::account::Tenant;
use keyward::domain::billing::{Budget, EntryKind, Fallback, Funding, Period, UsageMode};
use keyward::domain::clock::{DAY, HOUR, MINUTE, Moment};
use keyward::domain::ids::Owner;
use keyward::domain::money::Nanos;
use keyward::domain::notice::NoticeKind;
use keyward::domain::price::Multiplier;
use keyward::domain::usage::{Labels, UsageRow, UsageState};
use keyward::services::ServiceError;
use keyward::services::budgets::TypedBudget;
use keyward::services::credits::TypedEntry;
use keyward::services::statements::TypedTerms;
use keyward::storage::{budgets, credits, holds, statements, usage, usage_report};
use serde_json::{Value, json};

use crate::metering::sample;
use crate::on_both;
use crate::support::{World, error_code, holder, message, test_key};

const MODEL: &str = "claude-haiku-4-5";
const NOTHING_SUMMED: Moment = Moment(0);

fn typed(amount: &str) -> TypedEntry {
    TypedEntry { amount: amount.to_owned(), note: "For the test".to_owned(), form_id: String::new() }
}

async fn prepaid(world: &World, slug: &str, credits: &str) -> (Tenant, String) {
    let tenant = world.tenant(slug, UsageMode::Managed).await;
    let operator = world.super_admin();
    world.services.set_funding(&operator, &tenant, Funding::Included, Funding::Credits).await.unwrap();
    if !credits.is_empty() {
        world.services.enter_credits(&operator, &tenant, &typed(credits)).await.unwrap();
    }
    let shared = world.services.platform_holder(&operator).unwrap();
    if world.services.keys(shared).await.unwrap().is_empty() {
        world.add_shared_key(&test_key("ok")).await;
    }
    let token = world.token(&tenant).await;
    (tenant, token)
}

/// The account, after seeing that it is the sum of its ledger and that nothing is held for nobody.
async fn balanced(world: &World, tenant: &Tenant) -> keyward::domain::billing::Credits {
    world.services.meter.flush().await;
    let mut tx = world.services.db.read().await.unwrap();
    assert_eq!(credits::unbalanced(&mut tx).await.unwrap(), []);
    let account = credits::find(&mut tx, tenant.id).await.unwrap();
    assert_eq!(account.held, Nanos::ZERO, "nothing is under way");
    account
}

async fn rows(world: &World, tenant: &Tenant) -> Vec<UsageRow> {
    world.services.meter.flush().await;
    let now = world.clock.now();
    let mut tx = world.services.db.read().await.unwrap();
    usage::page(&mut tx, tenant.id, now.minus(90 * DAY), now.plus(DAY), &[], None, 10_000).await.unwrap()
}

/// A message whose hold is known: so many tokens of output asked for.
fn asking(max_tokens: u32) -> Value {
    message(MODEL, max_tokens)
}

async fn hold_of(world: &World, body: &Value) -> Nanos {
    let tokens =
        keyward::domain::usage::ceiling(body.to_string().len(), body["max_tokens"].as_u64(), None, 1);
    let platform = world.services.directory.platform().await.unwrap();
    let provider = keyward::domain::provider_key::Provider::Anthropic;
    let served = keyward::domain::usage::ServedAs::default();
    platform.prices.rate(provider, MODEL, &tokens, served, world.clock.now()).unwrap().cost(Multiplier::LIST)
}

on_both! {
    async fn a_request_is_paid_from_credits_to_the_nanodollar(world: World) {
        let (tenant, token) = prepaid(world, "acme", "1").await;
        let answer = world.message(&token).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let row = world.row_of(&answer).await;
        assert_eq!((row.funding, row.mode, row.billed), (Funding::Credits, UsageMode::Managed, row.cost));
        assert!(row.cost > Nanos::ZERO && row.held > Nanos::ZERO);
        let account = balanced(world, &tenant).await;
        assert_eq!(account.balance, Nanos(1_000_000_000 - row.cost.0));
        // A stream is paid like any other.
        let mut body = message(MODEL, 20);
        body["stream"] = json!(true);
        let streamed = world.send(&token, &body).send().await.unwrap();
        let streamed_row = world.row_of(&streamed).await;
        streamed.bytes().await.unwrap();
        // One that the provider refuses costs nothing and frees its hold.
        let refused = world.send(&token, &json!({ "model": MODEL, "max_tokens": 0, "messages": [] })).send().await.unwrap();
        assert_eq!(refused.status(), 400);
        // Counting tokens is free.
        let count = json!({ "model": MODEL, "messages": [{ "role": "user", "content": "Hi" }] });
        let counted = world.http.post(format!("{}/v1/messages/count_tokens", world.url)).header("x-api-key", &token).json(&count).send().await.unwrap();
        assert_eq!(counted.status(), 200, "{}", counted.text().await.unwrap());
        let spent: i64 = rows(world, &tenant).await.iter().map(|row| row.billed.0).sum();
        assert!(spent > row.cost.0 + streamed_row.billed.0 - 1);
        assert_eq!(balanced(world, &tenant).await.balance, Nanos(1_000_000_000 - spent));
        // What was used on an own key is not paid from credits, and works without any.
        let (broke, token) = prepaid(world, "broke", "").await;
        world.add_key(&broke, "own", &test_key("ok")).await.unwrap();
        assert_eq!(error_code(&world.message(&token).send().await.unwrap().json().await.unwrap()), "keyward_credits_exhausted");
        let own = world.message(&token).header("x-keyward-key", "own").send().await.unwrap();
        assert_eq!(own.status(), 200);
        assert_eq!(balanced(world, &broke).await.balance, Nanos::ZERO);
    }
}

on_both! {
    async fn two_hundred_at_once_on_credit_for_one(world: World) {
        let body = asking(1_000);
        let hold = hold_of(world, &body).await;
        let (tenant, token) = prepaid(world, "acme", "").await;
        // Enough for one hold. The answer costs a few per cent of it, so that what is left over covers
        // no second one.
        let enter = keyward::storage::credits::NewEntry {
            at: world.clock.now(), kind: EntryKind::Grant, amount: hold, reference: None, note: "One", entered_by: "test",
        };
        let mut tx = world.services.db.write().await.unwrap();
        credits::enter(&mut tx, tenant.id, &enter).await.unwrap();
        tx.commit().await.unwrap();
        world.forget_arrived().await;
        let sends = (0..200).map(|_| world.send(&token, &body).send());
        let answers = futures_util::future::join_all(sends).await;
        let mut by_status: HashMap<u16, usize> = HashMap::new();
        for answer in answers {
            let answer = answer.unwrap();
            let status = answer.status().as_u16();
            *by_status.entry(status).or_default() += 1;
            if status != 200 {
                assert_eq!(answer.headers()["x-should-retry"], "false");
                assert_eq!(error_code(&answer.json().await.unwrap()), "keyward_credits_exhausted");
            }
        }
        assert_eq!(by_status, HashMap::from([(200, 1), (402, 199)]));
        let rows = rows(world, &tenant).await;
        assert_eq!(rows.len(), 1, "what was refused left no row and reached nobody");
        assert_eq!(balanced(world, &tenant).await.balance, Nanos(hold.0 - rows[0].billed.0));
        // There is something left, and people are told that it does not do.
        world.services.true_up_money().await.unwrap();
        let scope = holder(&tenant).scope;
        let told = world.services.notifications(&world.admin(&tenant), &scope, &tenant).await.unwrap();
        assert_eq!(told.iter().map(|notice| notice.kind).collect::<Vec<_>>(), [NoticeKind::CreditsExhausted]);
        assert_eq!(world.arrived().await.len(), 1);
    }
}

on_both! {
    async fn an_overrun_is_charged_in_full_and_then_blocks(world: World) {
        let body = asking(10);
        let hold = hold_of(world, &body).await;
        let (tenant, token) = prepaid(world, "acme", "").await;
        let operator = world.super_admin();
        world.services.enter_credits(&operator, &tenant, &typed("0.01")).await.unwrap();
        // A request whose settlement is more than its hold, and than all that there is.
        let row = UsageRow { funding: Funding::Credits, mode: UsageMode::Managed, held: hold, ..sample(world, &tenant, world.clock.now(), MODEL, 0) };
        let pending = UsageRow { state: UsageState::Pending, ..row.clone() };
        assert_eq!(holds::record(&world.services.db, &[&pending], &[], NOTHING_SUMMED).await.unwrap(), [None]);
        let settled = UsageRow { state: UsageState::Final, cost: Nanos(25_000_000), billed: Nanos(25_000_000), ended_at: Some(world.clock.now()), ..row };
        holds::record(&world.services.db, &[], &[&settled], NOTHING_SUMMED).await.unwrap();
        assert_eq!(balanced(world, &tenant).await.balance, Nanos(10_000_000 - 25_000_000));
        // Settled twice, it counts once.
        assert!(holds::record(&world.services.db, &[], &[&settled], NOTHING_SUMMED).await.is_err());
        assert_eq!(balanced(world, &tenant).await.balance, Nanos(-15_000_000));
        assert_eq!(world.send(&token, &body).send().await.unwrap().status(), 402);
        // A grant that covers the overrun and the next request opens it again.
        world.services.enter_credits(&operator, &tenant, &typed("0.10")).await.unwrap();
        assert_eq!(world.send(&token, &body).send().await.unwrap().status(), 200);
        // A model without a price cannot be paid from credits.
        let refused = world.send(&token, &message("claude-none", 5)).send().await.unwrap();
        assert_eq!(refused.status(), 403);
        assert_eq!(error_code(&refused.json().await.unwrap()), "keyward_gate_closed");
    }
}

on_both! {
    async fn what_a_dead_process_held_is_charged_by_estimate(world: World) {
        let (tenant, _) = prepaid(world, "acme", "1").await;
        let row = UsageRow {
            funding: Funding::Credits,
            mode: UsageMode::Managed,
            held: Nanos(900_000_000),
            state: UsageState::Pending,
            instance: keyward::domain::ids::InstanceId::new(),
            tokens: keyward::domain::usage::estimate(400, Some(10)),
            ..sample(world, &tenant, world.clock.now().minus(HOUR), MODEL, 0)
        };
        let other = UsageRow { id: keyward::domain::ids::RequestId::new(), ..row.clone() };
        let opened = holds::record(&world.services.db, &[&row, &other], &[], NOTHING_SUMMED).await.unwrap();
        assert_eq!(opened, [None, Some(keyward::domain::billing::Shortage::Credits)], "one hold leaves no room for another");
        world.services.keep_meter().await.unwrap();
        let account = balanced(world, &tenant).await;
        let settled = rows(world, &tenant).await;
        assert_eq!((settled.len(), settled[0].state), (1, UsageState::Estimated));
        assert!(settled[0].billed > Nanos::ZERO);
        assert_eq!(account.balance, Nanos(1_000_000_000 - settled[0].billed.0));
    }
}

on_both! {
    async fn the_ledger_is_the_balance_whatever_comes_in_whatever_order(world: World) {
        let (tenant, token) = prepaid(world, "acme", "0.50").await;
        let operator = Arc::new(world.super_admin());
        let grants = (0..20).map(|i| {
            let (services, operator, tenant) = (Arc::clone(&world.services), Arc::clone(&operator), tenant.clone());
            async move {
                let amount = if i % 5 == 4 { "-0.02" } else { "0.03" };
                services.enter_credits(&operator, &tenant, &typed(amount)).await.unwrap();
            }
        });
        let sends = (0..60).map(|_| world.message(&token).send());
        let (answers, ()) = tokio::join!(futures_util::future::join_all(sends), async { for grant in grants { grant.await; } });
        let answered = answers.into_iter().filter(|answer| answer.as_ref().is_ok_and(|answer| answer.status() == 200)).count();
        let rows = rows(world, &tenant).await;
        assert_eq!(rows.len(), answered);
        let spent: i64 = rows.iter().map(|row| row.billed.0).sum();
        let account = balanced(world, &tenant).await;
        assert_eq!(account.balance.0, 500_000_000 + 16 * 30_000_000 - 4 * 20_000_000 - spent);
        let statement = world.services.credit_statement(&operator, &Scope::of_system(Owner::Tenant(tenant.id)), &tenant, None).await.unwrap();
        let charged: i64 = statement.entries.iter().filter(|entry| entry.kind == EntryKind::Usage).map(|entry| entry.requests).sum();
        assert!(statement.older.is_some() || usize::try_from(charged).unwrap() == answered);
        // A form that is sent twice is entered once.
        let twice = TypedEntry { form_id: "one".into(), ..typed("5") };
        world.services.enter_credits(&operator, &tenant, &twice).await.unwrap();
        assert!(matches!(world.services.enter_credits(&operator, &tenant, &twice).await, Err(ServiceError::Conflict(_))));
        assert_eq!(balanced(world, &tenant).await.balance.0, account.balance.0 + 5_000_000_000);
        for wrong in ["0", "-0", "NaN", "1e9", "0.001", "-", "99999999999", "1,00", ""] {
            let refused = world.services.enter_credits(&operator, &tenant, &typed(wrong)).await;
            assert!(matches!(refused, Err(ServiceError::Invalid(_))), "{wrong}");
        }
        let admin = world.admin(&tenant);
        assert!(matches!(world.services.enter_credits(&admin, &tenant, &typed("5")).await, Err(ServiceError::Denied)));
    }
}

fn budget(key: &str, amount: &str, on_reach: &str) -> TypedBudget {
    TypedBudget {
        key: key.into(),
        amount: amount.into(),
        on_reach: on_reach.into(),
        warn_at: "80,100".into(),
        priced_only: false,
    }
}

async fn only_budget(world: &World, scope: &Scope) -> Budget {
    let mut found = world.services.budgets(scope).await.unwrap();
    assert_eq!(found.len(), 1);
    found.remove(0).0
}

on_both! {
    async fn a_budget_that_pauses_is_never_overdrawn(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
        world.add_key(&tenant, "batch", &test_key("ok")).await.unwrap();
        let (admin, scope, token) = (world.admin(&tenant), holder(&tenant).scope, world.token(&tenant).await);
        let body = asking(1_000);
        let before = world.send(&token, &body).send().await.unwrap();
        let spent = world.row_of(&before).await.cost;
        // $0.02 covers two holds of about $0.005 and what was spent; it counts what was spent before it was set.
        world.services.set_budget(&admin, &scope, &tenant, &budget("", "0.01", "pause")).await.unwrap();
        let set = only_budget(world, &scope).await;
        assert_eq!((set.spent, set.held), (spent, Nanos::ZERO));
        let sends = (0..100).map(|_| world.send(&token, &body).send());
        let answers = futures_util::future::join_all(sends).await;
        let mut refused = 0;
        for answer in answers {
            let answer = answer.unwrap();
            if answer.status() != 200 {
                assert_eq!(answer.status(), 402);
                assert_eq!(error_code(&answer.json().await.unwrap()), "keyward_budget_exceeded");
                refused += 1;
            }
        }
        assert!((1..100).contains(&refused), "{refused} of 100");
        world.services.meter.flush().await;
        let reached = only_budget(world, &scope).await;
        let sum: i64 = rows(world, &tenant).await.iter().map(|row| row.cost.0).sum();
        assert_eq!((reached.spent.0, reached.held.0), (sum, 0));
        assert!(reached.spent <= reached.amount);
        // What settlements counted is what counting anew gives.
        world.services.true_up_money().await.unwrap();
        assert_eq!(only_budget(world, &scope).await.spent.0, sum);
        // Only warned, everything goes on.
        world.services.set_budget(&admin, &scope, &tenant, &budget("", "0.01", "warn")).await.unwrap();
        assert_eq!(world.send(&token, &body).send().await.unwrap().status(), 200);
        world.services.remove_budget(&admin, &scope, &tenant, "").await.unwrap();
        // A key's budget is about that key alone.
        let body = asking(3_000);
        world.services.set_budget(&admin, &scope, &tenant, &budget("batch", "0.01", "pause")).await.unwrap();
        let batch = world.send(&token, &body).header("x-keyward-key", "batch").send().await.unwrap();
        assert_eq!(batch.status(), 402);
        assert_eq!(world.send(&token, &body).send().await.unwrap().status(), 200);
        // What has no price holds next to nothing: it runs while there is something left.
        let unknown = world.send(&token, &message("claude-none", 5)).header("x-keyward-key", "batch").send().await.unwrap();
        assert_eq!(unknown.status(), 404, "the provider's own answer, while there is something left");
        world.services.true_up_money().await.unwrap();
        let told = async || {
            let found = world.services.notifications(&world.admin(&tenant), &scope, &tenant).await.unwrap();
            found.iter().filter(|notice| notice.kind == NoticeKind::BudgetReached).count()
        };
        assert_eq!(told().await, 2, "of both budgets: what no longer fits is as good as used up");
        // The next month begins anew.
        let end = only_budget(world, &scope).await.period.end;
        world.services.set_budget(&admin, &scope, &tenant, &budget("batch", "0.02", "pause")).await.unwrap();
        assert_eq!(world.send(&token, &body).header("x-keyward-key", "batch").send().await.unwrap().status(), 200);
        world.clock.advance(end.since(world.clock.now()) + MINUTE);
        let token = world.token(&tenant).await;
        assert_eq!(world.send(&token, &body).header("x-keyward-key", "batch").send().await.unwrap().status(), 200);
        let next = only_budget(world, &scope).await;
        assert_eq!(next.period.start, end);
        assert_eq!(next.refused_at, None);
        world.services.set_budget(&world.admin(&tenant), &scope, &tenant, &TypedBudget { warn_at: String::new(), ..budget("batch", "0.01", "pause") }).await.unwrap();
        assert_eq!(world.send(&token, &body).header("x-keyward-key", "batch").send().await.unwrap().status(), 402);
        world.services.true_up_money().await.unwrap();
        assert_eq!(told().await, 3, "and is told again in another month");
    }
}

on_both! {
    async fn budgets_want_priced_models_if_told_so_and_whole_amounts(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
        let (admin, scope, token) = (world.admin(&tenant), holder(&tenant).scope, world.token(&tenant).await);
        world.services.set_budget(&admin, &scope, &tenant, &TypedBudget { priced_only: true, ..budget("", "10", "warn") }).await.unwrap();
        let refused = world.send(&token, &message("claude-none", 5)).send().await.unwrap();
        assert_eq!(refused.status(), 403);
        assert_eq!(world.message(&token).send().await.unwrap().status(), 200);
        for (wrong, field) in [
            (budget("", "-5", "pause"), "amount"),
            (budget("", "0", "pause"), "amount"),
            (budget("", "1e3", "pause"), "amount"),
            (budget("", "5", "explode"), "on_reach"),
            (budget("none", "5", "pause"), "key"),
            (TypedBudget { warn_at: "150".into(), ..budget("", "5", "pause") }, "warn_at"),
        ] {
            let Err(ServiceError::Invalid(problems)) = world.services.set_budget(&admin, &scope, &tenant, &wrong).await else {
                panic!("{wrong:?} was taken");
            };
            assert!(problems.of(field).is_some(), "{problems:?}");
        }
        let member = world.actor(None, Some((tenant.id, keyward::domain::account::TenantRole::Member)));
        assert!(matches!(world.services.set_budget(&member, &scope, &tenant, &budget("", "5", "pause")).await, Err(ServiceError::Denied)));
        let mut tx = world.services.db.read().await.unwrap();
        assert_eq!(budgets::list(&mut tx, &scope).await.unwrap().len(), 1);
    }
}

/// What a part of a month costs of its price, rounded half to even.
fn share(price: i64, from: Moment, to: Moment, month: Period) -> i64 {
    let (exact, length) =
        (i128::from(price) * i128::from(to.since(from)), i128::from(month.end.since(month.start)));
    let (whole, twice) = (exact / length, exact % length * 2);
    let up = twice > length || (twice == length && whole % 2 == 1);
    i64::try_from(whole + i128::from(up)).unwrap()
}

on_both! {
    async fn a_month_is_charged_by_the_plans_that_the_tenant_was_on(world: World) {
        let operator = world.super_admin();
        let terms = |subscription: &str, byok: &str| TypedTerms {
            subscription: subscription.into(), endpoints_included: "9".into(), endpoint_fee: "0".into(), byok_percent: byok.into(),
        };
        for (slug, subscription, byok) in [("team", "100", "10"), ("late", "777", "50")] {
            world.services.add_plan(&operator, slug, slug, "pro").await.unwrap();
            world.services.set_plan_terms(&operator, slug, &terms(subscription, byok)).await.unwrap();
        }
        world.services.set_plan_terms(&operator, "pro", &terms("31", "0")).await.unwrap();
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        let (scope, zone) = (holder(&tenant).scope, jiff::tz::TimeZone::UTC);
        // From the beginning of a month on.
        let month = Period::month(world.clock.now(), &zone).next(&zone);
        world.clock.advance(month.start.since(world.clock.now()));
        let use_it = async |cost| {
            let now = world.clock.now();
            let row = UsageRow { mode: UsageMode::Byok, state: UsageState::Final, status: Some(200), ended_at: Some(now), ..sample(world, &tenant, now, MODEL, cost) };
            holds::record(&world.services.db, &[], &[&row], NOTHING_SUMMED).await.unwrap();
        };
        use_it(1_000).await;
        world.clock.advance(10 * DAY);
        let operator = world.super_admin();
        world.services.set_tenant_plan(&operator, &tenant, "pro", "team").await.unwrap();
        use_it(50_000).await;
        let mut tx = world.services.db.read().await.unwrap();
        let moved = statements::plans_in(&mut tx, &scope, month).await.unwrap()[1].2.start;
        tx.rollback().await.unwrap();
        assert!(moved.since(month.start) / DAY == 10 && world.clock.now().since(moved) < MINUTE);
        let due = share(31_000_000_000, month.start, moved, month) + share(100_000_000_000, moved, month.end, month) + 5_000;
        let (open, _) = world.services.statements(&world.admin(&tenant), &scope, &tenant).await.unwrap();
        assert_eq!((open[0].due, open[0].plan.as_str()), (Nanos(due), "team"), "{open:#?}");
        // The month is over, and not closed when the tenant moves again and its plan is removed.
        world.clock.advance(month.end.since(world.clock.now()) + MINUTE);
        let operator = world.super_admin();
        world.services.set_tenant_plan(&operator, &tenant, "team", "late").await.unwrap();
        world.services.remove_plan(&operator, "team", "").await.unwrap();
        world.services.add_plan(&operator, "team", "Another team", "").await.unwrap();
        world.clock.advance(HOUR);
        world.services.close_months().await.unwrap();
        let (open, closed) = world.services.statements(&world.admin(&tenant), &scope, &tenant).await.unwrap();
        let statement = closed.iter().find(|one| one.period == month).unwrap();
        assert_eq!((statement.due, statement.plan.as_str()), (Nanos(due), "team"), "{statement:#?}");
        let lines: Vec<&str> = statement.lines.iter().map(|line| line.text.as_str()).collect();
        assert!(lines[0].starts_with("Subscription, Pro plan, ") && lines[1].starts_with("Subscription, team plan, "), "{lines:?}");
        assert!(open[0].lines.iter().any(|line| line.text.starts_with("Subscription, late plan")));
    }
}

on_both! {
    async fn a_statement_adds_up_closes_once_and_never_changes(world: World) {
        let operator = world.super_admin();
        let terms = TypedTerms { subscription: "49".into(), endpoints_included: "1".into(), endpoint_fee: "5".into(), byok_percent: "10".into() };
        world.services.set_plan_terms(&operator, "pro", &terms).await.unwrap();
        for (field, wrong) in [
            ("subscription", TypedTerms { subscription: "-1".into(), ..terms.clone() }),
            ("endpoints_included", TypedTerms { endpoints_included: "1.5".into(), ..terms.clone() }),
            ("endpoint_fee", TypedTerms { endpoint_fee: "NaN".into(), ..terms.clone() }),
            ("byok_percent", TypedTerms { byok_percent: "101".into(), ..terms.clone() }),
        ] {
            let Err(ServiceError::Invalid(problems)) = world.services.set_plan_terms(&operator, "pro", &wrong).await else { panic!("{wrong:?}") };
            assert!(problems.of(field).is_some(), "{problems:?}");
        }
        let (tenant, _) = prepaid(world, "acme", "20").await;
        let (scope, admin) = (holder(&tenant).scope, world.admin(&tenant));
        let now = world.clock.now();
        let row = |mode, funding, fallback, endpoint: &str, cost: i64, billed: i64| UsageRow {
            mode, funding, fallback,
            labels: Labels { endpoint: Some(endpoint.to_owned()), ..Labels::default() },
            state: UsageState::Final, status: Some(200), billed: Nanos(billed), ended_at: Some(now),
            ..sample(world, &tenant, now, MODEL, cost)
        };
        let (own, managed) = (UsageMode::Byok, UsageMode::Managed);
        let rows = [
            row(own, Funding::Included, None, "a", 1_000_000_000, 0),
            row(managed, Funding::Metered, None, "b", 700, 700),
            row(managed, Funding::Metered, Some(Fallback::Limit), "c", 11, 11),
            row(managed, Funding::Included, None, "a", 500, 0),
            row(managed, Funding::Credits, None, "", 900, 900),
        ];
        let late = UsageRow { state: UsageState::Pending, ended_at: None, ..row(managed, Funding::Metered, None, "a", 0, 0) };
        let written: Vec<&UsageRow> = rows.iter().collect();
        holds::record(&world.services.db, &[&late], &written, NOTHING_SUMMED).await.unwrap();
        let (open, closed) = world.services.statements(&admin, &scope, &tenant).await.unwrap();
        let running = open[0].clone();
        let fee = 100_000_000;
        // The tenant was made in the middle of it.
        let subscription = share(49_000_000_000, tenant.created_at, running.period.end, running.period);
        assert_eq!(running.due, Nanos(subscription + 2 * 5_000_000_000 + 711 + fee));
        assert!(closed.is_empty() && running.closed_at.is_none());
        // Rows, rollups and the statement's lines agree.
        let requests: i64 = running.lines.iter().filter(|line| line.list.is_some()).filter_map(|line| line.count).sum();
        let listed: i64 = running.lines.iter().filter(|line| line.count.is_some()).filter_map(|line| line.list).map(|list| list.0).sum();
        let mut tx = world.services.db.read().await.unwrap();
        let totals = usage_report::totals(&mut tx, &scope, running.period.start, running.period.end).await.unwrap();
        tx.rollback().await.unwrap();
        assert_eq!((requests, listed), (totals.requests, totals.cost));
        let balance = running.lines.last().unwrap();
        assert_eq!((balance.text.as_str(), balance.amount.0), ("Balance after", 20_000_000_000 - 900));
        let compared = world.services.cost_comparison(&admin, &scope, &tenant, Multiplier::LIST).await.unwrap();
        let [line] = compared.as_slice() else { panic!("one feature") };
        assert_eq!(line.managed.0, listed);
        assert_eq!(line.own_key.0, listed + (listed + 5) / 10, "ten per cent for own keys");
        // The month is over, but something of it is still pending.
        let end = running.period.end;
        world.clock.advance(end.since(world.clock.now()) + HOUR);
        assert_eq!(world.services.close_months().await.unwrap(), 0);
        let (open, _) = world.services.statements(&world.admin(&tenant), &scope, &tenant).await.unwrap();
        assert_eq!(open.len(), 2, "a month that is over is shown until it is closed");
        // Terms of the new month are not those of the old.
        let operator = world.super_admin();
        world.services.set_plan_terms(&operator, "pro", &TypedTerms { subscription: "79".into(), ..terms.clone() }).await.unwrap();
        let settled = UsageRow { state: UsageState::Final, status: Some(200), ended_at: Some(now), cost: Nanos(5), billed: Nanos(5), ..late };
        holds::record(&world.services.db, &[], &[&settled], NOTHING_SUMMED).await.unwrap();
        assert_eq!(world.services.close_months().await.unwrap(), 1);
        assert_eq!(world.services.close_months().await.unwrap(), 0, "once");
        let admin = world.admin(&tenant);
        let (open, closed) = world.services.statements(&admin, &scope, &tenant).await.unwrap();
        let next = open[0].clone();
        assert_eq!((open.len(), closed.len()), (1, 1));
        assert_eq!(closed[0].due, Nanos(running.due.0 + 5));
        assert_eq!(next.period.start, end);
        // A dearer plan and a grant touch the running month alone.
        let operator = world.super_admin();
        world.services.set_plan_terms(&operator, "pro", &TypedTerms { subscription: "99".into(), ..terms }).await.unwrap();
        world.services.enter_credits(&operator, &tenant, &typed("5")).await.unwrap();
        let (open, still) = world.services.statements(&admin, &scope, &tenant).await.unwrap();
        let after = open[0].clone();
        assert_eq!(still, closed);
        assert_eq!(after.due, Nanos(99_000_000_000));
        assert!(after.lines.iter().any(|line| line.text == "Granted" && line.amount.0 == 5_000_000_000));
        assert_eq!(after.lines.last().unwrap().amount.0, 25_000_000_000 - 900);
    }
}

on_both! {
    async fn people_are_told_once_of_what_needs_them(world: World) {
        let (tenant, token) = prepaid(world, "acme", "").await;
        let (admin, scope) = (world.admin(&tenant), holder(&tenant).scope);
        let kinds = async || -> Vec<NoticeKind> {
            let found = world.services.notifications(&world.admin(&tenant), &scope, &tenant).await.unwrap();
            found.into_iter().rev().map(|notice| notice.kind).collect()
        };
        world.services.true_up_money().await.unwrap();
        assert_eq!(kinds().await, [NoticeKind::CreditsExhausted]);
        let operator = world.super_admin();
        world.services.enter_credits(&operator, &tenant, &typed("20")).await.unwrap();
        world.services.set_credit_notice(&admin, &scope, &tenant, "19.9999").await.unwrap_err();
        world.services.set_credit_notice(&admin, &scope, &tenant, "20").await.unwrap();
        world.services.true_up_money().await.unwrap();
        assert_eq!(world.message(&token).send().await.unwrap().status(), 200);
        world.services.meter.flush().await;
        for _ in 0..2 {
            world.services.true_up_money().await.unwrap();
        }
        assert_eq!(kinds().await[1..], [NoticeKind::CreditsLow]);
        // A budget tells each percentage once, and again in the next month.
        world.services.set_budget(&admin, &scope, &tenant, &TypedBudget { warn_at: "1,2".into(), ..budget("", "0.01", "warn") }).await.unwrap();
        for _ in 0..2 {
            world.services.true_up_money().await.unwrap();
        }
        assert_eq!(kinds().await[2..], [NoticeKind::BudgetWarning]);
        // A key that stops and works again, by a check and by traffic alike.
        let key = test_key("ok");
        world.add_key(&tenant, "own", &key).await.unwrap();
        world.impose(&key, "spendlimit").await;
        assert_eq!(world.message(&token).header("x-keyward-key", "own").send().await.unwrap().status(), 400);
        for _ in 0..200 {
            if kinds().await.len() > 3 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        world.impose(&key, "ok").await;
        world.clock.advance(6 * MINUTE);
        world.services.probe_due().await.unwrap();
        assert_eq!(kinds().await[3..], [NoticeKind::KeyPaused, NoticeKind::KeyResumed]);
        let member = world.actor(None, Some((tenant.id, keyward::domain::account::TenantRole::Member)));
        assert!(matches!(world.services.notifications(&member, &scope, &tenant).await, Err(ServiceError::Denied)));
    }
}

on_both! {
    /// Forward over a month's end and back again, in the middle of requests too.
    async fn a_clock_that_jumps_leaves_the_books_whole(world: World) {
        let (tenant, token) = prepaid(world, "acme", "5").await;
        let (admin, scope) = (world.admin(&tenant), holder(&tenant).scope);
        world.services.set_budget(&admin, &scope, &tenant, &budget("", "3", "pause")).await.unwrap();
        // The job has had its first turn: until the next, nobody else settles what a jump makes look lost.
        let had_its_turn = || world.services.runs.all().iter().any(|run| run.name == "settle what dead processes left");
        for _ in 0..1_000 {
            if had_its_turn() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert!(had_its_turn());
        for jump in [0, 40 * DAY, -40 * DAY, 3 * DAY, -3 * DAY - MINUTE, 1] {
            let slow = world.send(&token, &asking(100)).send();
            let jumping = async {
                // At any moment of the call, the job finds nothing lost.
                world.clock.advance(jump);
                for _ in 0..3 {
                    world.services.keep_meter().await.unwrap();
                }
            };
            let (answer, ()) = tokio::join!(slow, jumping);
            assert_eq!(answer.unwrap().status(), 200, "after a jump of {jump}");
            world.services.true_up_money().await.unwrap();
            world.services.keep_meter().await.unwrap();
            world.services.close_months().await.unwrap();
        }
        let all = world.rows(&tenant).await;
        assert_eq!(all.len(), 6);
        assert!(all.iter().all(|row| row.total_us.unwrap() >= 0 && row.state == UsageState::Final));
        let billed: i64 = all.iter().map(|row| row.billed.0).sum();
        assert_eq!(balanced(world, &tenant).await.balance.0, 5_000_000_000 - billed);
        // The budget is that of the month that it is now, and of what began in it.
        world.services.true_up_money().await.unwrap();
        let budget = only_budget(world, &scope).await;
        assert!(budget.period.has(world.clock.now()));
        let inside = all.iter().filter(|row| budget.period.has(row.started_at));
        assert_eq!((budget.spent.0, budget.held.0), (inside.map(|row| row.cost.0).sum(), 0));
    }
}
