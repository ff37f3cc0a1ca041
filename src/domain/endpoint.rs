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

/// The policy of an installation: rules 1 to 7, with what the operator has set.
#[derive(Clone, Debug, Default)]
pub struct UrlPolicy {
    /// Keyward's own host, which no URL may name.
    pub own_host: Option<String>,
    /// Exact origins that the operator allows whatever the rules say, such as `http://10.0.0.5:8000`.
    pub allowed: Vec<String>,
    /// The same for webhooks: what answers there is another thing than a model server.
    pub allowed_webhooks: Vec<String>,
    /// And for identity providers.
    pub allowed_identity_providers: Vec<String>,
}

impl UrlPolicy {
    /// Judges a provider's URL as a tenant typed it. `Ok(None)` is the provider's default; `Ok(Some)`
    /// is the canonical URL, which the policy accepts again unchanged.
    ///
    /// # Errors
    /// The first rule that the URL breaks.
    pub fn canonical(&self, typed: &str, provider: Provider) -> Result<Option<String>, UrlRule> {
        if typed.trim().is_empty() {
            return Ok(None);
        }
        let ending = if provider == Provider::Anthropic { messages_path } else { plain_path };
        self.judge(typed, self.allowed_origin(typed.trim()), ending).map(Some)
    }

    /// Judges the URL of a webhook as a tenant typed it, and gives its canonical form.
    ///
    /// # Errors
    /// The first rule that the URL breaks.
    pub fn webhook(&self, typed: &str) -> Result<String, UrlRule> {
        self.judge(typed, self.allowed_webhook(typed.trim()), plain_path)
    }

    /// Judges a URL of an identity provider: the issuer that a tenant typed, or an endpoint that it names.
    ///
    /// # Errors
    /// The first rule that the URL breaks.
    pub fn identity_provider(&self, typed: &str) -> Result<String, UrlRule> {
        self.judge(typed, self.allowed_identity_provider(typed.trim()), plain_path)
    }

    fn judge(
        &self,
        typed: &str,
        allowed: Option<&str>,
        path_of: fn(&str) -> Result<String, UrlRule>,
    ) -> Result<String, UrlRule> {
        let text = typed.trim();
        if text.len() > 1_024 {
            return Err(UrlRule::Length);
        }
        let (origin, path) = match allowed {
            Some(origin) => {
                let path = &text[origin.len()..];
                judge_bytes(path)?;
                (origin.to_owned(), path)
            }
            None => self.public_origin(text)?,
        };
        let url = format!("{origin}{}", path_of(path)?);
        match url::Url::parse(&url) {
            Ok(parsed) if parsed.as_str() == url => Ok(url),
            _ => Err(UrlRule::Ambiguous),
        }
    }

    /// The allowed origin that a URL belongs to: one of those where the public rules do not hold.
    #[must_use]
    pub fn allowed_origin(&self, url: &str) -> Option<&str> {
        origin_among(&self.allowed, url)
    }

    /// The same for an identity provider's URL.
    #[must_use]
    pub fn allowed_identity_provider(&self, url: &str) -> Option<&str> {
        origin_among(&self.allowed_identity_providers, url)
    }

    /// The same for a webhook's URL.
    #[must_use]
    pub fn allowed_webhook(&self, url: &str) -> Option<&str> {
        origin_among(&self.allowed_webhooks, url)
    }

    fn public_origin<'a>(&self, text: &'a str) -> Result<(String, &'a str), UrlRule> {
        judge_bytes(text)?;
        let rest = strip_scheme(text).ok_or(UrlRule::Scheme)?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let host = match authority.split_once(':') {
            None => authority,
            Some((host, "" | "443")) => host,
            Some(_) => return Err(UrlRule::Port),
        };
        let host = host.to_ascii_lowercase();
        judge_host(&host, self.own_host.as_deref())?;
        Ok((format!("https://{host}"), path))
    }
}

