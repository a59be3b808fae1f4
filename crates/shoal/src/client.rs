//! Commands that talk to a running node: `nodes`, `place`, `invite`.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, anyhow};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    args::{ClientArgs, PlaceArgs},
    failure::Failure,
    output, pull,
};

/// Longest wait for the node: it may have to ask a model hub that is slow, or wait until every node has opened a file.
const TIMEOUT: Duration = Duration::from_secs(90);
/// Longest wait for the answer that shows that a node runs at all: it is a local one, or in the same house.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, Deserialize)]
struct State {
    nodes: Vec<NodeView>,
    instances: Vec<InstanceView>,
}

#[derive(Debug, Deserialize)]
struct NodeView {
    id: String,
    name: String,
    liveness: String,
    is_self: bool,
    rtt_ms: Option<f64>,
    memory_bytes: u64,
    isa: String,
    software: String,
}

#[derive(Debug, Deserialize)]
struct InstanceView {
    id: String,
    model: String,
    state: String,
    n_ctx: u32,
    placement: Vec<StageView>,
}

#[derive(Debug, Deserialize)]
struct StageView {
    node: String,
    layers: [u32; 2],
}

pub(crate) fn nodes(args: &ClientArgs) -> Result<(), Failure> {
    let body = ask(args.node, "GET", "/state", None)?;
    if args.json {
        return output::print(&format!("{body}\n"));
    }
    let state: State = parse(body)?;
    let mut text = format!(
        "{:<20} {:<10} {:<8} {:>8} {:>9}  {:<12} {}\n",
        "NAME", "ID", "STATE", "RTT", "MEMORY", "COMPUTES", "VERSION"
    );
    for node in &state.nodes {
        let rtt = match (node.is_self, node.rtt_ms) {
            (true, _) => "here".to_owned(),
            (false, Some(ms)) => format!("{ms:.1} ms"),
            (false, None) => "-".to_owned(),
        };
        text.push_str(&format!(
            "{:<20} {:<10} {:<8} {:>8} {:>6.1} GB  {:<12} {}\n",
            node.name,
            short(&node.id),
            node.liveness,
            rtt,
            node.memory_bytes as f64 / 1e9,
            node.isa,
            node.software,
        ));
    }
    for instance in &state.instances {
        text.push_str(&describe(instance, &state.nodes));
    }
    output::print(&text)
}

pub(crate) async fn place(args: &PlaceArgs) -> Result<(), Failure> {
    let model = pull::absolute(&args.model);
    let request = json!({"model": model, "nodes": args.nodes, "context": args.context});
    let node = args.client.node;
    // The nodes may have to fetch the model first, which takes as long as it takes.
    let placing = tokio::task::spawn_blocking(move || {
        ask_within(None, node, "POST", "/place_instance", Some(&request))
    });
    let placed = tokio::select! {
        placed = placing => placed,
        () = pull::watch(node) => unreachable!("it has no end"),
    };
    let body = placed.context("the request was lost")??;
    if args.client.json {
        return output::print(&format!("{body}\n"));
    }
    let instance: InstanceView = parse(body)?;
    let state: State = parse(ask(args.client.node, "GET", "/state", None)?)?;
    output::print(&describe(&instance, &state.nodes))
}

pub(crate) fn invite(args: &ClientArgs) -> Result<(), Failure> {
    let body = ask(args.node, "POST", "/invite", Some(&json!({})))?;
    if args.json {
        return output::print(&format!("{body}\n"));
    }
    let ticket = body["ticket"].as_str().context("the node sent no ticket")?;
    output::print(&format!("{ticket}\n"))
}

fn describe(instance: &InstanceView, nodes: &[NodeView]) -> String {
    let name = |id: &str| {
        let node = nodes.iter().find(|node| node.id == id);
        node.map_or_else(|| short(id).to_owned(), |node| node.name.clone())
    };
    let stages: Vec<String> = instance
        .placement
        .iter()
        .map(|stage| format!("{} {}..{}", name(&stage.node), stage.layers[0], stage.layers[1]))
        .collect();
    format!(
        "{} ({}), context {}, {}: {}\n",
        instance.model,
        instance.id,
        instance.n_ctx,
        instance.state,
        stages.join(" -> ")
    )
}

fn short(id: &str) -> &str {
    id.get(..10).unwrap_or(id)
}

pub(crate) fn parse<T: serde::de::DeserializeOwned>(body: Value) -> Result<T, Failure> {
    Ok(serde_json::from_value(body)
        .context("the node's answer is not understood: another version?")?)
}

/// What a node at that address says of itself; `None` if there is none.
pub(crate) fn state_if_running(node: SocketAddr) -> Option<Value> {
    let mut response =
        agent(Some(PROBE_TIMEOUT)).get(format!("http://{node}/state")).call().ok()?;
    let state: Value = response.body_mut().read_json().ok()?;
    state["nodes"].is_array().then_some(state)
}

/// Sends a request to the node and returns the JSON that it answers with.
pub(crate) fn ask(
    node: SocketAddr,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, Failure> {
    ask_within(Some(TIMEOUT), node, method, path, body)
}

fn ask_within(
    timeout: Option<Duration>,
    node: SocketAddr,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, Failure> {
    let agent = agent(timeout);
    let url = format!("http://{node}{path}");
    let sent = match (method, body) {
        ("DELETE", _) => agent.delete(&url).call(),
        (_, Some(body)) => agent.post(&url).send_json(body),
        (_, None) => agent.get(&url).call(),
    };
    let mut response = sent.map_err(|error| {
        let error = anyhow::Error::from(error).context(format!("{method} {url}"));
        Failure::new(error, Failure::ADDRESS)
            .hint("is the node running? start it with `shoal`, or name it with --node")
    })?;
    let status = response.status();
    let value: Value = response
        .body_mut()
        .read_json()
        .with_context(|| format!("{method} {url}: status {status} and no JSON"))?;
    if status.is_success() {
        return Ok(value);
    }
    let message = value["error"]["message"].as_str().unwrap_or("no reason given").to_owned();
    let code = match value["error"]["code"].as_str() {
        Some(
            "model_not_found" | "model_unusable" | "model_damaged" | "model_gated" | "model_in_use"
            | "model_foreign",
        ) => Failure::MODEL,
        Some("cluster_refused") => Failure::CLUSTER,
        Some("hub_failed") => Failure::HUB,
        Some("disk_full") => Failure::DISK,
        _ => 1,
    };
    let is_unknown = value["error"]["code"] == "model_not_found";
    Err(Failure::new(anyhow!(message), code).unknown_model(is_unknown))
}

fn agent(timeout: Option<Duration>) -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_global(timeout)
        .http_status_as_error(false)
        .proxy(None)
        .build()
        .into()
}

/// A text as part of a URL's path.
pub(crate) fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte);
    let escaped = |byte: u8| {
        if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    text.bytes().map(escaped).collect()
}
