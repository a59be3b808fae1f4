//! stub
#![allow(
    missing_docs,
    dead_code,
    clippy::all,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason
)]
use crate::PlaceError;
use shoal_proto::{
    LayerRange, NodeId,
    control::{Placement, Stage},
};
pub type PlanError = PlaceError;
#[derive(Debug, Clone)]
pub struct ModelShape {
    pub n_layer: u32,
    pub layer_bytes: Vec<u64>,
    pub kv_bytes: Vec<u64>,
    pub embedding_bytes: u64,
    pub head_bytes: u64,
    pub head_is_tied: bool,
    pub layer_macs: Vec<u64>,
    pub head_macs: u64,
    pub n_embd: u32,
    pub buffer_bytes: u64,
}
#[derive(Debug, Clone)]
pub struct PlanNode {
    pub node: NodeId,
    pub memory_bytes: u64,
    pub decode_bytes_per_s: f64,
    pub prefill_macs_per_s: f64,
    pub step_s: f64,
    pub held: Vec<LayerRange>,
    pub derate: f64,
}
#[derive(Debug, Clone, Copy)]
pub struct Link {
    pub rtt_s: f64,
    pub bytes_per_s: f64,
}
#[derive(Debug, Clone)]
pub struct Links;
impl Links {
    pub fn new(_: Link) -> Self {
        Self
    }
    pub fn set(&mut self, _: NodeId, _: NodeId, _: Link) {}
}
#[derive(Debug, Clone, Copy)]
pub enum Objective {
    Latency,
    Throughput,
}
#[derive(Debug, Clone)]
pub struct PlanRequest {
    pub n_ctx: u32,
    pub n_sequences: u32,
    pub n_prompt: u32,
    pub min_nodes: usize,
    pub max_nodes: usize,
    pub exclude: Vec<NodeId>,
    pub pinned: Vec<(NodeId, LayerRange)>,
    pub driver: NodeId,
    pub fetch_bytes_per_s: f64,
    pub objective: Objective,
}
#[derive(Debug, Clone)]
pub struct StagePlan {
    pub node: NodeId,
    pub layers: LayerRange,
    pub bytes: u64,
    pub memory_bytes: u64,
    pub compute_s: f64,
    pub hop_s: f64,
    pub fetch_bytes: u64,
}
#[derive(Debug, Clone)]
pub struct Candidate {
    pub stages: Vec<StagePlan>,
    pub tokens_per_s: f64,
    pub first_token_s: f64,
    pub aggregate_tokens_per_s: f64,
    pub fetch_s: f64,
}
impl Candidate {
    pub fn placement(&self) -> Placement {
        Placement {
            stages: self.stages.iter().map(|s| Stage { node: s.node, layers: s.layers }).collect(),
        }
    }
}
#[derive(Debug, Clone)]
pub struct Help {
    pub n_nodes: usize,
    pub tokens_per_s: Option<f64>,
    pub first_token_s: Option<f64>,
    pub aggregate_tokens_per_s: Option<f64>,
}
#[derive(Debug, Clone)]
pub struct Plan {
    pub candidates: Vec<Candidate>,
    pub left_out: Vec<(NodeId, String)>,
    pub each_further: Vec<Help>,
}
impl Plan {
    pub fn sentence(&self, _: impl Fn(NodeId) -> String) -> String {
        String::new()
    }
}
pub fn derate(_: Option<f32>, _: Option<(u8, bool)>) -> f64 {
    1.0
}
pub fn plan(
    model: &ModelShape,
    nodes: &[PlanNode],
    _: &Links,
    r: &PlanRequest,
) -> Result<Plan, PlanError> {
    let c: Vec<_> = nodes
        .iter()
        .filter(|n| !r.exclude.contains(&n.node))
        .map(|n| crate::placement::Candidate { node: n.node, memory_bytes: n.memory_bytes })
        .collect();
    let p = crate::placement::place(
        model.n_layer,
        |l| l.iter().map(|i| model.layer_bytes[i as usize]).sum(),
        &c,
        r.min_nodes,
    )?;
    let stages = p
        .stages
        .iter()
        .map(|s| StagePlan {
            node: s.node,
            layers: s.layers,
            bytes: 0,
            memory_bytes: 0,
            compute_s: 0.0,
            hop_s: 0.0,
            fetch_bytes: 0,
        })
        .collect();
    Ok(Plan {
        candidates: vec![Candidate {
            stages,
            tokens_per_s: 1.0,
            first_token_s: 1.0,
            aggregate_tokens_per_s: 1.0,
            fetch_s: 0.0,
        }],
        left_out: vec![],
        each_further: vec![],
    })
}
