//! Which nodes run which layers of a model, and what that will feel like.
//!
//! A placement is an order of some of the nodes and a cut of the layers into one consecutive range for each. Its *time per
//! token* is the sum over its stages of what they compute (the bytes that a decode step reads ÷ the node's measured rate, and
//! a fixed cost) and of the hops between them, since one request is at one stage at a time. Its *slowest stage* (computing and
//! its hop) bounds how fast many requests, or the chunks of one long prompt, follow each other.
//!
//! [`plan`] looks for the best placement over each number of nodes, under every node's memory, and ranks these. With
//! [`Objective::Latency`]:
//!
//! 1. the time per token, of which up to a tenth ([`BALANCE`]) is given for the next;
//! 2. the greatest share, where everything within half a percent ([`TIE`]) is a tie: chunks of a prompt and several requests
//!    overlap in the pipeline, and equal phones should share equally although their measured speeds never quite agree. A stage's
//!    share is its hop and a quarter ([`DECODE_SHARE`]) what it decodes, three quarters what it computes of a prompt: each token
//!    that is decoded reads the head at the last stage, but a whole prompt needs it once. For this
//!    no hop is added: if the driver has the first or the last stage of the fastest placement, it keeps one of them, since from
//!    between two stages each token would cross the network once more;
//! 3. the time per token plus a price for fetching: having to fetch the whole model counts as half a percent of the time.
//!
//! With [`Objective::Throughput`] the slowest stage comes first. Between numbers of nodes, after the objective (with the same
//! ties), fewer bytes to fetch win, then fewer nodes. What still ties goes to the driver and then to lower node ids, so the
//! order in which nodes are given changes nothing.
//!
//! Times are whole picoseconds inside: sums are exact and do not depend on their order. Up to [`EXACT_NODES`] usable nodes the
//! search is exhaustive (`subsets`); above, it is a local search (`search`) around it.

mod chain;
mod derate;
mod explain;
mod problem;
mod refine;
mod search;
mod subsets;

use shoal_proto::{
    LayerRange, NodeId,
    control::{Placement, Stage},
};

pub use derate::derate;
use problem::{Cut, NEVER, Problem, seconds};

/// Up to this many usable nodes a plan is optimal: the exhaustive search grows by more than twice with each.
pub const EXACT_NODES: usize = 8;
/// Nodes beyond this many, the least capable ones, are not looked at: more stages than this never pay.
pub const MAX_NODES: usize = 32;
/// Layers of the largest model that is planned, about four times those of the deepest known ones.
pub const MAX_LAYERS: u32 = 512;
/// Two predictions whose difference is below one part in this many are taken as equal: no measurement is better.
pub const TIE: u64 = 200;
/// With [`Objective::Latency`] one part in this many of the time per token is given for a faster slowest stage. Speeds of
/// equal machines were measured up to a tenth apart; without this the faster one would get nearly all layers.
pub const BALANCE: u64 = 10;
/// What decoding counts in the balance of stages; prompts are the rest. With more, the last stage of a model with a great head has
/// so few layers that a prompt waits for the others (TinyLlama over two equal nodes: 12 and 10 layers instead of 11 and 11); with
/// less, several requests wait for the head.
pub const DECODE_SHARE: f64 = 0.25;
/// Tokens of one chunk of a prompt, as stages pass them on during prefill.
pub const CHUNK_TOKENS: u32 = 64;
/// Candidates that a plan lists.
const MAX_CANDIDATES: usize = 8;

/// What the planner must know of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelShape {
    /// Number of layers.
    pub n_layer: u32,
    /// Weight bytes of each layer, all of which one decode step reads.
    pub layer_bytes: Vec<u64>,
    /// KV cache of each layer, in bytes per position.
    pub kv_bytes: Vec<u64>,
    /// Bytes of the embedding, resident at the first stage.
    pub embedding_bytes: u64,
    /// Bytes of the head, resident at the last stage and read for each token.
    pub head_bytes: u64,
    /// Whether head and embedding are the same bytes: a node that is first and last stage holds them once.
    pub head_is_tied: bool,
    /// Multiply-accumulates per token of each layer.
    pub layer_macs: Vec<u64>,
    /// Multiply-accumulates of the head for one token.
    pub head_macs: u64,
    /// Width of the activations, in f32.
    pub n_embd: u32,
    /// Scratch memory of any stage, in bytes.
    pub buffer_bytes: u64,
}

