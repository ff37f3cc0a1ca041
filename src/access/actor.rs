//! The person behind a request, as far as permissions need to know them.

use uuid::Uuid;

use crate::domain::account::{PlatformRole, Proof, TenantRole};
use crate::domain::audit::AuditActor;
use crate::domain::clock::{MINUTE, Moment};
use crate::domain::ids::{TenantId, TokenId, UserId, ViewingId};

/// How long a password that was entered counts as confirmation for sensitive changes.
pub const CONFIRMED_FOR: i64 = 10 * MINUTE;

#[derive(Clone, Debug)]
pub struct Actor {
    pub user_id: UserId,
    pub email: String,
    pub platform_role: Option<PlatformRole>,
    /// Roles in tenants, of which a person may have several.
    pub memberships: Vec<(TenantId, TenantRole)>,
    /// When the person last signed in or confirmed that it is them.
    pub confirmed_at: Moment,
    /// When they last did so by a second factor.
    pub strong_at: Moment,
    /// How they proved who they are when they signed in.
    pub proof: Proof,
    /// The client's address, for the audit log.
    pub address: Option<String>,
    pub request_id: Option<Uuid>,
    /// An access token acts, not a person.
    pub by_token: bool,
    /// Staff looking at a tenant as one of its people.
    pub on_behalf: Option<OnBehalf>,
}

/// As whom staff look at a tenant, and under which viewing.
#[derive(Clone, Debug)]
pub struct OnBehalf {
    pub viewing: ViewingId,
    pub tenant: TenantId,
    pub user_id: UserId,
    pub email: String,
    pub role: TenantRole,
}

impl Actor {
    /// Whoever holds an access token: for a tenant's it is as if one of its admins asked, for a
    /// service token as if a super admin did too. What the token may do at all, its scopes say.
    #[must_use]
    pub fn of_token(id: TokenId, name: &str, tenant: Option<TenantId>, service: bool, now: Moment) -> Self {
        Self {
            user_id: UserId(id.0),
            email: format!("token {name}"),
            platform_role: service.then_some(PlatformRole::SuperAdmin),
            memberships: tenant.map(|tenant| (tenant, TenantRole::Admin)).into_iter().collect(),
            confirmed_at: now,
            strong_at: now,
            proof: Proof::default(),
            address: None,
            request_id: None,
            by_token: true,
            on_behalf: None,
        }
    }

    #[must_use]
    pub fn role_in(&self, tenant: TenantId) -> Option<TenantRole> {
        self.memberships.iter().find(|(id, _)| *id == tenant).map(|(_, role)| *role)
    }

    #[must_use]
    pub fn is_super_admin(&self) -> bool {
        self.platform_role == Some(PlatformRole::SuperAdmin)
    }

    #[must_use]
    pub fn is_confirmed(&self, now: Moment) -> bool {
        now.since(self.confirmed_at) < CONFIRMED_FOR
    }

    #[must_use]
    pub fn for_audit(&self) -> AuditActor {
        AuditActor {
            user_id: (!self.by_token).then_some(self.user_id),
            name: match &self.on_behalf {
                Some(behalf) => format!("{} as {}", self.email, behalf.email),
                None => self.email.clone(),
            },
            address: self.address.clone(),
            request_id: self.request_id,
            behalf_id: self.on_behalf.as_ref().map(|behalf| behalf.user_id),
        }
    }
}
