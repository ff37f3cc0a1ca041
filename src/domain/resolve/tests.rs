use std::collections::BTreeSet;

use super::*;
use crate::domain::account::Slug;
use crate::domain::billing::Funding;
use crate::domain::ids::{KeyId, PlanId};
use crate::domain::price::Multiplier;
use crate::domain::provider_key::{KeyScope, KeyStatus, Verdict};

const NOW: Moment = Moment(1_000_000);

fn key(name: &str, verdict: Verdict) -> KeyView {
    KeyView {
        id: KeyId::new(),
        name: Slug::parse(name).unwrap(),
        provider: Provider::Anthropic,
        version: 1,
        status: KeyStatus::from_check(verdict, NOW),
        disabled: None,
        is_default: name == "production",
        fingerprint: String::new(),
        scope: KeyScope::default(),
        rate: Multiplier::LIST,
    }
}

struct World {
    policy: PaymentPolicy,
    state: TenantState,
    tripped: bool,
    plan: Plan,
    features: Vec<Feature>,
    off: Vec<String>,
    off_for_all: Vec<String>,
    exceptions: Vec<Exception>,
    models: Vec<(String, String)>,
    spent_keys: Vec<KeyId>,
    spent: (bool, bool),
    keys: Keys,
    shared: Vec<KeyView>,
}

impl World {
    fn new(mode: UsageMode, keys: Vec<KeyView>) -> Self {
        let feature = |slug: &str, covered| Feature {
            slug: slug.to_owned(),
            name: slug.to_owned(),
            switch: format!("ai_{slug}_enabled"),
            covered,
            ..Feature::general().clone()
        };
        Self {
            policy: PaymentPolicy {
                mode,
                funding: Funding::Included,
                no_key: NoKeyPolicy::Managed,
                on_limit: LimitPolicy::Pause,
                rate: Multiplier::LIST,
            },
            state: TenantState::Active,
            tripped: false,
            plan: Plan {
                id: PlanId::new(),
                slug: "pro".into(),
                name: "Pro".into(),
                features: BTreeSet::from(["drafts".to_owned(), "chat".to_owned()]),
                models: BTreeSet::new(),
            },
            features: vec![feature("drafts", true), feature("chat", false), feature("other", true)],
            off: Vec::new(),
            off_for_all: Vec::new(),
            exceptions: Vec::new(),
            models: Vec::new(),
            spent_keys: Vec::new(),
            spent: (false, false),
            keys: Keys::new(keys),
            shared: vec![KeyView { is_default: true, ..key("shared", Verdict::Works) }],
        }
    }

    fn ask(&self, feature: Option<&str>, key_name: Option<&str>) -> Decision<'_> {
        let ask = Ask { dialect: Dialect::Anthropic, feature, key_name, provider: None, model: None };
        resolve(
            &ask,
            &Situation {
                now: NOW,
                tenant_state: self.state,
                tripped: self.tripped,
                policy: self.policy,
                plan: &self.plan,
                features: &self.features,
                switched_off: &self.off,
                off_for_all: &self.off_for_all,
                exceptions: &self.exceptions,
                models: &self.models,
                spent: Spent { credits: self.spent.0, budget: self.spent.1, keys: &self.spent_keys },
                keys: &self.keys,
                shared_keys: &self.shared,
            },
        )
    }

    fn code(&self, feature: Option<&str>, key_name: Option<&str>) -> RefusalCode {
        self.ask(feature, key_name).outcome.unwrap_err().code
    }

    fn used(&self, feature: Option<&str>, key_name: Option<&str>) -> (String, UsageMode, Option<Fallback>) {
        let chosen = self.ask(feature, key_name).outcome.unwrap();
        (chosen.key.name.to_string(), chosen.mode, chosen.fallback)
    }
}

#[test]
fn in_byok_mode_the_default_key_is_used_for_covered_features_only() {
    let world =
        World::new(UsageMode::Byok, vec![key("batch", Verdict::Works), key("production", Verdict::Works)]);
    assert_eq!(world.used(None, None), ("production".into(), UsageMode::Byok, None));
    assert_eq!(world.used(Some("drafts"), None), ("production".into(), UsageMode::Byok, None));
    assert_eq!(world.used(Some("chat"), None), ("shared".into(), UsageMode::Managed, None));
}

#[test]
fn without_a_key_the_policy_decides() {
    let mut world = World::new(UsageMode::Byok, vec![]);
    assert_eq!(world.used(None, None), ("shared".into(), UsageMode::Managed, Some(Fallback::NoKey)));
    world.policy.no_key = NoKeyPolicy::Block;
    assert_eq!(world.code(None, None), RefusalCode::GateClosed);
}

