//! The proof that whoever is acting may touch a tenant. Storage asks for it wherever rows belong
//! to a tenant, so that a forgotten check does not compile.

use super::actor::Actor;
use super::policy::{self, About, Action};
use crate::domain::account::{KeyChangers, Tenant};
use crate::domain::ids::{Owner, TenantId};

/// Made only here: by permission, by an access token, or by a job of Keyward itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    owner: Owner,
}

impl Scope {
    /// For a person who may open this tenant's console.
    #[must_use]
    pub fn of_person(actor: &Actor, tenant: &Tenant) -> Option<Self> {
        let about = About { tenant: tenant.id, key_changers: tenant.key_changers };
        policy::permitted(actor, Action::SeeTenant, Some(about))
            .then_some(Self { owner: Owner::Tenant(tenant.id) })
    }

    /// For the platform's own keys, which only super admins may touch.
    #[must_use]
    pub fn of_platform(actor: &Actor) -> Option<Self> {
        policy::permitted(actor, Action::SeePlatform, None).then_some(Self { owner: Owner::Platform })
    }

    /// For an access token that was found to act for this tenant.
    #[must_use]
    pub fn of_token(tenant: TenantId) -> Self {
        Self { owner: Owner::Tenant(tenant) }
    }

    /// For jobs and commands of Keyward itself, which act for nobody in particular.
    #[must_use]
    pub fn of_system(owner: Owner) -> Self {
        Self { owner }
    }

    #[must_use]
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// The tenant; `None` for the platform.
    #[must_use]
    pub fn tenant(&self) -> Option<TenantId> {
        match self.owner {
            Owner::Tenant(id) => Some(id),
            Owner::Platform => None,
        }
    }

    /// What the policy asks about this scope: nothing for the platform's own keys.
    #[must_use]
    pub fn about(&self, key_changers: KeyChangers) -> Option<About> {
        self.tenant().map(|tenant| About { tenant, key_changers })
    }
}
