//! The planner against every order, subset and cut; and what it says about clusters that people have.

use shoal_cluster::planner::{
    Candidate, Link, Links, ModelShape, Objective, Plan, PlanError, PlanNode, PlanRequest,
    WhyLeftOut, plan,
};
use shoal_proto::{LayerRange, NodeId};

/// A small generator (SplitMix64; Steele et al., OOPSLA 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

fn id(i: u64) -> NodeId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&i.to_be_bytes());
    NodeId(bytes)
}

fn layers(start: usize, end: usize) -> LayerRange {
    let as_layer = |i| u32::try_from(i).expect("small");
    LayerRange::new(as_layer(start), as_layer(end)).expect("not empty")
}

/// `n_layer` layers of `layer_bytes` each; 2 operations per byte.
fn uniform(n_layer: u32, layer_bytes: u64) -> ModelShape {
    let each = |x: u64| vec![x; n_layer as usize];
    ModelShape {
        n_layer,
        layer_bytes: each(layer_bytes),
        kv_bytes: each(0),
        embedding_bytes: 0,
        head_bytes: 0,
        head_is_tied: false,
        layer_macs: each(2 * layer_bytes),
        head_macs: 0,
        n_embd: 1024,
        buffer_bytes: 0,
    }
}

fn node(i: u64, memory_bytes: u64, decode_bytes_per_s: f64) -> PlanNode {
    PlanNode {
        node: id(i),
        memory_bytes,
        decode_bytes_per_s,
        prefill_macs_per_s: 10.0 * decode_bytes_per_s,
        step_s: 0.0,
        held: Vec::new(),
        derate: 1.0,
    }
}

fn wifi(rtt_s: f64) -> Links {
    Links::new(Link { rtt_s, bytes_per_s: 20e6 })
}

/// A question drawn at random.
struct Question {
    model: ModelShape,
    nodes: Vec<PlanNode>,
    links: Links,
    request: PlanRequest,
}

impl Question {
    fn plan(&self) -> Result<Plan, PlanError> {
        plan(&self.model, &self.nodes, &self.links, &self.request)
    }

    fn draw(random: &mut Random, n_nodes: u64, n_layer: u64) -> Self {
        let n_layer = u32::try_from(n_layer).expect("small");
        let mut model = uniform(n_layer, 0);
        for i in 0..n_layer as usize {
            model.layer_bytes[i] = 1_000_000 * (5 + random.below(10));
            model.kv_bytes[i] = 1000 * (1 + random.below(3));
            model.layer_macs[i] = 2 * model.layer_bytes[i];
        }
        model.embedding_bytes = 1_000_000 * random.below(30);
        model.head_bytes = 1_000_000 * random.below(30);
        model.head_is_tied = random.chance(50);
        model.buffer_bytes = 1_000_000 * random.below(5);
        let is_tight = random.chance(60);
        let is_equal = random.chance(30);
        let is_held = random.chance(50);
        let mut nodes: Vec<PlanNode> = (0..n_nodes)
            .map(|i| {
                let memory = if is_tight { 15 + random.below(120) } else { 10_000 };
                let speed = if is_equal { 5e9 } else { 1e9 * (1 + random.below(12)) as f64 };
                let mut node = node(i, memory * 1_000_000, speed);
                if !is_equal {
                    node.prefill_macs_per_s = 1e10 * (1 + random.below(12)) as f64;
                }
                node.step_s = random.below(3) as f64 * 1e-4;
                if random.chance(20) {
                    node.derate = 0.5;
                }
                if is_held {
                    node.held.push(layers(0, n_layer as usize));
                } else if random.chance(50) {
                    let start = random.below(u64::from(n_layer)) as usize;
                    node.held.push(layers(start, n_layer as usize));
                }
                node
            })
            .collect();
        let mut links = wifi(random.below(8) as f64 * 1e-3);
        for a in 0..n_nodes {
            for b in 0..a {
                if random.chance(50) {
                    let rtt_s = random.below(100) as f64 * 1e-4;
                    links.set(id(a), id(b), Link { rtt_s, bytes_per_s: 5e6 });
                }
            }
        }
        let mut request = PlanRequest::new(id(random.below(n_nodes + 1)), 1000);
        request.n_sequences = 1 + u32::try_from(random.below(2)).expect("small");
        if random.chance(50) {
            request.objective = Objective::Throughput;
        }
        if random.chance(40) {
            request.min_nodes = 1 + random.below(n_nodes) as usize;
            request.max_nodes = request.min_nodes + random.below(n_nodes) as usize;
        }
        if random.chance(20) {
            request.exclude.push(id(random.below(n_nodes)));
        }
        for _ in 0..random.below(3) * random.below(2) {
            let start = random.below(u64::from(n_layer)) as usize;
            let end = start + 1 + random.below(u64::from(n_layer) - start as u64) as usize;
            request.pinned.push((id(random.below(n_nodes)), layers(start, end)));
        }
        if random.chance(50) {
            nodes.reverse();
        }
        Self { model, nodes, links, request }
    }

