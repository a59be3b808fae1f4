//! Talking to a running node, and what it says of nodes and instances: `nodes`, `place`, `unplace`.

use std::time::Duration;

use anyhow::{Context, anyhow};
use serde_json::{Value, json};
use shoal_api::view::{InstanceView, NodeView, StateView};

use crate::{
    args::{ClientArgs, NodeArgs, PlaceArgs, SpreadArgs, UnplaceArgs},
    failure::Failure,
    output,
    phases::{self, Phases},
    progress::Progress,
    pull,
    table::{self, Column},
    terminal,
};

/// Longest wait for the node: it may have to ask a model hub that is slow, or wait until every node has opened a file.
const TIMEOUT: Duration = Duration::from_secs(90);
/// Longest wait for the answer that shows that a node runs at all: it is a local one, or in the same house.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

const NODE_COLUMNS: [Column; 10] = [
    Column::text("NAME"),
    Column::text("STATE"),
    Column::number("RTT"),
    Column::number("FREE"),
    Column::number("SPEED"),
    Column::number("LOAD").optional(),
    Column::number("HEAT").optional(),
    Column::number("BATTERY").optional(),
    Column::text("COMPUTES").optional(),
    Column::text("ID"),
];

pub(crate) fn nodes(args: &ClientArgs) -> Result<(), Failure> {
    let body = ask(&args.at, "GET", "/state", None)?;
    if args.json {
        return output::print(&format!("{body}\n"));
    }
    let state: StateView = parse(body)?;
    let rows: Vec<Vec<String>> = state.nodes.iter().map(row).collect();
    let mut text = table::render(&NODE_COLUMNS, &rows, terminal::width());
    for instance in &state.instances {
        text.push_str(&describe(instance, &state.nodes));
    }
    let own = state.nodes.iter().find(|node| node.is_self).map(|node| node.software.as_str());
    for other in state.nodes.iter().filter(|node| Some(node.software.as_str()) != own) {
        text.push_str(&format!("{} runs version {}\n", other.name, other.software));
    }
    output::print(&text)
}

fn row(node: &NodeView) -> Vec<String> {
    let dash = || "-".to_owned();
    let rtt = match (node.is_self, node.rtt_ms) {
        (true, _) => "here".to_owned(),
        (false, Some(ms)) => format!("{ms:.1} ms"),
        (false, None) => dash(),
    };
    let vitals = node.vitals.as_ref();
    let free = vitals.map_or(node.memory_bytes, |vitals| vitals.free_bytes);
    let speed = node.profile.as_ref().map(|it| it.decode_bytes_per_s as f64 / 1e9);
    let battery = vitals.and_then(|it| {
        let mark = if it.is_charging == Some(true) { "+" } else { "" };
        Some(format!("{}%{mark}", it.battery_percent?))
    });
    vec![
        node.name.clone(),
        match &node.draining {
            Some(_) if node.liveness == "alive" => "draining".to_owned(),
            _ => node.liveness.clone(),
        },
        rtt,
        format!("{:.1} GB", free as f64 / 1e9),
        speed.map_or_else(dash, |speed| format!("{speed:.1} GB/s")),
        vitals.and_then(|it| it.load_percent).map_or_else(dash, |load| format!("{load}%")),
        vitals.and_then(|it| it.temperature_c).map_or_else(dash, |heat| format!("{heat:.0} °C")),
        battery.unwrap_or_else(dash),
        node.isa.clone(),
        short(&node.id).to_owned(),
    ]
}

/// What `POST /place_instance` and `POST /plan` are asked.
pub(crate) fn spread(args: &SpreadArgs) -> Value {
    let pins = args.pin.iter().map(|pin| json!({"node": pin.node, "layers": pin.layers}));
    json!({
        "model": pull::absolute(&args.model),
        "nodes": args.nodes,
        "min_nodes": args.min_nodes,
        "max_nodes": args.max_nodes,
        "context": args.context,
        "exclude": args.exclude,
        "pin": pins.collect::<Vec<Value>>(),
        "throughput": args.throughput,
    })
}

