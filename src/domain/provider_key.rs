//! Provider keys: what is known of them, and how their state moves.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::account::Slug;
use super::clock::{MINUTE, Moment};
use super::ids::{KeyId, Owner, UserId};
use super::price::{Multiplier, without_snapshot};
use super::usage::Dialect;
use super::words;

words! {
    /// An LLM provider that Keyward speaks to.
    pub enum Provider {
        Anthropic = "anthropic",
        Openai = "openai",
        /// Gemini by way of Google AI Studio.
        Google = "google",
        Vertex = "vertex",
        Azure = "azure",
        /// Anything else that speaks `OpenAI`'s dialect, at a URL of the tenant's.
        Custom = "custom",
    }
}

impl Provider {
    /// The provider's name as people know it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Anthropic => "Anthropic",
            Self::Openai => "OpenAI",
            Self::Google => "Google AI Studio",
            Self::Vertex => "Vertex AI",
            Self::Azure => "Azure OpenAI",
            Self::Custom => "Custom endpoint",
        }
    }

    /// The label with its article, as in "Add an Anthropic key".
    #[must_use]
    pub fn a_label(self) -> String {
        let article = if matches!(self, Self::Anthropic | Self::Openai | Self::Azure) { "an" } else { "a" };
        format!("{article} {}", self.label())
    }

    /// The dialect that its requests mostly have.
    #[must_use]
    pub fn dialect(self) -> Dialect {
        match self {
            Self::Anthropic => Dialect::Anthropic,
            Self::Openai | Self::Azure | Self::Custom => Dialect::Openai,
            Self::Google | Self::Vertex => Dialect::Gemini,
        }
    }

    /// Whether it answers requests of this dialect.
    #[must_use]
    pub fn speaks(self, dialect: Dialect) -> bool {
        match self {
            Self::Anthropic => dialect == Dialect::Anthropic,
            Self::Openai | Self::Azure | Self::Custom => dialect == Dialect::Openai,
            Self::Google => dialect == Dialect::Gemini,
            Self::Vertex => matches!(dialect, Dialect::Gemini | Dialect::Anthropic),
        }
    }
}

/// What a key version needs beside its secret and URL, such as a location: by the provider's names.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct KeySettings(pub BTreeMap<String, String>);

impl KeySettings {
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// The features and models that a key may be used for; `None` means all.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct KeyScope {
    pub features: Option<BTreeSet<String>>,
    pub models: Option<BTreeSet<String>>,
}

impl KeyScope {
    #[must_use]
    pub fn has_feature(&self, slug: &str) -> bool {
        self.features.as_ref().is_none_or(|features| features.contains(slug))
    }

    /// Whether a model is in it: by its name, or as a snapshot of a model that is.
    #[must_use]
    pub fn has_model(&self, model: &str) -> bool {
        self.models.as_ref().is_none_or(|models| {
            models.contains(model) || without_snapshot(model).is_some_and(|model| models.contains(model))
        })
    }

    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.features.is_none() && self.models.is_none()
    }
}

words! {
    /// The state of a key, one machine for all providers. `disabled` and `removed` are decided by
    /// people and belong to the key; the others belong to one of its versions.
    pub enum KeyState {
        Valid = "valid",
        Rejected = "rejected",
        OutOfCredit = "out_of_credit",
        SpendLimit = "spend_limit",
        RateLimited = "rate_limited",
        Unreachable = "unreachable",
        Disabled = "disabled",
        Removed = "removed",
    }
}

impl KeyState {
    /// A limit at the provider: the key is good, its account may not spend now.
    #[must_use]
    pub fn is_limit(self) -> bool {
        matches!(self, Self::OutOfCredit | Self::SpendLimit | Self::RateLimited)
    }
}

/// What an answer of the provider says about the key that it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The provider took the key and served the request.
    Works,
    /// The provider does not take the key.
    Rejected,
    OutOfCredit,
    /// A spend limit, with the moment at which it ends where the provider tells one.
    SpendLimit {
        until: Option<Moment>,
    },
    RateLimited {
        until: Moment,
    },
    /// Refused in a way that may be about the key or about what was asked of it: check the key.
    Doubtful,
    /// Says nothing about the key: a bad request, an overloaded or failing provider.
    Neutral,
    /// No answer came, or none that could be read.
    Unreachable,
}

impl Verdict {
    /// Whether the provider refused the key itself, or said that it is at a limit.
    #[must_use]
    pub fn refuses_key(self) -> bool {
        matches!(
            self,
            Self::Rejected | Self::OutOfCredit | Self::SpendLimit { .. } | Self::RateLimited { .. }
        )
    }
}