    fn memory(&self, start: usize, end: usize) -> u64 {
        let model = &self.model;
        let positions = u64::from(self.request.n_ctx * self.request.n_sequences);
        let layers: u64 =
            (start..end).map(|i| model.layer_bytes[i] + model.kv_bytes[i] * positions).sum();
        let (is_first, is_last) = (start == 0, end == model.layer_bytes.len());
        let ends = match (is_first, is_last) {
            (true, true) if model.head_is_tied => model.embedding_bytes.max(model.head_bytes),
            _ => {
                u64::from(is_first) * model.embedding_bytes + u64::from(is_last) * model.head_bytes
            }
        };
        layers + ends + model.buffer_bytes
    }

    fn fetch(&self, node: &PlanNode, start: usize, end: usize) -> u64 {
        let model = &self.model;
        let n = model.layer_bytes.len();
        let holds = |i: usize| node.held.iter().any(|held| held.iter().any(|j| j as usize == i));
        let layers: u64 = (start..end).filter(|&i| !holds(i)).map(|i| model.layer_bytes[i]).sum();
        let has_tied = model.head_is_tied && (holds(0) || holds(n - 1));
        let embedding =
            if start == 0 && !holds(0) && !has_tied { model.embedding_bytes } else { 0 };
        let head = if end == n && !holds(n - 1) && !has_tied { model.head_bytes } else { 0 };
        let is_both = model.head_is_tied && start == 0 && end == n;
        layers + if is_both { embedding.max(head) } else { embedding + head }
    }

    fn compute_s(&self, node: &PlanNode, start: usize, end: usize) -> f64 {
        let mut bytes: u64 = self.model.layer_bytes[start..end].iter().sum();
        if end == self.model.layer_bytes.len() {
            bytes += self.model.head_bytes;
        }
        bytes as f64 / (node.decode_bytes_per_s * node.derate) + node.step_s
    }

    /// Whether a node can take any layer.
    fn is_usable(&self, node: &PlanNode) -> bool {
        let n_layer = self.model.layer_bytes.len();
        let smallest = (0..n_layer).map(|i| self.memory(i, i + 1)).min().expect("has layers");
        !self.request.exclude.contains(&node.node) && node.memory_bytes >= smallest
    }

    /// What balances a stage, without its hop: with latency a quarter decoding and three quarters prompt, as if the layers of the
    /// model took as long for both on all usable nodes together.
    fn share_s(&self, node: &PlanNode, start: usize, end: usize) -> f64 {
        let decode_s = self.compute_s(node, start, end);
        if self.request.objective == Objective::Throughput {
            return decode_s;
        }
        let (mut bytes_per_s, mut macs_per_s) = (0.0, 0.0);
        for node in self.nodes.iter().filter(|node| self.is_usable(node)) {
            bytes_per_s += node.decode_bytes_per_s * node.derate;
            macs_per_s += node.prefill_macs_per_s * node.derate;
        }
        let bytes: u64 = self.model.layer_bytes.iter().sum();
        let macs: u64 = self.model.layer_macs.iter().sum();
        let stage_macs: u64 = self.model.layer_macs[start..end].iter().sum();
        let share_of_macs = stage_macs as f64 / macs as f64;
        let prompt_s = share_of_macs * macs_per_s / (node.prefill_macs_per_s * node.derate)
            * (bytes as f64 / bytes_per_s);
        0.25 * (decode_s - node.step_s) + 0.75 * prompt_s + node.step_s
    }

