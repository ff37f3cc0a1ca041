//! Keyward's own tokens: `kwt_…` and `kws_…`, and one-time links.
//!
//! A token is a prefix, 43 random characters (256 bits) and a checksum of 6, so that a mistyped
//! one is refused without a look into the database and a leaked one is recognised by scanners.
//! Tokens are as random as keys, so a plain SHA-256 of them is safe to store.

use sha2::{Digest, Sha256};

use super::secret::Secret;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const RANDOM: usize = 43;
const CHECKSUM: usize = 6;

/// What a token is for, told by its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Acts for one tenant.
    Tenant,
    /// Acts for the tenant that a request names.
    Service,
}

impl TokenKind {
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Tenant => "kwt_",
            Self::Service => "kws_",
        }
    }
}

/// A fresh token. Shown once, stored as its hash.
#[must_use]
pub fn generate(kind: TokenKind) -> Secret {
    let body = random_text();
    let checksum = checksum(kind.prefix(), &body);
    Secret::new(format!("{}{body}{checksum}", kind.prefix()))
}

/// A fresh secret for a one-time link or a cookie: 43 characters, 256 bits.
#[must_use]
pub fn random_text() -> String {
    // 62 does not divide 256: bytes from 248 on would favour some characters, so they are drawn again.
    let mut text = String::with_capacity(RANDOM);
    while text.len() < RANDOM {
        for byte in rand::random::<[u8; 64]>() {
            if byte < 248 && text.len() < RANDOM {
                text.push(char::from(ALPHABET[usize::from(byte % 62)]));
            }
        }
    }
    text
}

/// Whether this is a token that Keyward could have made, and of which kind.
#[must_use]
pub fn recognise(token: &str) -> Option<TokenKind> {
    let kind =
        [TokenKind::Tenant, TokenKind::Service].into_iter().find(|kind| token.starts_with(kind.prefix()))?;
    let body = token.get(kind.prefix().len()..)?;
    let (random, sum) = body.split_at_checked(RANDOM)?;
    (sum.len() == CHECKSUM && checksum(kind.prefix(), random) == sum).then_some(kind)
}

/// What is stored of a token.
#[must_use]
pub fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

fn checksum(prefix: &str, body: &str) -> String {
    let digest = Sha256::digest(format!("{prefix}{body}"));
    let mut number = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]) as usize;
    let mut out = String::with_capacity(CHECKSUM);
    for _ in 0..CHECKSUM {
        out.push(char::from(ALPHABET[number % 62]));
        number /= 62;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_recognised_and_typos_are_not() {
        for kind in [TokenKind::Tenant, TokenKind::Service] {
            let token = generate(kind);
            assert_eq!(recognise(token.expose()), Some(kind));
            assert_eq!(token.expose().len(), 4 + 43 + 6);
            let mut typo = token.expose().to_owned();
            let last = typo.pop().unwrap();
            typo.push(if last == 'a' { 'b' } else { 'a' });
            assert_eq!(recognise(&typo), None);
        }
        for other in ["", "kwt_", "sk-ant-api03-x", "kwt_ä", &"kwt_".repeat(13)] {
            assert_eq!(recognise(other), None, "{other}");
        }
    }
}
