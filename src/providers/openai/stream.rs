//! Takes the chunk of usage out of a stream whose caller did not ask for it.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use memchr::memmem;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// An event longer than this is passed on as it comes: no chunk of usage is so long.
const MAX_EVENT: usize = 64 * 1_024;

/// Passes whole events on at once and holds back only the beginning of one whose end has not come.
#[derive(Default)]
pub struct UsageFilter {
    held: BytesMut,
    /// The rest of a long event goes through unread.
    passing: bool,
}

impl UsageFilter {
    /// What may go on of the next piece. Empty when that is nothing.
    pub fn push(&mut self, chunk: Bytes) -> Bytes {
        if self.held.is_empty() && !self.passing && !is_suspect(&chunk) && chunk.ends_with(b"\n\n") {
            return chunk;
        }
        let mut all = std::mem::take(&mut self.held);
        all.extend_from_slice(&chunk);
        let mut out = BytesMut::with_capacity(all.len());
        while let Some((end, width)) = event_end(&all) {
            let event = all.split_to(end + width);
            if std::mem::take(&mut self.passing) || !is_usage(&event[..end]) {
                out.extend_from_slice(&event);
            }
        }
        if self.passing || all.len() > MAX_EVENT {
            self.passing = true;
            out.extend_from_slice(&all);
        } else {
            self.held = all;
        }
        out.freeze()
    }

    /// What is left when the stream has ended.
    pub fn finish(self) -> Bytes {
        self.held.freeze()
    }
}

/// Where the first event ends, and how long its blank line is.
fn event_end(text: &[u8]) -> Option<(usize, usize)> {
    let plain = memmem::find(text, b"\n\n").map(|at| (at, 2));
    let returns = memmem::find(text, b"\r\n\r\n").map(|at| (at, 4));
    plain.into_iter().chain(returns).min_by_key(|(at, _)| *at)
}

fn is_suspect(chunk: &[u8]) -> bool {
    memmem::find(chunk, b"prompt_tokens").is_some() || chunk.contains(&b'\r')
}

/// The chunk that nobody but Keyward asked for: no choices, and a usage. Azure sends others
/// without choices, which are the caller's.
fn is_usage(event: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Chunk<'a> {
        choices: Vec<IgnoredAny>,
        #[serde(borrow)]
        usage: Usage<'a>,
    }
    #[derive(Deserialize)]
    struct Usage<'a> {
        #[serde(borrow, rename = "prompt_tokens")]
        _prompt: &'a serde_json::value::RawValue,
    }
    let data: Cow<'_, [u8]> = event.strip_prefix(b"data:").map_or(Cow::Borrowed(&[]), Cow::Borrowed);
    serde_json::from_slice::<Chunk<'_>>(&data).is_ok_and(|chunk| {
        let Usage { .. } = chunk.usage;
        chunk.choices.is_empty()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIRST: &str = "data: {\"choices\":[],\"prompt_filter_results\":[]}\n\n";
    const WORD: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"prompt_tokens\"}}],\"usage\":null}\n\n";
    const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\n";
    const DONE: &str = "data: [DONE]\n\n";

    fn through(pieces: impl IntoIterator<Item = Vec<u8>>) -> String {
        let mut filter = UsageFilter::default();
        let mut out = Vec::new();
        for piece in pieces {
            out.extend_from_slice(&filter.push(piece.into()));
        }
        out.extend_from_slice(&filter.finish());
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn only_the_chunk_of_usage_goes_missing(step in 1..120usize, returns: bool) {
            let text = [FIRST, WORD, WORD, USAGE, DONE].concat();
            let expected = [FIRST, WORD, WORD, DONE].concat();
            let ends = |text: String| if returns { text.replace('\n', "\r\n") } else { text };
            let text = ends(text);
            let pieces = text.as_bytes().chunks(step).map(<[u8]>::to_vec);
            prop_assert_eq!(through(pieces), ends(expected));
        }
    }

    #[test]
    fn nothing_waits_for_what_comes_after_it() {
        let mut filter = UsageFilter::default();
        assert_eq!(filter.push(WORD.into()), WORD);
        assert_eq!(filter.push([USAGE, DONE].concat().into()), DONE);
        assert_eq!(filter.push(WORD[..9].to_owned().into()), "");
        assert_eq!(filter.push(WORD[9..].to_owned().into()), WORD);
    }

    #[test]
    fn a_long_event_goes_through_as_it_comes() {
        let mut filter = UsageFilter::default();
        let long = format!("data: {}", "x".repeat(MAX_EVENT));
        assert_eq!(filter.push(long.clone().into()), long);
        assert_eq!(filter.push("more".into()), "more");
        assert_eq!(filter.push(format!("\n\n{USAGE}").into()), "\n\n");
    }
}