/// A node that can take layers.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanNode {
    /// The node.
    pub node: NodeId,
    /// Memory that is really free for models, in bytes.
    pub memory_bytes: u64,
    /// Weight bytes that its decode reads per second.
    pub decode_bytes_per_s: f64,
    /// Multiply-accumulates per second of its prefill.
    pub prefill_macs_per_s: f64,
    /// Fixed cost of one step at a stage, in seconds.
    pub step_s: f64,
    /// Layers whose bytes it has on disk; layer 0 includes the embedding, the last one the head.
    pub held: Vec<LayerRange>,
    /// Share of its rates to count on ([`derate`]); 1 is all.
    pub derate: f64,
}

/// How two nodes reach each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// Round trip, in seconds.
    pub rtt_s: f64,
    /// Bandwidth, in bytes per second.
    pub bytes_per_s: f64,
}

impl Link {
    /// Seconds until `bytes` have arrived.
    pub fn hop_s(&self, bytes: u64) -> f64 {
        self.rtt_s / 2.0 + bytes as f64 / self.bytes_per_s
    }
}

/// The links between nodes: the same in both directions, a default where nothing was measured, no time within one node.
#[derive(Debug, Clone, PartialEq)]
pub struct Links {
    unknown: Link,
    known: std::collections::BTreeMap<(NodeId, NodeId), Link>,
}

impl Links {
    /// Makes links that are all `unknown`, the guess for pairs that nobody measured.
    pub fn new(unknown: Link) -> Self {
        Self { unknown, known: std::collections::BTreeMap::new() }
    }

    /// Sets the link between `a` and `b`, in both directions.
    pub fn set(&mut self, a: NodeId, b: NodeId, link: Link) {
        self.known.insert((a.min(b), a.max(b)), link);
    }

    /// Returns the link between `a` and `b`.
    pub fn get(&self, a: NodeId, b: NodeId) -> Link {
        if a == b {
            return Link { rtt_s: 0.0, bytes_per_s: f64::INFINITY };
        }
        self.known.get(&(a.min(b), a.max(b))).copied().unwrap_or(self.unknown)
    }
}

/// What a plan makes best.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objective {
    /// The time per token of a single request.
    Latency,
    /// The slowest stage, which bounds the tokens per second of many requests.
    Throughput,
}

/// What is asked of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanRequest {
    /// What to make best.
    pub objective: Objective,
    /// Positions of each sequence's KV cache.
    pub n_ctx: u32,
    /// Sequences that KV cache is reserved for.
    pub n_sequences: u32,
    /// Tokens of the prompt that the time to the first token is predicted for.
    pub n_prompt: u32,
    /// Fewest nodes to use.
    pub min_nodes: usize,
    /// Most nodes to use.
    pub max_nodes: usize,
    /// Nodes that take no layers.
    pub exclude: Vec<NodeId>,
    /// Nodes that run exactly these layers; each is used.
    pub pinned: Vec<(NodeId, LayerRange)>,
    /// The node that talks to the client: tokens go from the last stage to it, and from it to the first stage.
    pub driver: NodeId,
    /// How fast a node fetches weights, in bytes per second.
    pub fetch_bytes_per_s: f64,
}

impl PlanRequest {
    /// Asks for the lowest latency with one sequence of `n_ctx` positions, on as many nodes as it takes.
    pub fn new(driver: NodeId, n_ctx: u32) -> Self {
        Self {
            objective: Objective::Latency,
            n_ctx,
            n_sequences: 1,
            n_prompt: 512,
            min_nodes: 1,
            max_nodes: MAX_NODES,
            exclude: Vec::new(),
            pinned: Vec::new(),
            driver,
            // WiFi between phones, as measured in homes: tens of megabytes per second at best.
            fetch_bytes_per_s: 10e6,
        }
    }
}

/// One stage of a candidate.
#[derive(Debug, Clone, PartialEq)]
pub struct StagePlan {
    /// The node.
    pub node: NodeId,
    /// Its layers.
    pub layers: LayerRange,
    /// Weights, in bytes, with the embedding and the head where it has them.
    pub bytes: u64,
    /// Weights, KV cache and buffers, in bytes.
    pub memory_bytes: u64,
    /// Seconds that it computes for a token.
    pub compute_s: f64,
    /// Seconds until its output is at the next stage, or the token at the driver from the last.
    pub hop_s: f64,
    /// Weight bytes that its node does not have on disk.
    pub fetch_bytes: u64,
}

