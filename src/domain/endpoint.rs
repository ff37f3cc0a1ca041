//! The policy for URLs that tenants give: rules 1 to 7, which need no network. Rule 8, what a
//! name resolves to, is kept in `outbound` where connections are made.

use super::provider_key::Provider;

/// The rule that a URL broke. Says nothing about what may answer there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlRule {
    #[error("Use at most 1,024 characters.")]
    Length,
    #[error(
        "Use only letters, digits and the signs : / . _ ~ and -. Sign-in data, queries and fragments are not taken."
    )]
    Characters,
    #[error("Start the URL with https://.")]
    Scheme,
    #[error("Leave the port out: only 443 is used.")]
    Port,
    #[error("Give a public host name such as llm.example.com, not an IP address or a single word.")]
    Host,
    #[error("That name belongs to a private or reserved network.")]
    ReservedName,
    #[error("The path is not one that the provider's API could have.")]
    Path,
    #[error("That URL can be read in more than one way.")]
    Ambiguous,
    #[error("That name does not lead to a public address.")]
    Address,
}

impl UrlRule {
    /// The rule's stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Characters => "characters",
            Self::Scheme => "scheme",
            Self::Port => "port",
            Self::Host => "host",
            Self::ReservedName => "reserved_name",
            Self::Path => "path",
            Self::Ambiguous => "ambiguous",
            Self::Address => "address",
        }
    }
}

const RESERVED_SUFFIXES: &[&str] = &[
    "localhost",
    "localdomain",
    "local",
    "internal",
    "intranet",
    "private",
    "corp",
    "home",
    "lan",
    "arpa",
    "test",
    "invalid",
    "onion",
    "alt",
    "svc",
    "consul",
];

const METADATA_HOSTS: &[&str] = &[
    "metadata.azure.com",
    "metadata.amazonaws.com",
    "metadata.tencentyun.com",
    "metadata.packet.net",
    "metadata.google.internal",
];

/// Judges a URL as a tenant typed it. `Ok(None)` is the provider's default; `Ok(Some)` is the
/// canonical URL, which the policy accepts again unchanged.
///
/// # Errors
/// The first rule that the URL breaks.
pub fn canonical(typed: &str, provider: Provider, own_host: Option<&str>) -> Result<Option<String>, UrlRule> {
    let text = typed.trim();
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() > 1_024 {
        return Err(UrlRule::Length);
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b":/._~-".contains(&b)) {
        return Err(UrlRule::Characters);
    }
    let rest = strip_scheme(text).ok_or(UrlRule::Scheme)?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = match authority.split_once(':') {
        None => authority,
        Some((host, "" | "443")) => host,
        Some(_) => return Err(UrlRule::Port),
    };
    let host = host.to_ascii_lowercase();
    judge_host(&host, own_host)?;
    let path = api_path(path, provider)?;
    let url = format!("https://{host}{path}");
    match url::Url::parse(&url) {
        Ok(parsed) if parsed.as_str() == url => Ok(Some(url)),
        _ => Err(UrlRule::Ambiguous),
    }
}

fn strip_scheme(text: &str) -> Option<&str> {
    let (scheme, rest) = text.split_at_checked("https://".len())?;
    scheme.eq_ignore_ascii_case("https://").then_some(rest)
}

fn judge_host(host: &str, own_host: Option<&str>) -> Result<(), UrlRule> {
    let labels: Vec<&str> = host.split('.').collect();
    let fits = labels.len() >= 2
        && host.len() <= 253
        && labels.iter().all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        });
    let last = labels.last().copied().unwrap_or_default();
    let public_ending = (last.len() >= 2 && last.bytes().all(|b| b.is_ascii_alphabetic()))
        || last.strip_prefix("xn--").is_some_and(|rest| !rest.is_empty());
    if !fits || !public_ending {
        return Err(UrlRule::Host);
    }
    let own = own_host.is_some_and(|own| own.eq_ignore_ascii_case(host));
    if own || RESERVED_SUFFIXES.contains(&last) || METADATA_HOSTS.contains(&host) {
        return Err(UrlRule::ReservedName);
    }
    Ok(())
}

