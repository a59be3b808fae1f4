//! Chats that the node keeps, and answers that it writes into them.

use std::time::Duration;

use axum::{Router, http::Method};
use serde_json::{Value, json};
use shoal_node::{Event, FinishReason};
use tower::ServiceExt;

use super::{
    Got, app,
    library_routes::read_events,
    request,
    script::{OWN_ID, Script, finished, hello, text},
    send,
};

const NONE: &str = "00000000000000000000000000000000";

fn id(n: u8) -> String {
    format!("{n:032x}")
}

async fn call(app: &Router, method: Method, path: &str, body: Value) -> Got {
    let body = (!body.is_null()).then_some(&body);
    send(app.clone(), request(&method, path, body)).await
}

#[track_caller]
fn ok(got: &Got) -> Value {
    assert_eq!(got.status, 200, "{}", got.text);
    got.json()
}

/// A chat with one question.
async fn chat(app: &Router) -> String {
    let body = json!({"title": "Fish", "model": "demo", "parameters": {"top_p": 0.5}});
    let chat = ok(&call(app, Method::POST, "/chats", body).await);
    let path = format!("/chats/{}", chat["id"].as_str().expect("an id"));
    let body = json!({"id": id(1), "parent": null, "role": "user", "text": "How <b>many</b>?"});
    ok(&call(app, Method::POST, &format!("{path}/messages"), body).await);
    path
}

fn completion(path: &str, message: u8, extra: &Value) -> Value {
    let mut shoal = json!({
        "chat": path.trim_start_matches("/chats/"), "message": id(message), "parent": id(1),
    });
    shoal.as_object_mut().expect("an object").extend(extra.as_object().expect("one").clone());
    let messages = json!([{"role": "user", "content": "How many?"}]);
    json!({"model": "demo", "messages": messages, "shoal": shoal})
}