    fn token_s(&self, a: NodeId) -> f64 {
        let driver = self.request.driver;
        if a == driver { 0.0 } else { self.links.get(a, driver).hop_s(64) }
    }

    fn may_run(&self, node: &PlanNode, start: usize, end: usize) -> bool {
        let request = &self.request;
        let is_pin_met = match request.pinned.iter().find(|pin| pin.0 == node.node) {
            Some(pin) => pin.1 == layers(start, end),
            None => request
                .pinned
                .iter()
                .all(|pin| end <= pin.1.start() as usize || pin.1.end() as usize <= start),
        };
        is_pin_met
            && !request.exclude.contains(&node.node)
            && self.memory(start, end) <= node.memory_bytes
    }

    /// Time per token, slowest stage, greatest share and bytes to fetch of stages; none if they are not allowed.
    fn judge(&self, stages: &[(usize, usize, usize)]) -> Option<Judged> {
        let last = self.nodes[stages.last()?.0].node;
        let ends = [stages[0].0, stages.last()?.0].map(|v| self.nodes[v].node);
        let is_outer = ends.contains(&self.request.driver);
        let time = self.token_s(ends[0]);
        let mut judged = Judged { time, slowest: 0.0, widest: 0.0, fetch: 0, is_outer };
        for (i, &(v, start, end)) in stages.iter().enumerate() {
            let node = &self.nodes[v];
            let hop = match stages.get(i + 1) {
                Some(next) => self
                    .links
                    .get(node.node, self.nodes[next.0].node)
                    .hop_s(u64::from(self.model.n_embd) * 4),
                None => self.token_s(last),
            };
            let turn = self.compute_s(node, start, end) + hop;
            judged.time += turn;
            judged.slowest = f64::max(judged.slowest, turn);
            judged.widest = f64::max(judged.widest, self.share_s(node, start, end) + hop);
            judged.fetch += self.fetch(node, start, end);
            if !self.may_run(node, start, end) {
                return None;
            }
        }
        Some(judged)
    }

    /// Every allowed placement by its number of nodes less one.
    fn all(&self) -> Vec<Vec<Judged>> {
        let mut all = vec![Vec::new(); self.nodes.len()];
        self.extend(&mut Vec::new(), 0, &mut all);
        all
    }

    fn extend(
        &self,
        stages: &mut Vec<(usize, usize, usize)>,
        start: usize,
        all: &mut Vec<Vec<Judged>>,
    ) {
        let n_layer = self.model.layer_bytes.len();
        if start == n_layer {
            all[stages.len() - 1].extend(self.judge(stages));
            return;
        }
        for v in 0..self.nodes.len() {
            if stages.iter().any(|stage| stage.0 == v) {
                continue;
            }
            for end in start + 1..=n_layer {
                if self.may_run(&self.nodes[v], start, end) {
                    stages.push((v, start, end));
                    self.extend(stages, end, all);
                    stages.pop();
                }
            }
        }
    }

    fn judge_candidate(&self, candidate: &Candidate) -> Judged {
        let stage = |stage: &shoal_cluster::planner::StagePlan| {
            let v = self.nodes.iter().position(|node| node.node == stage.node).expect("given");
            (v, stage.layers.start() as usize, stage.layers.end() as usize)
        };
        let stages: Vec<_> = candidate.stages.iter().map(stage).collect();
        assert!(candidate.placement().covers(self.model.n_layer));
        for (stage, &(_, start, end)) in candidate.stages.iter().zip(&stages) {
            assert_eq!(stage.memory_bytes, self.memory(start, end));
        }
        self.judge(&stages).expect("a candidate is allowed")
    }
}

#[derive(Debug, Clone, Copy)]
struct Judged {
    time: f64,
    slowest: f64,
    widest: f64,
    fetch: u64,
    /// Whether the driver has the first or the last stage.
    is_outer: bool,
}

fn least(of: impl Iterator<Item = f64>) -> f64 {
    of.fold(f64::INFINITY, f64::min)
}

