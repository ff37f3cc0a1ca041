//! A key as somebody pasted it: judged by its form, then by a live call, before anything is stored.

use super::checks::Checked;
use super::provider_keys::Holder;
use super::{Problems, ServiceError, Services};
use crate::access::actor::Actor;
use crate::access::scope::Scope;
use crate::crypto::secret::Secret;
use crate::domain::clock::Moment;
use crate::domain::provider_key::{self, KeySettings, KeyStatus, KeyVersion, Provider, Verdict};
use crate::providers::{self, Need, Spec, is_path_segment};
use crate::storage::keys;

const MAX_LABEL: usize = 80;
const MAX_SECRET: usize = 512;
/// A service account's key file has some 2,400.
const MAX_DOCUMENT: usize = 16 * 1_024;

/// A key as it was typed into a form or sent to the API.
#[derive(Clone, Copy, Debug)]
pub struct TypedKey<'a> {
    pub secret: &'a Secret,
    pub custom_url: &'a str,
    /// By the names of the provider's fields.
    pub settings: &'a KeySettings,
}

/// A pasted key that has the right form.
pub(super) struct Pasted {
    pub secret: Secret,
    pub custom_url: Option<String>,
    pub settings: KeySettings,
    pub hint: String,
    pub fingerprint: String,
}

impl Pasted {
    pub fn version(&self, version: i32, status: KeyStatus, actor: &Actor, now: Moment) -> KeyVersion {
        KeyVersion {
            version,
            custom_url: self.custom_url.clone(),
            settings: self.settings.clone(),
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
    /// Reads a pasted key by form alone; nothing is sent yet.
    pub(super) async fn read_pasted(
        &self,
        holder: &Holder,
        provider: Provider,
        typed: &TypedKey<'_>,
        problems: &mut Problems,
    ) -> Result<Option<Pasted>, ServiceError> {
        let implementation = providers::of(provider);
        let spec = implementation.spec();
        let settings = read_settings(spec, typed.settings, problems);
        let custom_url = match self.read_url(spec, typed.custom_url).await {
            Ok(url) => url,
            Err(problem) => {
                problems.add("custom_url", problem);
                return Ok(None);
            }
        };
        if let Some((field, objection)) = implementation.objection(custom_url.as_deref(), &settings) {
            problems.add(field, objection);
        }
        let text = typed.secret.expose().trim();
        if text.is_empty() {
            problems.add("api_key", format!("Paste your {} {}.", provider.label(), spec.key_label));
            return Ok(None);
        }
        let longest = if spec.key_is_document { MAX_DOCUMENT } else { MAX_SECRET };
        if text.len() > longest {
            problems.add("api_key", format!("That is too long: {longest} characters at most."));
            return Ok(None);
        }
        let recognised = implementation.recognise(text, custom_url.is_some(), &self.options.origins);
        let recognised = match recognised {
            Ok(recognised) => recognised,
            Err(wrong) => {
                problems.add("api_key", wrong.0);
                return Ok(None);
            }
        };
        let hint = provider_key::hint(recognised.hint_of.as_deref().unwrap_or(text), recognised.prefix);
        let secret = recognised.kept.unwrap_or_else(|| Secret::new(text.to_owned()));
        let fingerprint = self.root.fingerprint(holder.scope.owner(), provider, secret.expose());
        let mut tx = self.db.read().await?;
        let known = keys::list(&mut tx, &holder.scope).await?;
        tx.rollback().await?;
        if let Some(same) = known.iter().map(|known| &known.key).find(|known| {
            let current = &known.current;
            current.fingerprint == fingerprint
                && current.custom_url == custom_url
                && current.settings == settings
        }) {
            problems.add("api_key", format!("This key is in use already, as {}.", same.name));
            return Ok(None);
        }
        Ok(Some(Pasted { secret, custom_url, settings, hint, fingerprint }))
    }

    /// The canonical URL, or what is wrong with it.
    async fn read_url(&self, spec: &Spec, typed: &str) -> Result<Option<String>, String> {
        let policy = &self.options.urls;
        let url = policy.canonical(typed, spec.kind).map_err(|rule| rule.to_string())?;
        match (url, spec.base_url.need) {
            (None, Need::Required) => Err(format!("Give the {}.", spec.base_url.label)),
            (Some(_), Need::None) => Err(format!("{} keys take no URL.", spec.kind.label())),
            (None, _) => Ok(None),
            (Some(url), _) => {
                if policy.allowed_origin(&url).is_none() {
                    let host = url::Url::parse(&url).ok().and_then(|url| url.host_str().map(str::to_owned));
                    let vetted = self.outbound.vet(&host.unwrap_or_default()).await;
                    vetted.map_err(|rule| rule.to_string())?;
                }
                Ok(Some(url))
            }
        }
    }

    /// The live check of a pasted key. Only what the provider takes gets past it.
    pub(super) async fn check_pasted(
        &self,
        scope: &Scope,
        provider: Provider,
        pasted: &Pasted,
    ) -> Result<KeyStatus, ServiceError> {
        let url = pasted.custom_url.as_deref();
        let checked = self.check(scope, provider, &pasted.secret, url, &pasted.settings).await?;
        status_or_problem(provider, &checked, pasted.custom_url.is_some(), self.clock.now())
    }
}

/// The settings that the provider asks for, without those that are empty. What it does not ask for
/// is a mistake.
fn read_settings(spec: &Spec, typed: &KeySettings, problems: &mut Problems) -> KeySettings {
    let mut settings = KeySettings::default();
    for (name, value) in &typed.0 {
        let Some(field) = spec.fields.iter().find(|field| field.name == name) else {
            let field = providers::SETTINGS.into_iter().find(|known| known == name).unwrap_or("settings");
            problems.add(field, format!("{} keys have no setting {name}.", spec.kind.label()));
            continue;
        };
        let value = value.trim();
        let fits = if field.is_switch { value == "yes" } else { is_path_segment(value) && value.len() <= 64 };
        if value.is_empty() {
            continue;
        }
        if !fits {
            problems.add(field.name, "Use letters, digits, dots, hyphens and underscores, at most 64.");
        }
        settings.0.insert(field.name.to_owned(), value.to_owned());
    }
    settings
}

pub(super) fn read_label(label: &str, problems: &mut Problems) -> Option<String> {
    let label = label.trim();
    if label.chars().count() > MAX_LABEL || label.chars().any(char::is_control) {
        problems.add("label", format!("Use at most {MAX_LABEL} characters on one line."));
    }
    (!label.is_empty()).then(|| label.to_owned())
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
        Verdict::Doubtful => Problems::field(
            "api_key",
            format!(
                "{name} answered, but lets this key do nothing that was tried ({}). Nothing was stored. Give it access, and try again.",
                checked.code.as_deref().unwrap_or("403")
            ),
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
