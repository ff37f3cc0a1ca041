//! Billing in the console: credits, budgets, usage, prices, and what a fallback leaves behind.

use keyward::access::scope::Scope;
use keyward::domain::account::KeyChangers;
use keyward::domain::billing::{Funding, UsageMode};
use keyward::domain::clock::DAY;
use keyward::domain::ids::Owner;
use keyward::domain::money::{Nanos, div_half_even};
use keyward::domain::price::Multiplier;
use keyward::domain::provider_key::Provider;
use keyward::domain::usage::Dimension;
use keyward::services::provider_keys::Holder;

use crate::console::{cast, sign_in};
use crate::on_both;
use crate::support::{holder, test_key};
use crate::visitor::Page;

const BILLING: &str = "/t/acme/billing";

on_both! {
    async fn a_tenant_is_put_on_credits_and_reads_its_ledger(world: World) {
        let cast = cast(world).await;
        let mut root = sign_in(world, "root").await;
        let terms = "/platform/tenants/acme";
        let funding: &[(&str, &str)] = &[("was", "included"), ("funding", "credits")];
        assert_eq!(root.post(&format!("{terms}/funding"), funding).await.status, 303);
        // Somebody else's form from before is not obeyed.
        root.post(&format!("{terms}/funding"), &[("was", "included"), ("funding", "metered")]).await;
        root.get(terms).await.says("was changed meanwhile");
        let form = [("amount", "25.50"), ("note", "Welcome <b>"), ("form_id", "form-1")];
        assert_eq!(root.post(&format!("{terms}/credits"), &form).await.status, 303);
        root.get(terms).await.says("$25.50 granted. The balance is $25.50 now.");
        // A double click is one grant.
        root.post(&format!("{terms}/credits"), &form).await;
        root.get(terms).await.says("entered once");
        let refused = root.post(&format!("{terms}/credits"), &[("amount", "NaN"), ("note", "kept as typed")]).await;
        assert_eq!(refused.status, 422);
        refused.says("value=\"kept as typed\"");
        let tenant = &cast.tenant;
        let mut admin = sign_in(world, "admin").await;
        let page = admin.get("/t/acme/billing/credits").await;
        page.says("$25.50").says("Welcome &#60;b&#62;").says("paid from your credits");
        admin.get("/t/acme/billing").await.says("paid from your credits");
        admin.post("/t/acme/billing/credits/notice", &[("notify_below", "30")]).await;
        admin.get("/t/acme/settings/api-keys").await.says("Your credits run low: $25.50 left.");
        let token = world.token(tenant).await;
        world.services.set_mode(&world.admin(tenant), &holder(tenant).scope, tenant, UsageMode::Managed).await.ok();
        let answer = world.message(&token).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let cost = world.row_of(&answer).await.billed;
        admin.get("/t/acme/billing/credits").await.says("1 request").says(&format!("\u{2212}{}", cost.precise()));
    }
}

