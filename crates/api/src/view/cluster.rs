//! What the API says of nodes and instances.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use shoal_node::{InstanceStatus, NodeStatus, RunnerStatus};
use shoal_proto::{
    LayerRange,
    control::{HeldModel, LinkRecord, Profile, Stage, StageRecord, Vitals},
};

use super::{DiskView, DownloadView, ms};

/// What `GET /state` answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StateView {
    /// The nodes of the cluster, this one included.
    pub nodes: Vec<NodeView>,
    /// The models that are placed.
    pub instances: Vec<InstanceView>,
    /// Answers under way through this node.
    pub n_requests: usize,
    /// Downloads of this node.
    pub downloads: Vec<DownloadView>,
    /// `None` if this node keeps no models.
    pub disk: Option<DiskView>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its id.
    pub id: String,
    /// The name that its owner gave it.
    pub name: String,
    /// Whether it is the node that answers.
    pub is_self: bool,
    /// `alive`, `suspect` or `dead`.
    pub liveness: String,
    /// Where it can be dialled.
    pub addrs: Vec<SocketAddr>,
    /// Round-trip time of the link to it.
    pub rtt_ms: Option<f64>,
    /// How it feels, if it has said so.
    pub vitals: Option<VitalsView>,
    /// How fast it computes, once it has measured that.
    pub profile: Option<ProfileView>,
    /// The models on its disk.
    pub models: Vec<HeldView>,
    /// Memory that it gives to models altogether.
    pub memory_bytes: u64,
    /// Version of its software.
    pub software: String,
    /// The instruction set that it computes with.
    pub isa: String,
    /// What its maker calls it; empty if that is not known.
    pub device: String,
    /// Its own links to other nodes, as it measured them last.
    pub links: Vec<LinkView>,
    /// The stages that it runs.
    pub stages: Vec<StageView>,
    /// Why it gives its layers away: `asked`, `ending`, `hot`, `low_battery` or `low_memory`; `None` if it does not.
    pub draining: Option<String>,
}

/// A link from one node to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkView {
    /// The other node.
    pub node: String,
    /// Round-trip time.
    pub rtt_ms: f64,
}

/// How a node feels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VitalsView {
    /// Share of its processors that is busy.
    pub load_percent: Option<u8>,
    /// Memory that it could still give to models.
    pub free_bytes: u64,
    /// The warmest of its processor's sensors, in degrees Celsius.
    pub temperature_c: Option<f64>,
    /// Charge of its battery.
    pub battery_percent: Option<u8>,
    /// Whether that is being charged.
    pub is_charging: Option<bool>,
    /// Answers under way through it.
    pub n_requests: u16,
}

/// How fast a node computes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileView {
    /// Bytes of weights that decoding reads per second.
    pub decode_bytes_per_s: u64,
    /// Multiply-accumulates per second with many rows at once.
    pub prefill_macs_per_s: u64,
}

/// A model on a node's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldView {
    /// Its name.
    pub name: String,
    /// Whether all of it is there.
    pub is_whole: bool,
    /// The layers `[start, end)` that are there.
    pub layers: Vec<[u32; 2]>,
}

/// A stage that a node runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageView {
    /// The instance that it is of.
    pub instance: String,
    /// Which placement of it.
    pub epoch: u64,
    /// Its layers `[start, end)`.
    pub layers: [u32; 2],
    /// How its runner is doing, on the node that answers; of other nodes this is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner: Option<RunnerView>,
}

/// What runs a stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunnerView {
    /// Its process; `None` for a thread of the node, and while there is none.
    pub pid: Option<u32>,
    /// `starting`, `ready`, `restarting` or `given up`.
    pub state: String,
    /// How often it was started anew.
    pub n_restarts: u32,
    /// Why it died last.
    pub why: Option<String>,
}

/// A placed model; what `POST /place_instance` answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceView {
    /// Its id.
    pub id: String,
    /// The model's name.
    pub model: String,
    /// `placing`, `fetching`, `loading`, `ready`, `healing` or `failed`.
    pub state: String,
    /// Why it failed, or what it waits for.
    pub why: Option<String>,
    /// Bytes that the nodes have, and need, while they fetch.
    pub progress: Option<[u64; 2]>,
    /// Answers of it under way through this node.
    pub n_requests: usize,
    /// Requests that wait there for their turn.
    #[serde(default)]
    pub n_waiting: usize,
    /// Speed of one conversation as it was predicted.
    pub predicted_tokens_per_s: Option<f64>,
    /// The same as measured.
    pub measured_tokens_per_s: Option<f64>,
    /// A placement that would be much better, in words.
    pub suggestion: Option<String>,
    /// Whether a request placed it, so that it goes when it is idle.
    pub is_automatic: bool,
    /// Positions of a sequence.
    pub n_ctx: u32,
    /// Layers of the model.
    pub n_layer: u32,
    /// Which placement of it this is.
    pub epoch: u64,
    /// Who runs which layers, in order.
    pub placement: Vec<PlacedStageView>,
}