/// A placement with what it is predicted to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The stages in the order in which activations pass them.
    pub stages: Vec<StagePlan>,
    /// Seconds until the driver's token is at the first stage.
    pub entry_s: f64,
    /// Tokens per second of a single request.
    pub tokens_per_s: f64,
    /// Seconds from a prompt to its first token.
    ///
    /// The prompt passes in chunks of [`CHUNK_TOKENS`] that overlap: the first chunk's way through all stages and hops, then
    /// one turn of the slowest stage for each further chunk, then the head and the token's way to the driver.
    pub first_token_s: f64,
    /// Tokens per second of as many requests as there are stages: a token of each per time per token, or one per turn of the
    /// stage that computes longest, whichever is less.
    pub aggregate_tokens_per_s: f64,
    /// Seconds until every node has its weights; nodes fetch at the same time.
    pub fetch_s: f64,
}

impl Candidate {
    /// Returns the placement itself.
    pub fn placement(&self) -> Placement {
        let stage = |stage: &StagePlan| Stage { node: stage.node, layers: stage.layers };
        Placement { stages: self.stages.iter().map(stage).collect() }
    }

    /// Seconds per token that the stages compute.
    pub fn compute_s(&self) -> f64 {
        self.stages.iter().map(|stage| stage.compute_s).sum()
    }

    /// Seconds per token on the network.
    pub fn network_s(&self) -> f64 {
        self.entry_s + self.stages.iter().map(|stage| stage.hop_s).sum::<f64>()
    }

    /// Seconds of the slowest stage, with its hop.
    pub fn slowest_s(&self) -> f64 {
        self.stages.iter().map(|stage| stage.compute_s + stage.hop_s).fold(0.0, f64::max)
    }

    /// Weight bytes to fetch before it can start.
    pub fn fetch_bytes(&self) -> u64 {
        self.stages.iter().map(|stage| stage.fetch_bytes).fold(0, u64::saturating_add)
    }
}

/// Why a node takes no layers.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum WhyLeftOut {
    /// The request excludes it.
    #[error("excluded")]
    Excluded,
    /// Its rates are not positive numbers.
    #[error("its speed is not known")]
    UnknownSpeed,
    /// Not even one layer fits.
    #[error("too little memory for one layer: needs {needed_bytes} bytes, has {memory_bytes}")]
    TooLittleMemory {
        /// Bytes that the smallest stage needs.
        needed_bytes: u64,
        /// Bytes that the node gives.
        memory_bytes: u64,
    },
    /// The best placement with it is slower than the best one.
    #[error("would slow the rest: {with_per_s:.1} instead of {without_per_s:.1} tokens per second")]
    WouldSlow {
        /// Tokens per second with it; of many requests if the objective is throughput.
        with_per_s: f64,
        /// Tokens per second of the best candidate, likewise.
        without_per_s: f64,
    },
    /// It would change nothing that can be measured, or no placement with it is allowed.
    #[error("not needed")]
    NotNeeded,
}

/// What a number of nodes can do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Help {
    /// Number of nodes.
    pub n_nodes: usize,
    /// Tokens per second of the best placement over exactly so many nodes; none if the model does not fit on so many.
    pub tokens_per_s: Option<f64>,
    /// Seconds to the first token, likewise.
    pub first_token_s: Option<f64>,
    /// Tokens per second of as many requests as stages, likewise.
    pub aggregate_tokens_per_s: Option<f64>,
    /// Memory of the so many nodes that have most, in bytes.
    pub memory_bytes: u64,
}

/// What [`plan`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The best placement over each allowed number of nodes, best first; at least one, at most eight.
    pub candidates: Vec<Candidate>,
    /// The nodes that take no layers in the first candidate, by id, and why.
    pub left_out: Vec<(NodeId, WhyLeftOut)>,
    /// What each further node brings: for each number of nodes, allowed or not, what it can do.
    pub each_further: Vec<Help>,
    /// The best placement over one node and over two, to explain the first candidate with.
    few: [Option<Candidate>; 2],
}

