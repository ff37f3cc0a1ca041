//! What a key may be used for: the panel on its page, and the form that changes it.

use std::collections::BTreeSet;

use actix_web::HttpRequest;
use actix_web::web::{Data, Path};
use serde::Deserialize;

use super::base;
use super::detail::{KeyPath, with_scope};
use crate::domain::plan::Feature;
use crate::domain::provider_key::{KeyScope, Provider};
use crate::providers;
use crate::services::ServiceError;
use crate::web::form::Posted;
use crate::web::page::{Answer, see_other};
use crate::web::place::Place;
use crate::web::{Console, confirm, session};

pub struct ScopePanel {
    pub all_features: bool,
    pub features: Vec<FeatureBox>,
    /// One on each line.
    pub models: String,
    /// A model of the provider's.
    pub placeholder: &'static str,
}

pub struct FeatureBox {
    pub slug: String,
    pub name: String,
    pub ticked: bool,
}

impl ScopePanel {
    pub fn of(scope: &KeyScope, provider: Provider, features: &[Feature]) -> Self {
        let boxes = std::iter::once(Feature::general()).chain(features).map(|feature| FeatureBox {
            slug: feature.slug.clone(),
            name: feature.name.clone(),
            ticked: scope.features.as_ref().is_some_and(|chosen| chosen.contains(&feature.slug)),
        });
        let models = scope.models.iter().flatten().cloned().collect::<Vec<_>>().join("\n");
        let placeholder = providers::of(provider).spec().probe_model;
        Self { all_features: scope.features.is_none(), features: boxes.collect(), models, placeholder }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScopeForm {
    /// `yes`, or not there at all.
    #[serde(default)]
    all_features: Option<String>,
    #[serde(default)]
    features: Vec<String>,
    #[serde(default)]
    models: String,
}

impl ScopeForm {
    fn scope(&self) -> KeyScope {
        let models: BTreeSet<String> = self.models.split_whitespace().map(str::to_owned).collect();
        let all = self.all_features.as_deref() == Some("yes");
        KeyScope {
            features: (!all).then(|| self.features.iter().cloned().collect()),
            models: (!models.is_empty()).then_some(models),
        }
    }
}

pub async fn change(
    console: Data<Console>,
    mut place: Place,
    request: HttpRequest,
    path: Path<KeyPath>,
    mut posted: Posted<ScopeForm>,
) -> Answer {
    let (holder, key, scope) = (place.holder, path.key.as_str(), posted.fields.scope());
    let this = format!("{}/{key}", base(&place));
    let password = posted.evidence.take();
    let saved = confirm::act(&console, &mut place.viewer, password, async |services, actor| {
        services.scope_key(actor, holder, key, scope.clone()).await
    });
    match saved.await {
        Ok(()) => {
            let text = if scope.is_everything() {
                format!("{key} may be used for everything.")
            } else {
                format!("Saved: requests outside of what {key} is for are refused from now on.")
            };
            session::notify(&place.viewer.session, true, text);
            Ok(see_other(&this))
        }
        Err(ServiceError::Invalid(problems)) if !confirm::is_about_evidence(&problems) => {
            with_scope(&console, &place, key, &scope, problems).await
        }
        Err(error) => {
            let chrome = place.chrome("Confirm it's you", &base(&place));
            confirm::ask(error, &request, chrome, "Save use", this, &posted)
        }
    }
}
