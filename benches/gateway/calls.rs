//! Calls through the gateway, beside the same calls sent directly and through the bare forwarder.

use std::net::SocketAddr;
use std::time::Duration;

use keyward::storage::Database;
use sqlx::Row as _;

use super::load::{Outcome, Spec};
use super::process::{self, Keyward, Memory, Process, Role};
use super::report::{self, Aim, median};
use super::{Failure, Plan, installation, reading};

const CONNECTIONS: [usize; 3] = [1, 16, 64];
/// Two words in every JSON answer, two hundred deltas in every stream.
const MODEL: &str = "claude-haiku-4-5";
const DELTAS: usize = 200;

/// Somewhere to send calls to.
pub struct Target {
    pub name: &'static str,
    pub address: SocketAddr,
    /// What authenticates there: the sandbox's key, Keyward's token, or anything.
    pub credential: String,
    /// The process under test; none for the sandbox itself.
    pub process: Option<u32>,
}

/// What calls ask for, and in which dialect.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Json,
    Stream,
    OpenaiStream,
    GeminiStream,
}

/// One round of one target.
pub struct Round {
    pub outcome: Outcome,
    /// Processor time of the process under test for each answer, in microseconds.
    pub processor: f64,
}

/// Sets everything up, measures, and judges memory and durability at the end.
pub async fn measure(plan: &Plan, only_memory: bool, aims: &mut Vec<Aim>) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let (_sandbox, sandbox_address) = process::listening(Role::Sandbox, process::LOAD_CORE, &[])?;
    let key = installation::key_body("long");
    let origin = format!("http://{sandbox_address}");
    let (forwarder, forwarder_address) =
        process::listening(Role::Forwarder, process::TEST_CORE, &["--origin", &origin, "--key", &key])?;
    let database = format!("sqlite:{}", folder.path().join("keyward.db").display());
    let services = installation::open(folder.path(), &database, sandbox_address).await?;
    let token = installation::furnish_one(&services, &key).await?;
    services.db.close().await;
    drop(services);

    let settings = [
        ("KEYWARD_ANTHROPIC_URL", origin.as_str()),
        ("KEYWARD_OPENAI_URL", origin.as_str()),
        ("KEYWARD_GOOGLE_URL", origin.as_str()),
        ("KEYWARD_SHUTDOWN_SECONDS", "5"),
    ];
    let keyward = Keyward::start(folder.path(), &settings)?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let idle = keyward.memory()?;
    let targets = targets(sandbox_address, &key, (&forwarder, forwarder_address), (&keyward, &token));

    let mut answered = 0;
    if only_memory {
        answered += load_once(plan, &targets[2]).await?;
    } else {
        for kind in [Kind::Json, Kind::Stream, Kind::OpenaiStream, Kind::GeminiStream] {
            answered += measure_kind(plan, kind, &targets, aims).await?;
        }
    }
    let loaded = keyward.memory()?;
    memory(idle, loaded, aims);
    check_durability(&database, answered).await?;
    keyward.stop()
}

fn targets(
    sandbox: SocketAddr,
    key: &str,
    (forwarder, forwarder_address): (&Process, SocketAddr),
    (keyward, token): (&Keyward, &str),
) -> [Target; 3] {
    [
        Target { name: "direct", address: sandbox, credential: key.to_owned(), process: None },
        Target {
            name: "bare forwarder",
            address: forwarder_address,
            credential: "none".to_owned(),
            process: Some(forwarder.id()),
        },
        Target {
            name: "Keyward",
            address: keyward.address,
            credential: token.to_owned(),
            process: Some(keyward.id()),
        },
    ]
}

