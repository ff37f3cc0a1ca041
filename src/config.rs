//! Settings: environment variables, with flags of the same names.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use url::Url;

use crate::crypto::secret::Secret;
use crate::domain::endpoint::UrlPolicy;
use crate::outbound::mail::{MailSetupError, Mailer};
use crate::providers::Origins;
use crate::providers::payment::{Manual, Payments};
use crate::providers::stripe::Stripe;
use crate::services::audit_log::AuditOptions;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Settings of every command that works on an installation.
#[derive(Clone, Debug, Args)]
pub struct Settings {
    /// Address and port to listen on
    #[arg(long, env = "KEYWARD_BIND", default_value = "127.0.0.1:8080")]
    pub bind: SocketAddr,

    /// Folder for the SQLite database and the master keyring
    #[arg(long, env = "KEYWARD_DATA_DIR", default_value = "./data")]
    pub data_dir: PathBuf,

    /// sqlite:PATH or postgres://… [default: keyward.db in the data folder]
    #[arg(long, env = "KEYWARD_DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,

    /// File that holds the database URL, in place of `KEYWARD_DATABASE_URL`
    #[arg(long, env = "KEYWARD_DATABASE_URL_FILE", conflicts_with = "database_url")]
    pub database_url_file: Option<PathBuf>,

    /// The master keyring, mode 0400 [default: master-keys in the data folder]
    #[arg(long, env = "KEYWARD_MASTER_KEYS_FILE")]
    pub master_keys_file: Option<PathBuf>,

    /// Origin that Anthropic requests go to
    #[arg(long, env = "KEYWARD_ANTHROPIC_URL", default_value = "https://api.anthropic.com")]
    pub anthropic_url: String,

    /// Origin that `OpenAI` requests go to
    #[arg(long, env = "KEYWARD_OPENAI_URL", default_value = "https://api.openai.com")]
    pub openai_url: String,

    /// Origin that Google AI Studio requests go to
    #[arg(long, env = "KEYWARD_GOOGLE_URL", default_value = "https://generativelanguage.googleapis.com")]
    pub google_url: String,

    /// Origin that Vertex AI requests go to [default: the one of the key's location]
    #[arg(long, env = "KEYWARD_VERTEX_URL")]
    pub vertex_url: Option<String>,

    /// Origin or URL that gives Google access tokens for service accounts
    #[arg(long, env = "KEYWARD_GOOGLE_TOKEN_URL", default_value = "https://oauth2.googleapis.com/token")]
    pub google_token_url: String,

    #[command(flatten)]
    pub endpoints: EndpointSettings,

    /// Name of your product, as pages call the shared account
    #[arg(long, env = "KEYWARD_PRODUCT_NAME", default_value = "Keyward")]
    pub product_name: String,

    #[command(flatten)]
    pub mail: MailSettings,

    #[command(flatten)]
    pub payments: PaymentSettings,

    #[command(flatten)]
    pub audit: AuditSettings,

    /// Ask staff for a second factor before any page but their own account
    #[arg(long, env = "KEYWARD_STAFF_SECOND_FACTOR")]
    pub staff_second_factor: bool,

    /// Log format
    #[arg(long, env = "KEYWARD_LOG", value_enum, default_value_t)]
    pub log: LogFormat,

    /// Address and port for Prometheus metrics; none without it
    #[arg(long, env = "KEYWARD_METRICS_BIND")]
    pub metrics_bind: Option<SocketAddr>,

    /// Proxies whose X-Forwarded-For counts, comma-separated addresses
    #[arg(long, env = "KEYWARD_TRUSTED_PROXIES", value_delimiter = ',')]
    pub trusted_proxies: Vec<IpAddr>,

    /// Items of the community manager's queue that are written at the same time
    #[arg(long, env = "KEYWARD_GENERATIONS_AT_ONCE", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub generations_at_once: u16,

    /// Seconds that streams may take to finish after a request to stop
    #[arg(long, env = "KEYWARD_SHUTDOWN_SECONDS", default_value_t = 600)]
    pub shutdown_seconds: u64,
}

