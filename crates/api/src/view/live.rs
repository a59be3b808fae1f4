//! What the page is told as it happens: how devices feel, requests, tokens, and what happened. A request is shown by numbers
//! and names; never by its prompt or its text.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use shoal_node::{
    HistoryPage, LogEntry, LogPage, NodeHistory, NodeStatus, Production, RequestStatus, Traffic,
    VitalsSample, WorkSample,
};
use shoal_proto::{InstanceId, NodeId, control::Vitals};

use super::{cluster::VitalsView, ms};

/// Milliseconds since 1970.
pub(crate) fn at_ms(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A time that is shown with one digit, so that it does not seem more than it is.
fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// The bytes of links at one time.
#[derive(Debug, Clone, Default)]
pub(crate) struct LinkBytes(HashMap<NodeId, Traffic>);

impl From<Vec<(NodeId, Traffic)>> for LinkBytes {
    fn from(traffic: Vec<(NodeId, Traffic)>) -> Self {
        Self(traffic.into_iter().collect())
    }
}

impl LinkBytes {
    /// The bytes of a link, and how many per second since `before`.
    fn of(&self, node: NodeId, before: Option<(&Self, Duration)>) -> Option<Value> {
        let now = self.0.get(&node)?;
        let per_s = |bytes: fn(&Traffic) -> u64| {
            let (before, elapsed) = before?;
            let before = before.0.get(&node).map_or(0, bytes);
            let seconds = elapsed.as_secs_f64();
            (seconds > 0.0).then(|| tenths(bytes(now).saturating_sub(before) as f64 / seconds))
        };
        Some(json!({
            "bytes_in": now.n_received,
            "bytes_out": now.n_sent,
            "in_per_s": per_s(|it| it.n_received).unwrap_or(0.0),
            "out_per_s": per_s(|it| it.n_sent).unwrap_or(0.0),
        }))
    }
}

/// How devices feel. `before` is what was counted so long ago.
pub(crate) fn vitals(
    nodes: &[NodeStatus],
    traffic: &LinkBytes,
    before: Option<(&LinkBytes, Duration)>,
) -> Value {
    let node = |node: &NodeStatus| {
        // Who has not looked yet says nothing.
        let vitals = node.vitals.filter(|vitals| *vitals != Vitals::default());
        let vitals = vitals.map(VitalsView::from);
        let of = |read: fn(&VitalsView) -> Value| vitals.as_ref().map_or(Value::Null, read);
        json!({
            "id": node.record.id.to_string(),
            "load_percent": of(|it| json!(it.load_percent)),
            "free_bytes": of(|it| json!(it.free_bytes)),
            "memory_bytes": node.record.memory_bytes,
            "temperature_c": of(|it| json!(it.temperature_c)),
            "battery_percent": of(|it| json!(it.battery_percent)),
            "is_charging": of(|it| json!(it.is_charging)),
            "n_requests": of(|it| json!(it.n_requests)),
            "rtt_ms": node.rtt.map(ms),
            "traffic": match node.is_self {
                true => None,
                false => traffic.of(node.record.id, before),
            },
        })
    };
    json!({"nodes": nodes.iter().map(node).collect::<Vec<Value>>()})
}

/// What instances produced since `told`, the counts of the last time; `None` if nothing.
pub(crate) fn tokens(
    driver: NodeId,
    production: &[Production],
    told: &mut HashMap<InstanceId, (u64, u64)>,
) -> Option<Value> {
    let news = |of: &Production| {
        let counts = (of.n_tokens, of.n_prompt);
        let (n_tokens, n_prompt) = told.insert(of.instance, counts).unwrap_or_default();
        // Counts that have begun anew are all news.
        let since = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
        let new = (since(of.n_tokens, n_tokens), since(of.n_prompt, n_prompt));
        (new != (0, 0)).then(|| {
            json!({
                "instance": of.instance.to_string(),
                "model": of.model,
                "stages": ids(&of.stages),
                "driver": driver.to_string(),
                "n_tokens": new.0,
                "n_prompt": new.1,
                "tokens_per_s": tenths(of.tokens_per_s),
            })
        })
    };
    let news: Vec<Value> = production.iter().filter_map(news).collect();
    told.retain(|instance, _| production.iter().any(|of| of.instance == *instance));
    (!news.is_empty()).then(|| json!({"instances": news}))
}

fn ids(nodes: &[NodeId]) -> Vec<String> {
    nodes.iter().map(NodeId::to_string).collect()
}

/// A request; `can_cancel` says whether an answer of that name can be ended.
pub(crate) fn request(request: &RequestStatus, can_cancel: impl Fn(&str) -> bool) -> Value {
    let answer = request.caller.answer.as_deref();
    json!({
        "id": request.id.to_string(),
        "answer": answer,
        "can_cancel": !request.state.is_over() && answer.is_some_and(can_cancel),
        "model": request.model,
        "instance": request.instance.to_string(),
        "state": request.state.as_str(),
        "position": request.position,
        "why": request.why,
        "n_prompt": request.n_prompt,
        "n_cached": request.n_cached,
        "n_tokens": request.n_tokens,
        "tokens_per_s": request.tokens_per_s.map(tenths),
        "first_token_ms": request.first_token.map(|it| ms(it).round()),
        "n_healed": request.n_healed,
        "healed_ms": ms(request.healed).round(),
        "started_ms": at_ms(request.started),
        "took_ms": ms(request.took).round(),
        "stages": ids(&request.stages),
        "by": request.caller.by,
    })
}

/// Events, the oldest first.
pub(crate) fn log(page: &LogPage) -> Value {
    let entries: Vec<Value> = page.entries.iter().map(entry).collect();
    json!({
        "began_ms": at_ms(page.began),
        "newest": page.newest,
        "oldest": page.oldest,
        "entries": entries,
    })
}

fn entry(entry: &LogEntry) -> Value {
    json!({
        "seq": entry.seq,
        "at_ms": at_ms(entry.at),
        "level": entry.level.as_str(),
        "kind": entry.kind,
        "text": entry.text,
        "node": entry.node.map(|node| node.to_string()),
        "instance": entry.instance.map(|instance| instance.to_string()),
        "model": entry.model,
    })
}

/// The past, column by column: an array for each quantity, all of the same length.
pub(crate) fn history(page: &HistoryPage) -> Value {
    fn column<T>(samples: &[T], value: impl Fn(&T) -> Value) -> Vec<Value> {
        samples.iter().map(value).collect()
    }
    let node = |node: &NodeHistory| {
        let samples: &[VitalsSample] = &node.samples;
        let tenths = |it: &VitalsSample| it.temperature_dc.map(|tenths| f64::from(tenths) / 10.0);
        json!({
            "id": node.node.to_string(),
            "name": node.name,
            "temperature_c": column(samples, |it| json!(tenths(it))),
            "battery_percent": column(samples, |it| json!(it.battery.map(|it| it.0))),
            "is_charging": column(samples, |it| json!(it.battery.map(|it| u8::from(it.1)))),
            "load_percent": column(samples, |it| json!(it.load_percent)),
            "free_mib": column(samples, |it| json!(it.free_mib)),
        })
    };
    let own = |value: fn(&WorkSample) -> Value| {
        column(&page.own, |it| it.as_ref().map_or(Value::Null, value))
    };
    json!({
        "interval_s": page.interval.as_secs(),
        "end_ms": at_ms(page.end),
        "n": page.n_samples,
        "nodes": page.nodes.iter().map(node).collect::<Vec<Value>>(),
        "own": {
            "decode_per_s": own(|it| json!(tenths(it.decode_per_s.into()))),
            "prefill_per_s": own(|it| json!(tenths(it.prefill_per_s.into()))),
            "n_requests": own(|it| json!(it.n_requests)),
        },
    })
}
