//! Settings: environment variables, with flags of the same names.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use url::Url;

use crate::crypto::secret::Secret;

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

    /// Where people reach the console; https turns on secure cookies [default: <http://localhost:PORT>]
    #[arg(long, env = "KEYWARD_PUBLIC_URL")]
    pub public_url: Option<String>,

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

    /// Name of your product, as pages call the shared account
    #[arg(long, env = "KEYWARD_PRODUCT_NAME", default_value = "Keyward")]
    pub product_name: String,

    /// Log format
    #[arg(long, env = "KEYWARD_LOG", value_enum, default_value_t)]
    pub log: LogFormat,

    /// Address and port for Prometheus metrics; none without it
    #[arg(long, env = "KEYWARD_METRICS_BIND")]
    pub metrics_bind: Option<SocketAddr>,

    /// Proxies whose X-Forwarded-For counts, comma-separated addresses
    #[arg(long, env = "KEYWARD_TRUSTED_PROXIES", value_delimiter = ',')]
    pub trusted_proxies: Vec<IpAddr>,

    /// Seconds that streams may take to finish after a request to stop
    #[arg(long, env = "KEYWARD_SHUTDOWN_SECONDS", default_value_t = 600)]
    pub shutdown_seconds: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{name} is not a URL that starts with http:// or https:// and has no path, and nothing else")]
    Url { name: &'static str },
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
        match &self.public_url {
            Some(url) => Ok(origin("KEYWARD_PUBLIC_URL", url)?.as_str().trim_end_matches('/').to_owned()),
            None => Ok(format!("http://localhost:{}", self.bind.port())),
        }
    }

    /// # Errors
    /// When what was set is not an origin.
    pub fn anthropic_origin(&self) -> Result<Url, ConfigError> {
        origin("KEYWARD_ANTHROPIC_URL", &self.anthropic_url)
    }
}

fn read_secret(path: &Path) -> Result<Secret, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::File { path: path.to_owned(), source })?;
    Ok(Secret::new(text.trim().to_owned()))
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
