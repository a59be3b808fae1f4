//! Answers that outlive their client's connection, and answers that are cancelled by their ids.

use std::time::Duration;

use axum::{
    Router,
    body::{Body, BodyDataStream},
    http::Method,
};
use futures_util::StreamExt;
use serde_json::{Value, json};
use shoal_node::{Event, FinishReason};
use tower::ServiceExt;

use super::{
    Got, app, request,
    script::{Script, finished, hello, text},
    send,
};

const PATH: &str = "/v1/chat/completions";
/// The clocks of these tests jump.
const PATIENCE: Duration = Duration::from_secs(60);

fn body(shoal: &Value) -> Value {
    let messages = json!([{"role": "user", "content": "Hi"}]);
    json!({"model": "demo", "messages": messages, "stream": true, "shoal": shoal})
}

async fn ask(app: &Router, shoal: &Value) -> BodyDataStream {
    let request = request(&Method::POST, PATH, Some(&body(shoal)));
    let response = app.clone().oneshot(request).await.expect("an answer");
    assert_eq!(response.status(), 200);
    Body::into_data_stream(response.into_body())
}

/// Reads until `expected` came.
async fn read_until(frames: &mut BodyDataStream, expected: &str) -> String {
    let mut text = String::new();
    while !text.contains(expected) {
        let frame = tokio::time::timeout(PATIENCE, frames.next()).await.expect("no silence");
        let frame = frame.expect("the stream goes on").expect("bytes");
        if !frame.starts_with(b":") {
            text.push_str(std::str::from_utf8(&frame).expect("UTF-8"));
        }
    }
    text
}

fn id_of(text: &str) -> String {
    let (_, rest) = text.split_once("\"id\":\"").expect("an id");
    rest.split_once('"').expect("its end").0.to_owned()
}

async fn again(app: &Router, id: &str, last: Option<&str>) -> Got {
    let mut request = request(&Method::GET, &format!("{PATH}/{id}/stream"), None);
    if let Some(last) = last {
        request.headers_mut().insert("last-event-id", last.parse().expect("a header"));
    }
    send(app.clone(), request).await
}

fn without_comments(text: &str) -> String {
    text.split_inclusive("\n\n").filter(|event| !event.starts_with(':')).collect()
}

#[tokio::test(start_paused = true)]
async fn a_resumed_stream_goes_on_where_it_broke_off() {
    let (script, feed) = Script::fed(|| Ok(vec![text("one"), text("two")]));
    let app = app(&script);
    let mut frames = ask(&app, &json!({"resume_s": 60})).await;
    let first = read_until(&mut frames, "one").await;
    assert!(first.starts_with("id: 0\ndata: ") && first.contains("\n\nid: 1\ndata: "), "{first}");
    let id = id_of(&first);
    drop(frames);
    feed.send(text("three")).await.expect("still drawn");
    feed.send(finished(FinishReason::Stop)).await.expect("still drawn");
    let rest = without_comments(&again(&app, &id, Some("1")).await.text);
    let all = without_comments(&again(&app, &id, None).await.text);
    assert_eq!(format!("{first}{rest}"), all, "exactly once, and the same bytes");
    assert!(
        rest.contains("two") && rest.contains("three") && rest.ends_with("[DONE]\n\n"),
        "{rest}"
    );
    assert_eq!(again(&app, &id, Some("5")).await.text, "", "it has all of it");
    again(&app, &id, Some("6")).await.error(400);
    again(&app, &id, Some("x")).await.error(400);
    assert_eq!(again(&app, "chatcmpl-0", None).await.error(404)["code"], "answer_not_found");
}

#[tokio::test(start_paused = true)]
async fn two_clients_read_one_answer() {
    let (script, feed) = Script::fed(|| Ok(vec![text("one")]));
    let app = app(&script);
    let mut frames = ask(&app, &json!({"resume_s": 60})).await;
    let begin = read_until(&mut frames, "one").await;
    let id = id_of(&begin);
    let other = again(&app, &id, None);
    let first = async {
        feed.send(text("two")).await.expect("drawn");
        feed.send(finished(FinishReason::Stop)).await.expect("drawn");
        read_until(&mut frames, "[DONE]\n\n").await
    };
    let (other, rest) = tokio::join!(other, first);
    assert_eq!(without_comments(&other.text), format!("{begin}{rest}"));
    assert_eq!(script.asked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_comes_back_for_is_dropped() {
    let script = Script::hanging(|| Ok(vec![text("Hel")]));
    let app = app(&script);
    let mut frames = ask(&app, &json!({"resume_s": 30})).await;
    let id = id_of(&read_until(&mut frames, "Hel").await);
    drop(frames);
    tokio::time::sleep(Duration::from_secs(29)).await;
    script.wait_until_running(1).await;
    let mut request = request(&Method::GET, &format!("{PATH}/{id}/stream"), None);
    request.headers_mut().insert("last-event-id", "0".parse().expect("a header"));
    let back = app.clone().oneshot(request).await.expect("an answer");
    tokio::time::sleep(Duration::from_secs(60)).await;
    script.wait_until_running(1).await;
    drop(back);
    script.wait_until_running(0).await;
    assert_eq!(again(&app, &id, None).await.error(410)["code"], "answer_gone");
}

#[tokio::test(start_paused = true)]
async fn an_ended_answer_is_kept_no_longer_than_asked_for() {
    let app = app(&Script::new(hello));
    let mut frames = ask(&app, &json!({"resume_s": 10})).await;
    let whole = read_until(&mut frames, "[DONE]\n\n").await;
    let id = id_of(&whole);
    assert_eq!(again(&app, &id, None).await.text, whole);
    tokio::time::sleep(Duration::from_secs(11)).await;
    again(&app, &id, None).await.error(410);
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_cancelled_by_its_id() {
    let script = Script::hanging(|| Ok(vec![text("Hel")]));
    let app = app(&script);
    for (shoal, method, path) in [
        (json!({}), Method::DELETE, "/v1/chat/completions/"),
        (json!({"resume_s": 9}), Method::POST, "/v1/cancel/"),
    ] {
        let mut frames = ask(&app, &shoal).await;
        let id = id_of(&read_until(&mut frames, "Hel").await);
        let path = format!("{path}{id}");
        let got = send(app.clone(), request(&method, &path, None)).await;
        assert_eq!((got.status.as_u16(), &got.json()["deleted"]), (200, &json!(true)));
        let end = read_until(&mut frames, "\"code\":\"cancelled\"").await;
        assert!(!end.contains("[DONE]"), "{end}");
        script.wait_until_running(0).await;
        drop(frames);
    }
    send(app.clone(), request(&Method::DELETE, "/v1/cancel/none", None)).await.error(405);
    send(app, request(&Method::POST, "/v1/cancel/none", None)).await.error(404);
}

#[tokio::test(start_paused = true)]
async fn without_asking_for_more_an_answer_ends_with_its_client() {
    let script = Script::hanging(|| Ok(vec![text("Hel"), Event::Healing { why: "a".into() }]));
    let app = app(&script);
    let mut frames = ask(&app, &json!({})).await;
    let first = read_until(&mut frames, "Hel").await;
    assert!(!first.contains("id: 0"), "{first}");
    let id = id_of(&first);
    assert_eq!(again(&app, &id, None).await.error(404)["code"], "answer_not_found");
    drop(frames);
    script.wait_until_running(0).await;
    send(app, request(&Method::POST, &format!("/v1/cancel/{id}"), None)).await.error(404);
}
