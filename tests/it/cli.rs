//! The commands, as an operator runs them.

use std::io::{BufRead, BufReader, Lines, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use keyward::domain::clock::{Clock, MINUTE, Moment};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use crate::support::{message, port_to_come_back_to, sha256};

fn keyward(dir: &Path, args: &[&str]) -> Output {
    command(dir).args(args).output().expect("the command runs")
}

fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyward"));
    command.env_clear().env("KEYWARD_DATA_DIR", dir).env("KEYWARD_BIND", "127.0.0.1:0");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_first_start_makes_what_it_needs_and_a_wrong_keyring_stops_it() {
    let dir = tempfile::tempdir().unwrap();
    let made = keyward(dir.path(), &["user", "create", "root@acme.example", "--role", "super_admin"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    assert!(text(&made.stdout).contains("/setup/"), "{}", text(&made.stdout));
    let keys = dir.path().join("master-keys");
    assert!(keys.exists());
    let status = keyward(dir.path(), &["master-key", "status"]);
    assert!(text(&status.stdout).contains("It opens this database."), "{}", text(&status.stderr));

    // Another keyring in its place.
    let aside = dir.path().join("aside");
    std::fs::rename(&keys, &aside).unwrap();
    let missing = keyward(dir.path(), &["user", "reset-password", "root@acme.example"]);
    assert!(!missing.status.success());
    assert!(text(&missing.stderr).contains("there is none at"), "{}", text(&missing.stderr));
    assert!(!keys.exists(), "no new keyring is written for a database that has one");
    assert!(keyward(dir.path(), &["master-key", "generate"]).status.success());
    for args in [
        &["serve"][..],
        &["user", "reset-password", "root@acme.example"],
        &["master-key", "status"],
        &["doctor"],
    ] {
        let wrong = keyward(dir.path(), args);
        assert!(!wrong.status.success(), "{args:?}");
    }
    let serve = keyward(dir.path(), &["serve"]);
    assert!(text(&serve.stderr).contains("does not open this database"), "{}", text(&serve.stderr));
    std::fs::remove_file(&keys).unwrap();
    std::fs::rename(&aside, &keys).unwrap();
    assert!(keyward(dir.path(), &["user", "reset-password", "root@acme.example"]).status.success());
    let again = keyward(dir.path(), &["master-key", "generate"]);
    assert!(!again.status.success(), "an existing keyring is left alone");
}

#[test]
fn mistakes_on_the_command_line_are_told_in_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    for (args, told) in [
        (&["user", "create", "nonsense", "--role", "support"][..], "is not an e-mail address"),
        (&["user", "create", "a@b.example", "--role", "admin"], "add --tenant"),
        (&["user", "create", "a@b.example", "--role", "king"], "--role is super_admin or support"),
        (
            &["user", "create", "a@b.example", "--role", "admin", "--tenant", "none"],
            "there is no tenant none",
        ),
        (&["user", "disable", "a@b.example"], "there is no such user"),
        (&["token", "create", "--name", "x", "--tenant", "none"], "there is no tenant none"),
        (&["serve", "--public-url", "ftp://x"], "KEYWARD_PUBLIC_URL"),
        (&["serve", "--database-url", "mysql://x"], "neither sqlite: nor postgres:"),
    ] {
        let output = keyward(dir.path(), args);
        assert!(!output.status.success(), "{args:?}");
        let stderr = text(&output.stderr);
        assert!(stderr.contains(told), "{args:?}: {stderr}");
    }
}

#[test]
fn tokens_come_on_standard_output_alone() {
    let dir = tempfile::tempdir().unwrap();
    let made = keyward(dir.path(), &["token", "create", "--service", "--name", "Backend"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let token = text(&made.stdout).trim().to_owned();
    assert!(token.starts_with("kws_") && token.len() == 53, "{token}");
}

#[test]
fn a_first_serve_prints_the_set_up_link_and_stops_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut child =
        command(dir.path()).arg("serve").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let link = lines.by_ref().map(Result::unwrap).find(|line| line.contains("/setup/"));
    assert!(link.is_some());
    let up = lines.by_ref().map(Result::unwrap).find(|line| line.starts_with("Keyward listens on"));
    assert!(up.is_some());
    let stopped = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(stopped.success());
    assert!(child.wait().unwrap().success());
}

#[test]
fn doctor_tells_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let output =
        command(dir.path()).args(["doctor", "--anthropic-url", "http://127.0.0.1:9"]).output().unwrap();
    assert!(!output.status.success());
    let told = text(&output.stdout);
    assert!(told.contains("ok    settings"), "{told}");
    assert!(told.contains("FAIL  database: there is no database yet"), "{told}");
    assert!(told.contains("FAIL  anthropic: the provider could not be reached"), "{told}");
}

/// A demo that runs. It never outlives the test.
struct Demo {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    card: Value,
}

impl Demo {
    /// Starts one on a folder, and waits for its card.
    fn start(folder: &Path, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_keyward"))
            .args(["demo", "--data-dir"])
            .arg(folder)
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut demo = Self { child, lines, card: Value::Null };
        let line = demo.lines.by_ref().map(Result::unwrap).find(|line| line.starts_with('{'));
        demo.card = serde_json::from_str(&line.expect("the JSON line")).unwrap();
        demo
    }

    /// Asks it to stop, and waits until it has. Gives what it printed after its card.
    fn stop(mut self) -> Vec<String> {
        let stopped = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(stopped.success());
        let rest = self.lines.by_ref().map(Result::unwrap).collect();
        assert!(self.child.wait().unwrap().success());
        rest
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn client() -> reqwest::Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    reqwest::Client::builder().read_timeout(Duration::from_mins(1)).build().unwrap()
}

/// What arrived at a demo's sandbox, newest first.
async fn arrived(http: &reqwest::Client, card: &Value) -> Vec<Value> {
    let url = format!("{}/sandbox/requests?limit=1000", card["sandbox_url"].as_str().unwrap());
    let answer: Value = http.get(url).send().await.unwrap().json().await.unwrap();
    answer["requests"].as_array().unwrap().clone()
}

/// Calls the gateway with the token of the demo's first caller. Gives the hash of the key that went out.
async fn key_of_the_first_caller(http: &reqwest::Client, card: &Value) -> String {
    let body = message("claude-haiku-4-5", 64).to_string();
    let answer = http
        .post(format!("{}/v1/messages", card["url"].as_str().unwrap()))
        .header("x-api-key", card["tokens"]["northwind"].as_str().unwrap())
        .header("anthropic-version", "2023-06-01")
        .header("content-type", "application/json")
        .body(body.clone())
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    let hash = sha256(&body);
    let requests = arrived(http, card).await;
    let sent = requests.iter().find(|request| request["body_sha256"] == hash).expect("the call");
    sent["credential_sha256"].as_str().unwrap().to_owned()
}

/// The one SQLite database in a folder.
fn database(folder: &Path) -> Connection {
    let is_one =
        |path: &PathBuf| std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"SQLite format 3\0"));
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let found: Vec<PathBuf> = entries.filter(is_one).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    Connection::open_with_flags(&found[0], OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
}

/// The settled calls of the demo's first caller from a moment on, once there are any: when they began, how
/// they went, and what they cost.
async fn first_calls(db: &Connection, from: Moment) -> Vec<(i64, String, i64)> {
    let sql =
        "SELECT usage.started_at, usage.mode || ' ' || usage.key_name || ' ' || usage.status, usage.cost
               FROM usage JOIN tenant ON tenant.id = usage.tenant_id
               WHERE tenant.slug = 'northwind' AND usage.started_at >= ?1 AND usage.state = 'final'";
    for _ in 0..200 {
        let mut statement = db.prepare(sql).unwrap();
        let rows = statement.query_map([from.0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        let found: Vec<(i64, String, i64)> = rows.unwrap().map(Result::unwrap).collect();
        if !found.is_empty() {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("the demo's first call is not on record");
}

/// The call that a demo makes by itself is on record, and the tenant's own key went out with it. Gives the
/// hash of that key.
async fn has_called(demo: &Demo, folder: &Path, launched: Moment) -> String {
    let (http, printed) = (client(), Clock::system().now());
    // Asked before anything else: the call is over when the card is there.
    let requests = arrived(&http, &demo.card).await;
    let calls = first_calls(&database(folder), launched).await;
    assert_eq!(calls.len(), 1, "{calls:?}");
    let (started, went, cost) = &calls[0];
    assert_eq!(went, "byok production 200");
    assert!(*cost > 0 && printed.since(Moment(*started)) < MINUTE, "{calls:?}");
    let key = key_of_the_first_caller(&http, &demo.card).await;
    // The key was tried before, when it was added.
    let since = |request: &Value| {
        let at = request["at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        Moment::from_timestamp(at) >= Moment(*started)
    };
    let sent: Vec<&Value> =
        requests.iter().filter(|request| request["credential_sha256"] == key && since(request)).collect();
    assert_eq!(sent.len(), 1, "{requests:?}");
    assert_eq!(sent[0]["path"], "/v1/messages");
    assert_eq!(sent[0]["status"], 200);
    key
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_calls_at_once_and_carries_on_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let launched = Clock::system().now();
    let [bind, sandbox_bind] = [(), ()].map(|()| format!("127.0.0.1:{}", port_to_come_back_to()));
    let demo = Demo::start(dir.path(), &["--bind", &bind, "--sandbox-bind", &sandbox_bind]);
    let key = has_called(&demo, dir.path(), launched).await;
    {
        let db = database(dir.path());
        let count = |sql: &str| -> i64 { db.query_row(sql, [], |row| row.get(0)).unwrap() };
        let days = count("SELECT COUNT(DISTINCT started_at / 86400000000) FROM usage");
        assert!((59..=61).contains(&days), "{days} days");
        let entries = count("SELECT COUNT(*) FROM audit_log");
        assert!(entries >= 3, "{entries} audit rows");
    }
    let first = demo.card.clone();
    assert!(demo.stop().iter().all(|line| !line.starts_with('{')), "one line is for scripts");

    assert!(first["url"].as_str().unwrap().starts_with("http://localhost:"));
    assert!(first["service_token"].as_str().unwrap().starts_with("kws_"));
    assert!(first["tokens"].as_object().unwrap().len() >= 2);
    let users = first["users"].as_array().unwrap();
    for user in users {
        for field in ["email", "password", "role"] {
            assert!(user[field].is_string(), "{user}");
        }
        let of_platform = user["role"] == "super_admin" || user["role"] == "support";
        let tenant = user.get("tenant").expect("told even where there is none");
        assert_eq!((tenant.is_null(), tenant.is_string()), (of_platform, !of_platform), "{user}");
    }
    for role in ["super_admin", "support", "admin", "billing_admin", "member"] {
        assert!(users.iter().any(|user| user["role"] == role), "nobody is {role}");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(dir.path().join("demo.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    // Told no addresses, it takes those of before; and it calls again, with the same key.
    let launched = Clock::system().now();
    let again = Demo::start(dir.path(), &[]);
    assert_eq!(again.card, first);
    assert_eq!(has_called(&again, dir.path(), launched).await, key);
    again.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_comes_up_on_the_other_loopback_address() {
    if let Err(error) = TcpListener::bind("[::1]:0") {
        // Past the capture of what tests print.
        writeln!(std::io::stderr(), "skipped: this machine has no ::1 ({error})").unwrap();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let launched = Clock::system().now();
    let demo = Demo::start(dir.path(), &["--bind", "[::1]:0", "--sandbox-bind", "127.0.0.1:0"]);
    let url = url::Url::parse(demo.card["url"].as_str().unwrap()).unwrap();
    assert_eq!(url.host_str(), Some("localhost"));
    let there = format!("http://[::1]:{}/readyz", url.port().unwrap());
    assert_eq!(client().get(there).send().await.unwrap().status(), 200);
    assert_eq!(first_calls(&database(dir.path()), launched).await.len(), 1);
    demo.stop();
}

#[test]
fn endpoint_check_names_the_rule() {
    let dir = tempfile::tempdir().unwrap();
    let hosts = dir.path().join("hosts");
    std::fs::write(&hosts, "inside.example\t93.184.215.14,10.0.0.9\nnowhere.example\t\n").unwrap();
    let check = |provider: &str, typed: &str| -> Vec<Value> {
        let mut child = command(dir.path())
            .args(["endpoint", "check", "--provider", provider, "--hosts"])
            .arg(&hosts)
            .env("KEYWARD_ALLOWED_ENDPOINTS", "http://10.1.2.3:8080")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let typed = [
        ("https://LLM.Example.com:443/v1", "accept"),
        ("http://llm.example.com/v1", "reject"),
        ("https://user:pass@llm.example.com", "reject"),
        ("https://llm.example.com:8443", "reject"),
        ("https://0x7f.1/", "reject"),
        ("https://inside.example", "reject"),
        ("https://nowhere.example", "reject"),
        ("http://10.1.2.3:8080", "accept"),
        ("", "reject"),
    ];
    let mut lines: Vec<String> = typed.iter().map(|(url, _)| serde_json::json!(url).to_string()).collect();
    lines.push("not json\n".to_owned());
    let told = check("custom", &lines.join("\n"));
    assert_eq!(told.len(), typed.len() + 1);
    for ((url, verdict), told) in typed.iter().zip(&told) {
        assert_eq!(told["verdict"], *verdict, "{url}: {told}");
        assert_eq!(told["rule"].is_string(), *verdict == "reject", "{url}: {told}");
    }
    assert_eq!(told.last().unwrap()["rule"], "json");
    // What is accepted comes back in the form in which it is stored, and is accepted as that again.
    let stored = told[0]["url"].as_str().unwrap();
    assert!(stored.starts_with("https://llm.example.com/v1"), "{stored}");
    let again = check("custom", &format!("{}\n", serde_json::json!(stored)));
    assert_eq!(again[0]["url"], stored);
    assert_eq!(check("anthropic", "\"\"\n")[0], serde_json::json!({ "verdict": "accept", "url": null }));
}

#[test]
fn prices_are_imported_after_a_look_at_them() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("map.json");
    let model = |name: &str, provider: &str, input: &str| {
        format!(
            r#""{name}": {{ "litellm_provider": "{provider}", "mode": "chat", "input_cost_per_token": {input}, "output_cost_per_token": 1e-05 }}"#
        )
    };
    let write = |entries: &[String]| std::fs::write(&file, format!("{{ {} }}", entries.join(", "))).unwrap();
    let path = file.to_str().unwrap().to_owned();
    let import = |more: &[&str]| {
        let mut args = vec!["prices", "import", path.as_str()];
        args.extend_from_slice(more);
        keyward(dir.path(), &args)
    };
    write(&[model("claude-next", "anthropic", "2.5e-06"), model("other", "nobody", "1")]);
    // Nobody to ask: nothing is written.
    let asked = import(&[]);
    assert!(!asked.status.success());
    assert!(
        text(&asked.stdout).contains("+ anthropic claude-next (standard): $2.50 / $10.00"),
        "{}",
        text(&asked.stdout)
    );
    assert!(text(&asked.stderr).contains("--yes"), "{}", text(&asked.stderr));
    let done = import(&["--yes", "--from", "2026-01-01"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(text(&done.stdout).contains("1 prices were written"), "{}", text(&done.stdout));
    let again = import(&["--yes"]);
    assert!(text(&again.stdout).contains("There is nothing to write."), "{}", text(&again.stdout));
    write(&[model("claude-next", "anthropic", "3e-06")]);
    let dearer = import(&["--yes"]);
    assert!(
        text(&dearer.stdout).contains("~ anthropic claude-next (standard): input $2.50 → $3.00"),
        "{}",
        text(&dearer.stdout)
    );
    for (entries, complaint) in [
        (vec![model("claude-next", "anthropic", "0")], "would become nothing"),
        (vec![model("claude-next", "anthropic", "-1e-06")], "is no price"),
        (vec![model("claude-next", "anthropic", "\"free\"")], "is no price"),
        (vec![model("other", "nobody", "1e-06")], "no model of a provider"),
    ] {
        write(&entries);
        let refused = import(&["--yes"]);
        assert!(!refused.status.success());
        assert!(text(&refused.stderr).contains(complaint), "{complaint}: {}", text(&refused.stderr));
    }
    std::fs::write(&file, "not json").unwrap();
    assert!(!import(&["--yes"]).status.success());
}
