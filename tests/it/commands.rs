//! The commands on an installation that serves: what an operator changes holds at once.

use std::process::{Command, Output};

use keyward::domain::billing::UsageMode;
use keyward::domain::clock::DAY;
use keyward::domain::ids::Owner;
use keyward::storage::audit;
use serde_json::Value;

use crate::console::PASSWORD;
use crate::on_both;
use crate::support::{World, error_code, sha256, test_key};
use crate::visitor::Visitor;

const BOB: &str = "bob@acme.example";
const MIA: &str = "mia@acme.example";

fn keyward(world: &World, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyward"));
    command
        .args(args)
        .env_clear()
        .env("KEYWARD_BIND", world.settings.bind.to_string())
        .env("KEYWARD_DATA_DIR", world.dir.path())
        .env("KEYWARD_ANTHROPIC_URL", &world.sandbox_url)
        .env("KEYWARD_OPENAI_URL", &world.sandbox_url)
        .env("KEYWARD_GOOGLE_URL", &world.sandbox_url);
    if let Some(url) = &world.settings.database_url {
        command.env("KEYWARD_DATABASE_URL", url);
    }
    command.output().expect("the command runs")
}

/// What a command that succeeds prints.
#[track_caller]
fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

on_both! {
    async fn people_are_made_locked_out_and_let_in_again(world: World) {
        world.tenant("acme", UsageMode::Managed).await;
        let made = done(&keyward(world, &["user", "create", BOB, "--role", "member", "--tenant", "acme"]));
        let link = made.lines().find_map(|line| line.find("/setup/").map(|at| &line[at..])).expect("a link");
        let mut bob = Visitor::new(&world.url);
        bob.get(link).await.says(&format!("For {BOB}."));
        let chosen = bob.post(link, &[("password", PASSWORD)]).await;
        assert_eq!((chosen.status.as_u16(), chosen.location()), (303, "/t/acme/settings/api-keys"));
        assert_eq!(bob.get("/t/acme/settings/api-keys").await.status, 200);
        assert_eq!(bob.get("/t/acme/billing/budgets").await.status, 403, "a member");

        let file = world.dir.path().join("password");
        std::fs::write(&file, format!("{PASSWORD}\n")).unwrap();
        let file = file.to_str().unwrap();
        let args = ["user", "create", MIA, "--role", "billing_admin", "--tenant", "acme", "--password-file", file];
        assert!(done(&keyward(world, &args)).contains("can sign in"));
        let mut mia = Visitor::signed_in(&world.url, MIA, PASSWORD).await;
        assert_eq!(mia.get("/t/acme/billing/budgets").await.status, 200, "a billing admin");

        assert!(done(&keyward(world, &["user", "disable", BOB])).contains("is locked out"));
        assert_eq!(bob.get("/account").await.status, 303, "the session is over");
        let mut again = Visitor::new(&world.url);
        again.get("/sign-in").await;
        let refused = again.post("/sign-in", &[("email", BOB), ("password", PASSWORD)]).await;
        assert_eq!(refused.status, 422);
        refused.says("E-mail address or password is wrong.");
        assert_eq!(mia.get("/account").await.status, 200, "nobody else is");

        assert!(done(&keyward(world, &["user", "enable", BOB])).contains("can sign in again"));
        assert_eq!(bob.get("/account").await.status, 303, "what was ended stays so");
        let mut bob = Visitor::signed_in(&world.url, BOB, PASSWORD).await;
        assert_eq!(bob.get("/t/acme/settings/api-keys").await.status, 200);

        let mut tx = world.services.db.read().await.unwrap();
        let rows = audit::list(&mut tx, Owner::Platform, 50).await.unwrap();
        tx.rollback().await.unwrap();
        let by_command = rows.iter().filter(|row| row.actor == "keyward user");
        let told: Vec<(&str, &str)> = by_command.map(|row| (row.action.as_str(), row.target.as_str())).collect();
        assert_eq!(
            told,
            [("user.enabled", BOB), ("user.disabled", BOB), ("user.created", MIA), ("user.created", BOB)]
        );
    }
}

