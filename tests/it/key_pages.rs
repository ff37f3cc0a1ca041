//! What the pages of a key say, what their buttons do, and how one gets about: tenants and sessions.

use keyward::domain::account::TenantRole;
use keyward::domain::billing::{LimitPolicy, NoKeyPolicy, UsageMode};
use keyward::domain::clock::{DAY, HOUR, Moment};
use keyward::domain::ids::Owner;
use keyward::domain::provider_key::Provider;
use keyward::providers;
use keyward::storage::{audit, people};
use serde_json::{Value, json};

use crate::console::{PASSWORD, cast, fact, sign_in};
use crate::keys::sealed;
use crate::on_both;
use crate::support::{error_code, holder, test_key};
use crate::visitor::{Page, Visitor};

const NEW: &str = "/t/acme/settings/api-keys/new";
const KEY: &str = "/t/acme/settings/api-keys/production";

/// Where the form goes that a button of this name stands in.
fn action_of<'a>(page: &'a Page, button: &str) -> &'a str {
    let label = format!(">{button}</button>");
    let forms = page.body.split("<form ").skip(1).filter_map(|rest| rest.split("</form>").next());
    let found: Vec<&str> = forms.filter(|form| form.contains(&label)).collect();
    assert_eq!(found.len(), 1, "forms with {button}:\n{}", page.body);
    found[0].split("action=\"").nth(1).unwrap().split('"').next().unwrap()
}

async fn press(visitor: &mut Visitor, page: &Page, button: &str) -> Page {
    visitor.post(action_of(page, button), &[]).await
}

/// The cells of the table of versions, newest first: number, key, fingerprint, when and by whom it was
/// pasted, and state.
fn versions(page: &Page) -> Vec<Vec<&str>> {
    let (_, table) = page.body.split_once("id=\"versions\"").expect("a table of versions");
    table.split("<tr>").skip(2).map(|row| row.split("<td").skip(1).map(cell).collect()).collect()
}

/// What is in a cell, of the text from its attributes on.
fn cell(rest: &str) -> &str {
    let (_, inner) = rest.split_once('>').unwrap();
    inner.split("</td>").next().unwrap()
}

/// How a page begins to write a time.
fn time(at: Moment) -> String {
    format!("<time datetime=\"{}\"", at.rfc3339())
}

/// As people compare them.
fn in_groups(fingerprint: &str) -> String {
    [&fingerprint[..4], &fingerprint[4..8], &fingerprint[8..12]].join(" ")
}

