//! `keyward user …` and `keyward token …`.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Subcommand;

use super::Failure;
use crate::access::scope::Scope;
use crate::config::Settings;
use crate::crypto::secret::Secret;
use crate::domain::account::{Email, KeyChangers, PlatformRole, TenantRole};
use crate::domain::audit::AuditActor;
use crate::domain::ids::{Owner, TenantId, TokenId};
use crate::services::provider_keys::Holder;
use crate::services::tokens::NewToken;
use crate::services::{ServiceError, Services};
use crate::startup::{self, Replacements};

#[derive(Debug, Subcommand)]
pub enum User {
    /// Make a user, or add one to a tenant; prints a one-time link to choose a password
    Create {
        email: String,
        /// `super_admin` or support; or, with --tenant, admin, `billing_admin` or member
        #[arg(long)]
        role: String,
        /// Slug of the tenant
        #[arg(long)]
        tenant: Option<String>,
        /// Read the password from a file in place of printing a link
        #[arg(long)]
        password_file: Option<PathBuf>,
        #[command(flatten)]
        settings: Settings,
    },
    /// Print a one-time link by which a user chooses a new password
    ResetPassword {
        email: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// Take a user's authenticator app, passkeys and recovery codes away: for who has lost them all
    RemoveSecondFactor {
        email: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// Let a user in again who was locked out
    Enable {
        email: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// Lock a user out and end their sessions
    Disable {
        email: String,
        #[command(flatten)]
        settings: Settings,
    },
}

#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make an access token and print it; it cannot be shown again
    Create {
        /// What it is for
        #[arg(long)]
        name: String,
        /// Slug of the tenant that it acts for
        #[arg(long, required_unless_present = "service", conflicts_with = "service")]
        tenant: Option<String>,
        /// A service token, which acts for the tenant that a request names
        #[arg(long)]
        service: bool,
        /// Days until it expires
        #[arg(long)]
        days: Option<u32>,
        /// What it may do: gateway, usage:read, keys:read, keys:write; may be given several times
        #[arg(long = "scope", default_value = "gateway")]
        scopes: Vec<String>,
        #[command(flatten)]
        settings: Settings,
    },
}

impl User {
    pub async fn run(self) -> Result<(), Failure> {
        let by = AuditActor::system("keyward user");
        match self {
            Self::Create { email, role, tenant, password_file, settings } => {
                let services = startup::open(&settings, Replacements::default()).await?;
                let email = parse_email(&email)?;
                let password = match password_file {
                    Some(path) => Some(Secret::new(std::fs::read_to_string(path)?.trim_end().to_owned())),
                    None => None,
                };
                let (platform, place) = match &tenant {
                    None if TenantRole::parse(&role).is_some() => {
                        return Err(format!("{role} is a role in a tenant: add --tenant SLUG").into());
                    }
                    None => {
                        (Some(PlatformRole::parse(&role).ok_or("--role is super_admin or support")?), None)
                    }
                    Some(slug) => {
                        let role = TenantRole::parse(&role)
                            .ok_or("with --tenant, --role is admin, billing_admin or member")?;
                        (None, Some((find_tenant(&services, slug).await?, role)))
                    }
                };
                let link =
                    services.create_user(&by, &email, platform, place, password).await.map_err(told)?;
                match link {
                    Some(link) => println!("{email} can choose a password, within a day, at:\n  {link}"),
                    None => println!("{email} can sign in."),
                }
                services.db.close().await;
            }
            Self::ResetPassword { email, settings } => {
                let services = startup::open(&settings, Replacements::default()).await?;
                let email = parse_email(&email)?;
                let link = services.reset_link(&by, &email).await.map_err(told)?;
                println!("{email} can choose a new password, within a day, at:\n  {link}");
                services.db.close().await;
            }
            Self::RemoveSecondFactor { email, settings } => {
                let services = startup::open(&settings, Replacements::default()).await?;
                let email = parse_email(&email)?;
                services.remove_second_factors(&by, &email).await.map_err(told)?;
                println!("{email} signs in with the password alone until they set a second factor up again.");
                services.db.close().await;
            }
            Self::Enable { email, settings } => {
                let services = startup::open(&settings, Replacements::default()).await?;
                let email = parse_email(&email)?;
                services.enable_user(&by, &email).await.map_err(told)?;
                println!("{email} can sign in again.");
                services.db.close().await;
            }
            Self::Disable { email, settings } => {
                let services = startup::open(&settings, Replacements::default()).await?;
                let email = parse_email(&email)?;
                services.disable_user(&by, &email).await.map_err(told)?;
                println!("{email} is locked out.");
                services.db.close().await;
            }
        }
        Ok(())
    }
}

impl Token {
    pub async fn run(self) -> Result<(), Failure> {
        let Self::Create { name, tenant, days, scopes, settings, service: _ } = self;
        let services = startup::open(&settings, Replacements::default()).await?;
        let owner = match &tenant {
            Some(slug) => Owner::Tenant(find_tenant(&services, slug).await?),
            None => Owner::Platform,
        };
        let holder = Holder { scope: Scope::of_system(owner), changers: KeyChangers::Admins };
        let new = NewToken {
            id: TokenId::new(),
            name,
            days: days.map(|days| days.to_string()).unwrap_or_default(),
            scopes,
        };
        let by = AuditActor::system("keyward token");
        let made = services.make_token(&by, holder, &new).await.map_err(told)?;
        eprintln!("This token is shown only now:");
        println!("{}", made.secret.expose());
        services.db.close().await;
        Ok(())
    }
}

fn parse_email(text: &str) -> Result<Email, Failure> {
    Email::parse(text).ok_or_else(|| format!("{text} is not an e-mail address").into())
}

async fn find_tenant(services: &Arc<Services>, slug: &str) -> Result<TenantId, Failure> {
    services.directory.tenant_id(slug).await?.ok_or_else(|| format!("there is no tenant {slug}").into())
}

/// On a command line there is no field to put a problem at.
fn told(error: ServiceError) -> Failure {
    match error {
        ServiceError::Invalid(problems) => {
            let sentences: Vec<String> = problems.fields.into_iter().map(|(_, message)| message).collect();
            sentences.join(" ").into()
        }
        ServiceError::NotFound => "there is no such user".into(),
        error => error.into(),
    }
}