/// The state of one key version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyStatus {
    pub state: KeyState,
    pub since: Moment,
    /// When the limit ends, where it is known.
    pub until: Option<Moment>,
    /// Rejections in a row from live traffic.
    pub rejections: i32,
    /// When a paused key is probed next.
    pub probe_at: Option<Moment>,
}

/// How often a paused key is probed while no end, or only a later one, is known.
pub const PROBE_EVERY: i64 = 5 * MINUTE;

/// A single rejection can be a provider's hiccup; this many in a row are not.
const REJECTIONS_TO_BELIEVE: i32 = 2;

impl KeyStatus {
    /// A version that has just passed, or paused at, its first check.
    #[must_use]
    pub fn from_check(verdict: Verdict, now: Moment) -> Self {
        let new = Self { state: KeyState::Valid, since: now, until: None, rejections: 0, probe_at: None };
        new.after_check(verdict, now)
    }

    /// The state in force at `now`: a rate limit that has run out is over by itself.
    #[must_use]
    pub fn state_at(&self, now: Moment) -> KeyState {
        match (self.state, self.until) {
            (KeyState::RateLimited, Some(until)) if until <= now => KeyState::Valid,
            (state, _) => state,
        }
    }

    /// After a live check, which is asked about the key alone and is believed at once.
    #[must_use]
    pub fn after_check(&self, verdict: Verdict, now: Moment) -> Self {
        match verdict {
            Verdict::Rejected => self.moved(KeyState::Rejected, None, now),
            // A check that the provider answered at all shows that it takes the key.
            Verdict::Neutral => self.moved(KeyState::Valid, None, now),
            // Known, and let do nothing that was tried: what it may do otherwise was not asked.
            Verdict::Doubtful if self.state == KeyState::Unreachable => {
                self.moved(KeyState::Valid, None, now)
            }
            Verdict::Doubtful => Self { probe_at: self.probe_at.map(|_| now.plus(PROBE_EVERY)), ..*self },
            verdict => self.after(verdict, now),
        }
    }

    /// After a tenant's own request that began at `started`. An answer to a request that is
    /// older than the present state cannot end it.
    #[must_use]
    pub fn after_live(&self, verdict: Verdict, started: Moment, now: Moment) -> Self {
        match verdict {
            Verdict::Works if started < self.since && self.state != KeyState::Valid => *self,
            Verdict::Rejected if self.state == KeyState::Rejected => *self,
            Verdict::Rejected if self.rejections + 1 < REJECTIONS_TO_BELIEVE => {
                Self { rejections: self.rejections + 1, ..*self }
            }
            Verdict::Rejected => self.moved(KeyState::Rejected, None, now),
            Verdict::Doubtful | Verdict::Neutral => *self,
            verdict => self.after(verdict, now),
        }
    }

    /// An admin resumes a paused key by hand.
    #[must_use]
    pub fn resumed(&self, now: Moment) -> Self {
        self.moved(KeyState::Valid, None, now)
    }

    fn after(&self, verdict: Verdict, now: Moment) -> Self {
        match verdict {
            Verdict::Works => self.moved(KeyState::Valid, None, now),
            Verdict::Rejected => self.moved(KeyState::Rejected, None, now),
            Verdict::OutOfCredit => self.moved(KeyState::OutOfCredit, None, now),
            Verdict::SpendLimit { until } => self.moved(KeyState::SpendLimit, until, now),
            Verdict::RateLimited { until } => self.moved(KeyState::RateLimited, Some(until), now),
            // A limit does not end because the provider could not be asked about it.
            Verdict::Unreachable if self.state_at(now) == KeyState::Valid => {
                self.moved(KeyState::Unreachable, None, now)
            }
            Verdict::Unreachable => Self { probe_at: self.probe_at.map(|_| now.plus(PROBE_EVERY)), ..*self },
            Verdict::Doubtful | Verdict::Neutral => *self,
        }
    }

    fn moved(&self, state: KeyState, until: Option<Moment>, now: Moment) -> Self {
        let since = if state == self.state { self.since } else { now };
        let probe_at = match state {
            KeyState::OutOfCredit | KeyState::SpendLimit => {
                let regular = now.plus(PROBE_EVERY);
                Some(until.filter(|until| *until > now).map_or(regular, |until| until.min(regular)))
            }
            _ => None,
        };
        Self { state, since, until, rejections: 0, probe_at }
    }
}

words! {
    /// Who disabled a key. What the operator has stopped, the tenant cannot start.
    pub enum DisabledBy { Tenant = "tenant", Operator = "operator" }
}

