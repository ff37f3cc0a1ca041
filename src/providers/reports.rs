//! Usage and cost as providers report them to an organisation's administrators: what to ask, and how
//! to read the answers. Paths and fields are those of the official SDKs (`anthropic` 2.12.0 with its
//! beta `analytics-usage-cost-2026-08-24`, `openai` 3.54.0) and of
//! <https://platform.claude.com/docs/en/api/admin>.

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::Value;
use url::Url;

use super::{Origins, Outgoing};
use crate::crypto::secret::Secret;
use crate::domain::clock::{DAY, Moment, SECOND};
use crate::domain::money::Nanos;
use crate::domain::provider_key::Provider;

/// Days of one question: what both providers allow at once.
pub const DAYS: i64 = 30;

/// A question to a provider; each may have several pages of answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    Keys,
    /// Of one project.
    KeysOf(String),
    Projects,
    Usage,
    /// `OpenAI` counts these apart.
    Embeddings,
    Cost,
}

/// What an answer holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Key { id: String, name: String, hint: String },
    Project(String),
    Usage { day: Moment, key: String, model: String, tokens: i64, requests: Option<i64> },
    Cost { day: Moment, key: String, model: String, cost: Nanos },
}

/// One page of an answer, and where the next begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub found: Vec<Found>,
    pub next: Option<String>,
}

/// Providers that report usage to a key of their own kind for it.
pub const PROVIDERS: [Provider; 2] = [Provider::Anthropic, Provider::Openai];

/// How such a key begins.
#[must_use]
pub fn prefix(provider: Provider) -> Option<&'static str> {
    match provider {
        Provider::Anthropic => Some("sk-ant-admin01-"),
        Provider::Openai => Some("sk-admin-"),
        _ => None,
    }
}

/// Everything that is asked of a provider, in order.
#[must_use]
pub fn questions(provider: Provider) -> Vec<Question> {
    match provider {
        Provider::Anthropic => vec![Question::Keys, Question::Usage, Question::Cost],
        _ => vec![Question::Projects, Question::Usage, Question::Embeddings, Question::Cost],
    }
}

/// The request that asks, for the days from `from` up to `to`, from the page that `cursor` names.
#[must_use]
pub fn ask(
    provider: Provider,
    origins: &Origins,
    secret: &Secret,
    question: &Question,
    (from, to): (Moment, Moment),
    cursor: Option<&str>,
) -> Option<Outgoing> {
    let anthropic = provider == Provider::Anthropic;
    let origin = if anthropic { &origins.anthropic } else { &origins.openai };
    let mut url = match question {
        Question::KeysOf(project) => project_keys(origin, project)?,
        other => origin.join(path(other, anthropic)?).ok()?,
    };
    {
        let mut query = url.query_pairs_mut();
        match (question, anthropic) {
            (Question::Usage | Question::Cost, true) => {
                query.append_pair("starting_at", &from.rfc3339()).append_pair("ending_at", &to.rfc3339());
                query.append_pair("time_bucket_width", "1d").append_pair("limit", "1000");
                query.append_pair("group_by[]", "api_key_id").append_pair("group_by[]", "model");
                cursor.map(|page| query.append_pair("page", page));
            }
            (Question::Usage | Question::Embeddings | Question::Cost, _) => {
                query.append_pair("start_time", &(from.0 / SECOND).to_string());
                query.append_pair("end_time", &(to.0 / SECOND).to_string());
                query.append_pair("bucket_width", "1d").append_pair("limit", "31");
                query.append_pair("group_by[]", "api_key_id");
                let second = if *question == Question::Cost { "line_item" } else { "model" };
                query.append_pair("group_by[]", second);
                cursor.map(|page| query.append_pair("page", page));
            }
            (_, true) => {
                query.append_pair("limit", "1000");
                cursor.map(|after| query.append_pair("after_id", after));
            }
            (question, _) => {
                query.append_pair("limit", "100");
                let all = match question {
                    Question::Projects => ("include_archived", "true"),
                    // Without it, keys of people who have left are not among them.
                    _ => ("owner_project_access", "any"),
                };
                query.append_pair(all.0, all.1);
                cursor.map(|after| query.append_pair("after", after));
            }
        }
    }
    let mut headers = HeaderMap::new();
    let credential = if anthropic {
        headers.insert(HeaderName::from_static("anthropic-version"), HeaderValue::from_static("2026-10-21"));
        if matches!(question, Question::Usage | Question::Cost) {
            let beta = HeaderValue::from_static("analytics-usage-cost-2026-08-24");
            headers.insert(HeaderName::from_static("anthropic-beta"), beta);
        }
        (HeaderName::from_static("x-api-key"), secret.expose().to_owned())
    } else {
        (AUTHORIZATION, format!("Bearer {}", secret.expose()))
    };
    let mut value = HeaderValue::from_str(&credential.1).ok()?;
    value.set_sensitive(true);
    headers.insert(credential.0, value);
    Some(Outgoing { method: Method::GET, url, headers, body: Bytes::new(), hides_usage: false })
}

