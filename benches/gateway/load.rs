//! The load generator: a process of its own on a core of its own, which sends one prepared request
//! over and over on some kept-alive connections and times every answer.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::http1::Connection;
use super::{Failure, report};

/// What to send, how often, and what must come back. Read from standard input, as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    pub address: SocketAddr,
    /// The whole request, head and body.
    pub request: String,
    pub connections: usize,
    /// Seconds to go on for.
    pub seconds: f64,
    /// Requests per connection at most.
    pub requests: Option<u64>,
    /// Length that the body of every answer must have; any that is not empty will do without it.
    pub expect_bytes: Option<u64>,
}

/// What came of it. Written to standard output, as JSON. Times are in microseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// All good answers, those before and after the time that counts among them.
    pub answered: u64,
    pub per_second: f64,
    pub median: f64,
    pub p99: f64,
    /// To the first byte of the answer, at the median.
    pub first_byte: f64,
    pub errors: u64,
    pub first_error: Option<String>,
}

/// One connection's part.
#[derive(Default)]
struct Tally {
    answered: u64,
    /// Whole time and time to the first byte of each answer that ended in time.
    times: Vec<(f64, f64)>,
    ended: Option<Instant>,
    error: Option<String>,
}

/// The whole life of the process.
pub fn run() -> Result<(), Failure> {
    let spec: Spec = serde_json::from_reader(std::io::stdin().lock())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let bound = Duration::from_secs_f64(spec.seconds + 20.0);
    let local = tokio::task::LocalSet::new();
    let outcome = local
        .block_on(&runtime, async { tokio::time::timeout(bound, load(spec)).await })
        .map_err(|_| "the load took far too long")??;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

async fn load(spec: Spec) -> Result<Outcome, Failure> {
    let spec = Rc::new(spec);
    let mut connections = Vec::new();
    for _ in 0..spec.connections {
        let mut connection = Connection::open(spec.address).await?;
        // Uncounted: what opening a connection costs the server is not the question.
        exchange(&mut connection, &spec).await?;
        connections.push(connection);
    }
    let warmed = connections.len() as u64;
    let begun = Instant::now();
    let until = begun + Duration::from_secs_f64(spec.seconds);
    let tasks: Vec<_> = connections
        .into_iter()
        .map(|connection| tokio::task::spawn_local(drive(connection, Rc::clone(&spec), until)))
        .collect();
    let mut outcome = Outcome { answered: warmed, ..Outcome::default() };
    let (mut whole, mut first) = (Vec::new(), Vec::new());
    let mut ended = begun;
    for task in tasks {
        let tally = task.await?;
        outcome.answered += tally.answered;
        outcome.errors += u64::from(tally.error.is_some());
        outcome.first_error = outcome.first_error.or(tally.error);
        ended = tally.ended.map_or(ended, |at| ended.max(at));
        whole.extend(tally.times.iter().map(|times| times.0));
        first.extend(tally.times.iter().map(|times| times.1));
    }
    outcome.per_second = whole.len() as f64 / ended.duration_since(begun).as_secs_f64().max(1e-9);
    outcome.median = report::quantile(&mut whole, 0.5);
    outcome.p99 = report::quantile(&mut whole, 0.99);
    outcome.first_byte = report::quantile(&mut first, 0.5);
    Ok(outcome)
}

async fn drive(mut connection: Connection, spec: Rc<Spec>, until: Instant) -> Tally {
    let mut tally = Tally::default();
    let most = spec.requests.unwrap_or(u64::MAX);
    while tally.answered < most {
        let sent = Instant::now();
        if sent >= until {
            break;
        }
        let first_byte = match exchange(&mut connection, &spec).await {
            Ok(first_byte) => first_byte,
            Err(error) => {
                tally.error = Some(error.to_string());
                break;
            }
        };
        let ended = Instant::now();
        tally.answered += 1;
        if ended <= until {
            tally.times.push((micros(sent, ended), micros(sent, first_byte)));
            tally.ended = Some(ended);
        }
    }
    tally
}

async fn exchange(connection: &mut Connection, spec: &Spec) -> Result<Instant, Failure> {
    let answer = connection.exchange(spec.request.as_bytes()).await?;
    if !matches!(answer.status, 200 | 303) {
        return Err(format!("an answer of status {}", answer.status).into());
    }
    match spec.expect_bytes {
        Some(expected) if expected != answer.bytes => {
            Err(format!("an answer of {} bytes in place of {expected}", answer.bytes).into())
        }
        None if answer.bytes == 0 && answer.status == 200 => Err("an empty answer".into()),
        _ => Ok(answer.first_byte),
    }
}

fn micros(from: Instant, to: Instant) -> f64 {
    to.duration_since(from).as_secs_f64() * 1e6
}
