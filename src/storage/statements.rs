//! Statements: the sums of a month, and months that are closed.

use std::collections::HashMap;

use uuid::Uuid;

use super::{StorageError, Tx, execute, fetch_all, fetch_one, fetch_optional, usage_report, word};
use crate::access::scope::Scope;
use crate::domain::billing::{EntryKind, Fallback, Funding, Period, UsageMode};
use crate::domain::clock::Moment;
use crate::domain::ids::{PlanId, TenantId};
use crate::domain::money::Nanos;
use crate::domain::statement::{self, EARLIER, Late, Line, Part, PlanTerms, Statement, Sums, Used};

/// What a plan cost at a moment; nothing where nobody had said.
pub async fn terms(tx: &mut Tx, plan: PlanId, at: Moment) -> Result<PlanTerms, StorageError> {
    let sql = "SELECT subscription, endpoints_included, endpoint_fee, byok_permille FROM plan_terms
               WHERE plan_id = $1 AND valid_from <= $2 ORDER BY valid_from DESC LIMIT 1";
    let found = fetch_optional!(tx, (i64, i64, i64, i64), sql, plan.0, at.0)?;
    Ok(found.map_or_else(
        PlanTerms::default,
        |(subscription, endpoints_included, endpoint_fee, byok_permille)| {
            let (subscription, endpoint_fee) = (Nanos(subscription), Nanos(endpoint_fee));
            PlanTerms { subscription, endpoints_included, endpoint_fee, byok_permille }
        },
    ))
}

/// Sets what a plan costs from a moment on.
pub async fn set_terms(
    tx: &mut Tx,
    plan: PlanId,
    terms: &PlanTerms,
    from: Moment,
) -> Result<(), StorageError> {
    execute!(
        tx,
        "INSERT INTO plan_terms (plan_id, valid_from, subscription, endpoints_included, endpoint_fee, byok_permille)
         VALUES ($1, $2, $3, $4, $5, $6)",
        plan.0,
        from.0,
        terms.subscription.0,
        terms.endpoints_included,
        terms.endpoint_fee.0,
        terms.byok_permille
    )?;
    Ok(())
}

#[derive(sqlx::FromRow)]
struct UsedRow {
    mode: String,
    funding: String,
    fallback: String,
    requests: i64,
    unpriced: i64,
    estimated: i64,
    cost: i64,
    list: i64,
    billed: i64,
}

/// The plans that a tenant was on in a month, by their names, each with when that was.
pub async fn plans_in(
    tx: &mut Tx,
    scope: &Scope,
    month: Period,
) -> Result<Vec<(PlanId, String, Period)>, StorageError> {
    let sql = "SELECT c.plan_id, p.name, c.at FROM plan_change c JOIN plan p ON p.id = c.plan_id
               WHERE c.tenant_id = $1 AND c.at < $2 ORDER BY c.at";
    let changes = fetch_all!(tx, (Uuid, String, i64), sql, scope.owner().as_uuid(), month.end.0)?;
    let mut parts: Vec<(PlanId, String, Period)> = Vec::new();
    for (plan, name, at) in changes {
        let from = Moment(at).max(month.start);
        if let Some((_, _, before)) = parts.last_mut() {
            before.end = from;
        }
        parts.push((PlanId(plan), name, Period { start: from, end: month.end }));
    }
    parts.retain(|(_, _, period)| period.start < period.end);
    Ok(parts)
}

/// The list price of what ran on own keys in a time, and of what was added to such requests in it.
async fn own_use(tx: &mut Tx, scope: &Scope, period: Period) -> Result<Nanos, StorageError> {
    let (owner, from, to) = (scope.owner().as_uuid(), period.start.0, period.end.0);
    let sql = "SELECT CAST(COALESCE(SUM(CASE WHEN rate_permille = 1000 THEN cost
                          ELSE (cost * 1000 + rate_permille / 2) / rate_permille END), 0) AS BIGINT)
               FROM usage WHERE tenant_id = $1 AND started_at >= $2 AND started_at < $3 AND state <> 'pending'
                 AND mode = 'byok'";
    let (used,) = fetch_one!(tx, (i64,), sql, owner, from, to)?;
    Ok(Nanos(used).saturating_add(added(tx, scope, period).await?))
}

