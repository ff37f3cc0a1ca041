//! The status banner: one sentence that states the truth and one that says what follows. Pure:
//! made from what resolution decides, so that the page cannot disagree with the gateway.

use super::figures::counted;
use super::prose::{Hand, Link, Prose, Tone};
use super::spending;
use super::time::Times;
use crate::domain::account::TenantState;
use crate::domain::billing::{LimitPolicy, NoKeyPolicy, UsageMode};
use crate::domain::clock::DAY;
use crate::domain::provider_key::{DisabledBy, KeyState, Provider, ProviderKey};
use crate::domain::resolve::Chosen;
use crate::providers::{self, ConsoleLinks};
use crate::services::overview::Standing;

#[derive(Debug, PartialEq, Eq)]
pub struct Banner {
    pub tone: Tone,
    pub sentence: String,
    pub detail: Prose,
    pub link: Option<Link>,
}

/// What a banner is made from.
pub struct Subject<'a> {
    pub standing: &'a Standing,
    pub provider: Provider,
    /// The default key of the provider, as fresh as the page has it.
    pub key: Option<&'a ProviderKey>,
    /// Whether there are keys beside the default one.
    pub other_keys: bool,
    pub product: &'a str,
    pub times: &'a Times,
    /// `/t/acme`.
    pub root: &'a str,
    pub hand: Hand<'a>,
    pub may_change_billing: bool,
}

impl Subject<'_> {
    fn name(&self) -> &'static str {
        self.provider.label()
    }

    fn keys_page(&self, key: &ProviderKey, page: &str, label: &str) -> Option<Link> {
        let href = format!("{}/settings/api-keys/{}{page}", self.root, key.name);
        self.hand.is_yours().then(|| Link::to(href, label))
    }

    fn add_key(&self) -> Option<Link> {
        let href = format!("{}/settings/api-keys/new?provider={}", self.root, self.provider);
        self.hand.is_yours().then(|| Link::to(href, "Add key"))
    }

    fn billing_page(&self, label: &str) -> Option<Link> {
        let href = format!("{}/billing", self.root);
        self.may_change_billing.then(|| Link::to(href, label))
    }

    /// The provider's own console, for whoever could do something there.
    fn console(&self, page: fn(&ConsoleLinks) -> &'static str, label: &str) -> Option<Link> {
        let href = page(providers::of(self.provider).spec().console.as_ref()?);
        self.hand.is_yours().then(|| Link::out(href, label))
    }
}

pub fn of(s: &Subject<'_>) -> Banner {
    if s.standing.tenant.tenant.state == TenantState::Suspended {
        return Banner {
            tone: Tone::Bad,
            sentence: "AI is stopped: this account is suspended.".into(),
            detail: Prose::of(format!(
                "All requests are refused until {} lifts the suspension. Keys and settings are kept.",
                s.product
            )),
            link: None,
        };
    }
    match (s.standing.tenant.policy.mode, s.key) {
        (UsageMode::Managed, _) => managed(s),
        (UsageMode::Byok, None) => without_key(s),
        (UsageMode::Byok, Some(key)) => with_key(s, key),
    }
}

fn shared_sentence(s: &Subject<'_>) -> String {
    format!("Using {}'s shared {} infrastructure.", s.product, s.name())
}

/// Whether a request that names nothing would be served at all.
fn served(s: &Subject<'_>) -> bool {
    s.standing.decide(s.provider, None).outcome.is_ok()
}

fn shared_is_down(s: &Subject<'_>, detail: String) -> Banner {
    Banner {
        tone: Tone::Bad,
        sentence: format!(
            "AI is stopped: {}'s shared {} account cannot serve requests.",
            s.product,
            s.name()
        ),
        detail: Prose::of(detail),
        link: None,
    }
}

fn managed(s: &Subject<'_>) -> Banner {
    if !served(s) {
        return shared_is_down(
            s,
            format!("Only {} can repair that. Requests that name one of your own keys still run.", s.product),
        );
    }
    let paid = spending::paid(s.standing.tenant.policy.funding, &s.standing.tenant.plan.name);
    let own = s.key.is_some() || s.other_keys;
    let (detail, link) = if own {
        (
            format!("AI use is {paid}. Your own keys are used only where a request names one."),
            s.billing_page("Change usage mode"),
        )
    } else {
        let invitation = if s.hand.is_yours() {
            format!(" Add a key of your own to use your {} account instead.", s.name())
        } else {
            String::new()
        };
        (format!("AI use is {paid}.{invitation}"), None)
    };
    Banner { tone: Tone::Plain, sentence: shared_sentence(s), detail: Prose::of(detail), link }
}

