//! What the gateway needs to know for every request, in memory: tokens, tenants with their keys
//! still sealed, and the platform's features, prices and shared keys.
//!
//! A change made by this process is seen by the next request; one made by another process within
//! two seconds. Of the requests that find a token, a tenant or the platform forgotten, one reads it and
//! the others wait for that. Nothing here holds an opened secret. What is read anew is read in boxed futures: they are
//! large, and requests carry theirs about.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use moka::sync::Cache;

use crate::access::scope::Scope;
use crate::crypto::token::{self, TokenKind};
use crate::domain::account::Tenant;
use crate::domain::billing::{Budget, PaymentPolicy};
use crate::domain::clock::{MINUTE, Moment};
use crate::domain::ids::{Owner, TenantId};
use crate::domain::plan::{Exception, Feature, Plan};
use crate::domain::price::PriceBook;
use crate::domain::price_list::Listed;
use crate::domain::provider_key::KeyView;
use crate::domain::provider_key::Keys;
use crate::storage::keys::SealedKey;
use crate::storage::pinned_sessions::PinnedSession;
use crate::storage::tenants::TenantRecord;
use crate::storage::tokens::AccessToken;
use crate::storage::{
    Database, StorageError, breakers, budgets, changes, keys, model_lists, pinned_sessions, plans, prices,
    root, tenants, tokens,
};

/// For how long it is waited for somebody else's reading.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// An owner's keys: as resolution sees them, and sealed, in the same order.
#[derive(Default)]
pub struct KeyRing {
    pub views: Keys,
    pub sealed: Vec<SealedKey>,
    /// The owner's own key, sealed; `None` while it has no provider keys.
    pub owner_key: Option<Vec<u8>>,
}

impl KeyRing {
    /// The sealed form of a key that was chosen from `views`.
    #[must_use]
    pub fn sealed_of(&self, view: &KeyView) -> Option<(&SealedKey, &[u8])> {
        let at = self.views.element_offset(view)?;
        Some((self.sealed.get(at)?, self.owner_key.as_deref()?))
    }
}

/// A tenant as the gateway knows it.
pub struct TenantView {
    pub tenant: Tenant,
    pub policy: PaymentPolicy,
    pub plan: Plan,
    pub switched_off: Vec<String>,
    pub exceptions: Vec<Exception>,
    /// The models that it has chosen: feature and model.
    pub models: Vec<(String, String)>,
    /// As they were when they were read: what is spent of them is in the database.
    pub budgets: Vec<Budget>,
    /// Whether AI is paused because an hour was unusually costly.
    pub tripped: bool,
    pub keys: KeyRing,
}

/// The platform as the gateway knows it.
pub struct PlatformView {
    pub features: Vec<Feature>,
    pub plans: Vec<Plan>,
    /// Master switches that are off for everybody.
    pub switched_off: Vec<String>,
    pub prices: PriceBook,
    pub keys: KeyRing,
    /// The models that providers list, of those that have told.
    pub listed: Vec<Listed>,
}

#[cfg(test)]
impl TenantView {
    /// A view of what no database holds, for tests of what pages make of it.
    pub fn for_test(tenant: Tenant, policy: PaymentPolicy, plan: Plan, keys: KeyRing) -> Self {
        Self {
            tenant,
            policy,
            plan,
            switched_off: Vec::new(),
            exceptions: Vec::new(),
            models: Vec::new(),
            budgets: Vec::new(),
            tripped: false,
            keys,
        }
    }
}

#[cfg(test)]
impl PlatformView {
    pub fn for_test(prices: PriceBook, keys: KeyRing) -> Self {
        Self {
            features: Vec::new(),
            plans: Vec::new(),
            switched_off: Vec::new(),
            prices,
            keys,
            listed: Vec::new(),
        }
    }
}

