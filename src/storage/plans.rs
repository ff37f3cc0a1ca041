//! Plans and features, master switches, and what tenants have of their own: exceptions and chosen models.

use std::collections::BTreeSet;

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{StorageError, Tx, execute, fetch_all, fetch_optional};
use crate::access::scope::Scope;
use crate::domain::clock::Moment;
use crate::domain::ids::PlanId;
use crate::domain::plan::{Exception, Feature, Plan, TokenBudget};

/// Every plan that there is, in the order in which they were made.
pub async fn list(tx: &mut Tx) -> Result<Vec<Plan>, StorageError> {
    let rows = fetch_all!(
        tx,
        (Uuid, String, String),
        "SELECT id, slug, name FROM plan WHERE removed_at IS NULL ORDER BY id"
    )?;
    let mut plans = Vec::with_capacity(rows.len());
    for row in rows {
        plans.push(with_features(tx, row).await?);
    }
    Ok(plans)
}

pub async fn find(tx: &mut Tx, id: PlanId) -> Result<Option<Plan>, StorageError> {
    let sql = "SELECT id, slug, name FROM plan WHERE id = $1";
    match fetch_optional!(tx, (Uuid, String, String), sql, id.0)? {
        Some(row) => Ok(Some(with_features(tx, row).await?)),
        None => Ok(None),
    }
}

async fn with_features(tx: &mut Tx, row: (Uuid, String, String)) -> Result<Plan, StorageError> {
    let (id, slug, name) = row;
    let sql = "SELECT feature_slug FROM plan_feature WHERE plan_id = $1";
    let features: BTreeSet<String> =
        fetch_all!(tx, (String,), sql, id)?.into_iter().map(|row| row.0).collect();
    let sql = "SELECT model FROM plan_model WHERE plan_id = $1";
    let models = fetch_all!(tx, (String,), sql, id)?.into_iter().map(|row| row.0).collect();
    Ok(Plan { id: PlanId(id), slug, name, features, models })
}

pub async fn insert(tx: &mut Tx, plan: &Plan) -> Result<(), StorageError> {
    let sql = "INSERT INTO plan (id, slug, name) VALUES ($1, $2, $3)";
    execute!(tx, sql, plan.id.0, &plan.slug, &plan.name)?;
    for feature in &plan.features {
        set_included(tx, plan.id, feature, true).await?;
    }
    set_models(tx, plan.id, &plan.models).await
}

pub async fn rename(tx: &mut Tx, id: PlanId, name: &str) -> Result<(), StorageError> {
    execute!(tx, "UPDATE plan SET name = $1 WHERE id = $2", name, id.0)?;
    Ok(())
}

/// Keeps a plan from being removed until the transaction ends; false if it was removed already.
pub async fn hold(tx: &mut Tx, id: PlanId) -> Result<bool, StorageError> {
    // SQLite's transaction is the only one that writes.
    let lock = if matches!(tx, Tx::Postgres(_)) { "FOR SHARE" } else { "" };
    let sql = format!("SELECT id FROM plan WHERE id = $1 AND removed_at IS NULL {lock}");
    Ok(fetch_optional!(tx, (Uuid,), AssertSqlSafe(sql), id.0)?.is_some())
}

/// Moves a plan's tenants to another one, and gives how many.
pub async fn move_tenants(tx: &mut Tx, from: PlanId, to: PlanId, now: Moment) -> Result<u64, StorageError> {
    // Whoever is being moved elsewhere at this moment is waited for, and not moved.
    let lock = if matches!(tx, Tx::Postgres(_)) { "FOR UPDATE" } else { "" };
    let sql = format!(
        "INSERT INTO plan_change (tenant_id, at, plan_id)
         SELECT t.id, CAST($1 AS BIGINT), $2 FROM (SELECT id FROM tenant WHERE plan_id = $3 {lock}) t WHERE true
         ON CONFLICT (tenant_id, at) DO UPDATE SET plan_id = excluded.plan_id"
    );
    execute!(tx, AssertSqlSafe(sql), now.0, to.0, from.0)?;
    execute!(tx, "UPDATE tenant SET plan_id = $1 WHERE plan_id = $2", to.0, from.0)
}

