//! The local search against exhaustive ones, on clusters that are small enough for these.

use shoal_proto::NodeId;

use super::*;
use crate::planner::{Link, Links, ModelShape, PlanNode, PlanRequest};

/// The high bits of a linear congruential generator (Knuth's MMIX constants).
fn draw(state: &mut u64, n: u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % n
}

fn question(seed: u64, n: u64, n_layer: u32, objective: Objective) -> Option<Problem> {
    let mut state = seed;
    draw(&mut state, 2);
    let each = |bytes: u64| vec![bytes; n_layer as usize];
    let model = ModelShape {
        n_layer,
        layer_bytes: each(50_000_000),
        kv_bytes: each(4096),
        embedding_bytes: 60_000_000,
        head_bytes: 60_000_000,
        head_is_tied: false,
        layer_macs: each(100_000_000),
        head_macs: 60_000_000,
        n_embd: 2048,
        buffer_bytes: 10_000_000,
    };
    let is_equal = draw(&mut state, 4) == 0;
    let ids: Vec<NodeId> = (0..n).map(|i| NodeId([u8::try_from(i).expect("few"); 32])).collect();
    let nodes: Vec<PlanNode> = ids
        .iter()
        .map(|&node| PlanNode {
            node,
            memory_bytes: 1_000_000 * (80 + draw(&mut state, 350)),
            decode_bytes_per_s: if is_equal {
                5e9
            } else {
                1e9 * (1 + draw(&mut state, 10)) as f64
            },
            prefill_macs_per_s: 1e11,
            step_s: 1e-4,
            held: Vec::new(),
            derate: 1.0,
        })
        .collect();
    let mut links = Links::new(Link { rtt_s: 0.004, bytes_per_s: 2e7 });
    for (i, &a) in ids.iter().enumerate() {
        for &b in &ids[..i] {
            links.set(a, b, Link { rtt_s: 5e-4 * draw(&mut state, 30) as f64, bytes_per_s: 2e7 });
        }
    }
    let mut request = PlanRequest::new(ids[0], 1024);
    request.objective = objective;
    let problem = Problem::new(&model, &nodes, &links, &request);
    problem.ok().map(|problem| problem.0)
}

/// What the local search found more than the least, in parts per thousand.
#[derive(Default)]
struct Excesses {
    /// For each size for which there is a placement.
    of_sizes: Vec<u64>,
    /// For the best of all sizes.
    overall: Vec<u64>,
}

fn add_excesses(
    problem: &Problem,
    objective: Objective,
    least: &[Option<u64>],
    all: &mut Excesses,
) {
    let found = of_each_number(problem, objective);
    let excess = |cost: u64, least: u64| (cost - least) * 1000 / least;
    let mut costs = Vec::new();
    for (least, found) in least.iter().zip(found) {
        let cost = found.map(|cuts| problem.primary(objective, &cuts));
        assert_eq!(least.is_some(), cost.is_some(), "finds a placement where there is one");
        if let (Some(least), Some(cost)) = (*least, cost) {
            assert!(cost >= least);
            all.of_sizes.push(excess(cost, least));
            costs.push(cost);
        }
    }
    if let (Some(&cost), Some(&least)) = (costs.iter().min(), least.iter().flatten().min()) {
        all.overall.push(excess(cost, least));
    }
}

/// The median, the 95th percentile and the greatest.
#[track_caller]
fn check(excesses: &mut [u64], per_thousand: [u64; 3]) {
    excesses.sort_unstable();
    let got = [50, 95, 100].map(|percent| excesses[(excesses.len() - 1) * percent / 100]);
    println!("{} placements: {got:?} per thousand", excesses.len());
    assert!(got.iter().zip(per_thousand).all(|(got, most)| *got <= most), "{got:?}");
}

/// Nine to eleven nodes, against all their placements.
#[track_caller]
fn check_nine_to_eleven(objective: Objective, of_sizes: [u64; 3], overall: [u64; 3]) {
    let mut all = Excesses::default();
    for seed in 0..60 {
        let Some(problem) = question(seed, 9 + seed % 3, 12, objective) else { continue };
        let nodes: Vec<usize> = (0..problem.n).collect();
        let pass = Pass::free(first_goal(objective));
        let exact = subsets::search(&problem, &pass, &nodes, problem.n.min(12));
        let least: Vec<_> =
            exact.of_each.iter().map(|found| found.as_ref().map(|found| found.0)).collect();
        add_excesses(&problem, objective, &least, &mut all);
    }
    check(&mut all.of_sizes, of_sizes);
    check(&mut all.overall, overall);
}

#[test]
fn nine_to_eleven_nodes_are_near_the_least_time() {
    check_nine_to_eleven(Objective::Latency, [0, 30, 100], [0, 0, 10]);
}

#[test]
fn nine_to_eleven_nodes_are_near_the_lowest_slowest_stage() {
    check_nine_to_eleven(Objective::Throughput, [0, 20, 200], [0, 50, 200]);
}

#[test]
fn three_of_32_nodes_are_near_the_least() {
    let mut all = Excesses::default();
    for seed in 0..12 {
        let objective = if seed % 2 == 0 { Objective::Latency } else { Objective::Throughput };
        let Some(problem) = question(seed, 32, 10, objective) else { continue };
        let pass = Pass::free(first_goal(objective));
        let mut least = [None; 3];
        let mut offer = |order: &[usize]| {
            let cost = chain::cut(&problem, &pass, order).map_or(NEVER, |found| found.0);
            if cost < least[order.len() - 1].unwrap_or(NEVER) {
                least[order.len() - 1] = Some(cost);
            }
        };
        for a in 0..problem.n {
            offer(&[a]);
            for b in (0..problem.n).filter(|&b| b != a) {
                offer(&[a, b]);
                (0..problem.n).filter(|&c| c != a && c != b).for_each(|c| offer(&[a, b, c]));
            }
        }
        add_excesses(&problem, objective, &least, &mut all);
    }
    check(&mut all.of_sizes, [0, 10, 50]);
}