#[test]
fn a_rejected_key_never_falls_back() {
    let mut world = World::new(UsageMode::Byok, vec![key("production", Verdict::Rejected)]);
    world.policy.on_limit = LimitPolicy::Managed;
    assert_eq!(world.code(None, None), RefusalCode::KeyRejected);
    assert_eq!(world.code(Some("drafts"), Some("production")), RefusalCode::KeyRejected);
}

#[test]
fn a_limit_pauses_or_falls_back_as_the_policy_says() {
    let mut world = World::new(UsageMode::Byok, vec![key("production", Verdict::OutOfCredit)]);
    assert_eq!(world.code(None, None), RefusalCode::Paused);
    world.policy.on_limit = LimitPolicy::Managed;
    assert_eq!(world.used(None, None), ("shared".into(), UsageMode::Managed, Some(Fallback::Limit)));
}

#[test]
fn a_named_key_works_in_either_mode_and_never_falls_back() {
    let mut world = World::new(UsageMode::Managed, vec![key("batch", Verdict::Works)]);
    world.policy.on_limit = LimitPolicy::Managed;
    assert_eq!(world.used(None, Some("batch")), ("batch".into(), UsageMode::Byok, None));
    assert_eq!(world.used(None, None), ("shared".into(), UsageMode::Managed, None));
    assert_eq!(world.code(None, Some("absent")), RefusalCode::KeyNotFound);
    world.keys = Keys::new(vec![key("batch", Verdict::OutOfCredit)]);
    assert_eq!(world.code(None, Some("batch")), RefusalCode::Paused);
}

#[test]
fn a_disabled_key_is_refused_by_name_and_by_default() {
    let mut world = World::new(UsageMode::Byok, vec![key("production", Verdict::Works)]);
    world.keys.views[0].disabled = Some(DisabledBy::Tenant);
    assert_eq!(world.code(None, None), RefusalCode::GateClosed);
    assert_eq!(world.code(None, Some("production")), RefusalCode::GateClosed);
}

#[test]
fn gates_close_one_by_one_and_all_are_told() {
    let mut world = World::new(UsageMode::Byok, vec![key("production", Verdict::Works)]);
    assert_eq!(world.code(Some("nonsense"), None), RefusalCode::FeatureUnknown);
    assert_eq!(world.code(Some("other"), None), RefusalCode::GateClosed);
    world.off = vec!["ai_other_enabled".into()];
    world.keys.views[0].status = KeyStatus::from_check(Verdict::OutOfCredit, NOW);
    let decision = world.ask(Some("other"), None);
    let closed: Vec<GateKind> =
        decision.gates.iter().filter(|gate| gate.closed.is_some()).map(|gate| gate.kind).collect();
    assert_eq!(closed, [GateKind::MasterSwitch, GateKind::Plan, GateKind::Pause]);
    world.state = TenantState::Suspended;
    assert_eq!(world.code(None, None), RefusalCode::GateClosed);
}

#[test]
fn without_a_working_shared_key_managed_use_is_unavailable() {
    let mut world = World::new(UsageMode::Managed, vec![]);
    world.shared = vec![KeyView { is_default: true, ..key("shared", Verdict::Rejected) }];
    assert_eq!(world.code(None, None), RefusalCode::Unavailable);
    world.shared.clear();
    assert_eq!(world.code(None, None), RefusalCode::Unavailable);
}

#[test]
fn a_rate_limit_is_told_apart_and_names_its_end() {
    let until = NOW.plus(30);
    let world = World::new(UsageMode::Byok, vec![key("production", Verdict::RateLimited { until })]);
    let refusal = world.ask(None, None).outcome.unwrap_err();
    assert_eq!((refusal.code, refusal.until), (RefusalCode::RateLimited, Some(until)));
}

#[test]
fn each_of_many_keys_is_found() {
    let mut keys: Vec<KeyView> = (0..100).map(|at| key(&format!("key-{at}"), Verdict::Works)).collect();
    keys.push(key("production", Verdict::Works));
    keys.push(KeyView { provider: Provider::Openai, is_default: true, ..key("zz-openai", Verdict::Works) });
    let world = World::new(UsageMode::Byok, keys);
    for at in 0..100 {
        let name = format!("key-{at}");
        assert_eq!(world.ask(None, Some(&name)).outcome.unwrap().key.name.as_str(), name);
    }
    assert_eq!(world.ask(None, Some("production")).outcome.unwrap().key.name.as_str(), "production");
    assert_eq!(world.ask(None, None).outcome.unwrap().key.name.as_str(), "production");
    assert!(world.ask(None, Some("key-x")).outcome.is_err());
}