/// Removes a plan: nobody comes onto it any more. Its name and its price stay for the months that were charged by it.
pub async fn remove(tx: &mut Tx, id: PlanId, now: Moment) -> Result<(), StorageError> {
    execute!(tx, "DELETE FROM plan_feature WHERE plan_id = $1", id.0)?;
    execute!(tx, "DELETE FROM plan_model WHERE plan_id = $1", id.0)?;
    // Another plan may have its slug.
    let slug = id.to_string();
    execute!(tx, "UPDATE plan SET removed_at = $1, slug = $2 WHERE id = $3", now.0, slug, id.0)?;
    Ok(())
}

pub async fn set_included(
    tx: &mut Tx,
    plan: PlanId,
    feature: &str,
    included: bool,
) -> Result<(), StorageError> {
    let sql = if included {
        "INSERT INTO plan_feature (plan_id, feature_slug) VALUES ($1, $2) ON CONFLICT DO NOTHING"
    } else {
        "DELETE FROM plan_feature WHERE plan_id = $1 AND feature_slug = $2"
    };
    execute!(tx, sql, plan.0, feature)?;
    Ok(())
}

/// Sets the models that a plan's tenants may choose from.
pub async fn set_models(tx: &mut Tx, plan: PlanId, models: &BTreeSet<String>) -> Result<(), StorageError> {
    execute!(tx, "DELETE FROM plan_model WHERE plan_id = $1", plan.0)?;
    for model in models {
        execute!(tx, "INSERT INTO plan_model (plan_id, model) VALUES ($1, $2)", plan.0, model)?;
    }
    Ok(())
}

/// How many tenants are on each plan that has any.
pub async fn tenants_by_plan(tx: &mut Tx) -> Result<Vec<(PlanId, i64)>, StorageError> {
    let rows = fetch_all!(tx, (Uuid, i64), "SELECT plan_id, COUNT(*) FROM tenant GROUP BY plan_id")?;
    Ok(rows.into_iter().map(|(plan, count)| (PlanId(plan), count)).collect())
}

#[derive(sqlx::FromRow)]
struct FeatureRow {
    slug: String,
    name: String,
    description: String,
    covered: bool,
    default_model: Option<String>,
    switch: String,
    budget_input: Option<i64>,
    budget_output: Option<i64>,
}

pub async fn features(tx: &mut Tx) -> Result<Vec<Feature>, StorageError> {
    let sql = "SELECT slug, name, description, covered, default_model, switch, budget_input, budget_output
               FROM feature ORDER BY position, slug";
    let rows = fetch_all!(tx, FeatureRow, sql)?;
    Ok(rows
        .into_iter()
        .map(|row| Feature {
            slug: row.slug,
            name: row.name,
            description: row.description,
            covered: row.covered,
            default_model: row.default_model,
            switch: row.switch,
            budget: row.budget_input.zip(row.budget_output).map(|(input, output)| TokenBudget {
                input: input.unsigned_abs(),
                output: output.unsigned_abs(),
            }),
        })
        .collect())
}

/// A token budget as its two columns hold it.
fn columns(budget: Option<TokenBudget>) -> (Option<i64>, Option<i64>) {
    let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    (budget.map(|budget| signed(budget.input)), budget.map(|budget| signed(budget.output)))
}

/// Adds a feature after all others.
pub async fn insert_feature(tx: &mut Tx, feature: &Feature) -> Result<(), StorageError> {
    let (input, output) = columns(feature.budget);
    execute!(
        tx,
        "INSERT INTO feature (slug, name, description, covered, default_model, switch, budget_input, budget_output, position)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, (SELECT COALESCE(MAX(position), 0) + 1 FROM feature))",
        &feature.slug,
        &feature.name,
        &feature.description,
        feature.covered,
        feature.default_model.as_deref(),
        &feature.switch,
        input,
        output
    )?;
    Ok(())
}

/// Writes what may change of a feature; its slug stays.
pub async fn update_feature(tx: &mut Tx, feature: &Feature) -> Result<(), StorageError> {
    let (input, output) = columns(feature.budget);
    execute!(
        tx,
        "UPDATE feature SET name = $1, description = $2, covered = $3, default_model = $4, switch = $5,
             budget_input = $6, budget_output = $7
         WHERE slug = $8",
        &feature.name,
        &feature.description,
        feature.covered,
        feature.default_model.as_deref(),
        &feature.switch,
        input,
        output,
        &feature.slug
    )?;
    Ok(())
}

