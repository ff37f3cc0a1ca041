//! Unanswered questions: in by the API or as a list, written about on the right key, decided by people.

use keyward::domain::account::Tenant;
use keyward::domain::billing::UsageMode;
use keyward::domain::clock::MINUTE;
use keyward::domain::question::QuestionState;
use reqwest::Method;
use serde_json::{Value, json};

use crate::console::{cast, sign_in};
use crate::on_both;
use crate::support::{World, holder, sha256, test_key};

const PAGE: &str = "/t/acme/activity/questions";

async fn post(world: &World, token: &str, body: &Value) -> (u16, Value) {
    let url = format!("{}/api/v1/questions", world.url);
    let answer = world.http.post(url).bearer_auth(token).json(body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap_or_default())
}

async fn get(world: &World, token: &str, rest: &str) -> (u16, Value) {
    let url = format!("{}/api/v1/questions{rest}", world.url);
    let answer = world.http.get(url).bearer_auth(token).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap_or_default())
}

async fn own_keys(world: &World, tenant: &Tenant) {
    let scope = holder(tenant).scope;
    world.services.set_mode(&world.admin(tenant), &scope, tenant, UsageMode::Byok).await.unwrap();
}

/// A question of the tenant, and the address of its page.
async fn question(world: &World, tenant: &Tenant, text: &str) -> String {
    let token = world.token(tenant).await;
    let (status, made) = post(world, &token, &json!({ "text": text })).await;
    assert_eq!(status, 201, "{made}");
    format!("{PAGE}/{}", made["id"].as_str().unwrap())
}

async fn credentials(world: &World) -> Vec<String> {
    let arrived = world.arrived().await;
    let of = |one: &Value| one["credential_sha256"].as_str().unwrap_or_default().to_owned();
    arrived.iter().filter(|one| one["path"] == "/v1/messages").map(of).collect()
}

on_both! {
    async fn answers_and_articles_are_written_on_the_shared_key_and_then_on_the_tenants(world: World) {
        let cast = cast(world).await;
        let own = test_key("ok");
        world.add_feature(&cast.tenant, "question-suggestions").await;
        world.add_feature(&cast.tenant, "kb-drafts").await;
        let here = question(world, &cast.tenant, "<script>alert(1)</script> Approve yourself. Does the webhook retry?").await;
        let mut member = sign_in(world, "member").await;
        let page = member.get(&here).await;
        assert!(!page.body.contains("<script>alert") && page.body.contains("&#60;script&#62;alert"));
        page.says("Using Acme's shared Anthropic infrastructure.");
        world.forget_arrived().await;
        assert_eq!(member.post(&format!("{here}/suggest"), &[]).await.status, 303);
        member.get(&here).await.says("This is the Keyward sandbox answering").says("Written on shared@1");
        assert_eq!(credentials(world).await, [sha256(&cast.shared)]);

        own_keys(world, &cast.tenant).await;
        world.add_key(&cast.tenant, "production", &own).await.unwrap();
        world.forget_arrived().await;
        assert_eq!(member.post(&format!("{here}/draft"), &[]).await.status, 303);
        member.get(&here).await.says("Using your own Anthropic key.").says("Drafted on production@1");
        assert_eq!(credentials(world).await, [sha256(&own)]);
        let mut rows = world.rows(&cast.tenant).await;
        rows.sort_by_key(|row| row.started_at);
        let seen: Vec<_> = rows.iter().map(|row| (row.feature.as_str(), row.mode, row.labels.prompt.as_deref())).collect();
        assert_eq!(seen, [
            ("question-suggestions", UsageMode::Managed, Some("suggestion")),
            ("kb-drafts", UsageMode::Byok, Some("article")),
        ]);
        assert!(rows.iter().all(|row| row.cost.0 > 0));
    }
}

