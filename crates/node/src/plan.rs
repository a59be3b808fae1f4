//! What people ask of placement, and what the planner answers, in plain data.

use std::time::{Duration, SystemTime};

use shoal_proto::{LayerRange, NodeId};

/// How a model is to be placed. `Default` leaves everything to the planner.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PlaceRequest {
    /// `demo`, a model's name, or a path.
    pub model: String,
    /// The fewest nodes that share it; `None` for one.
    pub min_nodes: Option<usize>,
    /// The most nodes that share it; `None` for all.
    pub max_nodes: Option<usize>,
    /// Positions of every sequence; `None` for the node's setting.
    pub n_ctx: Option<u32>,
    /// Nodes that take no layers.
    pub exclude: Vec<NodeId>,
    /// Layers that certain nodes take.
    pub pinned: Vec<(NodeId, LayerRange)>,
    /// How many independent copies; requests are spread over them. `None` for one.
    pub replicas: Option<usize>,
    /// Many requests at once count more than the speed of one.
    pub for_throughput: bool,
}

/// What the planner says about a model on this cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanReport {
    /// The model's name.
    pub model: String,
    /// Positions of every sequence.
    pub n_ctx: u32,
    /// Tokens of the prompt that the time to the first token is predicted for.
    pub n_prompt: u32,
    /// The gist, in one sentence.
    pub sentence: String,
    /// The best first.
    pub candidates: Vec<PlanCandidate>,
    /// Nodes that take no layers in the best candidate, and why.
    pub left_out: Vec<LeftOut>,
    /// What each further node brings: the best with one node, with two, and so on.
    pub each_further: Vec<Help>,
}

/// One way to place a model.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanCandidate {
    /// Who runs which layers, in order.
    pub stages: Vec<PlanStage>,
    /// Predicted speed of one conversation.
    pub tokens_per_s: f64,
    /// Predicted time to the first token.
    pub first_token: Duration,
    /// Predicted speed of as many conversations as there are stages, together.
    pub aggregate_tokens_per_s: f64,
    /// Predicted time to bring missing layers to their nodes.
    pub fetch: Duration,
}

/// One stage of a candidate.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanStage {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its layers.
    pub layers: LayerRange,
    /// Bytes of their weights.
    pub weight_bytes: u64,
    /// Memory for weights, KV cache and buffers, in bytes.
    pub memory_bytes: u64,
    /// Bytes that it would have to fetch.
    pub fetch_bytes: u64,
    /// Predicted computing time for each token.
    pub compute: Duration,
    /// Predicted time of the way to the next stage, or from the last to the node that drives.
    pub hop: Duration,
}

/// A node that takes no layers.
#[derive(Debug, Clone, PartialEq)]
pub struct LeftOut {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Why, for people.
    pub why: String,
}

/// The best that a number of nodes can do.
#[derive(Debug, Clone, PartialEq)]
pub struct Help {
    /// How many nodes.
    pub n_nodes: usize,
    /// Predicted speed of one conversation; `None` if the model does not fit them.
    pub tokens_per_s: Option<f64>,
    /// Predicted time to the first token.
    pub first_token: Option<Duration>,
    /// Predicted speed of as many conversations as nodes, together.
    pub aggregate_tokens_per_s: Option<f64>,
}

/// How an invitation is limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InviteOptions {
    /// How long it is good for; `None` for ever.
    pub valid_for: Option<Duration>,
    /// Whether it admits one device only.
    pub single_use: bool,
}

/// An invitation that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invited {
    /// Its name, for those who made it.
    pub id: String,
    /// What the other device needs.
    pub ticket: String,
    /// When it ends, in whole seconds; `None` for never.
    pub expires_at: Option<SystemTime>,
}

/// One thing that `doctor` looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// A stable name for programs.
    pub id: &'static str,
    /// What should be so.
    pub title: &'static str,
    /// `ok`, `warning`, `problem` or `skipped`.
    pub state: &'static str,
    /// What was found.
    pub found: String,
    /// What to do about it; empty if nothing.
    pub what_to_do: String,
}

/// What `doctor` found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// `ok`, `note`, `warning` or `problem`.
    pub severity: &'static str,
    /// A stable name for programs.
    pub code: &'static str,
    /// What is so, in one sentence.
    pub sentence: String,
    /// What to do about it; empty if nothing.
    pub what_to_do: String,
}
