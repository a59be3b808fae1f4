//! The question in numbers: nodes by index in the order of their ids, costs in picoseconds.

use shoal_proto::{LayerRange, NodeId};

use super::{
    DECODE_SHARE, Link, Links, MAX_LAYERS, MAX_NODES, ModelShape, Objective, PlanError, PlanNode,
    PlanRequest, WhyLeftOut,
};

/// The cost of what is not allowed.
pub(super) const NEVER: u64 = u64::MAX;
/// Picoseconds of a second: so fine that rounding never decides, and a day still fits 10^8 times into 64 bits.
const PER_S: f64 = 1e12;
/// No single cost is above a day: sums over all stages cannot overflow.
const COST_MAX: f64 = 86_400.0 * PER_S;
/// Seconds that a stage costs more for not fitting, and again for each model's worth of missing memory: far above what any
/// placement takes.
const OVERFLOW_S: f64 = 1000.0;
/// A token on its way to or from the driver, with its frame's header, in bytes.
const TOKEN_BYTES: u64 = 64;

/// Converts a cost to seconds.
pub(super) fn seconds(cost: u64) -> f64 {
    cost as f64 / PER_S
}

/// Converts seconds to a cost.
fn cost_of(seconds: f64) -> u64 {
    if seconds.is_nan() {
        return COST_MAX as u64;
    }
    (seconds * PER_S).clamp(0.0, COST_MAX).round() as u64
}

/// A stage: the layers `[start, end)` at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    /// Index of the node.
    pub(super) node: usize,
    /// First layer.
    pub(super) start: usize,
    /// One past the last layer.
    pub(super) end: usize,
}

impl Cut {
    /// The layers as the rest of the crate names them.
    pub(super) fn layers(self) -> LayerRange {
        let as_layer = |i: usize| u32::try_from(i).expect("within the model's layers");
        LayerRange::new(as_layer(self.start), as_layer(self.end)).expect("no stage is empty")
    }
}

/// The question in numbers.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    /// Nodes that can take layers.
    pub(super) n: usize,
    /// Layers of the model.
    pub(super) n_layer: usize,
    /// Their ids, the driver's first and the others ascending.
    pub(super) ids: Vec<NodeId>,
    /// The node that drives, if it can take layers.
    pub(super) driver: Option<usize>,
    /// Their memory, in bytes.
    pub(super) memory_bytes: Vec<u64>,
    /// Their prefill rates, in multiply-accumulates per second, derated.
    pub(super) macs_per_s: Vec<f64>,
    /// Their fixed costs per step, in seconds.
    pub(super) step_s: Vec<f64>,
    /// `[n, n]` links.
    pub(super) link: Vec<Link>,
    /// Their decode rates, in bytes per second, derated.
    bytes_per_s: Vec<f64>,
    /// From the driver to each node, for a token.
    pub(super) entry: Vec<u64>,
    /// From each node to the driver, for a token.
    pub(super) tail: Vec<u64>,
    /// The pinned layers of each node.
    pub(super) pins: Vec<Option<(usize, usize)>>,
    /// `[n, n]` hops of a decode step's activations.
    hops: Vec<u64>,
    /// `[n, n_layer + 1, n_layer + 1]` by node, end and start: what a stage computes, [`NEVER`] where it does not fit.
    costs: Vec<u64>,
    /// The same for what balances the stages; empty where that is what they compute.
    shares: Vec<u64>,
    /// How the head and prompts count among the shares; none with [`Objective::Throughput`].
    blend: Option<Blend>,
    /// `[n, n_layer + 1]` by node and end: the starts `lo..hi` at which a stage is allowed.
    reach: Vec<(usize, usize)>,
    /// `[n, n_layer + 1]`: bytes that the node lacks of the layers before each.
    lacking: Vec<Vec<u64>>,
    /// Bytes that each node lacks of the ends.
    lacking_ends: Vec<Ends>,
    weights_before: Vec<u64>,
    /// Multiply-accumulates of the layers before each.
    macs_before: Vec<u64>,
    kv_before: Vec<u64>,
    ends: Ends,
    buffer_bytes: u64,
}