fn path(question: &Question, anthropic: bool) -> Option<&'static str> {
    Some(match (question, anthropic) {
        (Question::Keys, true) => "/v1/organizations/api_keys",
        (Question::Usage, true) => "/v1/organizations/analytics/usage",
        (Question::Cost, true) => "/v1/organizations/analytics/cost",
        (Question::Projects, false) => "/v1/organization/projects",
        (Question::Usage, false) => "/v1/organization/usage/completions",
        (Question::Embeddings, false) => "/v1/organization/usage/embeddings",
        (Question::Cost, false) => "/v1/organization/costs",
        _ => return None,
    })
}

/// An id out of an answer goes into a path: nothing but a plain one does.
fn project_keys(origin: &Url, project: &str) -> Option<Url> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    let plain = !project.is_empty() && project.len() <= 128 && project.bytes().all(plain);
    plain.then(|| origin.join(&format!("/v1/organization/projects/{project}/api_keys")).ok())?
}

/// Reads one page of an answer; `None` for what is no such answer.
#[must_use]
pub fn read(provider: Provider, question: &Question, body: &[u8]) -> Option<Page> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let data = body["data"].as_array()?;
    let anthropic = provider == Provider::Anthropic;
    let found = match question {
        Question::Keys | Question::KeysOf(_) => {
            data.iter().map(|key| read_key(key, anthropic)).collect::<Option<Vec<_>>>()?
        }
        Question::Projects => {
            data.iter().map(|project| Some(Found::Project(text(&project["id"])?))).collect::<Option<_>>()?
        }
        _ if anthropic => data.iter().map(read_flat).collect::<Option<_>>()?,
        _ => read_buckets(question, data)?,
    };
    let more = body["has_more"].as_bool().unwrap_or(false);
    let next = match question {
        Question::Keys | Question::KeysOf(_) | Question::Projects => text(&body["last_id"]),
        _ => text(&body["next_page"]),
    };
    Some(Page { found, next: next.filter(|_| more) })
}

fn text(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    (!text.is_empty() && text.len() <= 256).then(|| text.to_owned())
}

fn read_key(key: &Value, anthropic: bool) -> Option<Found> {
    let hint = if anthropic { &key["partial_key_hint"] } else { &key["redacted_value"] };
    Some(Found::Key {
        id: text(&key["id"])?,
        name: text(&key["name"]).unwrap_or_default(),
        hint: text(hint).unwrap_or_default(),
    })
}

/// A row of Anthropic's analytics.
fn read_flat(row: &Value) -> Option<Found> {
    let day = row["starting_at"].as_str()?.parse().ok().map(Moment::from_timestamp)?;
    let key = text(&row["group"]["api_key_id"]).unwrap_or_default();
    let model = text(&row["group"]["model"]).unwrap_or_default();
    if let Some(amount) = row["cost"]["amount"].as_str() {
        // In cents.
        return Some(Found::Cost { day, key, model, cost: decimal(amount, 7)? });
    }
    let usage = row.get("usage")?;
    let created = &usage["cache_creation"];
    let kinds = [
        &usage["uncached_input_tokens"],
        &created["ephemeral_5m_input_tokens"],
        &created["ephemeral_1h_input_tokens"],
        &usage["cache_read_input_tokens"],
        &usage["output_tokens"],
    ];
    let tokens = kinds.iter().filter_map(|kind| kind.as_i64()).sum();
    Some(Found::Usage { day, key, model, tokens, requests: usage["requests"].as_i64() })
}

