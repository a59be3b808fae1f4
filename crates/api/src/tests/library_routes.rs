//! Models and downloads, and the events that tell of them.

use std::time::Duration;

use axum::{body::Body, http::Method};
use futures_util::StreamExt;
use serde_json::{Value, json};
use shoal_node::hub::DownloadState;
use tower::ServiceExt;

use super::{
    Got, app, get, post, request,
    script::{PEER_ID, Script, hello},
    send,
};

fn script() -> Script {
    Script::new(hello)
}

async fn delete(script: &Script, path: &str) -> Got {
    send(app(script), request(&Method::DELETE, path, None)).await
}

#[tokio::test]
async fn the_catalogue_says_what_runs() {
    let models = get(&script(), "/models").await.json();
    let first = &models["models"][0];
    assert_eq!(first["here"], json!({"status": "runs"}));
    assert_eq!(first["cluster"], json!({"status": "runs_on", "n_nodes": 2}));
    assert_eq!((&first["stored"], &first["n_bytes"]), (&json!("there"), &json!(400)));
    for field in ["id", "short", "name", "architecture", "licence", "n_params", "quant", "format"] {
        assert!(!first[field].is_null(), "{field}: {first:#}");
    }
    let second = &models["models"][1];
    assert_eq!(second["here"], json!({"status": "too_large", "missing_bytes": 5}));
    let all = get(&script(), "/models?quants=all").await.json();
    let unsupported = json!({"status": "unsupported", "what": "quantisation Q2_K"});
    assert_eq!(all["models"][2]["here"], unsupported);
}

#[tokio::test]
async fn what_is_on_the_device_is_listed() {
    let models = get(&script(), "/models?status=downloaded").await.json();
    let expected = json!({
        "name": "owner/name:Q4_0", "place": "own", "state": "partial", "n_bytes_held": 600,
        "n_bytes": 1000, "n_bytes_on_disk": 700, "dir": "/models/m", "modified": 1_700_000_000,
    });
    assert_eq!(models["models"][0], expected);
    assert_eq!(models["models"][1]["state"], "whole");
    assert_eq!(models["models"][1]["place"], "ollama");
    assert_eq!(models["models"][2]["what"], "the header ends early");
}

#[tokio::test]
async fn queries_that_make_no_sense_are_refused() {
    for path in
        ["/models?status=lost", "/models?colour=red", "/models/search", "/models/search?limit=1"]
    {
        get(&script(), path).await.error(400);
    }
    let error = get(&script(), "/models/search?query=%20").await.error(400);
    assert_eq!(error["param"], "query");
    for limit in ["0", "101"] {
        let error = get(&script(), &format!("/models/search?query=a&limit={limit}")).await;
        assert_eq!(error.error(400)["param"], "limit");
    }
}

