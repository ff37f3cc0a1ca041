//! What plans include, as super admins set it: the matrix of plans and features, plans themselves, and
//! what single tenants are given or denied for a while.

use std::collections::BTreeSet;

use jiff::civil::Date;
use sha2::{Digest, Sha256};

use super::billing::zone_of;
use super::{Problems, ServiceError, Services};
use crate::access::actor::Actor;
use crate::access::policy::Action;
use crate::access::scope::Scope;
use crate::domain::account::{Slug, Tenant, TenantState};
use crate::domain::audit::AuditAction;
use crate::domain::clock::{DAY, Moment};
use crate::domain::ids::{Owner, PlanId};
use crate::domain::plan::{Exception, Feature, Plan};
use crate::domain::price_list;
use crate::domain::usage::bucket_of;
use crate::storage::{Tx, changes, plans, tenants};

/// The longest that an exception lasts, in days.
const LONGEST_EXCEPTION: i64 = 366;
const SEEN_FIRST: &str =
    "Somebody changed plans in the meantime. Below is how they are now; nothing of yours was saved.";

/// Which plan includes which feature.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// With the number of tenants on it.
    pub plans: Vec<(Plan, i64)>,
    pub features: Vec<Feature>,
    /// Tells this state of it from any other.
    pub seen: String,
}

/// A cell of the matrix: the slugs of a plan and of a feature.
pub type Cell = (String, String);

/// A cell that would change, and for whom.
#[derive(Clone, Debug)]
pub struct MatrixChange {
    pub plan: Plan,
    pub feature: Feature,
    pub included: bool,
    pub tenants: i64,
    /// Those among them that used the feature in the last 30 days; not counted where it is given.
    pub using: i64,
}

/// An exception as it was typed.
#[derive(Clone, Debug, Default)]
pub struct TypedException {
    pub feature: String,
    pub opens: bool,
    /// The last day on which it holds, in the tenant's time zone.
    pub last_day: String,
    pub reason: String,
}

impl Services {
    /// Plans, features and which includes which.
    ///
    /// # Errors
    /// `Denied` to all but super admins.
    pub async fn plan_matrix(&self, actor: &Actor) -> Result<Matrix, ServiceError> {
        self.permit(actor, Action::SeePlatform, None)?;
        let mut tx = self.db.read().await?;
        read_matrix(&mut tx).await
    }

    /// What would change, and for how many, if just these cells were included.
    ///
    /// # Errors
    /// `Conflict` when the matrix is not the one that was seen.
    pub async fn judge_matrix(
        &self,
        actor: &Actor,
        wanted: &BTreeSet<Cell>,
        seen: &str,
    ) -> Result<Vec<MatrixChange>, ServiceError> {
        self.permit(actor, Action::SeePlatform, None)?;
        let since = bucket_of(self.clock.now().minus(30 * DAY));
        let mut tx = self.db.read().await?;
        let matrix = read_matrix(&mut tx).await?;
        let mut changes = changes_of(&matrix, wanted, seen)?;
        for change in changes.iter_mut().filter(|change| !change.included) {
            change.using = tenants::count_using(&mut tx, change.plan.id, &change.feature.slug, since).await?;
        }
        Ok(changes)
    }

    /// Includes just these cells. Gives how many changed.
    ///
    /// # Errors
    /// `Conflict` when the matrix is not the one that was seen.
    pub async fn save_matrix(
        &self,
        actor: &Actor,
        wanted: &BTreeSet<Cell>,
        seen: &str,
    ) -> Result<usize, ServiceError> {
        let mut tx = self.begin_platform_change(actor).await?;
        let changes = changes_of(&read_matrix(&mut tx).await?, wanted, seen)?;
        for change in &changes {
            plans::set_included(&mut tx, change.plan.id, &change.feature.slug, change.included).await?;
            let detail = serde_json::json!({
                "feature": change.feature.slug, "included": change.included, "tenants": change.tenants,
            });
            let target = change.plan.slug.as_str();
            self.record(&mut tx, Owner::Platform, actor, AuditAction::PlanChanged, target, detail).await?;
        }
        tx.commit().await?;
        self.directory.forget(Owner::Platform);
        Ok(changes.len())
    }

