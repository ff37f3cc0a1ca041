//! Usage over any range: sums by one dimension or two, single requests, and downloads.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use jiff::ToSpan as _;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::billing::{DAYS, day_starts, side, zone_named, zone_of};
use super::{ServiceError, Services};
use crate::access::actor::Actor;
use crate::access::policy::{About, Action};
use crate::access::scope::Scope;
use crate::domain::account::Tenant;
use crate::domain::audit::AuditAction;
use crate::domain::clock::{HOUR, Moment};
use crate::domain::ids::{RequestId, TenantId};
use crate::domain::money::Nanos;
use crate::domain::plan::{Feature, TokenBudget};
use crate::domain::price::Multiplier;
use crate::domain::usage::{BUCKET, Dimension, Filter, ServedAs, UsageRow, bucket_of};
use crate::storage::adjustments::{self, Adjustment};
use crate::storage::usage_report::{self, Grouped, Grouping, Totals};
use crate::storage::{day_sums, statements, usage};

/// Groups that are read at most for a page, which shows fewer; downloads and the API have more.
pub const MOST_GROUPS: i64 = 10_000;
const ALL_GROUPS: i64 = 1_000_000;
/// The longest range, in days.
pub const LONGEST: i32 = 366;
/// A day is added up when it has been over for this long: most of what was under way at its end is
/// settled then, and clocks of processes may differ.
const SUMMED_AFTER: i64 = 3 * HOUR;
const DAYS_AT_ONCE: usize = 31;

/// One line of a breakdown.
#[derive(Clone, Debug)]
pub struct GroupLine {
    pub name: String,
    /// By the second dimension; empty without one.
    pub second: String,
    pub byok: Totals,
    pub managed: Totals,
}

impl GroupLine {
    #[must_use]
    pub fn sum(&self) -> Totals {
        self.byok.plus(&self.managed)
    }
}

/// Days of a tenant's calendar, the first and the last one both counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Days {
    pub first: Date,
    pub last: Date,
}

impl Days {
    /// As they were typed; the last thirty days where they were not, or cannot be read. The earlier
    /// date comes first whichever was typed first, and a longer range than a year ends with it.
    #[must_use]
    pub fn read(from: &str, to: &str, now: Moment, zone: &TimeZone) -> Self {
        let (usual, _) = day_starts(now, zone, DAYS);
        let today = now.date(zone);
        let date = |text: &str| text.parse::<Date>().ok().filter(|date| (1970..=9998).contains(&date.year()));
        let (first, last) = match (date(from), date(to)) {
            (None, None) => (usual.first().copied().unwrap_or(today), today),
            (Some(one), None) => (one, today),
            (None, Some(one)) => (one, one),
            (Some(first), Some(last)) => (first, last),
        };
        let (first, last) = (first.min(last), first.max(last));
        let latest = first.checked_add((LONGEST - 1).days()).unwrap_or(last);
        Self { first, last: last.min(latest) }
    }

    /// From the first moment of the first day to that of the day after the last.
    #[must_use]
    pub fn range(self, zone: &TimeZone) -> (Moment, Moment) {
        let after = self.last.tomorrow().unwrap_or(self.last);
        (Moment::start_of(self.first, zone), Moment::start_of(after, zone))
    }
}

/// What was added to requests that had run without a price.
pub type Adjustments = HashMap<RequestId, Adjustment>;

/// What a usage page asks for.
#[derive(Clone, Debug)]
pub struct UsageQuery {
    pub days: Days,
    pub by: Dimension,
    pub then: Option<Dimension>,
    pub filters: Vec<Filter>,
}

/// Sums over a range.
#[derive(Clone, Debug)]
pub struct UsageReport {
    pub lines: Vec<GroupLine>,
    pub totals: Totals,
    /// There are more groups than were read; they are in no line.
    pub cut: bool,
}

