//! From what nodes say about themselves to a placement, and to words about it.

use std::{sync::Arc, time::Duration};

use shoal_cluster::planner::{
    self, Candidate, Link, Links, ModelShape, Objective, Plan, PlanNode, PlanRequest, StagePlan,
    derate,
};
use shoal_proto::{
    InstanceId, LayerRange, NodeId,
    control::{InstanceRecord, ModelRef, NodeRecord, Placement, Profile, Vitals},
};

mod again;

use crate::{
    Error, Help, LeftOut, Node, PlaceRequest, PlanCandidate, PlanReport, PlanStage,
    models::Opened,
    node::{N_CTX_DEFAULT, Named},
};

/// Tokens of the prompt that times to the first token are predicted for.
const N_PROMPT: u32 = 512;
/// What a node is taken for before it has measured itself: a slow phone. Bytes per second, multiply-accumulates per second,
/// seconds.
const DECODE_DEFAULT: f64 = 4e9;
const PREFILL_DEFAULT: f64 = 20e9;
const STEP_DEFAULT: f64 = 100e-6;
/// What a link is taken for before it was measured: an ordinary WiFi. Seconds, bytes per second.
const RTT_DEFAULT: f64 = 5e-3;
const BANDWIDTH_DEFAULT: f64 = 12.5e6;
/// No link is taken for faster, in seconds there and back. However fast it is, a frame passes from a stage's process to its node,
/// to the other node and to that one's process, which was measured as 0.22 ms each way; and differences below this are chance.
const RTT_MIN: f64 = 0.5e-3;
/// Scratch memory of any stage, in bytes: activations of a batch, and logits.
const BUFFER_BYTES: u64 = 32 << 20;

/// One copy of a model that is to be brought up.
pub(crate) struct Planned {
    pub(crate) model: ModelRef,
    pub(crate) n_ctx: u32,
    pub(crate) candidate: Candidate,
}

/// A model and the cluster at this moment, as the planner sees them.
struct Resources {
    model: ModelShape,
    nodes: Vec<PlanNode>,
    links: Links,
}

impl Node {
    /// Says how a model would be placed and how fast it would be, without placing it.
    ///
    /// # Errors
    /// As [`place`](Self::place).
    pub async fn plan(&self, request: PlaceRequest) -> Result<PlanReport, Error> {
        let (opened, n_ctx) = self.open_for(&request).await?;
        self.measure_links().await;
        let resources = self.resources(&opened, None);
        let asked = self.plan_request(&request, n_ctx);
        let plan = self.plan_sparing(&resources, &asked).await?;
        Ok(self.report(&opened, n_ctx, &plan, &request.exclude))
    }

    /// Chooses the nodes of as many copies as are asked for; no node takes part in two.
    pub(crate) async fn plan_copies(&self, request: &PlaceRequest) -> Result<Vec<Planned>, Error> {
        let (opened, n_ctx) = self.open_for(request).await?;
        let mut asked = self.plan_request(request, n_ctx);
        let is_choice = asked.max_nodes > 1 || request.replicas.is_some_and(|n| n > 1);
        if is_choice {
            self.measure_links().await;
        }
        let resources = self.resources(&opened, None);
        let mut copies = Vec::new();
        for _ in 0..request.replicas.unwrap_or(1).max(1) {
            let best = self.plan_sparing(&resources, &asked).await?.candidates.swap_remove(0);
            asked.exclude.extend(best.stages.iter().map(|stage| stage.node));
            copies.push(best);
        }
        let mut model = opened.reference();
        let is_shared = |copy: &Candidate| copy.stages.iter().any(|stage| stage.node != self.id());
        if copies.iter().any(is_shared) && model.files.is_none() && model.name != shoal_hub::DEMO {
            // Other nodes need not have the file: they can get it from here.
            model.files = self.identify(&model.name).await?;
        }
        let planned = |candidate| Planned { model: model.clone(), n_ctx, candidate };
        Ok(copies.into_iter().map(planned).collect())
    }

