//! `/api/v1/features`: what the tenant may do with AI, and which gates are closed.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Api, Asked};
use crate::access::scope::Scope;
use crate::domain::gate::Gate;
use crate::services::features::way_out;
use crate::services::tokens::TokenScope;

#[derive(Serialize, ToSchema)]
pub struct Features {
    data: Vec<FeatureState>,
}

/// A feature of the operator's product, as it is for this tenant now.
#[derive(Serialize, ToSchema)]
pub struct FeatureState {
    /// What goes into `x-keyward-feature`.
    #[schema(example = "kb-drafts")]
    slug: String,
    name: String,
    description: String,
    /// Whether requests for it would be sent.
    open: bool,
    /// Whether the tenant's own keys are used for it.
    covered_by_own_keys: bool,
    /// What it runs on where a request names no model.
    #[schema(example = "claude-haiku-4-5")]
    model: Option<String>,
    /// `byok` or `managed`; absent while it cannot be used.
    #[schema(example = "byok")]
    usage_mode: Option<&'static str>,
    /// The key that it would run on; absent for a shared one.
    #[schema(example = "production")]
    key_slug: Option<String>,
    gates: Vec<GateState>,
}

/// One condition that a feature needs.
#[derive(Serialize, ToSchema)]
pub struct GateState {
    /// `account`, `master_switch`, `plan`, `key`, `pause` or `budget`.
    #[schema(example = "plan")]
    gate: &'static str,
    open: bool,
    /// Why it is closed, as pages and refusals say it.
    #[schema(example = "The Free plan does not include Knowledge base drafts.")]
    why: Option<String>,
    /// Who can open it, and where.
    #[schema(example = "The operator can change that.")]
    way_out: Option<String>,
    /// The end of an exception that opens or closes it.
    until: Option<String>,
}

impl GateState {
    fn of(gate: &Gate, slug: &str, base: &str) -> Self {
        let out = gate.closed.as_ref().and_then(|closed| way_out(closed.opener, slug));
        Self {
            gate: gate.kind.as_str(),
            open: gate.closed.is_none(),
            why: gate.closed.as_ref().map(|closed| closed.why.clone()),
            way_out: out.map(|out| out.sentence(base)),
            until: gate.until.map(crate::domain::clock::Moment::rfc3339),
        }
    }
}

/// Lists the features, each with its gates.
#[utoipa::path(get,
    operation_id = "listFeatures", path = "/api/v1/features", tag = "features", security(("token" = ["gateway"])),
    params(super::docs::TenantHeader),
    responses((status = 200, description = "Here they are", body = Features), (status = "default", response = super::docs::Failed)))]
pub async fn list(api: web::Data<Api>, request: HttpRequest) -> HttpResponse {
    let asked = match Asked::by(api, request, TokenScope::Gateway).await {
        Ok(asked) => asked,
        Err(problem) => return problem.respond(),
    };
    let work = async {
        let caller = asked.caller().await?;
        let services = asked.services();
        let standing = services.standing_with_money(&Scope::of_token(caller.tenant)).await?;
        let (slug, base) = (standing.tenant.tenant.slug.as_str(), services.options.public_url.as_str());
        let data = standing.features().into_iter().map(|(feature, decision)| {
            let chosen = decision.outcome.as_ref().ok();
            FeatureState {
                slug: feature.slug,
                name: feature.name,
                description: feature.description,
                open: chosen.is_some(),
                covered_by_own_keys: feature.covered,
                model: feature.default_model,
                usage_mode: chosen.map(|chosen| chosen.mode.as_str()),
                key_slug: chosen.filter(|chosen| !chosen.shared).map(|chosen| chosen.key.name.to_string()),
                gates: decision.gates.iter().map(|gate| GateState::of(gate, slug, base)).collect(),
            }
        });
        Ok(HttpResponse::Ok().json(Features { data: data.collect() }))
    };
    asked.answer(work.await)
}
