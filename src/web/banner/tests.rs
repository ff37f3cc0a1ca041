use std::sync::Arc;

use jiff::tz::TimeZone;

use super::*;
use crate::domain::account::{KeyChangers, ROTATION_DAYS, SecondFactorRule, Slug, Tenant};
use crate::domain::billing::{Funding, PaymentPolicy};
use crate::domain::clock::{MINUTE, Moment};
use crate::domain::ids::{KeyId, Owner, PlanId, TenantId};
use crate::domain::plan::Plan;
use crate::domain::price::Multiplier;
use crate::domain::price::PriceBook;
use crate::domain::provider_key::{KeyScope, KeySettings, KeyStatus, KeyVersion, Verdict};
use crate::services::directory::{KeyRing, PlatformView, TenantView};
use crate::services::overview::SpentUp;

const NOW: Moment = Moment(1_000 * MINUTE);

fn key(owner: Owner, verdict: Verdict) -> ProviderKey {
    ProviderKey {
        id: KeyId::new(),
        owner,
        provider: Provider::Anthropic,
        name: Slug::parse("production").unwrap(),
        label: None,
        is_default: true,
        disabled: None,
        created_at: NOW,
        created_by: None,
        created_by_name: String::new(),
        scope: KeyScope::default(),
        rate: Multiplier::LIST,
        current: KeyVersion {
            settings: KeySettings::default(),
            version: 1,
            custom_url: None,
            hint: String::new(),
            fingerprint: String::new(),
            status: KeyStatus::from_check(verdict, NOW),
            created_at: NOW,
            created_by_name: String::new(),
            checked_at: Some(NOW),
            replaced_at: None,
            destroy_at: None,
        },
        last_used_at: None,
    }
}

fn banner(
    mode: UsageMode,
    no_key: NoKeyPolicy,
    on_limit: LimitPolicy,
    own: Option<Verdict>,
    shared: Option<Verdict>,
) -> Banner {
    let policy = PaymentPolicy { mode, funding: Funding::Included, no_key, on_limit, rate: Multiplier::LIST };
    let tenant = TenantId::new();
    let own = own.map(|verdict| key(Owner::Tenant(tenant), verdict));
    said(tenant, TenantState::Active, policy, own.as_ref(), shared)
}

fn said(
    tenant: TenantId,
    state: TenantState,
    policy: PaymentPolicy,
    own: Option<&ProviderKey>,
    shared: Option<Verdict>,
) -> Banner {
    let shared = shared.map(|verdict| key(Owner::Platform, verdict));
    let ring = |key: Option<&ProviderKey>| KeyRing {
        views: crate::domain::provider_key::Keys::new(key.map(ProviderKey::view).into_iter().collect()),
        ..KeyRing::default()
    };
    let plan = Plan {
        id: PlanId::new(),
        slug: "pro".into(),
        name: "Pro".into(),
        features: [].into(),
        models: [].into(),
    };
    let standing = Standing {
        tenant: Arc::new(TenantView::for_test(
            Tenant {
                id: tenant,
                slug: Slug::parse("acme").unwrap(),
                name: "Acme".into(),
                plan_id: plan.id,
                state,
                key_changers: KeyChangers::Admins,
                second_factor: SecondFactorRule::Optional,
                sso_required: false,
                sso_sessions_from: crate::domain::clock::Moment(0),
                viewing: crate::domain::viewing::ViewingRule::default(),
                rotation_days: ROTATION_DAYS,
                time_zone: "UTC".into(),
                created_at: NOW,
            },
            policy,
            plan,
            ring(own),
        )),
        platform: Arc::new(PlatformView::for_test(PriceBook::new(Vec::new()), ring(shared.as_ref()))),
        now: NOW,
        spent: SpentUp::default(),
    };
    let times = Times { now: NOW, zone: TimeZone::UTC };
    of(&Subject {
        standing: &standing,
        provider: Provider::Anthropic,
        key: own,
        other_keys: false,
        product: "Acme Cloud",
        times: &times,
        root: "/t/acme",
        hand: Hand::Yours,
        may_change_billing: true,
    })
}

