//! A sentence with times and links in it, escaped piece by piece.

use std::fmt;

use askama::filters::HtmlSafe;

use super::time::When;

/// Text that is safe to put into a page as it is: everything that went in was escaped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prose(String);

impl Prose {
    pub fn of(text: impl AsRef<str>) -> Self {
        Self::default().text(text)
    }

    #[must_use]
    pub fn text(mut self, text: impl AsRef<str>) -> Self {
        for c in text.as_ref().chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                c => self.0.push(c),
            }
        }
        self
    }

    #[must_use]
    pub fn when(mut self, when: &When) -> Self {
        self.0.push_str(&when.to_string());
        self
    }

    #[must_use]
    pub fn then(mut self, more: &Self) -> Self {
        self.0.push_str(&more.0);
        self
    }
}

impl fmt::Display for Prose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl HtmlSafe for Prose {}

/// A way on: inside the console, or out to a provider's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub href: String,
    pub label: String,
    /// Opens in a tab of its own, and tells the other side nothing.
    pub external: bool,
}

impl Link {
    pub fn to(href: impl Into<String>, label: impl Into<String>) -> Self {
        Self { href: href.into(), label: label.into(), external: false }
    }

    pub fn out(href: impl Into<String>, label: impl Into<String>) -> Self {
        Self { href: href.into(), label: label.into(), external: true }
    }
}

/// How good or bad a thing is: the class that colours it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Good,
    Warn,
    Bad,
}

impl Tone {
    pub fn class(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Good => "good",
            Self::Warn => "warn",
            Self::Bad => "bad",
        }
    }
}

/// Whose hand it takes to change a key, as seen by whoever reads: advice to people who cannot
/// follow it says whom to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hand<'a> {
    Yours,
    /// An admin's of the tenant of this name.
    Admins(&'a str),
    /// The operator's, whose product has this name.
    Operator(&'a str),
}

impl Hand<'_> {
    #[must_use]
    pub fn is_yours(self) -> bool {
        self == Self::Yours
    }

    /// "Paste a new one.", or who is to be asked to.
    #[must_use]
    pub fn does(self, what: &str) -> String {
        match self {
            Self::Yours => {
                let mut letters = what.chars();
                let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
                format!("{first}{}.", letters.as_str())
            }
            Self::Admins(tenant) => format!("Ask an admin of {tenant} to {what}."),
            Self::Operator(product) => format!("Ask {product} to {what}: only they may change keys here."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_escaped() {
        assert_eq!(Prose::of("<b>&\"'").to_string(), "&lt;b&gt;&amp;&quot;&#39;");
    }
}
