//! What a key's state means, and what to do next: a badge, a sentence, and a link to the place
//! where it is done. The same on every page that shows a key.

use crate::domain::provider_key::{DisabledBy, ProviderKey};
use crate::providers::{self, ConsoleLinks};
use crate::web::place::Place;
use crate::web::prose::{Link, Prose, Tone};

pub use crate::domain::provider_key::KeyState;

/// A state as a badge and, unless all is well, what to do about it.
pub struct Words {
    pub tone: Tone,
    pub badge: String,
    pub advice: Option<Advice>,
}

pub struct Advice {
    pub text: Prose,
    pub link: Option<Link>,
}

impl Words {
    pub fn of(place: &Place, key: &ProviderKey, product: &str) -> Self {
        let state = key.state_at(place.times().now);
        let mut words = Self::plain(state, key.provider.label());
        words.advice = advice(key, state, place, product);
        if let Some(advice) = words.advice.as_mut() {
            if !place.hand(product).is_yours() {
                advice.link = None;
            } else if state == KeyState::Rejected {
                let rotate = format!("{}/{}/rotate", super::base(place), key.name);
                advice.link = Some(Link::to(rotate, "Rotate key"));
            }
        }
        words
    }

    /// The badge alone.
    pub fn plain(state: KeyState, provider: &str) -> Self {
        let (tone, badge) = match state {
            KeyState::Valid => (Tone::Good, "Valid".to_owned()),
            KeyState::Rejected => (Tone::Bad, format!("Rejected by {provider}")),
            KeyState::OutOfCredit => (Tone::Bad, "Out of credit".to_owned()),
            KeyState::SpendLimit => (Tone::Bad, "Spend limit reached".to_owned()),
            KeyState::RateLimited => (Tone::Warn, "Rate limited".to_owned()),
            KeyState::Unreachable => (Tone::Warn, format!("{provider} unreachable")),
            KeyState::Disabled => (Tone::Bad, "Disabled".to_owned()),
            KeyState::Removed => (Tone::Plain, "Removed".to_owned()),
        };
        Self { tone, badge, advice: None }
    }
}

fn advice(key: &ProviderKey, state: KeyState, place: &Place, product: &str) -> Option<Advice> {
    let (times, hand) = (place.times(), place.hand(product));
    let status = &key.current.status;
    let name = key.provider.label();
    let console = providers::of(key.provider).spec().console;
    let out = |page: fn(&ConsoleLinks) -> &'static str, label: String| {
        console.as_ref().map(|links| Link::out(page(links), label))
    };
    let since = times.when(status.since);
    let retried = "Keyward tries again every 5 minutes and resumes by itself.";
    let (text, link) = match state {
        KeyState::Valid | KeyState::Removed => return None,
        KeyState::Rejected => (
            Prose::of(format!("{name} has refused this key since ")).when(&times.day(status.since)).text(
                format!(
                    ". Requests that would use it are refused. {}",
                    hand.does(&format!("create a new key in the {name} console and rotate this one"))
                ),
            ),
            out(|links| links.keys, format!("Open API keys at {name}")),
        ),
        KeyState::OutOfCredit => (
            Prose::of("Paused ").when(&since).text(format!(
                ": the {name} account behind this key has no credit left. {} {retried}",
                hand.does(&format!("add credit in the {name} console"))
            )),
            out(|links| links.billing, format!("Add credit at {name}")),
        ),
        KeyState::SpendLimit => {
            let mut text = Prose::of("Paused ")
                .when(&since)
                .text(format!(": the spend limit set at {name} is reached."));
            if let Some(until) = status.until.filter(|until| *until > times.now) {
                text = text.text(format!(" {name} says it ends on ")).when(&times.day(until)).text(".");
            }
            (
                text.text(format!(
                    " {} {retried}",
                    hand.does(&format!("raise it in the {name} console to go on now"))
                )),
                out(|links| links.limits, format!("Raise the limit at {name}")),
            )
        }
        KeyState::RateLimited => {
            let mut text = Prose::of(format!("{name} is limiting how fast this key may be used"));
            if let Some(until) = status.until {
                text = text.text(". It ends ").when(&times.when(until));
            }
            (
                text.text(". Nothing needs to be done; higher limits are asked for in its console."),
                out(|links| links.limits, format!("See limits at {name}")),
            )
        }
        KeyState::Unreachable => (
            Prose::of(format!("{name} did not answer the last check, "))
                .when(&since)
                .text(". Requests still go out with this key. Check it again in a minute."),
            None,
        ),
        KeyState::Disabled => {
            let text = Prose::of(match key.disabled {
                Some(DisabledBy::Operator) if place.viewer.actor.is_super_admin() => {
                    format!(
                        "Disabled by {product}. Requests that would use it are refused, and the tenant cannot enable it."
                    )
                }
                Some(DisabledBy::Operator) => {
                    format!(
                        "Disabled by {product}. Requests that would use it are refused. Ask {product} to enable it again."
                    )
                }
                _ => "Disabled. Requests that would use it are refused until it is enabled again.".to_owned(),
            });
            (text, None)
        }
    };
    Some(Advice { text, link })
}