    /// Adds a plan, with what another one includes or with nothing.
    ///
    /// # Errors
    /// `Invalid` with the reason at its field.
    pub async fn add_plan(
        &self,
        actor: &Actor,
        slug: &str,
        name: &str,
        like: &str,
    ) -> Result<(), ServiceError> {
        let mut tx = self.begin_platform_change(actor).await?;
        let all = plans::list(&mut tx).await?;
        let mut problems = Problems::default();
        let name = judge_name(name, &mut problems);
        let slug = Slug::parse(slug.trim());
        match &slug {
            None => problems.add("slug", Slug::RULE),
            Some(slug) if all.iter().any(|plan| plan.slug == slug.as_str()) => {
                problems.add("slug", "There is a plan of that name already.");
            }
            Some(_) => {}
        }
        let model = all.iter().find(|plan| plan.slug == like);
        if !like.is_empty() && model.is_none() {
            problems.add("like", "Choose a plan, or none.");
        }
        let (Some(slug), true) = (slug, problems.is_empty()) else {
            return Err(ServiceError::Invalid(problems));
        };
        let plan = Plan {
            id: PlanId::new(),
            slug: slug.to_string(),
            name,
            features: model.map(|plan| plan.features.clone()).unwrap_or_default(),
            models: model.map(|plan| plan.models.clone()).unwrap_or_default(),
        };
        plans::insert(&mut tx, &plan).await?;
        let detail =
            serde_json::json!({ "name": plan.name, "features": plan.features, "models": plan.models });
        self.record(&mut tx, Owner::Platform, actor, AuditAction::PlanAdded, &plan.slug, detail).await?;
        tx.commit().await?;
        self.directory.forget(Owner::Platform);
        Ok(())
    }

    /// Names a plan, and says which models its tenants may choose from; none of them means all current
    /// ones.
    ///
    /// # Errors
    /// `Invalid` with the reason at its field.
    pub async fn save_plan(
        &self,
        actor: &Actor,
        slug: &str,
        name: &str,
        models: &BTreeSet<String>,
    ) -> Result<(), ServiceError> {
        let mut tx = self.begin_platform_change(actor).await?;
        let plan = find_plan(&mut tx, slug).await?;
        let mut problems = Problems::default();
        let name = judge_name(name, &mut problems);
        if models.iter().any(|model| price_list::find(model).is_none_or(|known| known.id != *model)) {
            problems.add("models", "Choose models of the list.");
        }
        problems.or_ok()?;
        plans::rename(&mut tx, plan.id, &name).await?;
        plans::set_models(&mut tx, plan.id, models).await?;
        let detail = serde_json::json!({
            "before": { "name": plan.name, "models": plan.models }, "after": { "name": name, "models": models },
        });
        self.record(&mut tx, Owner::Platform, actor, AuditAction::PlanChanged, slug, detail).await?;
        tx.commit().await?;
        self.directory.forget(Owner::Platform);
        Ok(())
    }

    /// Removes a plan; its tenants, if it has any, move to another one. Gives how many did.
    ///
    /// # Errors
    /// `Invalid` where they have nowhere to go.
    pub async fn remove_plan(&self, actor: &Actor, slug: &str, to: &str) -> Result<u64, ServiceError> {
        let mut tx = self.begin_platform_change(actor).await?;
        let plan = find_plan(&mut tx, slug).await?;
        let all = plans::list(&mut tx).await?;
        let on_it = plans::tenants_by_plan(&mut tx).await?.iter().any(|(id, _)| *id == plan.id);
        let target = all.iter().find(|other| other.slug == to && other.id != plan.id);
        let now = self.clock.now();
        if target.is_none() && on_it {
            let message = "Choose the plan that its tenants move to.";
            return Err(ServiceError::Invalid(Problems::field("to", message)));
        }
        if all.len() == 1 {
            return Err(ServiceError::Conflict("The last plan stays: a new tenant needs one."));
        }
        // First, so that nobody comes onto it while its tenants move.
        plans::remove(&mut tx, plan.id, now).await?;
        let moved = match target {
            Some(target) => plans::move_tenants(&mut tx, plan.id, target.id, now).await?,
            None => 0,
        };
        let detail = serde_json::json!({
            "name": plan.name, "tenants_moved": moved, "to": target.map(|plan| plan.slug.as_str()),
        });
        self.record(&mut tx, Owner::Platform, actor, AuditAction::PlanRemoved, slug, detail).await?;
        tx.commit().await?;
        self.directory.forget(Owner::Platform);
        Ok(moved)
    }

