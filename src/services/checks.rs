//! The live check: a cheap question first, then the smallest possible generation.

use std::time::Duration;

use super::Services;
use crate::crypto::secret::Secret;
use crate::domain::clock::Moment;
use crate::domain::endpoint;
use crate::domain::provider_key::{Provider, Verdict};
use crate::outbound::{SendError, Trust};
use crate::providers::{self, Credential, Endpoint, Judged, Outgoing};

/// A check that takes longer than this counts as unreachable.
const WAIT: Duration = Duration::from_secs(20);
/// A check's answer is a few hundred bytes; more is no answer of a provider.
const MAX_ANSWER: usize = 1_024 * 1_024;

/// What a live check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    pub verdict: Verdict,
    /// The provider's error type or code, for the record.
    pub code: Option<String>,
}

impl Checked {
    /// The finding in a word, for the record.
    #[must_use]
    pub fn told(&self) -> &'static str {
        match self.verdict {
            Verdict::Works | Verdict::Neutral | Verdict::Doubtful => "works",
            Verdict::Rejected => "rejected",
            Verdict::OutOfCredit => "out_of_credit",
            Verdict::SpendLimit { .. } => "spend_limit",
            Verdict::RateLimited { .. } => "rate_limited",
            Verdict::Unreachable => "unreachable",
        }
    }
}

impl Services {
    /// Asks the provider about a key. Takes a few hundred milliseconds, at worst 40 seconds.
    pub async fn check(&self, provider: Provider, secret: &Secret, custom_url: Option<&str>) -> Checked {
        // Made on the process's runtime: connections belong to the runtime that opened them.
        let credential = Credential { secret, custom_url, origin: self.options.origin(provider) };
        let implementation = providers::of(provider);
        let unreachable = Checked { verdict: Verdict::Unreachable, code: None };
        if custom_url.is_some_and(|url| !self.url_still_allowed(url, provider)) {
            return unreachable;
        }
        let Ok(requests) = implementation.probe(&credential, implementation.spec().probe_model) else {
            return Checked { verdict: Verdict::Rejected, code: None };
        };
        let trust = if custom_url.is_some() { Trust::Tenant } else { Trust::Operator };
        let (outbound, now) = (self.outbound.clone(), self.clock.now());
        let asked = self.runtime.spawn(async move {
            let mut taken = false;
            for (endpoint, request) in requests {
                let Ok(judged) = ask(&outbound, provider, &endpoint, request, trust, now).await else {
                    return Checked { verdict: Verdict::Unreachable, code: None };
                };
                match judged.verdict {
                    Verdict::Works => taken = true,
                    // A retired model, an overloaded provider or a missing list is not a bad key.
                    Verdict::Neutral | Verdict::Doubtful => {}
                    verdict => return Checked { verdict, code: judged.code },
                }
            }
            let verdict = if taken { Verdict::Works } else { Verdict::Unreachable };
            Checked { verdict, code: None }
        });
        asked.await.unwrap_or(unreachable)
    }

    /// The URL policy may have become stricter since a URL was saved.
    pub(crate) fn url_still_allowed(&self, url: &str, provider: Provider) -> bool {
        let own_host = self.options.own_host();
        endpoint::canonical(url, provider, own_host.as_deref()) == Ok(Some(url.to_owned()))
    }
}

async fn ask(
    outbound: &crate::outbound::Outbound,
    provider: Provider,
    endpoint: &Endpoint,
    request: Outgoing,
    trust: Trust,
    now: Moment,
) -> Result<Judged, SendError> {
    let implementation = providers::of(provider);
    let mut answer = outbound.send(request, trust, WAIT).await?;
    let body =
        tokio::time::timeout(WAIT, answer.body(MAX_ANSWER)).await.map_err(|_| SendError::Timeout)??;
    let body = body.ok_or(SendError::Broken)?;
    let judged = implementation.judge(endpoint, answer.status, &answer.headers, &body, now);
    if judged.verdict == Verdict::Works && !implementation.understands(endpoint, &body) {
        return Err(SendError::Broken);
    }
    Ok(judged)
}
