//! The models, the cluster and the page.

use axum::http::Method;
use serde_json::json;

use super::{
    app, get, post, request,
    script::{OWN_ID, PEER_ID, Script, hello},
    send,
};

fn script() -> Script {
    Script::new(hello)
}

#[tokio::test]
async fn models_are_listed() {
    let list = get(&script(), "/v1/models").await.json();
    assert_eq!(list["object"], "list");
    assert_eq!(list["data"].as_array().map(Vec::len), Some(3));
    let expected = json!({
        "id": "demo", "object": "model", "created": 1_700_000_000, "owned_by": "shoal",
        "n_ctx": 512, "n_layer": 6, "architecture": "llama", "n_bytes": 7_000_000,
    });
    assert_eq!(list["data"][2], expected);
}

#[tokio::test]
async fn a_model_is_found_by_its_name_slashes_and_all() {
    for (path, id) in [
        ("demo", "demo"),
        ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B"),
        ("Qwen%2FQwen2.5-0.5B", "Qwen/Qwen2.5-0.5B"),
        ("/models/a%20b.gguf", "/models/a b.gguf"),
        ("%2Fmodels%2Fa%20b.gguf", "/models/a b.gguf"),
    ] {
        let got = get(&script(), &format!("/v1/models/{path}")).await;
        assert_eq!(got.json()["id"], id, "{}", got.text);
    }
    let error = get(&script(), "/v1/models/gpt-4").await.error(404);
    assert_eq!((&error["param"], &error["code"]), (&json!("model"), &json!("model_not_found")));
}

#[tokio::test]
async fn the_state_shows_nodes_and_instances() {
    let state = get(&script(), "/state").await.json();
    let expected = json!({
        "id": PEER_ID.to_string(),
        "name": "old-pixel",
        "is_self": false,
        "liveness": "alive",
        "addrs": ["127.0.0.1:4242"],
        "rtt_ms": 2.5,
        "vitals": {
            "load_percent": 40, "free_bytes": 1 << 29, "temperature_c": 38.5,
            "battery_percent": 81, "is_charging": false, "n_requests": 0,
        },
        "profile": {"decode_bytes_per_s": 9_000_000_000_u64, "prefill_macs_per_s": 50_000_000_000_u64},
        "models": [{"name": "owner/m:Q4_K_M", "is_whole": false, "layers": [[0, 2]]}],
        "memory_bytes": 1 << 30,
        "software": "0.1.0",
        "isa": "avx2",
        "device": "Pixel 7",
        "links": [{"node": OWN_ID.to_string(), "rtt_ms": 1.5}],
        "draining": null,
        "stages": [{"instance": "1f", "epoch": 2, "layers": [0, 2]}],
    });
    assert_eq!(state["nodes"][1], expected);
    assert_eq!(state["nodes"][0]["is_self"], true);
    assert_eq!(state["nodes"][0]["rtt_ms"], json!(null));
    let expected = json!({
        "id": "1f",
        "model": "demo",
        "state": "ready",
        "why": null,
        "progress": null,
        "n_requests": 1,
        "n_waiting": 3,
        "predicted_tokens_per_s": 12.5,
        "measured_tokens_per_s": null,
        "suggestion": null,
        "is_automatic": false,
        "n_ctx": 512,
        "n_layer": 6,
        "epoch": 2,
        "placement": [
            {"node": OWN_ID.to_string(), "layers": [0, 2]},
            {"node": PEER_ID.to_string(), "layers": [2, 6]},
        ],
    });
    assert_eq!(state["instances"], json!([expected]));
    assert_eq!(state["n_requests"], 0);
}

