//! Google's access tokens: what a service account's signed assertion is exchanged for. Kept until
//! shortly before they run out, in memory alone.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;

use super::{Outbound, SendError, Trust};
use crate::crypto::secret::Secret;
use crate::domain::clock::{MINUTE, Moment, SECOND};
use crate::domain::ids::KeyId;
use crate::providers::{Outgoing, is_error_code};

/// An exchange takes some hundred milliseconds.
const WAIT: Duration = Duration::from_secs(20);
const MAX_ANSWER: usize = 64 * 1_024;
/// A token is not used any more when it has less than this left.
const MARGIN: i64 = MINUTE;

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// The account's key is not taken, and by which code.
    #[error("the token endpoint refused the service account: {0}")]
    Refused(String),
    #[error(transparent)]
    Send(#[from] SendError),
}

#[derive(Deserialize)]
struct Granted {
    access_token: Secret,
    expires_in: i64,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

impl Outbound {
    /// Exchanges an assertion for a token, and tells until when it holds.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn exchange(
        &self,
        assertion: Outgoing,
        now: Moment,
    ) -> Result<(Secret, Moment), ExchangeError> {
        let mut answer = self.ask(assertion, Trust::Operator, WAIT).await?;
        let body = tokio::time::timeout(WAIT, answer.body(MAX_ANSWER)).await;
        let body = body.map_err(|_| SendError::Timeout)??.ok_or(SendError::Broken)?;
        let body = zeroize::Zeroizing::new(Vec::from(body));
        if answer.status == 200 {
            let granted: Granted = serde_json::from_slice(&body).map_err(|_| SendError::Broken)?;
            let lasts = granted.expires_in.clamp(0, 86_400) * SECOND;
            return Ok((granted.access_token, now.plus(lasts)));
        }
        match serde_json::from_slice::<Refusal>(&body) {
            // invalid_grant and the like: RFC 6749, section 5.2.
            Ok(refusal) if (400..=401).contains(&answer.status) => {
                let code = Some(refusal.error).filter(|code| is_error_code(code));
                Err(ExchangeError::Refused(code.unwrap_or_else(|| "refused".to_owned())))
            }
            _ => Err(SendError::Broken.into()),
        }
    }
}

/// Tokens that still hold, by key and version.
#[derive(Default)]
pub struct BearerCache(Mutex<HashMap<(KeyId, i32), (Secret, Moment)>>);

impl BearerCache {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(KeyId, i32), (Secret, Moment)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[must_use]
    pub fn get(&self, key: KeyId, version: i32, now: Moment) -> Option<Secret> {
        self.lock()
            .get(&(key, version))
            .filter(|(_, until)| now.plus(MARGIN) < *until)
            .map(|(token, _)| token.clone())
    }

    pub fn put(&self, key: KeyId, version: i32, token: Secret, until: Moment, now: Moment) {
        let mut held = self.lock();
        held.retain(|_, (_, until)| now < *until);
        held.insert((key, version), (token, until));
    }

    /// Forgets a token that was refused.
    pub fn forget(&self, key: KeyId, version: i32) {
        self.lock().remove(&(key, version));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_kept_until_shortly_before_they_run_out() {
        let (cache, key, now) = (BearerCache::default(), KeyId::new(), Moment(0));
        cache.put(key, 1, Secret::new("ya29.a".into()), now.plus(10 * MINUTE), now);
        let held =
            |key, version, at: Moment| cache.get(key, version, at).map(|token| token.expose().to_owned());
        assert_eq!(held(key, 1, now.plus(8 * MINUTE)).as_deref(), Some("ya29.a"));
        assert_eq!(held(key, 1, now.plus(9 * MINUTE)), None);
        assert_eq!(held(key, 2, now), None);
        assert_eq!(held(KeyId::new(), 1, now), None);
        cache.put(KeyId::new(), 1, Secret::new("b".into()), now.plus(30 * MINUTE), now.plus(11 * MINUTE));
        assert_eq!(cache.lock().len(), 1, "what has run out is dropped");
        cache.put(key, 1, Secret::new("c".into()), now.plus(30 * MINUTE), now);
        cache.forget(key, 1);
        assert_eq!(held(key, 1, now), None);
    }
}
