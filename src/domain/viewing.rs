//! Looking at a tenant's console as one of its people sees it: by staff, for a reason, read-only, for half
//! an hour at most, and only as far as the tenant allows.

use super::clock::{MINUTE, Moment};
use super::ids::{TenantId, UserId, ViewingId};
use super::words;

/// The longest that one lasts, and what may be chosen, in minutes.
pub const LONGEST: i64 = 30 * MINUTE;
pub const CHOICES: [i64; 3] = [10, 20, 30];
/// For how long a tenant may open its window, in hours.
pub const WINDOWS: [i64; 4] = [1, 8, 24, 72];

words! {
    /// What a tenant allows.
    pub enum ViewingConsent { Always = "always", Window = "window", Never = "never" }
}

/// What a tenant allows, and until when its window is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViewingRule {
    pub consent: ViewingConsent,
    pub until: Moment,
}

impl Default for ViewingRule {
    fn default() -> Self {
        Self { consent: ViewingConsent::Always, until: Moment(0) }
    }
}

impl ViewingRule {
    /// Until when it may be looked at; `None` where it may not be now.
    #[must_use]
    pub fn allowed_until(&self, now: Moment) -> Option<Moment> {
        match self.consent {
            ViewingConsent::Always => Some(Moment(i64::MAX)),
            ViewingConsent::Window if now < self.until => Some(self.until),
            ViewingConsent::Window | ViewingConsent::Never => None,
        }
    }
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Viewing {
    pub id: ViewingId,
    pub tenant: TenantId,
    pub viewer_id: UserId,
    pub viewer: String,
    pub viewed_id: UserId,
    pub viewed: String,
    pub reason: String,
    pub ticket: String,
    pub started_at: Moment,
    pub ends_at: Moment,
    pub ended_at: Option<Moment>,
    pub ended_by: Option<String>,
}

impl Viewing {
    /// Whether it goes on.
    #[must_use]
    pub fn goes_on(&self, now: Moment) -> bool {
        self.ended_at.is_none() && now < self.ends_at
    }

    /// When it was over.
    #[must_use]
    pub fn over_at(&self) -> Moment {
        self.ended_at.unwrap_or(self.ends_at).min(self.ends_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tenant_decides() {
        let (now, later) = (Moment(1_000), Moment(2_000));
        let rule = |consent, until| ViewingRule { consent, until };
        assert_eq!(rule(ViewingConsent::Always, Moment(0)).allowed_until(now), Some(Moment(i64::MAX)));
        assert_eq!(rule(ViewingConsent::Never, later).allowed_until(now), None);
        assert_eq!(rule(ViewingConsent::Window, later).allowed_until(now), Some(later));
        assert_eq!(rule(ViewingConsent::Window, now).allowed_until(now), None, "closed to the moment");
    }
}