/// `OpenAI`'s days, each with its results.
fn read_buckets(question: &Question, data: &[Value]) -> Option<Vec<Found>> {
    let mut found = Vec::new();
    for bucket in data {
        let day = Moment(bucket["start_time"].as_i64()?.checked_mul(SECOND)?);
        for result in bucket["results"].as_array()? {
            let key = text(&result["api_key_id"]).unwrap_or_default();
            found.push(if *question == Question::Cost {
                // The model, and what of it was used.
                let item = text(&result["line_item"]).unwrap_or_default();
                let model = item.split(", ").next().unwrap_or_default().to_owned();
                Found::Cost { day, key, model, cost: dollars(&result["amount"]["value"])? }
            } else {
                // Input counts what was cached too.
                let tokens = result["input_tokens"].as_i64()? + result["output_tokens"].as_i64().unwrap_or(0);
                let model = text(&result["model"]).unwrap_or_default();
                Found::Usage { day, key, model, tokens, requests: result["num_model_requests"].as_i64() }
            });
        }
    }
    Some(found)
}

/// A number or, as some answers have it, a text.
fn dollars(value: &Value) -> Option<Nanos> {
    match value {
        Value::String(text) => decimal(text, 9),
        Value::Number(number) => decimal(&number.to_string(), 9),
        _ => None,
    }
}