/// Gives the number of answers that Keyward gave.
async fn measure_kind(
    plan: &Plan,
    kind: Kind,
    targets: &[Target; 3],
    aims: &mut Vec<Aim>,
) -> Result<u64, Failure> {
    let length = check_answers(kind, targets).await?;
    // One for the check.
    let mut answered = 1;
    let (mut rows, mut compared) = (Vec::new(), Vec::new());
    let mut processor = 0.0;
    for connections in CONNECTIONS {
        let spec = |target: &Target, seconds| spec(kind, target, connections, seconds, Some(length));
        for target in targets {
            let outcome = process::load(&spec(target, plan.warm_up))?;
            answered += if target.name == "Keyward" { outcome.answered } else { 0 };
        }
        let mut rounds: [Vec<Round>; 3] = Default::default();
        for _ in 0..plan.rounds {
            for (target, rounds) in targets.iter().zip(&mut rounds) {
                let round = round(target, &spec(target, plan.seconds))?;
                answered += if target.name == "Keyward" { round.outcome.answered } else { 0 };
                rounds.push(round);
                // What a target still has to write must not be on the next one's time.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        for (target, own) in targets.iter().zip(&rounds) {
            rows.push(row(target.name, connections, own, &rounds[0]));
        }
        compared.push(compare(kind, connections, &rounds, aims));
        if connections == CONNECTIONS[CONNECTIONS.len() - 1] {
            processor = median(rounds[2].iter().map(|round| round.processor));
        }
        eprintln!("measured {} at {connections} connections", kind.name());
    }
    let times = ["median ms", "p99 ms", "first byte ms", "added ms", "CPU µs/call"];
    let head: Vec<&str> = ["target", "conns", "calls/s"].into_iter().chain(times).collect();
    report::table(kind.title(), &head, &rows);
    let head = ["conns", "throughput", "by round", "median over ms", "by round"];
    report::table("Keyward beside the bare forwarder", &head, &compared);
    if kind != Kind::Json {
        reading::measure(kind, &fetch(kind, &targets[0]).await?, processor, aims);
    }
    Ok(answered)
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Json => "JSON",
            Self::Stream => "Anthropic streams",
            Self::OpenaiStream => "OpenAI streams",
            Self::GeminiStream => "Gemini streams",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Json => "JSON: a small message and its answer",
            Self::Stream => "Anthropic: 200 deltas, the whole stream",
            Self::OpenaiStream => "OpenAI: 200 deltas, the whole stream, usage not asked for by the client",
            Self::GeminiStream => "Gemini: 200 deltas, the whole stream",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Json | Self::Stream => "/v1/messages",
            Self::OpenaiStream => "/v1/chat/completions",
            Self::GeminiStream => "/v1beta/models/gemini-3.1-flash-lite:streamGenerateContent?alt=sse",
        }
    }

    fn body(self) -> String {
        let system = "You answer customers of a shop that sells garden furniture. Be brief and friendly.";
        let question = "My chair came with three legs. Is that as it should be?";
        let message = serde_json::json!([{ "role": "user", "content": question }]);
        match self {
            Self::Json | Self::Stream => serde_json::json!({
                "model": MODEL,
                "max_tokens": if self == Self::Json { 64 } else { 256 },
                "stream": self == Self::Stream,
                "system": system,
                "messages": message,
            }),
            Self::OpenaiStream => serde_json::json!({
                "model": "gpt-5.4-nano", "max_completion_tokens": 256, "stream": true, "messages": message,
            }),
            Self::GeminiStream => serde_json::json!({
                "systemInstruction": { "parts": [{ "text": system }] },
                "contents": [{ "role": "user", "parts": [{ "text": question }] }],
                "generationConfig": { "maxOutputTokens": 256 },
            }),
        }
        .to_string()
    }

    /// The header that authenticates at a target. The sandbox wants the provider's own prefix.
    fn credential(self, target: &Target) -> (&'static str, String) {
        let prefixed = |prefix: &str| {
            if target.name == "direct" {
                format!("{prefix}{}", target.credential)
            } else {
                target.credential.clone()
            }
        };
        match self {
            Self::Json | Self::Stream => ("x-api-key", prefixed("sk-ant-api03-")),
            Self::OpenaiStream => ("authorization", format!("Bearer {}", prefixed("sk-proj-"))),
            Self::GeminiStream => ("x-goog-api-key", prefixed("AQ.")),
        }
    }

    /// What stands in a stream once for each delta.
    fn delta(self) -> &'static str {
        match self {
            Self::Json => "",
            Self::Stream => "event: content_block_delta",
            Self::OpenaiStream => "\"delta\":{\"content\"",
            Self::GeminiStream => "\"parts\":[{\"text\":\"",
        }
    }
}

