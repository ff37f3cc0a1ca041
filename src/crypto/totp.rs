//! Codes of authenticator apps (RFC 6238: SHA-1, six digits, thirty seconds) and the recovery codes
//! that stand in for them.

use totp_rs::{Builder, Totp, TotpError};

use super::secret::Secret;

/// The letters of a recovery code: none that is taken for another.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const LENGTH: usize = 10;

/// A fresh secret for an app, in the spelling that apps take.
#[must_use]
pub fn new_secret() -> Secret {
    Secret::new(totp_rs::Secret::generate().to_base32())
}

fn totp(secret: &Secret, issuer: &str, account: &str) -> Result<Totp, TotpError> {
    let secret = totp_rs::Secret::try_from_base32(secret.expose())
        .map_err(|_| TotpError::SecretTooShort { bits: 0 })?;
    // A colon would end the issuer's name.
    let plain = |text: &str| text.replace(':', " ");
    Builder::new()
        .with_secret(secret)
        .with_issuer(Some(plain(issuer)))
        .with_account_name(plain(account))
        .build()
}

/// The address that an app reads from a picture.
#[must_use]
pub fn address(secret: &Secret, issuer: &str, account: &str) -> Option<Secret> {
    totp(secret, issuer, account).ok()?.to_url().ok().map(Secret::new)
}

/// The step of time whose code this is: the present one, the one before or the one after.
#[must_use]
pub fn step_of(secret: &Secret, code: &str, seconds: i64) -> Option<i64> {
    let seconds = u64::try_from(seconds).ok()?;
    let step = totp(secret, "Keyward", "account").ok()?.check(code, seconds)?;
    i64::try_from(step).ok()
}

/// A code as typed, as far as it can be one of an app: six digits, spaces aside.
#[must_use]
pub fn digits(typed: &str) -> Option<String> {
    let digits: String = typed.chars().filter(|c| !c.is_whitespace()).collect();
    (digits.len() == 6 && digits.bytes().all(|b| b.is_ascii_digit())).then_some(digits)
}

/// A fresh recovery code: ten characters, 50 bits, with a hyphen in the middle.
#[must_use]
pub fn new_recovery_code() -> Secret {
    let random: [u8; LENGTH] = rand::random();
    let mut text = String::with_capacity(LENGTH + 1);
    for (at, byte) in random.into_iter().enumerate() {
        if at == LENGTH / 2 {
            text.push('-');
        }
        text.push(char::from(ALPHABET[usize::from(byte % 32)]));
    }
    Secret::new(text)
}

/// A recovery code as typed, in the one spelling that counts.
#[must_use]
pub fn recovery_code(typed: &str) -> Option<Secret> {
    let text: String = typed
        .chars()
        .filter(|c| !c.is_whitespace() && *c != '-')
        .map(|c| match c.to_ascii_lowercase() {
            'o' => '0',
            'i' | 'l' => '1',
            c => c,
        })
        .collect();
    (text.len() == LENGTH && text.bytes().all(|b| ALPHABET.contains(&b))).then(|| Secret::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test vectors of RFC 6238, appendix B, for SHA-1, in six digits.
    #[test]
    fn codes_are_those_of_the_standard() {
        let secret = Secret::new("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ".to_owned());
        for (seconds, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(step_of(&secret, code, seconds), Some(seconds / 30));
            assert_eq!(step_of(&secret, code, seconds + 30), Some(seconds / 30), "a step late");
            assert_eq!(step_of(&secret, code, seconds + 60), None, "two steps late");
        }
    }

    #[test]
    fn recovery_codes_are_read_as_people_type_them() {
        let code = new_recovery_code();
        let plain = code.expose().replace('-', "");
        assert_eq!(plain.len(), LENGTH);
        let typed = format!(" {} ", code.expose().to_uppercase());
        assert_eq!(recovery_code(&typed).unwrap().expose(), plain);
        assert_eq!(recovery_code("oil00-00000").unwrap().expose(), "0110000000");
        for bad in ["", "123456", "uuuuu-uuuuu", "abcde-fghjkm"] {
            assert!(recovery_code(bad).is_none(), "{bad}");
        }
        assert_eq!(digits("123 456").as_deref(), Some("123456"));
        assert_eq!(digits("12345"), None);
    }

    #[test]
    fn the_address_names_issuer_and_account() {
        let address = address(&new_secret(), "Acme: AI", "ada@acme.example").unwrap();
        assert!(address.expose().starts_with("otpauth://totp/Acme"), "{}", address.expose());
    }
}
