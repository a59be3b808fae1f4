//! The answer as one object, and the parts that streams share with it.

use serde::Serialize;
use shoal_node::{FinishReason, Usage};

use super::{Identity, SYSTEM_FINGERPRINT};

/// OpenAI's `chat.completion`.
#[derive(Debug, Serialize)]
pub(super) struct Completion {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    system_fingerprint: &'static str,
    choices: [Choice; 1],
    usage: UsageObject,
}

#[derive(Debug, Serialize)]
struct Choice {
    index: u32,
    message: Message,
    logprobs: Option<()>,
    finish_reason: &'static str,
}

#[derive(Debug, Serialize)]
struct Message {
    role: &'static str,
    content: String,
    refusal: Option<()>,
}

/// OpenAI's `usage`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct UsageObject {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u64,
    prompt_tokens_details: PromptTokensDetails,
}

#[derive(Debug, Clone, Serialize)]
struct PromptTokensDetails {
    cached_tokens: u32,
}

impl Completion {
    pub(super) fn new(
        identity: Identity,
        content: String,
        reason: FinishReason,
        usage: Usage,
    ) -> Self {
        Self {
            id: identity.id,
            object: "chat.completion",
            created: identity.created_s,
            model: identity.model,
            system_fingerprint: SYSTEM_FINGERPRINT,
            choices: [Choice {
                index: 0,
                message: Message { role: "assistant", content, refusal: None },
                logprobs: None,
                finish_reason: finish_reason(reason),
            }],
            usage: usage.into(),
        }
    }
}

impl From<Usage> for UsageObject {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.n_prompt,
            completion_tokens: usage.n_generated,
            total_tokens: u64::from(usage.n_prompt) + u64::from(usage.n_generated),
            prompt_tokens_details: PromptTokensDetails { cached_tokens: usage.n_cached },
        }
    }
}

pub(super) fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}
