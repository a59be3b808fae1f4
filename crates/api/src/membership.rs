//! Routes about who belongs: `/invite`, `/invites`, `/join`, `/leave`, `/nodes/{node}`, `/drain`, `/doctor/network`.

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, State},
};
use serde::Deserialize;
use serde_json::{Value, json};
use shoal_node::{Invitation, InvitationState, InviteOptions, Invited, NodeStatus};
use shoal_proto::NodeId;

use crate::{App, backend::Backend, body::JsonBody, error::ApiError, qr, view::live};

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
    let Invited { id, ticket, expires_at } = app.backend.invite(options)?;
    Ok(Json(json!({
        "id": id,
        "ticket": ticket,
        "expires_s": expires_s,
        "expires_at_ms": expires_at.map(live::at_ms),
        "single_use": body.single_use,
        "command": format!("shoal serve --join {ticket}"),
        // Capitals are as good, and make a smaller code. A ticket always fits.
        "qr": qr::view(&ticket.to_uppercase()).ok(),
    })))
}

/// `GET /invites`: the invitations that this node made. What admits somebody is not in it.
pub(crate) async fn invites<B: Backend>(State(app): State<App<B>>) -> Json<Value> {
    let nodes = app.backend.nodes();
    let device = |id: &NodeId| {
        let node = nodes.iter().find(|node| node.record.id == *id);
        json!({"id": id.to_string(), "name": node.map(|node| node.record.name.clone())})
    };
    let invite = |invitation: Invitation| {
        json!({
            "id": invitation.id.to_string(),
            "created_at_ms": live::at_ms(invitation.created_at),
            "expires_at_ms": invitation.expires_at.map(live::at_ms),
            "single_use": invitation.single_use,
            "state": match invitation.state {
                InvitationState::Open => "open",
                InvitationState::Used => "used",
                InvitationState::Expired => "expired",
                InvitationState::Void => "void",
            },
            "joined": invitation.joined.iter().map(device).collect::<Vec<Value>>(),
        })
    };
    let invites = app.backend.invitations().into_iter().map(invite);
    Json(json!({"invites": invites.collect::<Vec<Value>>()}))
}

/// `DELETE /invites/{id}`: nobody joins with it any more.
pub(crate) async fn revoke<B: Backend>(
    State(app): State<App<B>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    match app.backend.revoke_invitation(&id)? {
        Some(is_new) => Ok(Json(json!({"id": id, "revoked": is_new}))),
        None => {
            let message = format!("invitation {id:?}: this node made none of that id");
            Err(ApiError::not_found("invite_not_found", message))
        }
    }
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
    let (findings, checks) = app.backend.doctor().await;
    let checks = checks.into_iter().map(|check| {
        json!({
            "id": check.id,
            "title": check.title,
            "state": check.state,
            "found": check.found,
            "what_to_do": check.what_to_do,
        })
    });
    let findings = findings.into_iter().map(|finding| {
        json!({
            "severity": finding.severity,
            "code": finding.code,
            "sentence": finding.sentence,
            "what_to_do": finding.what_to_do,
        })
    });
    Json(json!({
        "checks": checks.collect::<Vec<Value>>(),
        "findings": findings.collect::<Vec<Value>>(),
    }))
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
