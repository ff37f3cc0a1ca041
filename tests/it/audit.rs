//! The audit log: read by those who may, and whole, or said not to be.

use std::process::Command;

use keyward::config::AuditSettings;
use keyward::domain::audit::{AuditAction, AuditActor, AuditEvent};
use keyward::domain::clock::DAY;
use keyward::domain::ids::Owner;
use keyward::services::audit_log::{read_heads, signed_heads};
use keyward::storage::audit::{self, Damage};

use crate::console::{cast, sign_in};
use crate::on_both;
use crate::support::{On, Setup, World, test_key};

async fn append(world: &World, chain: Owner, target: &str) {
    let mut tx = world.services.db.write().await.unwrap();
    let event = AuditEvent {
        at: world.clock.now(),
        actor: AuditActor {
            behalf_id: None,
            name: "=cmd|' /C calc'!A0".into(),
            address: Some("192.0.2.7".into()),
            ..AuditActor::default()
        },
        action: AuditAction::KeyEdited,
        target: target.to_owned(),
        detail: serde_json::json!({ "before": "<b>old</b>", "after": 7 }),
    };
    audit::append(&mut tx, &world.services.root, chain, &event).await.unwrap();
    tx.commit().await.unwrap();
}

async fn damage(world: &World) -> Vec<Damage> {
    let mut tx = world.services.db.snapshot().await.unwrap();
    let (_, damaged) = audit::verify(&mut tx, &world.services.root).await.unwrap();
    damaged.into_iter().map(|(_, damage)| damage).collect()
}

on_both! {
    async fn what_was_changed_deleted_swapped_or_cut_is_named(world: World) {
        let tenant = world.tenant("acme", keyward::domain::billing::UsageMode::Managed).await;
        let chain = Owner::Tenant(tenant.id);
        // Until now nothing was done in it: its log is entries 1 to 2,500, read in pieces.
        for number in 1..=2_500 {
            append(world, chain, &format!("key {number}")).await;
        }
        assert_eq!(damage(world).await, []);
        let restore = "UPDATE audit_log SET target = 'key 700' WHERE seq = 700";
        for (sql, expected, undo) in [
            ("UPDATE audit_log SET target = 'key 7' WHERE seq = 700 AND target = 'key 700'", Damage::Altered(700), restore),
            ("UPDATE audit_log SET detail = detail || ' ' WHERE seq = 2500 AND target = 'key 2500'", Damage::Altered(2_500),
             "UPDATE audit_log SET detail = RTRIM(detail) WHERE seq = 2500"),
            ("UPDATE audit_log SET behalf_id = chain WHERE seq = 800 AND target = 'key 800'", Damage::Altered(800),
             "UPDATE audit_log SET behalf_id = NULL WHERE seq = 800"),
            ("UPDATE chain_head SET seq = seq + 1 WHERE seq = 2500", Damage::CutShort { last: 2_500, head: 2_501 },
             "UPDATE chain_head SET seq = seq - 1 WHERE seq = 2501"),
            // Two that change places.
            ("UPDATE audit_log SET seq = CASE seq WHEN 1 THEN 9002 ELSE 9001 END WHERE seq IN (1, 2) AND target LIKE 'key %'", Damage::Missing(1),
             "UPDATE audit_log SET seq = CASE seq WHEN 9002 THEN 1 ELSE 2 END WHERE seq > 9000"),
        ] {
            world.sql(sql).await;
            assert!(damage(world).await.contains(&expected), "{sql}: {:?}", damage(world).await);
            world.sql(undo).await;
            assert_eq!(damage(world).await, [], "{undo}");
        }
        world.sql("INSERT INTO audit_log (chain, seq, at, actor_id, actor, action, target, detail, address, request_id, link)
                   SELECT chain, 0, at, actor_id, actor, action, target, detail, address, request_id, link FROM audit_log
                   WHERE seq = 1 AND target = 'key 1'").await;
        assert!(damage(world).await.contains(&Damage::Altered(0)));
        world.sql("DELETE FROM audit_log WHERE seq = 0").await;
        if matches!(world.services.db, keyward::storage::Database::Sqlite(_)) {
            world.sql("UPDATE audit_log SET request_id = x'00' WHERE seq = 1700 AND target = 'key 1700'").await;
            assert!(damage(world).await.contains(&Damage::Altered(1_700)));
            world.sql("UPDATE audit_log SET request_id = NULL WHERE seq = 1700 AND target = 'key 1700'").await;
        }
        // Whole, however much is written meanwhile.
        let writing = async {
            for number in 0..60 {
                append(world, chain, &format!("more {number}")).await;
            }
        };
        let reading = async {
            for _ in 0..12 {
                assert_eq!(damage(world).await, []);
            }
        };
        futures_util::join!(writing, reading);
        world.sql("DELETE FROM audit_log WHERE seq = 1200 AND target = 'key 1200'").await;
        assert!(damage(world).await.contains(&Damage::Missing(1_200)));
    }
}

on_both! {
    async fn a_tail_that_was_cut_with_its_head_shows_by_a_head_that_was_kept(world: World) {
        let tenant = world.tenant("acme", keyward::domain::billing::UsageMode::Managed).await;
        for number in 1..=3 {
            append(world, Owner::Tenant(tenant.id), &format!("key {number}")).await;
        }
        let root = &world.services.root;
        let mut tx = world.services.db.read().await.unwrap();
        let heads = audit::heads(&mut tx).await.unwrap();
        tx.rollback().await.unwrap();
        let kept = signed_heads(root, &heads, world.clock.now());
        assert_eq!(read_heads(root, &kept).unwrap().1, heads);
        assert!(read_heads(root, &kept.replace("\\\"seq\\\":3", "\\\"seq\\\":2")).is_none(), "{kept}");
        // Cut cleanly, the chain looks whole by itself.
        world.sql("UPDATE chain_head SET seq = 2, link = (SELECT a.link FROM audit_log a WHERE a.seq = 2 AND a.target = 'key 2') WHERE seq = 3").await;
        world.sql("DELETE FROM audit_log WHERE target = 'key 3'").await;
        assert_eq!(damage(world).await, []);
        // The command says so, with what was kept and without it.
        let file = world.dir.path().join("heads.jsonl");
        std::fs::write(&file, format!("{kept}\n\n")).unwrap();
        let verify = |head: bool| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_keyward"));
            command.args(["audit", "verify"]).env_clear().env("KEYWARD_DATA_DIR", world.dir.path());
            if let Some(url) = &world.settings.database_url {
                command.env("KEYWARD_DATABASE_URL", url);
            }
            if head {
                command.arg("--head").arg(&file);
            }
            let output = command.output().unwrap();
            (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
        };
        let (code, said) = verify(false);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("The audit log is whole"), "{said}");
        let (code, said) = verify(true);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("DAMAGED  the log of acme: entry 3 is not what it was at"), "{said}");
        std::fs::write(&file, "\n").unwrap();
        assert_eq!(verify(true).0, Some(1), "an emptied file proves nothing");
        std::fs::write(&file, kept.replace("said", "sagt")).unwrap();
        let (code, said) = verify(true);
        assert_eq!(code, Some(1));
        assert!(said.contains("is not signed by this installation"), "{said}");
    }
}

