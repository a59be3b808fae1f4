//! `GET /traces`, `GET /traces/{id}`: where the time of the latest requests went. Times and counts; never text, tokens or keys.
//!
//! `?format=chrome` gives trace events (<https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU>)
//! that `chrome://tracing` and Perfetto open. Stages measure with their own clocks, and these are not compared: a step's
//! stages are laid out within its round trip, with what the network took shared out evenly before, between and after them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
};
use serde::Deserialize;
use serde_json::{Value, json};
use shoal_node::{StepTrace, Trace};
use shoal_proto::NodeId;

use crate::{App, backend::Backend, error::ApiError, view::ms};

/// The query of `GET /traces/{id}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TraceQuery {
    #[serde(default)]
    format: Format,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Format {
    /// Shoal's own.
    #[default]
    Shoal,
    /// Trace events.
    Chrome,
}

pub(crate) async fn list<B: Backend>(State(app): State<App<B>>) -> Json<Value> {
    let traces: Vec<Value> = app.backend.traces().iter().map(head).collect();
    Json(json!({"traces": traces}))
}

pub(crate) async fn show<B: Backend>(
    State(app): State<App<B>>,
    Path(id): Path<String>,
    query: Result<Query<TraceQuery>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::malformed(error.body_text()))?;
    let unknown = || {
        ApiError::not_found(
            "trace_not_found",
            format!(
                "trace {id:?}: expected the number of one of the latest requests, as /traces lists them"
            ),
        )
    };
    let trace = id.parse().ok().and_then(|id| app.backend.trace(id)).ok_or_else(unknown)?;
    Ok(Json(match query.format {
        Format::Shoal => {
            let mut value = head(&trace);
            value["steps"] = trace.steps.iter().map(step).collect();
            value
        }
        Format::Chrome => chrome(&trace),
    }))
}

fn unix_ms(time: SystemTime) -> f64 {
    ms(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn head(trace: &Trace) -> Value {
    json!({
        "id": trace.id,
        "model": trace.model,
        "instance": trace.instance.to_string(),
        "driver": trace.driver.to_string(),
        "stages": trace.stages.iter().map(NodeId::to_string).collect::<Vec<_>>(),
        "received_unix_ms": unix_ms(trace.received),
        "prepared_ms": ms(trace.prepared),
        "started_ms": ms(trace.started),
        "first_token_ms": trace.first_token.map(ms),
        "ended_ms": trace.ended.map(ms),
        "outcome": trace.outcome,
        "n_prompt": trace.n_prompt,
        "n_cached": trace.n_cached,
        "n_generated": trace.n_generated,
        "n_steps": trace.n_steps,
    })
}

fn step(step: &StepTrace) -> Value {
    let stages: Vec<Value> = step
        .stages
        .iter()
        .map(|it| {
            json!({
                "queued_ms": f64::from(it.queued_us) / 1e3,
                "compute_ms": f64::from(it.compute_us) / 1e3,
                "n_rows": it.n_rows,
            })
        })
        .collect();
    json!({
        "end": step.end,
        "n_tokens": step.n_tokens,
        "has_token": step.has_token,
        "sent_ms": ms(step.sent),
        "took_ms": ms(step.took),
        "hops_ms": ms(step.hops()),
        "stages": stages,
    })
}

/// Row of the request itself; stages are the rows after it.
const REQUEST_ROW: usize = 0;

fn chrome(trace: &Trace) -> Value {
    let mut events = vec![name_row(&trace.driver, REQUEST_ROW, "request")];
    for (i, node) in trace.stages.iter().enumerate() {
        events.push(name_row(node, i + 1, &format!("stage {i}")));
    }
    let us = |duration: Duration| duration.as_secs_f64() * 1e6;
    let mut add =
        |name: &str, node: &NodeId, row: usize, at: Duration, took: Duration, args: Value| {
            events.push(json!({
                "name": name, "ph": "X", "ts": us(at), "dur": us(took),
                "pid": node.short(), "tid": row, "args": args,
            }));
        };
    let driver = &trace.driver;
    add("template and tokenise", driver, REQUEST_ROW, Duration::ZERO, trace.prepared, json!({}));
    let waited = trace.started.saturating_sub(trace.prepared);
    add("wait", driver, REQUEST_ROW, trace.prepared, waited, json!({}));
    for step in &trace.steps {
        let name = if step.n_tokens > 1 || !step.has_token { "prompt" } else { "token" };
        let args = json!({"n_tokens": step.n_tokens, "end": step.end});
        add(name, driver, REQUEST_ROW, step.sent, step.took, args);
        let n_gaps = u32::try_from(step.stages.len() + 1).unwrap_or(u32::MAX);
        let gap = step.hops() / n_gaps;
        let mut at = step.sent + gap;
        for (i, (stage, node)) in step.stages.iter().zip(&trace.stages).enumerate() {
            let queued = Duration::from_micros(stage.queued_us.into());
            let compute = Duration::from_micros(stage.compute_us.into());
            add("queue", node, i + 1, at, queued, json!({}));
            add("compute", node, i + 1, at + queued, compute, json!({"n_rows": stage.n_rows}));
            at += queued + compute + gap;
        }
    }
    json!({"traceEvents": events, "displayTimeUnit": "ms"})
}

fn name_row(node: &NodeId, row: usize, name: &str) -> Value {
    json!({
        "name": "thread_name", "ph": "M", "pid": node.short(), "tid": row, "args": {"name": name},
    })
}
