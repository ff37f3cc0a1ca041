//! Platform → Status: the database, the keyring, what waits, and every process with its jobs.

use actix_web::web::{self, Data, ServiceConfig};
use askama::Template;
use jiff::tz::TimeZone;

use super::figures::{count, counted};
use super::page::{Answer, Chrome, Here, Page};
use super::prose::{Prose, Tone};
use super::time::{Times, When};
use super::viewer::Viewer;
use super::{Console, read};
use crate::domain::clock::Moment;
use crate::domain::ids::InstanceId;
use crate::domain::process::Process;
use crate::services::status::{Status, Trouble};
use crate::storage::status::Waiting;

const STATUS: &str = "/platform/status";

pub fn routes(cfg: &mut ServiceConfig) {
    cfg.service(web::resource(STATUS).route(read().to(show)));
}

#[derive(Template)]
#[template(path = "pages/platform/status.html")]
struct StatusPage {
    chrome: Chrome,
    troubles: Vec<Prose>,
    facts: Vec<(&'static str, Prose)>,
    news: Vec<NewsRow>,
    processes: Vec<ProcessRow>,
}

struct NewsRow {
    at: When,
    label: &'static str,
    text: String,
    href: String,
}

struct ProcessRow {
    id: String,
    own: bool,
    tone: Tone,
    state: &'static str,
    version: String,
    started: When,
    beat: When,
    under_way: String,
    /// Through when it follows what other processes change.
    follows: Option<When>,
    jobs: Vec<JobRow>,
}

struct JobRow {
    name: String,
    failed: bool,
    ended: When,
    took: String,
}

async fn show(console: Data<Console>, viewer: Viewer) -> Answer {
    let status = console.services.status(&viewer.actor).await?;
    let times = Times { now: status.now, zone: TimeZone::UTC };
    let page = StatusPage {
        chrome: Chrome::new(&viewer, &Here::Platform, "Status", STATUS),
        troubles: status.troubles().iter().map(|trouble| sentence(trouble, &status, &times)).collect(),
        facts: facts(&status, &times),
        news: status
            .news
            .iter()
            .map(|news| NewsRow {
                at: times.when(news.at),
                label: news.kind.label(),
                text: news.text.clone(),
                href: format!("/platform/{}", news.page),
            })
            .collect(),
        processes: status.processes.iter().map(|process| row(process, &status, &times)).collect(),
    };
    Page::new(page).answer()
}

fn facts(status: &Status, times: &Times) -> Vec<(&'static str, Prose)> {
    let waiting = |waiting: &Waiting, one: &str, several: &str| match waiting.since {
        None => Prose::of("None"),
        Some(since) => Prose::of(format!("{}, the oldest ", counted(waiting.count, one, several)))
            .when(&times.when(since)),
    };
    let (ids, active) = &status.master_keys;
    let held = counted(i64::try_from(ids.len()).unwrap_or(i64::MAX), "master key", "master keys");
    let answered = status.answered_in.as_micros();
    vec![
        (
            "Database",
            Prose::of(format!(
                "{}, {}; answered in {}.{} ms",
                status.database,
                size(status.bytes),
                answered / 1_000,
                answered % 1_000 / 100
            )),
        ),
        ("Schema", Prose::of(format!("Migration {}", status.schema))),
        ("Keyring", Prose::of(format!("{held}; number {active} is active"))),
        ("Requests not settled yet", waiting(&status.pending, "request", "requests")),
        ("Drafts that are due", waiting(&status.generations, "draft", "drafts")),
        ("Notifications that are due", waiting(&status.deliveries, "message", "messages")),
        ("E-mail", Prose::of(if status.has_mail { "A mail server is set" } else { "No mail server is set" })),
        (
            "Credits",
            Prose::of(match status.payments {
                Some(method) => format!("Sold by {method}"),
                None => "Not sold; super admins grant them".to_owned(),
            }),
        ),
    ]
}

fn size(bytes: i64) -> String {
    let mib = bytes / (1_024 * 1_024);
    if mib == 0 { format!("{} KiB", bytes / 1_024) } else { format!("{} MiB", count(mib)) }
}

/// The end of a process's id: those of one minute begin alike.
fn short(id: InstanceId) -> String {
    let id = id.to_string();
    id[id.len() - 8..].to_owned()
}

fn row(process: &Process, status: &Status, times: &Times) -> ProcessRow {
    let (tone, state) =
        if status.is_alive(process) { (Tone::Good, "Running") } else { (Tone::Bad, "Silent") };
    let mut jobs: Vec<JobRow> = process
        .jobs
        .iter()
        .map(|run| JobRow {
            name: run.name.clone(),
            failed: run.failed,
            ended: times.when(Moment(run.ended_at)),
            took: format!("{} ms", count(run.took_ms)),
        })
        .collect();
    jobs.sort_by_key(|job| !job.failed);
    ProcessRow {
        id: short(process.id),
        own: process.id == status.own,
        tone,
        state,
        version: process.version.clone(),
        started: times.when(process.started_at),
        beat: times.when(process.beat_at),
        under_way: count(process.under_way),
        follows: process.followed_at.map(|at| times.when(at)),
        jobs,
    }
}

fn sentence(trouble: &Trouble, status: &Status, times: &Times) -> Prose {
    let late = |what: &str, waiting: &Waiting| match waiting.since {
        Some(since) => Prose::of(format!("{what} since ")).when(&times.when(since)).text("."),
        None => Prose::of(what),
    };
    match trouble {
        Trouble::SlowDatabase => Prose::of("The database takes more than a second to answer."),
        Trouble::Silent(id) => Prose::of(format!(
            "Process {} has been silent for over a minute: it died, or cannot reach the database. What it left is settled by estimate.",
            short(*id)
        )),
        Trouble::FailedJob(id, job) => Prose::of(format!(
            "Process {} could not {job}. Its log says why; it tries again by itself.",
            short(*id)
        )),
        Trouble::LateJob(id, job) => Prose::of(format!(
            "Process {} has not tried for long to {job}. Start it again; its log may say why.",
            short(*id)
        )),
        Trouble::Stale(id) => Prose::of(format!(
            "Process {} does not see what other processes change. Start it again if that lasts.",
            short(*id)
        )),
        Trouble::Versions => Prose::of("Processes of different versions are running. Finish the deployment."),
        Trouble::LateUsage => late("A request has been unsettled", &status.pending),
        Trouble::LateGenerations => late("A draft has been due", &status.generations),
        Trouble::LateDeliveries => late("A notification has been due", &status.deliveries),
    }
}
