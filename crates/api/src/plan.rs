//! Routes about placing: `/plan`, `/place_instance`, `/instance/{id}`.

use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
};
use serde::Deserialize;
use serde_json::{Value, json};
use shoal_node::PlaceRequest;
use shoal_proto::{InstanceId, LayerRange, NodeId};

use crate::{
    App,
    backend::Backend,
    body::JsonBody,
    error::ApiError,
    membership::resolve,
    view::{InstanceView, PlanView},
};

/// The body of `POST /place_instance` and of `POST /plan`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlaceBody {
    /// `demo`, a model's name, or a path.
    model: String,
    /// Over exactly how many nodes.
    nodes: Option<usize>,
    /// Over how many nodes at least, and at most.
    min_nodes: Option<usize>,
    max_nodes: Option<usize>,
    /// Positions of a sequence.
    context: Option<u32>,
    /// Nodes that take no layers, by name or id.
    #[serde(default)]
    exclude: Vec<String>,
    /// Layers that certain nodes take.
    #[serde(default)]
    pin: Vec<Pin>,
    /// Independent copies, on nodes of their own.
    replicas: Option<usize>,
    /// Whether many requests at once count more than the speed of one.
    #[serde(default)]
    throughput: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pin {
    node: String,
    /// The layers `[start, end)`.
    layers: [u32; 2],
}

/// The query of `GET /plan`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlanQuery {
    model: String,
    nodes: Option<usize>,
    context: Option<u32>,
    #[serde(default)]
    throughput: bool,
}

/// Turns what a client asked for into what the node is asked for.
fn request<B: Backend>(backend: &B, body: PlaceBody) -> Result<PlaceRequest, ApiError> {
    let at_least_one = |name: &str, n: Option<usize>| match n {
        Some(0) => Err(ApiError::invalid(name, "expected at least 1, got 0")),
        n => Ok(n),
    };
    let nodes = at_least_one("nodes", body.nodes)?;
    if nodes.is_some() && (body.min_nodes.is_some() || body.max_nodes.is_some()) {
        return Err(ApiError::invalid("nodes", "expected either nodes or min_nodes and max_nodes"));
    }
    let known = backend.nodes();
    let exclude = body.exclude.iter().map(|text| resolve(&known, "exclude", text));
    let pinned = body.pin.iter().map(|pin| -> Result<(NodeId, LayerRange), ApiError> {
        let [start, end] = pin.layers;
        let layers = LayerRange::new(start, end)
            .map_err(|error| ApiError::invalid("pin", error.to_string()))?;
        Ok((resolve(&known, "pin", &pin.node)?, layers))
    });
    Ok(PlaceRequest {
        model: body.model,
        min_nodes: nodes.or(at_least_one("min_nodes", body.min_nodes)?),
        max_nodes: nodes.or(at_least_one("max_nodes", body.max_nodes)?),
        n_ctx: body.context,
        exclude: exclude.collect::<Result<_, _>>()?,
        pinned: pinned.collect::<Result<_, _>>()?,
        replicas: at_least_one("replicas", body.replicas)?,
        for_throughput: body.throughput,
    })
}

pub(crate) async fn place<B: Backend>(
    State(app): State<App<B>>,
    JsonBody(body): JsonBody<PlaceBody>,
) -> Result<Json<InstanceView>, ApiError> {
    let request = request(&app.backend, body)?;
    Ok(Json(app.backend.place(request).await?.into()))
}

pub(crate) async fn plan<B: Backend>(
    State(app): State<App<B>>,
    JsonBody(body): JsonBody<PlaceBody>,
) -> Result<Json<PlanView>, ApiError> {
    let request = request(&app.backend, body)?;
    Ok(Json(app.backend.plan(request).await?.into()))
}

pub(crate) async fn plan_of_query<B: Backend>(
    State(app): State<App<B>>,
    query: Result<Query<PlanQuery>, QueryRejection>,
) -> Result<Json<PlanView>, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::malformed(error.body_text()))?;
    let PlanQuery { model, nodes, context, throughput } = query;
    let body = PlaceBody {
        model,
        nodes,
        min_nodes: None,
        max_nodes: None,
        context,
        exclude: Vec::new(),
        pin: Vec::new(),
        replicas: None,
        throughput,
    };
    let request = request(&app.backend, body)?;
    Ok(Json(app.backend.plan(request).await?.into()))
}

pub(crate) async fn unplace<B: Backend>(
    State(app): State<App<B>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    // A model's name drops all of its instances.
    let named: Vec<InstanceId> = app
        .backend
        .instances()
        .iter()
        .filter(|it| it.record.model.name == id || it.record.id.to_string() == id)
        .map(|it| it.record.id)
        .collect();
    if named.is_empty() {
        return Err(ApiError::not_found(
            "instance_not_found",
            format!("instance {id:?}: no such id, and no such model is placed"),
        ));
    }
    for instance in &named {
        app.backend.unplace(*instance).await?;
    }
    Ok(Json(json!({"id": id, "n_dropped": named.len(), "deleted": true})))
}
