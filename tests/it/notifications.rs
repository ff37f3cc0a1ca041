//! Notifications beyond the console: signed webhooks and e-mail, tried again until they arrive.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use keyward::access::scope::Scope;
use keyward::config::MailSettings;
use keyward::domain::account::{PlatformRole, Tenant, TenantRole};
use keyward::domain::billing::UsageMode;
use keyward::domain::clock::{DAY, HOUR, MINUTE, SECOND};
use keyward::domain::delivery::{Delivery, DeliveryState};
use keyward::domain::ids::{Owner, WebhookId};
use keyward::domain::notice::{self, NoticeKind};
use keyward::domain::provider_key::Verdict;
use keyward::services::key_states::Observation;
use keyward::storage::{keys, notifications};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use crate::support::{On, Setup, World, holder, test_key};
use crate::visitor::Visitor;

async fn world_with(on: On, receiver: &MockServer) -> World {
    World::with(on, Setup { allowed: vec![receiver.uri()], ..Setup::default() }).await
}

async fn tell(world: &World, tenant: &Tenant) {
    let mut tx = world.services.db.write().await.unwrap();
    let news = notice::of_age("main", 91, world.clock.now());
    notifications::insert(&mut tx, tenant.id, &news).await.unwrap();
    tx.commit().await.unwrap();
}

async fn log(world: &World, tenant: &Tenant) -> Vec<Delivery> {
    let scope = holder(tenant).scope;
    let found = world.services.destinations(&world.admin(tenant), &scope, tenant).await.unwrap();
    found.log.into_iter().map(|(delivery, _)| delivery).collect()
}