fn without_key(s: &Subject<'_>) -> Banner {
    let (missing, link) = if s.other_keys {
        let href = format!("{}/settings/api-keys", s.root);
        let link = s.hand.is_yours().then(|| Link::to(href, "Choose a default key"));
        ("none of your keys is the default one", link)
    } else {
        ("there is no key yet", s.add_key())
    };
    match s.standing.tenant.policy.no_key {
        NoKeyPolicy::Block => Banner {
            tone: Tone::Bad,
            sentence: if s.other_keys {
                format!("AI is stopped: no {} key is the default one.", s.name())
            } else {
                format!("AI is stopped: no {} key is set up.", s.name())
            },
            detail: Prose::of(format!(
                "Requests of covered features are refused: Billing says to stop rather than to use the shared account when there is no key.{}",
                uncovered(s)
            )),
            link,
        },
        NoKeyPolicy::Managed if served(s) => Banner {
            tone: Tone::Warn,
            sentence: shared_sentence(s),
            detail: Prose::of(format!(
                "Your usage mode is own key, but {missing}. Requests run on the shared account until there is."
            )),
            link,
        },
        NoKeyPolicy::Managed => shared_is_down(
            s,
            format!("Your usage mode is own key, but {missing}, so requests depend on the shared account."),
        ),
    }
}

fn with_key(s: &Subject<'_>, key: &ProviderKey) -> Banner {
    let name = s.name();
    let status = &key.current.status;
    let since = s.times.when(status.since);
    match key.state_at(s.times.now) {
        KeyState::Valid => {
            // Whether it passed is not said: the state may come from traffic or a press on Resume, and a check
            // may leave it in doubt.
            let checked = match key.current.checked_at {
                Some(at) => Prose::of("Last checked ").when(&s.times.when(at)).text("."),
                None => Prose::default(),
            };
            Banner {
                tone: Tone::Good,
                sentence: format!("Using your own {name} key."),
                detail: checked.then(&coverage(s)),
                link: None,
            }
        }
        KeyState::Unreachable => Banner {
            tone: Tone::Warn,
            sentence: format!("Using your own {name} key."),
            detail: Prose::of(format!("{name} could not be reached "))
                .when(&since)
                .text(". Requests still go out with your key, and the next that is answered clears this."),
            link: s.keys_page(key, "", "Check the key"),
        },
        KeyState::Rejected => Banner {
            tone: Tone::Bad,
            sentence: format!("{name} rejected your key."),
            detail: Prose::of("Requests of covered features are refused since ")
                .when(&s.times.day(status.since))
                .text(" (")
                .when(&since)
                .text(format!(
                    "); a rejected key never falls back. {}{}",
                    s.hand.does("paste a new one"),
                    uncovered(s)
                )),
            link: s.keys_page(key, "/rotate", "Rotate key"),
        },
        KeyState::Disabled | KeyState::Removed => Banner {
            tone: Tone::Bad,
            sentence: format!("AI is stopped: your {name} key is disabled."),
            detail: Prose::of(match key.disabled {
                Some(DisabledBy::Operator) => {
                    format!(
                        "{} disabled it, and only they can enable it again. Requests of covered features are refused.{}",
                        s.product,
                        uncovered(s)
                    )
                }
                _ => format!(
                    "Requests of covered features are refused until it is enabled again.{}",
                    uncovered(s)
                ),
            }),
            link: match key.disabled {
                Some(DisabledBy::Operator) => None,
                _ => s.keys_page(key, "", "Open the key"),
            },
        },
        KeyState::OutOfCredit => limited(
            s,
            key,
            &format!("your {name} account is out of credit"),
            &s.hand.does(&format!("add credit in the {name} console")),
            s.console(|links| links.billing, "Add credit"),
        ),
        KeyState::SpendLimit => limited(
            s,
            key,
            &format!("your {name} spend limit is reached"),
            &s.hand.does(&format!("raise the limit in the {name} console")),
            s.console(|links| links.limits, "Raise the limit"),
        ),
        KeyState::RateLimited => limited(
            s,
            key,
            &format!("{name} is limiting the rate of your key"),
            "It ends by itself.",
            s.console(|links| links.limits, "See your limits"),
        ),
    }
}

