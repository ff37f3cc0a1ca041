//! Dated prices.

use uuid::Uuid;

use super::{StorageError, Tx, execute, fetch_all, word};
use crate::domain::clock::Moment;
use crate::domain::ids::PriceId;
use crate::domain::price::{PriceRow, Rates};
use crate::domain::provider_key::Provider;
use crate::domain::usage::ServiceTier;

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    provider: String,
    model: String,
    service_tier: String,
    valid_from: i64,
    above_prompt_tokens: i64,
    input: i64,
    cache_read: i64,
    cache_write_5m: i64,
    cache_write_1h: i64,
    output: i64,
    web_search: i64,
    audio_input: Option<i64>,
    audio_output: Option<i64>,
    us_permille: i64,
    fast_permille: i64,
}

pub async fn list(tx: &mut Tx) -> Result<Vec<PriceRow>, StorageError> {
    fetch_all!(tx, Row, "SELECT * FROM price")?
        .into_iter()
        .map(|row| {
            Ok(PriceRow {
                id: PriceId(row.id),
                provider: word!(Provider, row.provider, "price", "provider")?,
                model: row.model,
                tier: word!(ServiceTier, row.service_tier, "price", "service_tier")?,
                valid_from: Moment(row.valid_from),
                above_prompt_tokens: u64::try_from(row.above_prompt_tokens).unwrap_or(0),
                rates: Rates {
                    input: row.input,
                    cache_read: row.cache_read,
                    cache_write_5m: row.cache_write_5m,
                    cache_write_1h: row.cache_write_1h,
                    output: row.output,
                    web_search: row.web_search,
                    audio_input: row.audio_input.unwrap_or(row.input),
                    audio_output: row.audio_output.unwrap_or(row.output),
                },
                us_permille: row.us_permille,
                fast_permille: row.fast_permille,
            })
        })
        .collect()
}

/// Stores a price unless it is there already. True if it was stored.
pub async fn insert(tx: &mut Tx, row: &PriceRow) -> Result<bool, StorageError> {
    let rows = execute!(
        tx,
        "INSERT INTO price (id, provider, model, service_tier, valid_from, above_prompt_tokens, input, cache_read,
                            cache_write_5m, cache_write_1h, output, web_search, us_permille, fast_permille,
                            audio_input, audio_output)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) ON CONFLICT DO NOTHING",
        row.id.0,
        row.provider.as_str(),
        &row.model,
        row.tier.as_str(),
        row.valid_from.0,
        i64::try_from(row.above_prompt_tokens).unwrap_or(i64::MAX),
        row.rates.input,
        row.rates.cache_read,
        row.rates.cache_write_5m,
        row.rates.cache_write_1h,
        row.rates.output,
        row.rates.web_search,
        row.us_permille,
        row.fast_permille,
        row.rates.audio_input,
        row.rates.audio_output
    )?;
    Ok(rows == 1)
}