    /// Gives a tenant a feature for a while, or denies it.
    ///
    /// # Errors
    /// `Invalid` with the reason at its field.
    pub async fn set_exception(
        &self,
        actor: &Actor,
        tenant: &Tenant,
        typed: &TypedException,
    ) -> Result<(), ServiceError> {
        self.permit(actor, Action::ManagePlatform, None)?;
        let (now, zone) = (self.clock.now(), zone_of(tenant));
        let scope = Scope::of_system(Owner::Tenant(tenant.id));
        let mut problems = Problems::default();
        let until = typed.last_day.trim().parse::<Date>().ok().and_then(|day| day.tomorrow().ok());
        let until = until.map(|day| Moment::start_of(day, &zone));
        let until = until.filter(|end| *end > now && end.since(now) <= LONGEST_EXCEPTION * DAY);
        if until.is_none() {
            problems.add("last_day", "Enter a day from today on, within a year.");
        }
        let reason = typed.reason.trim();
        if reason.is_empty() || reason.chars().count() > 200 || reason.chars().any(char::is_control) {
            problems.add("reason", "Say why, in at most 200 characters.");
        }
        let mut tx = self.db.write().await?;
        let features = plans::features(&mut tx).await?;
        if !features.iter().any(|feature| feature.slug == typed.feature) {
            problems.add("feature", "Choose a feature.");
        }
        let (Some(until), true) = (until, problems.is_empty()) else {
            return Err(ServiceError::Invalid(problems));
        };
        let exception = Exception {
            feature: typed.feature.clone(),
            opens: typed.opens,
            until,
            reason: reason.to_owned(),
            created_at: now,
            created_by: actor.email.clone(),
        };
        changes::bump(&mut tx, scope.owner(), now).await?;
        plans::set_exception(&mut tx, &scope, &exception).await?;
        let detail = serde_json::json!({
            "opens": exception.opens, "until": until.rfc3339(), "reason": exception.reason,
        });
        self.record(&mut tx, scope.owner(), actor, AuditAction::ExceptionMade, &typed.feature, detail)
            .await?;
        tx.commit().await?;
        self.directory.forget(scope.owner());
        Ok(())
    }

    /// Ends an exception now.
    ///
    /// # Errors
    /// `Conflict` when there is none.
    pub async fn end_exception(
        &self,
        actor: &Actor,
        tenant: &Tenant,
        feature: &str,
    ) -> Result<(), ServiceError> {
        self.permit(actor, Action::ManagePlatform, None)?;
        let scope = Scope::of_system(Owner::Tenant(tenant.id));
        let mut tx = self.db.write().await?;
        changes::bump(&mut tx, scope.owner(), self.clock.now()).await?;
        if !plans::end_exception(&mut tx, &scope, feature).await? {
            return Err(ServiceError::Conflict("That exception has been ended already."));
        }
        let detail = serde_json::json!({});
        self.record(&mut tx, scope.owner(), actor, AuditAction::ExceptionEnded, feature, detail).await?;
        tx.commit().await?;
        self.directory.forget(scope.owner());
        Ok(())
    }

