//! The words of every answer, whatever its dialect: they depend on the question alone.

use super::behaviour::Behaviour;
use super::prompt::tokens;

/// Where a `-huge-` answer's filler goes; see `delivery`.
pub const FILLER_MARK: &str = "@@filler@@";

/// Deltas of a `-long-` stream; every word is one delta and one token.
const LONG_WORDS: [&str; 8] = ["one ", "key ", "for ", "all ", "you ", "say ", "and ", "pay "];
const LONG_DELTAS: usize = 200;

/// What a model that thinks has thought.
pub const THOUGHT: &str =
    "The last message is read, and its beginning is given back with a word on who answers.";
const ECHOED_CHARS: usize = 80;

/// A text, what it cost in tokens, and whether its budget cut it short.
#[derive(Default)]
pub struct Written {
    pub text: String,
    pub spent: u64,
    pub cut: bool,
}

/// Writes an answer within a budget of tokens.
pub fn write(question: &str, model: &str, behaviour: Behaviour, budget: u64) -> Written {
    let mut text: String = match behaviour {
        // The filler is longer than any budget, so the whole budget is spent on it.
        Behaviour::Huge => return Written { text: FILLER_MARK.to_owned(), spent: budget, cut: true },
        Behaviour::Long => LONG_WORDS.iter().copied().cycle().take(LONG_DELTAS).collect(),
        _ => format!(
            "You wrote: \"{}\". This is the Keyward sandbox answering in the place of {model}: nothing left \
             this machine and nothing is charged. The same request gets the same answer.",
            echo(question)
        ),
    };
    let fits = usize::try_from(budget).unwrap_or(usize::MAX).saturating_mul(4);
    let cut = text.len() > fits;
    text.truncate(text.floor_char_boundary(fits));
    let spent = tokens(text.len());
    Written { text, spent, cut }
}

/// The beginning of a question.
pub fn echo(question: &str) -> &str {
    let question = question.trim();
    let end = question.char_indices().nth(ECHOED_CHARS).map_or(question.len(), |(index, _)| index);
    &question[..end]
}

/// The pieces that a stream sends a text in.
pub fn pieces(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive(' ')
}
