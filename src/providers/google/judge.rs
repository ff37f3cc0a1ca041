//! What Google's answers say of a key: the status, and the reason in the error's details.

use std::borrow::Cow;

use http::HeaderMap;
use serde::Deserialize;

use super::super::{Endpoint, Judged, retry_after};
use crate::domain::clock::{HOUR, Moment, SECOND};
use crate::domain::provider_key::Verdict;

/// How long to wait where a rate limit says nothing of its end.
const DEFAULT_PAUSE: i64 = 20 * SECOND;

#[derive(Deserialize)]
struct ErrorBody {
    error: ErrorObject,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorObject {
    status: Option<String>,
    details: Vec<Detail>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Detail {
    reason: Option<String>,
    /// "30s" or "2.5s".
    retry_delay: Option<String>,
}

pub fn judge(endpoint: &Endpoint, status: u16, headers: &HeaderMap, body: &[u8], now: Moment) -> Judged {
    if (200..300).contains(&status) {
        return Judged::new(Verdict::Works, None);
    }
    let error = error(body).unwrap_or_default();
    let reason = error.details.iter().find_map(|detail| detail.reason.as_deref());
    let verdict = match (status, reason) {
        (402, _) | (403, Some("BILLING_DISABLED")) => Verdict::OutOfCredit,
        // All about the key or the project behind it, whatever was asked.
        (401, _)
        | (400, Some("API_KEY_INVALID" | "API_KEY_EXPIRED"))
        | (
            403,
            Some(
                "API_KEY_INVALID"
                | "API_KEY_EXPIRED"
                | "API_KEY_SERVICE_BLOCKED"
                | "API_KEY_HTTP_REFERRER_BLOCKED"
                | "API_KEY_IP_ADDRESS_BLOCKED"
                | "API_KEY_ANDROID_APP_BLOCKED"
                | "API_KEY_IOS_APP_BLOCKED"
                | "CONSUMER_INVALID"
                | "CONSUMER_SUSPENDED"
                | "SERVICE_DISABLED"
                | "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
            ),
        ) => Verdict::Rejected,
        (403, _) if *endpoint == Endpoint::Models => Verdict::Rejected,
        (403, _) if error.status.is_some() => Verdict::Doubtful,
        (429, _) => {
            let told = error.details.iter().find_map(|detail| seconds(detail.retry_delay.as_deref()?));
            let wait = told.or_else(|| retry_after(headers)).map_or(DEFAULT_PAUSE, |told| told * SECOND);
            Verdict::RateLimited { until: now.plus(wait.min(HOUR)) }
        }
        _ => Verdict::Neutral,
    };
    let code = reason.map(str::to_owned).or(error.status);
    Judged::new(verdict, code)
}

/// An error comes as an object, or in a stream's answer as the only member of a list.
fn error(body: &[u8]) -> Option<ErrorObject> {
    let first = || serde_json::from_slice::<Vec<ErrorBody>>(body).ok()?.into_iter().next();
    // Structs can also be read from lists, of which their fields would then be the members.
    let body = if body.trim_ascii_start().starts_with(b"[") {
        first()
    } else {
        serde_json::from_slice::<ErrorBody>(body).ok()
    };
    body.map(|body| body.error)
}

fn seconds(text: &str) -> Option<i64> {
    let seconds: f64 = text.strip_suffix('s')?.parse().ok()?;
    #[expect(clippy::cast_possible_truncation, reason = "clamped to a day before it is cut")]
    seconds.is_finite().then(|| seconds.clamp(0.0, 86_400.0).ceil() as i64)
}

/// The stable code of an error, for a row.
pub(super) fn code(body: &[u8]) -> Option<Cow<'static, str>> {
    let error = error(body)?;
    let reason = error.details.into_iter().find_map(|detail| detail.reason);
    reason.or(error.status).map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Moment = Moment(1_000_000_000_000);

    #[test]
    fn every_error_is_judged() {
        let error = |code: u16, status: &str, details: serde_json::Value| json!({ "error": { "code": code, "message": "x", "status": status, "details": details } });
        let info =
            |reason: &str| json!([{ "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason }]);
        let retry = |delay: &str| json!([{ "@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay }]);
        let rate = |seconds| Verdict::RateLimited { until: NOW.plus(seconds * SECOND) };
        for (status, name, details, expected) in [
            (400, "INVALID_ARGUMENT", info("API_KEY_INVALID"), Verdict::Rejected),
            (400, "INVALID_ARGUMENT", json!([]), Verdict::Neutral),
            (400, "FAILED_PRECONDITION", json!([]), Verdict::Neutral),
            (401, "UNAUTHENTICATED", json!([]), Verdict::Rejected),
            (402, "RESOURCE_EXHAUSTED", json!([]), Verdict::OutOfCredit),
            (403, "PERMISSION_DENIED", info("API_KEY_SERVICE_BLOCKED"), Verdict::Rejected),
            (403, "PERMISSION_DENIED", info("CONSUMER_SUSPENDED"), Verdict::Rejected),
            (403, "PERMISSION_DENIED", info("BILLING_DISABLED"), Verdict::OutOfCredit),
            (403, "PERMISSION_DENIED", info("IAM_PERMISSION_DENIED"), Verdict::Doubtful),
            (404, "NOT_FOUND", json!([]), Verdict::Neutral),
            (429, "RESOURCE_EXHAUSTED", retry("30s"), rate(30)),
            (429, "RESOURCE_EXHAUSTED", retry("21599.96s"), rate(3_600)),
            (429, "RESOURCE_EXHAUSTED", json!([]), rate(20)),
            (503, "UNAVAILABLE", json!([]), Verdict::Neutral),
        ] {
            let body = error(status, name, details);
            let endpoint = Endpoint::Generate { model: "m".into(), stream: false };
            for body in [body.to_string(), json!([body]).to_string()] {
                let judged = judge(&endpoint, status, &HeaderMap::new(), body.as_bytes(), NOW);
                assert_eq!(judged.verdict, expected, "{body}");
                assert!(judged.code.is_some());
            }
        }
        let plain = judge(&Endpoint::Models, 403, &HeaderMap::new(), b"<html>", NOW);
        assert_eq!(plain.verdict, Verdict::Rejected);
        assert_eq!(code(error(400, "INVALID_ARGUMENT", info("X")).to_string().as_bytes()).unwrap(), "X");
    }
}