    /// Puts a tenant on another plan.
    ///
    /// # Errors
    /// `Conflict` when it is on another one than was seen.
    pub async fn set_tenant_plan(
        &self,
        actor: &Actor,
        tenant: &Tenant,
        was: &str,
        to: &str,
    ) -> Result<(), ServiceError> {
        self.permit(actor, Action::ManagePlatform, None)?;
        let scope = Scope::of_system(Owner::Tenant(tenant.id));
        let mut tx = self.db.write().await?;
        changes::bump(&mut tx, scope.owner(), self.clock.now()).await?;
        let from = find_plan(&mut tx, was).await?;
        let plan = plans::list(&mut tx).await?.into_iter().find(|plan| plan.slug == to);
        let plan = plan.ok_or_else(|| ServiceError::Invalid(Problems::field("plan", "Choose a plan.")))?;
        if !plans::hold(&mut tx, plan.id).await? {
            return Err(ServiceError::Conflict("That plan was removed in the meantime."));
        }
        if !tenants::set_plan(&mut tx, &scope, (from.id, plan.id), self.clock.now()).await? {
            return Err(ServiceError::Conflict("Somebody changed the plan in the meantime."));
        }
        let detail = serde_json::json!({ "before": was, "after": to });
        let target = tenant.slug.as_str();
        self.record(&mut tx, scope.owner(), actor, AuditAction::TenantPlanSet, target, detail).await?;
        tx.commit().await?;
        self.directory.forget(scope.owner());
        Ok(())
    }

    /// Suspends a tenant, whose requests are refused from then on, or lets it go on.
    ///
    /// # Errors
    /// `Denied` to all but super admins.
    pub async fn set_tenant_state(
        &self,
        actor: &Actor,
        tenant: &Tenant,
        state: TenantState,
    ) -> Result<(), ServiceError> {
        self.permit(actor, Action::ManagePlatform, None)?;
        let scope = Scope::of_system(Owner::Tenant(tenant.id));
        let mut tx = self.db.write().await?;
        changes::bump(&mut tx, scope.owner(), self.clock.now()).await?;
        tenants::set_state(&mut tx, &scope, state).await?;
        let detail = serde_json::json!({ "after": state.as_str() });
        let target = tenant.slug.as_str();
        self.record(&mut tx, scope.owner(), actor, AuditAction::TenantStateSet, target, detail).await?;
        tx.commit().await?;
        self.directory.forget(scope.owner());
        Ok(())
    }

    /// Begins a change of what every process caches of the platform. Two of them wait for each other.
    pub(super) async fn begin_platform_change(&self, actor: &Actor) -> Result<Tx, ServiceError> {
        self.permit(actor, Action::ManagePlatform, None)?;
        let mut tx = self.db.write().await?;
        changes::bump(&mut tx, Owner::Platform, self.clock.now()).await?;
        Ok(tx)
    }
}

async fn find_plan(tx: &mut Tx, slug: &str) -> Result<Plan, ServiceError> {
    let found = plans::list(tx).await?.into_iter().find(|plan| plan.slug == slug);
    found.ok_or(ServiceError::NotFound)
}

async fn read_matrix(tx: &mut Tx) -> Result<Matrix, ServiceError> {
    let counts = plans::tenants_by_plan(tx).await?;
    let count = |id| counts.iter().find(|(plan, _)| *plan == id).map_or(0, |(_, count)| *count);
    let features = plans::features(tx).await?;
    let plans: Vec<(Plan, i64)> =
        plans::list(tx).await?.into_iter().map(|plan| (plan.clone(), count(plan.id))).collect();
    let mut state = Sha256::new();
    for (plan, _) in &plans {
        state.update(format!("{}:", plan.slug));
        for feature in &features {
            state.update(format!("{}={} ", feature.slug, plan.features.contains(&feature.slug)));
        }
    }
    let seen = hex::encode(&state.finalize()[..12]);
    Ok(Matrix { plans, features, seen })
}

fn changes_of(
    matrix: &Matrix,
    wanted: &BTreeSet<Cell>,
    seen: &str,
) -> Result<Vec<MatrixChange>, ServiceError> {
    if matrix.seen != seen {
        return Err(ServiceError::Conflict(SEEN_FIRST));
    }
    let mut changes = Vec::new();
    for (plan, tenants) in &matrix.plans {
        for feature in &matrix.features {
            let included = wanted.contains(&(plan.slug.clone(), feature.slug.clone()));
            if included != plan.features.contains(&feature.slug) {
                let (plan, feature) = (plan.clone(), feature.clone());
                changes.push(MatrixChange { plan, feature, included, tenants: *tenants, using: 0 });
            }
        }
    }
    Ok(changes)
}

pub(super) fn judge_name(name: &str, problems: &mut Problems) -> String {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > 60 || name.chars().any(char::is_control) {
        problems.add("name", "Give it a name of at most 60 characters.");
    }
    name.to_owned()
}