/// How a request may use a key version, as resolution needs it. Holds no secret.
#[derive(Clone, Debug)]
pub struct KeyView {
    pub id: KeyId,
    pub name: Slug,
    pub provider: Provider,
    pub version: i32,
    pub status: KeyStatus,
    pub disabled: Option<DisabledBy>,
    pub is_default: bool,
    pub fingerprint: String,
    pub scope: KeyScope,
    /// What its owner pays of the list price.
    pub rate: Multiplier,
}

impl KeyView {
    #[must_use]
    pub fn state_at(&self, now: Moment) -> KeyState {
        if self.disabled.is_some() { KeyState::Disabled } else { self.status.state_at(now) }
    }
}

/// An owner's keys, any of which is found at the same cost however many there are.
#[derive(Debug, Default)]
pub struct Keys {
    /// Defaults first, of which there is one for each provider.
    pub(super) views: Vec<KeyView>,
    by_name: HashMap<String, usize>,
}

impl Keys {
    #[must_use]
    pub fn new(mut views: Vec<KeyView>) -> Self {
        views.sort_by_key(|key| !key.is_default);
        let by_name = views.iter().enumerate().map(|(at, key)| (key.name.to_string(), at)).collect();
        Self { views, by_name }
    }

    /// The provider's default key.
    #[must_use]
    pub fn default_of(&self, provider: Provider) -> Option<&KeyView> {
        self.views.iter().take_while(|key| key.is_default).find(|key| key.provider == provider)
    }

    #[must_use]
    pub fn named(&self, name: &str) -> Option<&KeyView> {
        self.views.get(*self.by_name.get(name)?)
    }
}

impl std::ops::Deref for Keys {
    type Target = [KeyView];

    fn deref(&self) -> &[KeyView] {
        &self.views
    }
}

/// A provider key with everything that its page shows.
#[derive(Clone, Debug)]
pub struct ProviderKey {
    pub id: KeyId,
    pub owner: Owner,
    pub provider: Provider,
    pub name: Slug,
    pub label: Option<String>,
    pub is_default: bool,
    pub disabled: Option<DisabledBy>,
    pub created_at: Moment,
    pub created_by: Option<UserId>,
    pub created_by_name: String,
    pub scope: KeyScope,
    pub rate: Multiplier,
    pub current: KeyVersion,
    pub last_used_at: Option<Moment>,
}

impl ProviderKey {
    #[must_use]
    pub fn state_at(&self, now: Moment) -> KeyState {
        if self.disabled.is_some() { KeyState::Disabled } else { self.current.status.state_at(now) }
    }

    #[must_use]
    pub fn view(&self) -> KeyView {
        KeyView {
            id: self.id,
            name: self.name.clone(),
            provider: self.provider,
            version: self.current.version,
            status: self.current.status,
            disabled: self.disabled,
            is_default: self.is_default,
            fingerprint: self.current.fingerprint.clone(),
            scope: self.scope.clone(),
            rate: self.rate,
        }
    }
}

/// One pasted secret of a key: its metadata. The secret itself is sealed elsewhere.
#[derive(Clone, Debug)]
pub struct KeyVersion {
    pub version: i32,
    /// Canonical; `None` is the provider's default. Sealed with the secret: a URL changed behind
    /// Keyward's back makes the version fail to open.
    pub custom_url: Option<String>,
    /// Sealed with the secret, as the URL is.
    pub settings: KeySettings,
    pub hint: String,
    pub fingerprint: String,
    pub status: KeyStatus,
    pub created_at: Moment,
    pub created_by_name: String,
    pub checked_at: Option<Moment>,
    /// Set when a newer version took its place.
    pub replaced_at: Option<Moment>,
    /// When a replaced version's sealed secret is destroyed.
    pub destroy_at: Option<Moment>,
}