/// Everything a plan promises, against every placement.
#[track_caller]
fn check_optimal(question: &Question, seed: u64) -> bool {
    let request = &question.request;
    let all = question.all();
    let allowed = |k: usize| (request.min_nodes..=request.max_nodes).contains(&(k + 1));
    let is_possible = (0..all.len()).any(|k| allowed(k) && !all[k].is_empty());
    let plan = match question.plan() {
        Ok(plan) => plan,
        Err(error) => {
            let pins = &request.pinned;
            let is_pin_error = pins.len() > 1 && matches!(error, PlanError::PinsCollide { .. });
            assert!(!is_possible || is_pin_error, "seed {seed}: {error}");
            return false;
        }
    };
    assert!(is_possible, "seed {seed}");
    let is_latency = request.objective == Objective::Latency;
    let primary = |judged: &Judged| if is_latency { judged.time } else { judged.slowest };
    for candidate in &plan.candidates {
        let got = question.judge_candidate(candidate);
        let k = candidate.stages.len() - 1;
        assert!(allowed(k), "seed {seed}");
        assert!((candidate.tokens_per_s * got.time - 1.0).abs() < 1e-6, "seed {seed}");
        assert_eq!(candidate.fetch_bytes(), got.fetch, "seed {seed}");
        let best = least(all[k].iter().map(primary));
        let most = if is_latency { 1.1051 } else { 1.00501 };
        assert!(primary(&got) <= most * best, "seed {seed}: {got:?}, {best}");
        let mut fastest = all[k].iter().filter(|other| other.time <= best * (1.0 + 1e-9));
        let keeps_outer = is_latency && k > 0 && fastest.clone().all(|other| other.is_outer);
        assert!(got.is_outer || !keeps_outer, "seed {seed}: a hop was added");
        // Where both are as fast, it may have begun with either.
        let may_keep_outer = is_latency && k > 0 && fastest.any(|other| other.is_outer);
        let is_allowed = |other: &&Judged| other.is_outer || !may_keep_outer;
        // A single node is balanced as it is.
        if is_latency && k > 0 {
            let tied = all[k].iter().filter(|other| other.time <= 1.0999 * best);
            let tied = tied.filter(is_allowed);
            let widest = least(tied.map(|other| other.widest));
            assert!(got.widest <= 1.0101 * widest, "seed {seed}: {got:?}, {widest}");
        }
        let is_better = |other: &&Judged| {
            other.widest <= got.widest && other.fetch <= got.fetch && other.time < got.time - 1e-9
        };
        let mut others = all[k].iter().filter(is_allowed);
        assert!(!others.any(|other| is_better(&other)), "seed {seed}");
    }
    for help in &plan.each_further {
        let is_found = help.tokens_per_s.is_some();
        assert_eq!(is_found, !all[help.n_nodes - 1].is_empty(), "seed {seed}");
    }
    let best = (0..all.len()).filter(|&k| allowed(k)).flat_map(|k| all[k].iter().map(primary));
    let got = primary(&question.judge_candidate(plan.best()));
    assert!(
        got <= if is_latency { 1.11 } else { 1.0202 } * least(best),
        "seed {seed}: the ranking"
    );
    let n_used = plan.best().stages.len();
    assert_eq!(plan.left_out.len() + n_used, question.nodes.len(), "seed {seed}");
    true
}

#[test]
fn is_optimal_against_brute_force() {
    let mut n_planned = 0;
    for seed in 0..3000 {
        let mut random = Random(seed);
        let n_nodes = 1 + random.below(5);
        let n_layer = 1 + random.below(8);
        n_planned += u32::from(check_optimal(&Question::draw(&mut random, n_nodes, n_layer), seed));
    }
    assert!(n_planned > 1500, "most questions should have an answer, {n_planned} had");
}

#[test]
fn is_optimal_on_six_nodes_and_ten_layers() {
    for seed in 0..60 {
        check_optimal(&Question::draw(&mut Random(seed), 6, 10), seed);
    }
}