/// A key that is used only where a request names it, if it cannot be: what `of` does not speak of.
pub fn of_named(s: &Subject<'_>, key: &ProviderKey) -> Option<Banner> {
    let (name, provider) = (&key.name, s.name());
    let (what, remedy, link) = match key.state_at(s.times.now) {
        KeyState::OutOfCredit => (
            format!("its {provider} account is out of credit"),
            s.hand.does(&format!("add credit in the {provider} console")),
            s.console(|links| links.billing, "Add credit"),
        ),
        KeyState::SpendLimit => (
            format!("its {provider} spend limit is reached"),
            s.hand.does(&format!("raise the limit in the {provider} console")),
            s.console(|links| links.limits, "Raise the limit"),
        ),
        KeyState::RateLimited => (
            format!("{provider} is limiting its rate"),
            "It ends by itself.".to_owned(),
            s.console(|links| links.limits, "See your limits"),
        ),
        KeyState::Rejected => {
            let detail = Prose::of("Since ").when(&s.times.when(key.current.status.since));
            let does = s.hand.does("paste a new one");
            return Some(Banner {
                tone: Tone::Warn,
                sentence: format!("{provider} rejected the key {name}."),
                detail: detail.text(format!(", requests that name it are refused. {does}")),
                link: s.keys_page(key, "/rotate", "Rotate key"),
            });
        }
        _ => return None,
    };
    Some(Banner {
        tone: Tone::Warn,
        sentence: format!("The key {name} is paused: {what}."),
        detail: paused(s, key, &remedy).text(" Requests that name it are refused."),
        link,
    })
}

/// That there are more keys like those.
pub fn of_more(count: usize, root: &str) -> Banner {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    Banner {
        tone: Tone::Warn,
        sentence: format!("{} cannot be used.", counted(count, "more key", "more keys")),
        detail: Prose::of("Requests that name one of them are refused."),
        link: Some(Link::to(format!("{root}/settings/api-keys"), "See the keys")),
    }
}

/// Since when, until when, and what ends it.
fn paused(s: &Subject<'_>, key: &ProviderKey, remedy: &str) -> Prose {
    let status = &key.current.status;
    let mut detail = Prose::of("Since ").when(&s.times.when(status.since));
    if let Some(until) = status.until.filter(|until| *until > s.times.now) {
        detail = if until.since(s.times.now) < DAY {
            detail.text(", until ").when(&s.times.when(until))
        } else {
            detail.text(", until ").when(&s.times.day(until)).text(" (").when(&s.times.when(until)).text(")")
        };
    }
    detail = detail.text(format!(". {remedy}"));
    if status.state != KeyState::RateLimited {
        detail = detail.text(" Keyward tries again every 5 minutes and resumes by itself.");
    }
    detail
}

/// A limit at the provider: AI pauses, or goes on at the platform's expense.
fn limited(s: &Subject<'_>, key: &ProviderKey, what: &str, remedy: &str, link: Option<Link>) -> Banner {
    let status = &key.current.status;
    let detail = paused(s, key, remedy);
    if s.standing.tenant.policy.on_limit == LimitPolicy::Pause {
        // A rate limit is over in seconds; the others wait for somebody to act.
        let tone = if status.state == KeyState::RateLimited { Tone::Warn } else { Tone::Bad };
        let detail = detail.text(uncovered(s));
        return Banner { tone, sentence: format!("AI is paused: {what}."), detail, link };
    }
    if !served(s) {
        return Banner {
            tone: Tone::Bad,
            sentence: format!("AI is stopped: {what}."),
            detail: Prose::of(format!(
                "The shared account that should stand in cannot serve. {remedy} Or ask {}.",
                s.product
            )),
            link,
        };
    }
    let sentence = format!("Using {}'s shared {} infrastructure: {what}.", s.product, s.name());
    Banner { tone: Tone::Warn, sentence, detail, link }
}

/// What goes on all the same: features that own keys do not cover run on the shared account.
fn uncovered(s: &Subject<'_>) -> String {
    let any =
        s.standing.features().iter().any(|(feature, decision)| !feature.covered && decision.outcome.is_ok());
    if any {
        format!(" Features that own keys do not cover go on with {}'s shared account.", s.product)
    } else {
        String::new()
    }
}

/// " 3 of 5 AI features use it."
fn coverage(s: &Subject<'_>) -> Prose {
    let features = s.standing.features();
    if features.is_empty() {
        return Prose::default();
    }
    let own = features
        .iter()
        .filter(|(_, decision)| {
            let uses = |chosen: &Chosen<'_>| !chosen.shared && chosen.key.provider == s.provider;
            decision.outcome.as_ref().is_ok_and(uses)
        })
        .count();
    let total = i64::try_from(features.len()).unwrap_or(i64::MAX);
    let verb = if own == 1 { "uses" } else { "use" };
    Prose::of(format!(" {own} of {} {verb} it.", counted(total, "AI feature", "AI features")))
}

#[cfg(test)]
mod tests;
