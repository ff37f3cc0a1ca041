//! The database for the page times: many tenants, and usage over ninety days. It takes a while to
//! make, so it is kept in `target/bench-data` and used again on the same day.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use keyward::crypto::secret::Secret;
use keyward::crypto::token;
use keyward::domain::account::{Email, PlatformRole, TenantRole};
use keyward::domain::billing::{Funding, UsageMode};
use keyward::domain::clock::{Clock, DAY, HOUR, MINUTE, Moment};
use keyward::domain::ids::{KeyId, RequestId, TenantId};
use keyward::domain::money::Nanos;
use keyward::domain::price::Multiplier;
use keyward::domain::price::PriceBook;
use keyward::domain::provider_key::Provider;
use keyward::domain::usage::{Dialect, Labels, ServedAs, TokenUsage, UsageRow, UsageState};
use keyward::services::Services;
use keyward::storage::{tenants, usage};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Failure, installation};

const DAYS: usize = 90;
/// Rows in one transaction.
const BATCH: usize = 25_000;
/// Raised when what is made here changes.
const FORMAT: u32 = 4;

const FEATURES: [(&str, &str); 5] = [
    ("general", "claude-haiku-4-5"),
    ("question-suggestions", "claude-haiku-4-5"),
    ("community-manager", "claude-sonnet-4-5"),
    ("kb-drafts", "claude-opus-4-5"),
    ("main-chatbot", "claude-sonnet-4-5"),
];

/// A tenant whose pages are measured, and its admin.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    pub slug: String,
    pub rows: usize,
    pub email: String,
    pub password: String,
}

/// What is known of a finished database. Kept beside it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Card {
    /// In microseconds since 1970.
    made_at: i64,
    pub measured: Vec<Measured>,
    /// The tenant whose usage is downloaded as a whole.
    pub download: Measured,
    /// A super admin, of no tenant.
    pub root: Measured,
}

/// Where a database is kept, by its size, the version of its schema and where it is.
pub fn folder(database: Option<&str>, rows: usize) -> Result<PathBuf, Failure> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let kind = if database.is_some() { "postgres" } else { "sqlite" };
    let mut hash = Sha256::new();
    hash.update(FORMAT.to_be_bytes());
    hash.update(database.unwrap_or_default());
    let mut migrations: Vec<PathBuf> = std::fs::read_dir(root.join("migrations").join(kind))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    migrations.sort();
    for path in migrations {
        hash.update(std::fs::read(path)?);
    }
    let stamp: String = hex::encode(hash.finalize()).chars().take(12).collect();
    // Beside the target folder that this program was built into.
    let target = std::env::current_exe()?.ancestors().nth(3).ok_or("no target folder")?.to_owned();
    Ok(target.join("bench-data").join(format!("{kind}-{rows}-{stamp}")))
}

/// The card of a finished database that is not older than a day: the pages show thirty days.
pub fn find(folder: &Path) -> Option<Card> {
    let card: Card = serde_json::from_str(&std::fs::read_to_string(folder.join("card.json")).ok()?).ok()?;
    (Clock::system().now().since(Moment(card.made_at)) < DAY).then_some(card)
}

/// Makes the database.
pub async fn make(
    folder: &Path,
    database: &str,
    sandbox: SocketAddr,
    rows: usize,
    count: usize,
) -> Result<Card, Failure> {
    let begun = Instant::now();
    let services = installation::open(folder, database, sandbox).await?;
    let now = services.clock.now();
    let mut tx = services.db.write().await?;
    if tenants::find_by_slug(&mut tx, &slug(0)).await?.is_some() {
        return Err("the database for the pages holds tenants already; give an empty one".into());
    }
    let plan = installation::first_plan(&mut tx).await?;
    let mut ids = Vec::with_capacity(count);
    for number in 0..count {
        let record = installation::tenant(&slug(number), &format!("Tenant {number}"), plan, now)?;
        tenants::insert(&mut tx, &record).await?;
        ids.push(record.tenant.id);
    }
    tx.commit().await?;
    let mut writer = Writer::new(&services, now).await?;
    for (number, tenant) in ids.iter().enumerate() {
        for name in ["production", "batch"] {
            let secret = installation::sandbox_key("ok");
            installation::add_key(&services, *tenant, Provider::Anthropic, name, secret).await?;
        }
        let keys: Vec<(KeyId, String)> = services
            .key_lines(installation::holder(*tenant))
            .await?
            .into_iter()
            .map(|line| (line.key.id, line.key.name.to_string()))
            .collect();
        writer.write_tenant(*tenant, &keys, rows_of(number, rows, count)).await?;
    }
    writer.flush().await?;
    let written = Instant::now();
    // Announced, and then done.
    services.sum_days().await?;
    services.sum_days().await?;
    eprintln!("added up its days in {:.0} s", written.elapsed().as_secs_f64());
    // The one with a tenth of all rows, and one like all the others.
    let mut measured = Vec::new();
    for number in [count / 2, 0] {
        measured.push(add_admin(&services, ids[number], number, rows_of(number, rows, count)).await?);
    }
    let download = add_admin(&services, ids[1], 1, rows_of(1, rows, count)).await?;
    let root = add_root(&services, rows).await?;
    services.db.close().await;
    let card = Card { made_at: now.0, measured, download, root };
    std::fs::write(folder.join("card.json"), serde_json::to_vec(&card)?)?;
    eprintln!("made a database of {rows} usage rows in {:.0} s", begun.elapsed().as_secs_f64());
    Ok(card)
}

fn slug(number: usize) -> String {
    format!("tenant-{number}")
}

