//! The Billing page: who pays, what 30 days cost, and the two policies.

use jiff::tz::TimeZone;

use super::usage::{GroupLine, MOST_GROUPS, lines};
use super::{ServiceError, Services};
use crate::access::actor::Actor;
use crate::access::policy::{About, Action};
use crate::access::scope::Scope;
use crate::domain::account::Tenant;
use crate::domain::audit::AuditAction;
use crate::domain::billing::{LimitPolicy, ModeChange, NoKeyPolicy, UsageMode};
use crate::domain::clock::Moment;
use crate::domain::usage::Dimension;
use crate::storage::usage_report::{self, Grouping, Totals};
use crate::storage::{changes, tenants};

/// Days on the chart, today included.
pub const DAYS: usize = 30;

/// One day of the report, in the tenant's time zone.
#[derive(Clone, Debug)]
pub struct Day {
    pub date: jiff::civil::Date,
    pub byok: Totals,
    pub managed: Totals,
}

/// Thirty days of a tenant's usage.
#[derive(Clone, Debug)]
pub struct Report {
    pub from: Moment,
    pub to: Moment,
    pub days: Vec<Day>,
    pub totals: Totals,
    /// The thirty days before.
    pub previous: Totals,
    pub mode_changes: Vec<ModeChange>,
    /// Models without a price, and how many requests they served.
    pub unpriced: Vec<(String, i64)>,
    /// `None` for people who may see totals only.
    pub groups: Option<Vec<GroupLine>>,
}

/// The tenant's time zone; UTC where the name is unknown to this machine.
#[must_use]
pub fn zone_of(tenant: &Tenant) -> TimeZone {
    zone_named(&tenant.time_zone)
}

/// As `zone_of`, of the name alone.
#[must_use]
pub fn zone_named(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap_or(TimeZone::UTC)
}

/// The beginnings of the last `count` days before tomorrow in a zone, and tomorrow's.
pub(super) fn day_starts(
    now: Moment,
    zone: &TimeZone,
    count: usize,
) -> (Vec<jiff::civil::Date>, Vec<Moment>) {
    let today = now.date(zone);
    let first = (1..count).fold(today, |date, _| date.yesterday().unwrap_or(date));
    let mut dates = Vec::with_capacity(count + 1);
    let mut date = first;
    for _ in 0..=count {
        dates.push(date);
        date = date.tomorrow().unwrap_or(date);
    }
    let starts = dates.iter().map(|date| Moment::start_of(*date, zone)).collect();
    dates.pop();
    (dates, starts)
}

impl Services {
    /// Thirty days of usage with the thirty before as comparison.
    ///
    /// # Errors
    /// `Denied` to whoever may not even see totals.
    pub async fn billing_report(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
        group: Dimension,
    ) -> Result<Report, ServiceError> {
        let about = Some(About { tenant: tenant.id, key_changers: tenant.key_changers });
        self.permit(actor, Action::SeeUsageTotals, about)?;
        let detailed = self.permit(actor, Action::SeeUsage, about).is_ok();
        let zone = zone_of(tenant);
        let (dates, starts) = day_starts(self.clock.now(), &zone, DAYS);
        let (_, earlier) = day_starts(starts[0].minus(1), &zone, DAYS);
        let (from, to) = (starts[0], starts[DAYS]);

        let mut tx = self.db.read().await?;
        let mut days: Vec<Day> = dates
            .into_iter()
            .map(|date| Day { date, byok: Totals::default(), managed: Totals::default() })
            .collect();
        for (day, mode, totals) in usage_report::by_day(&mut tx, scope, &starts).await? {
            if let Some(day) = days.get_mut(day) {
                let side = side(&mut day.byok, &mut day.managed, mode);
                *side = side.plus(&totals);
            }
        }
        let previous = usage_report::totals(&mut tx, scope, earlier[0], from).await?;
        let mut mode_changes = tenants::mode_changes(&mut tx, scope, from).await?;
        // The mode that a tenant began with is no switch.
        mode_changes.retain(|change| change.at != tenant.created_at);
        let totals = days.iter().fold(Totals::default(), |sum, day| sum.plus(&day.byok).plus(&day.managed));
        let unpriced = match totals.unpriced {
            0 => Vec::new(),
            _ => usage_report::unpriced_models(&mut tx, scope, (from, to)).await?,
        };
        let groups = if detailed {
            let grouping = Grouping { by: group, then: None, filters: &[] };
            Some(lines(usage_report::by_group(&mut tx, scope, &grouping, (from, to), MOST_GROUPS).await?))
        } else {
            None
        };
        tx.rollback().await?;
        Ok(Report { from, to, days, totals, previous, mode_changes, unpriced, groups })
    }