/// The list price of what was added in a time to requests on own keys that had run without a price.
async fn added(tx: &mut Tx, scope: &Scope, period: Period) -> Result<Nanos, StorageError> {
    let sql =
        "SELECT CAST(COALESCE(SUM((a.cost * 1000 + u.rate_permille / 2) / u.rate_permille), 0) AS BIGINT)
               FROM usage_adjustment a JOIN usage u ON u.id = a.usage_id
               WHERE a.tenant_id = $1 AND a.at >= $2 AND a.at < $3 AND u.mode = 'byok'";
    let (owner, from, to) = (scope.owner().as_uuid(), period.start.0, period.end.0);
    Ok(Nanos(fetch_one!(tx, (i64,), sql, owner, from, to)?.0))
}

#[derive(sqlx::FromRow)]
struct AccountedRow {
    of_month: String,
    #[sqlx(flatten)]
    used: UsedRow,
}

impl TryFrom<UsedRow> for Used {
    type Error = StorageError;

    fn try_from(row: UsedRow) -> Result<Self, StorageError> {
        Ok(Self {
            mode: word!(UsageMode, row.mode, "usage", "mode")?,
            funding: word!(Funding, row.funding, "usage", "funding")?,
            fallback: Fallback::parse(&row.fallback),
            requests: row.requests,
            unpriced: row.unpriced,
            estimated: row.estimated,
            cost: Nanos(row.cost),
            list: Nanos(row.list),
            billed: Nanos(row.billed),
        })
    }
}

/// What began in a time and is settled.
async fn used_in(tx: &mut Tx, scope: &Scope, period: Period) -> Result<Vec<Used>, StorageError> {
    let (owner, from, to) = (scope.owner().as_uuid(), period.start.0, period.end.0);
    let sql = "SELECT mode, funding, COALESCE(fallback, '') AS fallback, COUNT(*) AS requests,
                      CAST(SUM(CASE WHEN unpriced IS TRUE THEN 1 ELSE 0 END) AS BIGINT) AS unpriced,
                      CAST(SUM(CASE WHEN state <> 'final' THEN 1 ELSE 0 END) AS BIGINT) AS estimated,
                      CAST(SUM(cost) AS BIGINT) AS cost, CAST(SUM(billed) AS BIGINT) AS billed,
                      CAST(SUM(CASE WHEN rate_permille = 1000 THEN cost
                          ELSE (cost * 1000 + rate_permille / 2) / rate_permille END) AS BIGINT) AS list
               FROM usage WHERE tenant_id = $1 AND started_at >= $2 AND started_at < $3 AND state <> 'pending'
               GROUP BY mode, funding, COALESCE(fallback, '') ORDER BY 1, 2, 3";
    fetch_all!(tx, UsedRow, sql, owner, from, to)?.into_iter().map(Used::try_from).collect()
}

