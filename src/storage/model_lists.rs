//! The models that providers list.

use super::{StorageError, Tx, execute, fetch_all, word};
use crate::domain::clock::Moment;
use crate::domain::price_list::Listed;
use crate::domain::provider_key::Provider;

/// Takes it upon oneself to ask a provider, until the lease ends; false if it was asked lately, or
/// somebody else is at it.
pub async fn claim(
    tx: &mut Tx,
    provider: Provider,
    now: Moment,
    lease: Moment,
) -> Result<bool, StorageError> {
    let sql = "INSERT INTO model_list (provider, models, next_at) VALUES ($1, '[]', $2)
               ON CONFLICT (provider) DO UPDATE SET next_at = excluded.next_at WHERE model_list.next_at <= $3";
    Ok(execute!(tx, sql, provider.as_str(), lease.0, now.0)? > 0)
}

/// Says when a provider is asked again that has not told.
pub async fn postpone(tx: &mut Tx, provider: Provider, next: Moment) -> Result<(), StorageError> {
    execute!(tx, "UPDATE model_list SET next_at = $1 WHERE provider = $2", next.0, provider.as_str())?;
    Ok(())
}

/// Keeps what a provider lists.
pub async fn put(tx: &mut Tx, listed: &Listed, now: Moment, next: Moment) -> Result<(), StorageError> {
    let models = serde_json::to_string(&listed.models).unwrap_or_else(|_| "[]".to_owned());
    let sql = "UPDATE model_list SET models = $1, fetched_at = $2, next_at = $3 WHERE provider = $4";
    execute!(tx, sql, models, now.0, next.0, listed.provider.as_str())?;
    Ok(())
}

/// What each provider that has told lists.
pub async fn all(tx: &mut Tx) -> Result<Vec<Listed>, StorageError> {
    let sql = "SELECT provider, models FROM model_list WHERE fetched_at IS NOT NULL";
    fetch_all!(tx, (String, String), sql)?
        .into_iter()
        .map(|(provider, models)| {
            let provider = word!(Provider, provider, "model_list", "provider")?;
            Ok(Listed { provider, models: serde_json::from_str(&models).unwrap_or_default() })
        })
        .collect()
}
