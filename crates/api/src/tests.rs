//! The whole router against a scripted node: every route, every refusal, and what happens when a client goes away.

mod board_routes;
mod chats;
mod cluster_routes;
mod completions;
mod connections;
mod library_routes;
mod numbers;
mod opened;
mod refusals;
mod resumed;
mod script;
mod streams;

use std::net::SocketAddr;

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use serde_json::Value;
use tower::ServiceExt;

use self::script::Script;

const ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 52415);
/// More than any answer of a test has.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// What came back.
#[derive(Debug)]
struct Got {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Got {
    #[track_caller]
    fn json(&self) -> Value {
        match serde_json::from_str(&self.text) {
            Ok(json) => json,
            Err(error) => panic!("{error}: {}", self.text),
        }
    }

    /// The error object of a refusal, after a check of the parts that every error has.
    #[track_caller]
    fn error(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        let mut body = self.json();
        let error = body["error"].take();
        for field in ["message", "type", "param", "code"] {
            assert!(error.get(field).is_some(), "{field} is missing: {}", self.text);
        }
        assert!(error["message"].is_string(), "{}", self.text);
        error
    }

    #[track_caller]
    fn header(&self, name: &str) -> &str {
        match self.headers.get(name) {
            Some(value) => value.to_str().expect("a plain header"),
            None => panic!("no header {name}: {:?}", self.headers),
        }
    }
}

fn app(script: &Script) -> Router {
    crate::routes(script.clone(), &crate::Access::local(ADDRESS))
}

/// A request as the command line sends it.
fn request(method: &Method, path: &str, body: Option<&Value>) -> Request<Body> {
    let request =
        Request::builder().method(method).uri(path).header(header::HOST, ADDRESS.to_string());
    let request = match body {
        Some(body) => request
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body.to_string())),
        None => request.body(Body::empty()),
    };
    request.expect("well-formed")
}

async fn send(app: Router, request: Request<Body>) -> Got {
    let response = match app.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, ANSWER_BYTES_MAX).await.expect("a whole body");
    let text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
    Got { status: parts.status, headers: parts.headers, text }
}

async fn get(script: &Script, path: &str) -> Got {
    send(app(script), request(&Method::GET, path, None)).await
}

async fn post(script: &Script, path: &str, body: &Value) -> Got {
    send(app(script), request(&Method::POST, path, Some(body))).await
}