/// What a stage's share is made of.
#[derive(Debug, Clone, Copy)]
struct Blend {
    /// Seconds of decoding that count like a second of a prompt's token: as many as the layers take, over all nodes at once.
    decode_per_prefill: f64,
}

/// Bytes of a model besides its layers.
#[derive(Debug, Clone, Copy)]
struct Ends {
    embedding: u64,
    head: u64,
    /// Embedding and head on the same node.
    both: u64,
}

impl Ends {
    /// Bytes of the ends that a stage of the layers `[start, end)` of `n_layer` has.
    fn of(self, start: usize, end: usize, n_layer: usize) -> u64 {
        match (start == 0, end == n_layer) {
            (true, true) => self.both,
            (true, false) => self.embedding,
            (false, true) => self.head,
            (false, false) => 0,
        }
    }
}

/// `[0, x0, x0 + x1, …]`.
fn sums(of: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut total = 0u64;
    let rest = of.map(|x| {
        total = total.saturating_add(x);
        total
    });
    std::iter::once(0).chain(rest.collect::<Vec<_>>()).collect()
}

/// The nodes that can take layers, and those that cannot, and why.
type Parted<'a> = (Vec<&'a PlanNode>, Vec<(NodeId, WhyLeftOut)>);

impl Problem {
    /// Checks the question and puts it in numbers; with it come the nodes that can take no layers, and why.
    ///
    /// # Errors
    /// Everything that is wrong without looking for a placement.
    pub(super) fn new(
        model: &ModelShape,
        nodes: &[PlanNode],
        links: &Links,
        request: &PlanRequest,
    ) -> Result<(Self, Vec<(NodeId, WhyLeftOut)>), PlanError> {
        check_shape(model)?;
        let &PlanRequest { min_nodes, max_nodes, .. } = request;
        if min_nodes == 0 || min_nodes > max_nodes {
            return Err(PlanError::BadNumberOfNodes { min_nodes, max_nodes });
        }
        check_pins(model.n_layer, &request.pinned)?;
        let mut problem = Self::empty(model, request);
        let (usable, left_out) = problem.usable(nodes, request)?;
        if usable.is_empty() {
            let some_small =
                left_out.iter().any(|(_, why)| matches!(why, WhyLeftOut::TooLittleMemory { .. }));
            return Err(if some_small {
                problem.fits_nowhere(nodes, request)
            } else {
                PlanError::NoNode { given: nodes.len() }
            });
        }
        problem.fill(model, &usable, links, request);
        for &(node, layers) in &request.pinned {
            if !problem.ids.contains(&node) {
                return Err(PlanError::PinnedNodeUnusable { node, layers });
            }
        }
        let wanted = min_nodes.max(request.pinned.len());
        if wanted > problem.n.min(max_nodes) {
            return Err(PlanError::NotEnoughNodes { wanted, got: problem.n.min(max_nodes) });
        }
        if min_nodes > problem.n_layer {
            return Err(PlanError::TooFewLayers { wanted: min_nodes, n_layer: model.n_layer });
        }
        Ok((problem, left_out))
    }