/// The recognised prefix and the last four characters: `sk-ant-api03-…7Qx4`. A secret too short
/// to hide behind four characters shows none of them.
#[must_use]
pub fn hint(secret: &str, prefix: &str) -> String {
    let rest = secret.strip_prefix(prefix).unwrap_or(secret);
    let prefix = if secret.starts_with(prefix) { prefix } else { "" };
    if rest.chars().count() < 12 {
        return format!("{prefix}…");
    }
    let tail: String = rest.chars().skip(rest.chars().count() - 4).collect();
    format!("{prefix}…{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment(1_000_000_000);

    fn valid() -> KeyStatus {
        KeyStatus::from_check(Verdict::Works, NOW)
    }

    #[test]
    fn one_live_rejection_is_not_believed_and_two_are() {
        let once = valid().after_live(Verdict::Rejected, NOW, NOW.plus(1));
        assert_eq!(once.state, KeyState::Valid);
        let twice = once.after_live(Verdict::Rejected, NOW, NOW.plus(2));
        assert_eq!((twice.state, twice.since), (KeyState::Rejected, NOW.plus(2)));
    }

    #[test]
    fn a_success_between_rejections_starts_the_count_again() {
        let status = valid()
            .after_live(Verdict::Rejected, NOW, NOW.plus(1))
            .after_live(Verdict::Works, NOW.plus(1), NOW.plus(2))
            .after_live(Verdict::Rejected, NOW.plus(2), NOW.plus(3));
        assert_eq!(status.state, KeyState::Valid);
        // A failing provider between them does not.
        let status = status.after_live(Verdict::Neutral, NOW.plus(3), NOW.plus(4)).after_live(
            Verdict::Rejected,
            NOW.plus(4),
            NOW.plus(5),
        );
        assert_eq!(status.state, KeyState::Rejected);
    }

    #[test]
    fn a_check_is_believed_at_once() {
        assert_eq!(valid().after_check(Verdict::Rejected, NOW).state, KeyState::Rejected);
    }

    #[test]
    fn limits_pause_with_their_end_and_keep_their_beginning() {
        let until = NOW.plus(60 * MINUTE);
        let paused = valid().after_live(Verdict::SpendLimit { until: Some(until) }, NOW, NOW.plus(5));
        assert_eq!(
            (paused.state, paused.since, paused.until),
            (KeyState::SpendLimit, NOW.plus(5), Some(until))
        );
        assert_eq!(paused.probe_at, Some(NOW.plus(5).plus(PROBE_EVERY)));
        let again = paused.after_check(Verdict::SpendLimit { until: Some(until) }, NOW.plus(MINUTE));
        assert_eq!(again.since, NOW.plus(5));
        let near = valid().after_check(Verdict::SpendLimit { until: Some(NOW.plus(MINUTE)) }, NOW);
        assert_eq!(near.probe_at, Some(NOW.plus(MINUTE)));
    }

    #[test]
    fn an_answer_older_than_the_pause_does_not_end_it() {
        let paused = valid().after_live(Verdict::OutOfCredit, NOW, NOW.plus(10));
        assert_eq!(paused.after_live(Verdict::Works, NOW.plus(9), NOW.plus(11)).state, KeyState::OutOfCredit);
        assert_eq!(paused.after_live(Verdict::Works, NOW.plus(10), NOW.plus(11)).state, KeyState::Valid);
    }

    #[test]
    fn a_rate_limit_ends_by_itself() {
        let status = valid().after_live(Verdict::RateLimited { until: NOW.plus(MINUTE) }, NOW, NOW);
        assert_eq!(status.state_at(NOW.plus(MINUTE - 1)), KeyState::RateLimited);
        assert_eq!(status.state_at(NOW.plus(MINUTE)), KeyState::Valid);
    }

    #[test]
    fn a_pause_outlives_an_unreachable_provider() {
        let paused = valid().after_check(Verdict::OutOfCredit, NOW);
        let later = paused.after_check(Verdict::Unreachable, NOW.plus(PROBE_EVERY));
        assert_eq!(later.state, KeyState::OutOfCredit);
        assert_eq!(later.probe_at, Some(NOW.plus(2 * PROBE_EVERY)));
        assert_eq!(valid().after_check(Verdict::Unreachable, NOW).state, KeyState::Unreachable);
    }

    #[test]
    fn a_check_that_is_let_do_nothing_moves_no_state() {
        assert_eq!(valid().after_check(Verdict::Doubtful, NOW).state, KeyState::Valid);
        let paused = valid().after_check(Verdict::OutOfCredit, NOW);
        let later = paused.after_check(Verdict::Doubtful, NOW.plus(PROBE_EVERY));
        assert_eq!((later.state, later.probe_at), (KeyState::OutOfCredit, Some(NOW.plus(2 * PROBE_EVERY))));
        let away = valid().after_check(Verdict::Unreachable, NOW);
        assert_eq!(away.after_check(Verdict::Doubtful, NOW).state, KeyState::Valid);
    }

    #[test]
    fn hints_show_the_prefix_and_four_characters() {
        assert_eq!(hint("sk-ant-api03-abcdefghij7Qx4", "sk-ant-api03-"), "sk-ant-api03-…7Qx4");
        assert_eq!(hint("another-kind-of-key-91bc", "sk-ant-api03-"), "…91bc");
        assert_eq!(hint("sk-ant-api03-short", "sk-ant-api03-"), "sk-ant-api03-…");
        assert_eq!(hint("short", "sk-ant-api03-"), "…");
    }
}