/// One request of a feature that uses all of its token budget, paid in each way.
#[derive(Clone, Debug)]
pub struct AtBudget {
    pub feature: Feature,
    pub budget: TokenBudget,
    /// `None` where the model has no price.
    pub own_key: Option<Nanos>,
    pub managed: Option<Nanos>,
}

/// A feature's thirty days, as they were and as they would have been.
#[derive(Clone, Debug)]
pub struct Compared {
    pub line: GroupLine,
    /// All of it managed, on the invoice or from credits, at the tenant's rate.
    pub managed: Nanos,
    /// All of it on own keys, with the plan's fee for them.
    pub own_key: Nanos,
}

impl Services {
    fn permit_usage(&self, actor: &Actor, tenant: &Tenant) -> Result<(), ServiceError> {
        let about = About { tenant: tenant.id, key_changers: tenant.key_changers };
        self.permit(actor, Action::SeeUsage, Some(about))
    }

    /// Sums by one dimension or two over a range of days.
    ///
    /// # Errors
    /// `Denied` to whoever may not see usage.
    pub async fn usage_report(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
        query: &UsageQuery,
        for_download: bool,
    ) -> Result<UsageReport, ServiceError> {
        self.permit_usage(actor, tenant)?;
        let most = if for_download { ALL_GROUPS } else { MOST_GROUPS };
        let grouping = Grouping { by: query.by, then: query.then, filters: &query.filters };
        let range = query.days.range(&zone_of(tenant));
        let mut tx = self.db.read().await?;
        let found = usage_report::by_group(&mut tx, scope, &grouping, range, most).await?;
        let cut = i64::try_from(found.len()).unwrap_or(i64::MAX) >= most;
        let lines = lines(found);
        let totals = lines.iter().fold(Totals::default(), |sum, line| sum.plus(&line.sum()));
        Ok(UsageReport { lines, totals, cut })
    }

    /// What each feature cost in the last thirty days, and what it would have cost paid otherwise.
    ///
    /// # Errors
    /// `Denied` to whoever may not see usage.
    pub async fn cost_comparison(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
        rate: Multiplier,
    ) -> Result<Vec<Compared>, ServiceError> {
        self.permit_usage(actor, tenant)?;
        let days = Days::read("", "", self.clock.now(), &zone_of(tenant));
        let grouping = Grouping { by: Dimension::Feature, then: None, filters: &[] };
        let mut tx = self.db.read().await?;
        let range = days.range(&zone_of(tenant));
        let found = usage_report::by_group(&mut tx, scope, &grouping, range, MOST_GROUPS).await?;
        let terms = statements::terms(&mut tx, tenant.plan_id, self.clock.now()).await?;
        Ok(lines(found)
            .into_iter()
            .map(|line| {
                let list = Nanos(line.sum().list_cost);
                // What ran on own keys cost what it did; the rest would have been at list price.
                let own = Nanos(line.byok.cost).saturating_add(Nanos(line.managed.list_cost));
                let own_key = own.saturating_add(terms.byok_fee(list));
                Compared { own_key, managed: rate.of(list), line }
            })
            .collect())
    }

    /// What one request of each feature with a token budget costs at the most, on the model that the tenant
    /// has for it.
    ///
    /// # Errors
    /// `Denied` to whoever may not see usage.
    pub async fn costs_at_budget(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
    ) -> Result<Vec<AtBudget>, ServiceError> {
        self.permit_usage(actor, tenant)?;
        let standing = self.standing(scope).await?;
        let mut tx = self.db.read().await?;
        let terms = statements::terms(&mut tx, tenant.plan_id, self.clock.now()).await?;
        tx.rollback().await?;
        let rate = standing.tenant.policy.rate;
        let told = standing.features().into_iter().filter_map(|(feature, _)| {
            let budget = feature.budget?;
            let list = feature.default_model.as_deref().and_then(|model| {
                let (provider, tokens) = (feature.provider(), budget.tokens());
                let served = ServedAs::default();
                let rated = standing.platform.prices.rate(provider, model, &tokens, served, standing.now)?;
                Some(rated.cost(Multiplier::LIST))
            });
            Some(AtBudget {
                own_key: list.map(|list| list.saturating_add(terms.byok_fee(list))),
                managed: list.map(|list| rate.of(list)),
                budget,
                feature,
            })
        });
        Ok(told.collect())
    }

