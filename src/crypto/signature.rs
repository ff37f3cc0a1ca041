//! Signatures of webhooks, both ways: those that Keyward sends and those that it takes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::secret::Secret;

const PREFIX: &str = "whsec_";
/// Of one header.
const MOST_SIGNATURES: usize = 8;

/// A fresh signing secret as Standard Webhooks spells it: `whsec_` and 32 bytes in base64.
#[must_use]
pub fn generate() -> Secret {
    let bytes: Zeroizing<[u8; 32]> = Zeroizing::new(rand::random());
    Secret::new(format!("{PREFIX}{}", STANDARD.encode(*bytes)))
}

/// The value of `webhook-signature` by Standard Webhooks: `v1,` and the base64 of HMAC-SHA256 over
/// id, seconds and body. `None` for a secret that is none.
#[must_use]
pub fn standard(secret: &Secret, id: &str, seconds: i64, body: &str) -> Option<String> {
    let key = Zeroizing::new(STANDARD.decode(secret.expose().strip_prefix(PREFIX)?).ok()?);
    let mut mac = mac(&key);
    mac.update(format!("{id}.{seconds}.").as_bytes());
    mac.update(body.as_bytes());
    Some(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
}

/// Whether a payment provider's `t=…,v1=…` header signs this body: HMAC-SHA256 in hex over the
/// seconds and the body, with the whole secret as the key. Gives the time that was signed.
#[must_use]
pub fn stamped(secret: &Secret, header: &str, body: &[u8]) -> Option<i64> {
    let fields = || header.split(',').filter_map(|field| field.trim().split_once('='));
    let seconds = fields().find(|(name, _)| *name == "t").map(|(_, value)| value)?;
    let mut mac = mac(secret.expose().as_bytes());
    mac.update(seconds.as_bytes());
    mac.update(b".");
    mac.update(body);
    let expected = mac.finalize().into_bytes();
    // Several are sent while a secret is being replaced; one that fits will do.
    fields()
        .filter(|(name, _)| *name == "v1")
        .take(MOST_SIGNATURES)
        .filter_map(|(_, value)| hex::decode(value).ok())
        .any(|given| given.ct_eq(&expected).into())
        .then(|| seconds.parse().ok())?
}

fn mac(key: &[u8]) -> Hmac<Sha256> {
    let Ok(mac) = Hmac::<Sha256>::new_from_slice(key) else { unreachable!("HMAC takes keys of any length") };
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_signature_is_the_one_of_its_specification() {
        // The example of the Standard Webhooks specification and its reference libraries.
        let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned());
        let signed =
            standard(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signed.as_deref(), Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
        assert_eq!(standard(&Secret::new("whsec_?".to_owned()), "m", 1, ""), None);
        assert!(standard(&generate(), "m", 1, "").is_some());
    }

    #[test]
    fn a_stamped_body_is_known_and_any_other_is_not() {
        let secret = Secret::new("whsec_test".to_owned());
        let mut mac = mac(b"whsec_test");
        mac.update(b"1700000000.{}");
        let good = hex::encode(mac.finalize().into_bytes());
        let header = format!("t=1700000000,v1={},v1={good},v0=00", "00".repeat(32));
        assert_eq!(stamped(&secret, &header, b"{}"), Some(1_700_000_000));
        assert_eq!(stamped(&secret, &header, b"{ }"), None);
        assert_eq!(stamped(&Secret::new("whsec_other".to_owned()), &header, b"{}"), None);
        assert_eq!(stamped(&secret, &format!("t=1700000001,v1={good}"), b"{}"), None);
        // Signed by the official SDK.
        let (secret, body) = (
            Secret::new("whsec_test_secret".to_owned()),
            br#"{"id":"evt_test_1","type":"checkout.session.completed"}"#,
        );
        let theirs = "t=1700000000,v1=960f1b7cc268e13539aa9f2812d1318abc8e0b0940e0cbdcc1631970e11bd667";
        assert_eq!(stamped(&secret, theirs, body), Some(1_700_000_000));
        // Nobody replaces so many secrets at once; each would cost a comparison.
        let many = format!("t=1700000000{},v1={good}", ",v1=00".repeat(MOST_SIGNATURES));
        assert_eq!(stamped(&Secret::new("whsec_test".to_owned()), &many, b"{}"), None);
        for bad in ["", "t=1700000000", "v1=00", "t=,v1=", &format!("t=1700000000,v0={good}")] {
            assert_eq!(stamped(&secret, bad, b"{}"), None, "{bad}");
        }
    }
}
