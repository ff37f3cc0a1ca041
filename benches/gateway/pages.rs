//! Times of the pages that read usage, in a database with much of it.

use std::time::Instant;

use super::dataset::{self, Card, Measured};
use super::load::Spec;
use super::process::{self, Keyward, Role};
use super::report::{self, Aim};
use super::{Failure, Plan};

/// Name, path, and the most that its median may take for an ordinary tenant, in milliseconds.
const PAGES: [(&str, &str, f64); 6] = [
    ("API keys", "settings/api-keys", 10.0),
    ("Billing", "billing", 10.0),
    ("90 days by feature and model", "billing/usage?by=feature&then=model", 100.0),
    ("90 days by endpoint and key", "billing/usage?by=endpoint&then=key", 100.0),
    ("90 days by session", "billing/usage?by=session", 100.0),
    ("90 days by prompt and feature", "billing/usage?by=prompt&then=feature", 100.0),
];

/// Measures on SQLite and, where an address of an empty database is given, on PostgreSQL.
pub async fn measure(plan: &Plan, aims: &mut Vec<Aim>) -> Result<(), Failure> {
    let postgres = std::env::var("KEYWARD_BENCH_POSTGRES_URL").ok();
    measure_on(plan, None, aims).await?;
    match postgres {
        Some(url) => measure_on(plan, Some(&url), aims).await,
        None => Ok(()),
    }
}

async fn measure_on(plan: &Plan, postgres: Option<&str>, aims: &mut Vec<Aim>) -> Result<(), Failure> {
    let folder = dataset::folder(postgres, plan.usage_rows)?;
    let (_sandbox, sandbox_address) = process::listening(Role::Sandbox, process::LOAD_CORE, &[])?;
    let own = format!("sqlite:{}", folder.join("keyward.db").display());
    let database = postgres.unwrap_or(&own);
    let card = if let Some(card) = dataset::find(&folder) {
        card
    } else {
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder)?;
        let card = dataset::make(&folder, database, sandbox_address, plan.usage_rows, plan.tenants).await?;
        if let Some(url) = postgres {
            // As autovacuum would have done by the time that there is so much.
            let pool = sqlx::PgPool::connect(url).await?;
            sqlx::query("VACUUM (ANALYZE)").execute(&pool).await?;
            pool.close().await;
        }
        card
    };
    let origin = format!("http://{sandbox_address}");
    let settings = [
        ("KEYWARD_ANTHROPIC_URL", origin.as_str()),
        ("KEYWARD_DATABASE_URL", database),
        ("KEYWARD_SHUTDOWN_SECONDS", "5"),
    ];
    let keyward = Keyward::start(&folder, &settings)?;
    let kind = if postgres.is_some() { "PostgreSQL" } else { "SQLite" };
    let rows = measure_pages(plan, &keyward, &card, kind, aims).await?;
    measure_doors(plan, &keyward, &card, kind, aims).await?;
    let title = format!("Pages on {kind}: {} usage rows, {} tenants", plan.usage_rows, plan.tenants);
    report::table(&title, &["page", "rows of its tenant", "median ms", "p99 ms", "pages/s"], &rows);
    let memory = keyward.memory()?;
    println!("\nKeyward's memory then: {:.1} MiB, {:.1} MiB at the most.", memory.now, memory.peak);
    keyward.stop()?;
    // What the pages have left behind in memory is none of the download's.
    let keyward = Keyward::start(&folder, &settings)?;
    measure_download(&keyward, &card.download, kind, aims).await?;
    keyward.stop()
}

