//! What the page shows beside answers and models: events, the log, the past, settings, invitations.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    http::{HeaderValue, Method, Request},
};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use shoal_node::{RequestState, Setting, SettingValue};
use tower::ServiceExt as _;

use super::{
    Got, app, get, post, request,
    script::{INVITE, OWN_ID, PEER_ID, Script, hello},
    send,
};
use crate::Access;

fn script() -> Script {
    Script::new(hello)
}

/// One event: its name, its id and its data.
type Told = (String, Option<String>, Value);

/// A client of the events.
struct Follower {
    stream: axum::body::BodyDataStream,
    text: String,
}

impl Follower {
    async fn new(script: &Script, query: &str, last: Option<&str>) -> Self {
        let mut request = request(&Method::GET, &format!("/events{query}"), None);
        if let Some(last) = last {
            let last = HeaderValue::from_str(last).expect("a value");
            request.headers_mut().insert("last-event-id", last);
        }
        let response = app(script).oneshot(request).await.expect("infallible");
        assert_eq!(response.status(), 200);
        Self { stream: response.into_body().into_data_stream(), text: String::new() }
    }

    async fn next(&mut self) -> Told {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                let field = |name: &str| {
                    let mut lines = event.lines();
                    lines.find_map(|line| line.strip_prefix(name)).map(str::to_owned)
                };
                if let (Some(name), Some(data)) = (field("event: "), field("data: ")) {
                    let data = serde_json::from_str(&data).expect("JSON");
                    return (name, field("id: "), data);
                }
                continue;
            }
            let piece = self.stream.next().await.expect("it has no end").expect("it does not fail");
            self.text.push_str(std::str::from_utf8(&piece).expect("UTF-8"));
        }
    }

    /// Whether nothing comes for so long.
    async fn is_silent_for(&mut self, period: Duration) -> bool {
        tokio::time::timeout(period, self.next()).await.is_err()
    }
}

#[tokio::test(start_paused = true)]
async fn every_subject_is_told_at_the_beginning_but_tokens() {
    let mut follower = Follower::new(&script(), "", None).await;
    let mut names = Vec::new();
    for _ in 0..5 {
        names.push(follower.next().await.0);
    }
    assert_eq!(names, ["state", "downloads", "vitals", "requests", "log"]);
}

#[tokio::test(start_paused = true)]
async fn subjects_can_be_chosen() {
    let mut follower = Follower::new(&script(), "?only=log,state", None).await;
    assert_eq!((follower.next().await.0, follower.next().await.0), ("state".into(), "log".into()));
    assert!(follower.is_silent_for(Duration::from_secs(9)).await);
    for (query, about) in [("only=", "\"\""), ("only=state,nodes", "\"nodes\"")] {
        let error = get(&script(), &format!("/events?{query}")).await.error(400);
        assert_eq!(error["param"], "only");
        assert!(error["message"].as_str().expect("text").contains(about), "{error}");
    }
    get(&script(), "/events?omit=log").await.error(400);
}

#[tokio::test(start_paused = true)]
async fn vitals_say_how_devices_and_links_are() {
    let script = script();
    script.told.send(100);
    let mut follower = Follower::new(&script, "?only=vitals", None).await;
    let (_, _, first) = follower.next().await;
    let expected = json!({
        "id": PEER_ID.to_string(), "load_percent": 40, "free_bytes": 1 << 29,
        "memory_bytes": 1 << 30, "temperature_c": 38.5, "battery_percent": 81,
        "is_charging": false, "n_requests": 0, "rtt_ms": 2.5,
        "traffic": {"bytes_in": 7, "bytes_out": 100, "in_per_s": 0.0, "out_per_s": 0.0},
    });
    assert_eq!(first["nodes"][1], expected);
    let own = &first["nodes"][0];
    assert_eq!((&own["traffic"], &own["rtt_ms"]), (&json!(null), &json!(null)));
    assert_eq!(own["free_bytes"], json!(null), "it has not looked yet");
    assert!(follower.is_silent_for(Duration::from_secs(5)).await, "nothing has changed");
    script.told.send(3000);
    let (_, _, second) = follower.next().await;
    let traffic = &second["nodes"][1]["traffic"];
    assert_eq!((&traffic["bytes_out"], &traffic["in_per_s"]), (&json!(3100), &json!(0.0)));
    assert_eq!(traffic["out_per_s"], 1500.0, "over two seconds");
}

