//! The demo's sample data: a platform, its tenants in every state worth seeing, and sixty days of
//! plausible usage. Keys are added the way people add them, by a live check against the sandbox.

use std::collections::{BTreeMap, BTreeSet};

use super::Failure;
use super::demo::{Card, CardUser};
use super::demo_samples::{FEATURES, PEOPLE, PLANS, POSTS, QUESTIONS, SAMPLES, Sample, ShippedFeature};
use crate::access::actor::Actor;
use crate::access::scope::Scope;
use crate::crypto::secret::Secret;
use crate::crypto::token;
use crate::domain::account::{
    Email, KeyChangers, PlatformRole, Proof, ROTATION_DAYS, SecondFactorRule, Slug, Tenant, TenantRole,
    TenantState,
};
use crate::domain::audit::AuditActor;
use crate::domain::billing::{EntryKind, Funding, OnReach, PaymentPolicy, UsageMode};
use crate::domain::clock::{DAY, HOUR, MINUTE, Moment, SECOND};
use crate::domain::ids::{KeyId, Owner, PlanId, RequestId, TenantId, TokenId, UserId};
use crate::domain::money::Nanos;
use crate::domain::plan::{Feature, Plan, TokenBudget};
use crate::domain::price::Multiplier;
use crate::domain::provider_key::{KeySettings, Provider};
use crate::domain::statement::PlanTerms;
use crate::domain::usage::{Dialect, Labels, ServedAs, TokenUsage, UsageRow, UsageState};
use crate::services::Services;
use crate::services::budgets::TypedBudget;
use crate::services::generations::NewGeneration;
use crate::services::provider_keys::{Holder, NewKey};
use crate::services::questions::NewQuestion;
use crate::services::tokens::{NewToken, TokenScope};
use crate::storage::credits::{self, NewEntry};
use crate::storage::tenants::TenantRecord;
use crate::storage::{changes, holds, plans, statements, tenants};

const DAYS: i64 = 60;

/// The tenant that the demo makes its first real call for.
pub const FIRST_CALLER: &str = "northwind";

/// Plants everything into an empty database and gives the card.
pub async fn plant(services: &Services, sandbox_url: String) -> Result<Card, Failure> {
    let now = services.clock.now();
    let plan_ids = plant_plans(services, now).await?;
    let tenant_ids = plant_tenants(services, &plan_ids, now).await?;
    let users = plant_people(services, &tenant_ids).await?;
    let shared = plant_shared_keys(services).await?;
    let mut tokens = BTreeMap::new();
    let by = AuditActor::system("keyward demo");
    for sample in SAMPLES {
        let tenant = tenant_ids[sample.slug];
        let holder = holder(Owner::Tenant(tenant));
        let keys = plant_keys(services, sample, tenant).await?;
        plant_usage(services, sample, tenant, &keys, shared, now).await?;
        if sample.answers {
            let new = new_token("Demo");
            let made = services.make_token(&by, holder, &new).await?;
            tokens.insert(sample.slug.to_owned(), made.secret.expose().to_owned());
        }
    }
    plant_budget(services, tenant_ids["northwind"]).await?;
    for (kind, title, text) in POSTS {
        let (kind, title, text) = ((*kind).to_owned(), (*title).to_owned(), (*text).to_owned());
        let new = NewGeneration { kind, reference: None, title, text };
        services.queue_generation(tenant_ids["umbrella"], new).await?;
    }
    let asked = |(asked, text, context): &(i64, &str, &str)| NewQuestion {
        reference: None,
        text: (*text).to_owned(),
        context: (*context).to_owned(),
        asked: *asked,
    };
    for slug in ["northwind", "umbrella"] {
        services.add_questions(tenant_ids[slug], QUESTIONS.iter().map(asked).collect()).await?;
    }
    let new = new_token("Acme backend");
    let service = services.make_token(&by, holder(Owner::Platform), &new).await?;
    Ok(Card {
        url: services.options.public_url.clone(),
        sandbox_url,
        users,
        tokens,
        service_token: service.secret.expose().to_owned(),
    })
}

