//! Who and what the demo shows: features, plans, tenants in every state worth seeing, and their people.

use crate::domain::billing::{Funding, LimitPolicy, NoKeyPolicy, UsageMode};
use crate::domain::provider_key::Provider;

/// Features: slug, name, description, covered by own keys, default model, and what one request may take in
/// and give out.
pub const FEATURES: &[ShippedFeature] = &[
    (
        "question-suggestions",
        "Unanswered question suggestions",
        "Suggests an answer to a question that the bot could not answer",
        true,
        "claude-haiku-4-5",
        None,
    ),
    (
        "community-manager",
        "Community manager",
        "Greets new posts and summarises long threads",
        true,
        "claude-sonnet-4-5",
        None,
    ),
    (
        "kb-drafts",
        "Knowledge base drafts",
        "Drafts an article from a solved conversation",
        true,
        "claude-opus-4-5",
        None,
    ),
    ("main-chatbot", "Main chatbot", "Answers customers on the website", false, "claude-sonnet-5", None),
    (
        "workflow-nodes",
        "Workflow AI nodes",
        "Classifies and routes incoming messages",
        false,
        "claude-haiku-5-5",
        None,
    ),
    (
        "quick-scan",
        "Quick scan",
        "Looks through a change for what stands out",
        true,
        "claude-haiku-4-5",
        Some((75_000, 5_000)),
    ),
    (
        "code-review",
        "Code review",
        "Reads a change with the files around it",
        true,
        "claude-sonnet-5",
        Some((120_000, 12_000)),
    ),
    (
        "deep-analysis",
        "Deep analysis",
        "Follows a change through the whole of the code",
        true,
        "claude-opus-5",
        Some((180_000, 20_000)),
    ),
];

pub type ShippedFeature = (&'static str, &'static str, &'static str, bool, &'static str, Option<(u64, u64)>);

/// Plans: slug, name, number of features that it includes, in the order above, dollars a month, and the
/// fee for own keys in thousandths.
pub const PLANS: &[(&str, &str, usize, i64, i64)] = &[
    ("free", "Free", 0, 0, 0),
    ("starter", "Starter", 1, 29, 50),
    ("pro", "Pro", 4, 99, 25),
    ("creator-plus", "Creator Plus", 4, 149, 25),
    ("sovereign", "Sovereign", 8, 499, 0),
    ("enterprise", "Enterprise", 8, 999, 0),
];

pub struct Sample {
    pub slug: &'static str,
    pub name: &'static str,
    pub plan: &'static str,
    pub zone: &'static str,
    pub mode: UsageMode,
    pub no_key: NoKeyPolicy,
    pub on_limit: LimitPolicy,
    /// Anthropic keys to add: name, label, and the word that tells the sandbox how to behave.
    pub keys: &'static [(&'static str, &'static str, &'static str)],
    /// Keys of other providers that work: provider, name and label.
    pub others: &'static [(Provider, &'static str, &'static str)],
    /// Requests on a busy day.
    pub traffic: u32,
    /// Days ago that the tenant changed from managed use to its own key.
    pub switched: Option<i64>,
    /// How managed use is paid.
    pub funding: Funding,
    /// Whether its calls are answered, and so whether its token is on the card.
    pub answers: bool,
}

pub const SAMPLES: &[Sample] = &[
    Sample {
        slug: "northwind",
        name: "Northwind Support",
        plan: "pro",
        zone: "Europe/Berlin",
        mode: UsageMode::Byok,
        no_key: NoKeyPolicy::Managed,
        on_limit: LimitPolicy::Pause,
        keys: &[("production", "Support workspace", "ok"), ("batch-eval", "Evaluation runs", "ok")],
        others: &[
            (Provider::Openai, "openai-search", "Embeddings for the help centre"),
            (Provider::Azure, "azure-eu", "Customers in the EU"),
        ],
        traffic: 70,
        switched: Some(20),
        funding: Funding::Included,
        answers: true,
    },
    Sample {
        slug: "globex",
        name: "Globex",
        plan: "starter",
        zone: "America/New_York",
        mode: UsageMode::Managed,
        no_key: NoKeyPolicy::Managed,
        on_limit: LimitPolicy::Pause,
        keys: &[],
        others: &[],
        traffic: 40,
        switched: None,
        funding: Funding::Included,
        answers: true,
    },
    Sample {
        slug: "initech",
        name: "Initech",
        plan: "pro",
        zone: "America/Chicago",
        mode: UsageMode::Byok,
        no_key: NoKeyPolicy::Block,
        on_limit: LimitPolicy::Pause,
        keys: &[("production", "", "spendlimit")],
        others: &[],
        traffic: 30,
        switched: Some(45),
        funding: Funding::Included,
        answers: false,
    },
    Sample {
        slug: "hooli",
        name: "Hooli",
        plan: "enterprise",
        zone: "America/Los_Angeles",
        mode: UsageMode::Byok,
        no_key: NoKeyPolicy::Block,
        on_limit: LimitPolicy::Pause,
        keys: &[("production", "", "forbidden-later")],
        others: &[],
        traffic: 20,
        switched: Some(30),
        funding: Funding::Included,
        answers: false,
    },
    Sample {
        slug: "umbrella",
        name: "Umbrella Care",
        plan: "creator-plus",
        zone: "Asia/Kolkata",
        mode: UsageMode::Managed,
        no_key: NoKeyPolicy::Managed,
        on_limit: LimitPolicy::Pause,
        keys: &[],
        others: &[],
        traffic: 15,
        switched: None,
        funding: Funding::Credits,
        answers: false,
    },
];

/// People: address, role, tenant.
pub const PEOPLE: &[(&str, &str, Option<&str>)] = &[
    ("root@acme.example", "super_admin", None),
    ("support@acme.example", "support", None),
    ("admin@northwind.example", "admin", Some("northwind")),
    ("billing@northwind.example", "billing_admin", Some("northwind")),
    ("member@northwind.example", "member", Some("northwind")),
    ("admin@globex.example", "admin", Some("globex")),
    ("member@globex.example", "member", Some("globex")),
    ("admin@initech.example", "admin", Some("initech")),
    ("admin@hooli.example", "admin", Some("hooli")),
    ("admin@umbrella.example", "admin", Some("umbrella")),
];

/// What the bot of one of the tenants could not answer: how often it was asked, the question, and what
/// else is known of it.
pub const QUESTIONS: &[(i64, &str, &str)] = &[
    (
        41,
        "Can I move my subscription to another workspace without losing the history?",
        "Asked on the page Billing. The bot offered the article \"Change your plan\", which was marked as not helpful.",
    ),
    (17, "Does the webhook retry when our server answers 503, and for how long?", ""),
    (9, "Why do I get the invoice in euros although my account is in pounds?", "Asked on the page Invoices."),
    (2, "Is there a way to see who changed the opening hours?", ""),
];

/// What the community manager is asked to write for one of the tenants: kind, title and post.
pub const POSTS: &[(&str, &str, &str)] = &[
    (
        "greeting",
        "New here, and fond of rye",
        "Hello everybody! I have baked for a year, mostly with rye, and hope to learn how you shape your loaves.",
    ),
    (
        "reply",
        "My sourdough does not rise",
        "I feed it every day, and it smells right, but after twelve hours the dough has hardly grown. The kitchen has 17 degrees.",
    ),
    (
        "summary",
        "Which flour for a first loaf?",
        "A: Strong white flour forgives most. B: Half wholemeal tastes better. C: With wholemeal use more water, about 75%. A: Agreed, but not for a first one. Open: nobody knows whether the mill in town sells to private people.",
    ),
];
