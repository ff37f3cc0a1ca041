//! Plain types and the rules that decide something. No input or output happens here: time and
//! randomness come in as arguments, so every rule can be tested without a database.

pub mod account;
pub mod audit;
pub mod billing;
pub mod breaker;
pub mod clock;
pub mod delivery;
pub mod endpoint;
pub mod gate;
pub mod generation;
pub mod ids;
pub mod money;
pub mod notice;
pub mod payment;
pub mod plan;
pub mod price;
pub mod price_list;
pub mod price_map;
pub mod process;
pub mod provider_key;
pub mod question;
pub mod reconcile;
pub mod resolve;
pub mod statement;
pub mod usage;
pub mod viewing;

/// A closed set of words: one spelling in the database, in JSON and in forms.
///
/// Gives `as_str`, `parse`, `ALL`, `Display`, `Serialize` and `Deserialize`.
macro_rules! words {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        $vis enum $name { $($(#[$vmeta])* #[serde(rename = $text)] $variant),+ }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use words;
