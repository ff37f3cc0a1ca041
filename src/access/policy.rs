//! The one place that says who may do what. Every page, button and service asks `can`.

use super::actor::Actor;
use crate::domain::account::{KeyChangers, PlatformRole, TenantRole};
use crate::domain::clock::Moment;
use crate::domain::ids::TenantId;

/// Something a person may want to do. Those inside a tenant are asked with that tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Open the tenant's console at all: names and states, no more.
    SeeTenant,
    SeeKeyDetails,
    ChangeKeys,
    DisableKeys,
    ChangeBilling,
    /// Master switches, and the models of features.
    ChangeFeatures,
    /// Approve, reject and retry what the community manager wrote.
    RuleGenerations,
    /// Have answers and articles written for unanswered questions, and decide about them.
    AnswerQuestions,
    SeeUsage,
    SeeUsageTotals,
    /// Read the tenant's audit log: all of it, or what is about billing.
    SeeAudit,
    SeeBillingAudit,
    ManageTokens,
    /// Invite people, change what they may do, and remove them.
    ManageMembers,
    /// Where the tenant's notifications are sent.
    ManageWebhooks,
    ChangeKeyChangers,
    /// How the tenant's people sign in with their own identity provider.
    ManageSso,
    /// Say whether staff may look at the tenant's console.
    AllowViewing,
    /// Take what a page shows along as a file.
    Export,
    /// Look at tenants' consoles as one of their people sees them.
    ViewTenants,
    /// Platform pages: tenants, users, service tokens, shared keys.
    SeePlatform,
    ManagePlatform,
}

impl Action {
    pub const ALL: &'static [Self] = &[
        Self::SeeTenant,
        Self::SeeKeyDetails,
        Self::ChangeKeys,
        Self::DisableKeys,
        Self::ChangeBilling,
        Self::ChangeFeatures,
        Self::RuleGenerations,
        Self::AnswerQuestions,
        Self::SeeUsage,
        Self::SeeUsageTotals,
        Self::SeeAudit,
        Self::SeeBillingAudit,
        Self::ManageTokens,
        Self::ManageMembers,
        Self::ManageWebhooks,
        Self::ChangeKeyChangers,
        Self::ManageSso,
        Self::AllowViewing,
        Self::Export,
        Self::ViewTenants,
        Self::SeePlatform,
        Self::ManagePlatform,
    ];

    /// Whether it needs a password entered in the last ten minutes.
    #[must_use]
    pub fn needs_confirmation(self) -> bool {
        matches!(
            self,
            Self::ChangeKeys
                | Self::DisableKeys
                | Self::ChangeBilling
                | Self::ManageTokens
                | Self::ManageMembers
                | Self::ManageWebhooks
                | Self::ChangeKeyChangers
                | Self::ManageSso
                | Self::AllowViewing
                | Self::ViewTenants
                | Self::ManagePlatform
        )
    }

    /// Whether it is nothing but a look, which those may have who view a tenant for a ticket.
    #[must_use]
    pub fn is_a_look(self) -> bool {
        matches!(
            self,
            Self::SeeTenant
                | Self::SeeKeyDetails
                | Self::SeeUsage
                | Self::SeeUsageTotals
                | Self::SeeAudit
                | Self::SeeBillingAudit
        )
    }
}

/// The tenant that an action is about, as far as the policy needs to know it.
#[derive(Clone, Copy, Debug)]
pub struct About {
    pub tenant: TenantId,
    pub key_changers: KeyChangers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    Allowed,
    /// Allowed once the person has confirmed their password.
    Confirm,
    Denied,
}

/// Whether the person may do this, to this tenant, now.
#[must_use]
pub fn can(actor: &Actor, action: Action, about: Option<About>, now: Moment) -> Permission {
    if !permitted(actor, action, about) {
        Permission::Denied
    } else if action.needs_confirmation() && !actor.is_confirmed(now) {
        Permission::Confirm
    } else {
        Permission::Allowed
    }
}

