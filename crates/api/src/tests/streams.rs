//! Answers as server-sent events.

use std::time::Duration;

use axum::{body::Body, http::Method};
use futures_util::StreamExt;
use serde_json::{Value, json};
use shoal_node::{Error, Event, FinishReason};
use tower::ServiceExt;

use super::{
    app, post, request,
    script::{Answers, Script, finished, hello, text},
};

const PATH: &str = "/v1/chat/completions";
/// The clock of the test that uses it jumps.
const PATIENCE: Duration = Duration::from_secs(60);

fn body(extra: &Value) -> Value {
    let mut body = json!({"model": "demo", "messages": [{"role": "user", "content": "Hi"}]});
    let fields = body.as_object_mut().expect("an object");
    fields.insert("stream".into(), json!(true));
    fields.extend(extra.as_object().expect("an object").clone());
    body
}

/// The data of each event, after a check of the framing.
async fn data(answers: Answers, extra: &Value) -> Vec<String> {
    let got = post(&Script::new(answers), PATH, &body(extra)).await;
    assert_eq!(got.status, 200, "{}", got.text);
    assert_eq!(got.header("content-type"), "text/event-stream");
    assert_eq!(got.header("cache-control"), "no-cache");
    let whole = got.text.strip_suffix("\n\n").expect("the last event is complete");
    let data = |event: &str| event.strip_prefix("data: ").map(str::to_owned);
    whole.split("\n\n").map(|event| data(event).expect("an event is its data")).collect()
}

fn parsed(data: &[String]) -> Vec<Value> {
    data.iter().map(|data| serde_json::from_str(data).expect("JSON")).collect()
}

#[tokio::test]
async fn a_stream_is_role_text_reason_done() {
    let data = data(hello, &json!({})).await;
    let (done, chunks) = data.split_last().expect("events");
    assert_eq!(done, "[DONE]");
    let chunks = parsed(chunks);
    let choices: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]).collect();
    let choice = |delta: Value, reason: Value| json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": reason});
    let expected = [
        choice(json!({"role": "assistant", "content": ""}), json!(null)),
        choice(json!({"content": "Hello,"}), json!(null)),
        choice(json!({"content": " wörld"}), json!(null)),
        choice(json!({}), json!("stop")),
    ];
    assert_eq!(choices, expected.iter().collect::<Vec<_>>());
    for chunk in &chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!(chunk["model"], "demo");
        assert_eq!(chunk["id"], chunks[0]["id"]);
        assert_eq!(chunk["created"], chunks[0]["created"]);
        assert!(chunk["system_fingerprint"].is_string());
        assert!(chunk.get("usage").is_none(), "nobody asked for it");
    }
}

#[tokio::test]
async fn the_usage_comes_last_and_only_if_asked_for() {
    let data = data(hello, &json!({"stream_options": {"include_usage": true}})).await;
    let chunks = parsed(&data[..data.len() - 1]);
    let (last, others) = chunks.split_last().expect("chunks");
    assert!(others.iter().all(|chunk| chunk.get("usage") == Some(&Value::Null)));
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["total_tokens"], 15);
    assert_eq!(last["usage"]["prompt_tokens_details"]["cached_tokens"], 8);
}

