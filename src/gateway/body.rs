//! Request bodies: read up to a limit, looked into, and passed on byte for byte.

use std::borrow::Cow;
use std::time::Duration;

use actix_web::{HttpRequest, web};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::GatewayError;
use crate::providers::Endpoint;
use crate::providers::body::{replaced, span, with_field};

/// Largest request body.
pub const MAX_BODY: usize = 32 * 1_024 * 1_024;
/// A client may be silent for this long in the middle of its body.
const IDLE: Duration = Duration::from_mins(1);

/// What Keyward needs to know of a body.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    pub model: Option<String>,
    pub max_tokens: Option<u64>,
    /// How many answers are asked for at once.
    pub answers: u64,
}

/// Reads a body.
///
/// # Errors
/// A refusal when it is too large, too slow, or breaks off.
pub async fn read(request: &HttpRequest, mut payload: web::Payload) -> Result<Bytes, GatewayError> {
    let promised = request
        .headers()
        .get("content-length")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<usize>().ok());
    if promised.is_some_and(|length| length > MAX_BODY) {
        return Err(GatewayError::too_large(MAX_BODY));
    }
    let mut whole: Option<BytesMut> = None;
    let mut first: Option<Bytes> = None;
    loop {
        let chunk = tokio::time::timeout(IDLE, payload.next())
            .await
            .map_err(|_| GatewayError::invalid("The body stopped coming."))?;
        let Some(chunk) = chunk else { break };
        let chunk = chunk.map_err(|_| GatewayError::invalid("The body broke off."))?;
        let so_far = whole.as_ref().map_or(first.as_ref().map_or(0, Bytes::len), BytesMut::len);
        if so_far + chunk.len() > MAX_BODY {
            return Err(GatewayError::too_large(MAX_BODY));
        }
        // Most bodies come in one piece, which then need not be copied.
        match (&mut whole, first.take()) {
            (Some(whole), _) => whole.extend_from_slice(&chunk),
            (None, None) => first = Some(chunk),
            (None, Some(head)) => {
                let mut joined = BytesMut::with_capacity(promised.unwrap_or(2 * (head.len() + chunk.len())));
                joined.extend_from_slice(&head);
                joined.extend_from_slice(&chunk);
                whole = Some(joined);
            }
        }
    }
    Ok(whole.map(BytesMut::freeze).or(first).unwrap_or_default())
}

/// Looks into a body without keeping more than is needed. Gemini's model is in the path.
///
/// # Errors
/// A refusal when it is not a JSON object or a field is of the wrong type.
pub fn envelope(endpoint: &Endpoint, body: &[u8]) -> Result<Envelope, GatewayError> {
    #[derive(Deserialize)]
    struct Fields<'a> {
        /// Absent or a name: `null` would leave two models in a body that one is spliced into.
        #[serde(borrow, default, deserialize_with = "some")]
        model: Option<Cow<'a, str>>,
        #[serde(default)]
        max_tokens: Option<u64>,
        #[serde(default)]
        max_completion_tokens: Option<u64>,
        #[serde(default)]
        max_output_tokens: Option<u64>,
        /// Answers asked for at once. What else it may be is the provider's to judge.
        #[serde(borrow, default)]
        n: Option<&'a RawValue>,
        #[serde(borrow, default, rename = "generationConfig", alias = "generation_config")]
        generation: Option<Generation<'a>>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Generation<'a> {
        #[serde(rename = "maxOutputTokens", alias = "max_output_tokens")]
        max_output_tokens: Option<u64>,
        #[serde(borrow, rename = "candidateCount", alias = "candidate_count")]
        candidate_count: Option<&'a RawValue>,
    }
    if !endpoint.has_body() {
        return Ok(Envelope::default());
    }
    let invalid = || GatewayError::invalid("The body is not a JSON object that Keyward can read.");
    // Structs can also be read from arrays; a request cannot.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(invalid());
    }
    let fields: Fields<'_> = serde_json::from_slice(body).map_err(|_| invalid())?;
    let model = match endpoint {
        Endpoint::Generate { model, .. } | Endpoint::CountContent { model } => {
            Some(Cow::Borrowed(model.as_str()))
        }
        _ => fields.model,
    };
    let readable = |model: &Cow<'_, str>| {
        (1..=256).contains(&model.len()) && model.bytes().all(|b| b.is_ascii_graphic())
    };
    if model.as_ref().is_some_and(|model| !readable(model)) {
        return Err(GatewayError::invalid("model takes 1 to 256 printable characters without spaces."));
    }
    let generation = fields.generation.unwrap_or_default();
    // Which one counts is the provider's business: the largest is the most that it can be.
    let limits = [
        fields.max_completion_tokens,
        fields.max_output_tokens,
        fields.max_tokens,
        generation.max_output_tokens,
    ];
    let answers =
        [fields.n, generation.candidate_count].into_iter().flatten().map(whole_part).max().unwrap_or(1);
    Ok(Envelope {
        model: model.map(Cow::into_owned),
        max_tokens: limits.into_iter().flatten().max(),
        answers,
    })
}