on_both! {
    async fn usage_is_grouped_filtered_and_opened_down_to_one_request(world: World) {
        let cast = cast(world).await;
        world.add_key(&cast.tenant, "production", &test_key("ok")).await.unwrap();
        let token = world.token(&cast.tenant).await;
        let mut sent = Vec::new();
        for (endpoint, session, prompt) in [("till-1", "night", "greet"), ("till-1", "day", "greet"), ("till-2", "day", "=cmd")] {
            let request = world.message(&token).header("x-keyward-endpoint", endpoint).header("x-keyward-session", session);
            let answer = request.header("x-keyward-prompt", prompt).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            sent.push(world.row_of(&answer).await);
        }
        let mut admin = sign_in(world, "admin").await;
        let page = admin.get("/t/acme/billing/usage?by=endpoint&then=session").await;
        page.says("till-1").says("till-2").says("night").says("By endpoint and session");
        // Each line leads to its requests.
        let page = admin.get("/t/acme/billing/requests?endpoint=till-1&session=day").await;
        page.says(&sent[1].id.to_string()).says("Endpoint: <b>till-1</b>");
        assert!(!page.body.contains(&sent[0].id.to_string()));
        assert!(!page.body.contains(&sent[2].id.to_string()));
        let page = admin.get(&format!("/t/acme/billing/requests/{}", sent[2].id)).await;
        page.says("rounded once").says(&sent[2].cost.precise()).says("till-2");
        assert_eq!(admin.get("/t/neighbour/billing/requests").await.status, 404);
        let nobody = admin.get("/t/acme/billing/usage?from=2020-01-01&to=2020-02-01").await;
        nobody.says("Nothing used");
        // Formulas are defused in the download of groups too, and the sums are those of the rows.
        let csv = admin.get("/t/acme/billing/usage-groups.csv?by=prompt&then=endpoint").await.body;
        assert!(csv.contains("'=cmd,till-2,managed,1,"), "{csv}");
        let sum: i64 = sent.iter().map(|row| row.cost.0).sum();
        let mut reader = csv::Reader::from_reader(csv.as_bytes());
        let at = reader.headers().unwrap().iter().position(|name| name == "cost_usd").unwrap();
        let told: i64 = reader.records().map(|record| record.unwrap()[at].replace('.', "").parse::<i64>().unwrap()).sum();
        assert_eq!(told, sum);
        let ranged = admin.get("/t/acme/billing/usage.csv?from=2020-01-01&to=2020-01-02").await.body;
        assert_eq!(ranged.lines().count(), 1, "{ranged}");
    }
}

on_both! {
    async fn a_model_without_a_price_is_named_priced_and_rated_by_adjustments(world: World) {
        let cast = cast(world).await;
        world.add_key(&cast.tenant, "production", &test_key("ok")).await.unwrap();
        world.services.set_mode(&world.admin(&cast.tenant), &holder(&cast.tenant).scope, &cast.tenant, UsageMode::Byok).await.ok();
        // Its price was taken away: as if the model were newer than the list.
        let prices = |sql: &'static str| world.sql(sql);
        prices("DELETE FROM price WHERE model = 'claude-haiku-4-5'").await;
        world.services.directory.forget(Owner::Platform);
        let token = world.token(&cast.tenant).await;
        let answer = world.message(&token).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let row = world.row_of(&answer).await;
        assert!(row.unpriced && row.cost.0 == 0);
        let mut root = sign_in(world, "root").await;
        let mut admin = sign_in(world, "admin").await;
        let banner = "1 request ran on models without a price: claude-haiku-4-5.";
        let page = admin.get("/t/acme/billing").await;
        page.says(banner).says("until Acme sets one");
        assert!(!page.body.contains("Set a price"), "whose prices they are not");
        root.get("/t/acme/billing").await.says(banner).says("href=\"/platform/prices\"").says("Set a price");
        root.get("/platform/prices").await.says("Models without a price").says("claude-haiku-4-5").says("Set a price");
        root.get("/platform/prices?provider=anthropic&model=claude-haiku-4-5").await.says("value=\"claude-haiku-4-5\"");
        let fields = |input: &'static str| [("provider", "anthropic"), ("model", "claude-haiku-4-5"), ("input", input), ("output", "5"), ("from", "2026-01-01")];
        for wrong in ["-1", "NaN", "1e3", ""] {
            let page = root.post("/platform/prices", &fields(wrong)).await;
            assert_eq!(page.status, 422, "{wrong}");
            page.says("claude-haiku-4-5");
        }
        assert_eq!(root.post("/platform/prices", &fields("1")).await.status, 303);
        root.get("/platform/prices").await.says("1 request that had run");
        // The row is as it was; what was added is beside it, and in every sum.
        let again = world.row_of(&answer).await;
        assert_eq!(again, row);
        let expected = i64::try_from(row.tokens.input + 5 * row.tokens.output).unwrap() * 1_000;
        let page = admin.get(&format!("/t/acme/billing/requests/{}", row.id)).await;
        page.says("rated by an adjustment").says(&keyward::domain::money::Nanos(expected).precise());
        let seen = admin.get("/t/acme/billing").await;
        assert!(!seen.body.contains("ran on models without a price"));
        let csv = admin.get("/t/acme/billing/usage.csv").await.body;
        let mut reader = csv::Reader::from_reader(csv.as_bytes());
        let at = reader.headers().unwrap().iter().position(|name| name == "adjustment_usd").unwrap();
        let told = reader.records().next().unwrap().unwrap()[at].to_owned();
        assert_eq!(told, keyward::domain::money::Nanos(expected).exact());
        // Twice is once.
        assert_eq!(world.services.rate_unpriced().await.unwrap(), 0);
        // What costs something is not made free by a slip.
        for (field, zero) in [("input", "0"), ("output", "0.0")] {
            let form: Vec<(&str, &str)> = [("provider", "anthropic"), ("model", "claude-haiku-4-5"), ("input", "2"), ("output", "6")]
                .into_iter()
                .filter(|(name, _)| *name != field)
                .chain([(field, zero)])
                .collect();
            let page = root.post("/platform/prices", &form).await;
            assert_eq!(page.status, 422, "{field}");
            page.says(&format!("id=\"{field}-error\"")).says("A price of nothing would hide what is used.");
        }
    }
}

