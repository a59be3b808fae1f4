//! Requests that are not let in, or make no sense before anything is asked of the node.

use axum::{
    body::Body,
    http::{Method, Request},
};
use serde_json::json;

use super::{
    ADDRESS, app, get, post, request,
    script::{Script, hello},
    send,
};
use crate::BODY_BYTES_MAX;

const PATH: &str = "/v1/chat/completions";

fn script() -> Script {
    Script::new(hello)
}

#[tokio::test]
async fn unknown_routes_and_methods_have_the_shape_of_errors() {
    let error = get(&script(), "/v1/nonsense").await.error(404);
    assert_eq!(error["code"], "unknown_url");
    assert_eq!(error["message"], "unknown route: GET /v1/nonsense");
    let got = get(&script(), PATH).await;
    assert_eq!(got.error(405)["code"], "method_not_allowed");
    assert_eq!(got.header("allow"), "POST");
}

#[tokio::test]
async fn only_json_is_read() {
    let body = json!({"model": "demo", "messages": [{"role": "user", "content": "Hi"}]});
    let ask = |content_type: Option<&str>| {
        let mut request = Request::post(PATH).header("host", ADDRESS.to_string());
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        send(app(&script()), request.body(Body::from(body.to_string())).expect("well-formed"))
    };
    // What a form on another page could send without asking.
    for content_type in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")] {
        assert_eq!(ask(content_type).await.error(415)["code"], "unsupported_content_type");
    }
    assert_eq!(ask(Some("Application/JSON; charset=utf-8")).await.status, 200);
}

#[tokio::test]
async fn a_body_that_makes_no_sense_is_told_why() {
    let error = post(&script(), PATH, &json!([1, 2])).await.error(400);
    assert_eq!(error["type"], "invalid_request_error");
    let messages = json!([{"role": "user", "content": "Hi"}, {"role": "user"}]);
    let error = post(&script(), PATH, &json!({"model": "demo", "messages": messages})).await;
    assert_eq!(error.error(400)["param"], "messages[1].content");
    let mut request = request(&Method::POST, PATH, Some(&json!({})));
    *request.body_mut() = Body::from("{\"model\": \"demo\"");
    let error = send(app(&script()), request).await.error(400);
    assert!(error["message"].as_str().expect("text").contains("line 1 column 16"), "{error}");
}

#[tokio::test]
async fn a_body_without_end_is_not_read_to_its_end() {
    let content = "x".repeat(BODY_BYTES_MAX);
    let messages = json!([{"role": "user", "content": content}]);
    let got = post(&script(), PATH, &json!({"model": "demo", "messages": messages})).await;
    assert_eq!(got.error(413)["code"], "body_too_large");
    let content = "x".repeat(BODY_BYTES_MAX - 100);
    let messages = json!([{"role": "user", "content": content}]);
    let got = post(&script(), PATH, &json!({"model": "demo", "messages": messages})).await;
    assert_eq!(got.status, 200);
}

#[tokio::test]
async fn strangers_are_refused_on_every_route() {
    for path in ["/", "/index.js", "/state", "/v1/models", "/nonsense"] {
        let rebound = Request::get(path).header("host", "evil.example:52415");
        let got = send(app(&script()), rebound.body(Body::empty()).expect("well-formed")).await;
        assert_eq!(got.error(403)["code"], "forbidden_host", "{path}");
    }
    for (method, path) in [(Method::POST, PATH), (Method::POST, "/invite"), (Method::GET, "/state")]
    {
        let mut foreign = request(&method, path, Some(&json!({})));
        foreign.headers_mut().insert("origin", "http://evil.example".parse().expect("a value"));
        let script = script();
        let got = send(app(&script), foreign).await;
        assert_eq!(got.error(403)["code"], "forbidden_origin", "{path}");
        assert!(script.asked().is_empty());
    }
}

#[tokio::test]
async fn a_browser_gets_no_leave_to_read_across_sites() {
    let mut preflight = request(&Method::OPTIONS, PATH, None);
    let headers = preflight.headers_mut();
    headers.insert("origin", "http://evil.example".parse().expect("a value"));
    headers.insert("access-control-request-method", "POST".parse().expect("a value"));
    let preflight = send(app(&script()), preflight).await;
    preflight.error(403);
    let own = get(&script(), "/state").await;
    for got in [preflight, own] {
        let mut names = got.headers.keys().map(axum::http::HeaderName::as_str);
        assert!(!names.any(|name| name.starts_with("access-control")), "{:?}", got.headers);
        assert_eq!(got.header("cross-origin-resource-policy"), "same-origin");
        assert_eq!(got.header("x-content-type-options"), "nosniff");
        assert_eq!(
            got.header("content-security-policy"),
            "default-src 'none'; frame-ancestors 'none'"
        );
    }
}
