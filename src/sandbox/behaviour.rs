//! What a test key does, and the refusals that follow from it.

use super::error::ApiError;
use crate::domain::clock::Moment;
use crate::domain::words;

const SHORTEST_KEY: usize = 20;
pub const RATE_LIMIT_SECONDS: u32 = 30;

words! {
    /// The words that a key can carry between two hyphens.
    pub enum Behaviour {
        Ok = "ok",
        Long = "long",
        Revoked = "revoked",
        Forbidden = "forbidden",
        NoCredit = "nocredit",
        SpendLimit = "spendlimit",
        RateLimited = "ratelimited",
        Enforced = "enforced",
        Overloaded = "overloaded",
        ServerError = "servererror",
        Slow = "slow",
        Hang = "hang",
        Huge = "huge",
        Truncated = "truncated",
        Garbage = "garbage",
    }
}

impl Behaviour {
    /// The first behaviour that the key names; `None` if the key is not one of the sandbox's, or
    /// begins with none of the prefixes that belong where it was sent.
    pub fn of_key(key: &str, prefixes: &[&str]) -> Option<Self> {
        let body = prefixes.iter().find_map(|prefix| key.strip_prefix(prefix));
        let body = body.filter(|_| key.len() >= SHORTEST_KEY)?;
        // What follows the last hyphen is the key's own number, never a word.
        let (words, _) = body.rsplit_once('-')?;
        words.split('-').find_map(Self::parse)
    }

    /// The refusal that such a key meets at every endpoint.
    pub fn refusal(self) -> Option<ApiError> {
        match self {
            Self::Revoked => Some(ApiError::authentication("invalid x-api-key")),
            Self::Forbidden => Some(ApiError::permission(
                "Your API key does not have permission to use the specified resource.",
            )),
            _ => None,
        }
    }

    /// The limit that stands between such a key and every message, the one-token probe included.
    pub fn limit(self, now: Moment) -> Option<ApiError> {
        match self {
            Self::NoCredit => Some(ApiError::invalid(
                "Your credit balance is too low to access the Anthropic API. \
                 Please go to Plans & Billing to upgrade or purchase credits.",
            )),
            Self::SpendLimit => Some(ApiError::invalid(format!(
                "You have reached your specified API usage limits. You will regain access on {} at 00:00 UTC.",
                first_of_next_month(now)
            ))),
            Self::RateLimited => Some(
                ApiError::rate_limit(
                    "This request would exceed your organization's rate limit. Please try again later.",
                )
                .retry_after(RATE_LIMIT_SECONDS),
            ),
            Self::Enforced => Some(
                ApiError::rate_limit(
                    "Your organization has crossed the monthly API usage threshold of its tier.",
                )
                .code("enforced_spend_limit_reached"),
            ),
            _ => None,
        }
    }

    /// The failure that answers such a key's messages, though not its one-token probe.
    pub fn failure(self) -> Option<ApiError> {
        match self {
            Self::Overloaded => Some(ApiError::overloaded()),
            Self::ServerError => Some(ApiError::internal()),
            _ => None,
        }
    }
}

fn first_of_next_month(now: Moment) -> jiff::civil::Date {
    let today = now.date(&jiff::tz::TimeZone::UTC);
    today.last_of_month().tomorrow().unwrap_or(today)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_what_it_does() {
        let of = |key: &str| Behaviour::of_key(key, &["sk-ant-api03-"]);
        assert_eq!(of("sk-ant-api03-sandbox-ok-0001-AAAA"), Some(Behaviour::Ok));
        assert_eq!(of("sk-ant-api03-nocredit-0001-AAAA"), Some(Behaviour::NoCredit));
        assert_eq!(of("sk-ant-api03-sandbox-0001-AAAA"), None);
        assert_eq!(of("sk-ant-api03-sandbox-0001-ok"), None, "nothing follows the word");
        assert_eq!(of("sk-ant-api03-ok-A"), None, "too short");
        assert_eq!(of("sk-ant-admin01-sandbox-ok-0001-AAAA"), None);
        let google = |key: &str| Behaviour::of_key(key, &["AQ.", "AIza"]);
        assert_eq!(google("AQ.sandbox-slow-0001-AAAA"), Some(Behaviour::Slow));
        assert_eq!(google("sk-ant-api03-ok-0001-AAAA"), None);
    }

    #[test]
    fn the_spend_limit_ends_with_the_month() {
        let december = Moment::start_of(jiff::civil::date(2026, 12, 31), &jiff::tz::TimeZone::UTC);
        assert_eq!(first_of_next_month(december).to_string(), "2027-01-01");
    }
}
