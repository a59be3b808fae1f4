//! How long a plan takes, for a model of 40 layers and 2 GB over nodes of different speeds and memory.
//!
//! ```text
//! cargo run --release -p shoal-cluster --example planning
//! ```

use std::time::Instant;

use shoal_cluster::planner::{Link, Links, ModelShape, PlanNode, PlanRequest, plan};
use shoal_proto::NodeId;

const MB: u64 = 1_000_000;

fn model() -> ModelShape {
    ModelShape {
        n_layer: 40,
        layer_bytes: vec![45 * MB; 40],
        kv_bytes: vec![4096; 40],
        embedding_bytes: 200 * MB,
        head_bytes: 200 * MB,
        head_is_tied: false,
        layer_macs: vec![80 * MB; 40],
        head_macs: 330 * MB,
        n_embd: 2560,
        buffer_bytes: 20 * MB,
    }
}

fn node(i: u8, is_tight: bool) -> PlanNode {
    let memory_mb = if is_tight { 380 + u64::from(i) * 37 % 13 * 20 } else { 8000 };
    let decode_bytes_per_s = 4e9 + f64::from(i % 5) * 2.5e9;
    PlanNode {
        node: NodeId([i; 32]),
        memory_bytes: memory_mb * MB,
        decode_bytes_per_s,
        prefill_macs_per_s: 3.0 * decode_bytes_per_s,
        step_s: 2e-4,
        held: Vec::new(),
        derate: 1.0,
    }
}

#[expect(clippy::print_stdout, reason = "an example reports to its user")]
#[expect(
    clippy::disallowed_methods,
    reason = "measures how long the planner takes; the planner reads no clock"
)]
fn main() {
    println!("nodes  memory  stages  milliseconds");
    let cases = [(2, false), (5, false), (8, false), (8, true), (12, true), (32, true)];
    for (n_nodes, is_tight) in cases {
        let nodes: Vec<PlanNode> = (0..n_nodes).map(|i| node(i, is_tight)).collect();
        let links = Links::new(Link { rtt_s: 0.006, bytes_per_s: 20e6 });
        let request = PlanRequest::new(nodes[0].node, 4096);
        let began = Instant::now();
        let found = plan(&model(), &nodes, &links, &request);
        let took_ms = began.elapsed().as_secs_f64() * 1e3;
        let memory = if is_tight { "tight" } else { "ample" };
        let stages = found.map_or("none".into(), |found| found.best().stages.len().to_string());
        println!("{n_nodes:>5}  {memory:>6}  {stages:>6}  {took_ms:>12.1}");
    }
}
