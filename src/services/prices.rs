//! Prices: the import of the community price map, single prices set by hand, and what they make of
//! requests that ran without one.

use super::{Problems, ServiceError, Services, meter};
use crate::access::actor::Actor;
use crate::access::policy::Action;
use crate::domain::audit::{AuditAction, AuditActor, AuditEvent};
use crate::domain::clock::{DAY, MINUTE, Moment};
use crate::domain::ids::{Owner, PriceId};
use crate::domain::money::Nanos;
use crate::domain::price::{PriceBook, PriceRow, Rates};
use crate::domain::price_map::{self, Changes, MapError};
use crate::domain::provider_key::Provider;
use crate::domain::usage::{ServiceTier, TokenUsage, UsageRow, bucket_of};
use crate::storage::adjustments::{self, Adjustment};
use crate::storage::{StorageError, audit, changes, prices, usage};

/// How far back models without a price are looked for.
const UNPRICED_FOR: i64 = 90 * DAY;
/// How long after a change of the platform unpriced requests are looked at again.
const RATED_AGAIN_FOR: i64 = 30 * MINUTE;
/// Rows that are rated in one transaction.
const BATCH: i64 = 200;

/// A price as a super admin typed it: dollars for a million tokens.
#[derive(Clone, Debug, Default)]
pub struct TypedPrice {
    pub provider: String,
    pub model: String,
    pub input: String,
    pub output: String,
    /// Empty for what holds now, or for the price of input.
    pub cache_read: String,
    pub cache_write: String,
    /// A date; empty for now.
    pub from: String,
}

/// A model that ran without a price.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpriced {
    pub provider: String,
    pub model: String,
    pub requests: i64,
}

impl Services {
    /// What importing a file would change from a moment on.
    ///
    /// # Errors
    /// `Ok(Err(_))` when the file is not to be imported, and why.
    pub async fn preview_prices(
        &self,
        json: &str,
        from: Moment,
    ) -> Result<Result<Changes, MapError>, StorageError> {
        let mut tx = self.db.read().await?;
        let book = PriceBook::new(prices::list(&mut tx).await?);
        tx.rollback().await?;
        Ok(price_map::parse(json).and_then(|listed| price_map::changes(listed, &book, from)))
    }

    /// Writes what was previewed. Prices that held before stay, for what ran while they did.
    ///
    /// # Errors
    /// When the database fails; then nothing is written.
    pub async fn apply_prices(&self, changes: &Changes, by: AuditActor) -> Result<usize, ServiceError> {
        let now = self.clock.now();
        let mut tx = self.db.write().await?;
        let mut written = 0;
        for row in changes.rows() {
            written += usize::from(prices::insert(&mut tx, row).await?);
        }
        changes::bump(&mut tx, Owner::Platform, now).await?;
        let detail = serde_json::json!({
            "new": changes.new.len(), "changed": changes.changed.len(), "unchanged": changes.unchanged,
        });
        let event = AuditEvent {
            at: now,
            actor: by,
            action: AuditAction::PricesImported,
            target: "prices".to_owned(),
            detail,
        };
        audit::append(&mut tx, &self.root, Owner::Platform, &event).await?;
        tx.commit().await?;
        self.directory.forget(Owner::Platform);
        Ok(written)
    }

