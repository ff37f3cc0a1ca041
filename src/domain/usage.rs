//! What one request used, and the row that records it.

use super::billing::{Fallback, Funding, UsageMode};
use super::clock::{MINUTE, Moment};
use super::ids::{InstanceId, KeyId, PriceId, RequestId, TenantId};
use super::money::Nanos;
use super::price::Multiplier;
use super::provider_key::Provider;
use super::words;

words! {
    /// The shape of the request and its answer on the wire.
    pub enum Dialect { Anthropic = "anthropic", Openai = "openai", Gemini = "gemini" }
}

impl Dialect {
    /// The provider whose dialect it is: where a request goes that names none.
    #[must_use]
    pub fn own_provider(self) -> Provider {
        match self {
            Self::Anthropic => Provider::Anthropic,
            Self::Openai => Provider::Openai,
            Self::Gemini => Provider::Google,
        }
    }

    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Anthropic => "Anthropic",
            Self::Openai => "OpenAI",
            Self::Gemini => "Gemini",
        }
    }
}

words! {
    /// How far a usage row has come, and how far its numbers can be trusted.
    pub enum UsageState {
        /// Sent upstream, not settled yet.
        Pending = "pending",
        /// Settled from the provider's own complete report.
        Final = "final",
        /// The answer ended early; the numbers are the provider's last report.
        Partial = "partial",
        /// The provider reported nothing; the numbers are an estimate.
        Estimated = "estimated",
    }
}

words! {
    pub enum ServiceTier {
        Standard = "standard",
        Priority = "priority",
        Batch = "batch",
        Flex = "flex",
    }
}

words! {
    pub enum Speed { Standard = "standard", Fast = "fast" }
}

/// Token and unit counters as a provider reports them. Kinds do not overlap, save that
/// `reasoning` is the part of `output` that was spent on thinking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenUsage {
    pub input: u64,
    pub cache_read: u64,
    pub cache_write_5m: u64,
    pub cache_write_1h: u64,
    pub output: u64,
    /// Part of `output`, shown but not rated.
    pub reasoning: u64,
    /// Web searches that the provider ran for the request.
    pub web_searches: u64,
    /// Audio in the prompt and in the answer, where the provider counts it apart.
    pub audio_input: u64,
    pub audio_output: u64,
    /// What tools that the provider ran gave back to the model, as part of its prompt.
    pub tool: u64,
}

impl TokenUsage {
    /// All tokens of the prompt: what a prompt-size price tier is chosen by.
    #[must_use]
    pub fn prompt(&self) -> u64 {
        self.input
            .saturating_add(self.cache_read)
            .saturating_add(self.cache_write_5m)
            .saturating_add(self.cache_write_1h)
            .saturating_add(self.audio_input)
            .saturating_add(self.tool)
    }

    /// Every counter, for whoever judges them all.
    #[must_use]
    pub fn all(&self) -> [u64; 10] {
        let Self {
            input,
            cache_read,
            cache_write_5m,
            cache_write_1h,
            output,
            reasoning,
            web_searches,
            audio_input,
            audio_output,
            tool,
        } = *self;
        [
            input,
            cache_read,
            cache_write_5m,
            cache_write_1h,
            output,
            reasoning,
            web_searches,
            audio_input,
            audio_output,
            tool,
        ]
    }
}

/// What a provider says of how the request ran, beside the counters: it changes the price.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServedAs {
    pub tier: ServiceTier,
    pub speed: Speed,
    /// The request was held to the United States (`inference_geo` of `us`).
    pub us_only: bool,
}

impl Default for ServedAs {
    fn default() -> Self {
        Self { tier: ServiceTier::Standard, speed: Speed::Standard, us_only: false }
    }
}

/// Free labels on a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    pub endpoint: Option<String>,
    pub session: Option<String>,
    pub prompt: Option<String>,
}

