//! People, tenants and roles.

use super::clock::Moment;
use super::ids::{PlanId, TenantId, UserId};
use super::viewing::ViewingRule;
use super::words;

words! {
    /// What a person may do on the whole platform.
    pub enum PlatformRole { SuperAdmin = "super_admin", Support = "support" }
}

words! {
    /// What a person may do inside one tenant, strongest first.
    pub enum TenantRole { Admin = "admin", BillingAdmin = "billing_admin", Member = "member" }
}

words! {
    pub enum TenantState { Active = "active", Suspended = "suspended" }
}

words! {
    /// The tenant's setting *who may change provider keys*.
    pub enum KeyChangers { Admins = "admins", SuperAdmins = "super_admins" }
}

words! {
    /// The tenant's setting whether its people need a second factor.
    pub enum SecondFactorRule { Optional = "optional", Required = "required" }
}

/// How whoever has a session proved who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// A password, or a link that was sent to their address, alone.
    #[default]
    Password,
    /// That, and a code of their app or a recovery code.
    SecondFactor,
    /// A passkey, which asks for a finger, a face or a PIN by itself.
    Passkey,
    /// The tenant's own identity provider vouches for them, for that tenant alone.
    Sso(TenantId),
}

impl Proof {
    /// Whether it took two factors.
    #[must_use]
    pub fn is_strong(self) -> bool {
        matches!(self, Self::SecondFactor | Self::Passkey)
    }
}

/// How a person can prove who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    pub password: bool,
    /// An authenticator app.
    pub code: bool,
    pub passkey: bool,
    /// The identity provider by which they came, which then is the only way.
    pub sso: bool,
}

impl Ways {
    /// Whether a password is not enough.
    #[must_use]
    pub fn has_second(self) -> bool {
        self.code || self.passkey
    }
}

impl PlatformRole {
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::SuperAdmin => "Super admin",
            Self::Support => "Support",
        }
    }
}

impl TenantRole {
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Admin => "Tenant admin",
            Self::BillingAdmin => "Billing admin",
            Self::Member => "Member",
        }
    }
}

/// A person who can sign in.
#[derive(Clone, Debug)]
pub struct User {
    pub id: UserId,
    pub email: String,
    pub platform_role: Option<PlatformRole>,
    pub disabled_at: Option<Moment>,
    pub created_at: Moment,
    /// Since when it is known that they have the address: a link that was sent there was opened, or the
    /// operator vouches for it.
    pub proved_at: Option<Moment>,
    /// Sessions that began before are over.
    pub sessions_from: Moment,
    pub ways: Ways,
}

/// A person's place in one tenant.
#[derive(Clone, Debug)]
pub struct Membership {
    pub tenant_id: TenantId,
    pub tenant_slug: String,
    pub tenant_name: String,
    pub role: TenantRole,
}

/// A customer of the operator.
#[derive(Clone, Debug)]
pub struct Tenant {
    pub id: TenantId,
    pub slug: Slug,
    pub name: String,
    pub plan_id: PlanId,
    pub state: TenantState,
    pub key_changers: KeyChangers,
    pub second_factor: SecondFactorRule,
    /// Whether its people have to come by single sign-on.
    pub sso_required: bool,
    /// Sessions that came by single sign-on before are over.
    pub sso_sessions_from: Moment,
    /// Whether staff may look at its console.
    pub viewing: ViewingRule,
    /// After how many days its keys are due for rotation; 0: never.
    pub rotation_days: i64,
    /// IANA name; days on the tenant's pages begin and end there.
    pub time_zone: String,
    pub created_at: Moment,
}

/// After how many days keys are due for rotation where nobody has said otherwise.
pub const ROTATION_DAYS: i64 = 90;
/// What a tenant may choose instead, 0 for never.
pub const ROTATION_CHOICES: [i64; 6] = [30, 60, 90, 180, 365, 0];

/// A name in a URL or a header: `a-z`, `0-9` and single hyphens inside, 1 to 40 characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slug(String);

impl Slug {
    pub const MAX: usize = 40;
    pub const RULE: &'static str =
        "Use lower-case letters, digits and single hyphens between them, 40 characters at most.";

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = !text.is_empty()
            && text.len() <= Self::MAX
            && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && !text.starts_with('-')
            && !text.ends_with('-')
            && !text.contains("--");
        fits.then(|| Self(text.to_owned()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Slug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// An e-mail address, trimmed and lower-cased. What counts is that a person could type it again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Email(String);

impl Email {
    pub const MAX: usize = 254;

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_lowercase();
        let (local, domain) = text.split_once('@')?;
        let fits = text.len() <= Self::MAX
            && !local.is_empty()
            && !domain.is_empty()
            && !domain.contains('@')
            && !domain.starts_with('.')
            && !domain.ends_with('.')
            && !text.chars().any(|c| c.is_whitespace() || c.is_control());
        fits.then_some(Self(text))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Email {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a chosen password is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeakPassword {
    #[error("Use at least 12 characters. A few unrelated words work well.")]
    TooShort,
    #[error("Use at most 256 characters.")]
    TooLong,
    #[error("That password is too easy to guess. Use a few unrelated words.")]
    TooPlain,
}

/// A password's least demands: length, and that it would take more than ten thousand million guesses by
/// what is common in passwords. `known` is what a guesser knows: the person's address, the product's name.
///
/// # Errors
/// The demand that it fails.
pub fn judge_password(password: &str, known: &[&str]) -> Result<(), WeakPassword> {
    let length = password.chars().count();
    if length < 12 {
        return Err(WeakPassword::TooShort);
    }
    if length > 256 {
        return Err(WeakPassword::TooLong);
    }
    let parts = known.iter().flat_map(|text| text.split(['@', '.', '-', '_', '+'])).chain(["keyward"]);
    let inputs: Vec<&str> = known.iter().copied().chain(parts).filter(|part| part.len() > 2).collect();
    let least = zxcvbn::Score::Four;
    if zxcvbn::zxcvbn(password, &inputs).score() < least { Err(WeakPassword::TooPlain) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_hold_to_their_rule() {
        for good in ["acme", "a", "acme-support-2"] {
            assert!(Slug::parse(good).is_some(), "{good}");
        }
        for bad in ["", "-a", "a-", "a--b", "Acme", "a_b", "a b", "ä", &"a".repeat(41)] {
            assert!(Slug::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn emails_are_trimmed_and_lower_cased() {
        assert_eq!(Email::parse("  Ada@Acme.Example ").unwrap().as_str(), "ada@acme.example");
        for bad in ["", "a", "@b", "a@", "a@b@c", "a b@c", "a@.c", "a@c."] {
            assert!(Email::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn passwords_need_length_and_variety() {
        let judge = |password: &str| judge_password(password, &["ada.lovelace@acme.example"]);
        assert_eq!(judge("short"), Err(WeakPassword::TooShort));
        assert_eq!(judge(&"abcdefg".repeat(40)), Err(WeakPassword::TooLong));
        for guessed in [
            "abababababab",
            "password1234",
            "qwertyuiop12",
            "lovelace@acme",
            "ada.lovelace1",
            "123456789012",
            "keywardkeyward",
        ] {
            assert_eq!(judge(guessed), Err(WeakPassword::TooPlain), "{guessed}");
        }
        for good in ["violet ladder 9 reed", "amber tunnel 4 crane", "correct horse battery staple"] {
            assert_eq!(judge(good), Ok(()), "{good}");
        }
    }
}