fn origin_among<'a>(origins: &'a [String], url: &str) -> Option<&'a str> {
    origins.iter().map(String::as_str).find(|origin| {
        let (start, rest) = url.split_at_checked(origin.len()).unwrap_or_default();
        start.eq_ignore_ascii_case(origin) && (rest.is_empty() || rest.starts_with('/'))
    })
}

fn judge_bytes(text: &str) -> Result<(), UrlRule> {
    if text.bytes().all(|b| b.is_ascii_alphanumeric() || b":/._~-".contains(&b)) {
        Ok(())
    } else {
        Err(UrlRule::Characters)
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
        || (last.starts_with("xn--") && url::Host::parse(last).is_ok());
    if !fits || !public_ending {
        return Err(UrlRule::Host);
    }
    let own = own_host.is_some_and(|own| own.eq_ignore_ascii_case(host));
    if own || RESERVED_SUFFIXES.contains(&last) || METADATA_HOSTS.contains(&host) {
        return Err(UrlRule::ReservedName);
    }
    Ok(())
}

/// A path as it was typed, without a slash at its end, in segments that mean what they say.
fn segments_of(path: &str) -> Result<(&str, Vec<&str>), UrlRule> {
    let path = path.strip_suffix('/').unwrap_or(path);
    let segments: Vec<&str> = if path.is_empty() { Vec::new() } else { path[1..].split('/').collect() };
    let plain = |segment: &&str| {
        !segment.is_empty()
            && segment.len() <= 64
            && !matches!(*segment, "." | "..")
            && !segment.contains(':')
    };
    if segments.len() > 8 || !segments.iter().all(plain) { Err(UrlRule::Path) } else { Ok((path, segments)) }
}

/// A bare origin keeps its slash: no URL is without one.
fn plain_path(path: &str) -> Result<String, UrlRule> {
    let (path, _) = segments_of(path)?;
    Ok(if path.is_empty() { "/".to_owned() } else { path.to_owned() })
}

fn messages_path(path: &str) -> Result<String, UrlRule> {
    let (path, segments) = segments_of(path)?;
    let ending = match segments.as_slice() {
        [.., "v1", "messages"] => "",
        [.., "v1"] => "/messages",
        _ => "/v1/messages",
    };
    let full = format!("{path}{ending}");
    // What follows the messages endpoint would be sent to something else.
    let head = full.strip_suffix("/v1/messages").unwrap_or_default();
    if format!("{head}/").contains("/v1/messages/") {
        return Err(UrlRule::Path);
    }
    if full.matches('/').count() > 8 { Err(UrlRule::Path) } else { Ok(full) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn judge_for(provider: Provider, typed: &str) -> Result<Option<String>, UrlRule> {
        let policy = UrlPolicy {
            allowed_identity_providers: Vec::new(),
            own_host: Some("keyward.example.com".to_owned()),
            allowed: vec!["http://10.0.0.5:8000".to_owned(), "https://[fd00::1]:8443".to_owned()],
            allowed_webhooks: vec!["http://10.0.0.9:9000".to_owned()],
        };
        policy.canonical(typed, provider)
    }

    fn judge(typed: &str) -> Result<Option<String>, UrlRule> {
        judge_for(Provider::Anthropic, typed)
    }

    #[test]
    fn other_providers_keep_their_path() {
        for (typed, expected) in [
            ("https://llm.example.com", "https://llm.example.com/"),
            ("https://llm.example.com/", "https://llm.example.com/"),
            ("https://llm.example.com/v1/", "https://llm.example.com/v1"),
            (
                "https://a.openai.azure.com/openai/deployments/x.y",
                "https://a.openai.azure.com/openai/deployments/x.y",
            ),
        ] {
            let canonical = judge_for(Provider::Custom, typed);
            assert_eq!(canonical, Ok(Some(expected.to_owned())), "{typed}");
            assert_eq!(judge_for(Provider::Custom, expected), canonical);
        }
    }

    #[test]
    fn a_model_server_is_no_receiver_of_webhooks() {
        let policy = UrlPolicy {
            allowed_identity_providers: Vec::new(),
            own_host: None,
            allowed: vec!["http://10.0.0.5:8000".to_owned()],
            allowed_webhooks: vec!["http://10.0.0.9:9000".to_owned()],
        };
        assert_eq!(policy.webhook("http://10.0.0.9:9000/k"), Ok("http://10.0.0.9:9000/k".to_owned()));
        assert_eq!(policy.webhook("http://10.0.0.5:8000/k"), Err(UrlRule::Scheme));
        assert_eq!(policy.canonical("http://10.0.0.9:9000/v1", Provider::Custom), Err(UrlRule::Scheme));
        assert_eq!(
            policy.webhook(" https://HOOKS.example.com/k "),
            Ok("https://hooks.example.com/k".to_owned())
        );
    }

    #[test]
    fn the_operator_may_allow_exact_origins() {
        let allowed = |typed: &str| judge_for(Provider::Custom, typed);
        assert_eq!(allowed("http://10.0.0.5:8000/v1/"), Ok(Some("http://10.0.0.5:8000/v1".to_owned())));
        assert_eq!(allowed("HTTP://10.0.0.5:8000"), Ok(Some("http://10.0.0.5:8000/".to_owned())));
        assert_eq!(allowed("https://[fd00::1]:8443/v1"), Ok(Some("https://[fd00::1]:8443/v1".to_owned())));
        assert_eq!(allowed("http://10.0.0.5:80000/v1"), Err(UrlRule::Scheme));
        assert_eq!(allowed("http://10.0.0.5:8000@evil.example.com"), Err(UrlRule::Characters));
        assert_eq!(allowed("http://10.0.0.5:8000.evil.example.com"), Err(UrlRule::Scheme));
        assert_eq!(allowed("http://10.0.0.5/v1"), Err(UrlRule::Scheme));
        assert_eq!(allowed("https://10.0.0.5:8000/v1"), Err(UrlRule::Port));
        assert_eq!(allowed("http://10.0.0.5:8000/?x"), Err(UrlRule::Characters));
        assert_eq!(allowed("http://10.0.0.5:8000/../x"), Err(UrlRule::Path));
        assert_eq!(allowed("https://[fd00::2]:8443/v1"), Err(UrlRule::Characters));
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
            ("https://a.example.com/v1/messages/v1", Path),
            ("https://a.example.com/v1/messages/x/v1/messages", Path),
            ("https://a.example.com/v1/messages/v1/messages", Path),
            (deep.as_str(), Path),
            ("https://example.xn--a", Host),
            ("https://xn--a.example.com", Ambiguous),
        ] {
            assert_eq!(judge(typed), Err(rule), "{typed}");
        }
    }

    proptest! {
        /// Whatever is accepted is https on a public name, canonical, and accepted again as it is.
        #[test]
        fn accepted_urls_are_canonical(
            typed in "(https://|HTTPS://|http://)?[a-zA-Z0-9-]{1,12}(\\.[a-zA-Z0-9-]{1,8}){0,4}[a-zA-Z0-9.:/_~@%-]{0,40}",
            at in 0..Provider::ALL.len(),
        ) {
            let provider = Provider::ALL[at];
            if let Ok(Some(url)) = judge_for(provider, &typed) {
                let parsed = url::Url::parse(&url).unwrap();
                prop_assert_eq!(parsed.scheme(), "https");
                prop_assert_eq!(parsed.port(), None);
                prop_assert!(parsed.domain().is_some_and(|domain| domain.contains('.')));
                prop_assert_eq!(parsed.as_str(), url.as_str());
                prop_assert!(parsed.username().is_empty() && parsed.password().is_none());
                prop_assert!(parsed.query().is_none() && parsed.fragment().is_none());
                prop_assert_eq!(judge_for(provider, &url), Ok(Some(url.clone())));
                prop_assert_eq!(url.ends_with("/v1/messages"), provider == Provider::Anthropic || typed.trim_end_matches('/').ends_with("/v1/messages"));
            }
        }
    }
}