on_both! {
    async fn the_page_of_a_key_says_what_it_is_who_pasted_it_and_what_it_cost(world: World) {
        let cast = cast(world).await;
        let current = async || {
            let detail = world.services.key_detail(holder(&cast.tenant), "production").await.unwrap();
            detail.line.key.current
        };
        let mut admin = sign_in(world, "admin").await;
        let (first, second) = (test_key("ok"), test_key("ok"));
        let fields = [("api_key", first.as_str()), ("key_name", "production"), ("switch_mode", "yes")];
        assert_eq!(admin.post(NEW, &fields).await.status, 303);
        let old = current().await;
        let page = admin.get(KEY).await;
        assert_eq!(fact(&page, "Fingerprint"), in_groups(&old.fingerprint));
        let added = fact(&page, "Version");
        assert!(added.starts_with(&format!("1, added {}", time(old.created_at))), "{added}");
        assert_eq!(fact(&page, "Last 30 days"), "$0.00 on your account");
        page.says("Added by admin@acme.example");
        assert_eq!(versions(&page).len(), 1);

        let answer = world.message(&world.token(&cast.tenant).await).send().await.unwrap();
        let row = world.row_of(&answer).await;
        assert!(row.cost.0 > 0);
        let spent = format!("{} on your account", row.cost.shown());
        assert_eq!(fact(&admin.get(KEY).await, "Last 30 days"), spent);

        // Somebody else rotates it later.
        world.clock.advance(HOUR);
        let mut billing = sign_in(world, "billing").await;
        let pasted = [("api_key", second.as_str()), ("custom_url", "")];
        let rotated = billing.post(&format!("{KEY}/rotate"), &pasted).await;
        assert_eq!((rotated.status.as_u16(), rotated.location()), (303, KEY), "{}", rotated.body);
        let new = current().await;
        assert_ne!(new.fingerprint, old.fingerprint);
        let page = billing.get(KEY).await;
        assert_eq!(fact(&page, "Fingerprint"), in_groups(&new.fingerprint));
        let replaced = fact(&page, "Version");
        assert!(replaced.starts_with(&format!("2, rotated {}", time(new.created_at))), "{replaced}");
        assert_eq!(fact(&page, "Last 30 days"), spent, "the key's, whatever its version");
        page.says("Added by admin@acme.example");
        let rows = versions(&page);
        assert_eq!(rows.len(), 2);
        let known = [(&new, "billing@acme.example"), (&old, "admin@acme.example")];
        for (row, (version, who)) in rows.iter().zip(known) {
            assert!(row[0].starts_with(&version.version.to_string()), "{row:?}");
            assert_eq!(row[2], in_groups(&version.fingerprint));
            assert!(row[3].starts_with(&time(version.created_at)), "{row:?}");
            assert!(row[3].ends_with(&format!(" by {who}")), "{row:?}");
        }
        assert!(rows[0][0].ends_with(">Current</span>") && rows[0][4] == "In use", "{rows:?}");
        let destroyed = format!("Replaced; sealed copy destroyed {}", time(new.created_at.plus(DAY)));
        assert!(rows[1][0] == "1" && rows[1][4].starts_with(&destroyed), "{rows:?}");
    }
}

/// How to get a key: the steps, and where the link to the provider leads, if there is one.
fn guide(page: &Page) -> (Vec<&str>, Option<&str>) {
    let (_, section) = page.body.split_once("aria-labelledby=\"steps\"").expect("the steps");
    let (head, list) = section.split_once("<ol class=\"steps\">").unwrap();
    let list = list.split("</ol>").next().unwrap();
    let steps = list.split("<li>").skip(1).map(|step| step.split("</li>").next().unwrap()).collect();
    let link = head.split("href=\"").nth(1).map(|rest| rest.split('"').next().unwrap());
    (steps, link)
}

on_both! {
    async fn adding_a_key_begins_with_how_to_get_one(world: World) {
        cast(world).await;
        let mut admin = sign_in(world, "admin").await;
        let page = admin.get(NEW).await;
        let (steps, link) = guide(&page);
        assert_eq!((steps.len(), link), (4, Some("https://platform.claude.com/settings/keys")));
        page.says("target=\"_blank\" rel=\"noopener noreferrer\">Open keys at Anthropic");
        let anthropic = providers::of(Provider::Anthropic).spec();
        assert_eq!(steps, anthropic.steps);
        for provider in providers::ALL {
            let spec = provider.spec();
            let page = admin.get(&format!("{NEW}?provider={}", spec.kind)).await;
            let (steps, link) = guide(&page);
            assert_eq!(steps, spec.steps, "{}", spec.kind);
            assert_eq!(link, spec.console.map(|console| console.keys), "{}", spec.kind);
        }
    }
}

