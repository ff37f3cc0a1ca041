//! What the audit log records. The log itself is append-only and chained: see `storage::audit`.

use uuid::Uuid;

use super::clock::Moment;
use super::ids::UserId;
use super::words;

words! {
    pub enum AuditAction {
        SignedIn = "user.signed_in",
        SignedOutEverywhere = "user.signed_out_everywhere",
        ResetAsked = "user.reset_asked",
        SignInFailed = "user.sign_in_failed",
        SignedOut = "user.signed_out",
        Confirmed = "user.confirmed",
        UserCreated = "user.created",
        UserDisabled = "user.disabled",
        UserEnabled = "user.enabled",
        PasswordReset = "user.password_reset",
        PasswordChanged = "user.password_changed",
        AuthenticatorAdded = "user.authenticator_added",
        AuthenticatorRemoved = "user.authenticator_removed",
        RecoveryCodesMade = "user.recovery_codes_made",
        PasskeyAdded = "user.passkey_added",
        PasskeyRemoved = "user.passkey_removed",
        SecondFactorsRemoved = "user.second_factors_removed",
        SessionRevoked = "session.revoked",
        MemberInvited = "member.invited",
        InvitationTakenBack = "member.invitation_taken_back",
        MemberAdded = "member.added",
        MemberRoleChanged = "member.role_changed",
        MemberRemoved = "member.removed",
        MemberLeft = "member.left",
        ClaimLinkMade = "tenant.claim_link_made",
        TenantClaimed = "tenant.claimed",
        LogSealed = "log.sealed",
        TokenRotated = "token.rotated",
        TenantCreated = "tenant.created",
        KeyAdded = "key.added",
        KeyChecked = "key.checked",
        KeyRotated = "key.rotated",
        KeyRotationUndone = "key.rotation_undone",
        KeyVersionForgotten = "key.version_forgotten",
        KeyRemoved = "key.removed",
        KeyMadeDefault = "key.made_default",
        KeyEdited = "key.edited",
        KeyScoped = "key.scoped",
        EndpointsAllowed = "platform.endpoints_allowed",
        KeyResumed = "key.resumed",
        KeyDisabled = "key.disabled",
        KeyEnabled = "key.enabled",
        KeyStateChanged = "key.state_changed",
        ModeChanged = "billing.mode_changed",
        PolicyChanged = "billing.policy_changed",
        FundingChanged = "billing.funding_changed",
        CreditsGranted = "credits.granted",
        CreditsAdjusted = "credits.adjusted",
        CreditsOrdered = "credits.ordered",
        CreditsBought = "credits.bought",
        CreditsRefunded = "credits.refunded",
        OrderCancelled = "credits.order_cancelled",
        CreditNoticeChanged = "credits.notice_changed",
        PlanTermsSet = "plan.terms_set",
        StatementClosed = "billing.statement_closed",
        PlanAdded = "plan.added",
        PlanChanged = "plan.changed",
        PlanRemoved = "plan.removed",
        FeatureAdded = "feature.added",
        FeatureChanged = "feature.changed",
        SwitchChanged = "feature.switch_changed",
        ModelChosen = "feature.model_chosen",
        GenerationRuled = "generation.ruled",
        QuestionsImported = "question.imported",
        QuestionRuled = "question.ruled",
        ArticleSaved = "question.article_saved",
        ExceptionMade = "feature.exception_made",
        ExceptionEnded = "feature.exception_ended",
        TenantPlanSet = "tenant.plan_set",
        TenantStateSet = "tenant.state_set",
        PricesImported = "prices.imported",
        PriceSet = "prices.set",
        BudgetSet = "budget.set",
        BudgetRemoved = "budget.removed",
        RateSet = "billing.rate_set",
        BreakerSet = "breaker.set",
        BreakerRemoved = "breaker.removed",
        BreakerTripped = "breaker.tripped",
        BreakerReset = "breaker.reset",
        ReportKeyAdded = "report_key.added",
        ReportKeyRemoved = "report_key.removed",
        WebhookAdded = "webhook.added",
        WebhookTested = "webhook.tested",
        WebhookRemoved = "webhook.removed",
        MailChoiceChanged = "settings.mail_choice_changed",
        RotationDaysSet = "settings.rotation_days_set",
        SecondFactorRuleChanged = "settings.second_factor_changed",
        KeyChangersChanged = "settings.key_changers_changed",
        TokenCreated = "token.created",
        TokenRevoked = "token.revoked",
        UsageExported = "usage.exported",
        AuditExported = "log.exported",
        SsoSet = "settings.sso_set",
        SsoDomainVerified = "settings.sso_domain_verified",
        SsoRequired = "settings.sso_required",
        SsoRemoved = "settings.sso_removed",
        SsoLinked = "member.linked",
        ViewingStarted = "viewing.started",
        ViewingEnded = "viewing.ended",
        ViewingRuleChanged = "settings.viewing_changed",
        PageViewed = "page.viewed",
        PolicyRefused = "policy.refused",
    }
}

impl AuditAction {
    /// Whether it is about what things cost and who pays: what billing admins may read.
    #[must_use]
    pub fn is_about_billing(self) -> bool {
        const KINDS: [&str; 6] = ["billing", "credits", "budget", "breaker", "report_key", "usage"];
        self.as_str().split('.').next().is_some_and(|kind| KINDS.contains(&kind))
    }
}

/// Who did it, as the log keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditActor {
    pub user_id: Option<UserId>,
    /// The e-mail address, or the name of the job or command that acted.
    pub name: String,
    pub address: Option<String>,
    pub request_id: Option<Uuid>,
    /// As whom it was seen, while staff look at a tenant.
    pub behalf_id: Option<UserId>,
}

impl AuditActor {
    /// A job or command of Keyward itself.
    #[must_use]
    pub fn system(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }
}

/// One thing that happened. `detail` is JSON without secrets: what was, and what is.
#[derive(Clone, Debug)]
pub struct AuditEvent {
    pub at: Moment,
    pub actor: AuditActor,
    pub action: AuditAction,
    pub target: String,
    pub detail: serde_json::Value,
}