impl Plan {
    /// Returns the best candidate.
    pub fn best(&self) -> &Candidate {
        &self.candidates[0]
    }
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No node may take layers.
    #[error("plan: no node can take layers: {given} given, all excluded or of unknown speed")]
    NoNode {
        /// Nodes given.
        given: usize,
    },
    /// The description of the model contradicts itself, or it is too deep.
    #[error(
        "plan: expected bytes, KV bytes and work for each of 1 to {MAX_LAYERS} layers, got {n_layer} layers with {got:?} entries"
    )]
    BadShape {
        /// Layers of the model.
        n_layer: u32,
        /// Entries of the layers' bytes, KV bytes and work.
        got: [usize; 3],
    },
    /// A node is given twice.
    #[error("plan: node {node} is given twice")]
    SameNode {
        /// The node.
        node: NodeId,
    },
    /// The numbers of nodes allow none.
    #[error("plan: expected 1 <= fewest nodes <= most nodes, got {min_nodes} and {max_nodes}")]
    BadNumberOfNodes {
        /// Fewest nodes asked for.
        min_nodes: usize,
        /// Most nodes asked for.
        max_nodes: usize,
    },
    /// Fewer nodes than asked for.
    #[error("plan: {wanted} nodes wanted, only {got} can take layers")]
    NotEnoughNodes {
        /// Nodes asked for.
        wanted: usize,
        /// Nodes that can take part.
        got: usize,
    },
    /// Every stage needs a layer.
    #[error("plan: {wanted} nodes wanted, the model has only {n_layer} layers")]
    TooFewLayers {
        /// Nodes asked for.
        wanted: usize,
        /// Layers of the model.
        n_layer: u32,
    },
    /// Layers are pinned to a node that cannot take any.
    #[error(
        "plan: layers {layers} are pinned to node {node}, which is not there, excluded, of unknown speed or too small"
    )]
    PinnedNodeUnusable {
        /// The node.
        node: NodeId,
        /// Its layers.
        layers: LayerRange,
    },
    /// Two pins have a layer, or a node, in common.
    #[error("plan: pinned layers {} of node {} and {} of node {} exclude each other", .a.1, .a.0, .b.1, .b.0)]
    PinsCollide {
        /// One pin.
        a: (NodeId, LayerRange),
        /// The other pin.
        b: (NodeId, LayerRange),
    },
    /// A pin goes beyond the model.
    #[error("plan: layers {layers} are pinned, the model has only {n_layer} layers")]
    PinBeyondModel {
        /// The layers.
        layers: LayerRange,
        /// Layers of the model.
        n_layer: u32,
    },
    /// No cut of the layers over the allowed numbers of nodes fits.
    #[error(
        "plan: the model needs {needed_bytes} bytes, the nodes give {given_bytes}, its largest layer needs {largest_layer_bytes} on one node, and no cut of its layers fits"
    )]
    DoesNotFit {
        /// Bytes of the whole model on one node.
        needed_bytes: u64,
        /// Bytes of the most nodes allowed.
        given_bytes: u64,
        /// Bytes of a stage of only the largest layer.
        largest_layer_bytes: u64,
    },
}

/// Plans where to run `model`.
///
/// # Errors
/// If the model fits nowhere as asked, or the question contradicts itself: each variant says what is missing.
pub fn plan(
    model: &ModelShape,
    nodes: &[PlanNode],
    links: &Links,
    request: &PlanRequest,
) -> Result<Plan, PlanError> {
    let (problem, mut left_out) = Problem::new(model, nodes, links, request)?;
    let n_max = problem.n.min(request.max_nodes).min(problem.n_layer);
    let found = refine::best_of_each_number(&problem, request.objective);
    let candidate = |cuts: &[Cut]| candidate(&problem, model, request, cuts);
    let each: Vec<Option<Candidate>> =
        found.of_each.iter().map(|found| found.as_ref().map(|cuts| candidate(cuts))).collect();

    let mut ranked: Vec<usize> = (request.min_nodes - 1..n_max)
        .filter(|&k| found.of_each.get(k).is_some_and(Option::is_some))
        .collect();
    if ranked.is_empty() {
        return Err(problem.does_not_fit(request));
    }
    let primary =
        |k: usize| problem.primary(request.objective, found.of_each[k].as_deref().expect("found"));
    let fetch = |k: usize| each[k].as_ref().map_or(u64::MAX, Candidate::fetch_bytes);
    let least = ranked.iter().map(|&k| primary(k)).min().expect("not empty");
    let tied = |k: usize| primary(k) <= least + least / TIE;
    let best = *ranked
        .iter()
        .filter(|&&k| tied(k))
        .min_by_key(|&&k| (fetch(k), k))
        .expect("the least ties with itself");
    ranked.sort_by_key(|&k| (k != best, primary(k), fetch(k), k));
    ranked.truncate(MAX_CANDIDATES);

    let used = found.of_each[best].as_deref().expect("ranked");
    let without = primary(best);
    for v in (0..problem.n).filter(|&v| used.iter().all(|cut| cut.node != v)) {
        let allowed = [request.min_nodes, n_max];
        let with = found.with_node(&problem, request.objective, used, v, allowed);
        let why = if with == NEVER || with <= without + without / TIE {
            WhyLeftOut::NotNeeded
        } else {
            WhyLeftOut::WouldSlow {
                with_per_s: 1.0 / seconds(with),
                without_per_s: 1.0 / seconds(without),
            }
        };
        left_out.push((problem.ids[v], why));
    }
    left_out.sort_by_key(|(node, _)| *node);

    let candidates = ranked.iter().map(|&k| each[k].clone().expect("ranked")).collect();
    let each_further = helps(&problem, &each);
    let few = [0, 1].map(|k| each.get(k).cloned().flatten());
    Ok(Plan { candidates, left_out, each_further, few })
}

