//! Furnishes a database for Keyward through its own services: what runs afterwards finds an
//! installation like any other.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use clap::Parser;
use keyward::access::actor::Actor;
use keyward::access::scope::Scope;
use keyward::config::Settings;
use keyward::crypto::secret::Secret;
use keyward::crypto::token;
use keyward::domain::account::{
    KeyChangers, PlatformRole, Proof, SecondFactorRule, Slug, Tenant, TenantRole, TenantState,
};
use keyward::domain::audit::AuditActor;
use keyward::domain::billing::{Funding, LimitPolicy, NoKeyPolicy, PaymentPolicy, UsageMode};
use keyward::domain::clock::{DAY, Moment};
use keyward::domain::ids::{Owner, PlanId, TenantId, UserId};
use keyward::domain::price::Multiplier;
use keyward::domain::provider_key::{KeySettings, Provider};
use keyward::services::Services;
use keyward::services::provider_keys::{Holder, NewKey};
use keyward::services::tokens::NewToken;
use keyward::startup::{self, Replacements};
use keyward::storage::tenants::{self, TenantRecord};
use keyward::storage::{Tx, plans};

use super::Failure;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    settings: Settings,
}

/// Opens the installation in `folder`, which is made if it is not there.
pub async fn open(folder: &Path, database: &str, sandbox: SocketAddr) -> Result<Arc<Services>, Failure> {
    let origin = format!("http://{sandbox}");
    let folder = folder.to_str().ok_or("the folder's name is not text")?;
    // Each is given as a flag, since a flag goes before whatever the environment holds.
    let line = ["bench", "--data-dir", folder, "--database-url", database];
    let origins =
        ["--anthropic-url", "--openai-url", "--google-url"].into_iter().flat_map(|flag| [flag, &origin]);
    let line = line.into_iter().chain(origins);
    let settings = Line::try_parse_from(line)?.settings;
    Ok(startup::open(&settings, Replacements::default()).await?)
}

/// A tenant on its own keys.
pub fn tenant(slug: &str, name: &str, plan_id: PlanId, now: Moment) -> Result<TenantRecord, Failure> {
    Ok(TenantRecord {
        tenant: Tenant {
            id: TenantId::new(),
            slug: Slug::parse(slug).ok_or("a slug that is none")?,
            name: name.to_owned(),
            plan_id,
            state: TenantState::Active,
            key_changers: KeyChangers::Admins,
            second_factor: SecondFactorRule::Optional,
            sso_required: false,
            sso_sessions_from: keyward::domain::clock::Moment(0),
            viewing: keyward::domain::viewing::ViewingRule::default(),
            rotation_days: keyward::domain::account::ROTATION_DAYS,
            time_zone: "Europe/Berlin".to_owned(),
            created_at: now.minus(90 * DAY),
        },
        policy: PaymentPolicy {
            mode: UsageMode::Byok,
            funding: Funding::Included,
            no_key: NoKeyPolicy::Block,
            on_limit: LimitPolicy::Pause,
            rate: Multiplier::LIST,
        },
    })
}

/// The plan that every database begins with.
pub async fn first_plan(tx: &mut Tx) -> Result<PlanId, Failure> {
    Ok(plans::list(tx).await?.first().ok_or("there is no plan")?.id)
}

pub fn holder(tenant: TenantId) -> Holder {
    Holder { scope: Scope::of_system(Owner::Tenant(tenant)), changers: KeyChangers::Admins }
}

/// Who does all this, for the audit log.
pub fn by() -> AuditActor {
    AuditActor::system("keyward bench")
}

/// Adds a key the way people do, with a live check against the sandbox.
pub async fn add_key(
    services: &Services,
    tenant: TenantId,
    provider: Provider,
    name: &str,
    secret: Secret,
) -> Result<(), Failure> {
    put_key(services, Some(tenant), provider, name, secret).await
}

/// Adds a key of the platform's, for managed use.
pub async fn share_key(services: &Services, provider: Provider, secret: Secret) -> Result<(), Failure> {
    put_key(services, None, provider, "shared", secret).await
}

async fn put_key(
    services: &Services,
    tenant: Option<TenantId>,
    provider: Provider,
    name: &str,
    secret: Secret,
) -> Result<(), Failure> {
    let actor = Actor {
        user_id: UserId::new(),
        email: "bench@keyward.example".to_owned(),
        platform_role: tenant.is_none().then_some(PlatformRole::SuperAdmin),
        memberships: tenant.map(|tenant| (tenant, TenantRole::Admin)).into_iter().collect(),
        confirmed_at: services.clock.now(),
        strong_at: services.clock.now(),
        address: None,
        request_id: None,
        by_token: false,
        on_behalf: None,
        proof: Proof::default(),
    };
    let new = NewKey {
        provider,
        secret,
        name: name.to_owned(),
        label: String::new(),
        custom_url: String::new(),
        settings: KeySettings::default(),
        switch_mode: false,
    };
    let holder = match tenant {
        Some(tenant) => holder(tenant),
        None => services.platform_holder(&actor).map_err(|error| format!("{error:?}"))?,
    };
    let added = services.add_key(&actor, holder, new).await;
    added.map_err(|error| format!("the key {name} was not taken: {error:?}"))?;
    Ok(())
}

/// What a test key of the sandbox that behaves as `word` says has after its provider's prefix.
pub fn key_body(word: &str) -> String {
    let random: String = token::random_text().chars().take(16).collect();
    format!("bench-{word}-{random}")
}

/// A test key for Anthropic.
pub fn sandbox_key(word: &str) -> Secret {
    Secret::new(format!("sk-ant-api03-{}", key_body(word)))
}

/// One tenant with a key for each dialect; gives its access token.
pub async fn furnish_one(services: &Services, key: &str) -> Result<String, Failure> {
    let now = services.clock.now();
    let mut tx = services.db.write().await?;
    let record = tenant("bench", "Bench", first_plan(&mut tx).await?, now)?;
    tenants::insert(&mut tx, &record).await?;
    tx.commit().await?;
    let tenant = record.tenant.id;
    for (provider, prefix) in
        [(Provider::Anthropic, "sk-ant-api03-"), (Provider::Openai, "sk-proj-"), (Provider::Google, "AQ.")]
    {
        let secret = Secret::new(format!("{prefix}{key}"));
        add_key(services, tenant, provider, provider.as_str(), secret).await?;
    }
    let new = NewToken {
        id: keyward::domain::ids::TokenId::new(),
        name: "Bench".to_owned(),
        days: String::new(),
        scopes: Vec::new(),
    };
    let made = services.make_token(&by(), holder(tenant), &new).await?;
    Ok(made.secret.expose().to_owned())
}
