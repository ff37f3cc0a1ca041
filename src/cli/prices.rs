//! `keyward prices import FILE`: prices of the community price map, after a look at what they change.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;

use super::Failure;
use crate::config::Settings;
use crate::domain::audit::AuditActor;
use crate::domain::clock::Moment;
use crate::domain::money::Nanos;
use crate::domain::price::PriceRow;
use crate::domain::price_map::Changes;
use crate::startup::{self, Replacements};

#[derive(Debug, clap::Subcommand)]
pub enum Prices {
    /// Import prices from the community price map (JSON), after showing what changes
    Import(Import),
}

#[derive(Debug, clap::Args)]
pub struct Import {
    /// The file, such as `model_prices_and_context_window_backup.json` of `PyPI` litellm
    file: PathBuf,

    /// Day from which the prices hold, such as 2026-11-01 (UTC); from now on where it is left out
    #[arg(long)]
    from: Option<jiff::civil::Date>,

    /// Do not ask
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    settings: Settings,
}

impl Prices {
    pub async fn run(self) -> Result<(), Failure> {
        let Self::Import(import) = self;
        let json = std::fs::read_to_string(&import.file)
            .map_err(|error| format!("{} cannot be read: {error}", import.file.display()))?;
        let services = startup::open(&import.settings, Replacements::default()).await?;
        let from = match import.from {
            Some(date) => Moment::start_of(date, &jiff::tz::TimeZone::UTC),
            None => services.clock.now(),
        };
        let changes = match services.preview_prices(&json, from).await? {
            Ok(changes) => changes,
            Err(error) => return Err(format!("nothing was imported:\n{error}").into()),
        };
        show(&changes, from)?;
        if changes.rows().next().is_none() {
            println!("There is nothing to write.");
        } else if import.yes || agreed()? {
            let written =
                services.apply_prices(&changes, AuditActor::system("keyward prices import")).await?;
            let rated = services.rate_unpriced().await?;
            println!("{written} prices were written. Those that held before are kept for what ran then.");
            if rated > 0 {
                println!("{rated} requests that had run without a price are rated now.");
            }
        } else {
            println!("Nothing was written.");
        }
        services.db.close().await;
        Ok(())
    }
}

fn show(changes: &Changes, from: Moment) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "Prices for a million tokens (of new ones input / output), from {}:", from.rfc3339())?;
    for (before, after) in &changes.changed {
        writeln!(out, "  ~ {}: {}", name(after), differences(before, after))?;
    }
    for row in &changes.new {
        writeln!(out, "  + {}: {}", name(row), rates(row))?;
    }
    writeln!(
        out,
        "{} changed, {} new, {} as they are; {} that are not in the file are kept.",
        changes.changed.len(),
        changes.new.len(),
        changes.unchanged,
        changes.kept
    )?;
    Ok(())
}

fn name(row: &PriceRow) -> String {
    let above = match row.above_prompt_tokens {
        0 => String::new(),
        tokens => format!(", above {tokens} prompt tokens"),
    };
    format!("{} {} ({}{above})", row.provider, row.model, row.tier)
}

fn rates(row: &PriceRow) -> String {
    let million = |rate: i64| Nanos(rate.saturating_mul(1_000)).precise();
    format!("{} / {}", million(row.rates.input), million(row.rates.output))
}

/// What of a price is another: by the million tokens, the thousand searches, or as a factor.
fn differences(before: &PriceRow, after: &PriceRow) -> String {
    let rates = |row: &PriceRow| {
        let rates = &row.rates;
        [
            ("input", rates.input),
            ("output", rates.output),
            ("cache reads", rates.cache_read),
            ("cache writes", rates.cache_write_5m),
            ("long cache writes", rates.cache_write_1h),
            ("audio in", rates.audio_input),
            ("audio out", rates.audio_output),
            ("a thousand searches", rates.web_search / 1_000),
        ]
        .map(|(name, rate)| (name, Nanos(rate.saturating_mul(1_000)).precise()))
    };
    let factors = |row: &PriceRow| {
        [("United States", row.us_permille), ("fast mode", row.fast_permille)]
            .map(|(name, permille)| (name, format!("×{}.{:03}", permille / 1_000, permille % 1_000)))
    };
    let pairs =
        rates(before).into_iter().chain(factors(before)).zip(rates(after).into_iter().chain(factors(after)));
    let told: Vec<String> = pairs
        .filter(|((_, was), (_, is))| was != is)
        .map(|((name, was), (_, is))| format!("{name} {was} → {is}"))
        .collect();
    told.join(", ")
}

/// Asks on the terminal; without one nothing is agreed to.
fn agreed() -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err("there is no terminal to ask on: look at the list, and give --yes".into());
    }
    print!("Write them? [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