    /// A page of single requests, newest first.
    ///
    /// # Errors
    /// `Denied` to whoever may not see usage.
    pub async fn requests(
        &self,
        actor: &Actor,
        tenant: &Tenant,
        query: &UsageQuery,
        before: Option<(Moment, RequestId)>,
        limit: i64,
    ) -> Result<(Vec<UsageRow>, Adjustments), ServiceError> {
        self.permit_usage(actor, tenant)?;
        let range = query.days.range(&zone_of(tenant));
        let mut tx = self.db.read().await?;
        let rows = usage::latest(&mut tx, tenant.id, range, &query.filters, before, limit).await?;
        let adjusted = adjustments::of(&mut tx, &rows).await?;
        Ok((rows, adjusted))
    }

    /// One request of the tenant.
    ///
    /// # Errors
    /// `NotFound` where there is none of that id in this tenant.
    pub async fn request(
        &self,
        actor: &Actor,
        tenant: &Tenant,
        id: RequestId,
    ) -> Result<(UsageRow, Option<Adjustment>), ServiceError> {
        self.permit_usage(actor, tenant)?;
        let mut tx = self.db.read().await?;
        let found = usage::find(&mut tx, id).await?.filter(|row| row.tenant_id == tenant.id);
        let row = found.ok_or(ServiceError::NotFound)?;
        let adjusted = adjustments::of(&mut tx, std::slice::from_ref(&row)).await?.remove(&row.id);
        Ok((row, adjusted))
    }

    /// Says that a download begins, and gives its range.
    ///
    /// # Errors
    /// `Denied` to whoever may not see usage.
    pub async fn begin_export(
        &self,
        actor: &Actor,
        scope: &Scope,
        tenant: &Tenant,
        days: Days,
    ) -> Result<(Moment, Moment), ServiceError> {
        self.permit_usage(actor, tenant)?;
        let about = About { tenant: tenant.id, key_changers: tenant.key_changers };
        self.permit(actor, Action::Export, Some(about))?;
        let range = days.range(&zone_of(tenant));
        let mut tx = self.db.write().await?;
        let detail = serde_json::json!({ "from": range.0.rfc3339(), "to": range.1.rfc3339() });
        self.record(&mut tx, scope.owner(), actor, AuditAction::UsageExported, tenant.slug.as_str(), detail)
            .await?;
        tx.commit().await?;
        Ok(range)
    }