    /// Sets one model's price from a day on, for prompts of the first size in the standard tier, and rates
    /// what ran without one since. What is not typed stays as it is. Gives how many requests were rated.
    ///
    /// # Errors
    /// `Denied` to all but super admins, `Invalid` with the reason at its field.
    pub async fn set_price(&self, actor: &Actor, typed: &TypedPrice) -> Result<usize, ServiceError> {
        self.permit(actor, Action::ManagePlatform, None)?;
        let mut problems = Problems::default();
        let provider = Provider::parse(&typed.provider);
        if provider.is_none() {
            problems.add("provider", "Choose a provider.");
        }
        let model = typed.model.trim();
        if model.is_empty() || model.len() > 128 || !model.bytes().all(|b| b.is_ascii_graphic()) {
            problems.add("model", "Enter the model's id as requests name it.");
        }
        let mut rate = |field, text: &str, other: Option<i64>| {
            if text.trim().is_empty() && other.is_some() {
                return other;
            }
            let rate = per_million(text);
            if rate.is_none() {
                problems.add(field, "Enter dollars for a million tokens, such as 3 or 0.25.");
            }
            rate
        };
        let input = rate("input", &typed.input, None);
        let output = rate("output", &typed.output, None);
        let platform = self.directory.platform().await?;
        let tier = ServiceTier::Standard;
        let before =
            provider.and_then(|provider| platform.prices.find(provider, model, tier, 0, self.clock.now()));
        let kept = |of: fn(&Rates) -> i64| before.map(|row| of(&row.rates)).or(input).or(Some(0));
        let cache_read = rate("cache_read", &typed.cache_read, kept(|rates| rates.cache_read));
        let cache_write = rate("cache_write", &typed.cache_write, kept(|rates| rates.cache_write_5m));
        if input == Some(0) && output == Some(0) {
            problems.add(
                "input",
                "A price of nothing would hide what is used. Leave the model without a price instead.",
            );
        }
        if let Some(before) = before.map(|row| &row.rates) {
            for (field, new, old) in [("input", input, before.input), ("output", output, before.output)] {
                if new == Some(0) && old > 0 && problems.of(field).is_none() {
                    problems
                        .add(field, "This costs something now. A price of nothing would hide what is used.");
                }
            }
        }
        let now = self.clock.now();
        let valid_from = if typed.from.trim().is_empty() {
            Some(now)
        } else {
            let date = typed.from.trim().parse::<jiff::civil::Date>().ok();
            date.map(|date| Moment::start_of(date, &jiff::tz::TimeZone::UTC)).filter(|at| at.0 > 0)
        };
        if valid_from.is_none() {
            problems.add("from", "Enter a date, such as 2026-11-01.");
        }
        let (
            Some(provider),
            Some(input),
            Some(output),
            Some(cache_read),
            Some(cache_write),
            Some(valid_from),
            true,
        ) = (provider, input, output, cache_read, cache_write, valid_from, problems.is_empty())
        else {
            return Err(ServiceError::Invalid(problems));
        };
        let row = PriceRow {
            id: PriceId::new(),
            provider,
            model: model.to_owned(),
            tier: ServiceTier::Standard,
            valid_from,
            above_prompt_tokens: 0,
            rates: Rates {
                input,
                cache_read,
                cache_write_5m: cache_write,
                cache_write_1h: before.map_or(cache_write, |row| row.rates.cache_write_1h),
                output,
                web_search: before.map_or(0, |row| row.rates.web_search),
                audio_input: before.map_or(input, |row| row.rates.audio_input),
                audio_output: before.map_or(output, |row| row.rates.audio_output),
            },
            us_permille: before.map_or(1_000, |row| row.us_permille),
            fast_permille: before.map_or(1_000, |row| row.fast_permille),
        };
        let mut tx = self.db.write().await?;
        if !prices::insert(&mut tx, &row).await? {
            return Err(ServiceError::Conflict("There is a price of that model from that moment already."));
        }
        changes::bump(&mut tx, Owner::Platform, now).await?;
        let detail = serde_json::json!({
            "provider": provider, "from": valid_from.rfc3339(), "input": input, "output": output,
            "cache_read": cache_read, "cache_write": cache_write,
        });
        self.record(&mut tx, Owner::Platform, actor, AuditAction::PriceSet, model, detail).await?;
        tx.commit().await?;
        self.directory.forget(Owner::Platform);
        self.rate_unpriced().await
    }

