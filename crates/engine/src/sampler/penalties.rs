//! Penalties for what was said already.

use shoal_proto::{SamplingParams, TokenId};

use super::{Logits, comparable};

/// Lowers the logits of the last tokens: by the repetition penalty of CTRL (arXiv:1909.05858), once however often a token
/// occurred; then by OpenAI's frequency penalty for each time, and by its presence penalty once.
pub(super) fn penalize<L: Logits + ?Sized>(
    logits: &mut L,
    params: &SamplingParams,
    history: &[TokenId],
) {
    let SamplingParams { repeat_penalty, frequency_penalty, presence_penalty, .. } = *params;
    if repeat_penalty == 1.0 && frequency_penalty == 0.0 && presence_penalty == 0.0 {
        return;
    }
    let n_last = history.len().min(params.repeat_last_n as usize);
    let mut recent = history[history.len() - n_last..].to_vec();
    recent.sort_unstable();
    for times in recent.chunk_by(PartialEq::eq) {
        let Some(logit) = logits.of(times[0]) else { continue };
        let repeated = if *logit > 0.0 { *logit / repeat_penalty } else { *logit * repeat_penalty };
        *logit = comparable(repeated - times.len() as f32 * frequency_penalty - presence_penalty);
    }
}