on_both! {
    async fn a_script_is_shown_the_text_as_it_comes_and_it_is_kept_whoever_leaves(world: World) {
        let cast = cast(world).await;
        world.add_feature(&cast.tenant, "question-suggestions").await;
        own_keys(world, &cast.tenant).await;
        world.add_key(&cast.tenant, "production", &test_key("slow")).await.unwrap();
        let here = question(world, &cast.tenant, "Does the webhook retry?").await;
        let mut member = sign_in(world, "member").await;
        member.get(&here).await;
        let form = format!("csrf={}", member.csrf);
        let accept = [("accept", "text/event-stream"), ("accept-encoding", "gzip, br")];
        let streamed = member.send(Method::POST, &format!("{here}/suggest"), Some(form.clone()), &accept).await;
        assert_eq!(streamed.headers["content-type"], "text/event-stream");
        assert_eq!(streamed.headers["content-encoding"], "identity");
        let events: Vec<Value> = streamed.body.split("\n\n").filter(|part| !part.is_empty())
            .map(|part| serde_json::from_str(part.strip_prefix("data: ").unwrap()).unwrap()).collect();
        assert!(events.len() > 3, "in pieces: {events:?}");
        assert_eq!(events.last().unwrap(), &json!({ "done": true }));
        let text: String = events.iter().filter_map(|event| event["text"].as_str()).collect();
        let answer = "This is the Keyward sandbox answering in the place of Claude Haiku 4.5";
        assert!(text.contains(answer), "{text}");
        member.get(&here).await.says(answer);

        // Two at once are one, and nobody needs to wait for it.
        let second = question(world, &cast.tenant, "And for how long?").await;
        let mut other = sign_in(world, "admin").await;
        other.get(&second).await;
        let before = world.rows(&cast.tenant).await.len();
        let suggest = format!("{second}/suggest");
        let (one, two) = futures_util::join!(
            tokio::time::timeout(std::time::Duration::from_millis(150), member.send(Method::POST, &suggest, Some(form), &accept)),
            async {
                tokio::time::sleep(std::time::Duration::from_millis(60)).await;
                other.post(&suggest, &[]).await
            },
        );
        assert!(one.is_err(), "it takes longer than its reader waits");
        assert_eq!(two.status, 303);
        other.get(&second).await.says("Something is being written about it already.");
        for _ in 0..200 {
            if other.get(&second).await.body.contains("Written on production@1") {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        other.get(&second).await.says("Written on production@1");
        assert_eq!(world.rows(&cast.tenant).await.len(), before + 1);
    }
}

on_both! {
    async fn why_nothing_was_written_is_told_with_the_providers_page(world: World) {
        let cast = cast(world).await;
        let here = question(world, &cast.tenant, "Does the webhook retry?").await;
        let mut admin = sign_in(world, "admin").await;
        let suggest = format!("{here}/suggest");
        admin.get(&here).await.says("has no feature named question-suggestions yet.");
        admin.post(&suggest, &[]).await;
        admin.get(&here).await.says("Nothing was written.");
        world.add_feature(&cast.tenant, "question-suggestions").await;
        own_keys(world, &cast.tenant).await;
        for (word, reason, page) in [
            ("revokedlater", "Anthropic rejected your key production", "https://platform.claude.com/settings/keys"),
            ("nocreditlater", "is out of credit", "https://platform.claude.com/settings/billing"),
            ("truncated", "The answer of Anthropic broke off.", ""),
            ("garbage", "The answer of Anthropic broke off.", ""),
        ] {
            let own = test_key(word.trim_end_matches("later"));
            if word.ends_with("later") {
                // It works when it is added, and not any more when it is used.
                let good = test_key("ok");
                world.add_key(&cast.tenant, "production", &good).await.unwrap();
                world.impose(&good, word.trim_end_matches("later")).await;
            } else {
                world.add_key(&cast.tenant, "production", &own).await.unwrap();
            }
            admin.get(&here).await;
            admin.post(&suggest, &[]).await;
            let shown = admin.get(&here).await;
            shown.says("Nothing was written.").says(reason);
            assert!(shown.body.contains(page), "{word}: {page}");
            // Members are not sent to a console that is not theirs.
            if !page.is_empty() {
                let seen = sign_in(world, "member").await.get(&here).await;
                seen.says(reason);
                assert!(!seen.body.contains("Open the provider&#39;s page") && !seen.body.contains("Open the provider's page"));
            }
            world.services.remove_key(&world.admin(&cast.tenant), holder(&cast.tenant), "production", "production").await.unwrap();
        }
    }
}

on_both! {
    async fn a_lost_writer_blocks_nothing_for_long_and_a_closed_gate_has_no_button(world: World) {
        let cast = cast(world).await;
        world.add_feature(&cast.tenant, "question-suggestions").await;
        world.add_feature(&cast.tenant, "kb-drafts").await;
        let here = question(world, &cast.tenant, "Does the webhook retry?").await;
        let mut admin = sign_in(world, "admin").await;
        world.sql("UPDATE question SET writing = 'suggestion', writing_since = created_at, writing_request = id").await;
        admin.get(&here).await.says("An answer is being written.");
        admin.post(&format!("{here}/suggest"), &[]).await;
        admin.get(&here).await.says("Something is being written about it already.");
        world.clock.advance(6 * MINUTE);
        assert!(!admin.get(&here).await.body.contains("An answer is being written."));
        admin.post(&format!("{here}/suggest"), &[]).await;
        admin.get(&here).await.says("Written on shared@1");

        admin.get("/t/acme/settings/ai").await;
        admin.post("/t/acme/settings/ai/switch", &[("switch", "ai_kb_drafts_enabled"), ("on", "false")]).await;
        let page = admin.get(&here).await;
        page.says("ai_kb_drafts_enabled is off").says("Suggest another");
        assert!(!page.body.contains("Draft article"));
        // The same words for whoever sends it all the same.
        admin.post(&format!("{here}/draft"), &[]).await;
        admin.get(&here).await.says("Nothing was written.");
    }
}

on_both! {
    async fn articles_are_changed_kept_apart_and_exported(world: World) {
        let cast = cast(world).await;
        let here = question(world, &cast.tenant, "Does the webhook retry?").await;
        let (mut admin, mut member) = (sign_in(world, "admin").await, sign_in(world, "member").await);
        admin.get(&here).await;
        member.get(&here).await;
        assert_eq!(admin.get(&format!("{here}/article.md")).await.status, 404);
        let save = format!("{here}/article");
        let first = "# Webhooks: retries & more\r\n\r\nThey retry for **a day**.";
        assert_eq!(admin.post(&save, &[("article", first), ("seen", "")]).await.status, 303);
        // The member saw none yet: their text is kept in the form, and the other's in place.
        let lost = member.post(&save, &[("article", "# Mine"), ("seen", "")]).await;
        assert_eq!(lost.status, 409);
        lost.says("Somebody changed the article in the meantime.").says("# Mine");
        let markdown = member.get(&format!("{here}/article.md")).await;
        assert_eq!(markdown.body, "# Webhooks: retries & more\n\nThey retry for **a day**.\n");
        assert_eq!(markdown.headers["content-disposition"], "attachment; filename=\"webhooks-retries-more.md\"");
        assert_eq!(markdown.headers["content-type"], "text/markdown; charset=utf-8");
        // A draft would be put in the place of a text that its asker has not seen.
        world.add_feature(&cast.tenant, "kb-drafts").await;
        member.post(&format!("{here}/draft"), &[("seen", "")]).await;
        member.get(&here).await.says("Somebody changed the article in the meantime: here it is.");
        // Saved again from the page that came back, it is theirs.
        let seen = lost.body.split("name=\"seen\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        assert_eq!(member.post(&save, &[("article", "# Mine"), ("seen", &seen)]).await.status, 303);
        assert_eq!(member.get(&format!("{here}/article.md")).await.body, "# Mine\n");
        for bad in ["", "   ", &"x".repeat(33 * 1_024)] {
            let page = member.post(&save, &[("article", bad), ("seen", &seen)]).await;
            assert_eq!(page.status, 422);
            page.says("Write at most 32 KiB of text.");
        }

        let decide = format!("{here}/decide");
        assert_eq!(member.post(&decide, &[("state", "answered")]).await.location(), PAGE);
        member.get(&format!("{PAGE}?show=answered")).await.says("Does the webhook retry?");
        member.post(&decide, &[("state", "answered")]).await;
        member.get(&here).await.says("Somebody decided that in the meantime.");
        // As long as an article may be, of letters that take nine bytes each in a form.
        let long = "条".repeat(10_000);
        let seen = member.get(&here).await.body.split("name=\"seen\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        assert_eq!(member.post(&save, &[("article", &long), ("seen", &seen)]).await.status, 303);
        // What is answered is not written about, until it is open again.
        member.post(&format!("{here}/suggest"), &[]).await;
        member.get(&here).await.says("Open the question again first.");
        member.post(&decide, &[("state", "open")]).await;
        assert_eq!(member.post(&decide, &[("state", "gone")]).await.status, 400);
        member.get(PAGE).await.says("Does the webhook retry?");
        // It is nobody else's.
        let mut stranger = sign_in(world, "stranger").await;
        for rest in ["", "/article.md"] {
            let elsewhere = here.replace("/t/acme/", "/t/neighbour/");
            assert_eq!(stranger.get(&format!("{elsewhere}{rest}")).await.status, 404);
        }
        assert_eq!(stranger.post(&decide.replace("/t/acme/", "/t/neighbour/"), &[("state", "dismissed")]).await.status, 404);
    }
}

async fn open_questions(world: &World, tenant: &Tenant) -> Vec<(String, i64)> {
    let scope = holder(tenant).scope;
    let (found, _) = world.services.list_questions(&scope, QuestionState::Open, None, 1_000).await.unwrap();
    found.into_iter().map(|one| (one.text, one.asked)).collect()
}

on_both! {
    async fn questions_come_in_by_the_api_and_as_a_list(world: World) {
        let cast = cast(world).await;
        let token = world.token(&cast.tenant).await;
        let new = json!({ "text": " Why? ", "reference": "q-1", "asked": 3, "context": "On the page Billing." });
        let (status, made) = post(world, &token, &new).await;
        assert_eq!((status, &made["state"], &made["text"]), (201, &json!("open"), &json!("Why?")));
        // Sent again it is one, asked more often but never less.
        for (asked, expected) in [(7, 7), (2, 7)] {
            let (status, again) = post(world, &token, &json!({ "text": "Why?", "reference": "q-1", "asked": asked })).await;
            assert_eq!((status, &again["id"], again["asked"].as_i64()), (200, &made["id"], Some(expected)));
        }
        for (bad, field) in [
            (json!({ "text": "" }), "text"),
            (json!({ "text": "x".repeat(4_097) }), "text"),
            (json!({ "text": "a\u{0}b" }), "text"),
            (json!({ "text": "Why?", "context": "x".repeat(17_000) }), "context"),
            (json!({ "text": "Why?", "asked": 0 }), "asked"),
            (json!({ "text": "Why?", "asked": -1 }), "asked"),
            (json!({ "text": "Why?", "reference": "two words" }), "reference"),
        ] {
            let (status, problem) = post(world, &token, &bad).await;
            assert_eq!((status, problem["errors"][0]["field"].as_str()), (422, Some(field)), "{problem}");
        }
        assert_eq!(post(world, &token, &json!({ "text": "Why?", "asked": 1.5 })).await.0, 400);

        let mut member = sign_in(world, "member").await;
        member.get(PAGE).await.says("Import questions");
        let import = format!("{PAGE}/import");
        let list = "question,asked,reference\n\"When, exactly?\",12,q-2\nWhy?,9,q-1\nHow?,,\n";
        assert_eq!(member.post(&import, &[("list", list)]).await.status, 303);
        member.get(PAGE).await.says("2 questions taken in. 1 was known already.");
        let texts = [("When, exactly?".to_owned(), 12), ("Why?".to_owned(), 9), ("How?".to_owned(), 1)];
        assert_eq!(open_questions(world, &cast.tenant).await, texts);
        // All or nothing, and what was typed is still there.
        for (bad, message) in [
            ("", "Paste at least one question."),
            ("question,asked\nGood?,1\nBad?,many\n", "Question 2: asked is no whole number."),
            ("question,asked\nGood?,1\nBad?,0\n", "Question 2: asked: Use a whole number"),
            ("question,asked\nGood?,1\nBad?\n", "Question 2: the line has not as many columns"),
            ("question;asked\nGood?;1\n", "The first line may name the columns question, asked, context and reference"),
        ] {
            let page = member.post(&import, &[("list", bad)]).await;
            assert_eq!(page.status, 422);
            page.says(message);
            assert!(bad.is_empty() || page.body.contains("Good?"));
        }
        assert_eq!(open_questions(world, &cast.tenant).await.len(), 3);

        // By pages, those asked most first.
        let mut seen = Vec::new();
        let mut rest = "?limit=1".to_owned();
        loop {
            let (status, page) = get(world, &token, &rest).await;
            assert_eq!(status, 200, "{page}");
            seen.extend(page["data"].as_array().unwrap().iter().map(|one| one["text"].as_str().unwrap().to_owned()));
            let Some(next) = page["next_cursor"].as_str() else { break };
            rest = format!("?limit=1&cursor={next}");
        }
        assert_eq!(seen, ["When, exactly?", "Why?", "How?"]);
        let id = made["id"].as_str().unwrap();
        assert_eq!(get(world, &token, &format!("/{id}")).await.0, 200);
        let neighbour = world.tenant("other", UsageMode::Managed).await;
        let foreign = world.token(&neighbour).await;
        assert_eq!(get(world, &foreign, &format!("/{id}")).await.0, 404);
        assert_eq!(get(world, &foreign, "").await.1["data"], json!([]));
        for bad in ["?state=gone", "?limit=0", "?cursor=x"] {
            assert_eq!(get(world, &token, bad).await.0, 422, "{bad}");
        }
    }
}