on_both! {
    async fn a_replaced_version_that_is_forgotten_cannot_come_back(world: World) {
        let cast = cast(world).await;
        let (person, holder) = (world.admin(&cast.tenant), holder(&cast.tenant));
        world.add_key(&cast.tenant, "production", &test_key("ok")).await.unwrap();
        world.rotate(&person, holder, "production", &test_key("ok")).await.unwrap();
        let mut admin = sign_in(world, "admin").await;
        let page = admin.get(KEY).await;
        assert_eq!(action_of(&page, "Undo rotation"), format!("{KEY}/undo"));
        assert_eq!(sealed(world, "production").await, [(1, true), (2, true)]);

        let forgotten = press(&mut admin, &page, "Forget now").await;
        assert_eq!((forgotten.status.as_u16(), forgotten.location()), (303, KEY), "{}", forgotten.body);
        assert_eq!(sealed(world, "production").await, [(1, false), (2, true)]);
        let page = admin.get(KEY).await;
        page.says("Replaced versions of production are destroyed.");
        assert!(!page.body.contains("Undo rotation") && !page.body.contains("Forget now"));
        let rows = versions(&page);
        assert!(rows[1][0] == "1" && rows[1][4].ends_with(" and destroyed"), "{rows:?}");
        assert_eq!(admin.post(&format!("{KEY}/undo"), &[]).await.status, 404);
        let token = world.token(&cast.tenant).await;
        let answer = world.message(&token).header("x-keyward-key", "production").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["x-keyward-key"], "production@2");
    }
}

/// What the page says that removing brings about.
fn consequences(page: &Page) -> Vec<String> {
    let (_, rest) = page.body.split_once("What happens when you remove it").expect("the consequences");
    let list = rest.split("</ul>").next().unwrap();
    let lines = list.split("<li>").skip(1).map(|line| line.split("</li>").next().unwrap());
    lines.map(|line| line.replace("&#39;", "'")).collect()
}

on_both! {
    /// Each is told beforehand and then asked of the gateway.
    async fn removal_says_what_follows_and_so_it_does(world: World) {
        let cast = cast(world).await;
        let (tenant, scope) = (&cast.tenant, holder(&cast.tenant).scope);
        world.services.set_mode(&world.admin(tenant), &scope, tenant, UsageMode::Byok).await.unwrap();
        let token = world.token(tenant).await;
        let ask = async |header: &str, value: &str| {
            let answer = world.message(&token).header(header, value).send().await.unwrap();
            let status = answer.status().as_u16();
            (status, error_code(&answer.json::<Value>().await.unwrap()).to_owned())
        };
        let mut admin = sign_in(world, "admin").await;
        let remove = format!("{KEY}/remove");
        let stops = ["2 AI features stop until another key is the default one.", "Requests to Anthropic that name no key are refused."];
        let goes_on = ["2 AI features go back to managed use on Acme's shared account.", "Requests to Anthropic that name no key run on Acme's shared account."];
        for (no_key, told, status, code) in [
            (NoKeyPolicy::Block, stops, 403, "keyward_gate_closed"),
            (NoKeyPolicy::Managed, goes_on, 200, ""),
        ] {
            world.services.set_policies(&world.admin(tenant), &scope, tenant, no_key, LimitPolicy::Pause).await.unwrap();
            world.add_key(tenant, "production", &test_key("ok")).await.unwrap();
            let page = admin.get(&remove).await;
            let lines = consequences(&page);
            assert_eq!(lines[..2], told);
            assert_eq!(lines[2], "Requests that name production are refused.");
            assert!(lines[3].starts_with("Its sealed copies are deleted from the database at once."), "{lines:?}");
            let removed = admin.post(&remove, &[("confirm_name", "production")]).await;
            assert_eq!(removed.status, 303, "{}", removed.body);
            for feature in ["general", "drafts", "suggestions"] {
                let answered = ask("x-keyward-feature", feature).await;
                assert_eq!(answered, (status, code.to_owned()), "{no_key}: {feature}");
            }
            // It never ran on the key: it is not among those that were counted.
            assert_eq!(ask("x-keyward-feature", "chatbot").await.0, 200, "{no_key}");
            let named = ask("x-keyward-key", "production").await;
            assert_eq!(named, (404, "keyward_key_not_found".to_owned()), "{no_key}");
        }
    }
}

/// What is chosen on the Billing page, by the names of its fields.
fn chosen(page: &Page) -> Vec<(&str, &str)> {
    let choices = page.body.split("<input type=\"radio\" name=\"").skip(1);
    let choices = choices.map(|rest| rest.split('>').next().unwrap());
    choices
        .filter(|choice| choice.ends_with(" checked"))
        .map(|choice| {
            let (name, rest) = choice.split_once("\" value=\"").unwrap();
            (name, rest.split('"').next().unwrap())
        })
        .collect()
}