/// Every state of §3 and what the banner says of it.
#[test]
fn every_state_has_its_sentence() {
    use LimitPolicy::{Managed as Stand, Pause};
    use NoKeyPolicy::{Block, Managed as Fall};
    use UsageMode::{Byok, Managed};
    let ok = Some(Verdict::Works);
    let spend = Some(Verdict::SpendLimit { until: None });
    let rate = Some(Verdict::RateLimited { until: NOW.plus(MINUTE) });
    let shared = "Using Acme Cloud's shared Anthropic infrastructure.";
    let down = "AI is stopped: Acme Cloud's shared Anthropic account cannot serve requests.";
    let table = [
        (Managed, Fall, Pause, None, ok, Tone::Plain, shared),
        (Managed, Block, Pause, ok, ok, Tone::Plain, shared),
        (Managed, Fall, Pause, None, None, Tone::Bad, down),
        (Byok, Fall, Pause, None, ok, Tone::Warn, shared),
        (Byok, Fall, Pause, None, None, Tone::Bad, down),
        (Byok, Block, Pause, None, ok, Tone::Bad, "AI is stopped: no Anthropic key is set up."),
        (Byok, Block, Pause, ok, None, Tone::Good, "Using your own Anthropic key."),
        (Byok, Fall, Stand, Some(Verdict::Rejected), ok, Tone::Bad, "Anthropic rejected your key."),
        (Byok, Fall, Pause, Some(Verdict::Unreachable), ok, Tone::Warn, "Using your own Anthropic key."),
        (
            Byok,
            Fall,
            Pause,
            Some(Verdict::OutOfCredit),
            ok,
            Tone::Bad,
            "AI is paused: your Anthropic account is out of credit.",
        ),
        (
            Byok,
            Fall,
            Stand,
            Some(Verdict::OutOfCredit),
            ok,
            Tone::Warn,
            "Using Acme Cloud's shared Anthropic infrastructure: your Anthropic account is out of credit.",
        ),
        (
            Byok,
            Fall,
            Stand,
            Some(Verdict::OutOfCredit),
            None,
            Tone::Bad,
            "AI is stopped: your Anthropic account is out of credit.",
        ),
        (Byok, Fall, Pause, spend, ok, Tone::Bad, "AI is paused: your Anthropic spend limit is reached."),
        (
            Byok,
            Fall,
            Pause,
            rate,
            ok,
            Tone::Warn,
            "AI is paused: Anthropic is limiting the rate of your key.",
        ),
        (
            Byok,
            Fall,
            Stand,
            rate,
            ok,
            Tone::Warn,
            "Using Acme Cloud's shared Anthropic infrastructure: Anthropic is limiting the rate of your key.",
        ),
    ];
    for (mode, no_key, on_limit, own, shared, tone, sentence) in table {
        let banner = banner(mode, no_key, on_limit, own, shared);
        assert_eq!((banner.tone, banner.sentence.as_str()), (tone, sentence), "{mode} {own:?} {shared:?}");
    }
}

fn of_key(key: &ProviderKey, state: TenantState) -> (Tone, String, String) {
    let policy = PaymentPolicy {
        mode: UsageMode::Byok,
        funding: Funding::Included,
        no_key: NoKeyPolicy::Managed,
        on_limit: LimitPolicy::Managed,
        rate: Multiplier::LIST,
    };
    let Owner::Tenant(tenant) = key.owner else { panic!("a tenant's key") };
    let banner = said(tenant, state, policy, Some(key), Some(Verdict::Works));
    (banner.tone, banner.sentence, banner.detail.to_string())
}

#[test]
fn when_a_key_was_checked_is_told_and_no_more() {
    let own = key(Owner::Tenant(TenantId::new()), Verdict::Works);
    let (tone, sentence, detail) = of_key(&own, TenantState::Active);
    assert_eq!((tone, sentence.as_str()), (Tone::Good, "Using your own Anthropic key."));
    let begins = "Last checked <time datetime=\"1970-01-01T16:40:00";
    assert!(detail.starts_with(begins), "{detail}");
}

#[test]
fn what_is_switched_off_is_told_by_whom() {
    let mut own = key(Owner::Tenant(TenantId::new()), Verdict::Works);
    let stopped = "AI is stopped: your Anthropic key is disabled.";
    for (by, told) in [
        (DisabledBy::Operator, "Acme Cloud disabled it, and only they can enable it again."),
        (DisabledBy::Tenant, "Requests of covered features are refused until it is enabled again."),
    ] {
        own.disabled = Some(by);
        let (tone, sentence, detail) = of_key(&own, TenantState::Active);
        assert_eq!((tone, sentence.as_str()), (Tone::Bad, stopped));
        assert!(detail.starts_with(told), "{detail}");
    }
    let (tone, sentence, _) = of_key(&own, TenantState::Suspended);
    assert_eq!((tone, sentence.as_str()), (Tone::Bad, "AI is stopped: this account is suspended."));
}