/// The whole part of a number, one at least.
fn whole_part(number: &RawValue) -> u64 {
    let whole = number.get().split(['.', 'e', 'E']).next().unwrap_or_default();
    whole.parse().unwrap_or(1).max(1)
}

fn some<'de: 'a, 'a, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Cow<'a, str>>, D::Error> {
    #[derive(Deserialize)]
    struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
    Name::deserialize(deserializer).map(|name| Some(name.0))
}

/// The body with a model spliced in as its first field; everything else stays byte for byte.
#[must_use]
pub fn with_model(body: &Bytes, model: &str) -> Bytes {
    with_field(body, 0, "model", &serde_json::Value::from(model).to_string())
}

/// Puts the model that a session pins into the place of the one that was asked for.
#[must_use]
pub fn pinned(endpoint: &mut Endpoint, body: Bytes, model: &str) -> Bytes {
    #[derive(Deserialize)]
    struct Fields<'a> {
        #[serde(borrow, default)]
        model: Option<&'a RawValue>,
    }
    if let Endpoint::Generate { model: asked, .. } | Endpoint::CountContent { model: asked } = endpoint {
        model.clone_into(asked);
        return body;
    }
    let asked = serde_json::from_slice::<Fields<'_>>(&body).ok().and_then(|fields| fields.model);
    match asked {
        Some(asked) => {
            replaced(&body, span(&body, asked), serde_json::Value::from(model).to_string().as_bytes())
        }
        None => with_model(&body, model),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelopes_are_read_and_nonsense_is_refused() {
        let envelope = |body: &[u8]| super::envelope(&Endpoint::Messages, body);
        let read =
            envelope(br#"{"messages":[{"model":"x"}],"model":"claude-\u0061","max_tokens":5}"#).unwrap();
        assert_eq!(read, Envelope { model: Some("claude-a".into()), max_tokens: Some(5), answers: 1 });
        assert_eq!(envelope(b" {}").unwrap(), Envelope { answers: 1, ..Envelope::default() });
        let several = envelope(br#"{"model":"m","n":16,"max_tokens":5,"max_completion_tokens":9}"#).unwrap();
        assert_eq!((several.max_tokens, several.answers), (Some(9), 16));
        for (odd, answers) in [("1.0", 1), ("null", 1), ("\"2\"", 1), ("-3", 1), ("2.5", 2)] {
            let body = format!("{{\"n\":{odd}}}");
            assert_eq!(envelope(body.as_bytes()).unwrap().answers, answers, "{odd}");
        }
        for bad in [
            &b""[..],
            b"[]",
            b"[\"m\",5]",
            b"\"x\"",
            b"{",
            b"{\"model\":null}",
            b"{\"model\":\"a b\"}",
            b"{\"model\":\"a\\u0000\"}",
            b"{\"model\":5}",
            b"{\"model\":\"\"}",
            b"{} x",
            b"{\"max_tokens\":-1}",
            b"{\"max_tokens\":\"1\"}",
            b"{\"model\":\"a\",\"model\":\"b\"}",
            b"\xff{}",
        ] {
            assert!(envelope(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn a_model_is_spliced_in_and_nothing_else_changes() {
        let splice = |text: &'static str| {
            String::from_utf8(with_model(&Bytes::from_static(text.as_bytes()), "m\"1").to_vec()).unwrap()
        };
        assert_eq!(splice(r#" { "a" : 1.50 }"#), r#" {"model":"m\"1", "a" : 1.50 }"#);
        assert_eq!(splice("{ }"), r#"{"model":"m\"1" }"#);
    }
}