/// Saves the two policies, and gives the page that then shows.
async fn save_policies(admin: &mut Visitor, no_key: &str, on_limit: &str) -> Page {
    let policies = [("no_key", no_key), ("on_limit", on_limit)];
    let saved = admin.post("/t/acme/billing/policies", &policies).await;
    assert_eq!((saved.status.as_u16(), saved.location()), (303, "/t/acme/billing"), "{}", saved.body);
    let page = admin.get("/t/acme/billing").await;
    page.says("Policies saved. They hold for new requests.");
    page
}

on_both! {
    async fn policies_that_are_saved_are_shown_obeyed_and_on_record(world: World) {
        let cast = cast(world).await;
        let (tenant, scope) = (&cast.tenant, holder(&cast.tenant).scope);
        world.services.set_mode(&world.admin(tenant), &scope, tenant, UsageMode::Byok).await.unwrap();
        let token = world.token(tenant).await;
        // The status, and why the shared account stood in or nothing did.
        let ask = async || {
            let answer = world.message(&token).send().await.unwrap();
            let status = answer.status().as_u16();
            let fallback = answer.headers().get("x-keyward-fallback").map(|why| why.to_str().unwrap().to_owned());
            let body: Value = answer.json().await.unwrap();
            format!("{status} {}", fallback.unwrap_or_else(|| error_code(&body).to_owned()))
        };
        let mut admin = sign_in(world, "admin").await;
        let page = admin.get("/t/acme/billing").await;
        assert_eq!(chosen(&page), [("mode", "byok"), ("no_key", "managed"), ("on_limit", "pause")]);
        assert_eq!(ask().await, "200 no_key");

        let page = save_policies(&mut admin, "block", "managed").await;
        assert_eq!(chosen(&page), [("mode", "byok"), ("no_key", "block"), ("on_limit", "managed")]);
        assert_eq!(ask().await, "403 keyward_gate_closed");
        world.add_key(tenant, "production", &test_key("spendlimit")).await.unwrap();
        assert_eq!(ask().await, "200 limit");

        let page = save_policies(&mut admin, "block", "pause").await;
        assert_eq!(chosen(&page), [("mode", "byok"), ("no_key", "block"), ("on_limit", "pause")]);
        assert_eq!(ask().await, "402 keyward_paused");

        let mut tx = world.services.db.read().await.unwrap();
        let rows = audit::list(&mut tx, Owner::Tenant(tenant.id), 500).await.unwrap();
        let changes: Vec<(&str, Value)> = rows
            .iter()
            .filter(|row| row.action == "billing.policy_changed")
            .map(|row| (row.actor.as_str(), serde_json::from_str(&row.detail).unwrap()))
            .collect();
        let policies = |no_key: &str, on_limit: &str| json!({ "no_key": no_key, "on_limit": on_limit });
        let second = json!({ "before": policies("block", "managed"), "after": policies("block", "pause") });
        let first = json!({ "before": policies("managed", "pause"), "after": policies("block", "managed") });
        assert_eq!(changes, [("admin@acme.example", second), ("admin@acme.example", first)], "newest first");
    }
}

/// What the menu of tenants offers: where each line leads, its name and role, and which one is here.
fn offered(page: &Page) -> Vec<String> {
    let (_, menu) = page.body.split_once("<details class=\"tenant-menu\">").expect("a menu of tenants");
    let menu = menu.split("</details>").next().unwrap();
    let line = |item: &str| {
        let (link, role) = item.split_once("<br>").unwrap();
        let (href, link) = link.split_once('"').unwrap();
        let (marks, name) = link.split_once('>').unwrap();
        let role = role.split(['<', '>']).nth(2).unwrap();
        let here = if marks.contains("aria-current=\"true\"") { ", here" } else { "" };
        format!("{href} {name}, {role}{here}")
    };
    menu.split("<li><a href=\"").skip(1).map(line).collect()
}