on_both! {
    async fn a_fallback_is_seen_on_row_chart_and_statement(world: World) {
        let cast = cast(world).await;
        let (tenant, scope) = (&cast.tenant, holder(&cast.tenant).scope);
        world.services.set_mode(&world.admin(tenant), &scope, tenant, UsageMode::Byok).await.unwrap();
        let answer = world.message(&world.token(tenant).await).send().await.unwrap();
        assert_eq!(answer.headers()["x-keyward-fallback"], "no_key");
        let row = world.row_of(&answer).await;
        let mut admin = sign_in(world, "admin").await;
        admin.get(&format!("/t/acme/billing/requests/{}", row.id)).await.says("There was no key");
        let chart = admin.get("/t/acme/billing").await;
        chart.says("1 fell back to the shared account").says("class=\"fallback\"").says("swatch-fallback");
        let month = row.started_at.date(&jiff::tz::TimeZone::UTC).strftime("%Y-%m").to_string();
        let statement = format!("/t/acme/billing/statements/{month}");
        admin.get(&statement).await.says("Managed use, included in the plan, as there was no key");
        let csv = admin.get(&format!("{statement}.csv")).await.body;
        assert!(csv.contains(&format!("used,\"Managed use, included in the plan, as there was no key\",1,{}", row.cost.exact())), "{csv}");
    }
}

on_both! {
    async fn budgets_are_set_shown_and_removed(world: World) {
        let cast = cast(world).await;
        world.add_key(&cast.tenant, "production", &test_key("ok")).await.unwrap();
        let token = world.token(&cast.tenant).await;
        assert_eq!(world.message(&token).send().await.unwrap().status(), 200);
        let mut admin = sign_in(world, "admin").await;
        let budgets = "/t/acme/billing/budgets";
        admin.get(budgets).await.says("No budget yet");
        let fields = [("key", "production"), ("amount", "1,250.50"), ("on_reach", "pause"), ("warn_at", "80,100"), ("priced_only", "yes")];
        assert_eq!(admin.post(budgets, &fields).await.status, 303);
        admin.get(budgets).await.says("Budget of production saved").says("of $1,250.50 this month").says("Models without a price are refused");
        admin.get(&format!("{budgets}?edit=production")).await.says("value=\"1250.50\"");
        assert_eq!(admin.post(budgets, &[("amount", "0.01"), ("on_reach", "pause"), ("warn_at", "1")]).await.status, 303);
        admin.get("/t/acme/billing").await.says("of your monthly budget is used.").says("Change budget");
        let mut member = sign_in(world, "member").await;
        let seen = member.get("/t/acme/settings/api-keys").await;
        seen.says("of your monthly budget is used.");
        assert!(!seen.body.contains("Change budget"));
        for key in ["", "production"] {
            assert_eq!(admin.post(&format!("{budgets}/remove"), &[("key", key)]).await.status, 303);
        }
        admin.get(budgets).await.says("No budget yet");
    }
}