/// A budget that warns.
async fn plant_budget(services: &Services, northwind: TenantId) -> Result<(), Failure> {
    let scope = Scope::of_system(Owner::Tenant(northwind));
    let view = services.directory.tenant(&scope).await?.ok_or("a sample tenant")?;
    let admin = actor(services, Some(northwind), "admin@northwind.example");
    let budget = TypedBudget {
        amount: "250".to_owned(),
        on_reach: OnReach::Warn.to_string(),
        warn_at: "50, 80, 100".to_owned(),
        ..TypedBudget::default()
    };
    services.set_budget(&admin, &scope, &view.tenant, &budget).await?;
    Ok(())
}

/// A token that may do all that tokens may.
fn new_token(name: &str) -> NewToken {
    let scopes = TokenScope::ALL.iter().map(ToString::to_string).collect();
    NewToken { id: TokenId::new(), name: name.to_owned(), days: String::new(), scopes }
}

fn holder(owner: Owner) -> Holder {
    Holder { scope: Scope::of_system(owner), changers: KeyChangers::Admins }
}

/// Somebody of the tenant, or of the platform, who has just confirmed their password.
fn actor(services: &Services, tenant: Option<TenantId>, email: &str) -> Actor {
    Actor {
        user_id: UserId::new(),
        email: email.to_owned(),
        platform_role: tenant.is_none().then_some(PlatformRole::SuperAdmin),
        memberships: tenant.map(|tenant| (tenant, TenantRole::Admin)).into_iter().collect(),
        confirmed_at: services.clock.now(),
        strong_at: services.clock.now(),
        address: None,
        request_id: None,
        by_token: false,
        on_behalf: None,
        proof: Proof::default(),
    }
}

async fn plant_plans(services: &Services, now: Moment) -> Result<BTreeMap<&'static str, PlanId>, Failure> {
    let mut ids = BTreeMap::new();
    let mut tx = services.db.write().await?;
    for (slug, name, description, covered, model, budget) in FEATURES {
        let feature = Feature {
            slug: (*slug).to_owned(),
            name: (*name).to_owned(),
            description: (*description).to_owned(),
            covered: *covered,
            default_model: Some((*model).to_owned()),
            // The three kinds of review go on and off together.
            switch: match budget {
                Some(_) => "ai_reviews_enabled".to_owned(),
                None => format!("ai_{}_enabled", slug.replace('-', "_")),
            },
            budget: budget.map(|(input, output)| TokenBudget { input, output }),
        };
        plans::insert_feature(&mut tx, &feature).await?;
    }
    // The plan that a fresh database begins with: the demo has its own.
    for plan in plans::list(&mut tx).await? {
        plans::remove(&mut tx, plan.id, now).await?;
    }
    for (slug, name, count, subscription, byok_permille) in PLANS {
        let plan = Plan {
            id: PlanId::new(),
            slug: (*slug).to_owned(),
            name: (*name).to_owned(),
            features: FEATURES
                .iter()
                .take(*count)
                .map(|feature| feature.0.to_owned())
                .collect::<BTreeSet<_>>(),
            models: BTreeSet::new(),
        };
        plans::insert(&mut tx, &plan).await?;
        let terms = PlanTerms {
            subscription: Nanos(*subscription * 1_000_000_000),
            endpoints_included: 5,
            endpoint_fee: Nanos(4_000_000_000),
            byok_permille: *byok_permille,
        };
        statements::set_terms(&mut tx, plan.id, &terms, now.minus((DAYS + 30) * DAY)).await?;
        ids.insert(*slug, plan.id);
    }
    changes::bump(&mut tx, Owner::Platform, now).await?;
    tx.commit().await?;
    services.directory.forget(Owner::Platform);
    Ok(ids)
}

