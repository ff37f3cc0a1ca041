//! Choosing the key. One pure function decides for the gateway, for the pages and for the API
//! which key version a request runs on, or which gates are closed and who can open them.

use super::account::TenantState;
use super::billing::{Fallback, LimitPolicy, NoKeyPolicy, PaymentPolicy, UsageMode};
use super::clock::Moment;
use super::plan::{Feature, Plan};
use super::provider_key::{DisabledBy, KeyState, KeyView, Keys, Provider};
use super::usage::Dialect;

/// What a request asks for.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    pub dialect: Dialect,
    /// `None` is the built-in `general`.
    pub feature: Option<&'a str>,
    pub key_name: Option<&'a str>,
    pub provider: Option<Provider>,
    /// The model that is asked for, where that is known.
    pub model: Option<&'a str>,
}

/// All that is known about the tenant and the platform at the moment of asking.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    pub now: Moment,
    pub tenant_state: TenantState,
    pub policy: PaymentPolicy,
    pub plan: &'a Plan,
    pub features: &'a [Feature],
    /// Slugs of features whose master switch the tenant has turned off.
    pub switched_off: &'a [String],
    /// Whether all AI is paused because an hour was unusually costly.
    pub tripped: bool,
    pub keys: &'a Keys,
    pub shared_keys: &'a [KeyView],
}

/// One condition that a feature needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateKind {
    Tenant,
    MasterSwitch,
    Plan,
    Key,
    Pause,
}

/// Who can open a closed gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opener {
    /// A super admin of the platform.
    Platform,
    /// An admin of the tenant, on its API keys page.
    KeysPage,
    /// An admin of the tenant, on its Billing page.
    BillingPage,
    /// An admin of the tenant, by looking at unusual spend and resuming.
    BreakerPage,
    /// Whoever pays the provider, by adding credit in its console.
    ProviderBilling(Provider),
    /// Whoever pays the provider, by raising the limit in its console.
    ProviderLimits(Provider),
    /// Nobody needs to: it opens by itself.
    Time,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    pub kind: GateKind,
    /// Why it is closed, in a sentence, and who can open it; `None` while it is open.
    pub closed: Option<Closed>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    pub why: String,
    pub opener: Opener,
}

/// Stable codes of refusals, as the gateway gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalCode {
    FeatureUnknown,
    GateClosed,
    KeyNotFound,
    ProviderMismatch,
    KeyRejected,
    /// Paused by a spend or credit limit: a retry does not help.
    Paused,
    /// Paused by a rate limit until the moment named: a retry after it does.
    RateLimited,
    /// The platform's own account cannot serve.
    Unavailable,
}

#[derive(Clone, Debug)]
pub struct Refusal {
    pub code: RefusalCode,
    pub message: String,
    pub until: Option<Moment>,
}

/// The key version that a request runs on.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<'a> {
    pub key: &'a KeyView,
    /// True for the platform's shared key.
    pub shared: bool,
    pub mode: UsageMode,
    pub fallback: Option<Fallback>,
}

#[derive(Clone, Debug)]
pub struct Decision<'a> {
    pub outcome: Result<Chosen<'a>, Refusal>,
    /// Every gate, open or closed, in the order in which they are checked. Empty for a request
    /// that is wrong in itself.
    pub gates: Vec<Gate>,
    pub feature: Option<Feature>,
}

/// Decides which key a request runs on. See the module's header.
#[must_use]
pub fn resolve<'a>(ask: &Ask<'_>, s: &Situation<'a>) -> Decision<'a> {
    let feature = match ask.feature {
        None | Some(super::plan::GENERAL) => Feature::general(),
        Some(slug) => match s.features.iter().find(|feature| feature.slug == slug) {
            Some(feature) => feature.clone(),
            None => return wrong(RefusalCode::FeatureUnknown, format!("There is no feature named {slug}.")),
        },
    };
    let key = choose(ask, s, &feature);
    let gates = gates(s, &feature, &key);
    let shut = gates[..3].iter().find_map(|gate| gate.closed.as_ref());
    let outcome = match (shut, key) {
        (Some(closed), _) => Err(refusal(RefusalCode::GateClosed, closed.why.clone())),
        (None, Ok(chosen)) => Ok(chosen),
        (None, Err(miss)) => Err(Refusal { code: miss.code, message: miss.why, until: miss.until }),
    };
    Decision { outcome, gates, feature: Some(feature) }
}

