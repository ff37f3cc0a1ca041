//! The community manager's queue: a thousand items, worked off at the usual concurrency, and the memory
//! of the process meanwhile. The second thousand must not take more than the first.

use std::time::{Duration, Instant};

use keyward::access::scope::Scope;
use keyward::domain::generation::{FEATURE, GenerationState};
use keyward::domain::ids::{Owner, TenantId};
use keyward::domain::plan::Feature;
use keyward::services::Services;
use keyward::services::generations::NewGeneration;
use keyward::storage::{changes, plans, tenants};

use super::process::{self, Keyward, Role};
use super::report::{self, Aim};
use super::{Failure, installation};

const ITEMS: i64 = 1_000;
/// A long thread.
const TEXT: usize = 16 * 1_024;
const ROUNDS: i64 = 3;

pub async fn measure(aims: &mut Vec<Aim>) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let (_sandbox, sandbox) = process::listening(Role::Sandbox, process::LOAD_CORE, &[])?;
    let origin = format!("http://{sandbox}");
    let database = format!("sqlite:{}", folder.path().join("keyward.db").display());
    let services = installation::open(folder.path(), &database, sandbox).await?;
    installation::furnish_one(&services, &installation::key_body("long")).await?;
    let tenant = add_feature(&services).await?;
    let keyward = Keyward::start(folder.path(), &[("KEYWARD_ANTHROPIC_URL", origin.as_str())])?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (mut rows, mut most_of) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        let before = keyward.memory()?.now;
        for number in 0..ITEMS {
            let text = format!("{number} {}", "A long thread about bread. ".repeat(TEXT / 27));
            let new = NewGeneration {
                kind: "summary".to_owned(),
                reference: None,
                title: "Bread".to_owned(),
                text,
            };
            services.queue_generation(tenant, new).await?;
        }
        let (begun, mut most) = (Instant::now(), before);
        while waiting(&services, tenant).await? < ITEMS * round {
            if begun.elapsed() > Duration::from_mins(3) {
                return Err("the queue did not drain within three minutes".into());
            }
            most = most.max(keyward.memory()?.now);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        rows.push(vec![
            round.to_string(),
            format!("{:.1}", begun.elapsed().as_secs_f64()),
            format!("{before:.1}"),
            format!("{most:.1}"),
            format!("{:.1}", keyward.memory()?.now),
        ]);
        most_of.push(most);
    }
    report::table(
        "A thousand generations, MiB resident",
        &["round", "seconds", "before", "most", "after"],
        &rows,
    );
    let growth = most_of[most_of.len() - 1] - most_of[0];
    aims.push(Aim::at_most(
        "memory of the queue grows from the first thousand to the last by",
        4.0,
        growth,
        "MiB",
    ));
    services.db.close().await;
    keyward.stop()
}

async fn add_feature(services: &Services) -> Result<TenantId, Failure> {
    let feature = Feature {
        slug: FEATURE.to_owned(),
        name: "Community manager".to_owned(),
        default_model: Some("claude-haiku-4-5".to_owned()),
        switch: "ai_community_manager_enabled".to_owned(),
        ..Feature::general().clone()
    };
    let mut tx = services.db.write().await?;
    let record = tenants::all(&mut tx).await?.into_iter().next().ok_or("a tenant")?;
    plans::insert_feature(&mut tx, &feature).await?;
    plans::set_included(&mut tx, record.tenant.plan_id, &feature.slug, true).await?;
    changes::bump(&mut tx, Owner::Platform, services.clock.now()).await?;
    tx.commit().await?;
    Ok(record.tenant.id)
}

/// How many items are written and wait for a person.
async fn waiting(services: &Services, tenant: TenantId) -> Result<i64, Failure> {
    let scope = Scope::of_token(tenant);
    let (_, counts) = services.list_generations(&scope, &[GenerationState::Failed], None, 1).await?;
    let of = |wanted| counts.iter().find(|(state, _)| *state == wanted).map_or(0, |(_, count)| *count);
    match of(GenerationState::Failed) {
        0 => Ok(of(GenerationState::Waiting)),
        failed => Err(format!("{failed} generations failed").into()),
    }
}