    /// The model's part, without nodes.
    fn empty(model: &ModelShape, request: &PlanRequest) -> Self {
        let positions = u64::from(request.n_ctx) * u64::from(request.n_sequences);
        let both = if model.head_is_tied {
            model.embedding_bytes.max(model.head_bytes)
        } else {
            model.embedding_bytes.saturating_add(model.head_bytes)
        };
        Self {
            n: 0,
            n_layer: model.layer_bytes.len(),
            ids: Vec::new(),
            driver: None,
            memory_bytes: Vec::new(),
            macs_per_s: Vec::new(),
            bytes_per_s: Vec::new(),
            step_s: Vec::new(),
            link: Vec::new(),
            entry: Vec::new(),
            tail: Vec::new(),
            pins: Vec::new(),
            hops: Vec::new(),
            costs: Vec::new(),
            shares: Vec::new(),
            blend: None,
            reach: Vec::new(),
            lacking: Vec::new(),
            lacking_ends: Vec::new(),
            weights_before: sums(model.layer_bytes.iter().copied()),
            macs_before: sums(model.layer_macs.iter().copied()),
            kv_before: sums(model.kv_bytes.iter().map(|kv| kv.saturating_mul(positions))),
            ends: Ends { embedding: model.embedding_bytes, head: model.head_bytes, both },
            buffer_bytes: model.buffer_bytes,
        }
    }

    /// Bytes of the smallest stage of one layer.
    fn smallest(&self) -> u64 {
        self.single_layers().min().unwrap_or(0)
    }

    /// Bytes of each stage of one layer.
    fn single_layers(&self) -> impl Iterator<Item = u64> {
        (0..self.n_layer).map(|i| self.memory(i, i + 1))
    }