async fn plant_tenants(
    services: &Services,
    plan_ids: &BTreeMap<&'static str, PlanId>,
    now: Moment,
) -> Result<BTreeMap<&'static str, TenantId>, Failure> {
    let mut ids = BTreeMap::new();
    let mut tx = services.db.write().await?;
    for sample in SAMPLES {
        let created_at = now.minus((DAYS + 30) * DAY);
        // The history begins managed; those who changed since have a second entry.
        let first_mode = if sample.switched.is_some() { UsageMode::Managed } else { sample.mode };
        let record = TenantRecord {
            tenant: Tenant {
                id: TenantId::new(),
                slug: Slug::parse(sample.slug).ok_or("a sample's slug")?,
                name: sample.name.to_owned(),
                plan_id: plan_ids[sample.plan],
                state: TenantState::Active,
                key_changers: KeyChangers::Admins,
                second_factor: SecondFactorRule::Optional,
                sso_required: false,
                sso_sessions_from: crate::domain::clock::Moment(0),
                viewing: crate::domain::viewing::ViewingRule::default(),
                rotation_days: ROTATION_DAYS,
                time_zone: sample.zone.to_owned(),
                created_at,
            },
            policy: PaymentPolicy {
                mode: first_mode,
                funding: sample.funding,
                no_key: sample.no_key,
                on_limit: sample.on_limit,
                rate: Multiplier::LIST,
            },
        };
        tenants::insert(&mut tx, &record).await?;
        if let Some(days) = sample.switched {
            let scope = Scope::of_system(Owner::Tenant(record.tenant.id));
            let at = now.minus(days * DAY);
            tenants::set_mode(&mut tx, &scope, UsageMode::Managed, UsageMode::Byok, at).await?;
        }
        ids.insert(sample.slug, record.tenant.id);
    }
    let northwind = Scope::of_system(Owner::Tenant(ids["northwind"]));
    plans::set_switch(&mut tx, &northwind, "ai_community_manager_enabled", false).await?;
    tx.commit().await?;
    Ok(ids)
}

async fn plant_people(
    services: &Services,
    tenant_ids: &BTreeMap<&'static str, TenantId>,
) -> Result<Vec<CardUser>, Failure> {
    let by = AuditActor::system("keyward demo");
    let mut users = Vec::new();
    for (email, role, tenant) in PEOPLE {
        let password: String = token::random_text().chars().take(20).collect();
        let address = Email::parse(email).ok_or("a sample's address")?;
        let place = match tenant {
            Some(slug) => Some((tenant_ids[slug], TenantRole::parse(role).ok_or("a sample's role")?)),
            None => None,
        };
        let secret = Some(Secret::new(password.clone()));
        services.create_user(&by, &address, PlatformRole::parse(role), place, secret).await?;
        users.push(CardUser {
            email: (*email).to_owned(),
            password,
            role: (*role).to_owned(),
            tenant: tenant.map(str::to_owned),
        });
    }
    // One person in two tenants, for the switcher.
    let address = Email::parse("admin@northwind.example").ok_or("a sample's address")?;
    services.create_user(&by, &address, None, Some((tenant_ids["globex"], TenantRole::Member)), None).await?;
    Ok(users)
}

/// A shared key for each dialect; gives Anthropic's.
async fn plant_shared_keys(services: &Services) -> Result<KeyId, Failure> {
    let person = actor(services, None, "root@acme.example");
    let holder = holder(Owner::Platform);
    let names = [
        (Provider::Anthropic, "shared"),
        (Provider::Openai, "shared-openai"),
        (Provider::Google, "shared-google"),
    ];
    for (provider, name) in names {
        let new = new_key(services, provider, name, "Acme's account", sandbox_key(provider, "ok", "shared"));
        services.add_key(&person, holder, new).await.map_err(|error| format!("{name}: {error:?}"))?;
    }
    let keys = services.keys(holder).await?;
    let anthropic = keys.iter().find(|key| key.provider == Provider::Anthropic);
    Ok(anthropic.ok_or("the shared key is missing")?.id)
}

/// A test key of the sandbox that behaves as `word` says.
fn sandbox_key(provider: Provider, word: &str, whose: &str) -> Secret {
    let random: String = token::random_text().chars().take(16).collect();
    let prefix = match provider {
        Provider::Anthropic => "sk-ant-api03-",
        Provider::Openai => "sk-proj-",
        Provider::Google => "AQ.",
        Provider::Vertex | Provider::Azure | Provider::Custom => "",
    };
    Secret::new(format!("{prefix}{whose}-{word}-{random}"))
}