#[tokio::test(start_paused = true)]
async fn tokens_are_told_as_they_come_and_not_too_often() {
    let script = script();
    script.told.produce(50);
    let mut follower = Follower::new(&script, "?only=tokens", None).await;
    assert!(follower.is_silent_for(Duration::from_secs(5)).await, "what was before is no news");
    let produce = async {
        for _ in 0..100 {
            script.told.produce(1);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let start = tokio::time::Instant::now();
    let read = async {
        let (mut n_events, mut n_tokens, mut first) = (0, 0, None);
        while n_tokens < 100 {
            let (_, _, event) = follower.next().await;
            n_tokens += event["instances"][0]["n_tokens"].as_u64().expect("a number");
            n_events += 1;
            first.get_or_insert(event);
        }
        (n_events, n_tokens, first.expect("one"))
    };
    let ((n_events, n_tokens, first), ()) = tokio::join!(read, produce);
    assert_eq!(n_tokens, 100);
    assert!((10..=11).contains(&n_events), "{n_events} in {:?}", start.elapsed());
    let expected = json!({
        "instance": "1f", "model": "demo", "driver": OWN_ID.to_string(),
        "stages": [OWN_ID.to_string(), PEER_ID.to_string()],
        "n_tokens": 1, "n_prompt": 0, "tokens_per_s": 8.0,
    });
    assert_eq!(first["instances"], json!([expected]));
    assert!(follower.is_silent_for(Duration::from_secs(60)).await);
}

#[tokio::test(start_paused = true)]
async fn requests_are_numbers_and_names() {
    let script = script();
    let mut follower = Follower::new(&script, "?only=requests", None).await;
    assert_eq!(follower.next().await.2, json!({"requests": []}));
    script.told.request("chatcmpl-1", RequestState::Healing);
    let (_, _, told) = follower.next().await;
    let expected = json!({
        "id": "100", "answer": "chatcmpl-1", "can_cancel": false, "model": "demo", "instance": "1f",
        "state": "healing", "position": null, "why": null, "n_prompt": 12, "n_cached": null,
        "n_tokens": 3, "tokens_per_s": 8.1, "first_token_ms": 900.0, "n_healed": 1,
        "healed_ms": 1830.0, "started_ms": 5000, "took_ms": 5120.0,
        "stages": [OWN_ID.to_string(), PEER_ID.to_string()], "by": "192.168.1.9",
    });
    assert_eq!(told, json!({"requests": [expected]}));
    script.told.requests("chatcmpl-1", RequestState::Decoding, 60);
    let (_, _, told) = follower.next().await;
    let ids: Vec<&str> = told["requests"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|it| it["id"].as_str().expect("a text"))
        .collect();
    assert_eq!((ids.len(), ids[0], ids[20]), (21, "100", "80"), "and the latest that have ended");
}

#[tokio::test]
async fn a_stream_can_be_cancelled_as_long_as_it_runs_and_its_client_is_known() {
    let script = Script::hanging(hello);
    let app = app(&script);
    let body = json!({
        "model": "demo", "messages": [{"role": "user", "content": "Hi"}], "stream": true,
    });
    let mut ask = request(&Method::POST, "/v1/chat/completions", Some(&body));
    let peer: SocketAddr = "127.0.0.1:40000".parse().expect("an address");
    ask.extensions_mut().insert(ConnectInfo(peer));
    let answer = app.clone().oneshot(ask).await.expect("infallible");
    script.wait_until_running(1).await;
    let callers = script.told.callers();
    assert_eq!(callers[0].by.as_deref(), Some("this device"));
    let id = callers[0].answer.clone().expect("it has a name");
    script.told.request(&id, RequestState::Decoding);
    let events = request(&Method::GET, "/events?only=requests", None);
    let response = app.clone().oneshot(events).await.expect("infallible");
    let stream = response.into_body().into_data_stream();
    let mut follower = Follower { stream, text: String::new() };
    assert_eq!(follower.next().await.2["requests"][0]["can_cancel"], true);
    drop(answer);
    script.wait_until_running(0).await;
    script.told.request(&id, RequestState::Decoding);
    assert_eq!(follower.next().await.2["requests"][0]["can_cancel"], false);
}

#[tokio::test(start_paused = true)]
async fn the_log_goes_on_where_a_client_was() {
    let script = script();
    let mut empty = Follower::new(&script, "?only=log", None).await;
    let (_, id, first) = empty.next().await;
    assert_eq!((id.as_deref(), &first["entries"]), (Some("0-0"), &json!([])));
    for i in 1..=150 {
        script.told.note(&format!("<i>{i}"));
    }
    let seqs = |told: &Value| -> Vec<u64> {
        let entries = told["entries"].as_array().expect("a list");
        entries.iter().map(|entry| entry["seq"].as_u64().expect("a number")).collect()
    };
    let (_, id, told) = empty.next().await;
    assert_eq!((id.as_deref(), seqs(&told)), (Some("0-150"), (1..=150).collect()));
    let expected = json!({
        "seq": 1, "at_ms": 1, "level": "notice", "kind": "node_joined", "text": "<i>1",
        "node": PEER_ID.to_string(), "instance": null, "model": null,
    });
    assert_eq!(told["entries"][0], expected);
    let first = async |last: Option<&str>| {
        seqs(&Follower::new(&script, "?only=log", last).await.next().await.2)
    };
    assert_eq!(first(None).await, (51..=150).collect::<Vec<_>>(), "the newest");
    assert_eq!(first(Some("0-147")).await, [148, 149, 150]);
    // Of another life of the node, or nonsense.
    for last in ["99-147", "147", "-", "x-y"] {
        assert_eq!(first(Some(last)).await.len(), 100, "{last}");
    }
    let mut up_to_date = Follower::new(&script, "?only=log", Some("0-150")).await;
    assert!(up_to_date.is_silent_for(Duration::from_secs(5)).await);
    script.told.note("one more");
    assert_eq!(seqs(&up_to_date.next().await.2), [151]);
}

#[tokio::test]
async fn the_log_is_listed() {
    let script = script();
    (0..5).for_each(|_| script.told.note("hello"));
    let log = get(&script, "/log?after=2").await.json();
    assert_eq!(
        (&log["newest"], &log["oldest"], &log["began_ms"]),
        (&json!(5), &json!(1), &json!(0))
    );
    assert_eq!(log["entries"].as_array().map(Vec::len), Some(3));
    let log = get(&script, "/log?limit=2").await.json();
    assert_eq!(log["entries"][0]["seq"], 4);
    for limit in [0, 501] {
        assert_eq!(get(&script, &format!("/log?limit={limit}")).await.error(400)["param"], "limit");
    }
    get(&script, "/log?after=-1").await.error(400);
}

#[tokio::test]
async fn the_past_is_told_in_columns() {
    let history = get(&script(), "/history?minutes=2").await.json();
    let expected = json!({
        "interval_s": 5, "end_ms": 9000, "n": 2,
        "nodes": [{
            "id": OWN_ID.to_string(), "name": "kitchen", "temperature_c": [null, 38.5],
            "battery_percent": [null, 81], "is_charging": [null, 1],
            "load_percent": [null, null], "free_mib": [null, 512],
        }],
        "own": {"decode_per_s": [null, 8.1], "prefill_per_s": [null, 0.0], "n_requests": [null, 1]},
    });
    assert_eq!(history, expected);
    assert_eq!(get(&script(), "/history").await.json()["n"], 2);
    assert_eq!(get(&script(), "/history?minutes=1").await.json()["n"], 1);
    for minutes in [0, 61] {
        let error = get(&script(), &format!("/history?minutes={minutes}")).await.error(400);
        assert_eq!(error["param"], "minutes");
    }
}

async fn patch(script: &Script, body: &Value) -> Got {
    send(app(script), request(&Method::PATCH, "/settings", Some(body))).await
}

#[tokio::test]
async fn settings_are_shown_with_their_bounds() {
    let shown = get(&script(), "/settings").await;
    assert_eq!(shown.header("cache-control"), "no-store");
    let shown = shown.json();
    let settings = &shown["settings"];
    let names: Vec<&String> = settings.as_object().expect("an object").keys().collect();
    assert_eq!(names, Setting::ALL.map(Setting::as_str));
    let floor = json!({"value": 50, "default": 50, "fixed_by": null, "min": 0, "max": 90});
    assert_eq!(settings["battery_floor_percent"], floor);
    assert_eq!(settings["parallel"]["fixed_by"], "flag");
    assert_eq!(settings["download_bytes_per_s"]["value"], json!(null));
    let name = json!({"value": "<b>kitchen", "default": "<b>kitchen", "fixed_by": null});
    assert_eq!(settings["name"], name);
    assert_eq!(shown["is_persisted"], true);
    let closed = json!({
        "is_open": false, "urls": [], "token_required": false, "token": null, "qr": null,
        "url_with_token": null,
    });
    assert_eq!(shown["lan"], closed);
}

#[tokio::test]
async fn settings_are_changed_all_or_none() {
    let script = script();
    let body = json!({
        "name": "hall", "memory_share_percent": 40, "auto": true, "download_bytes_per_s": null,
        "temperature_ceiling_c": null,
    });
    let changed = patch(&script, &body).await;
    assert_eq!(changed.status, 200, "{}", changed.text);
    assert!(changed.json()["settings"]["name"].is_object());
    let expected = vec![
        (Setting::Name, Some(SettingValue::Text("hall".into()))),
        (Setting::MemoryShare, Some(SettingValue::Number(40))),
        (Setting::Auto, Some(SettingValue::Switch(true))),
        (Setting::DownloadRate, Some(SettingValue::Unlimited)),
        (Setting::TemperatureCeiling, None),
    ];
    assert_eq!(script.told.changes(), expected);
    for (body, param, says) in [
        (json!({"auto": true, "colour": 1}), "colour", "no such setting"),
        (json!({"battery_floor_percent": 4000}), "battery_floor_percent", "expected 0 to 90"),
        (json!({"battery_floor_percent": -1}), "battery_floor_percent", "whole number"),
        (json!({"battery_floor_percent": 1.5}), "battery_floor_percent", "whole number"),
        (json!({"name": ["x"]}), "name", "something else"),
    ] {
        let error = patch(&script, &body).await.error(400);
        assert_eq!(error["param"], param);
        assert!(error["message"].as_str().expect("text").contains(says), "{error}");
    }
    let fixed = patch(&script, &json!({"parallel": 3})).await.error(409);
    assert_eq!((&fixed["code"], &fixed["param"]), (&json!("setting_fixed"), &json!("parallel")));
    patch(&script, &json!([1])).await.error(400);
    assert_eq!(script.told.changes(), expected, "nothing more");
}

#[tokio::test]
async fn the_token_and_the_directory_are_told_to_those_who_may_know() {
    const TOKEN: &str = "abcdefghijklmnop";
    let access = Access {
        address: "0.0.0.0:52415".parse().expect("an address"),
        token: Some(TOKEN.to_owned()),
        names: Vec::new(),
        origins: Vec::new(),
    };
    let opened: Router = crate::routes(script(), &access);
    let ask = async |peer: &str, host: &'static str, token: Option<&'static str>| {
        let mut request: Request<Body> = request(&Method::GET, "/settings", None);
        request.headers_mut().insert("host", HeaderValue::from_static(host));
        if let Some(token) = token {
            request.headers_mut().insert("x-api-key", HeaderValue::from_static(token));
        }
        let peer: SocketAddr = peer.parse().expect("an address");
        request.extensions_mut().insert(ConnectInfo(peer));
        send(opened.clone(), request).await
    };
    let (here, lan) = ("localhost:52415", "192.168.1.5:52415");
    let own = ask("127.0.0.1:40000", here, None).await.json();
    assert_eq!((&own["is_here"], &own["data_dir"]), (&json!(true), &json!("/data/shoal")));
    assert_eq!(own["lan"]["token"], TOKEN);
    assert_eq!(own["lan"]["urls"], json!(["http://192.168.1.5:52415/"]));
    let url = format!("http://192.168.1.5:52415/?token={TOKEN}");
    assert_eq!(own["lan"]["url_with_token"], url);
    assert!(own["lan"]["qr"]["path"].as_str().expect("a path").starts_with('M'));
    let phone = ask("192.168.1.9:40000", lan, Some(TOKEN)).await.json();
    assert_eq!((&phone["is_here"], &phone["data_dir"]), (&json!(false), &json!(null)));
    assert_eq!(phone["lan"]["token"], TOKEN, "it knows it");
    let stranger = ask("192.168.1.9:40000", lan, None).await;
    assert!(stranger.status == 401 && !stranger.text.contains(TOKEN));
    // Whatever lets a request in one day: without its word nothing is told.
    let nobody = crate::guard::Known::default();
    assert!(!nobody.may_know_token() && !nobody.is_here);
}

#[tokio::test]
async fn invitations_are_made_listed_and_revoked() {
    let made = post(&script(), "/invite", &json!({"expires_s": 60})).await.json();
    assert_eq!((&made["id"], &made["expires_at_ms"]), (&json!(INVITE), &json!(60_000)));
    assert!(made["qr"]["size"].as_u64().is_some_and(|size| size >= 29), "{made}");
    let for_ever = post(&script(), "/invite", &json!({"expires_s": null})).await.json();
    assert_eq!(for_ever["expires_at_ms"], json!(null));
    let expected = json!({
        "id": "05".repeat(16), "created_at_ms": 1000, "expires_at_ms": null, "single_use": true,
        "state": "used",
        "joined": [
            {"id": PEER_ID.to_string(), "name": "old-pixel"},
            {"id": "07".repeat(32), "name": null},
        ],
    });
    assert_eq!(get(&script(), "/invites").await.json(), json!({"invites": [expected]}));
    let revoke = async |id: &str| {
        send(app(&script()), request(&Method::DELETE, &format!("/invites/{id}"), None)).await
    };
    assert_eq!(revoke(INVITE).await.json(), json!({"id": INVITE, "revoked": true}));
    assert_eq!(revoke("06").await.error(404)["code"], "invite_not_found");
}

#[tokio::test]
async fn every_check_of_the_doctor_is_told() {
    let told = get(&script(), "/doctor/network").await.json();
    let expected = json!({
        "id": "network", "title": "This device is on a network", "state": "ok",
        "found": "It is, by wlan0.", "what_to_do": "",
    });
    assert_eq!(told["checks"], json!([expected]));
}
