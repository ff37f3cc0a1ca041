//! Plans, features, and the master switches of tenants.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::{StorageError, Tx, execute, fetch_all, fetch_optional};
use crate::access::scope::Scope;
use crate::domain::ids::PlanId;
use crate::domain::plan::{Feature, Plan};

pub async fn list(tx: &mut Tx) -> Result<Vec<Plan>, StorageError> {
    let rows = fetch_all!(tx, (Uuid, String, String), "SELECT id, slug, name FROM plan ORDER BY name")?;
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
    Ok(Plan { id: PlanId(id), slug, name, features })
}

pub async fn insert(tx: &mut Tx, plan: &Plan) -> Result<(), StorageError> {
    let sql = "INSERT INTO plan (id, slug, name) VALUES ($1, $2, $3)";
    execute!(tx, sql, plan.id.0, &plan.slug, &plan.name)?;
    for feature in &plan.features {
        let sql = "INSERT INTO plan_feature (plan_id, feature_slug) VALUES ($1, $2)";
        execute!(tx, sql, plan.id.0, feature)?;
    }
    Ok(())
}

pub async fn features(tx: &mut Tx) -> Result<Vec<Feature>, StorageError> {
    let rows = fetch_all!(
        tx,
        (String, String, String, bool, Option<String>),
        "SELECT slug, name, description, covered, default_model FROM feature ORDER BY position, slug"
    )?;
    Ok(rows
        .into_iter()
        .map(|(slug, name, description, covered, default_model)| Feature {
            slug,
            name,
            description,
            covered,
            default_model,
        })
        .collect())
}

pub async fn insert_feature(tx: &mut Tx, feature: &Feature, position: i32) -> Result<(), StorageError> {
    execute!(
        tx,
        "INSERT INTO feature (slug, name, description, covered, default_model, position)
         VALUES ($1, $2, $3, $4, $5, $6)",
        &feature.slug,
        &feature.name,
        &feature.description,
        feature.covered,
        feature.default_model.as_deref(),
        position
    )?;
    Ok(())
}

/// Features whose master switch the tenant has turned off.
pub async fn switched_off(tx: &mut Tx, scope: &Scope) -> Result<Vec<String>, StorageError> {
    let sql = "SELECT feature_slug FROM feature_switched_off WHERE tenant_id = $1";
    let rows = fetch_all!(tx, (String,), sql, scope.owner().as_uuid())?;
    Ok(rows.into_iter().map(|row| row.0).collect())
}

pub async fn switch_off(tx: &mut Tx, scope: &Scope, feature: &str) -> Result<(), StorageError> {
    execute!(
        tx,
        "INSERT INTO feature_switched_off (tenant_id, feature_slug) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        scope.owner().as_uuid(),
        feature
    )?;
    Ok(())
}