on_both! {
    async fn whoever_is_in_two_tenants_gets_from_one_to_the_other(world: World) {
        let cast = cast(world).await;
        let beta = world.tenant("beta", UsageMode::Managed).await;
        let place = (cast.tenant.id, TenantRole::BillingAdmin);
        let ada = world.user("ada@acme.example", PASSWORD, None, Some(place)).await;
        let mut tx = world.services.db.write().await.unwrap();
        people::add_member(&mut tx, ada.id, beta.id, TenantRole::Admin, world.clock.now()).await.unwrap();
        tx.commit().await.unwrap();

        let to_beta = "/t/beta/settings/api-keys beta Ltd, Tenant admin";
        let to_acme = "/t/acme/settings/api-keys acme Ltd, Billing admin";
        let mut ada = sign_in(world, "ada").await;
        let page = ada.get("/account").await;
        page.says("Choose a tenant");
        assert_eq!(offered(&page), [to_beta, to_acme]);
        let page = ada.get("/t/acme/settings/api-keys").await;
        assert_eq!(offered(&page), [to_beta.to_owned(), format!("{to_acme}, here")]);
        let other = offered(&page)[0].split(' ').next().unwrap().to_owned();
        let page = ada.get(&other).await;
        assert_eq!(page.status, 200);
        page.says("<title>API keys · beta Ltd · Keyward</title>");
        assert_eq!(offered(&page), [format!("{to_beta}, here"), to_acme.to_owned()]);
        assert_eq!(ada.get("/t/neighbour/settings/api-keys").await.status, 404);

        // With one there is nothing to choose, but from outside of it there is a way back.
        let mut admin = sign_in(world, "admin").await;
        assert_eq!(offered(&admin.get("/account").await), ["/t/acme/settings/api-keys acme Ltd, Tenant admin"]);
        for path in ["/t/acme/settings/api-keys", "/t/acme/billing"] {
            let page = admin.get(path).await;
            assert_eq!(page.status, 200);
            assert!(!page.body.contains("tenant-menu"), "{path}");
        }
    }
}

/// The rows of the account page's table of sessions.
fn sessions(page: &Page) -> Vec<&str> {
    let (_, table) = page.body.split_once("<h2>Sessions</h2>").expect("a table of sessions");
    table.split("<tr>").skip(2).collect()
}

on_both! {
    async fn a_session_is_ended_from_another_of_the_same_person(world: World) {
        cast(world).await;
        let (mut here, mut there) = (sign_in(world, "admin").await, sign_in(world, "admin").await);
        let mut stranger = sign_in(world, "billing").await;
        let page = here.get("/account").await;
        let rows = sessions(&page);
        assert_eq!(rows.len(), 2, "their own and nobody else's: {rows:?}");
        // Each row is either this one or has the button.
        assert_eq!(rows.iter().filter(|row| row.contains("This one")).count(), 1);
        assert!(rows.iter().all(|row| row.contains("This one") != row.contains(">End session</button>")), "{rows:?}");
        assert_eq!(stranger.post(action_of(&page, "End session"), &[]).await.status, 404);
        assert_eq!(there.get("/account").await.status, 200);

        let ended = press(&mut here, &page, "End session").await;
        assert_eq!((ended.status.as_u16(), ended.location()), (303, "/account"), "{}", ended.body);
        let page = here.get("/account").await;
        assert_eq!(page.status, 200);
        page.says("Session ended.");
        assert_eq!(sessions(&page).len(), 1);
        assert!(!page.body.contains(">End session</button>"));
        let gone = there.get("/account").await;
        assert_eq!(gone.status, 303);
        assert!(gone.location().starts_with("/sign-in"), "{}", gone.location());
        assert_eq!(here.get("/t/acme/settings/api-keys").await.status, 200);
    }
}