on_both! {
    async fn negotiated_rates_hold_for_new_requests_alone(world: World) {
        let cast = cast(world).await;
        let tenant = &cast.tenant;
        world.add_key(tenant, "production", &test_key("ok")).await.unwrap();
        let token = world.token(tenant).await;
        let operator = world.super_admin();
        world.services.set_funding(&operator, tenant, Funding::Included, Funding::Metered).await.unwrap();
        let call = async |key: Option<&str>| {
            let request = world.message(&token);
            let request = key.into_iter().fold(request, |request, key| request.header("x-keyward-key", key));
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 200);
            world.row_of(&answer).await
        };
        let (own, managed) = (call(Some("production")).await, call(None).await);
        assert_eq!((own.rate, managed.rate, managed.billed), (Multiplier::LIST, Multiplier::LIST, managed.cost));

        let mut admin = sign_in(world, "admin").await;
        let form = [("key", "production"), ("percent", "85")];
        assert_eq!(admin.post("/t/acme/billing/rates", &form).await.status, 303);
        let page = admin.get("/t/acme/billing/rates").await;
        page.says("Rate of production saved.").says("85% of the list price");
        let mut root = sign_in(world, "root").await;
        let terms = "/platform/tenants/acme";
        let rate = format!("{terms}/rate");
        assert_eq!(root.post(&rate, &[("was", "100"), ("percent", "120.5")]).await.status, 303);
        root.post(&rate, &[("was", "100"), ("percent", "50")]).await;
        root.get(terms).await.says("was changed meanwhile").says("value=\"120.5\"");
        let refused = root.post(&rate, &[("was", "120.5"), ("percent", "NaN")]).await;
        assert_eq!(refused.status, 422);
        refused.says("Use a percentage");

        let (cheaper, dearer) = (call(Some("production")).await, call(None).await);
        let scaled = |cost: Nanos, permille: i128| {
            Nanos(i64::try_from(div_half_even(i128::from(cost.0) * permille, 1_000)).unwrap())
        };
        // What the list price comes to here is whole nanodollars, so scaling it is exact.
        assert_eq!((cheaper.rate, cheaper.cost), (Multiplier(850), scaled(own.cost, 850)));
        assert_eq!((dearer.rate, dearer.cost), (Multiplier(1_205), scaled(managed.cost, 1_205)));
        assert_eq!((cheaper.billed, dearer.billed), (Nanos::ZERO, dearer.cost));
        assert_eq!(world.row(own.id).await.cost, own.cost);
        let page = admin.get(&format!("/t/acme/billing/requests/{}", cheaper.id)).await;
        page.says("Negotiated rate").says("85% of the list price").says("Sum at list price, exactly");
    }
}

on_both! {
    async fn a_negotiated_rate_of_a_key_leaves_the_fee_for_own_keys(world: World) {
        let cast = cast(world).await;
        let tenant = &cast.tenant;
        world.add_key(tenant, "production", &test_key("ok")).await.unwrap();
        let mut root = sign_in(world, "root").await;
        let terms = [("plan", "pro"), ("subscription", "0"), ("endpoints_included", "0"), ("endpoint_fee", "0"), ("byok_percent", "10")];
        let set = root.post("/platform/plans", &terms).await;
        assert_eq!(set.status, 303, "{}", set.body);
        let token = world.token(tenant).await;
        let call = async || {
            let answer = world.message(&token).header("x-keyward-key", "production").send().await.unwrap();
            world.row_of(&answer).await
        };
        let (admin, scope) = (world.admin(tenant), holder(tenant).scope);
        let fee = async || {
            let (running, _) = world.services.statements(&admin, &scope, tenant).await.unwrap();
            running[0].due
        };
        let first = call().await;
        let at_list = fee().await;
        assert_eq!(at_list, Nanos(div_half_even(i128::from(first.cost.0), 10).try_into().unwrap()));
        world.services.set_key_rate(&admin, holder(tenant), tenant, "production", "0.1").await.unwrap();
        let second = call().await;
        assert!(second.cost.0 * 900 < first.cost.0);
        // What the tenant pays its provider is its own business: the fee is for the list price.
        let both = fee().await;
        assert!((both.0 - 2 * at_list.0).abs() <= 100, "{both:?} after {at_list:?}");
        let group = world.services.cost_comparison(&admin, &scope, tenant, Multiplier::LIST).await.unwrap();
        assert!((group[0].managed.0 - 2 * first.cost.0).abs() <= 500, "{group:?}");
    }
}