    /// Rates what ran without a price by those that there are now: an adjustment is appended to each
    /// request, which stays as it was. Gives how many were rated.
    ///
    /// # Errors
    /// When the database fails; what was rated until then stays.
    pub async fn rate_unpriced(&self) -> Result<usize, ServiceError> {
        let platform = self.directory.platform().await?;
        let mut rated = 0;
        let mut after = None;
        loop {
            let mut tx = self.db.read().await?;
            let rows = usage::unpriced(&mut tx, after, BATCH).await?;
            tx.rollback().await?;
            let Some(last) = rows.last() else { return Ok(rated) };
            after = Some((last.tenant_id, last.started_at, last.id));
            let mut found: Vec<(UsageRow, Adjustment)> = Vec::new();
            // What was settled without its numbers has none to rate.
            for row in rows.into_iter().filter(|row| row.tokens != TokenUsage::default()) {
                let new = meter::rate(UsageRow { unpriced: false, ..row.clone() }, &platform.prices);
                let (Some(price), false) = (new.price_id, new.unpriced) else { continue };
                let adjustment = Adjustment {
                    at: self.clock.now(),
                    price,
                    cost: Nanos(new.cost.0 - row.cost.0),
                    billed: Nanos(new.billed.0 - row.billed.0),
                };
                found.push((row, adjustment));
            }
            if found.is_empty() {
                continue;
            }
            // In the order in which the meter takes rollups.
            found.sort_by(|(a, _), (b, _)| {
                let key = |row: &UsageRow| {
                    (
                        row.tenant_id,
                        bucket_of(row.started_at),
                        row.feature.clone(),
                        row.model().to_owned(),
                        row.key_id,
                    )
                };
                key(a).cmp(&key(b))
            });
            let mut tx = self.db.meter().await?;
            rated += adjustments::append(&mut tx, &found).await?;
            tx.commit().await?;
        }
    }

    /// Rates again what may have been missed: requests that were under way when a price was set, or a
    /// rating that broke off. Only after prices have changed, and once more a while later.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn rate_again(&self) -> Result<(), ServiceError> {
        let now = self.clock.now();
        let mut tx = self.db.read().await?;
        let changed = changes::changed(&mut tx, now.minus(RATED_AGAIN_FOR)).await?;
        tx.rollback().await?;
        if changed.iter().any(|(owner, _)| *owner == Owner::Platform) {
            self.rate_unpriced().await?;
        }
        Ok(())
    }

    /// Every price, by provider and model, those that hold now and those that did.
    ///
    /// # Errors
    /// `Denied` to all but super admins.
    pub async fn list_prices(&self, actor: &Actor) -> Result<(Vec<PriceRow>, Vec<Unpriced>), ServiceError> {
        self.permit(actor, Action::SeePlatform, None)?;
        let since = self.clock.now().minus(UNPRICED_FOR);
        let mut tx = self.db.read().await?;
        let mut rows = prices::list(&mut tx).await?;
        let unpriced = adjustments::unpriced_models(&mut tx, since).await?;
        rows.sort_by(|a, b| {
            let key = |row: &PriceRow| {
                (row.provider, row.model.clone(), row.tier.as_str(), row.above_prompt_tokens)
            };
            key(a).cmp(&key(b)).then_with(|| b.valid_from.cmp(&a.valid_from))
        });
        let unpriced =
            unpriced.into_iter().map(|(provider, model, requests)| Unpriced { provider, model, requests });
        Ok((rows, unpriced.collect()))
    }
}

/// Dollars for a million tokens, with at most six places, as picodollars a token.
fn per_million(text: &str) -> Option<i64> {
    let text = text.trim().trim_start_matches('$');
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || whole.len() > 6 || fraction.len() > 6 {
        return None;
    }
    let whole: i64 = whole.parse().ok()?;
    let fraction: i64 = format!("{fraction:0<6}").parse().ok()?;
    Some(whole * 1_000_000 + fraction)
}

#[cfg(test)]
mod tests {
    use super::per_million;

    #[test]
    fn a_price_for_a_million_is_exact_for_one() {
        for (text, rate) in [
            ("3", 3_000_000),
            ("0.25", 250_000),
            ("$0.000001", 1),
            ("0", 0),
            ("999999.999999", 999_999_999_999),
        ] {
            assert_eq!(per_million(text), Some(rate), "{text}");
        }
        for text in ["", "-1", "1e3", ".5", "5.", "0.0000001", "NaN", "1,000", "1000000"] {
            assert_eq!(per_million(text), None, "{text}");
        }
    }
}
