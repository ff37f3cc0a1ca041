//! Choosing the key. One pure function decides for the gateway, for the pages and for the API
//! which key version a request runs on, or which gates are closed and who can open them.

use std::borrow::Cow;

use super::account::TenantState;
use super::billing::{Fallback, Funding, LimitPolicy, NoKeyPolicy, PaymentPolicy, Shortage, UsageMode};
use super::clock::Moment;
use super::gate::{Closed, Gate, GateKind, Opener};
use super::ids::KeyId;
use super::plan::{Exception, Feature, Plan};
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
    /// Master switches that are off for this tenant, and those that are off for everybody.
    pub switched_off: &'a [String],
    pub off_for_all: &'a [String],
    pub exceptions: &'a [Exception],
    /// The models that the tenant has chosen: feature and model.
    pub models: &'a [(String, String)],
    /// Whether all AI is paused because an hour was unusually costly.
    pub tripped: bool,
    /// What is used up, where that was looked at: the gateway asks in the transaction that holds.
    pub spent: Spent<'a>,
    pub keys: &'a Keys,
    pub shared_keys: &'a [KeyView],
}

/// Credits and pausing budgets with nothing left.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent<'a> {
    pub credits: bool,
    pub budget: bool,
    pub keys: &'a [KeyId],
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
    /// Nothing is left to pay with.
    Short(Shortage),
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
    pub feature: Option<Cow<'a, Feature>>,
}

/// Decides which key a request runs on. See the module's header.
#[must_use]
pub fn resolve<'a>(ask: &Ask<'_>, s: &Situation<'a>) -> Decision<'a> {
    let feature = match ask.feature {
        None | Some(super::plan::GENERAL) => Cow::Borrowed(Feature::general()),
        Some(slug) => match s.features.iter().find(|feature| feature.slug == slug) {
            Some(feature) => chosen_model(feature, s),
            None => return wrong(RefusalCode::FeatureUnknown, format!("There is no feature named {slug}.")),
        },
    };
    let key = choose(ask, s, &feature);
    let short = key.as_ref().ok().and_then(|chosen| shortage(chosen, s));
    let gates = gates(s, &feature, &key, short);
    let shut = gates[..3].iter().find_map(|gate| gate.closed.as_ref());
    let outcome = match (shut, key, short) {
        (Some(closed), ..) => Err(refusal(RefusalCode::GateClosed, closed.why.clone())),
        (None, Ok(_), Some(short)) => Err(refusal(RefusalCode::Short(short), short.why().to_owned())),
        (None, Ok(chosen), None) => Ok(chosen),
        (None, Err(miss), _) => Err(Refusal { code: miss.code, message: miss.why, until: miss.until }),
    };
    Decision { outcome, gates, feature: Some(feature) }
}

/// The feature with the model that the tenant has chosen for it, for as long as its plan offers that.
#[must_use]
pub fn chosen_model<'a>(feature: &'a Feature, s: &Situation<'_>) -> Cow<'a, Feature> {
    let chosen = s.models.iter().find(|(slug, _)| *slug == feature.slug);
    if let Some((_, model)) = chosen
        && s.plan.choices(feature.provider()).any(|choice| choice.id == *model)
    {
        return Cow::Owned(Feature { default_model: Some(model.clone()), ..feature.clone() });
    }
    Cow::Borrowed(feature)
}

/// What a request on this key could not be paid from.
fn shortage(chosen: &Chosen<'_>, s: &Situation<'_>) -> Option<Shortage> {
    if s.spent.budget {
        Some(Shortage::TenantBudget)
    } else if chosen.shared {
        (s.spent.credits && s.policy.funding == Funding::Credits).then_some(Shortage::Credits)
    } else {
        s.spent.keys.contains(&chosen.key.id).then_some(Shortage::KeyBudget)
    }
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

fn gates(
    s: &Situation<'_>,
    feature: &Feature,
    key: &Result<Chosen<'_>, Miss>,
    short: Option<Shortage>,
) -> Vec<Gate> {
    let gate = |kind, closed: Option<(String, Opener)>| Gate {
        kind,
        closed: closed.map(|(why, opener)| Closed { why, opener }),
        until: None,
    };
    let suspended = s.tenant_state == TenantState::Suspended;
    let miss = key.as_ref().err();
    let paused = miss.filter(|miss| matches!(miss.code, RefusalCode::Paused | RefusalCode::RateLimited));
    let keyless = miss.filter(|_| paused.is_none());
    let told = |miss: &Miss| (miss.why.clone(), miss.opener);
    let exception = s.exceptions.iter().find(|one| one.feature == feature.slug && s.now < one.until);
    vec![
        gate(
            GateKind::Tenant,
            suspended.then(|| ("This account is suspended.".to_owned(), Opener::Platform)),
        ),
        gate(GateKind::MasterSwitch, switched_off(s, feature, exception)),
        Gate {
            until: exception.map(|exception| exception.until),
            ..gate(GateKind::Plan, left_out(s, feature, exception))
        },
        gate(GateKind::Key, keyless.map(told)),
        gate(GateKind::Pause, paused.map(told)),
        gate(
            GateKind::Budget,
            short.map(|short| {
                let opener = match short {
                    Shortage::Credits => Opener::CreditsPage,
                    Shortage::TenantBudget | Shortage::KeyBudget => Opener::BudgetsPage,
                };
                (short.why().to_owned(), opener)
            }),
        ),
    ]
}

/// An exception opens what is off for everybody, and never what the tenant itself has switched off.
fn switched_off(
    s: &Situation<'_>,
    feature: &Feature,
    exception: Option<&Exception>,
) -> Option<(String, Opener)> {
    let excepted = exception.is_some_and(|exception| exception.opens);
    if !excepted && s.off_for_all.contains(&feature.switch) {
        Some((format!("{} is switched off for all accounts.", feature.name), Opener::Platform))
    } else if s.switched_off.contains(&feature.switch) {
        Some((format!("{} is switched off.", feature.name), Opener::FeaturesPage))
    } else {
        None
    }
}

fn left_out(s: &Situation<'_>, feature: &Feature, exception: Option<&Exception>) -> Option<(String, Opener)> {
    match exception {
        Some(exception) if exception.opens => None,
        Some(_) => Some((format!("{} is closed for this account.", feature.name), Opener::Platform)),
        None if s.plan.includes(&feature.slug) => None,
        None => {
            let why = format!("The {} plan does not include {}.", s.plan.name, feature.name);
            Some((why, Opener::Platform))
        }
    }
}

#[cfg(test)]
mod tests;