/// A key as somebody would paste it. Those that need a URL get the sandbox's.
fn new_key(services: &Services, provider: Provider, name: &str, label: &str, secret: Secret) -> NewKey {
    let sandbox = services.options.urls.allowed.first();
    let custom_url = match provider {
        Provider::Azure => sandbox.cloned().unwrap_or_default(),
        Provider::Custom => sandbox.map(|origin| format!("{origin}/custom/v1")).unwrap_or_default(),
        _ => String::new(),
    };
    NewKey {
        provider,
        secret,
        name: name.to_owned(),
        label: label.to_owned(),
        custom_url,
        settings: KeySettings::default(),
        switch_mode: false,
    }
}

async fn plant_keys(
    services: &Services,
    sample: &Sample,
    tenant: TenantId,
) -> Result<Vec<(KeyId, String)>, Failure> {
    let holder = holder(Owner::Tenant(tenant));
    let email = format!("admin@{}.example", sample.slug);
    let person = actor(services, Some(tenant), &email);
    for (name, label, word) in sample.keys {
        let later = *word == "forbidden-later";
        let word = if later { "ok" } else { word };
        let secret = sandbox_key(Provider::Anthropic, word, sample.slug);
        let new = new_key(services, Provider::Anthropic, name, label, secret);
        services
            .add_key(&person, holder, new)
            .await
            .map_err(|error| format!("{} {name}: {error:?}", sample.slug))?;
        if later {
            revoke_behind_our_back(services, holder, name, tenant).await?;
        }
    }
    let keys = services.keys(holder).await?;
    for (provider, name, label) in sample.others {
        let new = new_key(services, *provider, name, label, sandbox_key(*provider, "ok", sample.slug));
        services
            .add_key(&person, holder, new)
            .await
            .map_err(|error| format!("{} {name}: {error:?}", sample.slug))?;
    }
    Ok(keys.into_iter().map(|key| (key.id, key.name.to_string())).collect())
}

/// The provider stops taking a key that it took before, as live traffic would find out.
async fn revoke_behind_our_back(
    services: &Services,
    holder: Holder,
    name: &str,
    tenant: TenantId,
) -> Result<(), Failure> {
    use crate::domain::provider_key::Verdict;
    use crate::services::key_states::Observation;
    let _ = tenant;
    let detail = services.key_detail(holder, name).await?;
    for _ in 0..2 {
        let key = &detail.line.key;
        let started = services.clock.now();
        let seen =
            Observation { key: key.id, version: key.current.version, verdict: Verdict::Rejected, started };
        services.apply(seen).await?;
    }
    Ok(())
}

/// A small generator whose numbers are the same on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below.max(1)
    }
}