/// One request that was sent upstream. The row is written `pending` while the call runs and
/// written again, settled, when it ends.
#[derive(Clone, Debug, PartialEq)]
pub struct UsageRow {
    pub id: RequestId,
    pub tenant_id: TenantId,
    /// The run of the process that owes the settlement.
    pub instance: InstanceId,
    pub started_at: Moment,
    pub ended_at: Option<Moment>,
    pub feature: String,
    pub provider: Provider,
    pub dialect: Dialect,
    pub key_id: KeyId,
    pub key_name: String,
    pub key_version: i32,
    pub mode: UsageMode,
    pub funding: Funding,
    pub fallback: Option<Fallback>,
    pub model_asked: String,
    pub model_served: Option<String>,
    pub labels: Labels,
    pub tokens: TokenUsage,
    pub served_as: ServedAs,
    /// The provider's usage object as it came, JSON.
    pub raw_usage: Option<String>,
    pub price_id: Option<PriceId>,
    /// What was paid of the list price.
    pub rate: Multiplier,
    /// At the provider's list price.
    pub cost: Nanos,
    /// What the operator bills for it: zero on the tenant's own key and where it is included.
    pub billed: Nanos,
    /// What was kept back from credits and budgets while the call ran.
    pub held: Nanos,
    pub unpriced: bool,
    pub state: UsageState,
    /// HTTP status of the upstream's answer; `None` when there was none.
    pub status: Option<u16>,
    /// The provider's error type or Keyward's code.
    pub error_code: Option<String>,
    /// Microseconds from the start to the upstream's first byte and to its end.
    pub first_byte_us: Option<i64>,
    pub total_us: Option<i64>,
}

impl UsageRow {
    #[must_use]
    pub fn failed(&self) -> bool {
        self.status.is_none_or(|status| status >= 400) || self.error_code.is_some()
    }

    /// Whether it is paid from the tenant's credits.
    #[must_use]
    pub fn is_prepaid(&self) -> bool {
        self.mode == UsageMode::Managed && self.funding == Funding::Credits
    }

    /// The model that rollups and pages name: the one that served, or else the one asked for.
    #[must_use]
    pub fn model(&self) -> &str {
        self.model_served.as_deref().unwrap_or(&self.model_asked)
    }
}

words! {
    /// What usage is grouped and filtered by.
    pub enum Dimension {
        Feature = "feature",
        Model = "model",
        Key = "key",
        Endpoint = "endpoint",
        Session = "session",
        Prompt = "prompt",
        Mode = "mode",
    }
}

impl Dimension {
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Feature => "Feature",
            Self::Model => "Model",
            Self::Key => "Key",
            Self::Endpoint => "Endpoint",
            Self::Session => "Session",
            Self::Prompt => "Prompt",
            Self::Mode => "Usage mode",
        }
    }
}

/// Requests of which a dimension has this value. Empty stands for none.
pub type Filter = (Dimension, String);

/// Length of a rollup bucket. Quarter-hours, so that days add up in every time zone.
pub const BUCKET: i64 = 15 * MINUTE;

/// The start of the rollup bucket that a moment falls into.
#[must_use]
pub fn bucket_of(at: Moment) -> Moment {
    Moment(at.0.div_euclid(BUCKET) * BUCKET)
}

/// Tokens to expect of a request before anything is known: a quarter of its bytes going in, and
/// what it asks for coming out, at most 4,096.
#[must_use]
pub fn estimate(body_bytes: usize, max_output: Option<u64>) -> TokenUsage {
    TokenUsage {
        input: (body_bytes as u64).div_ceil(4),
        output: max_output.unwrap_or(4_096).min(4_096),
        ..TokenUsage::default()
    }
}

/// The most that a request is likely to use: what credits and budgets must have left for it. Asked for
/// no number, a model is taken to write 4,096 tokens, or as many as it can if those are fewer;
/// as often as answers are asked for.
#[must_use]
pub fn ceiling(
    body_bytes: usize,
    max_output: Option<u64>,
    model_limit: Option<u64>,
    answers: u64,
) -> TokenUsage {
    TokenUsage {
        input: (body_bytes as u64).div_ceil(4),
        output: max_output
            .unwrap_or(4_096)
            .min(model_limit.unwrap_or(u64::MAX))
            .saturating_mul(answers.max(1)),
        ..TokenUsage::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_quarter_hours_before_and_after_the_epoch() {
        assert_eq!(bucket_of(Moment(BUCKET + 1)), Moment(BUCKET));
        assert_eq!(bucket_of(Moment(BUCKET)), Moment(BUCKET));
        assert_eq!(bucket_of(Moment(-1)), Moment(-BUCKET));
    }

    #[test]
    fn an_estimate_is_bounded() {
        assert_eq!(estimate(10, Some(7)).input, 3);
        assert_eq!(estimate(10, Some(7)).output, 7);
        assert_eq!(estimate(0, Some(64_000)).output, 4_096);
        assert_eq!(estimate(0, None).output, 4_096);
    }
}