async fn measure_pages(
    plan: &Plan,
    keyward: &Keyward,
    card: &Card,
    kind: &str,
    aims: &mut Vec<Aim>,
) -> Result<Vec<Vec<String>>, Failure> {
    let mut rows = Vec::new();
    let platform = [("Tenants", "platform/tenants", 50.0)];
    let everybody = card.measured.iter().map(|who| (who, PAGES.as_slice()));
    for (measured, pages) in everybody.chain([(&card.root, platform.as_slice())]) {
        let cookies = sign_in(keyward, measured).await?;
        for &(name, path, most) in pages {
            let of_tenant = format!("/t/{}/{path}", measured.slug);
            let path = if measured.slug.is_empty() { format!("/{path}") } else { of_tenant };
            let path = if name.starts_with("90 days") { format!("{path}&{}", days(90)) } else { path };
            check(keyward, &path, &cookies).await?;
            let spec = |requests| Spec {
                address: keyward.address,
                // As browsers ask: the time to compress is part of a page's time.
                request: format!(
                    "GET {path} HTTP/1.1\r\nhost: {}\r\ncookie: {cookies}\r\naccept: text/html\r\n\
                     accept-encoding: gzip, deflate, br\r\nuser-agent: bench\r\n\r\n",
                    keyward.address
                ),
                connections: 1,
                seconds: 20.0,
                requests: Some(requests),
                expect_bytes: None,
            };
            process::load(&spec(20))?;
            let outcome = process::load(&spec(plan.page_requests))?;
            rows.push(vec![
                name.to_owned(),
                measured.rows.to_string(),
                format!("{:.2}", outcome.median / 1e3),
                format!("{:.2}", outcome.p99 / 1e3),
                format!("{:.0}", outcome.per_second),
            ]);
            let what = format!("{name} on {kind}, tenant of {} rows: median", measured.rows);
            aims.push(Aim::at_most(what, most, outcome.median / 1e3, "ms"));
        }
    }
    Ok(rows)
}

/// What keeping people apart costs every page: session and person are read, the policy's actor and the
/// form's token made. The start page does that and sends on; the icon is logged, compressed and given its
/// headers as every page is, and nobody is asked for; before the health check stands nothing at all.
async fn measure_doors(
    plan: &Plan,
    keyward: &Keyward,
    card: &Card,
    kind: &str,
    aims: &mut Vec<Aim>,
) -> Result<(), Failure> {
    let Some(who) = card.measured.first() else { return Ok(()) };
    let cookies = sign_in(keyward, who).await?;
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build()?;
    let start = client.get(format!("http://{}/", keyward.address)).header("cookie", &cookies).send().await?;
    let to = start.headers().get("location").and_then(|to| to.to_str().ok()).unwrap_or_default();
    if !to.starts_with("/t/") {
        return Err(format!("the start page leads to {to}").into());
    }
    let spec = |path: &str, cookies: &str, requests| Spec {
        address: keyward.address,
        request: format!(
            "GET {path} HTTP/1.1\r\nhost: {}\r\n{cookies}accept: text/html\r\nuser-agent: bench\r\n\r\n",
            keyward.address
        ),
        connections: 1,
        seconds: 20.0,
        requests: Some(requests),
        expect_bytes: None,
    };
    let page = client.get(format!("http://{}/sign-in", keyward.address)).send().await?.text().await?;
    let icon = page.split('"').find(|text| text.ends_with("/icon.svg")).ok_or("no icon")?.to_owned();
    let cookies = format!("cookie: {cookies}\r\n");
    let doors = [
        ("nothing before it", "/healthz", ""),
        ("all but people before it", icon.as_str(), cookies.as_str()),
        ("everything before it", "/", cookies.as_str()),
    ];
    let mut medians = [Vec::new(), Vec::new(), Vec::new()];
    // In turn, so that whatever else the machine does falls on both.
    for _ in 0..7 {
        for (at, (_, path, cookies)) in doors.iter().enumerate() {
            let outcome = process::load(&spec(path, cookies, plan.page_requests * 10))?;
            medians[at].push(outcome.median);
        }
    }
    let mut middle = |at: usize| {
        medians[at].sort_by(f64::total_cmp);
        medians[at][medians[at].len() / 2]
    };
    let (bare, apart, whole) = (middle(0), middle(1), middle(2));
    let rows: Vec<Vec<String>> = doors
        .iter()
        .zip([bare, apart, whole])
        .map(|((name, path, _), time)| vec![(*name).to_owned(), (*path).to_owned(), format!("{time:.0}")])
        .collect();
    report::table(&format!("Doors on {kind}"), &["route with", "path", "median µs"], &rows);
    aims.push(Aim::at_most(format!("Security middleware on {kind}: median"), 50.0, whole - apart, "µs"));
    Ok(())
}

