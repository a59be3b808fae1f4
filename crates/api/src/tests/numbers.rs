//! Metrics and traces.

use std::collections::BTreeMap;

use serde_json::json;

use super::{
    get,
    script::{OWN_ID, PEER_ID, Script, hello},
};

/// Reads the text format strictly: each sample belongs to the metric that was declared last.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let (mut declared, mut described) = (String::new(), String::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            described = rest.split_once(' ').expect("a name and a text").0.to_owned();
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a kind");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(name, described, "the help comes first");
            declared = name.to_owned();
            continue;
        }
        let (key, value) = line.rsplit_once(' ').expect("a sample and its value");
        let name = key.split('{').next().expect("a name");
        assert!(name.starts_with(&declared) && name.starts_with("shoal_"), "{line}");
        assert!(key.contains('{') == key.ends_with('}'), "{line}");
        let value: f64 = value.parse().expect("a number");
        assert!(samples.insert(key.to_owned(), value).is_none(), "twice: {line}");
    }
    assert!(text.ends_with('\n'));
    samples
}

#[tokio::test]
async fn the_metrics_are_what_prometheus_reads() {
    let got = get(&Script::new(hello), "/metrics").await;
    assert_eq!(got.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let samples = parse(&got.text);
    for (key, expected) in [
        ("shoal_requests_total{outcome=\"stop\"}", 3.0),
        ("shoal_tokens_total{kind=\"generated\"}", 7.0),
        ("shoal_step_seconds_total{part=\"compute\"}", 1.5),
        ("shoal_token_seconds_bucket{le=\"0.005\"}", 0.0),
        ("shoal_token_seconds_bucket{le=\"0.01\"}", 3.0),
        ("shoal_token_seconds_bucket{le=\"5\"}", 3.0),
        ("shoal_token_seconds_bucket{le=\"+Inf\"}", 4.0),
        ("shoal_token_seconds_count", 4.0),
        ("shoal_nodes{liveness=\"alive\"}", 2.0),
        ("shoal_instances{state=\"ready\"}", 1.0),
        ("shoal_requests_waiting{model=\"demo\"}", 3.0),
        ("shoal_uptime_seconds", 12.0),
    ] {
        assert_eq!(samples.get(key), Some(&expected), "{key}");
    }
    let rtt = samples.iter().find(|(key, _)| key.starts_with("shoal_peer_rtt_seconds"));
    assert_eq!(rtt.map(|(_, value)| *value), Some(0.0025));
}

#[tokio::test]
async fn a_trace_says_where_the_time_went() {
    let script = Script::new(hello);
    let list = get(&script, "/traces").await.json();
    assert_eq!((&list["traces"][0]["id"], &list["traces"][0]["steps"]), (&json!(5), &json!(null)));
    let trace = get(&script, "/traces/5").await.json();
    assert_eq!(trace["steps"][0]["hops_ms"], 9.0);
    assert_eq!(
        trace["steps"][0]["stages"][0],
        json!({"queued_ms": 1.0, "compute_ms": 8.0, "n_rows": 1})
    );
    for path in ["/traces/6", "/traces/x"] {
        assert_eq!(get(&script, path).await.error(404)["code"], "trace_not_found");
    }
    get(&script, "/traces/5?format=svg").await.error(400);
}

#[tokio::test]
async fn a_trace_opens_in_trace_viewers() {
    let trace = get(&Script::new(hello), "/traces/5?format=chrome").await.json();
    let events = trace["traceEvents"].as_array().expect("a list");
    for event in events {
        let is_span = event["ph"] == "X";
        assert!(is_span || event["ph"] == "M", "{event}");
        assert!(event["pid"].is_string() && event["tid"].is_u64(), "{event}");
        assert_eq!(is_span, event["ts"].is_f64() && event["dur"].is_f64(), "{event}");
    }
    let computes: Vec<_> = events.iter().filter(|event| event["name"] == "compute").collect();
    // 30 ms of which 9 are hops: a gap of 3, 1 queued, 8 computed, a gap of 3, 12 computed, a gap of 3.
    let place = |i: usize| {
        (computes[i]["pid"].clone(), computes[i]["ts"].clone(), computes[i]["dur"].clone())
    };
    assert_eq!(place(0), (json!(OWN_ID.short()), json!(6000.0), json!(8000.0)));
    assert_eq!(place(1), (json!(PEER_ID.short()), json!(17_000.0), json!(12_000.0)));
}
