//! `keyward master-key …`.

use clap::Subcommand;

use super::Failure;
use crate::config::Settings;
use crate::crypto::keyring::Keyring;
use crate::crypto::root::RootKeys;
use crate::storage::{Database, root};

#[derive(Debug, Subcommand)]
pub enum MasterKey {
    /// Write a new keyring; an existing one is left alone
    Generate(Settings),
    /// Say which keys the keyring holds and whether it opens the database
    Status(Settings),
}

impl MasterKey {
    pub async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Generate(settings) => {
                let path = settings.keyring_path();
                if let Some(folder) = path.parent() {
                    std::fs::create_dir_all(folder)?;
                }
                Keyring::generate().create(&path)?;
                println!(
                    "A new keyring was written to {}. Back it up apart from the database.",
                    path.display()
                );
                Ok(())
            }
            Self::Status(settings) => status(&settings).await,
        }
    }
}

async fn status(settings: &Settings) -> Result<(), Failure> {
    let path = settings.keyring_path();
    let keyring = Keyring::load(&path)?;
    let (ids, active) = keyring.ids();
    println!("Keyring: {}", path.display());
    for id in ids {
        println!("  key {id}{}", if id == active { ", active" } else { "" });
    }
    let url = settings.database_url()?;
    let file = url.expose().strip_prefix("sqlite:").map(std::path::Path::new);
    if file.is_some_and(|file| !file.exists()) {
        println!("There is no database yet: the keyring will be used from its first start on.");
        return Ok(());
    }
    // Looked at as it is: a newer binary must not change the schema of a running installation.
    let database = Database::connect(url.expose()).await?;
    let mut tx = database.read().await?;
    let sealed = root::find_root(&mut tx).await?;
    tx.rollback().await?;
    match sealed {
        None => println!("The database is empty: the keyring will be used from its first start on."),
        Some(sealed) => {
            RootKeys::open(&keyring, &sealed)?;
            println!("It opens this database.");
        }
    }
    database.close().await;
    Ok(())
}
