//! Identifiers. Every aggregate has its own type, so that a key's id cannot be passed where a
//! tenant's is meant. All are UUID version 7: rows land in the order in which they were made.

use uuid::Uuid;

macro_rules! ids {
    ($($(#[$meta:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A fresh id.
            #[must_use]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// Reads the hyphenated or plain form; `None` for anything else.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                Uuid::try_parse(text).ok().map(Self)
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(&self.0, f)
            }
        }
    )+};
}

ids! {
    TenantId,
    UserId,
    PlanId,
    KeyId,
    TokenId,
    PriceId,
    BudgetId,
    /// A purchase of credits.
    OrderId,
    WebhookId,
    /// Something that the community manager writes.
    GenerationId,
    /// A question that the bot could not answer.
    QuestionId,
    InvitationId,
    /// Somebody of the staff looking at a tenant.
    ViewingId,
    DeliveryId,
    SessionId,
    /// One request through the gateway: the id of its usage row and of its answer.
    RequestId,
    /// One run of the process, for telling whose pending usage rows were orphaned by a crash.
    InstanceId,
}

/// Who owns a provider key: a tenant, or the platform for shared keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    Tenant(TenantId),
    Platform,
}

impl Owner {
    /// The platform is stored as the nil UUID, which no tenant can have.
    #[must_use]
    pub fn as_uuid(self) -> Uuid {
        match self {
            Self::Tenant(id) => id.0,
            Self::Platform => Uuid::nil(),
        }
    }

    #[must_use]
    pub fn from_uuid(id: Uuid) -> Self {
        if id.is_nil() { Self::Platform } else { Self::Tenant(TenantId(id)) }
    }
}

impl From<TenantId> for Owner {
    fn from(id: TenantId) -> Self {
        Self::Tenant(id)
    }
}