on_both! {
    async fn it_is_read_by_those_who_may_and_found_by_filters(world: World) {
        let cast = cast(world).await;
        world.add_key(&cast.tenant, "production", &test_key("ok")).await.unwrap();
        append(world, Owner::Tenant(cast.tenant.id), "=1+1").await;
        let mut admin = sign_in(world, "admin").await;
        let page = "/t/acme/activity/audit";
        let shown = admin.get(page).await;
        shown.says("key.added").says("192.0.2.7");
        assert!(!shown.body.contains("<b>old</b>") && shown.body.contains("&#60;b&#62;old&#60;/b&#62;"));
        assert!(!admin.get(&format!("{page}?action=key.added")).await.body.contains("192.0.2.7"));
        let rows = |body: &str| body.matches("data-label=\"What\"").count();
        assert_eq!(rows(&admin.get(&format!("{page}?actor=CALC")).await.body), 1);
        assert_eq!(rows(&admin.get(&format!("{page}?actor=%25")).await.body), 0, "no wildcard");
        assert_eq!(rows(&admin.get(&format!("{page}?from=2020-01-01&to=2020-01-02")).await.body), 0);
        let csv = admin.get(&format!("{page}.csv")).await;
        assert_eq!(csv.headers["content-type"], "text/csv; charset=utf-8");
        assert!(csv.body.contains("'=1+1") && csv.body.contains("'=cmd|"), "{}", csv.body);
        admin.get(page).await.says("log.exported");
        // Billing admins read what is about billing, whatever they ask for.
        admin.get("/t/acme/billing").await;
        let switched = admin.post("/t/acme/billing/mode", &[("mode", "byok"), ("was", "managed")]).await;
        assert_eq!(switched.status, 303, "{}", switched.body);
        let mut billing = sign_in(world, "billing").await;
        let theirs = billing.get(page).await;
        theirs.says("Admins see the rest.");
        assert!(!theirs.body.contains("192.0.2.7"));
        assert_eq!(rows(&billing.get(&format!("{page}?action=key.added")).await.body), 0);
        assert!(!billing.get(&format!("{page}.csv")).await.body.contains("key."));
        // A hundred at a time.
        for number in 0..120 {
            append(world, Owner::Tenant(cast.tenant.id), &format!("many {number}")).await;
        }
        let first = admin.get(&format!("{page}?action=key.edited")).await;
        assert_eq!(rows(&first.body), 100);
        let at = first.body.find("rel=\"next\"").unwrap();
        let href = first.body[..at].rsplit("href=\"").next().unwrap().split('"').next().unwrap().replace("&#38;", "&");
        let second = admin.get(&href).await;
        assert_eq!(rows(&second.body), 21);
        let all = admin.get(&format!("{page}.csv?action=key.edited")).await.body;
        assert_eq!(all.lines().count(), 122);
        // The platform's own.
        let mut root = sign_in(world, "root").await;
        root.get("/platform/audit").await.says("user.signed_in");
        world.clock.advance(40 * DAY);
        assert_eq!(rows(&sign_in(world, "admin").await.get(page).await.body), 0, "thirty days unless asked for more");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_are_published_and_old_entries_sealed_before_they_are_dropped() {
    for on in [On::Sqlite, On::Postgres] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("heads.jsonl");
        let receiver = wiremock::MockServer::start().await;
        wiremock::Mock::given(wiremock::matchers::method("POST"))
            .respond_with(wiremock::ResponseTemplate::new(204))
            .mount(&receiver)
            .await;
        let audit = AuditSettings {
            heads_file: Some(file.clone()),
            heads_url: Some(format!("{}/heads?token=t", receiver.uri()).parse().unwrap()),
            retention_days: Some(90),
        };
        let world = World::with(on, Setup { audit, ..Setup::default() }).await;
        let services = &world.services;
        let tenant = world.tenant("acme", keyward::domain::billing::UsageMode::Managed).await;
        let chain = Owner::Tenant(tenant.id);
        for number in 1..=40 {
            append(&world, chain, &format!("key {number}")).await;
        }
        services.publish_heads().await.unwrap();
        world.clock.advance(60 * DAY);
        for number in 41..=50 {
            append(&world, chain, &format!("key {number}")).await;
        }
        services.publish_heads().await.unwrap();
        services.seal_old_entries().await.unwrap();
        let count = async || {
            let mut tx = services.db.read().await.unwrap();
            audit::list(&mut tx, chain, 1_000).await.unwrap().len()
        };
        assert_eq!(count().await, 50, "none is ninety days old");

        // Damaged, nothing is dropped.
        world.clock.advance(31 * DAY);
        world.sql("UPDATE audit_log SET target = 'key x' WHERE target = 'key 7'").await;
        assert!(services.seal_old_entries().await.is_err());
        assert_eq!(count().await, 50);
        world.sql("UPDATE audit_log SET target = 'key 7' WHERE target = 'key x'").await;
        services.seal_old_entries().await.unwrap();
        let mut tx = services.db.read().await.unwrap();
        let rows = audit::list(&mut tx, chain, 1_000).await.unwrap();
        tx.rollback().await.unwrap();
        assert_eq!((rows.len(), rows.last().unwrap().target.as_str()), (11, "key 41"));
        assert_eq!((rows[0].action.as_str(), rows[0].actor.as_str()), ("log.sealed", "retention"));
        assert!(rows[0].detail.contains("\"entries\":40"), "{}", rows[0].detail);
        assert_eq!(damage(&world).await, []);

        // Once more, later: the second seal builds on the first.
        world.clock.advance(60 * DAY);
        append(&world, chain, "key 51").await;
        services.seal_old_entries().await.unwrap();
        assert_eq!(damage(&world).await, []);
        services.publish_heads().await.unwrap();

        // What was published before holds against what was sealed since.
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyward"));
        command.args(["audit", "verify", "--head"]).arg(&file).env_clear();
        command.env("KEYWARD_DATA_DIR", world.dir.path());
        if let Some(url) = &world.settings.database_url {
            command.env("KEYWARD_DATABASE_URL", url);
        }
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.contains("kept heads hold"), "{said}");

        // Dropped behind Keyward's back, with a seal of one's own making.
        let through = "(SELECT MIN(seq) FROM audit_log WHERE target = 'key 51')";
        let last = rows[0].seq;
        world
            .sql(leak(format!("UPDATE chain_head SET sealed_seq = {through}, sealed_link = (SELECT link FROM audit_log WHERE target = 'key 51') WHERE sealed_seq >= 40 AND seq > {last}")))
            .await;
        world
            .sql(leak(format!("DELETE FROM audit_log WHERE seq <= {through} AND chain <> {}", nil(on))))
            .await;
        let found = damage(&world).await;
        assert!(matches!(found[..], [Damage::NotSealed(_)]), "{found:?}");

        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.lines().count() >= 3, "{text}");
        assert!(text.lines().all(|line| read_heads(&services.root, line).is_some()));
        let sent = receiver.received_requests().await.unwrap();
        assert!(sent.iter().any(|request| text.contains(std::str::from_utf8(&request.body).unwrap())));
        world.end().await;
    }
}

/// The platform's chain, as a literal.
fn nil(on: On) -> &'static str {
    match on {
        On::Sqlite => "zeroblob(16)",
        On::Postgres => "'00000000-0000-0000-0000-000000000000'",
    }
}

/// Statements of tests are few and short.
fn leak(sql: String) -> &'static str {
    Box::leak(sql.into_boxed_str())
}