/// Reads the chat until its last message is so.
async fn wait_for_state(app: &Router, path: &str, state: &str) -> Value {
    for _ in 0..1000 {
        let chat = ok(&call(app, Method::GET, path, Value::Null).await);
        let message = chat["messages"].as_array().expect("a list").last().expect("one").clone();
        if message["meta"]["state"] == state {
            return message;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never {state}: {}", call(app, Method::GET, path, Value::Null).await.text);
}

#[tokio::test]
async fn a_chat_is_made_changed_found_and_deleted() {
    let app = app(&Script::new(hello));
    let path = chat(&app).await;
    let chat = ok(&call(&app, Method::GET, &path, Value::Null).await);
    assert_eq!(chat["title"], "Fish");
    assert_eq!(chat["parameters"], json!({"top_p": 0.5}));
    assert_eq!(chat["leaf"], json!(id(1)));
    assert_eq!(chat["origin"], json!(OWN_ID.to_string()));
    let message = &chat["messages"][0];
    assert_eq!((&message["parent"], &message["meta"]), (&json!(null), &json!({"state": "done"})));

    let change = json!({"title": "Soup", "system": "Be brief.", "leaf": null});
    let changed = ok(&call(&app, Method::PATCH, &path, change).await);
    assert_eq!((&changed["title"], &changed["leaf"]), (&json!("Soup"), &json!(null)));
    assert!(changed.get("messages").is_none() && changed["version"] != chat["version"]);
    assert_eq!(changed["model"], "demo", "what is not named stays");

    let found = ok(&call(&app, Method::GET, "/chats?query=MANY%20soup", Value::Null).await);
    assert_eq!(found["chats"][0]["snippet"], "How <b>many</b>?");
    assert_eq!((&found["n_total"], &found["next"]), (&json!(1), &json!(null)));
    let found = ok(&call(&app, Method::GET, "/chats?query=fish", Value::Null).await);
    assert_eq!(found["chats"], json!([]));

    let deleted = ok(&call(&app, Method::DELETE, &path, Value::Null).await);
    assert_eq!(deleted["deleted"], true);
    ok(&call(&app, Method::DELETE, &path, Value::Null).await);
    let gone = call(&app, Method::GET, &path, Value::Null).await.error(404);
    assert_eq!(gone["code"], "chat_not_found");
    let none = ok(&call(&app, Method::GET, "/chats", Value::Null).await);
    assert_eq!(none, json!({"chats": [], "next": null, "n_total": 0}));
}

#[tokio::test]
async fn what_does_not_fit_is_refused_by_name() {
    let app = app(&Script::new(hello));
    let path = chat(&app).await;
    let messages = format!("{path}/messages");
    let message = |id: &str, parent: Value, text: &str| json!({"id": id, "parent": parent, "role": "user", "text": text});
    let again = message(&id(1), Value::Null, "How <b>many</b>?");
    assert_eq!(ok(&call(&app, Method::POST, &messages, again).await)["id"], json!(id(1)));
    let refusals = [
        (message(&id(1), Value::Null, "other"), 409, "message_exists", Value::Null),
        (message("xyz", Value::Null, "a"), 400, "", json!("id")),
        (message(&id(2), json!(id(9)), "a"), 400, "", json!("parent")),
        (message(&id(2), Value::Null, &"x".repeat((1 << 20) + 1)), 413, "chat_full", Value::Null),
        (json!({"role": "user", "text": "a"}), 400, "", json!("parent")),
        (json!({"parent": null, "role": "tool", "text": "a"}), 400, "", json!("role")),
    ];
    for (body, status, code, param) in refusals {
        let error = call(&app, Method::POST, &messages, body).await.error(status);
        assert_eq!((error["code"].as_str().unwrap_or_default(), &error["param"]), (code, &param));
    }
    for (query, param) in [("limit=0", "limit"), ("before=x", "before")] {
        let got = call(&app, Method::GET, &format!("/chats?{query}"), Value::Null).await;
        assert_eq!(got.error(400)["param"], param);
    }
    let leaf = json!({"leaf": id(9)});
    assert_eq!(call(&app, Method::PATCH, &path, leaf).await.error(400)["param"], "leaf");
    call(&app, Method::PATCH, &path, json!({"name": "a"})).await.error(400);
    for path in [format!("/chats/{NONE}"), "/chats/x".to_owned()] {
        call(&app, Method::GET, &path, Value::Null).await.error(404);
        call(&app, Method::DELETE, &path, Value::Null).await.error(404);
    }
}

#[tokio::test]
async fn an_answer_is_written_into_its_chat() {
    let script = Script::new(hello);
    let app = app(&script);
    let path = chat(&app).await;
    let body = completion(&path, 2, &json!({}));
    let answer = ok(&call(&app, Method::POST, "/v1/chat/completions", body.clone()).await);
    let message = wait_for_state(&app, &path, "done").await;
    assert_eq!((&message["id"], &message["parent"]), (&json!(id(2)), &json!(id(1))));
    assert_eq!(message["text"], answer["choices"][0]["message"]["content"]);
    let meta = &message["meta"];
    assert_eq!(meta["completion"], answer["id"]);
    assert_eq!(meta["usage"], answer["usage"]);
    assert_eq!(
        (&meta["finish_reason"], &meta["node"]),
        (&json!("stop"), &json!(OWN_ID.to_string()))
    );
    assert_eq!(meta["devices"][1]["name"], "old-pixel");
    assert_eq!(meta["devices"][1]["layers"], json!([2, 6]));
    let chat = ok(&call(&app, Method::GET, &path, Value::Null).await);
    assert_eq!(chat["leaf"], json!(id(2)), "it is shown");

    let n_asked = script.asked().len();
    let taken = call(&app, Method::POST, "/v1/chat/completions", body).await.error(409);
    assert_eq!(taken["code"], "message_exists");
    let refused = [
        (json!({"parent": id(9)}), 400, json!("parent")),
        (json!({"chat": NONE}), 404, json!(null)),
        (json!({"message": "no"}), 400, json!("shoal.message")),
        (json!({"message": null}), 400, json!("shoal.message")),
    ];
    for (extra, status, param) in refused {
        let body = completion(&path, 3, &extra);
        let error = call(&app, Method::POST, "/v1/chat/completions", body).await.error(status);
        assert_eq!(error["param"], param);
    }
    assert_eq!(script.asked().len(), n_asked, "nothing is computed for nothing");
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_written_while_it_comes_and_without_its_client() {
    let (script, feed) = Script::fed(|| Ok(vec![text("one ")]));
    let app = app(&script);
    let path = chat(&app).await;
    let mut body = completion(&path, 2, &json!({"resume_s": 60}));
    body["stream"] = json!(true);
    let request = request(&Method::POST, "/v1/chat/completions", Some(&body));
    let response = app.clone().oneshot(request).await.expect("an answer");
    let running = wait_for_state(&app, &path, "running").await;
    drop(response);
    let pause = Duration::from_millis(1500);
    feed.send(Event::Healing { why: "a".into() }).await.expect("drawn");
    feed.send(Event::Resumed { pause, n_recomputed: 3 }).await.expect("drawn");
    feed.send(text("two")).await.expect("drawn");
    let mut grown = running;
    while grown["text"] != "one two" {
        tokio::time::sleep(Duration::from_millis(100)).await;
        grown = wait_for_state(&app, &path, "running").await;
    }
    feed.send(finished(FinishReason::Length)).await.expect("drawn");
    let done = wait_for_state(&app, &path, "done").await;
    assert_eq!(done["text"], "one two");
    assert_eq!((&done["meta"]["n_healed"], &done["meta"]["healed_ms"]), (&json!(1), &json!(1500)));
    assert_eq!(done["meta"]["completion"], grown["meta"]["completion"], "whoever reloads attaches");
    let id = done["meta"]["completion"].as_str().expect("an id");
    let stream = format!("/v1/chat/completions/{id}/stream");
    let again = call(&app, Method::GET, &stream, Value::Null).await;
    assert!(again.text.contains("two"));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_has_no_end_says_why() {
    let cut = || Ok(vec![text("Hel")]);
    for (script, state) in [(Script::hanging(cut), "stopped"), (Script::new(cut), "interrupted")] {
        let app = app(&script);
        let path = chat(&app).await;
        let mut body = completion(&path, 2, &json!({}));
        body["stream"] = json!(true);
        let request = request(&Method::POST, "/v1/chat/completions", Some(&body));
        let mut frames =
            app.clone().oneshot(request).await.expect("an answer").into_body().into_data_stream();
        let mut seen = String::new();
        while !seen.contains("Hel") {
            let frame = futures_util::StreamExt::next(&mut frames).await.expect("more");
            seen.push_str(std::str::from_utf8(&frame.expect("bytes")).expect("UTF-8"));
        }
        if state == "interrupted" {
            while futures_util::StreamExt::next(&mut frames).await.is_some() {}
        }
        drop(frames);
        let message = wait_for_state(&app, &path, state).await;
        assert_eq!(message["text"], "Hel");
    }
}

#[tokio::test]
async fn what_is_exported_is_imported() {
    let here = app(&Script::new(hello));
    let path = chat(&here).await;
    let body = completion(&path, 2, &json!({}));
    ok(&call(&here, Method::POST, "/v1/chat/completions", body).await);
    wait_for_state(&here, &path, "done").await;
    let all = call(&here, Method::GET, "/chats/export", Value::Null).await;
    assert!(all.header("content-disposition").contains("shoal-chats.json"));
    let one = call(&here, Method::GET, &format!("{path}/export"), Value::Null).await;
    assert_eq!(all.json()["chats"], one.json()["chats"]);
    let there = app(&Script::new(hello));
    for (n, file) in [all.json(), one.json(), all.json()["chats"][0].clone()].iter().enumerate() {
        let done = ok(&call(&there, Method::POST, "/chats/import", file.clone()).await);
        assert_eq!(done["imported"][0]["is_merged"], n > 0, "{done}");
        assert_eq!(done["refused"], json!([]));
        let came = ok(&call(&there, Method::GET, &path, Value::Null).await);
        assert_eq!(came["messages"], all.json()["chats"][0]["messages"]);
        assert_eq!(came["leaf"], all.json()["chats"][0]["leaf"]);
    }
    let markdown = call(&here, Method::GET, &format!("{path}/export?format=md"), Value::Null).await;
    let expected = "# Fish\n\n## User\n\nHow <b>many</b>?\n\n## Assistant\n\nHello, wörld\n";
    assert_eq!(markdown.text, expected);
    assert_eq!(markdown.header("content-type"), "text/markdown; charset=utf-8");

    let file = json!({"chats": [{"title": 1}, all.json()["chats"][0]]});
    let done = ok(&call(&there, Method::POST, "/chats/import", file).await);
    assert_eq!(
        (&done["refused"][0]["index"], done["imported"].as_array().map(Vec::len)),
        (&json!(0), Some(1))
    );
    call(&there, Method::POST, "/chats/import", json!({"a": 1})).await.error(400);
    let empty = app(&Script::new(hello));
    let none = call(&empty, Method::GET, "/chats/export", Value::Null).await;
    assert_eq!(none.json()["chats"], json!([]));
}

#[tokio::test]
async fn a_large_file_is_taken_in_and_a_larger_one_refused() {
    let app = app(&Script::new(hello));
    let message =
        |n: u8| json!({"id": id(n), "parent": null, "role": "user", "text": "x".repeat(1 << 20)});
    let messages: Vec<Value> = (0..6).map(message).collect();
    let file = json!({"title": "t", "messages": messages});
    let done = ok(&call(&app, Method::POST, "/chats/import", file).await);
    assert_eq!(done["imported"][0]["title"], "t");
    let file = json!({"title": "x".repeat(33 << 20), "messages": []});
    call(&app, Method::POST, "/chats/import", file).await.error(413);
}

#[tokio::test(start_paused = true)]
async fn an_event_tells_which_chats_have_changed() {
    let app = app(&Script::new(hello));
    let request = request(&Method::GET, "/events?only=chats", None);
    let response = app.clone().oneshot(request).await.expect("infallible");
    let changes = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        chat(&app).await
    };
    let (events, path) = tokio::join!(read_events(response.into_body(), 2), changes);
    assert_eq!(events[0], ("chats".to_owned(), json!({"version": 0, "changed": null})));
    let (name, data) = &events[1];
    let changed = &data["changed"][0];
    assert_eq!((name.as_str(), changed["title"].as_str()), ("chats", Some("Fish")));
    assert_eq!(changed["is_deleted"], false);
    assert_eq!(format!("/chats/{}", changed["id"].as_str().expect("an id")), path);
}
