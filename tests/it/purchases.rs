//! Buying credits: paid once, entered once, whatever order messages come in and whoever forges them.

use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use keyward::config::{PaymentKind, PaymentSettings};
use keyward::domain::account::{PlatformRole, Tenant, TenantRole};
use keyward::domain::billing::{EntryKind, Funding, UsageMode};
use keyward::domain::clock::{HOUR, SECOND};
use keyward::domain::ids::OrderId;
use keyward::domain::money::Nanos;
use keyward::domain::payment::{Order, OrderState};
use keyward::startup::{self, Replacements};
use keyward::storage::{Database, credits};
use serde_json::{Value, json};

use crate::support::{On, PAYMENT_SECRET, Setup, World, error_code, holder, test_key};
use crate::visitor::Visitor;

const PASSWORD: &str = "correct horse battery staple";

/// Settings for the sandbox as payment provider.
fn stripe() -> PaymentSettings {
    PaymentSettings {
        kind: PaymentKind::Stripe,
        stripe_secret_key: Some("sk_test_sandbox_x".to_owned()),
        stripe_webhook_secret: Some(PAYMENT_SECRET.to_owned()),
        ..PaymentSettings::default()
    }
}

async fn world_with(on: On, payments: PaymentSettings) -> (World, Tenant) {
    let world = World::with(on, Setup { payments, ..Setup::default() }).await;
    let tenant = world.tenant("acme", UsageMode::Managed).await;
    world
        .services
        .set_funding(&world.super_admin(), &tenant, Funding::Included, Funding::Credits)
        .await
        .unwrap();
    world.add_shared_key(&test_key("ok")).await;
    (world, tenant)
}

/// A provider that cannot be reached, but whose messages come in.
async fn unreachable(on: On) -> (World, Tenant) {
    let stripe_url = Some("http://127.0.0.1:1".to_owned());
    world_with(on, PaymentSettings { stripe_url, ..stripe() }).await
}

async fn order(world: &World, tenant: &Tenant, dollars: &str) -> Order {
    let (admin, scope) = (world.admin(tenant), holder(tenant).scope);
    world.services.order_credits(&admin, &scope, tenant, OrderId::new(), dollars).await.unwrap()
}

async fn find(world: &World, tenant: &Tenant, id: OrderId) -> Order {
    world.services.order(&world.admin(tenant), &holder(tenant).scope, tenant, id).await.unwrap()
}

async fn balance(world: &World, tenant: &Tenant) -> Nanos {
    let mut tx = world.services.db.read().await.unwrap();
    assert!(credits::unbalanced(&mut tx).await.unwrap().is_empty(), "a balance is not the sum of its ledger");
    credits::find(&mut tx, tenant.id).await.unwrap().balance
}

fn sign(secret: &str, seconds: i64, body: &str) -> String {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{seconds}.{body}").as_bytes());
    format!("t={seconds},v1={}", hex::encode(mac.finalize().into_bytes()))
}

/// Sends a message as the payment provider would; gives the status.
async fn tell(world: &World, event: &Value) -> u16 {
    let body = event.to_string();
    let signature = sign(PAYMENT_SECRET, world.clock.now().0 / SECOND, &body);
    tell_exactly(world, &signature, &body).await
}

async fn tell_exactly(world: &World, signature: &str, body: &str) -> u16 {
    let request = world.http.post(format!("{}/webhooks/stripe", world.url));
    let answer = request.header("stripe-signature", signature).body(body.to_owned()).send().await.unwrap();
    answer.status().as_u16()
}

fn paid(event: &str, order: &Order, cents: i64, currency: &str) -> Value {
    json!({
        "id": event, "object": "event", "type": "checkout.session.completed",
        "data": { "object": {
            "id": "cs_1", "payment_status": "paid", "amount_total": cents, "currency": currency,
            "payment_intent": format!("pi_{}", order.id), "metadata": { "keyward_order": order.id },
        }},
    })
}

fn about(kind: &str, event: &str, order: &Order) -> Value {
    json!({
        "id": event, "object": "event", "type": kind,
        "data": { "object": { "id": "cs_1", "payment_status": "unpaid", "metadata": { "keyward_order": order.id } } },
    })
}