async fn plant_usage(
    services: &Services,
    sample: &Sample,
    tenant: TenantId,
    keys: &[(KeyId, String)],
    shared: KeyId,
    now: Moment,
) -> Result<(), Failure> {
    let platform = services.directory.platform().await?;
    let included = PLANS.iter().find(|plan| plan.0 == sample.plan).map_or(0, |plan| plan.2);
    let features = &FEATURES[..included.max(1)];
    let mut dice = Dice(tenant_seed(sample.slug));
    let mut rows = Vec::new();
    for day in (0..DAYS).rev() {
        let weekend = (now.minus(day * DAY).0 / DAY + 4) % 7 >= 5;
        let busy = u64::from(sample.traffic) * (100 + u64::try_from(DAYS - day).unwrap_or(0)) / 130;
        let count = (busy * (60 + dice.roll(60)) / 100) / if weekend { 3 } else { 1 };
        for _ in 0..count {
            let moment = i64::try_from(dice.roll(14 * 60 * 60)).unwrap_or(0) * SECOND + 6 * HOUR;
            let at = Moment((now.minus(day * DAY).0 / DAY) * DAY + moment);
            if at >= now.minus(5 * MINUTE) {
                continue;
            }
            let feature = features[usize::try_from(dice.roll(features.len() as u64)).unwrap_or(0)];
            let own = feature.3 && sample.switched.is_some_and(|days| at >= now.minus(days * DAY));
            let (key_id, key_name) = match keys {
                [first, rest @ ..] if own => {
                    let second = rest.first().filter(|_| dice.roll(5) == 0);
                    second.unwrap_or(first).clone()
                }
                _ => (shared, "shared".to_owned()),
            };
            let mode = if own && !keys.is_empty() { UsageMode::Byok } else { UsageMode::Managed };
            rows.push(past_row(
                services,
                tenant,
                at,
                feature,
                (key_id, key_name),
                (mode, sample.funding),
                &mut dice,
                &platform.prices,
            ));
        }
    }
    if sample.funding == Funding::Credits {
        // Granted before all of it, as much as leaves little now.
        let used: i64 = rows.iter().map(|row| row.billed.0).sum();
        let mut tx = services.db.write().await?;
        let grant = NewEntry {
            at: now.minus((DAYS + 1) * DAY),
            kind: EntryKind::Grant,
            amount: Nanos(used.saturating_add(7_250_000_000)),
            reference: None,
            note: "Two months in advance",
            entered_by: "root@acme.example",
        };
        credits::enter(&mut tx, tenant, &grant).await?;
        credits::set_notify_below(&mut tx, &Scope::of_system(Owner::Tenant(tenant)), Nanos(25_000_000_000))
            .await?;
        tx.commit().await?;
    }
    rows.sort_by_key(|row| row.started_at);
    // Day by day, so that the ledger's lines are of the months that they are in.
    let zone = jiff::tz::TimeZone::get(sample.zone)?;
    for batch in rows.chunk_by(|a, b| a.started_at.date(&zone) == b.started_at.date(&zone)) {
        holds::record(&services.db, &[], batch, now).await?;
    }
    Ok(())
}

fn tenant_seed(slug: &str) -> u64 {
    slug.bytes().fold(7, |seed, byte| seed * 31 + u64::from(byte))
}

#[expect(clippy::too_many_arguments, reason = "each is a part of the row that it makes")]
fn past_row(
    services: &Services,
    tenant: TenantId,
    at: Moment,
    feature: ShippedFeature,
    key: (KeyId, String),
    (mode, funding): (UsageMode, Funding),
    dice: &mut Dice,
    prices: &crate::domain::price::PriceBook,
) -> UsageRow {
    let failed = dice.roll(300) == 0;
    let tokens = if failed {
        TokenUsage::default()
    } else {
        TokenUsage {
            input: 200 + dice.roll(1_800),
            cache_read: dice.roll(4) * 1_500,
            cache_write_5m: if dice.roll(6) == 0 { 1_500 } else { 0 },
            output: 80 + dice.roll(700),
            ..TokenUsage::default()
        }
    };
    let served = ServedAs::default();
    let rated = prices.rate(Provider::Anthropic, feature.4, &tokens, served, at);
    let cost = rated.map(|rated| rated.cost(Multiplier::LIST)).unwrap_or_default();
    let took = i64::try_from(900 + dice.roll(4_000)).unwrap_or(1_000) * 1_000;
    UsageRow {
        id: RequestId::new(),
        tenant_id: tenant,
        instance: services.instance,
        started_at: at,
        ended_at: Some(at.plus(took)),
        feature: feature.0.to_owned(),
        provider: Provider::Anthropic,
        dialect: Dialect::Anthropic,
        key_id: key.0,
        key_name: key.1,
        key_version: 1,
        mode,
        funding,
        fallback: None,
        model_asked: feature.4.to_owned(),
        model_served: (!failed).then(|| feature.4.to_owned()),
        labels: Labels { endpoint: Some(format!("web-{}", dice.roll(6) + 1)), session: None, prompt: None },
        tokens,
        served_as: served,
        raw_usage: None,
        rate: Multiplier::LIST,
        price_id: rated.map(|rated| rated.price_id),
        cost,
        billed: if mode == UsageMode::Managed && funding == Funding::Credits { cost } else { Nanos::ZERO },
        held: Nanos::ZERO,
        unpriced: false,
        state: UsageState::Final,
        status: Some(if failed { 529 } else { 200 }),
        error_code: failed.then(|| "overloaded_error".to_owned()),
        first_byte_us: Some(took / 3),
        total_us: Some(took),
    }
}