/// The job runs beside the test: whichever takes a delivery, it is made.
async fn settled(world: &World, tenant: &Tenant, until: impl Fn(&Delivery) -> bool) -> Delivery {
    for _ in 0..200 {
        world.services.deliver_due().await.unwrap();
        if let Some(newest) = log(world, tenant).await.into_iter().next().filter(|newest| until(newest)) {
            return newest;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("never came to that: {:?}", log(world, tenant).await);
}

/// What the signature of a webhook must be, worked out anew from what arrived.
fn is_signed(request: &Request, secret: &str) -> bool {
    let header = |name: &str| request.headers[name].to_str().unwrap().to_owned();
    let key = STANDARD.decode(secret.trim_start_matches("whsec_")).unwrap();
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&key).unwrap();
    mac.update(format!("{}.{}.", header("webhook-id"), header("webhook-timestamp")).as_bytes());
    mac.update(&request.body);
    header("webhook-signature") == format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_is_signed_and_sent_again_until_it_is_taken() {
    for on in [On::Sqlite, On::Postgres] {
        let receiver = MockServer::start().await;
        Mock::given(method("POST"))
            .respond_with(ResponseTemplate::new(500).set_body_string("no"))
            .up_to_n_times(1)
            .mount(&receiver)
            .await;
        Mock::given(method("POST")).respond_with(ResponseTemplate::new(204)).mount(&receiver).await;
        let world = world_with(on, &receiver).await;
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        let other = world.tenant("other", UsageMode::Byok).await;
        let (scope, admin) = (holder(&tenant).scope, world.admin(&tenant));
        let url = format!("{}/hooks/keyward", receiver.uri());
        let id = WebhookId::new();
        let (_, secret) = world.services.add_webhook(&admin, &scope, &tenant, id, &url).await.unwrap();

        // What happens at another tenant is not told here, nor is what is its own business tried.
        tell(&world, &other).await;
        world.add_key(&tenant, "main", &test_key("ok")).await.unwrap();
        tell(&world, &tenant).await;
        let failed = settled(&world, &tenant, |one| one.attempts == 1).await;
        assert_eq!((failed.state, failed.outcome.as_str()), (DeliveryState::Waiting, "HTTP 500"));
        // It waits for its time.
        world.services.deliver_due().await.unwrap();
        assert_eq!(receiver.received_requests().await.unwrap().len(), 1);
        world.clock.advance(10 * SECOND);
        let done = settled(&world, &tenant, |one| one.state == DeliveryState::Delivered).await;
        assert_eq!((done.attempts, done.outcome.as_str()), (2, "HTTP 204"));

        let arrived = receiver.received_requests().await.unwrap();
        let [first, second] = arrived.as_slice() else { panic!("{} arrived", arrived.len()) };
        for request in [first, second] {
            assert!(is_signed(request, secret.expose()));
            assert!(!is_signed(request, "whsec_bm90IGl0"));
        }
        assert_eq!(
            (first.headers["webhook-id"].clone(), &first.body),
            (second.headers["webhook-id"].clone(), &second.body)
        );
        assert_ne!(first.headers["webhook-timestamp"], second.headers["webhook-timestamp"]);
        let body: Value = serde_json::from_slice(&first.body).unwrap();
        assert_eq!((&body["type"], &body["data"]["tenant"]), (&"key.rotation_due".into(), &"acme".into()));
        let page = body["data"]["url"].as_str().unwrap();
        assert!(page.ends_with("/t/acme/settings/api-keys/main/rotate"), "{page}");

        // Gone is gone: no second attempt.
        receiver.reset().await;
        Mock::given(method("POST")).respond_with(ResponseTemplate::new(410)).mount(&receiver).await;
        tell(&world, &tenant).await;
        let gone = settled(&world, &tenant, |one| one.attempts == 1).await;
        assert_eq!(gone.state, DeliveryState::GivenUp);

        // What was on its way to a webhook goes with it.
        receiver.reset().await;
        tell(&world, &tenant).await;
        world.services.remove_webhook(&admin, &scope, &tenant, id).await.unwrap();
        world.services.deliver_due().await.unwrap();
        assert!(log(&world, &tenant).await.is_empty());
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_are_kept_on_their_page() {
    let receiver = MockServer::start().await;
    Mock::given(method("POST")).respond_with(ResponseTemplate::new(200)).mount(&receiver).await;
    let world = world_with(On::Sqlite, &receiver).await;
    let tenant = world.tenant("acme", UsageMode::Byok).await;
    let other = world.tenant("other", UsageMode::Byok).await;
    let password = "correct horse battery staple";
    world.user("ada@acme.example", password, None, Some((tenant.id, TenantRole::Admin))).await;
    let mut ada = Visitor::signed_in(&world.url, "ada@acme.example", password).await;
    let base = "/t/acme/settings/notifications";
    ada.get(base).await.says("No webhook yet").says("Nothing was sent yet");
    for (bad, reason) in [
        ("", "Start the URL with https://"),
        ("http://hooks.example.com/", "Start the URL with https://"),
        ("https://127.0.0.1/x", "Give a public host name"),
        ("https://hooks.example.com/?token=x", "Sign-in data, queries and fragments are not taken"),
        ("https://metadata.google.internal/", "private or reserved network"),
    ] {
        let page = ada.post(base, &[("url", bad)]).await;
        assert_eq!(page.status, 422, "{bad}");
        page.says(reason);
    }
    let url = format!("{}/k", receiver.uri());
    let once = WebhookId::new().to_string();
    let made = ada.post(base, &[("url", &url), ("once", &once)]).await;
    assert_eq!(made.status, 200);
    made.says("The webhook is ready").says("whsec_");
    // A reload makes no second one and shows no secret again.
    let again = ada.post(base, &[("url", &url), ("once", &once)]).await;
    assert_eq!(again.status, 303);
    assert!(!ada.get(base).await.says("was added already").body.contains("whsec_"));
    let page = ada.post(base, &[("url", &url)]).await;
    assert_eq!(page.status, 422);
    page.says("There is a webhook to that URL already.");

    let tested = ada.post(&format!("{base}/{once}/test"), &[]).await;
    assert_eq!(tested.status, 303);
    ada.get(base).await.says("The test was delivered: HTTP 200.").says("Delivered");
    let body: Value = serde_json::from_slice(&receiver.received_requests().await.unwrap()[0].body).unwrap();
    assert_eq!(body["type"], "test");
    // A test that fails is not tried again.
    receiver.reset().await;
    ada.post(&format!("{base}/{once}/test"), &[]).await;
    ada.get(base).await.says("The test was not delivered: HTTP 404.").says("Not delivered");

    // Another tenant's page does not reach it.
    let theirs = holder(&other).scope;
    let boss = world.admin(&other);
    let id = WebhookId::parse(&once).unwrap();
    assert!(world.services.test_webhook(&boss, &theirs, &other, id).await.is_err());
    assert!(world.services.remove_webhook(&boss, &theirs, &other, id).await.is_err());

    assert_eq!(ada.post(&format!("{base}/{once}/remove"), &[]).await.status, 303);
    ada.get(base).await.says("Webhook removed").says("No webhook yet");
    world.end().await;
}

/// Settings that send to a mail server.
pub fn mail_to(url: String) -> MailSettings {
    MailSettings {
        smtp_url: Some(url),
        smtp_url_file: None,
        mail_from: Some("keyward@operator.example".to_owned()),
    }
}

/// A mail server that takes every letter, save for those to `refused@…`.
pub async fn mail_server() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("smtp://{}", listener.local_addr().unwrap());
    let letters = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&letters);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(converse(stream, Arc::clone(&kept)));
        }
    });
    (url, letters)
}