    /// A page of a tenant's requests, for whoever may read them, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn usage_rows(
        &self,
        tenant: TenantId,
        range: (Moment, Moment),
        filters: &[Filter],
        after: Option<(Moment, RequestId)>,
        limit: i64,
    ) -> Result<(Vec<UsageRow>, Adjustments), ServiceError> {
        let mut tx = self.db.read().await?;
        let rows = usage::page(&mut tx, tenant, range.0, range.1, filters, after, limit).await?;
        let adjusted = adjustments::of(&mut tx, &rows).await?;
        Ok((rows, adjusted))
    }

    /// Adds up the days that are over, tenant by tenant: those that it has announced the last time. Between
    /// two times lies more than writers of usage take to hear of it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sum_days(&self) -> Result<(), ServiceError> {
        let over = self.clock.now().minus(SUMMED_AFTER);
        let mut tx = self.db.write().await?;
        let announced = day_sums::announce(&mut tx, over).await?;
        tx.commit().await?;
        self.meter.days_may_be_summed(announced);
        let heard = Moment(self.sums_announced.swap(announced.0, Ordering::SeqCst));
        let over = over.min(heard);
        let mut tx = self.db.read().await?;
        let due = day_sums::due(&mut tx, over).await?;
        tx.rollback().await?;
        for (tenant, zone, through) in due {
            let zone = zone_named(&zone);
            let end = Moment::start_of(over.date(&zone), &zone);
            if through < end {
                while self.sum_some_days(tenant, &zone, end).await? {}
            }
        }
        Ok(())
    }

    /// Adds up a tenant's next days, as many as one statement should; false if there are none.
    async fn sum_some_days(
        &self,
        tenant: TenantId,
        zone: &TimeZone,
        end: Moment,
    ) -> Result<bool, ServiceError> {
        let mut tx = self.db.meter().await?;
        let Some(first) = day_sums::lock(&mut tx, tenant).await?.filter(|first| *first < end) else {
            return Ok(false);
        };
        let first = first.date(zone);
        let dates = std::iter::successors(Some(first), |date| date.tomorrow().ok());
        let starts = dates.map(|date| Moment::start_of(date, zone)).take_while(|start| *start <= end);
        let days: Vec<Moment> = starts.take(DAYS_AT_ONCE + 1).collect();
        day_sums::sum(&mut tx, tenant, &days).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Sums over a range, widened to whole quarter-hours, by group; the costliest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn usage_summary(
        &self,
        tenant: TenantId,
        range: (Moment, Moment),
        by: Dimension,
    ) -> Result<((Moment, Moment), Vec<GroupLine>), ServiceError> {
        let range = (bucket_of(range.0), bucket_of(range.1.plus(BUCKET - 1)));
        let grouping = Grouping { by, then: None, filters: &[] };
        let mut tx = self.db.read().await?;
        let scope = Scope::of_token(tenant);
        let found = usage_report::by_group(&mut tx, &scope, &grouping, range, ALL_GROUPS).await?;
        Ok((range, lines(found)))
    }
}

/// Joins the two modes of each group; the costliest first.
pub(super) fn lines(rows: Vec<Grouped>) -> Vec<GroupLine> {
    let mut places: HashMap<(String, String), usize> = HashMap::with_capacity(rows.len());
    let mut lines: Vec<GroupLine> = Vec::with_capacity(rows.len());
    for (names, mode, totals) in rows {
        let at = *places.entry(names.clone()).or_insert_with(|| {
            let (name, second) = names;
            lines.push(GroupLine { name, second, byok: Totals::default(), managed: Totals::default() });
            lines.len() - 1
        });
        let line = &mut lines[at];
        *side(&mut line.byok, &mut line.managed, mode) = totals;
    }
    lines.sort_by(|a, b| {
        let cost = |line: &GroupLine| line.sum().cost;
        cost(b).cmp(&cost(a)).then_with(|| (&a.name, &a.second).cmp(&(&b.name, &b.second)))
    });
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_they_are_meant() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let now = Moment::from_timestamp("2026-11-20T23:30:00Z".parse().unwrap());
        let read = |from, to| {
            let days = Days::read(from, to, now, &zone);
            (days.first.to_string(), days.last.to_string())
        };
        let days = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        // Half past midnight on the 21st in Berlin.
        assert_eq!(read("", ""), days("2026-10-23", "2026-11-21"));
        assert_eq!(read("2026-11-05", "2026-11-01"), days("2026-11-01", "2026-11-05"));
        assert_eq!(read("2026-11-05", ""), days("2026-11-05", "2026-11-21"));
        assert_eq!(read("", "2026-11-05"), days("2026-11-05", "2026-11-05"));
        assert_eq!(read("0000-13-01", "x"), days("2026-10-23", "2026-11-21"));
        assert_eq!(read("-001000-01-01", "9999-12-31"), days("2026-10-23", "2026-11-21"));
        assert_eq!(read("2020-01-01", "2026-01-01"), days("2020-01-01", "2020-12-31"));
        // The day on which the clocks change has 25 hours.
        let (from, to) = Days::read("2026-10-25", "2026-10-25", now, &zone).range(&zone);
        assert_eq!(to.since(from), 25 * crate::domain::clock::HOUR);
    }
}
