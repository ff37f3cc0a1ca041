//! `keyward doctor`: checks what Keyward depends on, one line each.

use std::process::ExitCode;
use std::time::Duration;

use super::Failure;
use crate::config::Settings;
use crate::crypto::keyring::Keyring;
use crate::crypto::root::RootKeys;
use crate::crypto::secret::Secret;
use crate::domain::provider_key::{KeySettings, Provider};
use crate::outbound::{Outbound, Parts, Trust};
use crate::providers::{self, Credential};
use crate::storage::{Database, root};

/// Runs every check, even after one that failed, and exits 1 if any did.
pub async fn run(settings: &Settings) -> Result<ExitCode, Failure> {
    let mut healthy = true;
    let mut tell = |what: &str, outcome: Result<String, Failure>| match outcome {
        Ok(detail) => println!("ok    {what}: {detail}"),
        Err(error) => {
            healthy = false;
            println!("FAIL  {what}: {error}");
        }
    };
    tell("settings", check_settings(settings));
    let database = match connect(settings).await {
        Ok(database) => {
            tell("database", Ok(format!("{} answers", database.kind())));
            Some(database)
        }
        Err(error) => {
            tell("database", Err(error));
            None
        }
    };
    tell("keyring", check_keyring(settings, database.as_ref()).await);
    for provider in REACHED {
        tell(provider.as_str(), check_provider(settings, provider).await);
    }
    tell("mail", check_mail(settings).await);
    tell("payments", check_payments(settings));
    if let Some(database) = database {
        database.close().await;
    }
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check_settings(settings: &Settings) -> Result<String, Failure> {
    let url = settings.public_url()?;
    settings.origins()?;
    settings.url_policy()?;
    let warning = if url.starts_with("http://") && !url.starts_with("http://localhost") {
        " (without https, cookies and keys travel in the clear)"
    } else {
        ""
    };
    Ok(format!("the console is reached at {url}{warning}"))
}

async fn check_mail(settings: &Settings) -> Result<String, Failure> {
    match settings.mail.mailer(&settings.product_name)? {
        None => Ok("none is set; notifications stay in the console and go to webhooks".to_owned()),
        Some(mailer) => match mailer.reach().await {
            Ok(()) => Ok("the mail server takes the connection and the password".to_owned()),
            Err(failure) => Err(failure.text.into()),
        },
    }
}

fn check_payments(settings: &Settings) -> Result<String, Failure> {
    Ok(match settings.payments.provider()? {
        None => "none are set; super admins grant credits".to_owned(),
        Some(payments) => format!("credits are sold by {}", payments.method()),
    })
}

async fn connect(settings: &Settings) -> Result<Database, Failure> {
    let url = settings.database_url()?;
    if let Some(path) = url.expose().strip_prefix("sqlite:")
        && !std::path::Path::new(path).exists()
    {
        return Err("there is no database yet; the first `keyward serve` makes one".into());
    }
    Ok(Database::connect(url.expose()).await?)
}

async fn check_keyring(settings: &Settings, database: Option<&Database>) -> Result<String, Failure> {
    let path = settings.keyring_path();
    if !path.exists() {
        return Err(
            format!("there is none at {} yet; the first `keyward serve` makes one", path.display()).into()
        );
    }
    let keyring = Keyring::load(&path)?;
    let (ids, active) = keyring.ids();
    let held = format!("{} holds {} key(s), {active} active", path.display(), ids.len());
    let Some(database) = database else { return Ok(held) };
    let mut tx = database.read().await?;
    match root::find_root(&mut tx).await? {
        None => Ok(format!("{held}; the database is empty")),
        Some(sealed) => {
            RootKeys::open(&keyring, &sealed)?;
            Ok(format!("{held}; it opens the database"))
        }
    }
}

/// The providers that have an origin of the operator's to ask at.
const REACHED: [Provider; 3] = [Provider::Anthropic, Provider::Openai, Provider::Google];

/// Any answer will do: without a real key the provider can only say that it takes none.
async fn check_provider(settings: &Settings, provider: Provider) -> Result<String, Failure> {
    let origins = settings.origins()?;
    let outbound = Outbound::new(Parts::default())?;
    let nobody = Secret::new("none".to_owned());
    let none = KeySettings::default();
    let credential =
        Credential { secret: &nobody, custom_url: None, settings: &none, origins: &origins, bearer: None };
    let provider = providers::of(provider);
    let (_, request) =
        provider.probe(&credential, provider.spec().probe_model)?.into_iter().next().ok_or("no probe")?;
    let origin = request.url.origin().ascii_serialization();
    let setting = provider.spec().kind.as_str().to_uppercase();
    let answer = outbound
        .send(request, Trust::Operator, Duration::from_secs(10))
        .await
        .map_err(|error| format!("{error} at {origin}; check the network, or KEYWARD_{setting}_URL"))?;
    Ok(format!("{origin} answers with status {}", answer.status))
}