/// The first tenant has a tenth of all rows, at most 100,000, the second a tenth whatever that is; the
/// others share the rest.
fn rows_of(number: usize, rows: usize, tenants: usize) -> usize {
    let (first, second) = ((rows / 10).min(100_000), rows / 10);
    let (rest, others) = (rows - first - second, tenants - 2);
    match number {
        0 => first,
        1 => second,
        _ => rest / others + usize::from(number - 1 <= rest % others),
    }
}

async fn add_admin(
    services: &Services,
    tenant: TenantId,
    number: usize,
    rows: usize,
) -> Result<Measured, Failure> {
    let email = format!("admin-{number}@bench.example");
    let password = add_user(services, &email, None, Some((tenant, TenantRole::Admin))).await?;
    Ok(Measured { slug: slug(number), rows, email, password })
}

async fn add_root(services: &Services, rows: usize) -> Result<Measured, Failure> {
    let email = "root@bench.example".to_owned();
    let password = add_user(services, &email, Some(PlatformRole::SuperAdmin), None).await?;
    Ok(Measured { slug: String::new(), rows, email, password })
}

/// Gives the password.
async fn add_user(
    services: &Services,
    email: &str,
    platform: Option<PlatformRole>,
    place: Option<(TenantId, TenantRole)>,
) -> Result<String, Failure> {
    let password: String = token::random_text().chars().take(20).collect();
    let address = Email::parse(email).ok_or("an address that is none")?;
    let secret = Some(Secret::new(password.clone()));
    services.create_user(&installation::by(), &address, platform, place, secret).await?;
    Ok(password)
}

/// A small generator whose numbers are the same on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below.max(1)
    }

    /// A place in a list.
    fn pick<'a, T>(&mut self, of: &'a [T]) -> Result<&'a T, Failure> {
        let place = usize::try_from(self.roll(of.len() as u64))?;
        Ok(of.get(place).ok_or("nothing to pick from")?)
    }
}

/// Writes usage as the meter does, in larger transactions.
struct Writer<'a> {
    services: &'a Services,
    prices: PriceBook,
    now: Moment,
    dice: Dice,
    rows: Vec<UsageRow>,
}

impl<'a> Writer<'a> {
    async fn new(services: &'a Services, now: Moment) -> Result<Self, Failure> {
        let prices = PriceBook::new(services.directory.platform().await?.prices.rows().to_vec());
        Ok(Self { services, prices, now, dice: Dice(7), rows: Vec::with_capacity(BATCH) })
    }

    async fn write_tenant(
        &mut self,
        tenant: TenantId,
        keys: &[(KeyId, String)],
        count: usize,
    ) -> Result<(), Failure> {
        for index in 0..count {
            let day = i64::try_from(index * DAYS / count)?;
            // In its working hours, which end before today's beginning.
            let minute = i64::try_from(self.dice.roll(14 * 60))?;
            let midnight = Moment(self.now.0 / DAY * DAY).minus((i64::try_from(DAYS)? - day) * DAY);
            let at = midnight.plus(6 * HOUR + minute * MINUTE);
            let row = self.row(tenant, keys, at)?;
            self.rows.push(row);
            if self.rows.len() == BATCH {
                self.flush().await?;
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        let mut tx = self.services.db.meter().await?;
        usage::upsert(&mut tx, &self.rows).await?;
        usage::roll_up(&mut tx, &self.rows).await?;
        tx.commit().await?;
        self.rows.clear();
        Ok(())
    }

    fn row(&mut self, tenant: TenantId, keys: &[(KeyId, String)], at: Moment) -> Result<UsageRow, Failure> {
        let dice = &mut self.dice;
        let (feature, model) = *dice.pick(&FEATURES)?;
        let (key_id, key_name) = dice.pick(keys)?.clone();
        let failed = dice.roll(300) == 0;
        let tokens = TokenUsage {
            input: 200 + dice.roll(1_800),
            cache_read: dice.roll(4) * 1_500,
            output: 80 + dice.roll(700),
            ..TokenUsage::default()
        };
        let tokens = if failed { TokenUsage::default() } else { tokens };
        let rated = self.prices.rate(Provider::Anthropic, model, &tokens, ServedAs::default(), at);
        let took = i64::try_from(900 + dice.roll(4_000))? * 1_000;
        Ok(UsageRow {
            id: RequestId::new(),
            tenant_id: tenant,
            instance: self.services.instance,
            started_at: at,
            ended_at: Some(at.plus(took)),
            feature: feature.to_owned(),
            provider: Provider::Anthropic,
            dialect: Dialect::Anthropic,
            key_id,
            key_name,
            key_version: 1,
            mode: UsageMode::Byok,
            funding: Funding::Included,
            fallback: None,
            model_asked: model.to_owned(),
            model_served: (!failed).then(|| model.to_owned()),
            labels: Labels {
                endpoint: Some(format!("web-{}", dice.roll(6) + 1)),
                session: Some(format!("visit-{}", dice.roll(40))),
                prompt: Some(format!("prompt-{}", dice.roll(12))),
            },
            tokens,
            served_as: ServedAs::default(),
            raw_usage: Some(format!(
                "{{\"input_tokens\":{},\"output_tokens\":{}}}",
                tokens.input, tokens.output
            )),
            rate: Multiplier::LIST,
            price_id: rated.map(|rated| rated.price_id),
            cost: rated.map(|rated| rated.cost(Multiplier::LIST)).unwrap_or_default(),
            billed: Nanos::ZERO,
            held: Nanos::ZERO,
            unpriced: false,
            state: UsageState::Final,
            status: Some(if failed { 529 } else { 200 }),
            error_code: failed.then(|| "overloaded_error".to_owned()),
            first_byte_us: Some(took / 3),
            total_us: Some(took),
        })
    }
}
