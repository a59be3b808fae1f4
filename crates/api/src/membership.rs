//! Routes about who belongs: `/invite`, `/join`, `/leave`, `/nodes/{node}`, `/drain`, `/doctor/network`.

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, State},
};
use serde::Deserialize;
use serde_json::{Value, json};
use shoal_node::{InviteOptions, NodeStatus};
use shoal_proto::NodeId;

use crate::{App, backend::Backend, body::JsonBody, error::ApiError};

/// Seconds for which an invitation is good unless the body says otherwise: a day.
const VALID_FOR_S: u64 = 24 * 3600;
/// Fewest digits of an id that name a node.
const ID_DIGITS_MIN: usize = 4;

/// The body of `POST /invite`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct InviteBody {
    /// Seconds for which the ticket is good; `null` for ever.
    #[serde(deserialize_with = "some")]
    expires_s: Option<Option<u64>>,
    /// Whether it admits one device only.
    single_use: bool,
}

/// Tells a `null` from a field that is not there.
fn some<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<u64>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

pub(crate) async fn invite<B: Backend>(
    State(app): State<App<B>>,
    JsonBody(body): JsonBody<InviteBody>,
) -> Result<Json<Value>, ApiError> {
    let expires_s = body.expires_s.unwrap_or(Some(VALID_FOR_S));
    if expires_s == Some(0) {
        return Err(ApiError::invalid("expires_s", "expected at least 1 or null, got 0"));
    }
    let options = InviteOptions {
        valid_for: expires_s.map(Duration::from_secs),
        single_use: body.single_use,
    };
    let ticket = app.backend.invite(options)?;
    Ok(Json(json!({
        "ticket": ticket,
        "expires_s": expires_s,
        "single_use": body.single_use,
        "command": format!("shoal serve --join {ticket}"),
    })))
}

/// The body of `POST /join`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JoinBody {
    ticket: String,
}

pub(crate) async fn join<B: Backend>(
    State(app): State<App<B>>,
    JsonBody(body): JsonBody<JoinBody>,
) -> Result<Json<Value>, ApiError> {
    app.backend.join(&body.ticket).await?;
    Ok(Json(json!({"joined": true})))
}

pub(crate) async fn leave<B: Backend>(State(app): State<App<B>>) -> Result<Json<Value>, ApiError> {
    app.backend.leave().await?;
    Ok(Json(json!({"left": true})))
}

pub(crate) async fn forget<B: Backend>(
    State(app): State<App<B>>,
    Path(node): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let id = resolve(&app.backend.nodes(), "node", &node)?;
    app.backend.forget(id).await?;
    Ok(Json(json!({"id": id.to_string(), "forgotten": true})))
}

/// The body of `POST /drain`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DrainBody {
    /// The node, by name or id; `None` for the one that is asked.
    node: Option<String>,
    /// Whether it may have layers again.
    undo: bool,
}

pub(crate) async fn drain<B: Backend>(
    State(app): State<App<B>>,
    JsonBody(body): JsonBody<DrainBody>,
) -> Result<Json<Value>, ApiError> {
    let nodes = app.backend.nodes();
    let id = body.node.map(|node| resolve(&nodes, "node", &node)).transpose()?;
    app.backend.drain(id, body.undo).await?;
    let id = id.unwrap_or_else(|| app.backend.id());
    Ok(Json(json!({"id": id.to_string(), "draining": !body.undo})))
}

pub(crate) async fn doctor<B: Backend>(State(app): State<App<B>>) -> Json<Value> {
    let findings = app.backend.doctor().await.into_iter().map(|finding| {
        json!({
            "severity": finding.severity,
            "code": finding.code,
            "sentence": finding.sentence,
            "what_to_do": finding.what_to_do,
        })
    });
    Json(json!({"findings": findings.collect::<Vec<Value>>()}))
}

/// Finds the node that a person means: by its id, the beginning of its id, or its name.
pub(crate) fn resolve(nodes: &[NodeStatus], param: &str, text: &str) -> Result<NodeId, ApiError> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let names = |node: &&NodeStatus| {
        let is_id = text.len() >= ID_DIGITS_MIN && node.record.id.to_string().starts_with(text);
        node.record.name == text || is_id
    };
    let found: Vec<NodeId> = nodes.iter().filter(names).map(|node| node.record.id).collect();
    match found.as_slice() {
        [one] => Ok(*one),
        [] => {
            let known: Vec<&str> = nodes.iter().map(|node| node.record.name.as_str()).collect();
            let message =
                format!("expected the name or id of a node, one of {known:?}, got {text:?}");
            Err(ApiError::invalid(param, message))
        }
        several => {
            let ids: Vec<String> = several.iter().map(NodeId::short).collect();
            Err(ApiError::invalid(param, format!("{text:?} may be any of the nodes {ids:?}")))
        }
    }
}