fn api_path(path: &str, provider: Provider) -> Result<String, UrlRule> {
    let path = path.strip_suffix('/').unwrap_or(path);
    let segments: Vec<&str> = if path.is_empty() { Vec::new() } else { path[1..].split('/').collect() };
    let plain = |segment: &&str| {
        !segment.is_empty()
            && segment.len() <= 64
            && !matches!(*segment, "." | "..")
            && !segment.contains(':')
    };
    if segments.len() > 8 || !segments.iter().all(plain) {
        return Err(UrlRule::Path);
    }
    match provider {
        Provider::Anthropic => {
            let ending = match segments.as_slice() {
                [.., "v1", "messages"] => "",
                [.., "v1"] => "/messages",
                _ => "/v1/messages",
            };
            // What follows the messages endpoint would be sent to something else.
            if ending == "/v1/messages" && segments.windows(2).any(|pair| pair == ["v1", "messages"]) {
                return Err(UrlRule::Path);
            }
            let full = format!("{path}{ending}");
            if full.matches('/').count() > 8 { Err(UrlRule::Path) } else { Ok(full) }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn judge(typed: &str) -> Result<Option<String>, UrlRule> {
        canonical(typed, Provider::Anthropic, Some("keyward.example.com"))
    }

    #[test]
    fn accepted_urls_end_at_the_messages_endpoint() {
        for (typed, expected) in [
            ("https://llm.example.com", "https://llm.example.com/v1/messages"),
            ("  HTTPS://LLM.Example.com:443/ ", "https://llm.example.com/v1/messages"),
            ("https://llm.example.com/v1", "https://llm.example.com/v1/messages"),
            ("https://llm.example.com/a/v1/messages/", "https://llm.example.com/a/v1/messages"),
            ("https://llm.example.com:/proxy", "https://llm.example.com/proxy/v1/messages"),
            ("https://a.xn--p1ai/V1", "https://a.xn--p1ai/V1/v1/messages"),
        ] {
            assert_eq!(judge(typed), Ok(Some(expected.to_owned())), "{typed}");
        }
        assert_eq!(judge("  "), Ok(None));
    }

    #[test]
    fn each_rule_is_named() {
        use UrlRule::{Ambiguous, Characters, Host, Length, Path, Port, ReservedName, Scheme};
        let long = format!("https://a.example.com/{}", "a".repeat(1_024));
        let deep = format!("https://a.example.com{}", "/a".repeat(9));
        for (typed, rule) in [
            (long.as_str(), Length),
            ("https://user@a.example.com", Characters),
            ("https://a.example.com/?key=1", Characters),
            ("https://a.example.com/#x", Characters),
            ("https://a.example.com\\@b.com", Characters),
            ("https://a.example.com/%2e%2e", Characters),
            ("https://bücher.example", Characters),
            ("https://[::1]/", Characters),
            ("http://a.example.com", Scheme),
            ("a.example.com", Scheme),
            ("https:/a.example.com", Scheme),
            ("https://a.example.com:8443", Port),
            ("https://a.example.com:443:443", Port),
            ("https://127.0.0.1", Host),
            ("https://2130706433", Host),
            ("https://0x7f.0.0.1", Host),
            ("https://127.1", Host),
            ("https://a.example.com.", Host),
            ("https://example", Host),
            ("https:///v1", Host),
            ("https://-a.example.com", Host),
            ("https://a..example.com", Host),
            ("https://a_b.example.com", Host),
            ("https://a.localhost", ReservedName),
            ("https://db.internal", ReservedName),
            ("https://metadata.google.internal", ReservedName),
            ("https://metadata.azure.com", ReservedName),
            ("https://Keyward.example.com", ReservedName),
            ("https://a.example.com/../v1", Path),
            ("https://a.example.com/./v1", Path),
            ("https://a.example.com//v1", Path),
            ("https://a.example.com/a:b", Path),
            ("https://a.example.com/v1/messages/batches", Path),
            (deep.as_str(), Path),
            ("https://xn--a.example.com", Ambiguous),
        ] {
            assert_eq!(judge(typed), Err(rule), "{typed}");
        }
    }

    proptest! {
        /// Whatever is accepted is https on a public name, canonical, and accepted again as it is.
        #[test]
        fn accepted_urls_are_canonical(typed in "(https://|HTTPS://|http://)?[a-zA-Z0-9.:/_~@-]{0,60}") {
            if let Ok(Some(url)) = judge(&typed) {
                let parsed = url::Url::parse(&url).unwrap();
                prop_assert_eq!(parsed.scheme(), "https");
                prop_assert_eq!(parsed.port(), None);
                prop_assert!(parsed.domain().is_some_and(|domain| domain.contains('.')));
                prop_assert_eq!(parsed.as_str(), url.as_str());
                prop_assert_eq!(judge(&url), Ok(Some(url.clone())));
                prop_assert!(url.ends_with("/v1/messages"));
            }
        }
    }
}