/// What becomes of the audit log besides.
#[derive(Clone, Debug, Default, Args)]
pub struct AuditSettings {
    /// File to which the signed heads of the audit log are appended every hour
    #[arg(long = "audit-heads-file", env = "KEYWARD_AUDIT_HEADS_FILE")]
    pub heads_file: Option<PathBuf>,

    /// URL to which they are posted every hour
    #[arg(long = "audit-heads-url", env = "KEYWARD_AUDIT_HEADS_URL", hide_env_values = true)]
    pub heads_url: Option<url::Url>,

    /// Days after which entries are sealed and dropped; without it they are kept for good
    #[arg(long = "audit-retention-days", env = "KEYWARD_AUDIT_RETENTION_DAYS", value_parser = clap::value_parser!(u32).range(30..=36_500))]
    pub retention_days: Option<u32>,
}

impl AuditSettings {
    pub fn options(&self) -> AuditOptions {
        AuditOptions {
            heads_file: self.heads_file.clone(),
            heads_url: self.heads_url.clone(),
            retention_days: self.retention_days,
        }
    }
}

/// The mail server that notifications go out by. Without one, they are in the console alone.
#[derive(Clone, Debug, Default, Args)]
pub struct MailSettings {
    /// <smtps://USER:PASSWORD@HOST:PORT>; `smtp://…?tls=required` for STARTTLS
    #[arg(long, env = "KEYWARD_SMTP_URL", hide_env_values = true)]
    pub smtp_url: Option<String>,

    /// File that holds the mail server's URL, in place of `KEYWARD_SMTP_URL`
    #[arg(long, env = "KEYWARD_SMTP_URL_FILE", conflicts_with = "smtp_url")]
    pub smtp_url_file: Option<PathBuf>,

    /// Address that e-mail comes from
    #[arg(long, env = "KEYWARD_MAIL_FROM")]
    pub mail_from: Option<String>,
}