/// A decimal text in units of which one has `places` decimal places of nanodollars; what is finer is
/// cut off. Exponents are read, since small numbers are written so.
fn decimal(text: &str, places: i32) -> Option<Nanos> {
    let (text, exponent) = match text.split_once(['e', 'E']) {
        Some((text, exponent)) => (text, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (minus, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || whole.len() + fraction.len() > 30 {
        return None;
    }
    let mut value: i128 = format!("{whole}{fraction}").parse().ok()?;
    let shift = places + exponent - i32::try_from(fraction.len()).ok()?;
    if !(-40..=20).contains(&shift) {
        return (value == 0 || shift < 0).then_some(Nanos::ZERO);
    }
    let power = 10_i128.checked_pow(shift.unsigned_abs());
    value = match (shift >= 0, power) {
        (true, Some(power)) => value.checked_mul(power)?,
        (false, Some(power)) => value / power,
        (false, None) => 0,
        (true, None) => return None,
    };
    i64::try_from(if minus { -value } else { value }).ok().map(Nanos)
}

/// The days that a report is asked for: whole UTC days up to now.
#[must_use]
pub fn window(now: Moment) -> (Moment, Moment) {
    let tomorrow = (now.0.div_euclid(DAY) + 1) * DAY;
    (Moment(tomorrow - DAYS * DAY), Moment(tomorrow))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_json(provider: Provider, question: &Question, body: &Value) -> Option<Page> {
        read(provider, question, body.to_string().as_bytes())
    }

    #[test]
    fn amounts_are_exact() {
        for (text, places, nanos) in [
            ("412.3375", 7, 4_123_375_000),
            ("0.0612", 9, 61_200_000),
            ("12", 9, 12_000_000_000),
            ("1.5e-7", 9, 150),
            ("0.00000000049", 9, 0),
            ("-3.5", 7, -35_000_000),
            ("0", 9, 0),
        ] {
            assert_eq!(decimal(text, places), Some(Nanos(nanos)), "{text}");
        }
        for bad in ["", ".5", "NaN", "1,5", "1e", "99999999999999999999", "--1"] {
            assert_eq!(decimal(bad, 9), None, "{bad}");
        }
    }

    #[test]
    fn anthropics_rows_are_read() {
        let usage = json!({
            "data": [{
                "starting_at": "2026-11-20T00:00:00Z", "ending_at": "2026-11-21T00:00:00Z",
                "group": { "api_key_id": "apikey_1", "model": "claude-opus-5-5" },
                "usage": {
                    "uncached_input_tokens": 1_500, "cache_read_input_tokens": 200, "output_tokens": 700,
                    "cache_creation": { "ephemeral_5m_input_tokens": 500, "ephemeral_1h_input_tokens": 1_000 },
                    "requests": null,
                },
            }],
            "has_more": true, "next_page": "page_2",
        });
        let day = Moment::from_timestamp("2026-11-20T00:00:00Z".parse().unwrap());
        let (key, model) = ("apikey_1".to_owned(), "claude-opus-5-5".to_owned());
        let page = read_json(Provider::Anthropic, &Question::Usage, &usage).unwrap();
        assert_eq!(page.next.as_deref(), Some("page_2"));
        let expected =
            Found::Usage { day, key: key.clone(), model: model.clone(), tokens: 3_900, requests: None };
        assert_eq!(page.found, [expected]);
        let cost = json!({
            "data": [{
                "starting_at": "2026-11-20T00:00:00Z",
                "group": { "api_key_id": "apikey_1", "model": "claude-opus-5-5" },
                "cost": { "amount": "412.3375", "list_amount": "450.00", "currency": "USD" },
            }],
            "has_more": false, "next_page": null,
        });
        let page = read_json(Provider::Anthropic, &Question::Cost, &cost).unwrap();
        assert_eq!(page.found, [Found::Cost { day, key, model, cost: Nanos(4_123_375_000) }]);
        let keys = json!({
            "data": [{ "id": "apikey_1", "name": "prod", "partial_key_hint": "sk-ant-api03-R2D...igAA" }],
            "has_more": true, "last_id": "apikey_1",
        });
        assert_eq!(
            read_json(Provider::Anthropic, &Question::Keys, &keys).unwrap().next.as_deref(),
            Some("apikey_1")
        );
        for broken in [json!({}), json!({ "data": [{}] }), json!({ "data": "x" })] {
            assert_eq!(read_json(Provider::Anthropic, &Question::Usage, &broken), None, "{broken}");
        }
    }

    #[test]
    fn openais_days_are_read() {
        let usage = json!({
            "object": "page",
            "data": [{ "start_time": 1_763_596_800, "results": [{
                "input_tokens": 1_000, "input_cached_tokens": 400, "output_tokens": 300,
                "num_model_requests": 5, "api_key_id": "key_a", "model": "gpt-5.4-nano",
            }] }],
            "has_more": false, "next_page": null,
        });
        let day = Moment(1_763_596_800 * SECOND);
        let (key, model) = ("key_a".to_owned(), "gpt-5.4-nano".to_owned());
        let page = read_json(Provider::Openai, &Question::Usage, &usage).unwrap();
        let expected =
            Found::Usage { day, key: key.clone(), model: model.clone(), tokens: 1_300, requests: Some(5) };
        assert_eq!(page.found, [expected]);
        for value in [json!("0.0612"), json!(0.0612)] {
            let cost = json!({ "data": [{ "start_time": 1_763_596_800, "results": [{
                "amount": { "value": value, "currency": "usd" },
                "line_item": "gpt-5.4-nano, input_tokens", "api_key_id": "key_a",
            }] }] });
            let page = read_json(Provider::Openai, &Question::Cost, &cost).unwrap();
            let expected =
                Found::Cost { day, key: key.clone(), model: model.clone(), cost: Nanos(61_200_000) };
            assert_eq!(page.found, [expected]);
        }
    }

    #[test]
    fn an_id_out_of_an_answer_leads_nowhere_else() {
        let origin = Url::parse("https://api.openai.com").unwrap();
        assert!(project_keys(&origin, "proj_a-1").is_some());
        for bad in ["", "..", "a/b", "a?b", "a%2fb", "https://evil.example.com"] {
            assert_eq!(project_keys(&origin, bad), None, "{bad}");
        }
    }
}
