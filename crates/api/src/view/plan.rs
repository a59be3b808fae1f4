//! What the API says of placements that are possible. Times are in milliseconds, sizes in bytes.

use serde::{Deserialize, Serialize};
use shoal_node::{Help, LeftOut, PlanCandidate, PlanReport, PlanStage};

use super::{cluster::bounds, ms};

/// What `/plan` answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanView {
    /// The model's name.
    pub model: String,
    /// Positions of a sequence.
    pub context: u32,
    /// Tokens of the prompt that times to the first token are predicted for.
    pub prompt_tokens: u32,
    /// The gist, in one sentence.
    pub sentence: String,
    /// The best first.
    pub candidates: Vec<CandidateView>,
    /// Nodes that take no layers in the best candidate.
    pub left_out: Vec<LeftOutView>,
    /// The best with one node, with two, and so on.
    pub each_further: Vec<HelpView>,
}

/// One way to place a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CandidateView {
    /// Predicted speed of one conversation.
    pub tokens_per_s: f64,
    /// Predicted time to the first token.
    pub first_token_ms: f64,
    /// Predicted speed of as many conversations as there are stages, together.
    pub aggregate_tokens_per_s: f64,
    /// Predicted time to bring missing layers to their nodes.
    pub fetch_ms: f64,
    /// Who runs which layers, in order.
    pub stages: Vec<PlanStageView>,
}

/// One stage of a candidate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanStageView {
    /// The node's id.
    pub node: String,
    /// Its name.
    pub name: String,
    /// Its layers `[start, end)`.
    pub layers: [u32; 2],
    /// Bytes of their weights.
    pub weight_bytes: u64,
    /// Memory for weights, KV cache and buffers.
    pub memory_bytes: u64,
    /// Bytes that it would have to fetch.
    pub fetch_bytes: u64,
    /// Predicted computing time for each token.
    pub compute_ms: f64,
    /// Predicted time of the way to the next stage, or from the last to the node that drives.
    pub hop_ms: f64,
}

/// A node that takes no layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOutView {
    /// The node's id.
    pub node: String,
    /// Its name.
    pub name: String,
    /// Why, for people.
    pub why: String,
}

/// The best that a number of nodes can do; without numbers if the model does not fit them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HelpView {
    /// How many nodes.
    pub n_nodes: usize,
    /// Predicted speed of one conversation.
    pub tokens_per_s: Option<f64>,
    /// Predicted time to the first token.
    pub first_token_ms: Option<f64>,
    /// Predicted speed of as many conversations as nodes, together.
    pub aggregate_tokens_per_s: Option<f64>,
}

impl From<PlanReport> for PlanView {
    fn from(report: PlanReport) -> Self {
        Self {
            model: report.model,
            context: report.n_ctx,
            prompt_tokens: report.n_prompt,
            sentence: report.sentence,
            candidates: report.candidates.into_iter().map(CandidateView::from).collect(),
            left_out: report.left_out.into_iter().map(LeftOutView::from).collect(),
            each_further: report.each_further.into_iter().map(HelpView::from).collect(),
        }
    }
}

impl From<PlanCandidate> for CandidateView {
    fn from(candidate: PlanCandidate) -> Self {
        Self {
            tokens_per_s: candidate.tokens_per_s,
            first_token_ms: ms(candidate.first_token),
            aggregate_tokens_per_s: candidate.aggregate_tokens_per_s,
            fetch_ms: ms(candidate.fetch),
            stages: candidate.stages.into_iter().map(PlanStageView::from).collect(),
        }
    }
}

impl From<PlanStage> for PlanStageView {
    fn from(stage: PlanStage) -> Self {
        Self {
            node: stage.node.to_string(),
            name: stage.name,
            layers: bounds(stage.layers),
            weight_bytes: stage.weight_bytes,
            memory_bytes: stage.memory_bytes,
            fetch_bytes: stage.fetch_bytes,
            compute_ms: ms(stage.compute),
            hop_ms: ms(stage.hop),
        }
    }
}

impl From<LeftOut> for LeftOutView {
    fn from(left_out: LeftOut) -> Self {
        Self { node: left_out.node.to_string(), name: left_out.name, why: left_out.why }
    }
}

impl From<Help> for HelpView {
    fn from(help: Help) -> Self {
        Self {
            n_nodes: help.n_nodes,
            tokens_per_s: help.tokens_per_s,
            first_token_ms: help.first_token.map(ms),
            aggregate_tokens_per_s: help.aggregate_tokens_per_s,
        }
    }
}
