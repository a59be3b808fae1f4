//! Routes for the command line and the page: the node, its peers, its instances.

use axum::{Json, extract::State};
use serde_json::{Value, json};

use crate::{
    App,
    backend::Backend,
    library::{disk_of, downloads_of},
    view::{InstanceView, NodeView, StateView},
};

pub(crate) async fn health() -> Json<Value> {
    Json(json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")}))
}

pub(crate) async fn node_id<B: Backend>(State(app): State<App<B>>) -> Json<Value> {
    Json(json!({"id": app.backend.id().to_string(), "name": app.backend.name()}))
}

pub(crate) async fn state<B: Backend>(State(app): State<App<B>>) -> Json<StateView> {
    let runners = app.backend.runners();
    let nodes = app.backend.nodes().into_iter().map(NodeView::from);
    Json(StateView {
        nodes: nodes.map(|node| node.with_runners(&runners)).collect(),
        instances: app.backend.instances().into_iter().map(InstanceView::from).collect(),
        n_requests: app.n_requests(),
        downloads: downloads_of(&app.backend),
        disk: disk_of(&app.backend).await,
    })
}