/// What ran before a month and is in no statement.
async fn late(
    tx: &mut Tx,
    scope: &Scope,
    period: Period,
    closed: &[Statement],
) -> Result<Vec<Late>, StorageError> {
    let sql = "SELECT mode, funding, fallback, CAST(SUM(requests) AS BIGINT) AS requests,
                      CAST(SUM(unpriced) AS BIGINT) AS unpriced, CAST(SUM(estimated) AS BIGINT) AS estimated,
                      CAST(SUM(cost) AS BIGINT) AS cost, CAST(SUM(list) AS BIGINT) AS list,
                      CAST(SUM(billed) AS BIGINT) AS billed, of_month
               FROM statement_use WHERE tenant_id = $1 GROUP BY of_month, mode, funding, fallback";
    let mut accounted: HashMap<String, Vec<Used>> = HashMap::new();
    for AccountedRow { of_month, used } in fetch_all!(tx, AccountedRow, sql, scope.owner().as_uuid())? {
        accounted.entry(of_month).or_default().push(Used::try_from(used)?);
    }
    let requests = |used: &[Used]| used.iter().map(|used| used.requests).sum::<i64>();
    // Rollups are quick to look through; rows are read only where they do not agree.
    let everything = usage_report::totals(tx, scope, Moment(0), period.start).await?.requests;
    if everything == accounted.values().map(|used| requests(used)).sum::<i64>() {
        return Ok(Vec::new());
    }
    let first = closed.last().map_or(period.start, |first| first.period.start);
    let before = (EARLIER.to_owned(), Period { start: Moment(0), end: first });
    let months = closed.iter().rev();
    // A version that did not note what is in its statements may have closed one while this one started.
    let noted =
        months.filter(|one| accounted.contains_key(&one.month) || !one.lines.iter().any(Line::is_use));
    let spans = std::iter::once(before).chain(noted.map(|one| (one.month.clone(), one.period)));
    let mut all = Vec::new();
    for (month, span) in spans.collect::<Vec<_>>() {
        let accounted = accounted.get(&month).map_or(&[][..], Vec::as_slice);
        if usage_report::totals(tx, scope, span.start, span.end).await?.requests == requests(accounted) {
            continue;
        }
        let used = used_in(tx, scope, span).await?;
        let used: Vec<Used> =
            used.iter().map(|used| used.beyond(accounted)).filter(|used| used.requests > 0).collect();
        let mut lowest = None;
        for (plan, _, part) in plans_in(tx, scope, span).await? {
            let permille = terms(tx, plan, part.end.minus(1)).await?.byok_permille;
            lowest = Some(lowest.map_or(permille, |before: i64| before.min(permille)));
        }
        if !used.is_empty() {
            all.push(Late { month, used, byok_permille: lowest.unwrap_or_default() });
        }
    }
    Ok(all)
}

/// The sums of a month, read from the rows themselves, with what came late of those that were closed before,
/// newest first. `when` says how lines name a part of it.
pub async fn sums(
    tx: &mut Tx,
    scope: &Scope,
    period: Period,
    closed: &[Statement],
    when: impl Fn(Period) -> String,
) -> Result<Sums, StorageError> {
    let (owner, from, to) = (scope.owner().as_uuid(), period.start.0, period.end.0);
    let used = used_in(tx, scope, period).await?;
    let late = late(tx, scope, period, closed).await?;
    let sql = "SELECT COUNT(DISTINCT endpoint) FROM usage_rollup
               WHERE tenant_id = $1 AND bucket >= $2 AND bucket < $3 AND endpoint <> ''";
    let (endpoints,) = fetch_one!(tx, (i64,), sql, owner, from, to)?;
    let sql = "SELECT CAST(COALESCE(SUM(billed), 0) AS BIGINT) FROM usage_adjustment
               WHERE tenant_id = $1 AND at >= $2 AND at < $3";
    let (adjusted_billed,) = fetch_one!(tx, (i64,), sql, owner, from, to)?;
    let sql =
        "SELECT CAST(COALESCE(SUM(amount), 0) AS BIGINT) FROM ledger_entry WHERE tenant_id = $1 AND at < $2";
    let (before,) = fetch_one!(tx, (i64,), sql, owner, from)?;
    let sql = "SELECT kind, CAST(SUM(amount) AS BIGINT) FROM ledger_entry
               WHERE tenant_id = $1 AND at >= $2 AND at < $3 GROUP BY kind ORDER BY kind";
    let credits = fetch_all!(tx, (String, i64), sql, owner, from, to)?
        .into_iter()
        .map(|(kind, amount)| Ok((word!(EntryKind, kind, "ledger_entry", "kind")?, Nanos(amount))))
        .collect::<Result<_, StorageError>>()?;
    let plans = plans_in(tx, scope, period).await?;
    let whole = plans.len() == 1;
    let mut parts = Vec::with_capacity(plans.len());
    for (id, plan, part) in plans {
        let own = if whole {
            // All of it was read already.
            let own = used.iter().filter(|used| used.mode == UsageMode::Byok).map(|used| used.list);
            own.sum::<Nanos>().saturating_add(added(tx, scope, period).await?)
        } else {
            own_use(tx, scope, part).await?
        };
        // Those in force when it ends; a running month ends with those of today.
        let terms = terms(tx, id, part.end.minus(1)).await?;
        let when = if part == period { String::new() } else { when(part) };
        parts.push(Part { plan, terms, period: part, when, own });
    }
    Ok(Sums {
        month: period,
        parts,
        used,
        late,
        endpoints,
        adjusted_billed: Nanos(adjusted_billed),
        credits_before: Nanos(before),
        // Without a statement before, all of it was there before.
        credits_late: closed
            .first()
            .map_or(Nanos::ZERO, |closed| Nanos(before - statement::balance_after(&closed.lines).0)),
        credits,
    })
}

