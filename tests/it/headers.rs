//! What answers carry beside their bodies: cookies, the demand for https, and encodings.

use std::collections::BTreeSet;

use keyward::domain::billing::UsageMode;
use serde_json::json;

use crate::console::PASSWORD;
use crate::process::Process;
use crate::support::{On, World, message, test_key};
use crate::visitor::{Page, Visitor};

const EMAIL: &str = "ada@acme.example";
const HSTS: &str = "strict-transport-security";

/// The pages of a sign-in: its form, the answer to it, a page of one's own, one that is not there, and a
/// style sheet.
async fn signing_in(url: &str) -> [Page; 5] {
    let mut visitor = Visitor::new(url);
    let form = visitor.get("/sign-in").await;
    let entered = visitor.post("/sign-in", &[("email", EMAIL), ("password", PASSWORD)]).await;
    assert_eq!(entered.status, 303, "{}", entered.body);
    let own = visitor.get("/account").await;
    assert_eq!(own.status, 200);
    let nothing = visitor.get("/nothing").await;
    let sheet = visitor.get(style_sheet(&form)).await;
    assert_eq!(sheet.status, 200);
    [form, entered, own, nothing, sheet]
}

fn style_sheet(page: &Page) -> &str {
    page.body.split('"').find(|part| part.ends_with("/css/keyward.css")).expect("a style sheet")
}

/// What an answer says of a cookie that it sets, but for its value.
fn attributes(page: &Page, name: &str) -> BTreeSet<String> {
    let set: Vec<&str> =
        page.headers.get_all("set-cookie").iter().map(|cookie| cookie.to_str().unwrap()).collect();
    let cookie = set.iter().find(|cookie| cookie.starts_with(&format!("{name}=")));
    let cookie = cookie.unwrap_or_else(|| panic!("no cookie {name}: {set:?}"));
    cookie.split("; ").skip(1).map(str::to_owned).collect()
}

/// Those that every cookie has, and these.
fn with(more: &[&str]) -> BTreeSet<String> {
    ["HttpOnly", "SameSite=Lax", "Path=/"].iter().chain(more).map(|&attribute| attribute.to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_by_https_is_held_to_it() {
    let mut world = World::new(On::Sqlite).await;
    world.user(EMAIL, PASSWORD, None, None).await;
    let days = "Max-Age=34560000";
    let pages = signing_in(&world.url).await;
    assert_eq!(attributes(&pages[0], "keyward-device"), with(&[days]));
    assert_eq!(attributes(&pages[1], "keyward"), with(&[]), "it ends with the browser");
    assert!(pages.iter().all(|page| !page.headers.contains_key(HSTS)), "there is nothing to hold them to");

    // A proxy in front of the process takes the encryption off.
    world.stop().await;
    let process = Process::serve_with(&world, |command| {
        command.env("KEYWARD_PUBLIC_URL", "https://keyward.example");
    })
    .await;
    let pages = signing_in(&world.url).await;
    assert_eq!(attributes(&pages[0], "__Host-keyward-device"), with(&["Secure", days]));
    assert_eq!(attributes(&pages[1], "__Host-keyward"), with(&["Secure"]));
    for page in &pages {
        let demand = page.headers.get(HSTS).map(|value| value.to_str().unwrap());
        assert!(demand.is_some_and(|demand| demand.starts_with("max-age=31536000")), "{}", page.body);
    }
    process.stop().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_compressed_and_what_providers_say_is_not() {
    let world = World::new(On::Sqlite).await;
    let encoding = |answer: &reqwest::Response| {
        answer.headers().get("content-encoding").map(|value| value.to_str().unwrap().to_owned())
    };
    let form = Visitor::new(&world.url).get("/sign-in").await;
    for path in ["/sign-in", style_sheet(&form)] {
        let ask = || world.http.get(format!("{}{path}", world.url));
        let plain = ask().send().await.unwrap();
        assert_eq!((plain.status().as_u16(), encoding(&plain)), (200, None), "{path}");
        let length = plain.bytes().await.unwrap().len();
        for wanted in ["gzip", "br"] {
            let answer = ask().header("accept-encoding", wanted).send().await.unwrap();
            assert_eq!(encoding(&answer).as_deref(), Some(wanted), "{path}");
            assert!(answer.bytes().await.unwrap().len() < length, "{path} by {wanted}");
        }
    }

    let tenant = world.tenant("acme", UsageMode::Byok).await;
    world.add_key(&tenant, "production", &test_key("ok")).await.unwrap();
    let token = world.token(&tenant).await;
    world.forget_arrived().await;
    for (stream, token, status, said) in [
        (false, token.as_str(), 200, "\"usage\""),
        (true, token.as_str(), 200, "event: message_stop"),
        (false, "kwt_nonsense", 401, "keyward_token_invalid"),
    ] {
        let mut body = message("claude-haiku-4-5", 64);
        body["stream"] = json!(stream);
        let call = world.send(token, &body).header("accept-encoding", "gzip, br");
        let answer = call.send().await.unwrap();
        assert_eq!((answer.status().as_u16(), encoding(&answer)), (status, None));
        let text = answer.text().await.unwrap();
        assert!(text.contains(said), "{text}");
    }
    // Nor is a provider asked to compress, whatever the client takes.
    let arrived = world.arrived().await;
    assert_eq!(arrived.len(), 2, "{arrived:?}");
    assert!(arrived.iter().all(|call| call["headers"]["accept-encoding"] == "identity"), "{arrived:?}");
    world.end().await;
}