pub struct Directory {
    db: Database,
    tokens: Cache<[u8; 32], Option<(TokenKind, Arc<AccessToken>)>>,
    tenants: Cache<TenantId, Arc<TenantView>>,
    slugs: Cache<String, TenantId>,
    sessions: Cache<String, Arc<PinnedSession>>,
    platform: ArcSwapOption<PlatformView>,
    /// How often anything was forgotten: what was read before that is not kept.
    forgotten: Mutex<u64>,
    token_turns: Turns,
    tenant_turns: Turns,
    platform_turns: Turns,
    /// As they were when they were last read.
    plans: ArcSwapOption<Vec<Plan>>,
    /// How far changes of other processes have been followed.
    followed: Mutex<Followed>,
}

/// Of those who want to read the same, one does at a time. That others share its turn costs them little.
#[derive(Default)]
struct Turns {
    hashing: RandomState,
    turns: [tokio::sync::Mutex<()>; 32],
}

impl Turns {
    /// `None` when it took too long: then the database is slow or gone, and whoever asks finds that out for
    /// itself instead of waiting for all before it to find it out.
    async fn turn(&self, what: &impl Hash) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        #[allow(clippy::cast_possible_truncation, reason = "any bits will do")]
        let at = self.hashing.hash_one(what) as usize % self.turns.len();
        tokio::time::timeout(LONGEST_WAIT, self.turns[at].lock()).await.ok()
    }
}

#[derive(Default)]
struct Followed {
    until: Option<Moment>,
    versions: HashMap<Owner, i64>,
}

impl Directory {
    #[must_use]
    pub fn new(db: Database) -> Self {
        Self {
            db,
            tokens: Cache::builder().max_capacity(50_000).time_to_live(Duration::from_mins(1)).build(),
            tenants: Cache::builder().max_capacity(10_000).time_to_live(Duration::from_mins(5)).build(),
            slugs: Cache::builder().max_capacity(10_000).time_to_live(Duration::from_mins(1)).build(),
            sessions: Cache::builder().max_capacity(50_000).time_to_live(Duration::from_mins(1)).build(),
            platform: ArcSwapOption::empty(),
            forgotten: Mutex::default(),
            token_turns: Turns::default(),
            tenant_turns: Turns::default(),
            platform_turns: Turns::default(),
            plans: ArcSwapOption::empty(),
            followed: Mutex::default(),
        }
    }