/// The figures of the page by name, each with what it says of the 30 days before.
fn compared(page: &Page) -> Vec<(&str, &str)> {
    let figures = page.body.split("<div class=\"figure\">").skip(1);
    figures
        .map(|rest| {
            let figure = rest.split("</div>").next().unwrap();
            let mut texts = figure.split("<span class=\"small soft\">").skip(1);
            let (name, note) = (texts.next().unwrap(), texts.last().unwrap());
            (name.split("</span>").next().unwrap(), note.split("</span>").next().unwrap())
        })
        .collect()
}

on_both! {
    async fn every_figure_is_compared_with_the_30_days_before(world: World) {
        let cast = cast(world).await;
        let token = world.token(&cast.tenant).await;
        let mut first = None;
        for (days, calls, note) in [
            (0, 0, "None in the 30 days before either"),
            (0, 2, "None in the 30 days before"),
            (30, 3, "+50% on the 30 days before"),
            (30, 1, "\u{2212}67% on the 30 days before"),
            (30, 1, "As in the 30 days before"),
        ] {
            world.clock.advance(days * DAY);
            for _ in 0..calls {
                let answer = world.message(&token).send().await.unwrap();
                assert_eq!(answer.status(), 200);
                let row = world.row_of(&answer).await;
                // Each costs the same, so one note is right for all of the figures.
                assert_eq!(*first.get_or_insert((row.cost, row.tokens)), (row.cost, row.tokens));
            }
            let page = sign_in(world, "admin").await.get(BILLING).await;
            let expected = ["Spend", "Requests", "Input tokens", "Output tokens"].map(|name| (name, note));
            assert_eq!(compared(&page), expected, "{calls} calls");
        }
    }
}

fn attribute<'a>(element: &'a str, name: &str) -> &'a str {
    let open = format!(" {name}=\"");
    let (_, value) = element.split_once(&open).unwrap_or_else(|| panic!("no {name}: {element}"));
    value.split('"').next().unwrap()
}

on_both! {
    async fn a_switch_of_mode_is_a_dashed_line_on_its_day(world: World) {
        let cast = cast(world).await;
        let (tenant, scope) = (&cast.tenant, holder(&cast.tenant).scope);
        world.add_key(tenant, "production", &test_key("ok")).await.unwrap();
        let answer = world.message(&world.token(tenant).await).send().await.unwrap();
        world.row_of(&answer).await;
        let mut admin = sign_in(world, "admin").await;
        let page = admin.get(BILLING).await;
        assert!(page.body.contains("<svg class=\"chart\"") && !page.body.contains("mode-line"));
        let mode = [("mode", "byok"), ("was", "managed")];
        assert_eq!(admin.post(&format!("{BILLING}/mode"), &mode).await.status, 303);
        let report = world.services.billing_report(&world.admin(tenant), &scope, tenant, Dimension::Feature).await.unwrap();
        let day = report.mode_changes[0].at.timestamp().strftime("%-d %b").to_string();

        world.clock.advance(3 * DAY);
        let page = sign_in(world, "admin").await.get(BILLING).await;
        let chart = page.body.split("<svg class=\"chart\"").nth(1).unwrap().split("</svg>").next().unwrap();
        let lines: Vec<&str> = chart.split("<line class=\"mode-line\"").skip(1).collect();
        assert_eq!(lines.len(), 1, "{chart}");
        assert!(lines[0].contains(&format!(">Switched to own key, {day}</text>")), "{}", lines[0]);
        let x = attribute(lines[0], "x1");
        assert_eq!(attribute(lines[0], "x2"), x, "upright");
        let mut columns = chart.split("<g class=\"day\"").skip(1);
        let column = columns.find(|column| attribute(column, "data-read").starts_with(&format!("{day}: "))).unwrap();
        let (_, hit) = column.split_once("<rect class=\"hit\"").unwrap();
        let [x, left, width] = [x, attribute(hit, "x"), attribute(hit, "width")].map(|number| number.parse::<f64>().unwrap());
        // Lengths are rounded to a tenth.
        assert!((left - 0.1..=left + width + 0.1).contains(&x), "{x} is not in {left} and {width} more");
        let style = std::fs::read_to_string(crate::support::root().join("static/css/chart.css")).unwrap();
        let rule = style.split(".mode-line {").nth(1).unwrap().split('}').next().unwrap();
        assert!(rule.contains("stroke-dasharray: "), "{rule}");
    }
}

