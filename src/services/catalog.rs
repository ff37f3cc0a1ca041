//! The features of the operator's product, as super admins keep them, and their switches for everybody.

use super::plans::judge_name;
use super::{Problems, ServiceError, Services};
use crate::access::actor::Actor;
use crate::access::scope::Scope;
use crate::domain::account::Slug;
use crate::domain::audit::AuditAction;
use crate::domain::generation;
use crate::domain::ids::Owner;
use crate::domain::plan::{Feature, GENERAL, TokenBudget};
use crate::domain::price_list;
use crate::domain::provider_key::Provider;
use crate::domain::question::Writing;
use crate::storage::plans;

/// A feature as it was typed.
#[derive(Clone, Debug, Default)]
pub struct TypedFeature {
    pub slug: String,
    pub name: String,
    pub description: String,
    pub covered: bool,
    pub default_model: String,
    pub switch: String,
    /// Tokens of one request; both empty for no budget.
    pub budget_input: String,
    pub budget_output: String,
}

impl Services {
    /// Adds a feature (`was` is `None`), or changes the one of that slug, which keeps it.
    ///
    /// # Errors
    /// `Invalid` with the reason at its field.
    pub async fn save_feature(
        &self,
        actor: &Actor,
        was: Option<&str>,
        typed: &TypedFeature,
    ) -> Result<(), ServiceError> {
        let mut tx = self.begin_platform_change(actor).await?;
        let all = plans::features(&mut tx).await?;
        let before = all.iter().find(|feature| Some(feature.slug.as_str()) == was);
        if was.is_some() && before.is_none() {
            return Err(ServiceError::NotFound);
        }
        let feature = judge_feature(typed, before, &all)?;
        if let Some(before) = before.filter(|before| before.switch != feature.switch)
            && plans::is_off_somewhere(&mut tx, &before.switch).await?
        {
            let problem =
                format!("{} is off somewhere: under another switch the feature would be on.", before.switch);
            return Err(ServiceError::Invalid(Problems::field("switch", problem)));
        }
        let told = |feature: &Feature| {
            serde_json::json!({
                "name": feature.name, "description": feature.description, "covered": feature.covered,
                "default_model": feature.default_model, "switch": feature.switch,
                "budget": feature.budget.map(|budget| [budget.input, budget.output]),
            })
        };
        let detail = serde_json::json!({ "before": before.map(told), "after": told(&feature) });
        let action = if before.is_some() {
            plans::update_feature(&mut tx, &feature).await?;
            AuditAction::FeatureChanged
        } else {
            plans::insert_feature(&mut tx, &feature).await?;
            AuditAction::FeatureAdded
        };
        self.record(&mut tx, Owner::Platform, actor, action, &feature.slug, detail).await?;
        tx.commit().await?;
        self.directory.forget(Owner::Platform);
        Ok(())
    }

    /// Turns a master switch on or off for everybody. False if it was so already.
    ///
    /// # Errors
    /// `NotFound` when no feature hangs on a switch of that name.
    pub async fn switch_for_all(&self, actor: &Actor, switch: &str, on: bool) -> Result<bool, ServiceError> {
        let mut tx = self.begin_platform_change(actor).await?;
        if !plans::features(&mut tx).await?.iter().any(|feature| feature.switch == switch) {
            return Err(ServiceError::NotFound);
        }
        let scope = Scope::of_system(Owner::Platform);
        if !plans::set_switch(&mut tx, &scope, switch, on).await? {
            return Ok(false);
        }
        let detail = serde_json::json!({ "on": on });
        self.record(&mut tx, Owner::Platform, actor, AuditAction::SwitchChanged, switch, detail).await?;
        tx.commit().await?;
        self.directory.forget(Owner::Platform);
        Ok(true)
    }
}

fn judge_feature(
    typed: &TypedFeature,
    before: Option<&Feature>,
    all: &[Feature],
) -> Result<Feature, ServiceError> {
    let mut problems = Problems::default();
    let name = judge_name(&typed.name, &mut problems);
    let slug = match before {
        Some(before) => Some(before.slug.clone()),
        None => Slug::parse(typed.slug.trim()).map(|slug| slug.to_string()),
    };
    match slug.as_deref() {
        None => problems.add("slug", Slug::RULE),
        Some(slug) if before.is_none() && (slug == GENERAL || all.iter().any(|one| one.slug == slug)) => {
            problems.add("slug", "There is a feature of that name already.");
        }
        Some(_) => {}
    }
    let description = typed.description.trim();
    if description.chars().count() > 200 || description.chars().any(char::is_control) {
        problems.add("description", "Describe it in at most 200 characters.");
    }
    let model = typed.default_model.trim();
    if !model.is_empty() && price_list::find(model).is_none() {
        problems.add("default_model", "Choose a model of the list, or none.");
    }
    let maker = price_list::find(model).map(crate::domain::price_list::Model::maker);
    let own = slug.as_deref().is_some_and(|slug| {
        slug == generation::FEATURE || Writing::ALL.iter().any(|writing| writing.feature() == slug)
    });
    if own && maker.is_some_and(|maker| maker != Provider::Anthropic) {
        problems.add("default_model", "Keyward's own pages write with models of Anthropic.");
    }
    let switch = match typed.switch.trim() {
        "" => {
            slug.as_deref().map(|slug| format!("ai_{}_enabled", slug.replace('-', "_"))).unwrap_or_default()
        }
        typed => typed.to_owned(),
    };
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if switch.len() > 60 || !switch.bytes().all(plain) {
        problems.add("switch", "Use lower-case letters, digits and underscores, at most 60.");
    }
    let tokens = |text: &str| {
        let text = text.trim().replace([',', ' '], "");
        text.parse::<u64>().ok().filter(|count| (1..=10_000_000).contains(count))
    };
    let budget = match (typed.budget_input.trim(), typed.budget_output.trim()) {
        ("", "") => None,
        (input, output) => {
            let (input, output) = (tokens(input), tokens(output));
            let needed = "Enter a number of tokens, up to 10,000,000; or leave both empty.";
            if input.is_none() {
                problems.add("budget_input", needed);
            }
            if output.is_none() {
                problems.add("budget_output", needed);
            }
            input.zip(output).map(|(input, output)| TokenBudget { input, output })
        }
    };
    problems.or_ok()?;
    Ok(Feature {
        slug: slug.unwrap_or_default(),
        name,
        description: description.to_owned(),
        covered: typed.covered,
        default_model: Some(model.to_owned()).filter(|model| !model.is_empty()),
        switch,
        budget,
    })
}
