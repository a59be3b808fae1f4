//! Answers in one piece.

use serde_json::{Value, json};
use shoal_node::{ChatMessage, Error, Event, FinishReason, Prompt};
use shoal_proto::{LayerRange, NodeId};

use super::{
    Got, app, post, request,
    script::{Answers, Script, finished, hello, text},
    send,
};
use crate::REQUESTS_MAX;

const PATH: &str = "/v1/chat/completions";

fn body() -> Value {
    json!({"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "seed": 5})
}

async fn answered(answers: Answers) -> Got {
    post(&Script::new(answers), PATH, &body()).await
}

#[tokio::test]
async fn the_answer_is_one_object() {
    let script = Script::new(hello);
    let got = post(&script, PATH, &body()).await;
    assert_eq!(got.status, 200, "{}", got.text);
    assert_eq!(got.header("content-type"), "application/json");
    let mut answer = got.json();
    let id = answer["id"].take();
    let id = id.as_str().and_then(|id| id.strip_prefix("chatcmpl-")).expect("an id");
    assert_eq!(id.len(), 32);
    assert!(answer["created"].take().as_u64().is_some_and(|created| created > 1_700_000_000));
    let expected = json!({
        "id": null,
        "object": "chat.completion",
        "created": null,
        "model": "demo",
        "system_fingerprint": concat!("shoal-", env!("CARGO_PKG_VERSION")),
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": "Hello, wörld", "refusal": null},
            "logprobs": null,
            "finish_reason": "stop",
        }],
        "usage": {
            "prompt_tokens": 12,
            "completion_tokens": 3,
            "total_tokens": 15,
            "prompt_tokens_details": {"cached_tokens": 8},
        },
    });
    assert_eq!(answer, expected);
    let asked = script.asked();
    assert_eq!(asked[0].prompt, Prompt::Chat(vec![ChatMessage::new("user", "Hi")]));
    assert_eq!((asked[0].model.as_str(), asked[0].sampling.seed), ("demo", 5));
}

#[tokio::test]
async fn two_answers_have_two_ids_and_without_a_seed_two_seeds() {
    let script = Script::new(hello);
    let mut body = body();
    body.as_object_mut().expect("an object").remove("seed");
    let (first, second) = (post(&script, PATH, &body).await, post(&script, PATH, &body).await);
    assert_ne!(first.json()["id"], second.json()["id"]);
    let asked = script.asked();
    assert_ne!(asked[0].sampling.seed, asked[1].sampling.seed);
}

#[tokio::test]
async fn an_answer_that_is_full_says_length() {
    let got = answered(|| Ok(vec![text("Hel"), finished(FinishReason::Length)])).await;
    let answer = got.json();
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["choices"][0]["message"]["content"], "Hel");
}

#[tokio::test]
async fn an_unknown_model_is_not_found() {
    let unknown = || Err(Error::UnknownModel { name: "demo".into(), known: vec!["other".into()] });
    let got = answered(unknown).await;
    let error = got.error(404);
    assert_eq!(error["type"], "invalid_request_error");
    assert_eq!((&error["param"], &error["code"]), (&json!("model"), &json!("model_not_found")));
    assert!(error["message"].as_str().expect("text").contains("other"), "{error}");
}

#[tokio::test]
async fn a_prompt_that_does_not_fit_says_so() {
    let error = answered(|| Err(Error::ContextFull { n_prompt: 600, n_ctx: 512 })).await.error(400);
    assert_eq!(error["code"], "context_length_exceeded");
    assert_eq!(error["param"], "messages");
    assert!(error["message"].as_str().expect("text").contains("600"), "{error}");
}

#[tokio::test]
async fn a_parameter_that_the_node_refuses_is_named() {
    let refuse = || Err(Error::InvalidParameter { name: "top_k".into(), message: "odd".into() });
    let error = answered(refuse).await.error(400);
    assert_eq!((&error["param"], &error["message"]), (&json!("top_k"), &json!("top_k: odd")));
}

#[tokio::test]
async fn an_answer_that_fails_on_the_way_is_an_error_and_no_answer() {
    let lost = || {
        let layers = LayerRange::new(2, 4).expect("not empty");
        let error = Error::StageLost { node: NodeId([7; 32]), layers };
        Ok(vec![text("Hel"), Event::Failed(error)])
    };
    let got = answered(lost).await;
    let error = got.error(503);
    assert_eq!((&error["type"], &error["code"]), (&json!("server_error"), &json!("node_lost")));
    assert_eq!(got.header("retry-after"), "5");
    let broken = || Ok(vec![Event::Failed(Error::StageFailed { message: "it broke".into() })]);
    answered(broken).await.error(500);
    let error = answered(|| Ok(vec![text("Hel")])).await.error(503);
    assert_eq!(error["code"], "shutting_down");
}

#[tokio::test]
async fn one_answer_more_than_there_may_be_is_refused() {
    let script = Script::hanging(|| Ok(vec![]));
    let app = app(&script);
    let body = body();
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..REQUESTS_MAX {
        running.spawn(send(app.clone(), request(&axum::http::Method::POST, PATH, Some(&body))));
    }
    script.wait_until_running(REQUESTS_MAX).await;
    let ask = || send(app.clone(), request(&axum::http::Method::POST, PATH, Some(&body)));
    let got = ask().await;
    assert_eq!(got.error(503)["code"], "overloaded");
    assert_eq!(got.header("retry-after"), "5");
    let state = send(app.clone(), request(&axum::http::Method::GET, "/state", None)).await.json();
    assert_eq!(state["n_requests"], REQUESTS_MAX);
    running.shutdown().await;
    script.wait_until_running(0).await;
    let state = send(app.clone(), request(&axum::http::Method::GET, "/state", None)).await.json();
    assert_eq!(state["n_requests"], 0);
}