    /// Sorts the nodes by id and parts those that can take layers from those that cannot.
    fn usable<'a>(
        &self,
        nodes: &'a [PlanNode],
        request: &PlanRequest,
    ) -> Result<Parted<'a>, PlanError> {
        let mut sorted: Vec<&PlanNode> = nodes.iter().collect();
        sorted.sort_by_key(|node| (node.node != request.driver, node.node));
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0].node == pair[1].node) {
            return Err(PlanError::SameNode { node: pair[0].node });
        }
        let needed_bytes = self.smallest();
        let mut left_out = Vec::new();
        sorted.retain(|node| {
            let memory_bytes = node.memory_bytes;
            let is_rate = |rate: f64| (rate * node.derate).is_finite() && rate * node.derate > 0.0;
            let why = if request.exclude.contains(&node.node) {
                WhyLeftOut::Excluded
            } else if !is_rate(node.decode_bytes_per_s) || !is_rate(node.prefill_macs_per_s) {
                WhyLeftOut::UnknownSpeed
            } else if memory_bytes < needed_bytes {
                WhyLeftOut::TooLittleMemory { needed_bytes, memory_bytes }
            } else {
                return true;
            };
            left_out.push((node.node, why));
            false
        });
        if sorted.len() > MAX_NODES {
            let is_pinned = |node: &PlanNode| request.pinned.iter().any(|pin| pin.0 == node.node);
            let speed = |node: &PlanNode| node.decode_bytes_per_s * node.derate;
            sorted.sort_by(|a, b| {
                let first = is_pinned(b).cmp(&is_pinned(a));
                first.then(speed(b).total_cmp(&speed(a))).then(a.node.cmp(&b.node))
            });
            let beyond = sorted.split_off(MAX_NODES);
            left_out.extend(beyond.iter().map(|node| (node.node, WhyLeftOut::NotNeeded)));
            sorted.sort_by_key(|node| (node.node != request.driver, node.node));
        }
        Ok((sorted, left_out))
    }

    /// Adds the nodes.
    fn fill(
        &mut self,
        model: &ModelShape,
        nodes: &[&PlanNode],
        links: &Links,
        request: &PlanRequest,
    ) {
        self.n = nodes.len();
        let activation_bytes = u64::from(model.n_embd) * 4;
        let token =
            |node: &&PlanNode| cost_of(links.get(request.driver, node.node).hop_s(TOKEN_BYTES));
        self.entry = nodes.iter().map(token).collect();
        self.tail.clone_from(&self.entry);
        for node in nodes {
            if node.node == request.driver {
                self.driver = Some(self.ids.len());
            }
            self.ids.push(node.node);
            self.memory_bytes.push(node.memory_bytes);
            self.bytes_per_s.push(node.decode_bytes_per_s * node.derate);
            self.macs_per_s.push(node.prefill_macs_per_s * node.derate);
            self.step_s.push(node.step_s.max(0.0));
            let pin = request.pinned.iter().find(|pin| pin.0 == node.node);
            self.pins.push(pin.map(|pin| (pin.1.start() as usize, pin.1.end() as usize)));
            for other in nodes {
                let link = links.get(node.node, other.node);
                self.link.push(link);
                self.hops.push(cost_of(link.hop_s(activation_bytes)));
            }
            self.add_lacking(model, node);
        }
        self.blend = self.blend(request.objective);
        self.add_costs(None);
    }

    /// Adds what a node lacks on disk.
    fn add_lacking(&mut self, model: &ModelShape, node: &PlanNode) {
        let holds = |i: u32| node.held.iter().any(|held| held.iter().contains(&i));
        let lacks = |i: u32, bytes: u64| if holds(i) { 0 } else { bytes };
        let bytes = (0..).zip(&model.layer_bytes).map(|(i, &bytes)| lacks(i, bytes));
        self.lacking.push(sums(bytes));
        let last = model.n_layer - 1;
        let Ends { embedding, head, .. } = self.ends;
        self.lacking_ends.push(if model.head_is_tied {
            let has = holds(0) || holds(last);
            if has { Ends { embedding: 0, head: 0, both: 0 } } else { self.ends }
        } else {
            let (embedding, head) = (lacks(0, embedding), lacks(last, head));
            Ends { embedding, head, both: embedding.saturating_add(head) }
        });
    }

    /// How stages are balanced: by what they decode alone if many requests are what counts, or nothing is known of prompts.
    fn blend(&self, objective: Objective) -> Option<Blend> {
        let (bytes, macs) = (self.weights_before[self.n_layer], self.macs_before[self.n_layer]);
        if objective != Objective::Latency || macs == 0 {
            return None;
        }
        let decode_s = bytes as f64 / self.bytes_per_s.iter().sum::<f64>();
        let prefill_s = macs as f64 / self.macs_per_s.iter().sum::<f64>();
        let decode_per_prefill = decode_s / prefill_s;
        decode_per_prefill.is_finite().then_some(Blend { decode_per_prefill })
    }

    /// Tabulates what each stage costs, and which are allowed; with `overflow`, what a stage that does not fit costs more.
    fn add_costs(&mut self, overflow: Option<u64>) {
        let width = self.n_layer + 1;
        let mut costs = vec![NEVER; self.n * width * width];
        let mut shares = if self.blend.is_some() { costs.clone() } else { Vec::new() };
        self.reach = vec![(0, 0); self.n * width];
        for v in 0..self.n {
            for end in 1..width {
                let row = (v * width + end) * width;
                let mut reach: Option<(usize, usize)> = None;
                for start in (0..end).rev() {
                    let lacking = self.memory(start, end).saturating_sub(self.memory_bytes[v]);
                    // A stage that begins earlier only needs more.
                    if lacking > 0 && overflow.is_none() {
                        break;
                    }
                    if !respects_pins(&self.pins, v, start, end) {
                        continue;
                    }
                    let extra = match overflow {
                        Some(model_bytes) if lacking > 0 => {
                            OVERFLOW_S * (1.0 + lacking as f64 / model_bytes as f64)
                        }
                        _ => 0.0,
                    };
                    costs[row + start] = cost_of(self.compute_s(v, start, end) + extra);
                    if let Some(blend) = self.blend {
                        let share_s = self.share_s(blend, v, start, end);
                        shares[row + start] = cost_of(share_s + extra);
                    }
                    reach = Some((start, reach.map_or(start + 1, |reach| reach.1)));
                }
                self.reach[v * width + end] = reach.unwrap_or((0, 0));
            }
        }
        self.costs = costs;
        self.shares = shares;
    }

    /// Seconds that a node computes the layers `[start, end)` of a token.
    fn compute_s(&self, v: usize, start: usize, end: usize) -> f64 {
        let head = if end == self.n_layer { self.ends.head } else { 0 };
        let bytes = (self.weights_before[end] - self.weights_before[start]).saturating_add(head);
        bytes as f64 / self.bytes_per_s[v] + self.step_s[v]
    }

    /// What balances a stage, in seconds: a part of it is a token that is decoded, the rest one of a prompt, which needs no head.
    fn share_s(&self, blend: Blend, v: usize, start: usize, end: usize) -> f64 {
        let macs = self.macs_before[end] - self.macs_before[start];
        let prompt_s = macs as f64 / self.macs_per_s[v] * blend.decode_per_prefill;
        let decode_s = self.compute_s(v, start, end) - self.step_s[v];
        decode_s * DECODE_SHARE + prompt_s * (1.0 - DECODE_SHARE) + self.step_s[v]
    }

    /// The same question where too little memory has a price instead of being forbidden.
    pub(super) fn relaxed(&self) -> Self {
        let mut relaxed = self.clone();
        relaxed.add_costs(Some(self.memory(0, self.n_layer).max(1)));
        relaxed
    }

    /// What the whole model would cost on a node, whatever it needs.
    pub(super) fn plain_cost(&self, v: usize) -> u64 {
        cost_of(self.compute_s(v, 0, self.n_layer))
    }

    /// Weight bytes of the layers `[start, end)` with the model's ends.
    pub(super) fn weights(&self, start: usize, end: usize) -> u64 {
        let layers = self.weights_before[end] - self.weights_before[start];
        layers.saturating_add(self.ends.of(start, end, self.n_layer))
    }

    /// Bytes of a stage of the layers `[start, end)`.
    pub(super) fn memory(&self, start: usize, end: usize) -> u64 {
        self.weights(start, end)
            .saturating_add(self.kv_before[end] - self.kv_before[start])
            .saturating_add(self.buffer_bytes)
    }

    /// What a stage computes per token; [`NEVER`] if it is not allowed.
    pub(super) fn cost(&self, cut: Cut) -> u64 {
        self.costs_to(cut.node, cut.end)[cut.start]
    }

    /// By start, what stages of a node that end at `end` compute.
    pub(super) fn costs_to(&self, node: usize, end: usize) -> &[u64] {
        let width = self.n_layer + 1;
        &self.costs[(node * width + end) * width..][..width]
    }

    /// What balances a stage; [`NEVER`] if it is not allowed.
    pub(super) fn share(&self, cut: Cut) -> u64 {
        self.shares_to(cut.node, cut.end)[cut.start]
    }

    /// By start, what balances stages of a node that end at `end`.
    pub(super) fn shares_to(&self, node: usize, end: usize) -> &[u64] {
        if self.shares.is_empty() {
            return self.costs_to(node, end);
        }
        let width = self.n_layer + 1;
        &self.shares[(node * width + end) * width..][..width]
    }

    /// The starts `lo..hi` at which a node's stage that ends at `end` is allowed.
    pub(super) fn reach(&self, node: usize, end: usize) -> (usize, usize) {
        self.reach[node * (self.n_layer + 1) + end]
    }

    /// The hop from a stage to the next, or to the driver from the last.
    pub(super) fn hop(&self, from: usize, to: Option<usize>) -> u64 {
        to.map_or(self.tail[from], |to| self.hops[from * self.n + to])
    }

    /// Bytes that a stage's node lacks.
    pub(super) fn fetch(&self, cut: Cut) -> u64 {
        let lacking = &self.lacking[cut.node];
        let ends = self.lacking_ends[cut.node].of(cut.start, cut.end, self.n_layer);
        (lacking[cut.end] - lacking[cut.start]).saturating_add(ends)
    }

    /// Time per token; [`NEVER`] if a stage is not allowed.
    pub(super) fn time(&self, cuts: &[Cut]) -> u64 {
        let entry = self.entry[cuts[0].node];
        self.turns(cuts).fold(entry, u64::saturating_add)
    }

    /// The slowest stage with its hop; [`NEVER`] if a stage is not allowed.
    pub(super) fn slowest(&self, cuts: &[Cut]) -> u64 {
        self.turns(cuts).max().unwrap_or(NEVER)
    }

    /// The stage with the greatest share, with its hop; [`NEVER`] if a stage is not allowed.
    pub(super) fn widest(&self, cuts: &[Cut]) -> u64 {
        let turns = with_next(cuts);
        let turns =
            turns.map(|(cut, next)| self.share(cut).saturating_add(self.hop(cut.node, next)));
        turns.max().unwrap_or(NEVER)
    }

    /// What the objective compares first.
    pub(super) fn primary(&self, objective: Objective, cuts: &[Cut]) -> u64 {
        match objective {
            Objective::Latency => self.time(cuts),
            Objective::Throughput => self.slowest(cuts),
        }
    }

    /// Each stage's computing and hop.
    fn turns<'a>(&'a self, cuts: &'a [Cut]) -> impl Iterator<Item = u64> + 'a {
        with_next(cuts).map(|(cut, next)| self.cost(cut).saturating_add(self.hop(cut.node, next)))
    }

    /// The error of a model that fits no allowed placement.
    pub(super) fn does_not_fit(&self, request: &PlanRequest) -> PlanError {
        self.too_big(self.memory_bytes.clone(), request)
    }

    /// The same where no node can take even one layer.
    fn fits_nowhere(&self, nodes: &[PlanNode], request: &PlanRequest) -> PlanError {
        let allowed = nodes.iter().filter(|node| !request.exclude.contains(&node.node));
        self.too_big(allowed.map(|node| node.memory_bytes).collect(), request)
    }

    fn too_big(&self, mut given: Vec<u64>, request: &PlanRequest) -> PlanError {
        given.sort_unstable_by(|a, b| b.cmp(a));
        let most = given.into_iter().take(request.max_nodes);
        PlanError::DoesNotFit {
            needed_bytes: self.memory(0, self.n_layer),
            given_bytes: most.fold(0, u64::saturating_add),
            largest_layer_bytes: self.single_layers().max().unwrap_or(0),
        }
    }
}

