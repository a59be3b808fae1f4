//! `GET /metrics`: the node in numbers, in the text format of Prometheus, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
//!
//! Units are in the names; labels have few values: outcomes, states, and the nodes of one home.

use std::{collections::BTreeMap, fmt::Write as _};

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use shoal_node::Histogram;

use crate::{App, backend::Backend};

/// The metrics in the making.
#[derive(Debug, Default)]
struct Page {
    text: String,
}

impl Page {
    /// Begins a metric.
    fn metric(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escape(value))).collect();
        let labels =
            if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.text, "{name}{labels} {value}");
    }

    /// A metric without labels.
    fn single(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.metric(name, kind, help);
        self.sample(name, &[], value);
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.metric(name, "histogram", help);
        let mut below = 0;
        for (bound, n) in histogram.bounds.iter().zip(&histogram.buckets) {
            below += n;
            self.sample(&format!("{name}_bucket"), &[("le", &bound.to_string())], below as f64);
        }
        let count = histogram.count as f64;
        self.sample(&format!("{name}_bucket"), &[("le", "+Inf")], count);
        self.sample(&format!("{name}_sum"), &[], histogram.sum_s);
        self.sample(&format!("{name}_count"), &[], count);
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

pub(crate) async fn metrics<B: Backend>(State(app): State<App<B>>) -> Response {
    let mut page = Page::default();
    process(&mut page, &app);
    requests(&mut page, &app);
    cluster(&mut page, &app.backend);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page.text)
        .into_response()
}

fn process<B: Backend>(page: &mut Page, app: &App<B>) {
    let version = env!("CARGO_PKG_VERSION");
    page.metric("shoal_build_info", "gauge", "The version of this node.");
    page.sample("shoal_build_info", &[("version", version)], 1.0);
    let (peak_rss, uptime) = app.backend.process();
    page.single(
        "shoal_uptime_seconds",
        "gauge",
        "Time since the node's start.",
        uptime.as_secs_f64(),
    );
    if let Some(bytes) = peak_rss {
        let help = "Resident memory at its most.";
        page.single("shoal_peak_resident_bytes", "gauge", help, bytes as f64);
    }
}

fn requests<B: Backend>(page: &mut Page, app: &App<B>) {
    let totals = app.backend.totals();
    page.metric("shoal_requests_total", "counter", "Requests by how they ended.");
    for (outcome, n) in &totals.requests {
        page.sample("shoal_requests_total", &[("outcome", outcome)], *n as f64);
    }
    let running = app.n_requests() as f64;
    page.single("shoal_requests_running", "gauge", "Answers under way through this node.", running);
    page.metric("shoal_tokens_total", "counter", "Tokens by what they were.");
    for (kind, n) in [
        ("prompt", totals.prompt_tokens),
        ("cached", totals.cached_tokens),
        ("generated", totals.generated_tokens),
    ] {
        page.sample("shoal_tokens_total", &[("kind", kind)], n as f64);
    }
    let help = "From a request to its first token.";
    page.histogram("shoal_first_token_seconds", help, &totals.first_token);
    let help = "From sending the step of a token to its answer.";
    page.histogram("shoal_token_seconds", help, &totals.token);
    let help = "Steps that all stages have answered.";
    page.single("shoal_steps_total", "counter", help, totals.steps as f64);
    page.metric("shoal_step_seconds_total", "counter", "Where the time of steps went.");
    for (part, seconds) in
        [("compute", totals.compute_s), ("queue", totals.queue_s), ("hops", totals.hops_s)]
    {
        page.sample("shoal_step_seconds_total", &[("part", part)], seconds);
    }
}

fn cluster<B: Backend>(page: &mut Page, backend: &B) {
    let nodes = backend.nodes();
    page.metric("shoal_nodes", "gauge", "Nodes of the cluster by liveness.");
    for liveness in ["alive", "suspect", "dead"] {
        let n = nodes.iter().filter(|node| node.liveness == liveness).count();
        page.sample("shoal_nodes", &[("liveness", liveness)], n as f64);
    }
    page.metric("shoal_peer_rtt_seconds", "gauge", "Round-trip time of the link to a peer.");
    for node in &nodes {
        if let Some(rtt) = node.rtt {
            let labels = [("node", node.record.id.short()), ("name", node.record.name.clone())];
            let labels = labels.each_ref().map(|(label, value)| (*label, value.as_str()));
            page.sample("shoal_peer_rtt_seconds", &labels, rtt.as_secs_f64());
        }
    }
    page.metric("shoal_instances", "gauge", "Placed models by state.");
    let instances = backend.instances();
    for state in ["placing", "fetching", "loading", "ready", "healing", "failed"] {
        let n = instances.iter().filter(|instance| instance.state == state).count();
        page.sample("shoal_instances", &[("state", state)], n as f64);
    }
    page.metric("shoal_requests_waiting", "gauge", "Requests that wait for their turn by model.");
    let mut waiting: BTreeMap<String, usize> = BTreeMap::new();
    for instance in instances {
        *waiting.entry(instance.record.model.name).or_default() += instance.n_waiting;
    }
    for (model, n) in &waiting {
        page.sample("shoal_requests_waiting", &[("model", model)], *n as f64);
    }
    let own = nodes.iter().find(|node| node.is_self).and_then(|node| node.vitals);
    let Some(vitals) = own else { return };
    let help = "Memory that this node could still give to models.";
    page.single("shoal_memory_free_bytes", "gauge", help, vitals.free_bytes as f64);
    if let Some(percent) = vitals.load_percent {
        let help = "Share of the processors that is busy.";
        page.single("shoal_load_ratio", "gauge", help, f64::from(percent) / 100.0);
    }
    if let Some(tenths) = vitals.temperature_dc {
        let help = "The warmest of the processor's sensors.";
        page.single("shoal_temperature_celsius", "gauge", help, f64::from(tenths) / 10.0);
    }
    if let Some(battery) = vitals.battery {
        let help = "The battery's charge.";
        page.single("shoal_battery_ratio", "gauge", help, f64::from(battery.percent) / 100.0);
    }
}
