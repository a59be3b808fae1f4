//! Routes for the command line and the page: the node, its peers, its instances.

use std::net::SocketAddr;

use axum::{
    Json,
    extract::{Path, State},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shoal_node::{Error, InstanceStatus, InviteOptions, NodeStatus, PlaceRequest};
use shoal_proto::{InstanceId, control::StageRecord};

use crate::{
    App,
    backend::Backend,
    body::JsonBody,
    error::ApiError,
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
    memory_bytes: u64,
    software: String,
    isa: String,
    stages: Vec<StageView>,
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
    state: String,
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
            memory_bytes: record.memory_bytes,
            software: record.software,
            isa: record.isa,
            stages: record.stages.iter().map(StageView::from).collect(),
        }
    }
}

impl NodeView {
    /// The same without the round-trip time, which is never the same twice.
    pub(crate) fn without_rtt(self) -> Self {
        Self { rtt_ms: None, ..self }
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
            state: instance.state.to_owned(),
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

/// The body of `POST /place_instance`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlaceBody {
    /// `demo`, a model's name, or a path.
    model: String,
    /// Over how many nodes; one if nothing is said.
    #[serde(default = "one")]
    nodes: usize,
    /// Positions of a sequence.
    context: Option<u32>,
}

fn one() -> usize {
    1
}

pub(crate) async fn place<B: Backend>(
    State(app): State<App<B>>,
    JsonBody(body): JsonBody<PlaceBody>,
) -> Result<Json<InstanceView>, ApiError> {
    if body.nodes == 0 {
        return Err(ApiError::invalid("nodes", "expected at least 1, got 0"));
    }
    let placed = app
        .backend
        .place(PlaceRequest {
            model: body.model,
            min_nodes: Some(body.nodes),
            max_nodes: Some(body.nodes),
            n_ctx: body.context,
            ..PlaceRequest::default()
        })
        .await?;
    Ok(Json(placed.into()))
}

pub(crate) async fn unplace<B: Backend>(
    State(app): State<App<B>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let instance = u64::from_str_radix(&id, 16).map_err(|_| {
        ApiError::invalid("id", format!("expected up to 16 hexadecimal digits, got {id:?}"))
    })?;
    app.backend.unplace(InstanceId(instance)).await?;
    Ok(Json(json!({"id": id, "deleted": true})))
}

pub(crate) async fn invite<B: Backend>(State(app): State<App<B>>) -> Result<Json<Value>, ApiError> {
    let ticket = app
        .backend
        .invite(InviteOptions::default())
        .map_err(|error: Error| ApiError::from(error))?;
    Ok(Json(json!({"ticket": ticket})))
}