/// Master switches that the owner has turned off: a tenant for itself, the platform for everybody.
pub async fn switched_off(tx: &mut Tx, scope: &Scope) -> Result<Vec<String>, StorageError> {
    let sql = "SELECT switch FROM switch_off WHERE owner_id = $1 ORDER BY switch";
    let rows = fetch_all!(tx, (String,), sql, scope.owner().as_uuid())?;
    Ok(rows.into_iter().map(|row| row.0).collect())
}

/// Turns a master switch on or off; false if it was so already.
pub async fn set_switch(tx: &mut Tx, scope: &Scope, switch: &str, on: bool) -> Result<bool, StorageError> {
    let sql = if on {
        "DELETE FROM switch_off WHERE owner_id = $1 AND switch = $2"
    } else {
        "INSERT INTO switch_off (owner_id, switch) VALUES ($1, $2) ON CONFLICT DO NOTHING"
    };
    Ok(execute!(tx, sql, scope.owner().as_uuid(), switch)? > 0)
}

/// Whether anybody has turned this switch off, for itself or for all.
pub async fn is_off_somewhere(tx: &mut Tx, switch: &str) -> Result<bool, StorageError> {
    let sql = "SELECT 1 FROM switch_off WHERE switch = $1 LIMIT 1";
    Ok(fetch_optional!(tx, (i32,), sql, switch)?.is_some())
}

#[derive(sqlx::FromRow)]
struct ExceptionRow {
    feature_slug: String,
    opens: bool,
    until: i64,
    reason: String,
    created_at: i64,
    created_by: String,
}

/// A tenant's exceptions, those that have ended among them.
pub async fn exceptions(tx: &mut Tx, scope: &Scope) -> Result<Vec<Exception>, StorageError> {
    let sql = "SELECT feature_slug, opens, until, reason, created_at, created_by FROM feature_exception
               WHERE tenant_id = $1 ORDER BY until, feature_slug";
    let rows = fetch_all!(tx, ExceptionRow, sql, scope.owner().as_uuid())?;
    Ok(rows
        .into_iter()
        .map(|row| Exception {
            feature: row.feature_slug,
            opens: row.opens,
            until: Moment(row.until),
            reason: row.reason,
            created_at: Moment(row.created_at),
            created_by: row.created_by,
        })
        .collect())
}

/// Makes an exception, in place of another one for the same feature.
pub async fn set_exception(tx: &mut Tx, scope: &Scope, exception: &Exception) -> Result<(), StorageError> {
    let Exception { feature, opens, until, reason, created_at, created_by } = exception;
    execute!(
        tx,
        "INSERT INTO feature_exception (tenant_id, feature_slug, opens, until, reason, created_at, created_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (tenant_id, feature_slug) DO UPDATE SET opens = excluded.opens, until = excluded.until,
             reason = excluded.reason, created_at = excluded.created_at, created_by = excluded.created_by",
        scope.owner().as_uuid(),
        feature,
        *opens,
        until.0,
        reason,
        created_at.0,
        created_by
    )?;
    Ok(())
}

/// Ends an exception; false if there is none.
pub async fn end_exception(tx: &mut Tx, scope: &Scope, feature: &str) -> Result<bool, StorageError> {
    let sql = "DELETE FROM feature_exception WHERE tenant_id = $1 AND feature_slug = $2";
    Ok(execute!(tx, sql, scope.owner().as_uuid(), feature)? > 0)
}

/// The models that a tenant has chosen: feature and model.
pub async fn chosen_models(tx: &mut Tx, scope: &Scope) -> Result<Vec<(String, String)>, StorageError> {
    let sql = "SELECT feature_slug, model FROM feature_model WHERE tenant_id = $1 ORDER BY feature_slug";
    fetch_all!(tx, (String, String), sql, scope.owner().as_uuid())
}

/// Chooses a model for a feature, or goes back to the feature's own.
pub async fn choose_model(
    tx: &mut Tx,
    scope: &Scope,
    feature: &str,
    model: Option<&str>,
) -> Result<(), StorageError> {
    let owner = scope.owner().as_uuid();
    let sql = "DELETE FROM feature_model WHERE tenant_id = $1 AND feature_slug = $2";
    execute!(tx, sql, owner, feature)?;
    if let Some(model) = model {
        let sql = "INSERT INTO feature_model (tenant_id, feature_slug, model) VALUES ($1, $2, $3)";
        execute!(tx, sql, owner, feature, model)?;
    }
    Ok(())
}