async fn converse(stream: tokio::net::TcpStream, letters: Arc<Mutex<Vec<String>>>) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    write.write_all(b"220 mail.test\r\n").await?;
    while let Some(line) = lines.next_line().await? {
        let answer: &[u8] = match line.split(' ').next().unwrap_or_default() {
            "RCPT" if line.contains("refused@") => b"550 no such mailbox\r\n",
            "DATA" => {
                write.write_all(b"354 go on\r\n").await?;
                let mut letter = String::new();
                while let Some(line) = lines.next_line().await?.filter(|line| line != ".") {
                    letter.push_str(&line);
                    letter.push('\n');
                }
                letters.lock().unwrap().push(letter);
                b"250 taken\r\n"
            }
            "QUIT" => b"221 bye\r\n",
            _ => b"250 ok\r\n",
        };
        write.write_all(answer).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_are_told_by_e_mail_if_they_want_to_be() {
    for on in [On::Sqlite, On::Postgres] {
        let (url, letters) = mail_server().await;
        let mail = mail_to(url);
        let world = World::with(on, Setup { mail, ..Setup::default() }).await;
        let tenant = world.tenant("acme", UsageMode::Byok).await;
        let password = "correct horse battery staple";
        for (email, role) in [
            ("ada@acme.example", TenantRole::Admin),
            ("bill@acme.example", TenantRole::BillingAdmin),
            ("refused@acme.example", TenantRole::Admin),
            ("mia@acme.example", TenantRole::Member),
        ] {
            world.user(email, password, None, Some((tenant.id, role))).await;
        }
        let mut bill = Visitor::signed_in(&world.url, "bill@acme.example", password).await;
        let base = "/t/acme/settings/notifications";
        bill.get(base).await.says("Tell me at bill@acme.example");
        assert_eq!(bill.post(&format!("{base}/mail"), &[]).await.status, 303);
        bill.get(base).await.says("You are told in the console alone.");

        tell(&world, &tenant).await;
        world.services.deliver_due().await.unwrap();
        for _ in 0..200 {
            if log(&world, &tenant).await.iter().all(|one| one.state != DeliveryState::Waiting) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        let states: Vec<_> =
            log(&world, &tenant).await.into_iter().map(|one| (one.state, one.outcome)).collect();
        assert!(states.contains(&(DeliveryState::Delivered, "Sent".to_owned())), "{states:?}");
        assert!(states.contains(&(DeliveryState::GivenUp, "SMTP 550".to_owned())), "{states:?}");
        assert_eq!(states.len(), 2);
        let letters = letters.lock().unwrap().clone();
        let [letter] = letters.as_slice() else { panic!("{} letters", letters.len()) };
        for part in [
            "To: ada@acme.example",
            "keyward@operator.example",
            "Subject: acme Ltd: Rotation due",
            "Auto-Submitted: auto-generated",
            "The key main has been in use for 91 days.",
            "/t/acme/settings/api-keys/main/rotate",
        ] {
            assert!(letter.contains(part), "{part} is not in\n{letter}");
        }
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_is_told_by_e_mail_of_shared_keys() {
    for on in [On::Sqlite, On::Postgres] {
        let (url, letters) = mail_server().await;
        let mail = mail_to(url);
        let world = World::with(on, Setup { mail, ..Setup::default() }).await;
        for (email, role) in
            [("root@acme.example", PlatformRole::SuperAdmin), ("support@acme.example", PlatformRole::Support)]
        {
            world.user(email, "correct horse battery staple", Some(role), None).await;
        }
        world.add_shared_key(&test_key("ok")).await;
        let scope = Scope::of_system(Owner::Platform);
        let mut tx = world.services.db.read().await.unwrap();
        let key = keys::find(&mut tx, &scope, "shared").await.unwrap().unwrap().key.id;
        tx.rollback().await.unwrap();
        let subjects = async |expected: &[&str]| {
            let found = || -> Vec<String> {
                let letters = letters.lock().unwrap();
                let subject = |letter: &String| {
                    letter
                        .lines()
                        .find_map(|line| line.strip_prefix("Subject: "))
                        .unwrap_or_default()
                        .to_owned()
                };
                letters.iter().map(subject).collect()
            };
            // Sent aside; those that are not expected would have come before the one that is.
            for _ in 0..400 {
                if found().len() >= expected.len() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            // Each is sent by itself: which of two arrives first is nobody's promise.
            let (mut found, mut expected) = (found(), expected.to_vec());
            found.sort();
            expected.sort_unstable();
            assert_eq!(found, expected);
        };
        let say = async |verdict: Verdict| {
            for _ in 0..2 {
                world.clock.advance(MINUTE);
                let started = world.clock.now();
                world.services.apply(Observation { key, version: 1, verdict, started }).await.unwrap();
            }
        };
        world.clock.advance(HOUR - world.clock.now().0 % HOUR);
        say(Verdict::Rejected).await;
        subjects(&["Key rejected"]).await;
        let letter = letters.lock().unwrap()[0].clone();
        for part in
            ["To: root@acme.example", "Anthropic rejected the key shared.", "/platform/shared-keys/shared"]
        {
            assert!(letter.contains(part), "{part} is not in\n{letter}");
        }
        say(Verdict::Works).await;
        subjects(&["Key rejected", "Resumed"]).await;
        // A key that comes and goes is worth one letter of a kind in an hour.
        say(Verdict::Rejected).await;
        say(Verdict::Works).await;
        let news = world.services.status(&world.super_admin()).await.unwrap().news;
        assert_eq!(news.len(), 2, "what was told of again is on top, not there twice");
        world.clock.advance(91 * DAY);
        for _ in 0..2 {
            world.services.tell_of_age().await.unwrap();
        }
        let news = world.services.status(&world.super_admin()).await.unwrap().news;
        assert_eq!(news.iter().filter(|one| one.kind == NoticeKind::RotationDue).count(), 1);
        say(Verdict::Rejected).await;
        subjects(&["Key rejected", "Resumed", "Rotation due", "Key rejected"]).await;
        let letters = letters.lock().unwrap().join("\n");
        assert!(letters.contains("/platform/shared-keys/shared/rotate") && !letters.contains("support@"));
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_in_use_for_long_is_told_of_once() {
    let world = World::new(On::Sqlite).await;
    let tenant = world.tenant("acme", UsageMode::Byok).await;
    world.user("ada@acme.example", "correct horse battery", None, Some((tenant.id, TenantRole::Admin))).await;
    world.add_key(&tenant, "main", &test_key("ok")).await.unwrap();
    let told = async || {
        world.services.tell_of_age().await.unwrap();
        let (actor, scope) = (world.admin(&tenant), holder(&tenant).scope);
        world.services.notifications(&actor, &scope, &tenant).await.unwrap()
    };
    world.clock.advance(90 * DAY - MINUTE);
    assert!(told().await.is_empty());
    world.clock.advance(2 * MINUTE);
    let news = told().await;
    assert_eq!(news.len(), 1);
    assert_eq!(news[0].text, "The key main has been in use for 90 days. Paste a new one and retire it.");
    assert_eq!(told().await.len(), 1);
    // Rotated, it is young again, and told of anew when it is old.
    world.rotate(&world.admin(&tenant), holder(&tenant), "main", &test_key("ok")).await.unwrap();
    assert_eq!(told().await.len(), 1);
    world.clock.advance(91 * DAY);
    assert_eq!(told().await.len(), 2);
    // The tenant has its own limit, or none.
    let set = async |days| {
        let (actor, scope) = (world.admin(&tenant), holder(&tenant).scope);
        world.services.set_rotation_days(&actor, &scope, &tenant, days).await
    };
    assert!(set(7).await.is_err());
    set(0).await.unwrap();
    world.rotate(&world.admin(&tenant), holder(&tenant), "main", &test_key("ok")).await.unwrap();
    world.clock.advance(400 * DAY);
    assert_eq!(told().await.len(), 2);
    set(365).await.unwrap();
    assert_eq!(told().await.len(), 3);
    // Without a mail server nothing lies about for mailboxes.
    world.services.deliver_due().await.unwrap();
    assert!(log(&world, &tenant).await.is_empty());
    world.end().await;
}

/// A mail server that takes the connection and says nothing holds up its own letter, and no other's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_mail_server_does_not_stop_deliveries() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mail = mail_to(format!("smtp://{}", silent.local_addr().unwrap()));
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = silent.accept().await {
            kept.push(stream);
        }
    });
    let world = World::with(On::Sqlite, Setup { mail, ..Setup::default() }).await;
    let tenant = world.tenant("acme", UsageMode::Byok).await;
    world.user("ada@acme.example", "correct horse battery", None, Some((tenant.id, TenantRole::Admin))).await;
    tell(&world, &tenant).await;
    let limit = Duration::from_mins(1);
    let failed = tokio::time::timeout(limit, async {
        loop {
            world.services.deliver_due().await.unwrap();
            if let Some(tried) = log(&world, &tenant).await.into_iter().find(|one| one.attempts == 1) {
                return tried;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("the job goes on");
    assert_eq!(
        (failed.state, failed.outcome.as_str()),
        (DeliveryState::Waiting, "The mail server did not answer in time")
    );
    world.end().await;
}