pub fn spec(
    kind: Kind,
    target: &Target,
    connections: usize,
    seconds: f64,
    expect_bytes: Option<u64>,
) -> Spec {
    let body = kind.body();
    let (header, credential) = kind.credential(target);
    let request = format!(
        "POST {} HTTP/1.1\r\nhost: {}\r\n{header}: {credential}\r\nanthropic-version: 2023-06-01\r\n\
         content-type: application/json\r\naccept: application/json\r\nuser-agent: bench\r\n\
         content-length: {}\r\n\r\n{body}",
        kind.path(),
        target.address,
        body.len(),
    );
    // Chunks of a chat whose usage was asked for each hold a field more.
    let expect_bytes = expect_bytes.filter(|_| kind != Kind::OpenaiStream);
    Spec { address: target.address, request, connections, seconds, requests: None, expect_bytes }
}

pub async fn fetch(kind: Kind, target: &Target) -> Result<String, Failure> {
    let (header, credential) = kind.credential(target);
    let call = reqwest::Client::builder()
        .no_proxy()
        .build()?
        .post(format!("http://{}{}", target.address, kind.path()))
        .header(header, credential)
        .header("anthropic-version", "2023-06-01")
        .header("content-type", "application/json")
        .body(kind.body());
    let answer = call.send().await?;
    let status = answer.status();
    let text = answer.text().await?;
    if status != 200 {
        return Err(format!("{} answers {status}: {text}", target.name).into());
    }
    Ok(text)
}

/// One call to each target, whose answers must be the same; gives the length of their bodies.
async fn check_answers(kind: Kind, targets: &[Target; 3]) -> Result<u64, Failure> {
    let mut lengths = Vec::new();
    for target in targets {
        let text = fetch(kind, target).await?;
        let deltas = if kind == Kind::Json { DELTAS } else { text.matches(kind.delta()).count() };
        // Gemini's last chunk has an empty text.
        if deltas.saturating_sub(usize::from(kind == Kind::GeminiStream)) != DELTAS {
            return Err(format!("{} streams {deltas} deltas", target.name).into());
        }
        lengths.push(text.len() as u64);
    }
    lengths.dedup();
    match lengths[..] {
        [length] => Ok(length),
        [.., length] if kind == Kind::OpenaiStream => Ok(length),
        _ => Err(format!("the answers differ in length: {lengths:?}").into()),
    }
}

pub fn round(target: &Target, spec: &Spec) -> Result<Round, Failure> {
    let used = || target.process.map_or(Ok(0.0), process::processor_seconds);
    let before = used()?;
    let outcome = process::load(spec)?;
    let processor = (used()? - before) * 1e6 / outcome.answered.max(1) as f64;
    Ok(Round { outcome, processor })
}

/// The medians of a target's rounds.
fn row(name: &str, connections: usize, rounds: &[Round], direct: &[Round]) -> Vec<String> {
    let of = |figure: fn(&Outcome) -> f64| median(rounds.iter().map(|round| figure(&round.outcome)));
    let added = median(over(rounds, direct));
    let processor = median(rounds.iter().map(|round| round.processor));
    vec![
        name.to_owned(),
        connections.to_string(),
        format!("{:.0}", of(|outcome| outcome.per_second)),
        format!("{:.3}", of(|outcome| outcome.median) / 1e3),
        format!("{:.3}", of(|outcome| outcome.p99) / 1e3),
        format!("{:.3}", of(|outcome| outcome.first_byte) / 1e3),
        if name == "direct" { "–".to_owned() } else { format!("{added:.3}") },
        if name == "direct" { "–".to_owned() } else { format!("{processor:.0}") },
    ]
}

