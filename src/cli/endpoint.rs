//! `keyward endpoint check`: what the policy says of URLs, one on each line, and by which rule.

use std::collections::HashMap;
use std::io::{BufRead as _, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::json;

use super::Failure;
use crate::config::EndpointSettings;
use crate::domain::endpoint::UrlPolicy;
use crate::domain::provider_key::Provider;
use crate::outbound::{Outbound, Parts, Resolver};
use crate::providers::{self, Need};

#[derive(Debug, clap::Subcommand)]
pub enum Endpoint {
    /// Judge URLs as tenants would type them: JSON strings on standard input, one on each line
    Check(Check),
}

#[derive(Debug, clap::Args)]
pub struct Check {
    /// Provider whose key the URL would go with
    #[arg(long, default_value = "anthropic", value_parser = parse_provider)]
    provider: Provider,

    /// File of names and addresses in place of DNS: host, tab, addresses with commas
    #[arg(long)]
    hosts: Option<PathBuf>,

    #[command(flatten)]
    endpoints: EndpointSettings,
}

fn parse_provider(word: &str) -> Result<Provider, String> {
    let known: Vec<&str> = Provider::ALL.iter().map(|provider| provider.as_str()).collect();
    Provider::parse(word).ok_or_else(|| format!("known are {}", known.join(", ")))
}

impl Endpoint {
    pub async fn run(self) -> Result<(), Failure> {
        let Self::Check(check) = self;
        let policy = check.endpoints.policy()?;
        let parts = match &check.hosts {
            Some(path) => Parts { resolver: Arc::new(Hosts::read(path)?), ..Parts::default() },
            None => Parts::default(),
        };
        let outbound = Outbound::new(parts)?;
        let mut out = std::io::stdout().lock();
        for line in std::io::stdin().lock().lines() {
            let line = line?;
            if line.trim().is_empty() {
                continue;
            }
            let verdict = match serde_json::from_str::<String>(&line) {
                Ok(typed) => judge(&policy, &outbound, check.provider, &typed).await,
                Err(_) => reject("json", "Give each URL as a JSON string on a line of its own."),
            };
            writeln!(out, "{verdict}")?;
        }
        Ok(())
    }
}

fn reject(rule: &str, reason: &str) -> serde_json::Value {
    json!({ "verdict": "reject", "rule": rule, "reason": reason })
}

async fn judge(
    policy: &UrlPolicy,
    outbound: &Outbound,
    provider: Provider,
    typed: &str,
) -> serde_json::Value {
    let accept = |url: Option<&str>| json!({ "verdict": "accept", "url": url });
    let spec = providers::of(provider).spec();
    let url = match policy.canonical(typed, provider) {
        Ok(None) if spec.base_url.need == Need::Required => {
            return reject("required", &format!("{} keys need a URL.", provider.label()));
        }
        // The provider's default: there is no URL of the tenant's.
        Ok(None) => return accept(None),
        Ok(Some(url)) => url,
        Err(rule) => return reject(rule.name(), &rule.to_string()),
    };
    if policy.allowed_origin(&url).is_some() {
        return accept(Some(&url));
    }
    let host = url::Url::parse(&url).ok().and_then(|url| url.host_str().map(str::to_owned));
    match outbound.vet(&host.unwrap_or_default()).await {
        Ok(()) => accept(Some(&url)),
        Err(rule) => reject(rule.name(), &rule.to_string()),
    }
}

/// Names with their addresses, from a file. A name that is not in it is a public one.
struct Hosts(HashMap<String, Vec<IpAddr>>);

const ELSEWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(93, 184, 215, 14));

impl Hosts {
    fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let mut hosts = HashMap::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let (host, addresses) = line.split_once('\t').unwrap_or((line, ""));
            let wrong = |word: &str| format!("{}:{}: {word} is no address", path.display(), number + 1);
            let addresses = addresses.split(',').map(str::trim).filter(|word| !word.is_empty());
            let addresses = addresses.map(|word| word.parse().map_err(|_| wrong(word)));
            hosts.insert(host.trim().to_ascii_lowercase(), addresses.collect::<Result<Vec<IpAddr>, _>>()?);
        }
        Ok(Self(hosts))
    }
}

impl Resolver for Hosts {
    fn resolve(&self, host: String) -> BoxFuture<'static, std::io::Result<Vec<IpAddr>>> {
        let found = self.0.get(&host.to_ascii_lowercase()).cloned().unwrap_or_else(|| vec![ELSEWHERE]);
        Box::pin(async move { Ok(found) })
    }
}
