//! Commands. Each prints what a person needs to know next; errors are one sentence with their causes.

mod accounts;
mod audit;
mod demo;
mod demo_data;
pub mod demo_samples;
mod doctor;
mod endpoint;
mod master_key;
mod prices;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::config::Settings;
use crate::domain::clock::Clock;
use crate::startup::{self, Replacements, Signals};
use crate::{sandbox, telemetry};

/// Any command's failure: shown as one line with its causes.
type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Parser)]
#[command(name = "keyward", version, about = "Bring your own key for multi-tenant products")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the console and the gateway
    Serve(Settings),
    /// Run everything on this machine with sample data and the sandbox as provider
    Demo(demo::Demo),
    /// Run a local provider that speaks the real wire formats, with test keys
    Sandbox(SandboxArgs),
    /// Bring the database schema up to date
    Migrate(Settings),
    /// Make users, reset passwords, lock users out
    #[command(subcommand)]
    User(accounts::User),
    /// Make access tokens
    #[command(subcommand)]
    Token(accounts::Token),
    /// Make and inspect the master keyring
    #[command(subcommand)]
    MasterKey(master_key::MasterKey),
    /// Explain what the policy says of tenants' URLs
    #[command(subcommand)]
    Endpoint(endpoint::Endpoint),
    /// Import prices
    #[command(subcommand)]
    Prices(prices::Prices),
    /// Check that the audit log is whole
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Check settings, database, keyring and providers
    Doctor(Settings),
}

#[derive(Debug, clap::Args)]
struct SandboxArgs {
    /// Address and port to listen on
    #[arg(long, env = "KEYWARD_SANDBOX_BIND", default_value = "127.0.0.1:8788")]
    bind: SocketAddr,
}

/// How long work that was told to end has for it.
const LAST_TURN: Duration = Duration::from_secs(1);

/// Runs the command line and says how it ended.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // Two TLS providers in one process would leave the choice to chance.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let ended = runtime.block_on(run(cli.command));
    // What is over is over: nothing that is stuck may keep the process from ending.
    runtime.shutdown_timeout(LAST_TURN);
    match ended {
        Ok(code) => code,
        Err(error) => failed(&*error),
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        // A transparent error says the same as its cause.
        let text = next.to_string();
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = next.source();
    }
    eprintln!("keyward: {line}");
    ExitCode::FAILURE
}

async fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Serve(settings) => serve(&settings).await?,
        Command::Demo(args) => args.run().await?,
        Command::Sandbox(args) => run_sandbox(&args).await?,
        Command::Migrate(settings) => {
            let database = startup::open_database(&settings).await?;
            println!("The {} schema is up to date.", database.kind());
            database.close().await;
        }
        Command::User(command) => command.run().await?,
        Command::Token(command) => command.run().await?,
        Command::MasterKey(command) => command.run().await?,
        Command::Endpoint(command) => command.run().await?,
        Command::Prices(command) => command.run().await?,
        Command::Audit(command) => return command.run().await,
        Command::Doctor(settings) => return doctor::run(&settings).await,
    }
    Ok(ExitCode::SUCCESS)
}

async fn serve(settings: &Settings) -> Result<(), Failure> {
    telemetry::init(settings.log);
    if let Some(address) = settings.metrics_bind {
        metrics_exporter_prometheus::PrometheusBuilder::new().with_http_listener(address).install()?;
    }
    let signals = Signals::listen()?;
    let listener = startup::bind(settings.bind)?;
    let services = startup::open(settings, Replacements::default()).await?;
    if let Some(link) = services.first_admin_link().await? {
        println!("Create the first super admin, within a day, at:\n  {link}");
    }
    let running = startup::start(services, settings, listener).await?;
    println!(
        "Keyward listens on http://{} and is reached at {}",
        settings.bind, running.services.options.public_url
    );
    running.until_signal(signals).await;
    Ok(())
}

async fn run_sandbox(args: &SandboxArgs) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let listener = startup::bind(args.bind)?;
    let server =
        sandbox::server(listener, sandbox::Options { clock: Clock::system(), workers: 2, courier: None })?;
    println!("The sandbox listens on http://{}; docs/sandbox.md lists its test keys.", args.bind);
    let handle = server.handle();
    let running = tokio::spawn(server);
    signals.next().await;
    handle.stop(false).await;
    running.await??;
    Ok(())
}