fn wrong<'a>(code: RefusalCode, message: String) -> Decision<'a> {
    Decision { outcome: Err(refusal(code, message)), gates: Vec::new(), feature: None }
}

fn refusal(code: RefusalCode, message: String) -> Refusal {
    Refusal { code, message, until: None }
}

/// Why no key can be used.
struct Miss {
    code: RefusalCode,
    why: String,
    opener: Opener,
    until: Option<Moment>,
}

impl Miss {
    fn new(code: RefusalCode, opener: Opener, why: String) -> Self {
        Self { code, why, opener, until: None }
    }
}

fn choose<'a>(ask: &Ask<'_>, s: &Situation<'a>, feature: &Feature) -> Result<Chosen<'a>, Miss> {
    let provider = ask.provider.unwrap_or_else(|| ask.dialect.own_provider());
    if !provider.speaks(ask.dialect) {
        return Err(Miss::new(
            RefusalCode::ProviderMismatch,
            Opener::KeysPage,
            format!("{} does not speak the {} dialect.", provider.label(), ask.dialect.label()),
        ));
    }
    if s.tripped {
        return Err(Miss::new(
            RefusalCode::Paused,
            Opener::BreakerPage,
            "AI is paused: an hour cost several times what is usual.".to_owned(),
        ));
    }
    if let Some(name) = ask.key_name {
        return named(name, ask, s, feature);
    }
    if s.policy.mode == UsageMode::Managed || !feature.covered {
        return shared(provider, s, None);
    }
    let Some(key) = s.keys.default_of(provider) else {
        return match s.policy.no_key {
            NoKeyPolicy::Managed => shared(provider, s, Some(Fallback::NoKey)),
            NoKeyPolicy::Block => Err(Miss::new(
                RefusalCode::GateClosed,
                Opener::KeysPage,
                format!(
                    "No {} key is set up, and this account does not use the shared one.",
                    provider.label()
                ),
            )),
        };
    };
    within_scope(key, ask, feature)?;
    match usable(key, s.now) {
        Ok(()) => Ok(Chosen { key, shared: false, mode: UsageMode::Byok, fallback: None }),
        Err(_) if key.state_at(s.now).is_limit() && s.policy.on_limit == LimitPolicy::Managed => {
            shared(provider, s, Some(Fallback::Limit))
        }
        Err(miss) => Err(miss),
    }
}

/// A key that a request names is used in either mode and never falls back to anything.
fn named<'a>(name: &str, ask: &Ask<'_>, s: &Situation<'a>, feature: &Feature) -> Result<Chosen<'a>, Miss> {
    let Some(key) = s.keys.named(name) else {
        return Err(Miss::new(
            RefusalCode::KeyNotFound,
            Opener::KeysPage,
            format!("There is no key named {name}."),
        ));
    };
    if ask.provider.is_some_and(|provider| provider != key.provider) || !key.provider.speaks(ask.dialect) {
        return Err(Miss::new(
            RefusalCode::ProviderMismatch,
            Opener::KeysPage,
            format!("The key {name} belongs to {}.", key.provider.label()),
        ));
    }
    usable(key, s.now)?;
    within_scope(key, ask, feature)?;
    Ok(Chosen { key, shared: false, mode: UsageMode::Byok, fallback: None })
}

fn shared<'a>(provider: Provider, s: &Situation<'a>, fallback: Option<Fallback>) -> Result<Chosen<'a>, Miss> {
    s.shared_keys
        .iter()
        .find(|key| key.provider == provider && key.is_default && usable(key, s.now).is_ok())
        .map(|key| Chosen { key, shared: true, mode: UsageMode::Managed, fallback })
        .ok_or_else(|| {
            Miss::new(
                RefusalCode::Unavailable,
                Opener::Platform,
                format!("The shared {} account cannot serve requests now.", provider.label()),
            )
        })
}

