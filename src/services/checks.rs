//! The live check: a cheap question first, then the smallest possible generation.

use std::time::Duration;

use super::Services;
use crate::access::scope::Scope;
use crate::crypto::secret::Secret;
use crate::domain::clock::Moment;
use crate::domain::provider_key::{KeySettings, KeyView, Provider, Verdict};
use crate::outbound::exchange::ExchangeError;
use crate::outbound::{SendError, Trust};
use crate::providers::{self, Credential, Endpoint, Judged, Outgoing};
use crate::storage::StorageError;

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
            Verdict::Works | Verdict::Neutral => "works",
            Verdict::Doubtful => "not_permitted",
            Verdict::Rejected => "rejected",
            Verdict::OutOfCredit => "out_of_credit",
            Verdict::SpendLimit { .. } => "spend_limit",
            Verdict::RateLimited { .. } => "rate_limited",
            Verdict::Unreachable => "unreachable",
        }
    }
}

impl Services {
    /// Asks the provider about a key. Takes a few hundred milliseconds, at worst a minute.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn check(
        &self,
        scope: &Scope,
        provider: Provider,
        secret: &Secret,
        custom_url: Option<&str>,
        settings: &KeySettings,
    ) -> Result<Checked, StorageError> {
        let model = self.probe_model(scope, provider).await?;
        Ok(self.ask_about(&model, provider, secret, custom_url, settings).await)
    }

    /// The model of a live check: one of Anthropic's that the tenant has chosen and its plan offers, or else
    /// the provider's own. Where others are asked, not every model that they sell is to be had.
    async fn probe_model(&self, scope: &Scope, provider: Provider) -> Result<String, StorageError> {
        let own = providers::of(provider).spec().probe_model;
        if provider == Provider::Anthropic
            && let Some(tenant) = self.directory.tenant(scope).await?
        {
            let offered = |model: &str| tenant.plan.choices(provider).any(|choice| choice.id == model);
            let chosen = tenant.models.iter().find(|(_, model)| offered(model));
            return Ok(chosen.map_or(own, |(_, model)| model.as_str()).to_owned());
        }
        Ok(own.to_owned())
    }

    async fn ask_about(
        &self,
        model: &str,
        provider: Provider,
        secret: &Secret,
        custom_url: Option<&str>,
        settings: &KeySettings,
    ) -> Checked {
        let unreachable = Checked { verdict: Verdict::Unreachable, code: None };
        if custom_url.is_some_and(|url| !self.url_still_allowed(url, provider)) {
            return unreachable;
        }
        let implementation = providers::of(provider);
        let now = self.clock.now();
        let unusable = Checked { verdict: Verdict::Rejected, code: None };
        let Ok(assertion) = implementation.assertion(secret, &self.options.origins, now) else {
            return unusable;
        };
        let bearer = match assertion {
            None => None,
            Some(assertion) => match self.on_runtime(assertion, now).await {
                Ok((token, _)) => Some(token),
                Err(ExchangeError::Refused(code)) => {
                    return Checked { verdict: Verdict::Rejected, code: Some(code) };
                }
                Err(ExchangeError::Send(_)) => return unreachable,
            },
        };
        let origins = &self.options.origins;
        let credential = Credential { secret, custom_url, settings, origins, bearer: bearer.as_ref() };
        let Ok(requests) = implementation.probe(&credential, model) else {
            return unusable;
        };
        let trust = Trust::of(custom_url, &self.options.urls);
        let outbound = self.outbound.clone();
        // On the process's runtime: connections belong to the runtime that opened them.
        let asked = self.runtime.spawn(async move {
            let mut taken = false;
            let mut doubt = None;
            for (endpoint, request) in requests {
                let Ok((status, judged)) = ask(&outbound, provider, &endpoint, request, trust, now).await
                else {
                    return Checked { verdict: Verdict::Unreachable, code: None };
                };
                match judged.verdict {
                    Verdict::Works => taken = true,
                    // A retired model, an overloaded provider or a missing list is not a bad key. A
                    // refusal of the request itself, in the provider's own shape, shows that the
                    // key was taken.
                    Verdict::Neutral => {
                        let told = judged.code.is_some_and(|code| code.parse::<u16>().is_err());
                        taken |= endpoint.is_metered() && (400..500).contains(&status) && told;
                    }
                    Verdict::Doubtful => doubt = Some(judged),
                    verdict => return Checked { verdict, code: judged.code },
                }
            }
            match doubt {
                _ if taken => Checked { verdict: Verdict::Works, code: None },
                Some(Judged { verdict, code, .. }) => Checked { verdict, code },
                None => Checked { verdict: Verdict::Unreachable, code: None },
            }
        });
        asked.await.unwrap_or(unreachable)
    }

    async fn on_runtime(&self, assertion: Outgoing, now: Moment) -> Result<(Secret, Moment), ExchangeError> {
        let outbound = self.outbound.clone();
        let exchanged = self.runtime.spawn(async move { outbound.exchange(assertion, now).await });
        exchanged.await.unwrap_or(Err(ExchangeError::Send(SendError::Broken)))
    }

    /// What a key's secret is exchanged for, where its provider wants that: kept while it holds.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn bearer(&self, key: &KeyView, secret: &Secret) -> Result<Option<Secret>, ExchangeError> {
        let now = self.clock.now();
        if let Some(held) = self.bearers.get(key.id, key.version, now) {
            return Ok(Some(held));
        }
        let refused = |_| ExchangeError::Refused("unusable_key".to_owned());
        let assertion = providers::of(key.provider).assertion(secret, &self.options.origins, now);
        let Some(assertion) = assertion.map_err(refused)? else { return Ok(None) };
        let (token, until) = self.on_runtime(assertion, now).await?;
        self.bearers.put(key.id, key.version, token.clone(), until, now);
        Ok(Some(token))
    }

    /// The URL policy may have become stricter since a URL was saved.
    pub(crate) fn url_still_allowed(&self, url: &str, provider: Provider) -> bool {
        self.options.urls.canonical(url, provider) == Ok(Some(url.to_owned()))
    }
}

async fn ask(
    outbound: &crate::outbound::Outbound,
    provider: Provider,
    endpoint: &Endpoint,
    request: Outgoing,
    trust: Trust,
    now: Moment,
) -> Result<(u16, Judged), SendError> {
    let implementation = providers::of(provider);
    let mut answer = outbound.ask(request, trust, WAIT).await?;
    let body =
        tokio::time::timeout(WAIT, answer.body(MAX_ANSWER)).await.map_err(|_| SendError::Timeout)??;
    let body = body.ok_or(SendError::Broken)?;
    let judged = implementation.judge(endpoint, answer.status, &answer.headers, &body, now);
    if judged.verdict == Verdict::Works && !implementation.understands(endpoint, &body) {
        return Err(SendError::Broken);
    }
    Ok((answer.status, judged))
}
