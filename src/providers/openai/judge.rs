//! What answers in `OpenAI`'s shape say of a key: the status, and the error's code or type.

use std::borrow::Cow;

use http::HeaderMap;
use serde::Deserialize;

use super::super::{Endpoint, Judged, retry_after};
use crate::domain::clock::{HOUR, Moment, SECOND};
use crate::domain::provider_key::Verdict;

/// How long to wait where a rate limit says nothing of its end.
const DEFAULT_PAUSE: i64 = 20 * SECOND;

#[derive(Deserialize)]
struct ErrorBody<'a> {
    #[serde(borrow)]
    error: ErrorObject<'a>,
}

#[derive(Default, Deserialize)]
struct ErrorObject<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Option<Cow<'a, str>>,
    /// A string, or with some servers a number.
    #[serde(borrow, default)]
    code: Option<Code<'a>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Code<'a> {
    Text(#[serde(borrow)] Cow<'a, str>),
    Number(i64),
}

pub fn judge(endpoint: &Endpoint, status: u16, headers: &HeaderMap, body: &[u8], now: Moment) -> Judged {
    if (200..300).contains(&status) {
        return Judged::new(Verdict::Works, None);
    }
    let error = serde_json::from_slice::<ErrorBody<'_>>(body).ok().map(|body| body.error);
    let error = error.unwrap_or_default();
    let code = error.code.map(|code| match code {
        Code::Text(text) => text.into_owned(),
        Code::Number(number) => number.to_string(),
    });
    let kind = error.kind.as_deref();
    let verdict = match (status, code.as_deref()) {
        // A key of few rights may not list models, and serve all the same.
        (401 | 403, Some("missing_scope" | "insufficient_permissions")) => Verdict::Neutral,
        // The request named an account that is not the key's: that says nothing of the key.
        (401 | 403, Some("mismatched_organization" | "mismatched_project" | "invalid_organization")) => {
            Verdict::Neutral
        }
        (401, _) | (403, Some("account_deactivated" | "organization_deactivated")) => Verdict::Rejected,
        (403, _) if *endpoint == Endpoint::Models => Verdict::Neutral,
        (403, _) if code.is_some() || kind.is_some() => Verdict::Doubtful,
        (402, _) => Verdict::OutOfCredit,
        (400 | 429, Some("billing_hard_limit_reached")) => Verdict::SpendLimit { until: None },
        (429, Some("rate_limit_exceeded" | "slow_down")) => limited(headers, now),
        (429, Some("credit_balance_exhausted" | "insufficient_quota" | "billing_not_active")) => {
            Verdict::OutOfCredit
        }
        (429, Some(code)) if code.ends_with("_limit_exceeded") => Verdict::SpendLimit { until: None },
        (429, _) if kind == Some("insufficient_quota") => Verdict::OutOfCredit,
        (429, _) => limited(headers, now),
        _ => Verdict::Neutral,
    };
    Judged::new(verdict, code.or(error.kind.map(Cow::into_owned)))
}

fn limited(headers: &HeaderMap, now: Moment) -> Verdict {
    let wait = retry_after(headers).map_or(DEFAULT_PAUSE, |seconds| (seconds * SECOND).min(HOUR));
    Verdict::RateLimited { until: now.plus(wait) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment(1_000_000_000_000);

    #[test]
    fn every_error_is_judged() {
        let error = |kind: &str, code: serde_json::Value| {
            serde_json::json!({ "error": { "message": "x", "type": kind, "param": null, "code": code } })
                .to_string()
        };
        let rate = |seconds| Verdict::RateLimited { until: NOW.plus(seconds * SECOND) };
        let spend = Verdict::SpendLimit { until: None };
        for (status, kind, code, retry, expected) in [
            (401, "invalid_request_error", "invalid_api_key".into(), None, Verdict::Rejected),
            (401, "invalid_request_error", "account_deactivated".into(), None, Verdict::Rejected),
            (401, "invalid_request_error", "missing_scope".into(), None, Verdict::Neutral),
            (
                403,
                "invalid_request_error",
                "unsupported_country_region_territory".into(),
                None,
                Verdict::Doubtful,
            ),
            (402, "x", serde_json::Value::Null, None, Verdict::OutOfCredit),
            (429, "insufficient_quota", "insufficient_quota".into(), None, Verdict::OutOfCredit),
            (429, "insufficient_quota", "credit_balance_exhausted".into(), None, Verdict::OutOfCredit),
            (429, "insufficient_quota", "project_spend_limit_exceeded".into(), None, spend),
            (429, "insufficient_quota", "organization_spend_limit_exceeded".into(), None, spend),
            (429, "insufficient_quota", "organization_usage_limit_exceeded".into(), None, spend),
            (429, "insufficient_quota", serde_json::Value::Null, None, Verdict::OutOfCredit),
            (429, "requests", "rate_limit_exceeded".into(), Some("7"), rate(7)),
            (429, "tokens", "rate_limit_exceeded".into(), None, rate(20)),
            (429, "rate_limit_error", "slow_down".into(), Some("0.5"), rate(1)),
            (429, "x", 429.into(), Some("999999"), rate(3_600)),
            (400, "billing_limit_user_error", "billing_hard_limit_reached".into(), None, spend),
            (400, "invalid_request_error", serde_json::Value::Null, None, Verdict::Neutral),
            (404, "invalid_request_error", "model_not_found".into(), None, Verdict::Neutral),
            (404, "x", "DeploymentNotFound".into(), None, Verdict::Neutral),
            (500, "server_error", serde_json::Value::Null, None, Verdict::Neutral),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(value) = retry {
                headers.insert(http::header::RETRY_AFTER, http::HeaderValue::from_static(value));
            }
            let body = error(kind, code);
            let judged = judge(&Endpoint::ChatCompletions, status, &headers, body.as_bytes(), NOW);
            assert_eq!(judged.verdict, expected, "{status} {body}");
        }
        let plain =
            |status| judge(&Endpoint::ChatCompletions, status, &HeaderMap::new(), b"<html>", NOW).verdict;
        assert_eq!((plain(401), plain(403), plain(429)), (Verdict::Rejected, Verdict::Neutral, rate(20)));
        let listing =
            judge(&Endpoint::Models, 403, &HeaderMap::new(), error("x", "y".into()).as_bytes(), NOW);
        assert_eq!(listing.verdict, Verdict::Neutral);
    }
}