#[test]
fn a_scope_holds_while_its_key_is_at_a_limit() {
    let drafts = KeyScope { features: Some(BTreeSet::from(["drafts".to_owned()])), ..KeyScope::default() };
    let limited = KeyView { scope: drafts, ..key("production", Verdict::OutOfCredit) };
    let mut world = World::new(UsageMode::Byok, vec![limited]);
    world.policy.on_limit = LimitPolicy::Managed;
    let fallback = world.ask(Some("drafts"), None).outcome.unwrap().fallback;
    assert_eq!(fallback, Some(Fallback::Limit));
    let refused = world.ask(Some("general"), None).outcome.unwrap_err();
    assert_eq!(refused.code, RefusalCode::GateClosed);
}

#[test]
fn unusual_spend_pauses_every_key() {
    let mut world = World::new(UsageMode::Byok, vec![key("production", Verdict::Works)]);
    world.tripped = true;
    for name in [None, Some("production"), Some("absent")] {
        let decision = world.ask(None, name);
        assert_eq!(decision.outcome.unwrap_err().code, RefusalCode::Paused);
        let closed: Vec<_> = decision.gates.iter().filter(|gate| gate.closed.is_some()).collect();
        assert_eq!(closed.len(), 1);
        assert_eq!(closed[0].kind, GateKind::Pause);
        assert_eq!(closed[0].closed.as_ref().unwrap().opener, Opener::BreakerPage);
    }
}

fn closed(world: &World, feature: &str) -> Vec<(GateKind, Opener)> {
    let gates = world.ask(Some(feature), None).gates;
    gates.into_iter().filter_map(|gate| Some((gate.kind, gate.closed?.opener))).collect()
}

#[test]
fn exceptions_open_plan_and_platform_switch_until_they_end_and_close_likewise() {
    let mut world = World::new(UsageMode::Byok, vec![key("production", Verdict::Works)]);
    let exception = |feature: &str, opens, until| Exception {
        feature: feature.to_owned(),
        opens,
        until,
        reason: String::new(),
        created_at: NOW,
        created_by: String::new(),
    };
    world.off_for_all = vec!["ai_other_enabled".into()];
    let shut = [(GateKind::MasterSwitch, Opener::Platform), (GateKind::Plan, Opener::Platform)];
    assert_eq!(closed(&world, "other"), shut);
    world.exceptions = vec![exception("other", true, NOW.plus(1)), exception("drafts", false, NOW.plus(1))];
    assert_eq!(closed(&world, "other"), []);
    assert_eq!(closed(&world, "drafts"), [(GateKind::Plan, Opener::Platform)]);
    assert_eq!(closed(&world, "chat"), []);
    // What the tenant itself has switched off stays off.
    world.off = vec!["ai_other_enabled".into()];
    assert_eq!(closed(&world, "other"), [(GateKind::MasterSwitch, Opener::FeaturesPage)]);
    world.off.clear();
    world.exceptions = vec![exception("other", true, NOW), exception("drafts", false, NOW.minus(1))];
    assert_eq!(closed(&world, "other"), shut);
    assert_eq!(closed(&world, "drafts"), []);
}

#[test]
fn what_is_used_up_closes_the_budget_gate_of_what_it_would_pay() {
    let mut world = World::new(UsageMode::Byok, vec![key("production", Verdict::Works)]);
    world.policy.funding = Funding::Credits;
    world.spent = (true, false);
    assert_eq!(closed(&world, "drafts"), []);
    assert_eq!(closed(&world, "chat"), [(GateKind::Budget, Opener::CreditsPage)]);
    assert_eq!(world.code(Some("chat"), None), RefusalCode::Short(Shortage::Credits));
    world.spent = (false, false);
    world.spent_keys = vec![world.keys.views[0].id];
    assert_eq!(world.code(Some("drafts"), None), RefusalCode::Short(Shortage::KeyBudget));
    assert_eq!(closed(&world, "chat"), []);
    world.spent = (false, true);
    assert_eq!(world.code(Some("chat"), None), RefusalCode::Short(Shortage::TenantBudget));
}

#[test]
fn the_tenants_model_takes_the_place_of_the_features() {
    let mut world = World::new(UsageMode::Byok, vec![key("production", Verdict::Works)]);
    world.models = vec![("drafts".to_owned(), "claude-opus-5".to_owned())];
    let model = |feature| world.ask(Some(feature), None).feature.unwrap().default_model.clone();
    assert_eq!((model("drafts").as_deref(), model("chat")), (Some("claude-opus-5"), None));
}