/// Downloads all usage of a tenant twice, and looks at the memory while it comes the second time: by
/// then the process has what it keeps, and what jobs of its first minute took.
async fn measure_download(
    keyward: &Keyward,
    who: &Measured,
    kind: &str,
    aims: &mut Vec<Aim>,
) -> Result<(), Failure> {
    let cookies = sign_in(keyward, who).await?;
    let url = format!("http://{}/t/{}/billing/usage.csv?{}", keyward.address, who.slug, days(91));
    download(keyward, who, &url, &cookies).await?;
    let before = keyward.memory()?.now;
    let begun = Instant::now();
    let (bytes, most) = download(keyward, who, &url, &cookies).await?;
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "\nDownload on {kind}: {} rows, {:.0} MiB in {seconds:.0} s; memory {before:.1} MiB before, {most:.1} MiB at the most.",
        who.rows,
        bytes as f64 / 1_048_576.0
    );
    let what = format!("Download of {} rows on {kind}: memory grows by", who.rows);
    aims.push(Aim::at_most(what, 8.0, most - before, "MiB"));
    Ok(())
}

/// Gives the bytes that came, and the most memory in MiB while they did.
async fn download(
    keyward: &Keyward,
    who: &Measured,
    url: &str,
    cookies: &str,
) -> Result<(usize, f64), Failure> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let mut answer = client.get(url).header("cookie", cookies).send().await?.error_for_status()?;
    let (mut lines, mut bytes, mut looked, mut most) = (0_usize, 0_usize, 0, 0.0_f64);
    while let Some(chunk) = answer.chunk().await? {
        bytes += chunk.len();
        lines += memchr::memchr_iter(b'\n', &chunk).count();
        if lines >= looked {
            looked = lines + who.rows / 50;
            most = most.max(keyward.memory()?.now);
        }
    }
    if lines != who.rows + 1 {
        return Err(format!("{lines} lines came of {} rows", who.rows).into());
    }
    Ok((bytes, most))
}

/// As addresses name the last so many days.
fn days(count: i64) -> String {
    let now = keyward::domain::clock::Clock::system().now();
    let day = |at: keyward::domain::clock::Moment| at.date(&jiff::tz::TimeZone::UTC);
    format!("from={}&to={}", day(now.minus((count - 1) * keyward::domain::clock::DAY)), day(now))
}

/// Signs in as a browser without scripts would; gives the cookies to send from then on.
async fn sign_in(keyward: &Keyward, who: &Measured) -> Result<String, Failure> {
    let url = format!("http://{}/sign-in", keyward.address);
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build()?;
    let form = client.get(&url).send().await?;
    let device = cookies(&form);
    let page = form.text().await?;
    let csrf = page
        .split_once(r#"name="csrf" value=""#)
        .and_then(|(_, rest)| rest.split('"').next())
        .ok_or("the sign-in page has no form")?;
    let mut fields = url::form_urlencoded::Serializer::new(String::new());
    fields.append_pair("csrf", csrf).append_pair("email", &who.email).append_pair("password", &who.password);
    let answer = client
        .post(&url)
        .header("content-type", "application/x-www-form-urlencoded")
        .header("cookie", &device)
        .body(fields.finish())
        .send()
        .await?;
    if answer.status() != 303 {
        return Err(format!("signing in was answered with {}", answer.status()).into());
    }
    Ok(format!("{device}; {}", cookies(&answer)))
}

/// The cookies that an answer sets, as a request sends them.
fn cookies(answer: &reqwest::Response) -> String {
    let set = answer.headers().get_all("set-cookie").iter();
    let pairs: Vec<&str> = set.filter_map(|cookie| cookie.to_str().ok()?.split(';').next()).collect();
    pairs.join("; ")
}

/// The page is the one that was meant, and whole.
async fn check(keyward: &Keyward, path: &str, cookies: &str) -> Result<(), Failure> {
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build()?;
    let answer =
        client.get(format!("http://{}{path}", keyward.address)).header("cookie", cookies).send().await?;
    let status = answer.status();
    let page = answer.text().await?;
    if status == 200 && page.contains("</html>") {
        Ok(())
    } else {
        Err(format!("{path} was answered with {status} and {} bytes", page.len()).into())
    }
}