#[tokio::test]
async fn the_node_says_who_and_how_it_is() {
    let id = get(&script(), "/node_id").await.json();
    assert_eq!(id, json!({"id": OWN_ID.to_string(), "name": "kitchen"}));
    let health = get(&script(), "/health").await.json();
    assert_eq!(health, json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")}));
}

#[tokio::test]
async fn models_are_placed() {
    let place = async |body| post(&script(), "/place_instance", &body).await;
    let placed = place(json!({"model": "demo", "nodes": 2, "context": 128})).await;
    assert_eq!(placed.status, 200, "{}", placed.text);
    assert_eq!((&placed.json()["id"], &placed.json()["n_ctx"]), (&json!("1f"), &json!(128)));
    let null = place(json!({"model": "demo", "nodes": 2, "context": null})).await;
    assert_eq!(null.json()["n_ctx"], 512);
    let refused = place(json!({"model": "demo"})).await.error(409);
    assert_eq!(refused["code"], "cluster_refused");
    let unusable = place(json!({"model": "/no/such.gguf"})).await.error(400);
    assert_eq!(unusable["code"], "model_unusable");
    assert!(unusable["message"].as_str().expect("text").contains("no such file"), "{unusable}");
    for (body, param) in [
        (json!({"nodes": 2}), "model"),
        (json!({"model": "demo", "nodes": 0}), "nodes"),
        (json!({"model": "demo", "nodes": -1}), "nodes"),
        (json!({"model": "demo", "context": "long"}), "context"),
        (json!({"model": "demo", "node": 2}), "node"),
    ] {
        assert_eq!(place(body).await.error(400)["param"], param);
    }
}

#[tokio::test]
async fn instances_are_dropped() {
    let drop = async |id: &str| {
        let request = request(&Method::DELETE, &format!("/instance/{id}"), None);
        send(app(&script()), request).await
    };
    for id in ["1f", "demo"] {
        assert_eq!(drop(id).await.json(), json!({"id": id, "n_dropped": 1, "deleted": true}));
    }
    for id in ["2f", "owner/m:Q4_K_M", "11112222333344445"] {
        assert_eq!(drop(id).await.error(404)["code"], "instance_not_found");
    }
}

#[tokio::test]
async fn a_plan_is_explained() {
    let body = json!({
        "model": "demo", "context": 64, "exclude": ["old-pixel"],
        "pin": [{"node": "abab", "layers": [0, 3]}],
    });
    let plan = post(&script(), "/plan", &body).await.json();
    assert_eq!((&plan["model"], &plan["context"]), (&json!("demo"), &json!(64)));
    assert_eq!(plan["sentence"], "one is enough");
    let candidate = &plan["candidates"][0];
    assert_eq!(
        (&candidate["tokens_per_s"], &candidate["first_token_ms"]),
        (&json!(25.0), &json!(900.0))
    );
    let stage = &candidate["stages"][0];
    assert_eq!((&stage["name"], &stage["layers"]), (&json!("kitchen"), &json!([0, 6])));
    assert_eq!(plan["left_out"][0]["why"], "1 excluded");
    assert_eq!(plan["each_further"][0]["n_nodes"], 1);
    let plan = get(&script(), "/plan?model=demo&context=32").await.json();
    assert_eq!(plan["context"], 32);
    for (body, param) in [
        (json!({"model": "demo", "exclude": ["nobody"]}), "exclude"),
        (json!({"model": "demo", "pin": [{"node": "kitchen", "layers": [3, 3]}]}), "pin"),
        (json!({"model": "demo", "nodes": 2, "min_nodes": 1}), "nodes"),
        (json!({"model": "demo", "replicas": 0}), "replicas"),
    ] {
        assert_eq!(post(&script(), "/plan", &body).await.error(400)["param"], param);
    }
}

#[tokio::test]
async fn a_ticket_is_given_out() {
    for (body, ticket) in [
        (json!({}), "shoal1ticket86400"),
        (json!({"expires_s": null}), "shoal1ticket0"),
        (json!({"expires_s": 60, "single_use": true}), "shoal1once60"),
    ] {
        let got = post(&script(), "/invite", &body).await.json();
        assert_eq!(got["ticket"], ticket);
        assert_eq!(got["command"], format!("shoal serve --join {ticket}"));
    }
    let zero = post(&script(), "/invite", &json!({"expires_s": 0})).await.error(400);
    assert_eq!(zero["param"], "expires_s");
}

#[tokio::test]
async fn clusters_are_joined_and_left() {
    let joined = post(&script(), "/join", &json!({"ticket": "shoal2good"})).await;
    assert_eq!(joined.json(), json!({"joined": true}));
    let refused = post(&script(), "/join", &json!({"ticket": "?"})).await.error(409);
    assert_eq!(refused["code"], "offline");
    let left = send(app(&script()), request(&Method::POST, "/leave", None)).await;
    assert_eq!(left.json(), json!({"left": true}));
    let findings = get(&script(), "/doctor/network").await.json();
    assert_eq!(findings["findings"][0]["code"], "fine");
}

#[tokio::test]
async fn a_node_is_forgotten_by_name_or_id() {
    let forget = async |node: &str| {
        let request = request(&Method::DELETE, &format!("/nodes/{node}"), None);
        send(app(&script()), request).await
    };
    for node in ["old-pixel", "cdcd", &PEER_ID.to_string()] {
        assert_eq!(forget(node).await.json()["id"], PEER_ID.to_string());
    }
    assert_eq!(forget("kitchen").await.error(404)["code"], "node_not_found");
    for node in ["nobody", "cd"] {
        assert_eq!(forget(node).await.error(400)["param"], "node");
    }
}

#[tokio::test]
async fn a_node_is_drained_by_name_or_id_or_is_this_one() {
    let drain = async |body: serde_json::Value| post(&script(), "/drain", &body).await;
    let peer = json!({"id": PEER_ID.to_string(), "draining": true});
    assert_eq!(drain(json!({"node": "old-pixel"})).await.json(), peer);
    let own = json!({"id": OWN_ID.to_string(), "draining": false});
    assert_eq!(drain(json!({"undo": true})).await.json(), own);
    assert_eq!(drain(json!({"node": "nobody"})).await.error(400)["param"], "node");
}

#[tokio::test]
async fn the_page_and_its_parts_are_served_under_a_strict_policy() {
    for (path, content_type, begins) in [
        ("/", "text/html; charset=utf-8", "<!doctype html>"),
        ("/index.js", "text/javascript; charset=utf-8", ""),
        ("/index.css", "text/css; charset=utf-8", ""),
        ("/icon.svg", "image/svg+xml", "<svg"),
    ] {
        let got = get(&script(), path).await;
        assert_eq!(got.status, 200, "{path}");
        assert_eq!(got.header("content-type"), content_type);
        assert!(got.text.starts_with(begins), "{path}");
        let policy = got.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
    }
}