#[test]
fn the_order_of_nodes_changes_nothing() {
    for seed in 0..200 {
        let mut random = Random(seed);
        let n_nodes = 2 + random.below(6);
        let mut question = Question::draw(&mut random, n_nodes, 12);
        let plan = question.plan();
        for _ in 0..3 {
            for i in (1..question.nodes.len()).rev() {
                question.nodes.swap(i, random.below(i as u64 + 1) as usize);
            }
            assert_eq!(question.plan(), plan, "seed {seed}");
        }
    }
}

#[test]
fn many_nodes_respect_memory_pins_and_numbers() {
    let mut n_planned = 0;
    for seed in 0..60 {
        let mut random = Random(seed);
        let n_nodes = 9 + random.below(24);
        let mut question = Question::draw(&mut random, n_nodes, 20);
        let Ok(plan) = question.plan() else { continue };
        n_planned += 1;
        let request = &question.request;
        for candidate in &plan.candidates {
            let got = question.judge_candidate(candidate);
            assert!((candidate.tokens_per_s * got.time - 1.0).abs() < 1e-6, "seed {seed}");
            let n_used = candidate.stages.len();
            assert!((request.min_nodes..=request.max_nodes).contains(&n_used), "seed {seed}");
            for &(node, layers) in &request.pinned {
                let is_pin = |stage: &shoal_cluster::planner::StagePlan| {
                    stage.node == node && stage.layers == layers
                };
                assert!(candidate.stages.iter().any(is_pin), "seed {seed}");
            }
        }
        let n_used = plan.best().stages.len();
        assert_eq!(plan.left_out.len() + n_used, question.nodes.len(), "seed {seed}");
        question.nodes.reverse();
        assert_eq!(question.plan().as_ref(), Ok(&plan), "seed {seed}");
    }
    assert!(n_planned > 30, "most questions should have an answer, {n_planned} had");
}

#[test]
fn predicts_the_first_token_of_a_chunked_prompt() {
    let mut model = uniform(4, 1_000_000);
    model.layer_macs = vec![1_000_000; 4];
    model.head_macs = 5_000_000;
    model.n_embd = 1000;
    let mut nodes = [node(1, 1_000_000, 1e9), node(2, 3_000_000, 1e9)];
    for node in &mut nodes {
        node.prefill_macs_per_s = 1e9;
        node.step_s = 0.001;
    }
    let links = Links::new(Link { rtt_s: 0.02, bytes_per_s: 256e6 });
    let mut request = PlanRequest::new(id(1), 1);
    request.n_prompt = 200;
    request.pinned = vec![(id(1), layers(0, 1))];
    let plan = plan(&model, &nodes, &links, &request).expect("fits");
    // Chunks of 64 take 65 ms at the first stage, 193 ms at the second and 11 ms between them; three follow the first. Then 5 ms
    // for the head and 10 ms to the driver.
    let expected = 0.065 + 0.011 + 0.193 + 3.0 * 0.193 + 0.005 + 0.01;
    let got = plan.best().first_token_s;
    assert!((got - expected).abs() < 1e-5, "{got} instead of {expected}");
}

fn splits(candidate: &Candidate) -> Vec<(NodeId, u32)> {
    candidate.stages.iter().map(|stage| (stage.node, stage.layers.n_layer())).collect()
}

#[test]
fn a_throughput_split_is_proportional_to_speed() {
    let model = uniform(35, 10_000_000);
    let nodes: Vec<PlanNode> =
        [1.0, 2.0, 4.0].iter().zip(1..).map(|(x, i)| node(i, 1 << 40, x * 1e9)).collect();
    let mut request = PlanRequest::new(id(1), 1);
    request.objective = Objective::Throughput;
    let links = Links::new(Link { rtt_s: 1e-6, bytes_per_s: 1e12 });
    let plan = plan(&model, &nodes, &links, &request).expect("fits");
    for (node, n_layer) in splits(plan.best()) {
        let ideal = [5, 10, 20][usize::from(node.0[7]) - 1];
        assert!(n_layer.abs_diff(ideal) <= 1, "{n_layer} instead of {ideal}");
    }
    assert_eq!(plan.best().stages.len(), 3);
}

