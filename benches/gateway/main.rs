//! The benchmark harness: `cargo bench --bench gateway`. What it measures and how to read it is in
//! `docs/performance.md`.
//!
//! The process under test runs on one core, the sandbox and the load on another. To be pinned, the
//! program starts itself again in a role.

mod calls;
mod credits;
mod dataset;
mod forwarder;
mod http1;
mod installation;
mod load;
mod pages;
mod process;
mod queue;
mod reading;
mod report;

use std::net::TcpListener;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use keyward::domain::clock::Clock;
use keyward::sandbox;

use process::Role;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Measures Keyward beside a bare forwarder and no forwarder, on loopback against the sandbox
#[derive(Parser)]
#[command(name = "cargo bench --bench gateway --")]
struct Args {
    /// Fewer and shorter rounds, and a smaller database for the pages: under a minute
    #[arg(long)]
    quick: bool,
    /// Ten million usage rows of ten thousand tenants for the pages; takes minutes to make
    #[arg(long)]
    large: bool,
    /// Measure one part only
    #[arg(long)]
    only: Option<Part>,
    /// Part of what this program starts itself again with
    #[arg(long, hide = true)]
    role: Option<Role>,
    #[arg(long, hide = true, default_value = "")]
    origin: String,
    #[arg(long, hide = true, default_value = "")]
    key: String,
    /// What cargo calls every benchmark with
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Gateway,
    Credits,
    Memory,
    Queue,
    Pages,
}

/// How much to measure.
struct Plan {
    rounds: usize,
    /// Length of a round, and of the warm-up before the first.
    seconds: f64,
    warm_up: f64,
    page_requests: u64,
    usage_rows: usize,
    tenants: usize,
}

const FULL: Plan = Plan {
    rounds: 5,
    seconds: 1.5,
    warm_up: 0.75,
    page_requests: 400,
    usage_rows: 1_000_000,
    tenants: 1_000,
};
const QUICK: Plan =
    Plan { rounds: 3, seconds: 0.4, warm_up: 0.2, page_requests: 300, usage_rows: 100_000, tenants: 1_000 };

fn main() -> ExitCode {
    let args = Args::parse();
    // As in the binary: two TLS providers in one process would leave the choice to chance.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let done = match args.role {
        Some(Role::Load) => load::run(),
        Some(role) => serve(role, &args),
        None => measure(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A role that listens: says where, and serves until it is ended.
fn serve(role: Role, args: &Args) -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        if role == Role::Forwarder {
            return forwarder::serve(listener, args.origin.clone(), args.key.clone()).await;
        }
        let options = sandbox::Options { clock: Clock::system(), workers: 1, courier: None };
        Ok(sandbox::server(listener, options)?.await?)
    })
}

fn measure(args: &Args) -> Result<(), Failure> {
    process::check_machine()?;
    let plan = match (args.quick, args.large) {
        (true, _) => QUICK,
        (_, true) => Plan { usage_rows: 10_000_000, tenants: 10_000, ..FULL },
        _ => FULL,
    };
    let begun = Instant::now();
    report::machine();
    let wanted = |part| args.only.is_none_or(|only| only == part);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut aims = Vec::new();
    runtime.block_on(async {
        if wanted(Part::Gateway) {
            reading::resolution(&mut aims);
            calls::measure(&plan, false, &mut aims).await?;
        } else if wanted(Part::Memory) {
            calls::measure(&plan, true, &mut aims).await?;
        }
        if wanted(Part::Credits) {
            credits::measure(&plan, &mut aims).await?;
        }
        if wanted(Part::Queue) {
            queue::measure(&mut aims).await?;
        }
        if wanted(Part::Pages) {
            pages::measure(&plan, &mut aims).await?;
        }
        Ok::<_, Failure>(())
    })?;
    report::aims(&aims);
    println!("\nTook {:.0} s.", begun.elapsed().as_secs_f64());
    Ok(())
}