fn usable(key: &KeyView, now: Moment) -> Result<(), Miss> {
    let provider = key.provider.label();
    let (code, opener, why) = match key.state_at(now) {
        // An unreachable provider may be back: the request itself is the best check.
        KeyState::Valid | KeyState::Unreachable => return Ok(()),
        KeyState::Rejected => (
            RefusalCode::KeyRejected,
            Opener::KeysPage,
            format!("{provider} rejected the key {}. Paste a new one.", key.name),
        ),
        KeyState::Disabled if key.disabled == Some(DisabledBy::Operator) => (
            RefusalCode::GateClosed,
            Opener::Platform,
            format!("The key {} is disabled by the operator.", key.name),
        ),
        KeyState::Disabled => {
            (RefusalCode::GateClosed, Opener::KeysPage, format!("The key {} is disabled.", key.name))
        }
        KeyState::Removed => {
            (RefusalCode::KeyNotFound, Opener::KeysPage, format!("The key {} was removed.", key.name))
        }
        KeyState::OutOfCredit => (
            RefusalCode::Paused,
            Opener::ProviderBilling(key.provider),
            format!("AI is paused: the {provider} account of the key {} is out of credit.", key.name),
        ),
        KeyState::SpendLimit => (
            RefusalCode::Paused,
            Opener::ProviderLimits(key.provider),
            format!("AI is paused: the {provider} spend limit of the key {} is reached.", key.name),
        ),
        KeyState::RateLimited => (
            RefusalCode::RateLimited,
            Opener::Time,
            format!("{provider} is limiting the rate of the key {}.", key.name),
        ),
    };
    Err(Miss { until: key.status.until, ..Miss::new(code, opener, why) })
}

/// A key that is not for this feature or model closes the gate: nothing else stands in for it.
fn within_scope(key: &KeyView, ask: &Ask<'_>, feature: &Feature) -> Result<(), Miss> {
    let closed = |what: &str| {
        let why = format!("The key {} may not be used for {what}.", key.name);
        Err(Miss::new(RefusalCode::GateClosed, Opener::KeysPage, why))
    };
    if !key.scope.has_feature(&feature.slug) {
        return closed(&feature.name);
    }
    match ask.model {
        Some(model) if !key.scope.has_model(model) => closed(&format!("the model {model}")),
        _ => Ok(()),
    }
}