/// A stage of a placement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedStageView {
    /// The node that runs it.
    pub node: String,
    /// Its layers `[start, end)`.
    pub layers: [u32; 2],
}

pub(super) fn bounds(layers: LayerRange) -> [u32; 2] {
    [layers.start(), layers.end()]
}

impl NodeView {
    /// With how the runners of its stages are doing, if it is the node that answers.
    pub(crate) fn with_runners(mut self, runners: &[RunnerStatus]) -> Self {
        for stage in self.stages.iter_mut().filter(|_| self.is_self) {
            let of_stage = |it: &&RunnerStatus| it.instance.to_string() == stage.instance;
            stage.runner = runners.iter().find(of_stage).map(RunnerView::from);
        }
        self
    }

    /// The same without what is never the same twice: the round-trip time and how the node feels.
    pub(crate) fn without_rtt(self) -> Self {
        Self { rtt_ms: None, vitals: None, ..self }
    }
}

impl From<NodeStatus> for NodeView {
    fn from(node: NodeStatus) -> Self {
        let record = node.record;
        Self {
            id: record.id.to_string(),
            name: record.name,
            is_self: node.is_self,
            liveness: node.liveness,
            addrs: record.addrs,
            rtt_ms: node.rtt.map(ms),
            vitals: node.vitals.map(VitalsView::from),
            profile: record.profile.map(ProfileView::from),
            models: record.models.iter().map(HeldView::from).collect(),
            memory_bytes: record.memory_bytes,
            software: record.software,
            isa: record.isa,
            device: record.device,
            links: record.links.iter().map(LinkView::from).collect(),
            stages: record.stages.iter().map(StageView::from).collect(),
            draining: record.draining.map(|cause| cause.as_str().to_owned()),
        }
    }
}

impl From<&LinkRecord> for LinkView {
    fn from(link: &LinkRecord) -> Self {
        Self { node: link.node.to_string(), rtt_ms: f64::from(link.rtt_us) / 1e3 }
    }
}

impl From<Vitals> for VitalsView {
    fn from(vitals: Vitals) -> Self {
        Self {
            load_percent: vitals.load_percent,
            free_bytes: vitals.free_bytes,
            temperature_c: vitals.temperature_dc.map(|tenths| f64::from(tenths) / 10.0),
            battery_percent: vitals.battery.map(|battery| battery.percent),
            is_charging: vitals.battery.map(|battery| battery.is_charging),
            n_requests: vitals.n_requests,
        }
    }
}

impl From<Profile> for ProfileView {
    fn from(profile: Profile) -> Self {
        Self {
            decode_bytes_per_s: profile.decode_bytes_per_s,
            prefill_macs_per_s: profile.prefill_macs_per_s,
        }
    }
}

impl From<&HeldModel> for HeldView {
    fn from(held: &HeldModel) -> Self {
        Self {
            name: held.name.clone(),
            is_whole: held.is_whole,
            layers: held.layers.iter().copied().map(bounds).collect(),
        }
    }
}

impl From<&StageRecord> for StageView {
    fn from(stage: &StageRecord) -> Self {
        Self {
            instance: stage.instance.to_string(),
            epoch: stage.epoch.count(),
            layers: bounds(stage.layers),
            runner: None,
        }
    }
}

impl From<&RunnerStatus> for RunnerView {
    fn from(status: &RunnerStatus) -> Self {
        Self {
            pid: status.pid,
            state: status.state.to_owned(),
            n_restarts: status.n_restarts,
            why: status.why.clone(),
        }
    }
}

impl From<InstanceStatus> for InstanceView {
    fn from(instance: InstanceStatus) -> Self {
        let record = instance.record;
        Self {
            id: record.id.to_string(),
            model: record.model.name,
            state: instance.state.to_owned(),
            why: instance.why,
            progress: instance.progress.map(|(n_bytes, n_total)| [n_bytes, n_total]),
            n_requests: instance.n_requests,
            n_waiting: instance.n_waiting,
            predicted_tokens_per_s: instance.predicted_per_s,
            measured_tokens_per_s: instance.measured_per_s,
            suggestion: instance.suggestion,
            is_automatic: record.unload_after_s.is_some(),
            n_ctx: record.n_ctx,
            n_layer: record.model.n_layer,
            epoch: record.epoch.count(),
            placement: record.placement.stages.iter().map(PlacedStageView::from).collect(),
        }
    }
}

impl From<&Stage> for PlacedStageView {
    fn from(stage: &Stage) -> Self {
        Self { node: stage.node.to_string(), layers: bounds(stage.layers) }
    }
}