/// The panel that is labelled so.
fn panel<'a>(page: &'a Page, id: &str) -> &'a str {
    let open = format!("aria-labelledby=\"{id}\"");
    let (_, rest) = page.body.split_once(&open).unwrap_or_else(|| panic!("no {id}:\n{}", page.body));
    rest.split("</section>").next().unwrap()
}

on_both! {
    async fn a_key_of_another_provider_does_not_make_the_shared_account_look_down(world: World) {
        let cast = cast(world).await;
        let secret = world.key_of(Provider::Openai, "ok").await;
        world.add_key_of(holder(&cast.tenant), Provider::Openai, "another", &secret).await.unwrap();
        let mut admin = sign_in(world, "admin").await;
        for path in [BILLING, "/t/acme/settings/api-keys"] {
            admin.get(path).await.says("Using Acme's shared Anthropic infrastructure.");
        }
        // With a shared account of that provider, it is that one.
        let platform = Holder { scope: Scope::of_system(Owner::Platform), changers: KeyChangers::SuperAdmins };
        let secret = world.key_of(Provider::Openai, "ok").await;
        world.add_key_of(platform, Provider::Openai, "shared-openai", &secret).await.unwrap();
        admin.get(BILLING).await.says("Using Acme's shared OpenAI infrastructure.");
    }
}

on_both! {
    async fn the_page_shows_the_own_key_with_its_state_or_the_shared_account(world: World) {
        let cast = cast(world).await;
        let (tenant, holder) = (&cast.tenant, holder(&cast.tenant));
        let mut admin = sign_in(world, "admin").await;
        let page = admin.get(BILLING).await;
        page.says("Using Acme's shared Anthropic infrastructure.").says("Requests run on Acme's shared account");
        let shown = panel(&page, "credential");
        assert!(shown.contains("There is no default key. Managed mode needs none."), "{shown}");
        assert!(!page.body.contains("Your Anthropic key"));

        let key = test_key("ok");
        world.add_key(tenant, "production", &key).await.unwrap();
        let unused = "used only where a request names it";
        assert!(panel(&admin.get(BILLING).await, "credential-1").contains(unused));
        world.services.set_mode(&world.admin(tenant), &holder.scope, tenant, UsageMode::Byok).await.unwrap();
        let page = admin.get(BILLING).await;
        page.says("Using your own Anthropic key.");
        let shown = panel(&page, "credential-1");
        for part in [
            "Your Anthropic key",
            "production",
            "sk-ant-api03-…Zz9y",
            "<span class=\"status good\">Valid</span>",
            "href=\"/t/acme/settings/api-keys/production\"",
        ] {
            assert!(shown.contains(part), "no {part}: {shown}");
        }
        assert!(!shown.contains(unused), "{shown}");
        assert!(!page.body.contains("Using Acme's shared") && !page.body.contains("Using Acme&#39;s shared"));
        world.impose(&key, "revoked").await;
        world.services.check_key(&world.admin(tenant), holder, "production").await.unwrap();
        let page = admin.get(BILLING).await;
        page.says("Anthropic rejected your key.");
        let shown = panel(&page, "credential-1");
        assert!(shown.contains("<span class=\"status bad\">Rejected by Anthropic</span>"), "{shown}");
        // Whose key it is, is not for everybody's eyes.
        let page = sign_in(world, "member").await.get(BILLING).await;
        assert!(!page.body.contains("aria-labelledby=\"credential"));
    }
}
