//! `keyward audit verify` and `keyward audit head`.

use std::path::PathBuf;
use std::process::ExitCode;

use uuid::Uuid;

use super::Failure;
use crate::config::Settings;
use crate::crypto::keyring::Keyring;
use crate::crypto::root::RootKeys;
use crate::domain::clock::Clock;
use crate::services::audit_log::{read_heads, signed_heads};
use crate::storage::audit::{self, Damage};
use crate::storage::{Database, Tx, root, tenants};

#[derive(Debug, clap::Subcommand)]
pub enum Audit {
    /// Check every entry against its chain and every chain against its head; exits 1 on damage
    Verify(Verify),
    /// Print the heads of all chains, signed: kept elsewhere, they show when a log was cut short
    Head(Settings),
}

#[derive(Debug, clap::Args)]
pub struct Verify {
    /// File with lines of `keyward audit head`: what they say must still hold
    #[arg(long)]
    head: Option<PathBuf>,

    #[command(flatten)]
    settings: Settings,
}

impl Audit {
    pub async fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Verify(verify) => verify.run().await,
            Self::Head(settings) => {
                let (database, keys) = open(&settings).await?;
                let mut tx = database.read().await?;
                println!("{}", signed_heads(&keys, &audit::heads(&mut tx).await?, Clock::system().now()));
                tx.rollback().await?;
                database.close().await;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

/// The database as it is, and what its chains are made with.
async fn open(settings: &Settings) -> Result<(Database, RootKeys), Failure> {
    let url = settings.database_url()?;
    let file = url.expose().strip_prefix("sqlite:").map(std::path::Path::new);
    if file.is_some_and(|file| !file.exists()) {
        return Err("there is no database yet; the first `keyward serve` makes one".into());
    }
    let keyring = Keyring::load(&settings.keyring_path())?;
    let database = Database::connect(url.expose()).await?;
    let mut tx = database.read().await?;
    let sealed = root::find_root(&mut tx).await?.ok_or("the database is empty")?;
    tx.rollback().await?;
    let keys = RootKeys::open(&keyring, &sealed)?;
    Ok((database, keys))
}

impl Verify {
    async fn run(self) -> Result<ExitCode, Failure> {
        let (database, keys) = open(&self.settings).await?;
        let mut tx = database.snapshot().await?;
        let (entries, damaged) = audit::verify(&mut tx, &keys).await?;
        let mut wrong = Vec::new();
        for (chain, damage) in damaged {
            wrong.push(format!("{}: {}", named(&mut tx, chain).await?, told(damage)));
        }
        let now = audit::heads(&mut tx).await?;
        let mut lines = 0;
        if let Some(path) = &self.head {
            let text = std::fs::read_to_string(path)
                .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
            for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
                lines += 1;
                let Some((at, heads)) = read_heads(&keys, line) else {
                    wrong.push(format!(
                        "line {} of {} is not signed by this installation",
                        number + 1,
                        path.display()
                    ));
                    continue;
                };
                for head in heads {
                    // What was sealed since is gone; verify has seen that the log itself says so.
                    let seal = now.iter().find(|known| known.chain == head.chain);
                    let seal = seal.and_then(|known| known.sealed.as_ref());
                    if seal.is_some_and(|seal| {
                        head.seq < seal.through || (head.seq == seal.through && head.link == seal.link)
                    }) {
                        continue;
                    }
                    if audit::link_of(&mut tx, head.chain, head.seq).await?.as_ref() != Some(&head.link) {
                        let name = named(&mut tx, head.chain).await?;
                        wrong.push(format!(
                            "{name}: entry {} is not what it was at {at}, or is gone",
                            head.seq
                        ));
                    }
                }
            }
        }
        if self.head.is_some() && lines == 0 {
            wrong.push("there is no head in the file: it was emptied, or never written to".to_owned());
        }
        tx.rollback().await?;
        database.close().await;
        for line in &wrong {
            println!("DAMAGED  {line}");
        }
        if wrong.is_empty() {
            let heads = if lines > 0 { format!(", and {lines} kept heads hold") } else { String::new() };
            println!("The audit log is whole: {entries} entries{heads}.");
            return Ok(ExitCode::SUCCESS);
        }
        Ok(ExitCode::FAILURE)
    }
}

async fn named(tx: &mut Tx, chain: Uuid) -> Result<String, Failure> {
    if chain.is_nil() {
        return Ok("the platform's log".to_owned());
    }
    let found = tenants::find(tx, crate::domain::ids::TenantId(chain)).await?;
    Ok(found.map_or_else(
        || format!("the log of {chain}, which is no tenant"),
        |record| format!("the log of {}", record.tenant.slug),
    ))
}

fn told(damage: Damage) -> String {
    match damage {
        Damage::Missing(seq) => format!("entry {seq} is missing"),
        Damage::Altered(seq) => format!("entry {seq} was changed, or stands in the wrong place"),
        Damage::CutShort { last, head } => format!("the entries after {last} are missing; there were {head}"),
        Damage::NoHead => "its head is missing".to_owned(),
        Damage::NotSealed(through) => {
            format!("the entries through {through} are gone, and nothing says that they were sealed")
        }
        Damage::HeadAltered => "its head was changed, or entries were added behind Keyward's back".to_owned(),
    }
}
