//! What Anthropic's answers say of a key. Status and error type or code decide; the text of a
//! message only where Anthropic gives nothing else.

use http::HeaderMap;
use serde::Deserialize;

use super::super::{Endpoint, Judged, retry_after};
use crate::domain::clock::{HOUR, Moment, SECOND};
use crate::domain::provider_key::Verdict;

#[derive(Deserialize)]
struct ErrorBody<'a> {
    #[serde(borrow)]
    error: ErrorObject<'a>,
}

#[derive(Deserialize)]
struct ErrorObject<'a> {
    #[serde(rename = "type", borrow)]
    kind: std::borrow::Cow<'a, str>,
    #[serde(borrow, default)]
    message: std::borrow::Cow<'a, str>,
    #[serde(default)]
    details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    #[serde(default)]
    error_code: Option<String>,
}

pub(super) fn judge(
    endpoint: &Endpoint,
    status: u16,
    headers: &HeaderMap,
    body: &[u8],
    now: Moment,
) -> Judged {
    if (200..300).contains(&status) {
        return Judged::new(Verdict::Works, None);
    }
    let error = serde_json::from_slice::<ErrorBody<'_>>(body).ok().map(|body| body.error);
    let error_code = error.as_ref().and_then(|error| error.details.as_ref()?.error_code.as_deref());
    let kind = error.as_ref().map(|error| error.kind.as_ref());
    let message = error.as_ref().map_or("", |error| error.message.as_ref());
    let verdict = match (status, kind) {
        (401, _) => Verdict::Rejected,
        // Listing models needs no right but the key's own, so there it is about the key.
        (403, Some(_)) if *endpoint == Endpoint::Models => Verdict::Rejected,
        (403, Some("permission_error")) => Verdict::Doubtful,
        (402, _) => Verdict::OutOfCredit,
        (400, Some("invalid_request_error")) => refused_400(error_code, message),
        (429, _) => limited(error_code, headers, now),
        _ => Verdict::Neutral,
    };
    Judged::new(verdict, error_code.or(kind).map(str::to_owned))
}

fn refused_400(error_code: Option<&str>, message: &str) -> Verdict {
    if error_code == Some("organization_on_hold") {
        Verdict::Rejected
    } else if message.starts_with("Your credit balance is too low") {
        Verdict::OutOfCredit
    } else if message.starts_with("You have reached your specified") && message.contains("usage limits") {
        Verdict::SpendLimit { until: regain(message) }
    } else {
        Verdict::Neutral
    }
}

fn limited(error_code: Option<&str>, headers: &HeaderMap, now: Moment) -> Verdict {
    let spend = matches!(error_code, Some("enforced_spend_limit_reached" | "contract_spend_limit_reached"));
    match retry_after(headers).filter(|_| !spend) {
        Some(seconds) => Verdict::RateLimited { until: now.plus((seconds * SECOND).min(HOUR)) },
        None => Verdict::SpendLimit { until: None },
    }
}

/// The moment in "You will regain access on 2026-12-01 at 00:00 UTC."
fn regain(message: &str) -> Option<Moment> {
    let rest = message.split("regain access on ").nth(1)?;
    let (date, rest) = rest.split_at_checked(10)?;
    let time = rest.strip_prefix(" at ").and_then(|rest| rest.get(..5)).unwrap_or("00:00");
    format!("{date}T{time}:00Z").parse().ok().map(Moment::from_timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment(1_000_000_000_000);

    fn error(kind: &str, message: &str, code: Option<&str>) -> String {
        let details = code.map(|code| serde_json::json!({ "error_code": code }));
        serde_json::json!({
            "type": "error",
            "error": { "type": kind, "message": message, "details": details },
            "request_id": "req_1",
        })
        .to_string()
    }

    fn verdict(status: u16, body: &str, retry_after: Option<&'static str>) -> Verdict {
        let mut headers = HeaderMap::new();
        if let Some(value) = retry_after {
            headers.insert(http::header::RETRY_AFTER, http::HeaderValue::from_static(value));
        }
        judge(&Endpoint::Messages, status, &headers, body.as_bytes(), NOW).verdict
    }

    #[test]
    fn every_error_is_judged() {
        let limits = "You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC.";
        let workspace = "You have reached your specified workspace API usage limits. You will regain access on 2026-12-01 at 00:00 UTC.";
        let until = Some(Moment::from_timestamp("2026-12-01T00:00:00Z".parse().unwrap()));
        let rate = |seconds| Verdict::RateLimited { until: NOW.plus(seconds * SECOND) };
        for (status, body, retry, expected) in [
            (200, String::new(), None, Verdict::Works),
            (401, error("authentication_error", "invalid x-api-key", None), None, Verdict::Rejected),
            (401, "<html>".into(), None, Verdict::Rejected),
            (403, error("permission_error", "no", None), None, Verdict::Doubtful),
            (403, "<html>blocked</html>".into(), None, Verdict::Neutral),
            (402, error("billing_error", "pay", None), None, Verdict::OutOfCredit),
            (
                400,
                error("invalid_request_error", "Your credit balance is too low to access the API.", None),
                None,
                Verdict::OutOfCredit,
            ),
            (400, error("invalid_request_error", limits, None), None, Verdict::SpendLimit { until }),
            (400, error("invalid_request_error", workspace, None), None, Verdict::SpendLimit { until }),
            (400, error("invalid_request_error", "x", Some("organization_on_hold")), None, Verdict::Rejected),
            (400, error("invalid_request_error", "max_tokens: required", None), None, Verdict::Neutral),
            (429, error("rate_limit_error", "slow down", None), Some("30"), rate(30)),
            (429, error("rate_limit_error", "x", Some("ramp_limit_exceeded")), Some("2.5"), rate(3)),
            (429, error("rate_limit_error", "x", None), Some("999999"), rate(3_600)),
            (429, error("rate_limit_error", "x", None), None, Verdict::SpendLimit { until: None }),
            (
                429,
                error("rate_limit_error", "x", Some("enforced_spend_limit_reached")),
                Some("30"),
                Verdict::SpendLimit { until: None },
            ),
            (
                429,
                error("rate_limit_error", "x", Some("contract_spend_limit_reached")),
                None,
                Verdict::SpendLimit { until: None },
            ),
            (404, error("not_found_error", "model: claude-none", None), None, Verdict::Neutral),
            (413, error("request_too_large", "x", None), None, Verdict::Neutral),
            (500, error("api_error", "x", None), None, Verdict::Neutral),
            (529, error("overloaded_error", "x", None), None, Verdict::Neutral),
        ] {
            assert_eq!(verdict(status, &body, retry), expected, "{status} {body}");
        }
    }

    #[test]
    fn a_403_on_the_model_list_is_about_the_key() {
        let body = error("permission_error", "no", None);
        let judged = judge(&Endpoint::Models, 403, &HeaderMap::new(), body.as_bytes(), NOW);
        assert_eq!(judged.verdict, Verdict::Rejected);
        assert_eq!(judged.code.as_deref(), Some("permission_error"));
    }
}
