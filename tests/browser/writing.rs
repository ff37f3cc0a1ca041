//! What AI writes for people: drafts that wait for approval, and answers and articles about questions.

use keyward::services::generations::NewGeneration;
use keyward::services::questions::NewQuestion;

use crate::browser::{DESKTOP, Look};
use crate::journeys::{PASSWORD, open, press_in, world};
use crate::support::{sha256, test_key};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draft_is_written_changed_and_approved() {
    let (world, tenant) = world().await;
    world.add_community_manager(&tenant).await;
    let queue = async |kind: &str, text: &str| {
        let (kind, text) = (kind.to_owned(), text.to_owned());
        let new = NewGeneration { kind, reference: None, title: "Rye".into(), text };
        world.services.queue_generation(tenant.id, new).await.unwrap();
    };
    queue("greeting", "<img src=x onerror=alert(1)> Hello from the bakery").await;
    queue("summary", &"A long thread. ".repeat(2_000)).await;
    let browser = open(&world, DESKTOP).await;
    browser.sign_in("member@northwind.example", PASSWORD).await;
    browser.press("Community manager").await;
    let waiting = async |number: usize| {
        for _ in 0..100 {
            browser.go("/t/northwind/activity/community-manager").await;
            let found = browser.run("return document.querySelectorAll('textarea').length").await;
            if found == serde_json::json!(number) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("never {number} drafts");
    };
    waiting(2).await;
    browser.check_page("Community manager").await;
    let script =
        "const box = [...document.querySelectorAll('textarea')].pop(); box.value = 'Welcome to the bakery.';";
    browser.run(script).await;
    browser.run("[...document.querySelectorAll('button')].filter(b => b.innerText.startsWith('Approve')).pop().click()").await;
    browser.sees("Approved. Your product can take it from the API now.").await;
    waiting(1).await;
    browser
        .run("[...document.querySelectorAll('button')].find(b => b.innerText.startsWith('Reject')).click()")
        .await;
    browser.sees("Rejected.").await;
    browser.go("/t/northwind/activity/community-manager?show=decided").await;
    browser.sees("Welcome to the bakery.").await;
    browser.check_page("Community manager, decided").await;
    browser.close().await;

    let narrow = open(&world, Look { width: 360, dark: true, ..DESKTOP }).await;
    queue("reply", "One more").await;
    narrow.sign_in("admin@northwind.example", PASSWORD).await;
    narrow.go("/t/northwind/settings/ai").await;
    press_in(&narrow, "ai_community_manager_enabled", "Switch off").await;
    narrow.sees("ai_community_manager_enabled is off").await;
    narrow.go("/t/northwind/activity/community-manager").await;
    narrow.sees("Nothing is written now").await;
    narrow.sees("Last 30 days").await;
    narrow.check_page("Community manager, closed, 360").await;
    narrow.close().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_suggested_on_the_shared_key_and_an_article_drafted_on_the_tenants() {
    let (world, tenant) = world().await;
    world.add_feature(&tenant, "question-suggestions").await;
    world.add_feature(&tenant, "kb-drafts").await;
    let text = "<img src=x onerror=alert(1)> Does the webhook retry?".to_owned();
    let new = NewQuestion { text, asked: 17, ..NewQuestion::default() };
    let kept = world.services.add_questions(tenant.id, vec![new]).await.unwrap();
    let here = format!("/t/northwind/activity/questions/{}", kept[0].0.id);
    let browser = open(&world, DESKTOP).await;
    browser.sign_in("admin@northwind.example", PASSWORD).await;
    browser.press("Unanswered questions").await;
    browser.sees("Does the webhook retry?").await;
    browser.check_page("Unanswered questions").await;
    world.forget_arrived().await;
    browser.go(&here).await;
    browser.sees("Using Acme's shared Anthropic infrastructure.").await;
    browser.press("Suggest answer").await;
    browser.sees("Written on shared@1").await;
    browser.sees("This is the Keyward sandbox answering").await;
    browser.check_page("A question with a suggestion").await;
    let on_shared = world.arrived().await;
    assert_eq!(on_shared.len(), 1);

    // From now on it runs on the tenant's own key.
    let own = test_key("ok");
    world.add_key(&tenant, "production", &own).await.unwrap();
    let scope = crate::support::holder(&tenant).scope;
    let mode = keyward::domain::billing::UsageMode::Byok;
    world.services.set_mode(&world.admin(&tenant), &scope, &tenant, mode).await.unwrap();
    world.forget_arrived().await;
    browser.go(&here).await;
    browser.sees("Using your own Anthropic key.").await;
    browser.press("Draft article").await;
    browser.sees("Drafted on production@1").await;
    let on_own = world.arrived().await;
    assert_eq!(on_own.len(), 1);
    assert_eq!(on_own[0]["credential_sha256"], sha256(&own).as_str());
    assert_ne!(on_shared[0]["credential_sha256"], on_own[0]["credential_sha256"]);
    browser.run("document.querySelector('#article').value = '# Webhooks'").await;
    browser.press("Save article").await;
    browser.sees("Article saved.").await;
    browser.press("Suggest another").await;
    browser.sees("Written on production@1").await;
    browser.press("Mark as answered").await;
    browser.sees("Marked as answered.").await;
    browser.close().await;

    // Without a script the same, at once; and on a narrow screen in the dark.
    let plain = open(&world, Look { scripts: false, ..DESKTOP }).await;
    plain.sign_in("admin@northwind.example", PASSWORD).await;
    plain.go(&here).await;
    plain.press("Open again").await;
    plain.sees("It is open again.").await;
    plain.press("Draft again").await;
    plain.sees("Here is a draft.").await;
    plain.close().await;
    let narrow = open(&world, Look { width: 360, dark: true, ..DESKTOP }).await;
    narrow.sign_in("member@northwind.example", PASSWORD).await;
    narrow.go(&here).await;
    narrow.sees("Written on production@1").await;
    narrow.check_page("A question, 360").await;
    narrow.go("/t/northwind/activity/questions").await;
    narrow.check_page("Unanswered questions, 360").await;
    narrow.close().await;
    world.end().await;
}