/// Whether anything that began in a period is not settled yet.
pub async fn is_pending(tx: &mut Tx, tenant: TenantId, period: Period) -> Result<bool, StorageError> {
    let sql = "SELECT id FROM usage WHERE state = 'pending' AND tenant_id = $1
               AND started_at >= $2 AND started_at < $3 LIMIT 1";
    Ok(fetch_optional!(tx, (Uuid,), sql, tenant.0, period.start.0, period.end.0)?.is_some())
}

/// Closes a month, once, and notes what is in its statement.
pub async fn close(
    tx: &mut Tx,
    tenant: TenantId,
    statement: &Statement,
    sums: &Sums,
    at: Moment,
) -> Result<bool, StorageError> {
    let lines = serde_json::to_string(&statement.lines).unwrap_or_default();
    let sql =
        "INSERT INTO statement (tenant_id, month, period_start, period_end, closed_at, plan, due, lines)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING";
    let Statement { month, period, plan, due, .. } = statement;
    let (from, to) = (period.start.0, period.end.0);
    if execute!(tx, sql, tenant.0, month, from, to, at.0, plan, due.0, &lines)? == 0 {
        return Ok(false);
    }
    let mut held: Vec<(&String, &Used)> = sums.used.iter().map(|used| (month, used)).collect();
    for late in &sums.late {
        held.extend(late.used.iter().map(|used| (&late.month, used)));
    }
    for (of, used) in held {
        execute!(
            tx,
            "INSERT INTO statement_use (tenant_id, month, of_month, mode, funding, fallback, requests, unpriced,
                                        estimated, cost, list, billed)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
            tenant.0,
            month,
            of,
            used.mode.as_str(),
            used.funding.as_str(),
            used.fallback.map_or("", Fallback::as_str),
            used.requests,
            used.unpriced,
            used.estimated,
            used.cost.0,
            used.list.0,
            used.billed.0
        )?;
    }
    Ok(true)
}

#[derive(sqlx::FromRow)]
struct Row {
    month: String,
    period_start: i64,
    period_end: i64,
    closed_at: i64,
    plan: String,
    due: i64,
    lines: String,
}

/// The tenant's closed months, newest first.
pub async fn list(tx: &mut Tx, scope: &Scope) -> Result<Vec<Statement>, StorageError> {
    let sql = "SELECT month, period_start, period_end, closed_at, plan, due, lines FROM statement
               WHERE tenant_id = $1 ORDER BY month DESC";
    let bad = || StorageError::BadRow { table: "statement", column: "lines" };
    fetch_all!(tx, Row, sql, scope.owner().as_uuid())?
        .into_iter()
        .map(|row| {
            Ok(Statement {
                month: row.month,
                period: Period { start: Moment(row.period_start), end: Moment(row.period_end) },
                plan: row.plan,
                lines: serde_json::from_str(&row.lines).map_err(|_| bad())?,
                due: Nanos(row.due),
                closed_at: Some(Moment(row.closed_at)),
            })
        })
        .collect()
}

/// The end of the month that was closed last, of every tenant that has one.
pub async fn last_ends(tx: &mut Tx) -> Result<Vec<(TenantId, Moment)>, StorageError> {
    let sql = "SELECT tenant_id, MAX(period_end) FROM statement GROUP BY tenant_id";
    let rows = fetch_all!(tx, (Uuid, i64), sql)?;
    Ok(rows.into_iter().map(|(tenant, end)| (TenantId(tenant), Moment(end))).collect())
}