#[tokio::test]
async fn text_with_line_ends_stays_one_event() {
    let answers = || Ok(vec![text("one\n\ntwo\r\n"), finished(FinishReason::Length)]);
    let data = data(answers, &json!({})).await;
    let chunks = parsed(&data[..data.len() - 1]);
    assert_eq!(chunks[1]["choices"][0]["delta"]["content"], "one\n\ntwo\r\n");
    assert_eq!(chunks[2]["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn a_cut_answer_never_looks_whole() {
    let failed =
        || Ok(vec![text("Hel"), Event::Failed(Error::StageFailed { message: "it broke".into() })]);
    for (answers, code) in
        [(failed as Answers, "internal_error"), (|| Ok(vec![text("Hel")]), "shutting_down")]
    {
        let data = data(answers, &json!({"stream_options": {"include_usage": true}})).await;
        let events = parsed(&data);
        let (last, chunks) = events.split_last().expect("events");
        assert_eq!(last["error"]["type"], "server_error");
        assert_eq!(last["error"]["code"], code);
        assert!(last.get("choices").is_none());
        let reasons = chunks.iter().map(|chunk| &chunk["choices"][0]["finish_reason"]);
        assert!(reasons.into_iter().all(Value::is_null));
    }
}

#[tokio::test]
async fn what_is_wrong_before_the_first_token_is_a_status() {
    let script = Script::new(|| Err(Error::ContextFull { n_prompt: 9, n_ctx: 8 }));
    let got = post(&script, PATH, &body(&json!({}))).await;
    assert_eq!(got.error(400)["code"], "context_length_exceeded");
}

#[tokio::test(start_paused = true)]
async fn comments_keep_a_silent_stream_alive() {
    let script = Script::hanging(|| Ok(vec![text("Hel")]));
    let request = request(&Method::POST, PATH, Some(&body(&json!({}))));
    let response = app(&script).oneshot(request).await.expect("an answer");
    let mut frames = Body::into_data_stream(response.into_body());
    let mut texts = Vec::new();
    for _ in 0..4 {
        let frame = tokio::time::timeout(PATIENCE, frames.next()).await.expect("no silence");
        let frame = frame.expect("the stream goes on").expect("bytes");
        texts.push(String::from_utf8(frame.to_vec()).expect("UTF-8"));
    }
    assert!(texts[0].starts_with("data: ") && texts[1].starts_with("data: "), "{texts:?}");
    assert_eq!(texts[2..], [": waiting\n\n", ": waiting\n\n"]);
    drop(frames);
    script.wait_until_running(0).await;
}

/// What a stream says until it ends, comments included.
async fn whole(script: &Script, extra: &Value) -> String {
    post(script, PATH, &body(extra)).await.text
}

fn waits() -> Result<Vec<Event>, Error> {
    let pause = Duration::from_millis(1234);
    Ok(vec![
        Event::Queued { position: 1 },
        Event::Queued { position: 0 },
        Event::Started { n_prompt: 12 },
        text("Hel"),
        Event::Healing { why: "layers 2..4 are lost".to_owned() },
        Event::Resumed { pause, n_recomputed: 9 },
        text("lo"),
        finished(FinishReason::Stop),
    ])
}

#[tokio::test]
async fn how_an_answer_stands_is_told_to_those_who_ask() {
    let asked = json!({"shoal": {"status": true}});
    let told = whole(&Script::new(waits), &asked).await;
    let told: Vec<&str> = told
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("event: shoal.status\n"))
        .collect();
    let told: Vec<Value> = told
        .iter()
        .map(|data| serde_json::from_str(data.strip_prefix("data: ").expect("data")).expect("JSON"))
        .collect();
    let expected = [
        json!({"state": "queued", "position": 1}),
        json!({"state": "queued", "position": 0}),
        json!({"state": "started"}),
        json!({"state": "healing", "why": "layers 2..4 are lost"}),
        json!({"state": "resumed", "pause_ms": 1234, "n_recomputed": 9}),
    ];
    assert_eq!(told, expected);
    let data = data(waits, &json!({})).await;
    assert_eq!((data.len(), data[4].as_str()), (5, "[DONE]"), "nobody gets them unasked: {data:?}");
}

#[tokio::test(start_paused = true)]
async fn comments_say_what_is_waited_for() {
    let queued = || Ok(vec![Event::Queued { position: 3 }]);
    let healing = || Ok(vec![text("Hel"), Event::Healing { why: "a\nnode is lost".to_owned() }]);
    for (answers, expected) in [
        (queued as Answers, ": waiting: 3 requests are before this one\n\n"),
        (healing, ": waiting: a node is lost\n\n"),
    ] {
        let script = Script::hanging(answers);
        let request = request(&Method::POST, PATH, Some(&body(&json!({}))));
        let response = app(&script).oneshot(request).await.expect("an answer");
        let mut frames = Body::into_data_stream(response.into_body());
        let comment = async {
            loop {
                let frame = frames.next().await.expect("the stream goes on").expect("bytes");
                if frame.starts_with(b":") {
                    return frame;
                }
            }
        };
        let comment = tokio::time::timeout(PATIENCE, comment).await.expect("no silence");
        assert_eq!(comment, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_begins_before_a_slow_node_has_taken_the_request_in() {
    let slow = Duration::from_secs(30);
    let text = whole(&Script::slow(hello, slow), &json!({})).await;
    assert!(text.matches(": waiting\n\n").count() >= 4, "{text}");
    assert!(text.contains("Hello,") && text.ends_with("data: [DONE]\n\n"), "{text}");
    let lost = || Err(Error::StageSilent { after: Duration::from_secs(9) });
    let text = whole(&Script::slow(lost, slow), &json!({})).await;
    assert!(text.contains(r#""code":"node_lost""#) && !text.contains("[DONE]"), "{text}");
    let got = post(&Script::slow(lost, Duration::from_secs(1)), PATH, &body(&json!({}))).await;
    assert_eq!(got.error(503)["code"], "node_lost", "what is known early has a status");
}

#[tokio::test]
async fn who_finds_the_line_full_is_told_when_to_come_back() {
    let full = || Err(Error::Overloaded { n_waiting: 32, retry_after: Duration::from_secs(17) });
    let got = post(&Script::new(full), PATH, &body(&json!({}))).await;
    assert_eq!(
        (got.error(503)["code"].clone(), got.header("retry-after")),
        (json!("overloaded"), "17")
    );
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let lost = || {
        let layers = shoal_proto::LayerRange::new(2, 4).expect("not empty");
        Ok(vec![
            text("Hel"),
            Event::Failed(Error::StageLost { node: super::script::PEER_ID, layers }),
        ])
    };
    let events = parsed(&data(lost, &json!({})).await);
    let error = &events.last().expect("events")["error"];
    let missing = json!({"node": super::script::PEER_ID.to_string(), "layers": [2, 4]});
    assert_eq!(error["missing"], missing, "{error}");
}