#[tokio::test]
async fn the_hub_is_searched() {
    let found = get(&script(), "/models/search?query=small%20models&limit=2").await.json();
    let formats = [&found["models"][0]["format"], &found["models"][1]["format"]];
    assert_eq!(formats, [&json!("gguf"), &json!("mlx")]);
    assert_eq!(found["models"][0]["repo"], "small models");
    assert_eq!(found["models"][0]["gated"], true);
    let one = get(&script(), "/models/search?query=a&limit=1").await.json();
    assert_eq!(one["models"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_download_is_started_paused_resumed_and_cancelled() {
    let script = script();
    let act =
        async |verb: &str, body: Value| post(&script, &format!("/download/{verb}"), &body).await;
    let name = json!({"model": "owner/name:Q4_0"});
    assert_eq!(act("start", json!({"model": "owner/name"})).await.json(), name);
    let newest = act("start", json!({"model": "owner/name", "update": true})).await.json();
    assert_eq!(newest["model"], "owner/name:newest");
    assert_eq!(act("resume", name.clone()).await.error(404)["code"], "download_not_found");
    assert_eq!(act("pause", name.clone()).await.json()["state"], "paused");
    assert_eq!(act("pause", name.clone()).await.error(404)["code"], "download_not_found");
    assert_eq!(act("resume", name.clone()).await.json()["state"], "running");
    assert_eq!(act("cancel", name.clone()).await.json()["state"], "cancelled");
    assert_eq!(act("cancel", name).await.error(404)["code"], "download_not_found");
    let unknown = act("start", json!({"model": "nonsense"})).await.error(404);
    assert_eq!(unknown["code"], "model_not_found");
    assert!(unknown["message"].as_str().expect("text").contains("sense:1b"), "{unknown}");
    for verb in ["start", "pause", "resume", "cancel"] {
        assert_eq!(act(verb, json!({})).await.error(400)["param"], "model");
        let error = act(verb, json!({"model": "m", "modle": 1})).await.error(400);
        assert_eq!(error["param"], "modle");
    }
}

#[tokio::test]
async fn cancelling_does_not_remove_what_is_complete() {
    let script = script();
    script.set_download("m", 1000, DownloadState::Complete);
    let error = post(&script, "/download/cancel", &json!({"model": "m"})).await.error(404);
    assert_eq!(error["code"], "download_not_found");
    assert_eq!(get(&script, "/downloads").await.json()["downloads"][0]["model"], "m");
}

#[tokio::test]
async fn downloads_tell_how_they_go() {
    let script = script();
    script.set_download("m", 250, DownloadState::Failed { message: "no route".into() });
    let expected = json!({
        "model": "m", "state": "failed", "message": "no route", "n_bytes": 250, "n_total": 1000,
        "bytes_per_s": 50.0, "remaining_s": 1.5, "from_hub": 1, "from_peers": 250,
        "bad_peers": [{"node": PEER_ID.to_string(), "chunk": 7}],
    });
    assert_eq!(get(&script, "/downloads").await.json(), json!({"downloads": [expected]}));
    let state = get(&script, "/state").await.json();
    assert_eq!(state["downloads"], json!([expected]));
    assert_eq!(state["disk"], json!({"dir": "/models", "free_bytes": 600, "total_bytes": 1000}));
}

#[tokio::test]
async fn models_are_removed_by_their_names_slashes_and_all() {
    for path in ["/models/owner/name:Q4_0", "/models/owner%2Fname%3AQ4_0"] {
        let removed = delete(&script(), path).await.json();
        let expected =
            json!({"model": "owner/name:Q4_0", "deleted": true, "n_bytes": 700, "left": []});
        assert_eq!(removed, expected);
    }
    assert_eq!(delete(&script(), "/models/gpt").await.error(404)["code"], "model_not_found");
    assert_eq!(delete(&script(), "/models/running").await.error(409)["code"], "model_in_use");
}

/// Reads events until there are `n`.
pub(super) async fn read_events(body: Body, n: usize) -> Vec<(String, Value)> {
    let mut stream = body.into_data_stream();
    let mut text = String::new();
    loop {
        let events: Vec<(String, Value)> = text
            .split_inclusive("\n\n")
            .filter_map(|event| event.strip_suffix("\n\n")?.strip_prefix("event: "))
            .filter_map(|event| event.split_once("\ndata: "))
            .map(|(name, data)| (name.to_owned(), serde_json::from_str(data).expect("JSON")))
            .collect();
        if events.len() >= n {
            return events;
        }
        let piece = stream.next().await.expect("it has no end").expect("it does not fail");
        text.push_str(std::str::from_utf8(&piece).expect("UTF-8"));
    }
}

#[tokio::test(start_paused = true)]
async fn events_tell_what_changes_and_nothing_else() {
    let script = script();
    let response =
        app(&script).oneshot(request(&Method::GET, "/events?only=downloads,state", None));
    let response = response.await.expect("infallible");
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let reader = read_events(response.into_body(), 4);
    let changes = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        // Faster than anybody is told.
        for n_bytes in 0..100 {
            script.set_download("m", n_bytes, DownloadState::Running);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let (events, ()) = tokio::join!(reader, changes);
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["state", "downloads", "downloads", "downloads"]);
    assert_eq!(events[1].1, json!({"downloads": []}));
    assert_eq!(events[0].1["nodes"][1]["name"], "old-pixel");
    assert_eq!(events[0].1["nodes"][1]["rtt_ms"], json!(null));
    assert_eq!(events[2].1["downloads"][0]["n_bytes"], 0, "the first change is told at once");
    assert_eq!(events[3].1["downloads"][0]["n_bytes"], 99, "the next when some have come together");
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_kept_alive() {
    let response = app(&script()).oneshot(request(&Method::GET, "/events", None)).await;
    let mut stream = response.expect("infallible").into_body().into_data_stream();
    loop {
        let piece = stream.next().await.expect("it has no end").expect("it does not fail");
        if piece.starts_with(b": keep-alive") {
            break;
        }
    }
}

#[tokio::test]
async fn too_many_followers_are_turned_away() {
    let app = app(&script());
    let ask = async || app.clone().oneshot(request(&Method::GET, "/events", None)).await;
    let mut followers = Vec::new();
    for _ in 0..crate::EVENTS_MAX {
        followers.push(ask().await.expect("infallible"));
    }
    assert!(followers.iter().all(|follower| follower.status() == 200));
    assert_eq!(ask().await.expect("infallible").status(), 503);
    followers.pop();
    assert_eq!(ask().await.expect("infallible").status(), 200);
}
