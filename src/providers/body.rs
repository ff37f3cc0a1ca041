//! Edits of JSON bodies that leave every other byte as it was: nothing is read and written again.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use serde_json::value::RawValue;

/// Where a value that was borrowed from a body lies in it.
#[must_use]
pub fn span(body: &[u8], value: &RawValue) -> Range<usize> {
    let start = value.get().as_ptr().addr() - body.as_ptr().addr();
    start..start + value.get().len()
}

/// The body with `bytes` in the place of a part of it.
#[must_use]
pub fn replaced(body: &[u8], part: Range<usize>, bytes: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(body.len() - part.len() + bytes.len());
    out.extend_from_slice(&body[..part.start]);
    out.extend_from_slice(bytes);
    out.extend_from_slice(&body[part.end..]);
    out.freeze()
}

/// The body with a field put in as the first of the object that opens at or after `from`. `value`
/// is JSON already.
#[must_use]
pub fn with_field(body: &[u8], from: usize, name: &str, value: &str) -> Bytes {
    let Some(open) = body[from..].iter().position(|b| *b == b'{').map(|at| from + at) else {
        return Bytes::copy_from_slice(body);
    };
    let empty = body[open + 1..].trim_ascii_start().first() == Some(&b'}');
    let field = format!("\"{name}\":{value}{}", if empty { "" } else { "," });
    replaced(body, open + 1..open + 1, field.as_bytes())
}

/// The body without the field whose value this is.
#[must_use]
pub fn without_field(body: &[u8], value: &RawValue) -> Bytes {
    let Range { start, end } = span(body, value);
    // Back over the colon and the name, which holds no quotation mark of its own: it is one that
    // Keyward looks for, however it is escaped.
    let colon = body[..start].iter().rposition(|b| *b == b':').unwrap_or(start);
    let closing = body[..colon].iter().rposition(|b| *b == b'"').unwrap_or(colon);
    let mut from = body[..closing].iter().rposition(|b| *b == b'"').unwrap_or(closing);
    let mut to = end;
    let blank = |b: &u8| !b.is_ascii_whitespace();
    match body[end..].iter().position(blank).map(|at| end + at) {
        Some(next) if body[next] == b',' => {
            // What stood between the comma and the next field goes with it.
            to = body[next + 1..].iter().position(blank).map_or(next + 1, |at| next + 1 + at);
        }
        _ => {
            if let Some(before) = body[..from].iter().rposition(blank).filter(|at| body[*at] == b',') {
                from = before;
            }
        }
    }
    replaced(body, from..to, b"")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Deserialize)]
    struct Fields<'a> {
        #[serde(borrow)]
        model: &'a RawValue,
    }

    fn model(body: &[u8]) -> &RawValue {
        serde_json::from_slice::<Fields<'_>>(body).unwrap().model
    }

    #[test]
    fn fields_come_and_go_and_nothing_else_changes() {
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        assert_eq!(text(with_field(br#" { "a" : 1.50 }"#, 0, "m", "\"x\"")), r#" {"m":"x", "a" : 1.50 }"#);
        assert_eq!(text(with_field(b"{ }", 0, "m", "1")), r#"{"m":1 }"#);
        for (before, after) in [
            (r#"{"model":"x","a":1}"#, r#"{"a":1}"#),
            (r#"{"a":1 , "model" : "x" }"#, r#"{"a":1  }"#),
            (r#"{ "model" : "x" }"#, "{  }"),
            (r#"{"b":{"model":"y"}, "mod\u0065l": "x", "a":1}"#, r#"{"b":{"model":"y"}, "a":1}"#),
        ] {
            assert_eq!(text(without_field(before.as_bytes(), model(before.as_bytes()))), after);
        }
    }

    proptest! {
        #[test]
        fn what_is_left_is_the_same_object(before in 0..3usize, after in 0..3usize, spaced: bool, name in "[a-z\"{},:]{0,6}") {
            let mut all = serde_json::Map::new();
            for at in 0..before {
                all.insert(format!("a{at}"), json!({ "model": name, "n": at }));
            }
            all.insert("model".into(), json!(name));
            for at in 0..after {
                all.insert(format!("z{at}"), json!([name, at]));
            }
            let body = if spaced { serde_json::to_vec_pretty(&all) } else { serde_json::to_vec(&all) }.unwrap();
            let left: Value = serde_json::from_slice(&without_field(&body, model(&body))).unwrap();
            let mut expected = all.clone();
            expected.remove("model");
            prop_assert_eq!(left, Value::Object(expected));
            let replaced: Value =
                serde_json::from_slice(&replaced(&body, span(&body, model(&body)), b"7")).unwrap();
            all.insert("model".into(), json!(7));
            prop_assert_eq!(replaced, Value::Object(all));
        }
    }
}