pub(crate) async fn place(args: &PlaceArgs) -> Result<(), Failure> {
    let mut request = spread(&args.spread);
    request["replicas"] = json!(args.replicas);
    let node = &args.client.at;
    let mut phases = Phases::new(&pull::blocking(|| state(node))?.instances);
    let asked = node.clone();
    // The nodes may have to fetch the model first, which takes as long as it takes.
    let placing = tokio::task::spawn_blocking(move || {
        ask_within(None, &asked, "POST", "/place_instance", Some(&request))
    });
    let placed = tokio::select! {
        placed = placing => placed,
        () = phases::watch(node, &mut phases) => unreachable!("it has no end"),
    };
    let body = placed.context("the request was lost")??;
    // It may have been ready before anybody looked.
    let instance: InstanceView = parse(body.clone())?;
    let last = phases.news(std::slice::from_ref(&instance));
    Progress::new().phases(&last, "");
    if args.client.json {
        return output::print(&format!("{body}\n"));
    }
    output::print(&describe(&instance, &state(node)?.nodes))
}

pub(crate) fn unplace(args: &UnplaceArgs) -> Result<(), Failure> {
    let path = format!("/instance/{}", escape(&pull::absolute(&args.target)));
    let body = ask(&args.client.at, "DELETE", &path, None)?;
    if args.client.json {
        return output::print(&format!("{body}\n"));
    }
    let n_dropped = body["n_dropped"].as_u64().unwrap_or_default();
    let noun = if n_dropped == 1 { "instance" } else { "instances" };
    output::print(&format!("{}: {n_dropped} {noun} dropped\n", args.target))
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
    let state = words_of_state(instance);
    let speed = match (instance.predicted_tokens_per_s, instance.measured_tokens_per_s) {
        (Some(predicted), Some(measured)) => format!(
            ", {measured:.1} tokens/s ({predicted:.1} predicted, {:+.0} %)",
            100.0 * (measured / predicted - 1.0)
        ),
        (None, Some(measured)) => format!(", {measured:.1} tokens/s"),
        (Some(predicted), None) => format!(", {predicted:.1} tokens/s predicted"),
        (None, None) => String::new(),
    };
    let mut text = format!(
        "{} ({}), context {}, {state}{speed}: {}\n",
        instance.model,
        instance.id,
        instance.n_ctx,
        stages.join(" -> ")
    );
    if let Some(suggestion) = &instance.suggestion {
        text.push_str(&format!("  could be {suggestion}\n"));
    }
    text
}

/// How an instance is, in words.
pub(crate) fn words_of_state(instance: &InstanceView) -> String {
    let mut state = instance.state.clone();
    if let Some([n_bytes, n_total]) = instance.progress.filter(|[_, n_total]| *n_total > 0) {
        state.push_str(&format!(" {:.0} %", 100.0 * n_bytes as f64 / n_total as f64));
    }
    if let Some(why) = &instance.why {
        state.push_str(&format!(" ({why})"));
    }
    state
}

fn short(id: &str) -> &str {
    id.get(..10).unwrap_or(id)
}

pub(crate) fn parse<T: serde::de::DeserializeOwned>(body: Value) -> Result<T, Failure> {
    Ok(serde_json::from_value(body)
        .context("the node's answer is not understood: another version?")?)
}

/// What a node says of itself and of its cluster.
pub(crate) fn state(node: &NodeArgs) -> Result<StateView, Failure> {
    parse(ask(node, "GET", "/state", None)?)
}