impl MailSettings {
    /// The mailer, if a mail server is set.
    ///
    /// # Errors
    /// When a setting is missing or is not what it should be.
    pub fn mailer(&self, name: &str) -> Result<Option<Mailer>, ConfigError> {
        let Some(url) = secret(self.smtp_url.as_deref(), self.smtp_url_file.as_deref())? else {
            return Ok(None);
        };
        let from = self
            .mail_from
            .as_deref()
            .ok_or(ConfigError::Missing { name: "KEYWARD_MAIL_FROM", with: "KEYWARD_SMTP_URL" })?;
        Ok(Some(Mailer::new(&url, from, name)?))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum PaymentKind {
    /// Credits are granted by super admins alone
    #[default]
    None,
    /// Tenants order, pay as the instructions say, and a super admin enters what has arrived
    Manual,
    /// Tenants pay by Stripe Checkout
    Stripe,
}

/// How tenants buy credits.
#[derive(Clone, Debug, Default, Args)]
pub struct PaymentSettings {
    /// How tenants buy credits
    #[arg(long = "payments", env = "KEYWARD_PAYMENTS", value_enum, default_value_t)]
    pub kind: PaymentKind,

    /// With manual payments: how to pay, as the tenant reads it
    #[arg(long, env = "KEYWARD_PAYMENT_INSTRUCTIONS")]
    pub payment_instructions: Option<String>,

    /// Origin that Stripe requests go to [default: <https://api.stripe.com>]
    #[arg(long, env = "KEYWARD_STRIPE_URL")]
    pub stripe_url: Option<String>,

    /// Stripe's secret key, `sk_…`, or a restricted one that may write Checkout sessions
    #[arg(long, env = "KEYWARD_STRIPE_SECRET_KEY", hide_env_values = true)]
    pub stripe_secret_key: Option<String>,

    /// File that holds it, in place of `KEYWARD_STRIPE_SECRET_KEY`
    #[arg(long, env = "KEYWARD_STRIPE_SECRET_KEY_FILE", conflicts_with = "stripe_secret_key")]
    pub stripe_secret_key_file: Option<PathBuf>,

    /// Signing secret of the endpoint /webhooks/stripe, `whsec_…`
    #[arg(long, env = "KEYWARD_STRIPE_WEBHOOK_SECRET", hide_env_values = true)]
    pub stripe_webhook_secret: Option<String>,

    /// File that holds it, in place of `KEYWARD_STRIPE_WEBHOOK_SECRET`
    #[arg(long, env = "KEYWARD_STRIPE_WEBHOOK_SECRET_FILE", conflicts_with = "stripe_webhook_secret")]
    pub stripe_webhook_secret_file: Option<PathBuf>,
}

impl PaymentSettings {
    /// The payment provider, if one is set.
    ///
    /// # Errors
    /// When what it needs is missing or empty: without a signing secret, anybody could say that
    /// they have paid.
    pub fn provider(&self) -> Result<Option<Box<dyn Payments>>, ConfigError> {
        let missing = |name, with| ConfigError::Missing { name, with };
        Ok(match self.kind {
            PaymentKind::None => None,
            PaymentKind::Manual => {
                let text = self.payment_instructions.as_deref().unwrap_or_default().trim();
                if text.is_empty() {
                    return Err(missing("KEYWARD_PAYMENT_INSTRUCTIONS", "KEYWARD_PAYMENTS=manual"));
                }
                Some(Box::new(Manual { instructions: text.to_owned() }))
            }
            PaymentKind::Stripe => {
                let needed = |value: &Option<String>, file: &Option<PathBuf>, name| {
                    secret(value.as_deref(), file.as_deref())?
                        .ok_or_else(|| missing(name, "KEYWARD_PAYMENTS=stripe"))
                };
                let url = self.stripe_url.as_deref().unwrap_or("https://api.stripe.com");
                Some(Box::new(Stripe {
                    origin: origin("KEYWARD_STRIPE_URL", url)?,
                    secret_key: needed(
                        &self.stripe_secret_key,
                        &self.stripe_secret_key_file,
                        "KEYWARD_STRIPE_SECRET_KEY",
                    )?,
                    webhook_secret: needed(
                        &self.stripe_webhook_secret,
                        &self.stripe_webhook_secret_file,
                        "KEYWARD_STRIPE_WEBHOOK_SECRET",
                    )?,
                }))
            }
        })
    }
}

/// What the policy for tenants' URLs needs to know.
#[derive(Clone, Debug, Default, Args)]
pub struct EndpointSettings {
    /// Where people reach the console; https turns on secure cookies [default: <http://localhost:PORT>]
    #[arg(long, env = "KEYWARD_PUBLIC_URL")]
    pub public_url: Option<String>,

    /// Origins that tenants' URLs may lead to although the policy refuses them, comma-separated
    #[arg(long, env = "KEYWARD_ALLOWED_ENDPOINTS", value_delimiter = ',')]
    pub allowed_endpoints: Vec<String>,

    /// Origins that tenants' webhooks may lead to although the policy refuses them, comma-separated
    #[arg(long, env = "KEYWARD_ALLOWED_WEBHOOKS", value_delimiter = ',')]
    pub allowed_webhooks: Vec<String>,

    /// Origins of tenants' identity providers although the policy refuses them, comma-separated
    #[arg(long, env = "KEYWARD_ALLOWED_IDENTITY_PROVIDERS", value_delimiter = ',')]
    pub allowed_identity_providers: Vec<String>,
}

impl EndpointSettings {
    /// The policy for tenants' URLs.
    ///
    /// # Errors
    /// When a setting is not an origin.
    pub fn policy(&self) -> Result<UrlPolicy, ConfigError> {
        let own = self.public_url.as_deref().map(|url| origin("KEYWARD_PUBLIC_URL", url)).transpose()?;
        Ok(UrlPolicy {
            own_host: own.and_then(|url| url.host_str().map(str::to_owned)),
            allowed: origins_of("KEYWARD_ALLOWED_ENDPOINTS", &self.allowed_endpoints)?,
            allowed_webhooks: origins_of("KEYWARD_ALLOWED_WEBHOOKS", &self.allowed_webhooks)?,
            allowed_identity_providers: origins_of(
                "KEYWARD_ALLOWED_IDENTITY_PROVIDERS",
                &self.allowed_identity_providers,
            )?,
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{name} is not a URL that starts with http:// or https:// and has no path, and nothing else")]
    Url { name: &'static str },
    #[error("{name} is needed with {with}")]
    Missing { name: &'static str, with: &'static str },
    #[error("KEYWARD_SMTP_URL and KEYWARD_MAIL_FROM do not make a mailer")]
    Mail(#[from] MailSetupError),
}

impl Settings {
    /// The database's URL. May hold a password.
    ///
    /// # Errors
    /// When the file that should hold it cannot be read.
    pub fn database_url(&self) -> Result<Secret, ConfigError> {
        if let Some(path) = &self.database_url_file {
            return read_secret(path);
        }
        let default = || format!("sqlite:{}", self.data_dir.join("keyward.db").display());
        Ok(Secret::new(self.database_url.clone().unwrap_or_else(default)))
    }

    #[must_use]
    pub fn keyring_path(&self) -> PathBuf {
        self.master_keys_file.clone().unwrap_or_else(|| self.data_dir.join("master-keys"))
    }

    /// Where people reach the console, without a final slash.
    ///
    /// # Errors
    /// When what was set is not an origin.
    pub fn public_url(&self) -> Result<String, ConfigError> {
        match &self.endpoints.public_url {
            Some(url) => Ok(origin("KEYWARD_PUBLIC_URL", url)?.as_str().trim_end_matches('/').to_owned()),
            None => Ok(format!("http://localhost:{}", self.bind.port())),
        }
    }

    /// Where requests to providers go.
    ///
    /// # Errors
    /// When what was set is not an origin.
    pub fn origins(&self) -> Result<Origins, ConfigError> {
        let vertex = self.vertex_url.as_deref().map(|url| origin("KEYWARD_VERTEX_URL", url)).transpose()?;
        Ok(Origins {
            anthropic: origin("KEYWARD_ANTHROPIC_URL", &self.anthropic_url)?,
            openai: origin("KEYWARD_OPENAI_URL", &self.openai_url)?,
            google: origin("KEYWARD_GOOGLE_URL", &self.google_url)?,
            vertex,
            google_token: token_url(&self.google_token_url)?,
        })
    }

    /// The policy for tenants' URLs, which never lead to Keyward itself.
    ///
    /// # Errors
    /// When a setting is not an origin.
    pub fn url_policy(&self) -> Result<UrlPolicy, ConfigError> {
        EndpointSettings { public_url: Some(self.public_url()?), ..self.endpoints.clone() }.policy()
    }
}

/// A token endpoint has a path; one that is given as an origin has Google's.
fn token_url(value: &str) -> Result<Url, ConfigError> {
    let wrong = || ConfigError::Url { name: "KEYWARD_GOOGLE_TOKEN_URL" };
    let mut url = Url::parse(value).map_err(|_| wrong())?;
    let path = url.path().to_owned();
    url.set_path("/");
    let mut url = origin("KEYWARD_GOOGLE_TOKEN_URL", url.as_str())?;
    url.set_path(if path == "/" { "/token" } else { &path });
    Ok(url)
}

/// A secret from a setting or from the file that another one names; `None` for neither.
fn secret(value: Option<&str>, file: Option<&Path>) -> Result<Option<Secret>, ConfigError> {
    let found = match (value, file) {
        (Some(value), _) => Some(Secret::new(value.trim().to_owned())),
        (None, Some(path)) => Some(read_secret(path)?),
        (None, None) => None,
    };
    Ok(found.filter(|found| !found.is_empty()))
}

fn read_secret(path: &Path) -> Result<Secret, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::File { path: path.to_owned(), source })?;
    Ok(Secret::new(text.trim().to_owned()))
}

fn origins_of(name: &'static str, texts: &[String]) -> Result<Vec<String>, ConfigError> {
    let texts = texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty());
    texts.map(|text| Ok(origin(name, text)?.origin().ascii_serialization())).collect()
}

fn origin(name: &'static str, value: &str) -> Result<Url, ConfigError> {
    // What was set may hold a password: it is not repeated.
    let wrong = || ConfigError::Url { name };
    let url = Url::parse(value).map_err(|_| wrong())?;
    let plain = matches!(url.scheme(), "http" | "https")
        && url.host().is_some()
        && matches!(url.path(), "" | "/")
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    if plain { Ok(url) } else { Err(wrong()) }
}
