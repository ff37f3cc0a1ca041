//! What one sandbox remembers: imposed behaviours, cached prompts, what arrived, and its counter.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use super::behaviour::Behaviour;
use super::books::Books;
use super::journal::Journal;
use super::openid::Codes;
use super::payment::{Courier, Sessions};
use crate::domain::clock::Clock;

/// SHA-256 of a key or a body. Keys themselves are never kept.
pub type Hash = [u8; 32];

/// Beyond this the prompt cache starts again from nothing; a test never gets there.
const CACHED_PROMPTS: usize = 100_000;

pub struct State {
    pub clock: Clock,
    pub journal: Journal,
    pub books: Books,
    pub payments: Sessions,
    pub courier: Option<Courier>,
    pub codes: Codes,
    imposed: Mutex<HashMap<Hash, Behaviour>>,
    cached: Mutex<HashSet<Hash>>,
    /// Microseconds at the start, so that a restarted sandbox does not repeat its ids.
    started: i64,
    ids: AtomicU64,
}

impl State {
    pub fn new(clock: Clock, courier: Option<Courier>) -> Self {
        Self {
            started: clock.now().0,
            clock,
            journal: Journal::default(),
            books: Books::default(),
            payments: Sessions::default(),
            courier,
            codes: Codes::default(),
            imposed: Mutex::default(),
            cached: Mutex::default(),
            ids: AtomicU64::default(),
        }
    }

    /// A new id of the provider's length: `msg_` and 24 more characters.
    pub fn id(&self, prefix: &str) -> String {
        format!("{prefix}_{:013x}{:011x}", self.started, self.ids.fetch_add(1, Ordering::Relaxed))
    }

    /// What the key does now: what was imposed on it, or else what it says itself. A key that says
    /// nothing is unknown, whatever was imposed.
    pub fn behaviour(&self, key: &str, hash: &Hash, prefixes: &[&str]) -> Option<Behaviour> {
        let own = Behaviour::of_key(key, prefixes)?;
        Some(lock(&self.imposed).get(hash).copied().unwrap_or(own))
    }

    pub fn impose(&self, hash: Hash, behaviour: Behaviour) {
        lock(&self.imposed).insert(hash, behaviour);
    }

    /// Whether this key cached this text before; it has from now on.
    pub fn recall(&self, key: &Hash, text: &str) -> bool {
        let entry = Sha256::new().chain_update(key).chain_update(text).finalize().into();
        let mut cached = lock(&self.cached);
        if cached.len() >= CACHED_PROMPTS {
            cached.clear();
        }
        !cached.insert(entry)
    }
}

pub fn sha256(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

/// No code of the sandbox can leave these values half-written, so a poisoned lock is still good.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