/// What each number of nodes can do.
fn helps(problem: &Problem, each: &[Option<Candidate>]) -> Vec<Help> {
    let mut memory = problem.memory_bytes.clone();
    memory.sort_unstable_by(|a, b| b.cmp(a));
    let mut total = 0u64;
    let help = |(k, candidate): (usize, &Option<Candidate>)| {
        let candidate = candidate.as_ref();
        total = total.saturating_add(memory[k]);
        Help {
            n_nodes: k + 1,
            tokens_per_s: candidate.map(|candidate| candidate.tokens_per_s),
            first_token_s: candidate.map(|candidate| candidate.first_token_s),
            aggregate_tokens_per_s: candidate.map(|candidate| candidate.aggregate_tokens_per_s),
            memory_bytes: total,
        }
    };
    each.iter().enumerate().map(help).collect()
}

/// Predicts what a placement does.
fn candidate(
    problem: &Problem,
    model: &ModelShape,
    request: &PlanRequest,
    cuts: &[Cut],
) -> Candidate {
    let next = |i: usize| cuts.get(i + 1).map(|cut| cut.node);
    let stage = |(i, cut): (usize, &Cut)| StagePlan {
        node: problem.ids[cut.node],
        layers: cut.layers(),
        bytes: problem.weights(cut.start, cut.end),
        memory_bytes: problem.memory(cut.start, cut.end),
        compute_s: seconds(problem.cost(*cut)),
        hop_s: seconds(problem.hop(cut.node, next(i))),
        fetch_bytes: problem.fetch(*cut),
    };
    let stages: Vec<StagePlan> = cuts.iter().enumerate().map(stage).collect();
    let entry_s = seconds(problem.entry[cuts[0].node]);
    let token_s = seconds(problem.time(cuts));
    let longest_s = stages.iter().map(|stage| stage.compute_s).fold(0.0, f64::max);
    let fetch_most = stages.iter().map(|stage| stage.fetch_bytes).max().unwrap_or(0);
    Candidate {
        entry_s,
        tokens_per_s: 1.0 / token_s,
        first_token_s: first_token_s(problem, model, request, cuts),
        aggregate_tokens_per_s: f64::min(stages.len() as f64 / token_s, 1.0 / longest_s),
        fetch_s: match fetch_most {
            0 => 0.0,
            bytes => bytes as f64 / request.fetch_bytes_per_s,
        },
        stages,
    }
}

/// Seconds from a prompt to its first token: see [`Candidate::first_token_s`].
fn first_token_s(
    problem: &Problem,
    model: &ModelShape,
    request: &PlanRequest,
    cuts: &[Cut],
) -> f64 {
    let n_chunk = request.n_prompt.clamp(1, CHUNK_TOKENS);
    let n_chunks = request.n_prompt.max(1).div_ceil(CHUNK_TOKENS);
    let activation_bytes = u64::from(model.n_embd) * 4 * u64::from(n_chunk);
    let turn = |cut: &Cut| {
        let macs: f64 = model.layer_macs[cut.start..cut.end].iter().map(|&macs| macs as f64).sum();
        macs * f64::from(n_chunk) / problem.macs_per_s[cut.node] + problem.step_s[cut.node]
    };
    let last = cuts.last().expect("a placement has a stage").node;
    let hops: f64 = cuts
        .windows(2)
        .map(|pair| problem.link[pair[0].node * problem.n + pair[1].node].hop_s(activation_bytes))
        .sum();
    let slowest = cuts.iter().map(turn).fold(0.0, f64::max);
    seconds(problem.entry[cuts[0].node])
        + cuts.iter().map(turn).sum::<f64>()
        + hops
        + f64::from(n_chunks - 1) * slowest
        + model.head_macs as f64 / problem.macs_per_s[last]
        + seconds(problem.tail[last])
}