fn refunded(event: &str, order: &Order, cents: i64) -> Value {
    json!({
        "id": event, "object": "event", "type": "charge.refunded",
        "data": { "object": {
            "id": "ch_1", "payment_intent": format!("pi_{}", order.id), "amount_refunded": cents, "currency": "usd",
        }},
    })
}

fn dollars(amount: i64) -> Nanos {
    Nanos(amount * 1_000_000_000)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_count_once_in_whatever_order_they_come() {
    for on in [On::Sqlite, On::Postgres] {
        let (world, tenant) = unreachable(on).await;
        let made = async |amount: &str| {
            let (admin, scope, id) = (world.admin(&tenant), holder(&tenant).scope, OrderId::new());
            // The provider cannot be reached; the order is there all the same.
            let failed = world.services.order_credits(&admin, &scope, &tenant, id, amount).await;
            assert!(failed.is_err());
            find(&world, &tenant, id).await
        };
        let first = made("50").await;
        assert_eq!(first.state, OrderState::Failed);

        // The same message and others like it, all at once.
        let events: Vec<Value> =
            (0..20).map(|nth| paid(&format!("evt_{}", nth % 4), &first, 5_000, "usd")).collect();
        let told = futures_util::future::join_all(events.iter().map(|event| tell(&world, event))).await;
        assert!(told.iter().all(|status| *status == 200), "{told:?}");
        assert_eq!(balance(&world, &tenant).await, dollars(50));
        assert_eq!(find(&world, &tenant, first.id).await.state, OrderState::Paid);

        // Overtaken by others, paid is paid.
        for (kind, event) in
            [("checkout.session.expired", "evt_5"), ("checkout.session.async_payment_failed", "evt_6")]
        {
            assert_eq!(tell(&world, &about(kind, event, &first)).await, 200);
        }
        assert_eq!(find(&world, &tenant, first.id).await.state, OrderState::Paid);

        // Failed at first, and paid after all.
        let second = made("20.50").await;
        assert_eq!(
            tell(&world, &about("checkout.session.async_payment_failed", "evt_7", &second)).await,
            200
        );
        assert_eq!(find(&world, &tenant, second.id).await.state, OrderState::Failed);
        assert_eq!(tell(&world, &paid("evt_8", &second, 2_050, "usd")).await, 200);
        assert_eq!(balance(&world, &tenant).await, Nanos(70_500_000_000));

        // The word of a refund comes before that of its payment; running totals out of order.
        let third = made("100").await;
        assert_eq!(tell(&world, &refunded("evt_9", &third, 3_000)).await, 200);
        assert_eq!(balance(&world, &tenant).await, Nanos(70_500_000_000));
        assert_eq!(tell(&world, &paid("evt_10", &third, 10_000, "usd")).await, 200);
        assert_eq!(balance(&world, &tenant).await, Nanos(140_500_000_000));
        for (event, cents) in [("evt_11", 5_000), ("evt_12", 3_000), ("evt_11", 5_000), ("evt_13", 5_000)] {
            assert_eq!(tell(&world, &refunded(event, &third, cents)).await, 200);
        }
        assert_eq!(balance(&world, &tenant).await, Nanos(120_500_000_000));
        assert_eq!(find(&world, &tenant, third.id).await.refunded, dollars(50));

        // What is none of ours is taken note of and left alone.
        let foreign = Order { id: OrderId::new(), ..first.clone() };
        assert_eq!(tell(&world, &paid("evt_14", &foreign, 5_000, "usd")).await, 200);
        assert_eq!(tell(&world, &refunded("evt_15", &foreign, 5_000)).await, 200);
        assert_eq!(tell(&world, &json!({ "id": "evt_16", "object": "event", "type": "customer.created", "data": { "object": {} } })).await, 200);
        assert_eq!(balance(&world, &tenant).await, Nanos(120_500_000_000));
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_and_wrong_messages_enter_nothing() {
    let (world, tenant) = unreachable(On::Sqlite).await;
    let (admin, scope, id) = (world.admin(&tenant), holder(&tenant).scope, OrderId::new());
    let _ = world.services.order_credits(&admin, &scope, &tenant, id, "50").await;
    let order = find(&world, &tenant, id).await;
    let now = world.clock.now().0 / SECOND;
    let event = paid("evt_1", &order, 5_000, "usd").to_string();
    let good = sign(PAYMENT_SECRET, now, &event);
    for (signature, body, status) in [
        (String::new(), event.clone(), 400),
        ("t=1,v1=".to_owned(), event.clone(), 400),
        (sign("", now, &event), event.clone(), 400),
        (sign("whsec_of_another", now, &event), event.clone(), 400),
        (sign(PAYMENT_SECRET, now - 400, &event), event.clone(), 400),
        (sign(PAYMENT_SECRET, now + 400, &event), event.clone(), 400),
        (good.clone(), event.replace("5000", "9000"), 400),
        (good.replace("v1=", "v0="), event.clone(), 400),
        (sign(PAYMENT_SECRET, now, "{}"), "{}".to_owned(), 400),
        (sign(PAYMENT_SECRET, now, "["), "[".to_owned(), 400),
    ] {
        assert_eq!(tell_exactly(&world, &signature, &body).await, status, "{signature} {body}");
    }
    for wrong in [paid("evt_2", &order, 4_999, "usd"), paid("evt_3", &order, 5_000, "eur")] {
        assert_eq!(tell(&world, &wrong).await, 422);
    }
    let huge = format!("\"{}\"", "x".repeat(300_000));
    assert_eq!(tell_exactly(&world, &sign(PAYMENT_SECRET, now, &huge), &huge).await, 413);
    assert_eq!(balance(&world, &tenant).await, Nanos::ZERO);
    assert_eq!(find(&world, &tenant, id).await.state, OrderState::Failed);
    // And the right one does.
    assert_eq!(tell_exactly(&world, &good, &event).await, 200);
    assert_eq!(balance(&world, &tenant).await, dollars(50));
    // A copy that is sent again later is refused as old; within five minutes it counts for nothing.
    assert_eq!(tell_exactly(&world, &good, &event).await, 200);
    world.clock.advance(301 * SECOND);
    assert_eq!(tell_exactly(&world, &good, &event).await, 400);
    assert_eq!(balance(&world, &tenant).await, dollars(50));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_signing_secret_keeps_keyward_from_starting() {
    let world = World::new(On::Sqlite).await;
    for secret in [None, Some(""), Some("  ")] {
        let payments = PaymentSettings { stripe_webhook_secret: secret.map(str::to_owned), ..stripe() };
        let settings = keyward::config::Settings { payments, ..world.settings.clone() };
        let failed = startup::open(&settings, Replacements::default()).await.err().expect("refused");
        assert_eq!(
            failed.to_string(),
            "KEYWARD_STRIPE_WEBHOOK_SECRET is needed with KEYWARD_PAYMENTS=stripe"
        );
    }
    // Without payments there is nobody to listen to.
    assert_eq!(tell(&world, &json!({})).await, 404);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credits_are_bought_spent_and_paid_back() {
    for on in [On::Sqlite, On::Postgres] {
        let (world, tenant) = world_with(on, stripe()).await;
        world.user("ada@acme.example", PASSWORD, None, Some((tenant.id, TenantRole::Admin))).await;
        let mut ada = Visitor::signed_in(&world.url, "ada@acme.example", PASSWORD).await;
        let credits = "/t/acme/billing/credits";
        ada.get(credits).await.says("Buy credits").says("From $5.00 to $10,000.00.");
        for bad in ["", "-5", "4.99", "10000.01", "1e3", "NaN", "5.001", "99999999999999999999"] {
            assert_eq!(ada.post(&format!("{credits}/orders"), &[("amount", bad)]).await.status, 422, "{bad}");
        }
        let once = OrderId::new().to_string();
        let form = [("amount", "50"), ("once", once.as_str())];
        let begun = ada.post(&format!("{credits}/orders"), &form).await;
        assert_eq!(begun.status, 303, "{}", begun.body);
        let page = begun.location().to_owned();
        // A second click begins no second purchase.
        assert_eq!(ada.post(&format!("{credits}/orders"), &form).await.location(), page);
        let id = OrderId::parse(&once).unwrap();
        let url = find(&world, &tenant, id).await.url.expect("a page to pay on");
        ada.get(&page).await.says("Pay $50.00").says("Not paid yet").says(&url);

        let token = world.token(&tenant).await;
        let refused = world.message(&token).send().await.unwrap();
        assert_eq!(refused.status(), 402);
        assert_eq!(error_code(&refused.json().await.unwrap()), "keyward_credits_exhausted");

        let press = async |what: &str| {
            let answer = world
                .http
                .post(&url)
                .header("content-type", "application/x-www-form-urlencoded")
                .body(format!("do={what}"))
                .send()
                .await
                .unwrap();
            assert_eq!(answer.status(), 303);
            answer.headers()["location"].to_str().unwrap().to_owned()
        };
        assert!(press("pay").await.ends_with(&page));
        press("pay").await;
        press("cancel").await;
        ada.get(&page).await.says("The credits are in the balance");
        assert_eq!(balance(&world, &tenant).await, dollars(50));
        ada.get(credits).await.says("Purchase").says("+$50.00");
        let answered = world.message(&token).send().await.unwrap();
        assert_eq!(answered.status(), 200);
        let row = world.row_of(&answered).await;
        let left = balance(&world, &tenant).await;
        assert_eq!(left, Nanos(dollars(50).0 - row.billed.0));

        press("refund").await;
        assert_eq!(balance(&world, &tenant).await, Nanos(left.0 - dollars(50).0));
        ada.get(&page).await.says("was paid back");
        let (admin, scope) = (world.admin(&tenant), holder(&tenant).scope);
        let statement = world.services.credit_statement(&admin, &scope, &tenant, None).await.unwrap();
        let kinds: Vec<EntryKind> = statement.entries.into_iter().map(|entry| entry.kind).collect();
        assert_eq!(kinds, [EntryKind::Adjust, EntryKind::Usage, EntryKind::Purchase]);
        // Nobody else's purchase opens on another tenant's pages.
        let other = world.tenant("other", UsageMode::Managed).await;
        let foreign = world.services.order(&world.admin(&other), &holder(&other).scope, &other, id).await;
        assert!(foreign.is_err());
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payments_by_hand_are_entered_by_super_admins() {
    let payments = PaymentSettings {
        kind: PaymentKind::Manual,
        payment_instructions: Some("Transfer to DE02 1203 0000 0000 2020 51.".to_owned()),
        ..PaymentSettings::default()
    };
    let (world, tenant) = world_with(On::Sqlite, payments).await;
    world.user("ada@acme.example", PASSWORD, None, Some((tenant.id, TenantRole::Admin))).await;
    world.user("root@acme.example", PASSWORD, Some(PlatformRole::SuperAdmin), None).await;
    let mut ada = Visitor::signed_in(&world.url, "ada@acme.example", PASSWORD).await;
    let mut root = Visitor::signed_in(&world.url, "root@acme.example", PASSWORD).await;
    let first = order(&world, &tenant, "250").await;
    let second = order(&world, &tenant, "10").await;
    let page = format!("/t/acme/billing/credits/orders/{}", first.id);
    ada.get(&page).await.says("Transfer to DE02").says(&first.reference());
    root.get("/platform/tenants/acme").await.says(&first.reference()).says(&second.reference());

    root.get("/platform/tenants").await.says("Purchases that wait for payment").says("2 purchases");

    let confirm = |id: OrderId| format!("/platform/tenants/acme/orders/{id}/paid");
    assert_eq!(ada.post(&confirm(first.id), &[]).await.status, 403);
    assert_eq!(balance(&world, &tenant).await, Nanos::ZERO);
    assert_eq!(root.post(&confirm(first.id), &[]).await.status, 303);
    assert_eq!(root.post(&confirm(first.id), &[]).await.status, 303);
    root.get("/platform/tenants/acme").await.says("is settled already");
    assert_eq!(balance(&world, &tenant).await, dollars(250));

    let cancel = format!("/t/acme/billing/credits/orders/{}/cancel", second.id);
    assert_eq!(ada.post(&cancel, &[]).await.status, 303);
    ada.get("/t/acme/billing/credits").await.says("Cancelled");
    root.post(&confirm(second.id), &[]).await;
    assert_eq!(balance(&world, &tenant).await, dollars(250));
    // Nor is a payment that is not this tenant's entered on its page.
    let other = world.tenant("other", UsageMode::Managed).await;
    let third = order(&world, &tenant, "10").await;
    let scope = holder(&other).scope;
    assert!(world.services.confirm_order(&world.super_admin(), &scope, third.id).await.is_err());
    world.end().await;
}

/// Word of a payment and of its refund are taken by two connections at once: neither may miss the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_beside_its_payment_is_not_lost() {
    for on in [On::Sqlite, On::Postgres] {
        let (world, tenant) = unreachable(on).await;
        let (admin, scope) = (world.admin(&tenant), holder(&tenant).scope);
        for nth in 0..40 {
            let id = OrderId::new();
            let _ = world.services.order_credits(&admin, &scope, &tenant, id, "10").await;
            let order = find(&world, &tenant, id).await;
            let (payment, refund) = (
                paid(&format!("evt_p{nth}"), &order, 1_000, "usd"),
                refunded(&format!("evt_r{nth}"), &order, 1_000),
            );
            let told = tokio::join!(tell(&world, &payment), tell(&world, &refund));
            assert_eq!(told, (200, 200));
            assert_eq!(balance(&world, &tenant).await, Nanos::ZERO, "purchase {nth} on {on:?}");
        }
        world.end().await;
    }
}

/// Holds the payment back at its commit, where its refund, had it not to wait, would find no order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refund_waits_for_its_payment_to_commit() {
    const STALL: &str = "CREATE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END'";
    const AT_COMMIT: &str = "CREATE CONSTRAINT TRIGGER stall AFTER UPDATE ON credit_order
        INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION stall()";
    let (world, tenant) = world_with(On::Postgres, stripe()).await;
    let order = order(&world, &tenant, "10").await;
    world.sql(STALL).await;
    world.sql(AT_COMMIT).await;
    let Database::Postgres(pool) = &world.services.db else { unreachable!("asked for PostgreSQL") };
    let mut gate = pool.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(1)").execute(&mut *gate).await.unwrap();
    let waiting = async |number: i64| {
        let sql = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
        loop {
            let seen: i64 = sqlx::query_scalar(sql).fetch_one(pool).await.unwrap();
            if seen == number {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (payment, refund) = (paid("evt_p", &order, 1_000, "usd"), refunded("evt_r", &order, 1_000));
    let paid = tell(&world, &payment);
    let told_of_refund = async {
        waiting(1).await;
        let told = tell(&world, &refund);
        let open = async {
            waiting(2).await;
            gate.rollback().await.unwrap();
        };
        tokio::join!(told, open)
    };
    let both = async { tokio::join!(paid, told_of_refund) };
    let told = tokio::time::timeout(Duration::from_secs(20), both).await.expect("the refund waits");
    assert_eq!((told.0, told.1.0), (200, 200));
    assert_eq!(balance(&world, &tenant).await, Nanos::ZERO);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_pays_ends_and_is_entered_if_it_is_paid_after_all() {
    for on in [On::Sqlite, On::Postgres] {
        let (world, tenant) = world_with(on, stripe()).await;
        let order = order(&world, &tenant, "50").await;
        world.clock.advance(24 * HOUR);
        world.services.tidy().await.unwrap();
        assert_eq!(find(&world, &tenant, order.id).await.state, OrderState::Open);
        world.clock.advance(2 * HOUR);
        world.services.tidy().await.unwrap();
        assert_eq!(find(&world, &tenant, order.id).await.state, OrderState::Expired);
        assert_eq!(tell(&world, &paid("evt_1", &order, 5_000, "usd")).await, 200);
        assert_eq!(balance(&world, &tenant).await, dollars(50));
        world.end().await;
    }
}