    /// Switches the usage mode from now on.
    ///
    /// # Errors
    /// `Conflict` when it was switched meanwhile.
    pub async fn set_mode(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
        to: UsageMode,
    ) -> Result<(), ServiceError> {
        let about = About { tenant: tenant.id, key_changers: tenant.key_changers };
        self.permit(actor, Action::ChangeBilling, Some(about))?;
        let from = match to {
            UsageMode::Byok => UsageMode::Managed,
            UsageMode::Managed => UsageMode::Byok,
        };
        let now = self.clock.now();
        let mut tx = self.db.write().await?;
        changes::bump(&mut tx, scope.owner(), now).await?;
        if !tenants::set_mode(&mut tx, scope, from, to, now).await? {
            return Err(ServiceError::Conflict("The usage mode is set to that already."));
        }
        let detail = serde_json::json!({ "before": from, "after": to });
        self.record(&mut tx, scope.owner(), actor, AuditAction::ModeChanged, tenant.slug.as_str(), detail)
            .await?;
        tx.commit().await?;
        self.directory.forget(scope.owner());
        Ok(())
    }

    /// Sets what happens without a key, and when the own key hits a limit.
    ///
    /// # Errors
    /// When the person may not, or the database fails.
    pub async fn set_policies(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
        no_key: NoKeyPolicy,
        on_limit: LimitPolicy,
    ) -> Result<(), ServiceError> {
        let about = About { tenant: tenant.id, key_changers: tenant.key_changers };
        self.permit(actor, Action::ChangeBilling, Some(about))?;
        let now = self.clock.now();
        let mut tx = self.db.write().await?;
        changes::bump(&mut tx, scope.owner(), now).await?;
        let before = tenants::find(&mut tx, tenant.id).await?.ok_or(ServiceError::NotFound)?.policy;
        tenants::set_policies(&mut tx, scope, no_key, on_limit).await?;
        let detail = serde_json::json!({
            "before": { "no_key": before.no_key, "on_limit": before.on_limit },
            "after": { "no_key": no_key, "on_limit": on_limit },
        });
        self.record(&mut tx, scope.owner(), actor, AuditAction::PolicyChanged, tenant.slug.as_str(), detail)
            .await?;
        tx.commit().await?;
        self.directory.forget(scope.owner());
        Ok(())
    }
}

pub(super) fn side<'a>(byok: &'a mut Totals, managed: &'a mut Totals, mode: UsageMode) -> &'a mut Totals {
    match mode {
        UsageMode::Byok => byok,
        UsageMode::Managed => managed,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::clock::SECOND;
    use crate::domain::usage::bucket_of;

    #[test]
    fn days_follow_the_zone_over_a_change_of_clocks() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let now = Moment::from_timestamp("2026-10-26T12:00:00Z".parse().unwrap());
        let (dates, starts) = day_starts(now, &zone, 3);
        assert_eq!(dates.len(), 3);
        assert_eq!(dates[2], jiff::civil::date(2026, 10, 26));
        let lengths: Vec<i64> =
            starts.windows(2).map(|pair| pair[1].since(pair[0]) / crate::domain::clock::HOUR).collect();
        assert_eq!(lengths, [24, 25, 24]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

        /// In every time zone there is, days follow each other without gap or overlap, begin where a quarter-hour
        /// does, and whatever runs in one of them is of its date: so they add up to the range.
        #[test]
        fn days_add_up_to_the_range_in_every_zone(
            zone: proptest::sample::Index, now in 631_152_000_i64..4_102_444_800, days in 1_usize..=92, part in 0_i64..1_000_000,
        ) {
            let names: Vec<_> = jiff::tz::db().available().collect();
            prop_assume!(!names.is_empty());
            let name = zone.get(&names).as_str();
            let (zone, now) = (zone_named(name), Moment(now * SECOND));
            let (dates, starts) = day_starts(now, &zone, days);
            prop_assert_eq!((dates.len(), starts.len()), (days, days + 1));
            prop_assert!(starts.is_sorted() && now < starts[days], "{}", name);
            prop_assert!(starts.iter().all(|start| bucket_of(*start) == *start), "{}", name);
            let (from, length) = (starts[0], starts[days].since(starts[0]));
            let at = from.plus(length / 1_000_000 * part);
            // The day that sums put it into.
            let day = starts.partition_point(|start| *start <= bucket_of(at)) - 1;
            prop_assert_eq!(dates[day], at.date(&zone), "{} at {}", name, at.rfc3339());
        }
    }
}