/// What a node at that address says of itself; `None` if there is none.
///
/// # Errors
/// If there is one that does not let the command in, or that is not understood: it is not to be passed over.
pub(crate) fn state_if_running(node: &NodeArgs) -> Result<Option<StateView>, Failure> {
    let agent = agent(Some(PROBE_TIMEOUT));
    let asked = with_token(agent.get(format!("http://{}/state", node.node)), node).call();
    let Ok(mut response) = asked else { return Ok(None) };
    // Some other program may listen there.
    let Ok(body) = response.body_mut().read_json::<Value>() else { return Ok(None) };
    if matches!(
        body["error"]["code"].as_str(),
        Some("token_missing" | "token_wrong" | "too_many_guesses")
    ) {
        return Err(refusal(&body));
    }
    if body["nodes"].is_array() { parse(body).map(Some) } else { Ok(None) }
}

/// Sends a request to the node and returns the JSON that it answers with.
pub(crate) fn ask(
    node: &NodeArgs,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, Failure> {
    ask_within(Some(TIMEOUT), node, method, path, body)
}

fn ask_within(
    timeout: Option<Duration>,
    node: &NodeArgs,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, Failure> {
    let agent = agent(timeout);
    let url = format!("http://{}{path}", node.node);
    let sent = match (method, body) {
        ("DELETE", _) => with_token(agent.delete(&url), node).call(),
        ("POST", body) => with_token(agent.post(&url), node).send_json(body.unwrap_or(&json!({}))),
        _ => with_token(agent.get(&url), node).call(),
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
    if status.is_success() { Ok(value) } else { Err(refusal(&value)) }
}

/// What a node's error means for the command.
fn refusal(body: &Value) -> Failure {
    let error = &body["error"];
    let message = error["message"].as_str().unwrap_or("no reason given").to_owned();
    let said = error["code"].as_str();
    let failure = Failure::new(anyhow!(message), exit_code(said)).said(said);
    match said {
        Some("token_missing" | "token_wrong") => {
            failure.hint("set SHOAL_TOKEN to the token that the node printed when it was opened")
        }
        _ => failure,
    }
}

/// The exit code for a node's error: that of the same failure in this process.
fn exit_code(said: Option<&str>) -> u8 {
    match said {
        Some(
            "model_not_found"
            | "model_unusable"
            | "model_damaged"
            | "model_gated"
            | "model_foreign"
            | "model_other_version"
            | "instance_not_found",
        ) => Failure::MODEL,
        Some("cluster_unreachable") => Failure::ADDRESS,
        Some(
            "cluster_refused" | "bad_ticket" | "node_not_found" | "token_missing" | "token_wrong"
            | "too_many_guesses",
        ) => Failure::CLUSTER,
        Some("hub_failed") => Failure::HUB,
        Some("disk_full") => Failure::DISK,
        _ => 1,
    }
}

/// Adds what a node asks for that was opened to the local network.
fn with_token<B>(request: ureq::RequestBuilder<B>, node: &NodeArgs) -> ureq::RequestBuilder<B> {
    match node.token.as_deref().map(str::trim) {
        None | Some("") => request,
        Some(token) => request.header("authorization", format!("Bearer {token}")),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_answers_has_the_code_that_the_help_promises() {
        for (said, code) in [
            ("model_not_found", 3),
            ("model_other_version", 3),
            ("instance_not_found", 3),
            ("cluster_unreachable", 4),
            ("cluster_refused", 5),
            ("bad_ticket", 5),
            ("node_not_found", 5),
            ("token_missing", 5),
            ("token_wrong", 5),
            ("too_many_guesses", 5),
            ("hub_failed", 7),
            ("disk_full", 8),
            ("model_in_use", 1),
            ("internal_error", 1),
        ] {
            assert_eq!(exit_code(Some(said)), code, "{said}");
        }
        assert_eq!(exit_code(None), 1);
    }

    #[test]
    fn only_a_node_that_is_silent_is_no_node() {
        let unreachable = json!({"error": {"message": "m", "code": "cluster_unreachable"}});
        assert!(!refusal(&unreachable).is_no_node());
        assert!(Failure::new(anyhow!("refused"), Failure::ADDRESS).is_no_node());
        let unknown = json!({"error": {"message": "m", "code": "model_not_found"}});
        assert!(refusal(&unknown).is_unknown_model());
    }
}
