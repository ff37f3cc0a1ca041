//! A key as somebody pasted it: judged by its form, then by a live call, before anything is stored.

use super::checks::Checked;
use super::provider_keys::Holder;
use super::{Problems, ServiceError, Services};
use crate::access::actor::Actor;
use crate::crypto::secret::Secret;
use crate::domain::clock::Moment;
use crate::domain::endpoint::{self, UrlRule};
use crate::domain::provider_key::{self, KeyStatus, KeyVersion, Provider, Verdict};
use crate::providers;
use crate::storage::keys;

const MAX_SECRET: usize = 512;

/// A pasted key that has the right form.
pub(super) struct Pasted {
    pub secret: Secret,
    pub custom_url: Option<String>,
    pub hint: String,
    pub fingerprint: String,
}

impl Pasted {
    pub fn version(&self, version: i32, status: KeyStatus, actor: &Actor, now: Moment) -> KeyVersion {
        KeyVersion {
            version,
            custom_url: self.custom_url.clone(),
            hint: self.hint.clone(),
            fingerprint: self.fingerprint.clone(),
            status,
            created_at: now,
            created_by_name: actor.email.clone(),
            checked_at: Some(now),
            replaced_at: None,
            destroy_at: None,
        }
    }
}

impl Services {
    /// Reads a pasted secret and URL by form alone; nothing is sent yet.
    pub(super) async fn read_pasted(
        &self,
        holder: &Holder,
        provider: Provider,
        secret: &Secret,
        custom_url: &str,
        problems: &mut Problems,
    ) -> Result<Option<Pasted>, ServiceError> {
        let custom_url = match self.read_url(provider, custom_url).await {
            Ok(url) => url,
            Err(rule) => {
                problems.add("custom_url", rule.to_string());
                return Ok(None);
            }
        };
        let text = secret.expose().trim();
        if text.is_empty() {
            problems.add("api_key", format!("Paste your {} API key.", provider.label()));
            return Ok(None);
        }
        if text.len() > MAX_SECRET {
            problems.add(
                "api_key",
                format!("That is too long for an API key ({MAX_SECRET} characters at most)."),
            );
            return Ok(None);
        }
        let prefix = match providers::of(provider).recognise(text, custom_url.is_some()) {
            Ok(prefix) => prefix,
            Err(wrong) => {
                problems.add("api_key", wrong.0);
                return Ok(None);
            }
        };
        let fingerprint = self.root.fingerprint(holder.scope.owner(), provider, text);
        let mut tx = self.db.read().await?;
        let known = keys::list(&mut tx, &holder.scope).await?;
        tx.rollback().await?;
        if let Some(same) = known.iter().find(|known| {
            known.key.current.fingerprint == fingerprint && known.key.current.custom_url == custom_url
        }) {
            problems.add("api_key", format!("This key is in use already, as {}.", same.key.name));
            return Ok(None);
        }
        let hint = provider_key::hint(text, prefix);
        Ok(Some(Pasted { secret: Secret::new(text.to_owned()), custom_url, hint, fingerprint }))
    }

    async fn read_url(&self, provider: Provider, typed: &str) -> Result<Option<String>, UrlRule> {
        let own_host = self.options.own_host();
        let Some(url) = endpoint::canonical(typed, provider, own_host.as_deref())? else { return Ok(None) };
        let host = url::Url::parse(&url).ok().and_then(|url| url.host_str().map(str::to_owned));
        self.outbound.vet(&host.unwrap_or_default()).await?;
        Ok(Some(url))
    }

    /// The live check of a pasted key. Only what the provider takes gets past it.
    pub(super) async fn check_pasted(
        &self,
        provider: Provider,
        pasted: &Pasted,
    ) -> Result<KeyStatus, ServiceError> {
        let checked = self.check(provider, &pasted.secret, pasted.custom_url.as_deref()).await;
        status_or_problem(provider, &checked, pasted.custom_url.is_some(), self.clock.now())
    }
}

/// The state to begin with, or why nothing is stored.
pub(super) fn status_or_problem(
    provider: Provider,
    checked: &Checked,
    custom_url: bool,
    now: Moment,
) -> Result<KeyStatus, ServiceError> {
    let name = provider.label();
    let problem = match checked.verdict {
        Verdict::Rejected => Problems::field(
            "api_key",
            format!("{name} rejected this key. Check that you copied all of it and that it was not revoked."),
        ),
        Verdict::Unreachable if custom_url => Problems::field(
            "custom_url",
            format!("No {name}-compatible API answered at this URL. Nothing was stored."),
        ),
        Verdict::Unreachable => Problems::field(
            "api_key",
            format!(
                "{name} could not be reached to check this key. Nothing was stored. Try again in a minute."
            ),
        ),
        verdict => return Ok(KeyStatus::from_check(verdict, now)),
    };
    Err(failed_to_save(provider, problem))
}

/// The summary over whatever is wrong with a key that was to be saved.
pub(super) fn failed_to_save(provider: Provider, mut problems: Problems) -> ServiceError {
    problems.summary = Some(format!("Failed to save {} key.", provider.label()));
    ServiceError::Invalid(problems)
}