/// Whether the person may do this at all, confirmed or not: what decides if a button is shown.
#[must_use]
pub fn permitted(actor: &Actor, action: Action, about: Option<About>) -> bool {
    use TenantRole::{Admin, BillingAdmin, Member};
    // Who views a tenant is nobody else meanwhile, and changes nothing.
    let viewing = actor.on_behalf.as_ref();
    if viewing.is_some() && !action.is_a_look() {
        return false;
    }
    let super_admin = viewing.is_none() && actor.platform_role == Some(PlatformRole::SuperAdmin);
    let role = about.and_then(|about| match viewing {
        Some(viewing) => (viewing.tenant == about.tenant).then_some(viewing.role),
        None => actor.role_in(about.tenant),
    });
    match action {
        Action::SeePlatform | Action::ManagePlatform => super_admin,
        Action::SeeTenant | Action::SeeUsageTotals => {
            super_admin || matches!(role, Some(Admin | BillingAdmin | Member))
        }
        Action::SeeKeyDetails | Action::SeeUsage => super_admin || matches!(role, Some(Admin | BillingAdmin)),
        Action::SeeBillingAudit => {
            about.is_some() && (super_admin || matches!(role, Some(Admin | BillingAdmin)))
        }
        Action::ChangeKeys => match about.map(|about| about.key_changers) {
            Some(KeyChangers::Admins) => matches!(role, Some(Admin | BillingAdmin)),
            Some(KeyChangers::SuperAdmins) => super_admin,
            None => false,
        },
        Action::DisableKeys => about.is_some() && (super_admin || matches!(role, Some(Admin | BillingAdmin))),
        Action::ChangeFeatures | Action::SeeAudit => {
            about.is_some() && (super_admin || matches!(role, Some(Admin)))
        }
        Action::Export => super_admin || role.is_some(),
        Action::ViewTenants => actor.platform_role.is_some(),
        Action::RuleGenerations | Action::AnswerQuestions => matches!(role, Some(Admin | Member)),
        Action::ChangeBilling => matches!(role, Some(Admin | BillingAdmin)),
        Action::ManageTokens
        | Action::ManageMembers
        | Action::ManageWebhooks
        | Action::ChangeKeyChangers
        | Action::ManageSso
        | Action::AllowViewing => matches!(role, Some(Admin)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::actor::OnBehalf;
    use crate::domain::account::Proof;
    use crate::domain::clock::MINUTE;
    use crate::domain::ids::{UserId, ViewingId};

    const NOW: Moment = Moment(100 * MINUTE);

    fn actor(platform: Option<PlatformRole>, role: Option<(TenantId, TenantRole)>) -> Actor {
        Actor {
            by_token: false,
            on_behalf: None,
            proof: Proof::default(),
            user_id: UserId::new(),
            email: "ada@acme.example".into(),
            platform_role: platform,
            memberships: role.into_iter().collect(),
            confirmed_at: NOW,
            strong_at: NOW,
            address: None,
            request_id: None,
        }
    }

    /// The table of the design, row by row: super admin, support, admin, billing admin, member, stranger.
    #[test]
    fn the_table_holds() {
        let tenant = TenantId::new();
        let other = TenantId::new();
        let people = [
            actor(Some(PlatformRole::SuperAdmin), None),
            actor(Some(PlatformRole::Support), None),
            actor(None, Some((tenant, TenantRole::Admin))),
            actor(None, Some((tenant, TenantRole::BillingAdmin))),
            actor(None, Some((tenant, TenantRole::Member))),
            actor(None, Some((other, TenantRole::Admin))),
        ];
        let table = [
            (Action::SeeTenant, KeyChangers::Admins, "yes no yes yes yes no"),
            (Action::SeeKeyDetails, KeyChangers::Admins, "yes no yes yes no no"),
            (Action::ChangeKeys, KeyChangers::Admins, "no no yes yes no no"),
            (Action::ChangeKeys, KeyChangers::SuperAdmins, "yes no no no no no"),
            (Action::DisableKeys, KeyChangers::Admins, "yes no yes yes no no"),
            (Action::ChangeBilling, KeyChangers::Admins, "no no yes yes no no"),
            (Action::ChangeFeatures, KeyChangers::Admins, "yes no yes no no no"),
            (Action::RuleGenerations, KeyChangers::Admins, "no no yes no yes no"),
            (Action::AnswerQuestions, KeyChangers::Admins, "no no yes no yes no"),
            (Action::SeeUsage, KeyChangers::Admins, "yes no yes yes no no"),
            (Action::SeeAudit, KeyChangers::Admins, "yes no yes no no no"),
            (Action::SeeBillingAudit, KeyChangers::Admins, "yes no yes yes no no"),
            (Action::SeeUsageTotals, KeyChangers::Admins, "yes no yes yes yes no"),
            (Action::ManageTokens, KeyChangers::Admins, "no no yes no no no"),
            (Action::ManageMembers, KeyChangers::Admins, "no no yes no no no"),
            (Action::ManageWebhooks, KeyChangers::Admins, "no no yes no no no"),
            (Action::ChangeKeyChangers, KeyChangers::Admins, "no no yes no no no"),
            (Action::ManageSso, KeyChangers::Admins, "no no yes no no no"),
            (Action::AllowViewing, KeyChangers::Admins, "no no yes no no no"),
            (Action::Export, KeyChangers::Admins, "yes no yes yes yes no"),
            (Action::ViewTenants, KeyChangers::Admins, "yes yes no no no no"),
            (Action::SeePlatform, KeyChangers::Admins, "yes no no no no no"),
            (Action::ManagePlatform, KeyChangers::Admins, "yes no no no no no"),
        ];
        for action in Action::ALL {
            assert!(
                table.iter().any(|(tabled, ..)| tabled == action),
                "{action:?} is missing from the table"
            );
        }
        for (action, key_changers, row) in table {
            let got: Vec<&str> = people
                .iter()
                .map(|person| match can(person, action, Some(About { tenant, key_changers }), NOW) {
                    Permission::Allowed => "yes",
                    Permission::Confirm => "confirm",
                    Permission::Denied => "no",
                })
                .collect();
            assert_eq!(got.join(" "), row, "{action:?} with {key_changers:?}");
        }
    }

    #[test]
    fn whoever_views_a_tenant_sees_what_the_viewed_person_sees_and_changes_nothing() {
        let (tenant, other) = (TenantId::new(), TenantId::new());
        let look = |role| Actor {
            on_behalf: Some(OnBehalf {
                viewing: ViewingId::new(),
                tenant,
                user_id: UserId::new(),
                email: "ada@acme.example".into(),
                role,
            }),
            // What they are besides counts for nothing meanwhile.
            ..actor(Some(PlatformRole::SuperAdmin), Some((other, TenantRole::Admin)))
        };
        let about = |tenant| Some(About { tenant, key_changers: KeyChangers::SuperAdmins });
        for action in Action::ALL {
            let seen = can(&look(TenantRole::Admin), *action, about(tenant), NOW);
            let expected = if action.is_a_look() { Permission::Allowed } else { Permission::Denied };
            assert_eq!(seen, expected, "{action:?}");
            let elsewhere = can(&look(TenantRole::Admin), *action, about(other), NOW);
            assert_eq!(elsewhere, Permission::Denied, "{action:?} elsewhere");
            assert_eq!(can(&look(TenantRole::Admin), *action, None, NOW), Permission::Denied, "{action:?}");
        }
        let member = look(TenantRole::Member);
        assert!(permitted(&member, Action::SeeUsageTotals, about(tenant)));
        assert!(!permitted(&member, Action::SeeUsage, about(tenant)));
    }

    #[test]
    fn sensitive_changes_need_a_recent_password() {
        let tenant = TenantId::new();
        let person = actor(None, Some((tenant, TenantRole::Admin)));
        let about = Some(About { tenant, key_changers: KeyChangers::Admins });
        let at = |after| can(&person, Action::ChangeKeys, about, NOW.plus(after));
        assert_eq!(at(10 * MINUTE - 1), Permission::Allowed);
        assert_eq!(at(10 * MINUTE), Permission::Confirm);
        assert_eq!(can(&person, Action::SeeUsage, about, NOW.plus(60 * MINUTE)), Permission::Allowed);
    }
}
