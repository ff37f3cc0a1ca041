//! What it costs to hold and settle credits: one hot tenant that pays from them, beside one whose
//! managed use is included, on the same process and the same shared key.

use keyward::crypto::secret::Secret;
use keyward::domain::billing::{EntryKind, Funding, UsageMode};
use keyward::domain::ids::{Owner, TenantId, TokenId};
use keyward::domain::money::Nanos;
use keyward::domain::provider_key::Provider;
use keyward::services::Services;
use keyward::services::tokens::NewToken;
use keyward::storage::credits::{self, NewEntry};
use keyward::storage::tenants;

use super::calls::{self, Kind, Round, Target};
use super::process::{self, Keyward, Role};
use super::report::{self, Aim, median};
use super::{Failure, Plan, installation};

const CONNECTIONS: [usize; 3] = [1, 16, 64];
/// A million dollars: more than any round spends.
const BALANCE: Nanos = Nanos(1_000_000 * 1_000_000_000);

pub async fn measure(plan: &Plan, aims: &mut Vec<Aim>) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let (_sandbox, sandbox) = process::listening(Role::Sandbox, process::LOAD_CORE, &[])?;
    let origin = format!("http://{sandbox}");
    let database = format!("sqlite:{}", folder.path().join("keyward.db").display());
    let services = installation::open(folder.path(), &database, sandbox).await?;
    installation::share_key(&services, Provider::Anthropic, installation::sandbox_key("long")).await?;
    let (_, included) = furnish(&services, "included", Funding::Included).await?;
    let (tenant, prepaid) = furnish(&services, "prepaid", Funding::Credits).await?;
    services.db.close().await;
    drop(services);
    let keyward = Keyward::start(folder.path(), &[("KEYWARD_ANTHROPIC_URL", origin.as_str())])?;
    let target = |name, token: &Secret| Target {
        name,
        address: keyward.address,
        credential: token.expose().to_owned(),
        process: Some(keyward.id()),
    };
    let targets = [target("included", &included), target("on credits", &prepaid)];
    let mut answered = 0;
    let (mut rows, mut compared) = (Vec::new(), Vec::new());
    for target in &targets {
        calls::fetch(Kind::Json, target).await?;
        answered += 1;
    }
    for connections in CONNECTIONS {
        let mut rounds: [Vec<Round>; 2] = Default::default();
        for warm_up in std::iter::once(true).chain(std::iter::repeat_n(false, plan.rounds)) {
            for (target, rounds) in targets.iter().zip(&mut rounds) {
                let seconds = if warm_up { plan.warm_up } else { plan.seconds };
                let round =
                    calls::round(target, &calls::spec(Kind::Json, target, connections, seconds, None))?;
                answered += round.outcome.answered;
                if !warm_up {
                    rounds.push(round);
                }
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
        for (target, rounds) in targets.iter().zip(&rounds) {
            let of = |figure: fn(&Round) -> f64| median(rounds.iter().map(figure));
            rows.push(vec![
                target.name.to_owned(),
                connections.to_string(),
                format!("{:.0}", of(|round| round.outcome.per_second)),
                format!("{:.3}", of(|round| round.outcome.median) / 1e3),
                format!("{:.3}", of(|round| round.outcome.p99) / 1e3),
                format!("{:.0}", of(|round| round.processor)),
            ]);
        }
        let [plain, credit] = &rounds;
        let ratios: Vec<f64> = credit
            .iter()
            .zip(plain)
            .map(|(own, other)| own.outcome.per_second / other.outcome.per_second)
            .collect();
        let list = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect::<Vec<_>>().join(" ");
        compared.push(vec![connections.to_string(), format!("{:.2}", median(ratios.clone())), list]);
        let what = format!("credits, {connections} at once: share of the throughput without them");
        aims.push(Aim::at_least(what, 0.75, median(ratios)));
        eprintln!("measured credits at {connections} connections");
    }
    let head = ["tenant", "conns", "calls/s", "median ms", "p99 ms", "CPU µs/call"];
    report::table("Credits: holding and settling, beside use that is included", &head, &rows);
    report::table("On credits beside included", &["conns", "throughput", "by round"], &compared);
    calls::check_durability(&database, answered).await?;
    keyward.stop()?;
    check_balance(folder.path(), &database, sandbox, tenant).await
}

async fn furnish(services: &Services, slug: &str, funding: Funding) -> Result<(TenantId, Secret), Failure> {
    let mut tx = services.db.write().await?;
    let plan = installation::first_plan(&mut tx).await?;
    let mut record = installation::tenant(slug, slug, plan, services.clock.now())?;
    record.policy.mode = UsageMode::Managed;
    record.policy.funding = funding;
    tenants::insert(&mut tx, &record).await?;
    let tenant = record.tenant.id;
    if funding == Funding::Credits {
        let grant = NewEntry {
            at: services.clock.now(),
            kind: EntryKind::Grant,
            amount: BALANCE,
            reference: None,
            note: "Bench",
            entered_by: "bench",
        };
        credits::enter(&mut tx, tenant, &grant).await?;
    }
    tx.commit().await?;
    let new =
        NewToken { id: TokenId::new(), name: "Bench".to_owned(), days: String::new(), scopes: Vec::new() };
    let made = services.make_token(&installation::by(), installation::holder(tenant), &new).await?;
    Ok((tenant, made.secret))
}

/// The balance must be what was granted less what the rows cost, and nothing may be held for nobody.
async fn check_balance(
    folder: &std::path::Path,
    database: &str,
    sandbox: std::net::SocketAddr,
    tenant: TenantId,
) -> Result<(), Failure> {
    let services = installation::open(folder, database, sandbox).await?;
    let mut tx = services.db.read().await?;
    let account = credits::find(&mut tx, tenant).await?;
    let unbalanced = credits::unbalanced(&mut tx).await?;
    let scope = keyward::access::scope::Scope::of_system(Owner::Tenant(tenant));
    let (from, to) =
        (keyward::domain::clock::Moment(0), services.clock.now().plus(keyward::domain::clock::DAY));
    let totals = keyward::storage::usage_report::totals(&mut tx, &scope, from, to).await?;
    tx.rollback().await?;
    services.db.close().await;
    if account.balance.0 != BALANCE.0 - totals.billed || account.held.0 != 0 || !unbalanced.is_empty() {
        return Err(format!("the ledger is not whole: {account:?}, billed {}", totals.billed).into());
    }
    println!(
        "\nLedger: {} charged for {} requests, and the balance is its sum.",
        Nanos(totals.billed).dollars(),
        totals.requests
    );
    Ok(())
}