/// Each stage with the node after it.
fn with_next(cuts: &[Cut]) -> impl Iterator<Item = (Cut, Option<usize>)> {
    cuts.iter().enumerate().map(|(i, &cut)| (cut, cuts.get(i + 1).map(|cut| cut.node)))
}

/// Whether a node may run `[start, end)`: its own pin, or, without one, no layer of any pin.
fn respects_pins(pins: &[Option<(usize, usize)>], v: usize, start: usize, end: usize) -> bool {
    match pins[v] {
        Some(pin) => pin == (start, end),
        None => pins.iter().flatten().all(|pin| end <= pin.0 || pin.1 <= start),
    }
}

fn check_shape(model: &ModelShape) -> Result<(), PlanError> {
    let got = [model.layer_bytes.len(), model.kv_bytes.len(), model.layer_macs.len()];
    let n_layer = model.n_layer;
    let is_deep = n_layer == 0 || n_layer > MAX_LAYERS;
    if is_deep || got.iter().any(|&got| got != n_layer as usize) {
        return Err(PlanError::BadShape { n_layer, got });
    }
    Ok(())
}

fn check_pins(n_layer: u32, pins: &[(NodeId, LayerRange)]) -> Result<(), PlanError> {
    for (i, &(node, layers)) in pins.iter().enumerate() {
        if layers.end() > n_layer {
            return Err(PlanError::PinBeyondModel { layers, n_layer });
        }
        let collides = |b: &&(NodeId, LayerRange)| {
            b.0 == node || (b.1.start() < layers.end() && layers.start() < b.1.end())
        };
        if let Some(&b) = pins[..i].iter().find(collides) {
            return Err(PlanError::PinsCollide { a: b, b: (node, layers) });
        }
    }
    Ok(())
}