on_both! {
    async fn a_token_acts_for_its_tenant_within_its_scopes_and_days(world: World) {
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        let neighbour = world.tenant("neighbour", UsageMode::Byok).await;
        let secret = test_key("ok");
        world.add_key(&tenant, "production", &secret).await.unwrap();
        world.add_key(&neighbour, "production", &test_key("ok")).await.unwrap();
        let usage = |token: &str| world.http.get(format!("{}/api/v1/usage", world.url)).bearer_auth(token);

        let made = keyward(world, &["token", "create", "--tenant", "acme", "--name", "CI", "--days", "1"]);
        let token = done(&made).trim().to_owned();
        assert!(token.starts_with("kwt_") && token.len() == 53, "{token}");
        assert!(!String::from_utf8_lossy(&made.stderr).contains(&token), "on standard output alone");
        world.forget_arrived().await;
        let answer = world.message(&token).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(world.arrived().await[0]["credential_sha256"], sha256(&secret));
        assert_eq!(world.row_of(&answer).await.tenant_id, tenant.id);
        assert_eq!(usage(&token).send().await.unwrap().status(), 403, "the gateway alone");

        let args = ["token", "create", "--tenant", "acme", "--name", "Report", "--scope", "usage:read"];
        let reader = done(&keyward(world, &args)).trim().to_owned();
        let report: Value = usage(&reader).send().await.unwrap().json().await.unwrap();
        assert_eq!(report["rows"].as_array().unwrap().len(), 1, "{report}");
        let refused = world.message(&reader).send().await.unwrap();
        assert_eq!(refused.status(), 401);
        assert_eq!(error_code(&refused.json().await.unwrap()), "keyward_token_invalid");

        world.clock.advance(2 * DAY);
        assert_eq!(world.message(&token).send().await.unwrap().status(), 401, "its day is over");
        assert_eq!(usage(&reader).send().await.unwrap().status(), 200);
    }
}

on_both! {
    async fn doctor_finds_what_is_well_and_what_is_not(world: World) {
        let told = done(&keyward(world, &["doctor"]));
        let checked = told.lines().map(|line| line.strip_prefix("ok    ").and_then(|line| line.split_once(": ")));
        let checked: Vec<(&str, &str)> = checked.map(|line| line.unwrap_or_else(|| panic!("{told}"))).collect();
        let names: Vec<&str> = checked.iter().map(|(name, _)| *name).collect();
        assert_eq!(
            names,
            ["settings", "database", "keyring", "anthropic", "openai", "google", "mail", "payments"]
        );
        let detail = |of: &str| checked.iter().find(|(name, _)| *name == of).map(|(_, detail)| *detail).unwrap();
        assert!(detail("settings").ends_with(&world.services.options.public_url), "{told}");
        assert_eq!(detail("database"), format!("{} answers", world.services.db.kind()));
        assert!(detail("keyring").ends_with("; it opens the database"), "{told}");
        for provider in ["anthropic", "openai", "google"] {
            let answers = format!("{} answers with status 4", world.sandbox_url);
            assert!(detail(provider).starts_with(&answers), "{provider}: {told}");
        }

        let output = keyward(world, &["doctor", "--openai-url", "http://127.0.0.1:9"]);
        assert_eq!(output.status.code(), Some(1));
        let told = String::from_utf8(output.stdout).unwrap();
        let (well, failed): (Vec<&str>, Vec<&str>) = told.lines().partition(|line| line.starts_with("ok    "));
        assert_eq!((well.len(), failed.len()), (7, 1), "{told}");
        assert!(failed[0].starts_with("FAIL  openai: the provider could not be reached at http://127.0.0.1:9"), "{told}");
        assert!(failed[0].ends_with("KEYWARD_OPENAI_URL"), "{told}");
    }
}