    /// The access token, if Keyward made it and it was not revoked. Its expiry is not judged here.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn token(
        &self,
        presented: &str,
    ) -> Result<Option<(TokenKind, Arc<AccessToken>)>, StorageError> {
        let hash = token::hash(presented);
        if let Some(known) = self.tokens.get(&hash) {
            return Ok(known);
        }
        match token::recognise(presented) {
            Some(kind) => Box::pin(self.read_token(kind, hash)).await,
            None => Ok(None),
        }
    }

    async fn read_token(
        &self,
        kind: TokenKind,
        hash: [u8; 32],
    ) -> Result<Option<(TokenKind, Arc<AccessToken>)>, StorageError> {
        let _turn = self.token_turns.turn(&hash).await;
        if let Some(known) = self.tokens.get(&hash) {
            return Ok(known);
        }
        let before = self.times_forgotten();
        let mut tx = self.db.read().await?;
        let found = tokens::find_by_hash(&mut tx, &hash).await?;
        tx.rollback().await?;
        // The prefix must tell the truth of the row that it leads to.
        let found = found.filter(|token| (kind == TokenKind::Tenant) == token.tenant_id.is_some());
        let found = found.map(|token| (kind, Arc::new(token)));
        self.keep(before, || self.tokens.insert(hash, found.clone()));
        Ok(found)
    }

    /// The tenant, by id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn tenant(&self, scope: &Scope) -> Result<Option<Arc<TenantView>>, StorageError> {
        let Some(id) = scope.tenant() else { return Ok(None) };
        match self.tenants.get(&id) {
            Some(known) => Ok(Some(known)),
            None => Box::pin(self.read_tenant(id, scope)).await,
        }
    }

    async fn read_tenant(
        &self,
        id: TenantId,
        scope: &Scope,
    ) -> Result<Option<Arc<TenantView>>, StorageError> {
        let _turn = self.tenant_turns.turn(&id).await;
        if let Some(known) = self.tenants.get(&id) {
            return Ok(Some(known));
        }
        let before = self.times_forgotten();
        let mut tx = self.db.read().await?;
        let Some(record) = tenants::find(&mut tx, id).await? else { return Ok(None) };
        let Some(plan) = plans::find(&mut tx, record.tenant.plan_id).await? else { return Ok(None) };
        let switched_off = plans::switched_off(&mut tx, scope).await?;
        let exceptions = plans::exceptions(&mut tx, scope).await?;
        let models = plans::chosen_models(&mut tx, scope).await?;
        let budgets = budgets::list(&mut tx, scope).await?;
        let breaker = breakers::find(&mut tx, scope).await?;
        let tripped = breaker.is_some_and(|breaker| breaker.pauses());
        let keys = read_keys(&mut tx, scope).await?;
        tx.rollback().await?;
        let TenantRecord { tenant, policy } = record;
        let view = Arc::new(TenantView {
            tenant,
            policy,
            plan,
            switched_off,
            exceptions,
            models,
            budgets,
            tripped,
            keys,
        });
        self.keep(before, || self.tenants.insert(id, Arc::clone(&view)));
        Ok(Some(view))
    }

    /// The id of the tenant of this slug.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn tenant_id(&self, slug: &str) -> Result<Option<TenantId>, StorageError> {
        match self.slugs.get(slug) {
            Some(id) => Ok(Some(id)),
            None => Box::pin(self.read_tenant_id(slug)).await,
        }
    }

    async fn read_tenant_id(&self, slug: &str) -> Result<Option<TenantId>, StorageError> {
        let before = self.times_forgotten();
        let mut tx = self.db.read().await?;
        let found = tenants::find_by_slug(&mut tx, slug).await?.map(|record| record.tenant.id);
        tx.rollback().await?;
        if let Some(id) = found {
            self.keep(before, || self.slugs.insert(slug.to_owned(), id));
        }
        Ok(found)
    }

    /// A session of the tenant, over or not.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn session(&self, scope: &Scope, id: &str) -> Result<Option<Arc<PinnedSession>>, StorageError> {
        let known = match self.sessions.get(id) {
            Some(known) => Some(known),
            None => Box::pin(self.read_session(scope, id)).await?,
        };
        // One of another tenant does not exist for this one.
        Ok(known.filter(|session| Some(session.tenant_id) == scope.tenant()))
    }

    async fn read_session(
        &self,
        scope: &Scope,
        id: &str,
    ) -> Result<Option<Arc<PinnedSession>>, StorageError> {
        let before = self.times_forgotten();
        let mut tx = self.db.read().await?;
        let found = pinned_sessions::find(&mut tx, scope, id).await?.map(Arc::new);
        tx.rollback().await?;
        // What is not there is not remembered: it may be another tenant's, or about to be made.
        if let Some(session) = &found {
            self.keep(before, || self.sessions.insert(id.to_owned(), Arc::clone(session)));
        }
        Ok(found)
    }

    /// The platform's features, prices and shared keys.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn platform(&self) -> Result<Arc<PlatformView>, StorageError> {
        match self.platform.load_full() {
            Some(known) => Ok(known),
            None => Box::pin(self.read_platform()).await,
        }
    }

    async fn read_platform(&self) -> Result<Arc<PlatformView>, StorageError> {
        let _turn = self.platform_turns.turn(&Owner::Platform).await;
        if let Some(known) = self.platform.load_full() {
            return Ok(known);
        }
        let before = self.times_forgotten();
        let mut tx = self.db.read().await?;
        let scope = Scope::of_system(Owner::Platform);
        let view = Arc::new(PlatformView {
            features: plans::features(&mut tx).await?,
            plans: plans::list(&mut tx).await?,
            switched_off: plans::switched_off(&mut tx, &scope).await?,
            prices: PriceBook::new(prices::list(&mut tx).await?),
            keys: read_keys(&mut tx, &scope).await?,
            listed: model_lists::all(&mut tx).await?,
        });
        tx.rollback().await?;
        // Each tenant is remembered with its plan, and most changes of the platform leave plans alone.
        let plans = Arc::new(view.plans.clone());
        let known = self.plans.swap(Some(Arc::clone(&plans)));
        if known.is_some_and(|known| known != plans) {
            self.forgetting(|| self.tenants.invalidate_all());
        } else {
            self.keep(before, || self.platform.store(Some(Arc::clone(&view))));
        }
        Ok(view)
    }

    fn times_forgotten(&self) -> u64 {
        *self.forgotten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what was read, unless anything was forgotten since.
    fn keep(&self, before: u64, keep: impl FnOnce()) {
        let times = self.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
        if *times == before {
            keep();
        }
    }

    fn forgetting(&self, forget: impl FnOnce()) {
        let mut times = self.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
        *times += 1;
        forget();
    }

    /// Forgets what is cached of an owner. Called after every commit that changed it.
    pub fn forget(&self, owner: Owner) {
        self.forgetting(|| match owner {
            Owner::Tenant(id) => {
                self.tenants.invalidate(&id);
                self.sessions.invalidate_all();
            }
            Owner::Platform => self.platform.store(None),
        });
    }

    /// Forgets access tokens, which are few and read again quickly.
    pub fn forget_tokens(&self) {
        self.forgetting(|| self.tokens.invalidate_all());
    }

    /// Through when changes of other processes were followed.
    pub fn followed(&self) -> Option<Moment> {
        self.followed.lock().ok()?.until
    }

    /// Forgets what other processes have changed since this was last asked.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn refresh(&self, now: Moment) -> Result<(), StorageError> {
        let until = self.followed.lock().map_or(None, |followed| followed.until);
        // A minute back: a commit may become visible long after the moment that it carries, and
        // clocks differ.
        let since = until.unwrap_or(now).min(now).minus(MINUTE);
        let mut tx = self.db.read().await?;
        let changed = changes::changed(&mut tx, since).await?;
        tx.rollback().await?;
        let Ok(mut followed) = self.followed.lock() else { return Ok(()) };
        followed.until = Some(now);
        let mut any = false;
        for (owner, version) in changed {
            if followed.versions.insert(owner, version) != Some(version) {
                self.forget(owner);
                any = true;
            }
        }
        if any {
            self.forget_tokens();
        }
        Ok(())
    }
}

async fn read_keys(tx: &mut crate::storage::Tx, scope: &Scope) -> Result<KeyRing, StorageError> {
    let mut sealed = keys::list(tx, scope).await?;
    // As `Keys` has them.
    sealed.sort_by_key(|sealed| !sealed.key.is_default);
    Ok(KeyRing {
        views: Keys::new(sealed.iter().map(|sealed| sealed.key.view()).collect()),
        owner_key: root::find_owner_key(tx, scope).await?,
        sealed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_read_before_it_was_forgotten_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keyward.db");
        let db = Database::connect(&format!("sqlite:{}", path.display())).await.unwrap();
        let directory = Directory::new(db);
        let hash = [1; 32];
        let before = directory.times_forgotten();
        directory.forget_tokens();
        directory.keep(before, || directory.tokens.insert(hash, None));
        assert_eq!(directory.tokens.get(&hash).map(|found| found.is_some()), None);
        let before = directory.times_forgotten();
        directory.keep(before, || directory.tokens.insert(hash, None));
        assert_eq!(directory.tokens.get(&hash).map(|found| found.is_some()), Some(false));
        directory.forget_tokens();
        assert_eq!(directory.tokens.get(&hash).map(|found| found.is_some()), None);
    }
}