    /// Plans without the nodes that drain; with those of them that only suffer, if it takes them.
    async fn plan_sparing(
        &self,
        resources: &Arc<Resources>,
        asked: &PlanRequest,
    ) -> Result<Plan, Error> {
        let mut failed = None;
        for exclude in self.exclusions(&asked.exclude) {
            match plan(resources, PlanRequest { exclude, ..asked.clone() }).await {
                Ok(plan) => return Ok(plan),
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.expect("at least one plan was tried"))
    }

    async fn open_for(&self, request: &PlaceRequest) -> Result<(Arc<Opened>, u32), Error> {
        let opened = match self.resolve(&request.model).await? {
            Named::Files(files) => {
                let library = self.library(&request.model)?;
                self.inner().models().open_files(library, &files).await?
            }
            Named::Here(name) => self.inner().models().open(&name).await?,
        };
        let trained = opened.model.hparams().n_ctx_train;
        let wanted = request.n_ctx.or(self.inner().config().n_ctx);
        let n_ctx = wanted.unwrap_or(N_CTX_DEFAULT.min(trained));
        if (1..=trained).contains(&n_ctx) {
            return Ok((opened, n_ctx));
        }
        Err(Error::InvalidParameter {
            name: "context".into(),
            message: format!("expected 1 to {trained} positions, got {n_ctx}"),
        })
    }

    fn plan_request(&self, request: &PlaceRequest, n_ctx: u32) -> PlanRequest {
        let min_nodes = request.min_nodes.unwrap_or(1);
        PlanRequest {
            n_ctx,
            n_sequences: 1,
            n_prompt: N_PROMPT.min(n_ctx),
            min_nodes,
            max_nodes: request.max_nodes.unwrap_or(usize::MAX).max(min_nodes),
            exclude: request.exclude.clone(),
            pinned: request.pinned.clone(),
            driver: self.id(),
            fetch_bytes_per_s: BANDWIDTH_DEFAULT,
            objective: match request.for_throughput {
                true => Objective::Throughput,
                false => Objective::Latency,
            },
        }
    }

    /// What the nodes that live can give to a model. What `healing` holds now counts as free: it is being replaced.
    fn resources(&self, opened: &Opened, healing: Option<&InstanceRecord>) -> Arc<Resources> {
        let mut nodes = self.plan_nodes(opened, healing);
        for node in &mut nodes {
            let share = self.inner().instances.pace(node.node);
            node.decode_bytes_per_s *= share;
            node.prefill_macs_per_s *= share;
            node.step_s /= share;
        }
        let own = self.inner().peers().record();
        let alive = self.inner().peers().alive();
        let records: Vec<&NodeRecord> = std::iter::once(&own).chain(&alive).collect();
        Arc::new(Resources { model: model_shape(opened), nodes, links: links(&records) })
    }

    /// The nodes that live, as they say that they are.
    fn plan_nodes(&self, opened: &Opened, healing: Option<&InstanceRecord>) -> Vec<PlanNode> {
        let own = self.inner().peers().record();
        let alive = self.inner().peers().alive();
        let records = || std::iter::once(&own).chain(&alive);
        // A node that has just started has not measured itself yet: it is taken for the slowest that has.
        let known = records().filter_map(|record| record.profile);
        let slowest = known.min_by_key(|profile| profile.decode_bytes_per_s);
        let nodes = records().map(|record| {
            let vitals = self.inner().peers().vitals(record.id);
            plan_node(record, record.profile.or(slowest), vitals.as_ref(), opened, healing)
        });
        nodes.collect()
    }

    /// How many answers of an instance its stages have memory for at once, as their nodes say it: each holds KV caches of the
    /// whole context at every stage. A placement has reserved those of one; the others share what no stage was promised.
    pub(crate) fn n_fitting(&self, instance: &InstanceRecord, opened: &Opened) -> usize {
        let own = self.inner().peers().record();
        let alive = self.inner().peers().alive();
        let fits = instance.placement.stages.iter().filter_map(|stage| {
            let record = std::iter::once(&own).chain(&alive).find(|it| it.id == stage.node)?;
            let kv_bytes = opened.model.kv_bytes(stage.layers, instance.n_ctx as usize);
            let n_bytes = opened.stage_bytes(stage.layers, instance.n_ctx);
            Some(sequences_that_fit(record, instance.id, n_bytes, kv_bytes))
        });
        // Nothing is known of nodes that have just come; they hold nobody up.
        fits.min().unwrap_or(usize::MAX)
    }

    fn report(&self, opened: &Opened, n_ctx: u32, plan: &Plan, excluded: &[NodeId]) -> PlanReport {
        let records = self.inner().peers().known_records();
        let own = self.inner().peers().record();
        let name = |node: NodeId| {
            let record = records.iter().chain([&own]).find(|record| record.id == node);
            record.map_or_else(|| node.short(), |record| record.name.clone())
        };
        let drains = |node: NodeId| {
            let mut records = records.iter().chain([&own]).filter(|it| !excluded.contains(&it.id));
            let cause = records.find(|record| record.id == node)?.draining?;
            Some(cause.sentence().to_owned())
        };
        let stage = |stage: &StagePlan| PlanStage {
            node: stage.node,
            name: name(stage.node),
            layers: stage.layers,
            weight_bytes: stage.bytes,
            memory_bytes: stage.memory_bytes,
            fetch_bytes: stage.fetch_bytes,
            compute: seconds(stage.compute_s),
            hop: seconds(stage.hop_s),
        };
        let candidate = |candidate: &Candidate| PlanCandidate {
            stages: candidate.stages.iter().map(stage).collect(),
            tokens_per_s: candidate.tokens_per_s,
            first_token: seconds(candidate.first_token_s),
            aggregate_tokens_per_s: candidate.aggregate_tokens_per_s,
            fetch: seconds(candidate.fetch_s),
        };
        let left_out = plan.left_out.iter().map(|(node, why)| LeftOut {
            node: *node,
            name: name(*node),
            why: drains(*node).unwrap_or_else(|| why.to_string()),
        });
        let help = |help: &planner::Help| Help {
            n_nodes: help.n_nodes,
            tokens_per_s: help.tokens_per_s,
            first_token: help.first_token_s.map(seconds),
            aggregate_tokens_per_s: help.aggregate_tokens_per_s,
        };
        PlanReport {
            model: opened.source.name.clone(),
            n_ctx,
            n_prompt: N_PROMPT.min(n_ctx),
            sentence: plan.sentence(name),
            candidates: plan.candidates.iter().map(candidate).collect(),
            left_out: left_out.collect(),
            each_further: plan.each_further.iter().map(help).collect(),
        }
    }
}

/// Plans on a thread of its own: with many nodes a phone computes for seconds, and heartbeats must go on meanwhile.
async fn plan(resources: &Arc<Resources>, asked: PlanRequest) -> Result<Plan, Error> {
    let resources = Arc::clone(resources);
    let planned = tokio::task::spawn_blocking(move || {
        planner::plan(&resources.model, &resources.nodes, &resources.links, &asked)
    });
    let planned = planned
        .await
        .map_err(|error| Error::StageFailed { message: format!("planning: {error}") })?;
    Ok(planned?)
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// The model as the planner sees it.
fn model_shape(opened: &Opened) -> ModelShape {
    let model = &opened.model;
    let shape = model.shape();
    let one = |layer: u32| LayerRange::new(layer, layer + 1).expect("one layer");
    ModelShape {
        n_layer: model.n_layer(),
        layer_bytes: shape.layers.iter().map(|layer| layer.n_bytes).collect(),
        kv_bytes: (0..model.n_layer()).map(|layer| model.kv_bytes(one(layer), 1)).collect(),
        embedding_bytes: shape.embedding_bytes,
        head_bytes: shape.head.n_bytes,
        head_is_tied: shape.is_head_tied,
        layer_macs: shape.layers.iter().map(|layer| layer.n_macs).collect(),
        head_macs: shape.head.n_macs,
        n_embd: u32::try_from(model.hparams().n_embd).unwrap_or(u32::MAX),
        buffer_bytes: BUFFER_BYTES,
    }
}

/// A node as the planner sees it.
fn plan_node(
    record: &NodeRecord,
    profile: Option<Profile>,
    vitals: Option<&Vitals>,
    opened: &Opened,
    healing: Option<&InstanceRecord>,
) -> PlanNode {
    let stages = record.stages.iter();
    let others = stages.filter(|stage| healing.is_none_or(|it| it.id != stage.instance));
    let promised: u64 = others.map(|stage| stage.n_bytes).sum();
    let unpromised = record.memory_bytes.saturating_sub(promised);
    // What is mapped from a file counts as free to the system, and what others have taken since does not to us.
    let free = vitals.map_or(unpromised, |vitals| vitals.free_bytes);
    let held = record.models.iter().find(|held| held.name == opened.source.name);
    PlanNode {
        node: record.id,
        memory_bytes: unpromised.min(free),
        decode_bytes_per_s: profile.map_or(DECODE_DEFAULT, |it| it.decode_bytes_per_s as f64),
        prefill_macs_per_s: profile.map_or(PREFILL_DEFAULT, |it| it.prefill_macs_per_s as f64),
        step_s: profile.map_or(STEP_DEFAULT, |it| f64::from(it.step_us) * 1e-6),
        held: held.map(|held| held.layers.clone()).unwrap_or_default(),
        derate: vitals.map_or(1.0, |vitals| {
            let celsius = vitals.temperature_dc.map(|tenths| f32::from(tenths) / 10.0);
            derate(None, celsius, vitals.battery.map(|it| (it.percent, it.is_charging)))
        }),
    }
}

/// How many answers have room at a node for their KV caches of a stage: the one that the stage of `n_bytes` was placed with, and
/// as many as fit into this stage's share of what the node has promised to none.
fn sequences_that_fit(node: &NodeRecord, id: InstanceId, n_bytes: u64, kv_bytes: u64) -> usize {
    let others = node.stages.iter().filter(|stage| stage.instance != id);
    let promised = others.clone().fold(n_bytes, |sum, stage| sum.saturating_add(stage.n_bytes));
    let spare = node.memory_bytes.saturating_sub(promised) / (1 + others.count() as u64);
    let n_more = spare.checked_div(kv_bytes).unwrap_or(u64::MAX);
    usize::try_from(n_more).unwrap_or(usize::MAX).saturating_add(1)
}

/// The links between nodes: as either end measured it, else the slower of both ends' ways to the rest, since in a home they
/// meet at the same access point.
fn links(records: &[&NodeRecord]) -> Links {
    let mut links = Links::new(Link { rtt_s: RTT_DEFAULT, bytes_per_s: BANDWIDTH_DEFAULT });
    let measured = |from: &NodeRecord, to: NodeId| {
        let link = from.links.iter().find(|link| link.node == to)?;
        let bytes_per_s = match link.bytes_per_s {
            0 => BANDWIDTH_DEFAULT,
            measured => measured as f64,
        };
        Some(Link { rtt_s: (f64::from(link.rtt_us) * 1e-6).max(RTT_MIN), bytes_per_s })
    };
    let pair = |a: &NodeRecord, b: &NodeRecord| measured(a, b.id).or_else(|| measured(b, a.id));
    let others = |of: &NodeRecord, but: NodeId| {
        let others = records.iter().filter(move |it| it.id != of.id && it.id != but);
        others.filter_map(|other| pair(of, other)).collect::<Vec<Link>>()
    };
    for (i, a) in records.iter().enumerate() {
        for b in &records[i + 1..] {
            let link = pair(a, b).or_else(|| slowest(&[others(a, b.id), others(b, a.id)].concat()));
            if let Some(link) = link {
                links.set(a.id, b.id, link);
            }
        }
    }
    links
}

/// The worst of several links.
fn slowest(links: &[Link]) -> Option<Link> {
    links.iter().copied().reduce(|a, b| Link {
        rtt_s: a.rtt_s.max(b.rtt_s),
        bytes_per_s: a.bytes_per_s.min(b.bytes_per_s),
    })
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use shoal_proto::control::{LinkRecord, StageRecord};

    use super::*;

    fn record(id: u8, links: &[(u8, u32)]) -> NodeRecord {
        let link = |&(node, rtt_us): &(u8, u32)| LinkRecord {
            node: NodeId([node; 32]),
            rtt_us,
            bytes_per_s: 1_000_000 * u64::from(node),
        };
        NodeRecord {
            links: links.iter().map(link).collect(),
            ..NodeRecord::unknown(NodeId([id; 32]))
        }
    }

    #[test]
    fn a_link_that_nobody_measured_is_as_slow_as_those_that_meet_it() {
        let records = [record(1, &[(2, 700), (3, 900)]), record(2, &[]), record(3, &[])];
        let links = links(&records.each_ref());
        let rtt_us = |a: u8, b: u8| {
            let link = links.get(NodeId([a; 32]), NodeId([b; 32]));
            ((link.rtt_s * 1e6).round(), link.bytes_per_s)
        };
        assert_eq!(rtt_us(1, 2), (700.0, 2e6));
        assert_eq!(rtt_us(2, 3), (900.0, 2e6));
        let strangers = [record(1, &[]), record(2, &[])];
        let links = super::links(&strangers.each_ref());
        let link = links.get(NodeId([1; 32]), NodeId([2; 32]));
        assert_eq!((link.rtt_s, link.bytes_per_s), (RTT_DEFAULT, BANDWIDTH_DEFAULT));
    }

    #[test]
    fn stages_share_the_memory_that_is_left_for_further_answers() {
        let stage = |instance, n_bytes| StageRecord {
            instance: InstanceId(instance),
            epoch: shoal_proto::Epoch(1),
            layers: LayerRange::new(0, 1).expect("one layer"),
            n_bytes,
        };
        let node = |memory_bytes, stages: &[StageRecord]| NodeRecord {
            memory_bytes,
            stages: stages.to_vec(),
            ..record(1, &[])
        };
        let fit = |node: &NodeRecord| sequences_that_fit(node, InstanceId(1), 600, 100);
        assert_eq!(fit(&node(1000, &[stage(1, 600)])), 5, "one is reserved, four fit beside it");
        assert_eq!(fit(&node(1000, &[])), 5, "its stage is not told of yet");
        assert_eq!(fit(&node(699, &[stage(1, 600)])), 1);
        assert_eq!(fit(&node(500, &[stage(1, 600)])), 1, "more was promised than there is");
        let both = [stage(1, 600), stage(2, 1000)];
        assert_eq!(fit(&node(2000, &both)), 3, "half of what is left for each");
        assert_eq!(sequences_that_fit(&node(1000, &[]), InstanceId(1), 600, 0), usize::MAX);
    }

    #[test]
    fn chance_makes_no_link_faster_than_another() {
        let records = [record(1, &[(2, 60), (3, 180)]), record(2, &[(3, 410)]), record(3, &[])];
        let links = links(&records.each_ref());
        let rtt_s = |a: u8, b: u8| links.get(NodeId([a; 32]), NodeId([b; 32])).rtt_s;
        assert_eq!([rtt_s(1, 2), rtt_s(1, 3), rtt_s(2, 3)], [RTT_MIN; 3]);
    }

    #[test]
    fn other_tasks_go_on_while_the_planner_computes() {
        let node = NodeId([1; 32]);
        let resources = Arc::new(Resources {
            model: ModelShape {
                n_layer: 1,
                layer_bytes: vec![1000],
                kv_bytes: vec![10],
                embedding_bytes: 100,
                head_bytes: 100,
                head_is_tied: false,
                layer_macs: vec![1000],
                head_macs: 100,
                n_embd: 8,
                buffer_bytes: 0,
            },
            nodes: vec![PlanNode {
                node,
                memory_bytes: 1 << 20,
                decode_bytes_per_s: DECODE_DEFAULT,
                prefill_macs_per_s: PREFILL_DEFAULT,
                step_s: STEP_DEFAULT,
                held: Vec::new(),
                derate: 1.0,
            }],
            links: links(&[]),
        });
        let asked = PlanRequest::new(node, 8);
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.max_blocking_threads(1).build().expect("threads start");
        runtime.block_on(async {
            // The only thread apart is busy until this task, which shares its own with the plan, lets it go.
            let (release, released) = std::sync::mpsc::channel::<()>();
            let busy = tokio::task::spawn_blocking(move || released.recv());
            let mut planned = std::pin::pin!(plan(&resources, asked));
            assert!(planned.as_mut().now_or_never().is_none(), "it waits for that thread");
            release.send(()).expect("it waits");
            assert_eq!(planned.await.expect("it fits").best().stages.len(), 1);
            busy.await.expect("no panic").expect("it was sent");
        });
    }
}
