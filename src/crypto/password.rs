//! Passwords: argon2id on the blocking pool, a few at a time, and never faster for a user who
//! does not exist.

use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use tokio::sync::Semaphore;

use super::secret::Secret;

#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    #[error("password hashing failed: {0}")]
    Hash(String),
    #[error("password hashing was interrupted")]
    Interrupted,
}

/// Hashes and checks passwords. Clones share one limit on how many run at once, so that a flood
/// of sign-ins can take neither all memory nor all threads.
#[derive(Clone)]
pub struct Passwords {
    permits: Arc<Semaphore>,
    /// A hash of nothing that anyone knows, checked when there is no user.
    decoy: Arc<str>,
}

/// 19 MiB, two passes, one lane: the first of OWASP's recommended settings.
fn argon2() -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(19 * 1_024, 2, 1, None).unwrap_or_default())
}

impl Default for Passwords {
    fn default() -> Self {
        let at_once = std::thread::available_parallelism().map_or(1, usize::from).clamp(1, 4);
        Self { permits: Arc::new(Semaphore::new(at_once)), decoy: decoy().into() }
    }
}

impl Passwords {
    /// # Errors
    /// When hashing fails or its task is cut short.
    pub async fn hash(&self, password: Secret) -> Result<String, PasswordError> {
        self.run(move || hash_now(password.expose())).await?
    }

    /// Whether the password fits the stored hash. With `None` the same work is done for nothing.
    ///
    /// # Errors
    /// When its task is cut short.
    pub async fn verify(&self, password: Secret, stored: Option<String>) -> Result<bool, PasswordError> {
        let decoy = Arc::clone(&self.decoy);
        self.run(move || {
            // Who has no password takes as long as who has one.
            let known = stored.as_deref().filter(|stored| PasswordHash::new(stored).is_ok());
            let fits = PasswordHash::new(known.unwrap_or(&decoy))
                .is_ok_and(|hash| argon2().verify_password(password.expose().as_bytes(), &hash).is_ok());
            fits && known.is_some()
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        let permit =
            Arc::clone(&self.permits).acquire_owned().await.map_err(|_| PasswordError::Interrupted)?;
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        })
        .await
        .map_err(|_| PasswordError::Interrupted)
    }
}

/// Looks like the hash of a password, takes as long to check, and is the hash of none: it is drawn
/// at random, which unlike hashing takes neither time nor memory.
fn decoy() -> String {
    let params = argon2();
    let (params, text) = (params.params(), |bytes: &[u8]| STANDARD_NO_PAD.encode(bytes));
    format!(
        "$argon2id$v=19$m={},t={},p={}${}${}",
        params.m_cost(),
        params.t_cost(),
        params.p_cost(),
        text(&rand::random::<[u8; 16]>()),
        text(&rand::random::<[u8; 32]>())
    )
}

fn hash_now(password: &str) -> Result<String, PasswordError> {
    argon2()
        .hash_password(password.as_bytes())
        .map(|hash| hash.to_string())
        .map_err(|error| PasswordError::Hash(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn passwords_verify_and_unknown_users_never_do() {
        let passwords = Passwords::default();
        let secret = |text: &str| Secret::new(text.to_owned());
        let hash = passwords.hash(secret("violet ladder 9 reed")).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        // The decoy is of the same form, so that checking it takes as long.
        let shape = |hash: &str| hash.split('$').map(str::len).collect::<Vec<_>>();
        assert_eq!(shape(&passwords.decoy), shape(&hash));
        assert!(passwords.decoy.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(PasswordHash::new(&passwords.decoy).is_ok());
        assert!(passwords.verify(secret("violet ladder 9 reed"), Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify(secret("violet ladder 9 reef"), Some(hash)).await.unwrap());
        assert!(!passwords.verify(secret("violet ladder 9 reed"), None).await.unwrap());
    }
}