#[test]
fn a_latency_split_over_all_nodes_is_balanced_by_speed() {
    // Only so far as a tenth of the time pays for: the fastest node alone would be fastest, and three have to take part.
    let model = uniform(35, 10_000_000);
    let nodes: Vec<PlanNode> =
        [1.0, 2.0, 4.0].iter().zip(1..).map(|(x, i)| node(i, 1 << 40, x * 1e9)).collect();
    let mut request = PlanRequest::new(id(1), 1);
    request.min_nodes = 3;
    let question = Question { model, nodes, links: wifi(0.001), request };
    assert!(check_optimal(&question, 0));
}

/// Two equal nodes, and a model with a head of so many layers' bytes: the layers of both.
fn halves(n_layer: u32, head_layers: f64) -> Vec<u32> {
    let mut model = uniform(n_layer, 25_000_000);
    model.head_bytes = (25_000_000.0 * head_layers) as u64;
    let nodes: Vec<PlanNode> = (0..2).map(|i| node(i, 1 << 40, 8e9)).collect();
    let mut request = PlanRequest::new(id(0), 1);
    request.min_nodes = 2;
    let plan = plan(&model, &nodes, &wifi(0.0), &request).expect("fits");
    splits(plan.best()).into_iter().map(|split| split.1).collect()
}

#[test]
fn a_head_weighs_as_much_as_prompts_and_tokens_together_need_it() {
    // TinyLlama-1.1B and Llama-3.2-1B as Q4_K_M: heads of 2.1 and 6.5 layers.
    assert_eq!(halves(22, 2.1), [11, 11]);
    assert_eq!(halves(16, 6.5), [9, 7]);
    assert_eq!(halves(16, 0.0), [8, 8]);
}

#[test]
fn equal_nodes_split_evenly_when_more_are_asked_for() {
    let model = uniform(24, 10_000_000);
    let nodes: Vec<PlanNode> = (0..3).map(|i| node(i, 1 << 40, 5e9)).collect();
    let mut request = PlanRequest::new(id(0), 1);
    request.min_nodes = 3;
    let plan = plan(&model, &nodes, &wifi(0.006), &request).expect("fits");
    assert_eq!(splits(plan.best()), [(id(0), 8), (id(1), 8), (id(2), 8)]);
}

#[test]
fn nodes_of_nearly_one_speed_share_nearly_equally() {
    let model = uniform(16, 40_000_000);
    let nodes = [node(1, u64::MAX, 1.0e9), node(2, u64::MAX, 1.08e9)];
    let mut request = PlanRequest::new(id(1), 512);
    request.min_nodes = 2;
    let plan = plan(&model, &nodes, &wifi(0.005), &request).expect("both have room");
    let mut layers: Vec<u32> = splits(plan.best()).iter().map(|split| split.1).collect();
    layers.sort_unstable();
    assert!(layers[0] >= 7, "{layers:?}");
}

/// Qwen2.5-0.5B as Q4_K_M: 24 layers, 398 MB read per token, 144 MB of it the tied head.
fn qwen() -> ModelShape {
    let mut model = uniform(24, (398_000_000 - 144_000_000) / 24);
    model.kv_bytes = vec![512; 24];
    model.embedding_bytes = 144_000_000;
    model.head_bytes = 144_000_000;
    model.head_is_tied = true;
    model.head_macs = 136_000_000;
    model.n_embd = 896;
    model.buffer_bytes = 20_000_000;
    model
}

#[test]
fn a_small_model_stays_on_one_phone_and_says_why() {
    let nodes: Vec<PlanNode> = (0..3).map(|i| node(i, 2 << 30, 8e9)).collect();
    let request = PlanRequest::new(id(0), 4096);
    let plan = plan(&qwen(), &nodes, &wifi(0.006), &request).expect("fits");
    assert_eq!(splits(plan.best()), [(id(0), 24)]);
    let name = |node: NodeId| format!("phone-{}", node.0[7]);
    assert_eq!(
        plan.sentence(name),
        "fits on one device (phone-0) and is fastest there: each further device adds 6.2 ms of network per token and saves no computing"
    );
    for (node, why) in &plan.left_out {
        assert!(matches!(why, WhyLeftOut::WouldSlow { .. }), "{node:?}: {why}");
    }
}

