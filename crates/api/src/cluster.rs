//! Routes for the command line and the page: the node, its peers, its instances.

use std::net::SocketAddr;

use axum::{Json, extract::State};
use serde::Serialize;
use serde_json::{Value, json};
use shoal_node::{InstanceStatus, NodeStatus};
use shoal_proto::control::{HeldModel, StageRecord, Vitals};

use crate::{
    App,
    backend::Backend,
    library::{disk_of, downloads_of},
    view::{DiskView, DownloadView},
};

/// What `GET /state` answers.
#[derive(Debug, Serialize)]
pub(crate) struct StateView {
    nodes: Vec<NodeView>,
    instances: Vec<InstanceView>,
    /// Answers under way through this node.
    n_requests: usize,
    downloads: Vec<DownloadView>,
    /// `None` if this node keeps no models.
    disk: Option<DiskView>,
}

/// A node.
#[derive(Debug, Serialize)]
pub(crate) struct NodeView {
    id: String,
    name: String,
    is_self: bool,
    liveness: String,
    addrs: Vec<SocketAddr>,
    rtt_ms: Option<f64>,
    vitals: Option<VitalsView>,
    profile: Option<ProfileView>,
    models: Vec<HeldView>,
    memory_bytes: u64,
    software: String,
    isa: String,
    stages: Vec<StageView>,
}

/// How a node feels.
#[derive(Debug, Serialize)]
struct VitalsView {
    load_percent: Option<u8>,
    free_bytes: u64,
    temperature_c: Option<f64>,
    battery_percent: Option<u8>,
    is_charging: Option<bool>,
    n_requests: u16,
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

impl From<&HeldModel> for HeldView {
    fn from(held: &HeldModel) -> Self {
        Self {
            name: held.name.clone(),
            is_whole: held.is_whole,
            layers: held.layers.iter().map(|it| [it.start(), it.end()]).collect(),
        }
    }
}

/// How fast a node computes.
#[derive(Debug, Serialize)]
struct ProfileView {
    decode_bytes_per_s: u64,
    prefill_macs_per_s: u64,
}

/// A model on a node's disk.
#[derive(Debug, Serialize)]
struct HeldView {
    name: String,
    is_whole: bool,
    layers: Vec<[u32; 2]>,
}

/// A stage that a node runs.
#[derive(Debug, Serialize)]
struct StageView {
    instance: String,
    epoch: u64,
    layers: [u32; 2],
}

/// A placed model; what `POST /place_instance` answers.
#[derive(Debug, Serialize)]
pub(crate) struct InstanceView {
    id: String,
    model: String,
    state: &'static str,
    why: Option<String>,
    /// Bytes that the nodes have, and need, while they fetch.
    progress: Option<[u64; 2]>,
    n_requests: usize,
    predicted_tokens_per_s: Option<f64>,
    measured_tokens_per_s: Option<f64>,
    /// Whether a request placed it, so that it goes when it is idle.
    is_automatic: bool,
    n_ctx: u32,
    n_layer: u32,
    epoch: u64,
    placement: Vec<PlacedStageView>,
}

/// A stage of a placement: the layers `[start, end)` and who runs them.
#[derive(Debug, Serialize)]
struct PlacedStageView {
    node: String,
    layers: [u32; 2],
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
            rtt_ms: node.rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
            vitals: node.vitals.map(VitalsView::from),
            profile: record.profile.map(|profile| ProfileView {
                decode_bytes_per_s: profile.decode_bytes_per_s,
                prefill_macs_per_s: profile.prefill_macs_per_s,
            }),
            models: record.models.iter().map(HeldView::from).collect(),
            memory_bytes: record.memory_bytes,
            software: record.software,
            isa: record.isa,
            stages: record.stages.iter().map(StageView::from).collect(),
        }
    }
}

impl NodeView {
    /// The same without what is never the same twice: the round-trip time and how the node feels.
    pub(crate) fn without_rtt(self) -> Self {
        Self { rtt_ms: None, vitals: None, ..self }
    }
}

impl From<&StageRecord> for StageView {
    fn from(stage: &StageRecord) -> Self {
        Self {
            instance: stage.instance.to_string(),
            epoch: stage.epoch.count(),
            layers: [stage.layers.start(), stage.layers.end()],
        }
    }
}

impl From<InstanceStatus> for InstanceView {
    fn from(instance: InstanceStatus) -> Self {
        let record = instance.record;
        let stages = record.placement.stages.iter();
        Self {
            id: record.id.to_string(),
            model: record.model.name,
            state: instance.state,
            why: instance.why,
            progress: instance.progress.map(|(n_bytes, n_total)| [n_bytes, n_total]),
            n_requests: instance.n_requests,
            predicted_tokens_per_s: instance.predicted_per_s,
            measured_tokens_per_s: instance.measured_per_s,
            is_automatic: record.unload_after_s.is_some(),
            n_ctx: record.n_ctx,
            n_layer: record.model.n_layer,
            epoch: record.epoch.count(),
            placement: stages
                .map(|stage| PlacedStageView {
                    node: stage.node.to_string(),
                    layers: [stage.layers.start(), stage.layers.end()],
                })
                .collect(),
        }
    }
}

pub(crate) async fn health() -> Json<Value> {
    Json(json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")}))
}

pub(crate) async fn node_id<B: Backend>(State(app): State<App<B>>) -> Json<Value> {
    Json(json!({"id": app.backend.id().to_string(), "name": app.backend.name()}))
}

pub(crate) async fn state<B: Backend>(State(app): State<App<B>>) -> Json<StateView> {
    Json(StateView {
        nodes: app.backend.nodes().into_iter().map(NodeView::from).collect(),
        instances: app.backend.instances().into_iter().map(InstanceView::from).collect(),
        n_requests: app.n_requests(),
        downloads: downloads_of(&app.backend),
        disk: disk_of(&app.backend).await,
    })
}