/// By how much the median of each round is over that of the other's, in milliseconds.
fn over(rounds: &[Round], other: &[Round]) -> Vec<f64> {
    let pairs = rounds.iter().zip(other);
    pairs.map(|(own, other)| (own.outcome.median - other.outcome.median) / 1e3).collect()
}

fn compare(kind: Kind, connections: usize, rounds: &[Vec<Round>; 3], aims: &mut Vec<Aim>) -> Vec<String> {
    let [_, forwarder, keyward] = rounds;
    let pairs = keyward.iter().zip(forwarder);
    let ratios: Vec<f64> =
        pairs.map(|(own, bare)| own.outcome.per_second / bare.outcome.per_second).collect();
    let over = over(keyward, forwarder);
    let (ratio, later) = (median(ratios.clone()), median(over.clone()));
    let plural = if connections == 1 { "connection" } else { "connections" };
    let what = format!("{}, {connections} {plural}: share of the forwarder's throughput", kind.name());
    aims.push(Aim::at_least(what, 0.6, ratio));
    let most = match (kind, connections) {
        (Kind::Json, _) => Some(0.4),
        // With more of them the core is full, and a stream takes as long as all of them together let it.
        (Kind::Stream | Kind::OpenaiStream | Kind::GeminiStream, 1) => Some(2.0),
        _ => None,
    };
    if let Some(most) = most {
        let what = format!("{}, {connections} {plural}: median over the forwarder's", kind.name());
        aims.push(Aim::at_most(what, most, later, "ms"));
    }
    let list = |values: &[f64]| values.iter().map(|v| format!("{v:.2}")).collect::<Vec<_>>().join(" ");
    vec![connections.to_string(), format!("{ratio:.2}"), list(&ratios), format!("{later:.3}"), list(&over)]
}

/// The load without the comparison, for `--only memory`.
async fn load_once(plan: &Plan, keyward: &Target) -> Result<u64, Failure> {
    let mut answered = 0;
    for kind in [Kind::Json, Kind::Stream] {
        let most = CONNECTIONS[CONNECTIONS.len() - 1];
        answered += process::load(&spec(kind, keyward, most, plan.seconds * 2.0, None))?.answered;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(answered)
}

fn memory(idle: Memory, loaded: Memory, aims: &mut Vec<Aim>) {
    let row = |name: &str, memory: Memory| {
        vec![name.to_owned(), format!("{:.1}", memory.now), format!("{:.1}", memory.peak)]
    };
    let rows = [row("idle after start", idle), row("after the load", loaded)];
    report::table("Memory of Keyward, MiB resident", &["", "now", "peak so far"], &rows);
    aims.push(Aim::at_most("idle memory", 40.0, idle.now, "MiB"));
}

/// Every answer must have left a final row, and the rollups must know them all.
pub async fn check_durability(database: &str, answered: u64) -> Result<(), Failure> {
    let Database::Sqlite(_) = Database::connect(database).await? else {
        return Err("the calls are measured on SQLite".into());
    };
    let pool = sqlx::SqlitePool::connect(database).await?;
    let sql = "SELECT COALESCE((SELECT COUNT(*) FROM usage WHERE state = 'final' AND status = 200), 0),
                      COALESCE((SELECT COUNT(*) FROM usage), 0),
                      COALESCE((SELECT SUM(requests - failed) FROM usage_rollup), 0)";
    let mut found = (0, 0, 0);
    // The last rows are written just after the last answers.
    for _ in 0..50 {
        let row = sqlx::query(sql).fetch_one(&pool).await?;
        found = (row.try_get::<i64, _>(0)?, row.try_get::<i64, _>(1)?, row.try_get::<i64, _>(2)?);
        if found.0.unsigned_abs() >= answered {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    pool.close().await;
    let (finals, all, rolled_up) = found;
    println!("\nDurability: {answered} answers, {finals} final rows of {all}, {rolled_up} in rollups.");
    if [finals, all, rolled_up].iter().all(|count| count.unsigned_abs() == answered) {
        Ok(())
    } else {
        Err("the usage rows do not account for the answers".into())
    }
}