#[test]
fn a_slow_node_is_left_out_by_name() {
    let nodes = [node(1, 100, 1.0), node(2, 6_000_000_000, 5e9), node(3, 2_000_000_000, 1e8)];
    let request = PlanRequest::new(id(2), 1);
    let plan = plan(&uniform(32, 100_000_000), &nodes, &wifi(0.004), &request).expect("fits");
    assert_eq!(splits(plan.best()), [(id(2), 32)]);
    let [(first, small), (second, slow)] = plan.left_out[..] else { panic!("{:?}", plan.left_out) };
    assert_eq!((first, second), (id(1), id(3)));
    assert_eq!(
        small.to_string(),
        "too little memory for one layer: needs 100000000 bytes, has 100"
    );
    assert_eq!(slow.to_string(), "would slow the rest: 0.6 instead of 1.6 tokens per second");
}

#[test]
fn held_bytes_break_ties() {
    let mut nodes: Vec<PlanNode> = (0..3).map(|i| node(i, 1 << 40, 5e9)).collect();
    let mut request = PlanRequest::new(id(9), 1);
    let model = uniform(24, 10_000_000);
    let one = |nodes: &[PlanNode], request: &PlanRequest| {
        let plan = plan(&model, nodes, &wifi(0.006), request).expect("fits");
        splits(plan.best())
    };
    assert_eq!(one(&nodes, &request), [(id(0), 24)]);
    nodes[2].held.push(layers(0, 24));
    assert_eq!(one(&nodes, &request), [(id(2), 24)]);
    nodes[1].held.push(layers(12, 24));
    request.min_nodes = 2;
    assert_eq!(one(&nodes, &request), [(id(2), 12), (id(1), 12)]);
}

#[test]
fn says_what_is_missing() {
    let model = uniform(4, 1000);
    let nodes = [node(1, 2500, 1.0), node(2, 1500, 1.0)];
    let ask = |nodes: &[PlanNode], change: &dyn Fn(&mut PlanRequest)| {
        let mut request = PlanRequest::new(id(1), 1);
        change(&mut request);
        plan(&model, nodes, &wifi(0.0), &request).expect_err("impossible").to_string()
    };
    assert_eq!(
        ask(&[], &|_| {}),
        "plan: no node can take layers: 0 given, all excluded or of unknown speed"
    );
    assert_eq!(
        ask(&nodes, &|_| {}),
        "plan: the model needs 4000 bytes, the nodes give 4000, its largest layer needs 1000 on one node, and no cut of its layers fits"
    );
    assert_eq!(
        ask(&nodes, &|request| request.min_nodes = 3),
        "plan: 3 nodes wanted, only 2 can take layers"
    );
    let beyond = ask(&nodes, &|request| request.pinned.push((id(1), layers(2, 5))));
    assert_eq!(beyond, "plan: layers 2..5 are pinned, the model has only 4 layers");
    let collide = ask(&nodes, &|request| {
        request.pinned = vec![(id(1), layers(0, 3)), (id(2), layers(2, 4))];
    });
    assert!(collide.contains("exclude each other"), "{collide}");
    let unknown = ask(&nodes, &|request| request.pinned.push((id(7), layers(0, 4))));
    assert!(unknown.contains("not there"), "{unknown}");
}

#[test]
fn survives_senseless_numbers() {
    let mut nodes = vec![node(1, u64::MAX, f64::NAN), node(2, u64::MAX, f64::INFINITY)];
    nodes.push(node(3, u64::MAX, 1e-300));
    nodes[2].step_s = f64::INFINITY;
    let mut model = uniform(3, u64::MAX / 2);
    model.kv_bytes = vec![u64::MAX; 3];
    let links = Links::new(Link { rtt_s: f64::NAN, bytes_per_s: 0.0 });
    let mut request = PlanRequest::new(id(1), u32::MAX);
    request.n_sequences = u32::MAX;
    let plan = plan(&model, &nodes, &links, &request).expect("nominally fits");
    assert_eq!(splits(plan.best()), [(id(3), 3)]);
    model.kv_bytes.pop();
    let error = shoal_cluster::planner::plan(&model, &nodes, &links, &request);
    assert!(matches!(error, Err(PlanError::BadShape { .. })));
}