fn gates(s: &Situation<'_>, feature: &Feature, key: &Result<Chosen<'_>, Miss>) -> Vec<Gate> {
    let gate = |kind, closed: Option<(String, Opener)>| Gate {
        kind,
        closed: closed.map(|(why, opener)| Closed { why, opener }),
    };
    let suspended = s.tenant_state == TenantState::Suspended;
    let off = feature.slug != super::plan::GENERAL && s.switched_off.contains(&feature.slug);
    let missing = !s.plan.includes(&feature.slug);
    let miss = key.as_ref().err();
    let paused = miss.filter(|miss| matches!(miss.code, RefusalCode::Paused | RefusalCode::RateLimited));
    let keyless = miss.filter(|_| paused.is_none());
    let told = |miss: &Miss| (miss.why.clone(), miss.opener);
    vec![
        gate(
            GateKind::Tenant,
            suspended.then(|| ("This account is suspended.".to_owned(), Opener::Platform)),
        ),
        gate(
            GateKind::MasterSwitch,
            off.then(|| (format!("{} is switched off.", feature.name), Opener::Platform)),
        ),
        gate(
            GateKind::Plan,
            missing.then(|| {
                (format!("The {} plan does not include {}.", s.plan.name, feature.name), Opener::Platform)
            }),
        ),
        gate(GateKind::Key, keyless.map(told)),
        gate(GateKind::Pause, paused.map(told)),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::domain::account::Slug;
    use crate::domain::billing::Funding;
    use crate::domain::ids::{KeyId, PlanId};
    use crate::domain::price::Multiplier;
    use crate::domain::provider_key::{KeyScope, KeyStatus, Verdict};

    const NOW: Moment = Moment(1_000_000);

    fn key(name: &str, verdict: Verdict) -> KeyView {
        KeyView {
            id: KeyId::new(),
            name: Slug::parse(name).unwrap(),
            provider: Provider::Anthropic,
            version: 1,
            status: KeyStatus::from_check(verdict, NOW),
            disabled: None,
            is_default: name == "production",
            fingerprint: String::new(),
            scope: KeyScope::default(),
            rate: Multiplier::LIST,
        }
    }

    struct World {
        policy: PaymentPolicy,
        state: TenantState,
        tripped: bool,
        plan: Plan,
        features: Vec<Feature>,
        off: Vec<String>,
        keys: Keys,
        shared: Vec<KeyView>,
    }

    impl World {
        fn new(mode: UsageMode, keys: Vec<KeyView>) -> Self {
            let feature = |slug: &str, covered| Feature {
                slug: slug.to_owned(),
                name: slug.to_owned(),
                covered,
                ..Feature::general()
            };
            Self {
                policy: PaymentPolicy {
                    mode,
                    funding: Funding::Included,
                    no_key: NoKeyPolicy::Managed,
                    on_limit: LimitPolicy::Pause,
                    rate: Multiplier::LIST,
                },
                state: TenantState::Active,
                tripped: false,
                plan: Plan {
                    id: PlanId::new(),
                    slug: "pro".into(),
                    name: "Pro".into(),
                    features: BTreeSet::from(["drafts".to_owned(), "chat".to_owned()]),
                },
                features: vec![feature("drafts", true), feature("chat", false), feature("other", true)],
                off: Vec::new(),
                keys: Keys::new(keys),
                shared: vec![KeyView { is_default: true, ..key("shared", Verdict::Works) }],
            }
        }

        fn ask(&self, feature: Option<&str>, key_name: Option<&str>) -> Decision<'_> {
            let ask = Ask { dialect: Dialect::Anthropic, feature, key_name, provider: None, model: None };
            resolve(
                &ask,
                &Situation {
                    now: NOW,
                    tenant_state: self.state,
                    tripped: self.tripped,
                    policy: self.policy,
                    plan: &self.plan,
                    features: &self.features,
                    switched_off: &self.off,
                    keys: &self.keys,
                    shared_keys: &self.shared,
                },
            )
        }

        fn code(&self, feature: Option<&str>, key_name: Option<&str>) -> RefusalCode {
            self.ask(feature, key_name).outcome.unwrap_err().code
        }

        fn used(
            &self,
            feature: Option<&str>,
            key_name: Option<&str>,
        ) -> (String, UsageMode, Option<Fallback>) {
            let chosen = self.ask(feature, key_name).outcome.unwrap();
            (chosen.key.name.to_string(), chosen.mode, chosen.fallback)
        }
    }

    #[test]
    fn in_byok_mode_the_default_key_is_used_for_covered_features_only() {
        let world = World::new(
            UsageMode::Byok,
            vec![key("batch", Verdict::Works), key("production", Verdict::Works)],
        );
        assert_eq!(world.used(None, None), ("production".into(), UsageMode::Byok, None));
        assert_eq!(world.used(Some("drafts"), None), ("production".into(), UsageMode::Byok, None));
        assert_eq!(world.used(Some("chat"), None), ("shared".into(), UsageMode::Managed, None));
    }

    #[test]
    fn without_a_key_the_policy_decides() {
        let mut world = World::new(UsageMode::Byok, vec![]);
        assert_eq!(world.used(None, None), ("shared".into(), UsageMode::Managed, Some(Fallback::NoKey)));
        world.policy.no_key = NoKeyPolicy::Block;
        assert_eq!(world.code(None, None), RefusalCode::GateClosed);
    }

    #[test]
    fn a_rejected_key_never_falls_back() {
        let mut world = World::new(UsageMode::Byok, vec![key("production", Verdict::Rejected)]);
        world.policy.on_limit = LimitPolicy::Managed;
        assert_eq!(world.code(None, None), RefusalCode::KeyRejected);
        assert_eq!(world.code(Some("drafts"), Some("production")), RefusalCode::KeyRejected);
    }

    #[test]
    fn a_limit_pauses_or_falls_back_as_the_policy_says() {
        let mut world = World::new(UsageMode::Byok, vec![key("production", Verdict::OutOfCredit)]);
        assert_eq!(world.code(None, None), RefusalCode::Paused);
        world.policy.on_limit = LimitPolicy::Managed;
        assert_eq!(world.used(None, None), ("shared".into(), UsageMode::Managed, Some(Fallback::Limit)));
    }

    #[test]
    fn a_named_key_works_in_either_mode_and_never_falls_back() {
        let mut world = World::new(UsageMode::Managed, vec![key("batch", Verdict::Works)]);
        world.policy.on_limit = LimitPolicy::Managed;
        assert_eq!(world.used(None, Some("batch")), ("batch".into(), UsageMode::Byok, None));
        assert_eq!(world.used(None, None), ("shared".into(), UsageMode::Managed, None));
        assert_eq!(world.code(None, Some("absent")), RefusalCode::KeyNotFound);
        world.keys = Keys::new(vec![key("batch", Verdict::OutOfCredit)]);
        assert_eq!(world.code(None, Some("batch")), RefusalCode::Paused);
    }

    #[test]
    fn a_disabled_key_is_refused_by_name_and_by_default() {
        let mut world = World::new(UsageMode::Byok, vec![key("production", Verdict::Works)]);
        world.keys.views[0].disabled = Some(DisabledBy::Tenant);
        assert_eq!(world.code(None, None), RefusalCode::GateClosed);
        assert_eq!(world.code(None, Some("production")), RefusalCode::GateClosed);
    }

    #[test]
    fn gates_close_one_by_one_and_all_are_told() {
        let mut world = World::new(UsageMode::Byok, vec![key("production", Verdict::Works)]);
        assert_eq!(world.code(Some("nonsense"), None), RefusalCode::FeatureUnknown);
        assert_eq!(world.code(Some("other"), None), RefusalCode::GateClosed);
        world.off = vec!["other".into()];
        world.keys.views[0].status = KeyStatus::from_check(Verdict::OutOfCredit, NOW);
        let decision = world.ask(Some("other"), None);
        let closed: Vec<GateKind> =
            decision.gates.iter().filter(|gate| gate.closed.is_some()).map(|gate| gate.kind).collect();
        assert_eq!(closed, [GateKind::MasterSwitch, GateKind::Plan, GateKind::Pause]);
        world.state = TenantState::Suspended;
        assert_eq!(world.code(None, None), RefusalCode::GateClosed);
    }

    #[test]
    fn without_a_working_shared_key_managed_use_is_unavailable() {
        let mut world = World::new(UsageMode::Managed, vec![]);
        world.shared = vec![KeyView { is_default: true, ..key("shared", Verdict::Rejected) }];
        assert_eq!(world.code(None, None), RefusalCode::Unavailable);
        world.shared.clear();
        assert_eq!(world.code(None, None), RefusalCode::Unavailable);
    }

    #[test]
    fn a_rate_limit_is_told_apart_and_names_its_end() {
        let until = NOW.plus(30);
        let world = World::new(UsageMode::Byok, vec![key("production", Verdict::RateLimited { until })]);
        let refusal = world.ask(None, None).outcome.unwrap_err();
        assert_eq!((refusal.code, refusal.until), (RefusalCode::RateLimited, Some(until)));
    }

    #[test]
    fn each_of_many_keys_is_found() {
        let mut keys: Vec<KeyView> = (0..100).map(|at| key(&format!("key-{at}"), Verdict::Works)).collect();
        keys.push(key("production", Verdict::Works));
        keys.push(KeyView {
            provider: Provider::Openai,
            is_default: true,
            ..key("zz-openai", Verdict::Works)
        });
        let world = World::new(UsageMode::Byok, keys);
        for at in 0..100 {
            let name = format!("key-{at}");
            assert_eq!(world.ask(None, Some(&name)).outcome.unwrap().key.name.as_str(), name);
        }
        assert_eq!(world.ask(None, Some("production")).outcome.unwrap().key.name.as_str(), "production");
        assert_eq!(world.ask(None, None).outcome.unwrap().key.name.as_str(), "production");
        assert!(world.ask(None, Some("key-x")).outcome.is_err());
    }

    #[test]
    fn a_scope_holds_while_its_key_is_at_a_limit() {
        let drafts =
            KeyScope { features: Some(BTreeSet::from(["drafts".to_owned()])), ..KeyScope::default() };
        let limited = KeyView { scope: drafts, ..key("production", Verdict::OutOfCredit) };
        let mut world = World::new(UsageMode::Byok, vec![limited]);
        world.policy.on_limit = LimitPolicy::Managed;
        let fallback = world.ask(Some("drafts"), None).outcome.unwrap().fallback;
        assert_eq!(fallback, Some(Fallback::Limit));
        let refused = world.ask(Some("general"), None).outcome.unwrap_err();
        assert_eq!(refused.code, RefusalCode::GateClosed);
    }

    #[test]
    fn unusual_spend_pauses_every_key() {
        let mut world = World::new(UsageMode::Byok, vec![key("production", Verdict::Works)]);
        world.tripped = true;
        for name in [None, Some("production"), Some("absent")] {
            let decision = world.ask(None, name);
            assert_eq!(decision.outcome.unwrap_err().code, RefusalCode::Paused);
            let closed: Vec<_> = decision.gates.iter().filter(|gate| gate.closed.is_some()).collect();
            assert_eq!(closed.len(), 1);
            assert_eq!(closed[0].kind, GateKind::Pause);
            assert_eq!(closed[0].closed.as_ref().unwrap().opener, Opener::BreakerPage);
        }
    }
}
