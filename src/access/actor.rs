//! The person behind a request, as far as permissions need to know them.

use uuid::Uuid;

use crate::domain::account::{PlatformRole, TenantRole};
use crate::domain::audit::AuditActor;
use crate::domain::clock::{MINUTE, Moment};
use crate::domain::ids::{TenantId, UserId};

/// How long a password that was entered counts as confirmation for sensitive changes.
pub const CONFIRMED_FOR: i64 = 10 * MINUTE;

#[derive(Clone, Debug)]
pub struct Actor {
    pub user_id: UserId,
    pub email: String,
    pub platform_role: Option<PlatformRole>,
    /// Roles in tenants, of which a person may have several.
    pub memberships: Vec<(TenantId, TenantRole)>,
    /// When the person last signed in or confirmed their password.
    pub confirmed_at: Moment,
    /// The client's address, for the audit log.
    pub address: Option<String>,
    pub request_id: Option<Uuid>,
}

impl Actor {
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
            user_id: Some(self.user_id),
            name: self.email.clone(),
            address: self.address.clone(),
            request_id: self.request_id,
        }
    }
}
