//! A node that was opened to the local network and to another site's pages.

use std::net::SocketAddr;

use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    http::{HeaderValue, Method, Request},
};
use serde_json::json;

use super::{
    Got, request,
    script::{Script, hello},
    send,
};
use crate::Access;

const TOKEN: &str = "abcdefghijklmnop";
const HOST: &str = "192.168.1.5:52415";
const SITE: &str = "https://chat.example";
const CHAT: &str = "/v1/chat/completions";

fn app(script: &Script) -> Router {
    let access = Access {
        address: "0.0.0.0:52415".parse().expect("an address"),
        token: Some(TOKEN.to_owned()),
        names: vec!["kitchen.local".to_owned()],
        origins: vec![SITE.parse().expect("an origin")],
    };
    crate::routes(script.clone(), &access)
}

/// Asks as `peer`, with these headers in place of a program's.
async fn ask(
    script: &Script,
    peer: &str,
    method: Method,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Got {
    let body = json!({"model": "demo", "messages": [{"role": "user", "content": "Hi"}]});
    let mut request: Request<Body> =
        request(&method, path, (method == Method::POST).then_some(&body));
    for (name, value) in headers {
        request.headers_mut().insert(*name, HeaderValue::from_str(value).expect("a value"));
    }
    let peer: SocketAddr = peer.parse().expect("an address");
    request.extensions_mut().insert(ConnectInfo(peer));
    send(app(script), request).await
}

const PHONE: &str = "192.168.1.9:40000";

#[tokio::test]
async fn every_route_asks_the_network_for_the_token() {
    for (method, path) in [
        (Method::POST, "/"),
        (Method::GET, "/index.html"),
        (Method::GET, "/health"),
        (Method::GET, "/state"),
        (Method::GET, "/metrics"),
        (Method::GET, "/events"),
        (Method::GET, "/nonsense"),
        (Method::POST, CHAT),
        (Method::POST, "/invite"),
        (Method::DELETE, "/instance/1f"),
        (Method::OPTIONS, CHAT),
    ] {
        let script = Script::new(hello);
        let missing = ask(&script, PHONE, method.clone(), path, &[("host", HOST)]).await;
        assert_eq!(missing.error(401)["code"], "token_missing", "{method} {path}");
        assert_eq!(missing.header("www-authenticate"), "Bearer");
        let wrong = [("host", HOST), ("authorization", "Bearer abcdefghijklmnoq")];
        let wrong = ask(&script, PHONE, method.clone(), path, &wrong).await;
        assert_eq!(wrong.error(401)["code"], "token_wrong", "{method} {path}");
        assert!(script.asked().is_empty());
    }
}

#[tokio::test]
async fn the_page_comes_without_the_token_and_asks_for_it() {
    let script = Script::new(hello);
    let host = ("host", HOST);
    // An old token in the cookie must not keep its owner from the place where the new one is entered.
    for headers in [vec![host], vec![host, ("cookie", "shoal_token=abcdefghijklmnoq")]] {
        let page = ask(&script, PHONE, Method::GET, "/", &headers).await;
        assert_eq!(page.status, 200, "{}", page.text);
        assert!(page.text.contains("<div id=\"app\">"), "{}", page.text);
        assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
        assert!(!page.text.contains(TOKEN));
        let icon = ask(&script, PHONE, Method::HEAD, "/icon.svg", &headers).await;
        assert_eq!(icon.status, 200, "{}", icon.text);
    }
    let wrong = ask(&script, PHONE, Method::GET, "/?token=abcdefghijklmnoq", &[host]).await;
    assert_eq!(wrong.error(401)["code"], "token_wrong");
    let foreign = ask(&script, PHONE, Method::GET, "/", &[("host", "evil.example:52415")]).await;
    assert_eq!(foreign.error(403)["code"], "forbidden_host");
}

#[tokio::test]
async fn the_token_opens_in_each_of_its_forms() {
    let script = Script::new(hello);
    let (bearer, cookie) = (format!("bearer {TOKEN}"), format!("shoal_token={TOKEN}"));
    for proof in [("authorization", bearer.as_str()), ("x-api-key", TOKEN), ("cookie", &cookie)] {
        let got = ask(&script, PHONE, Method::POST, CHAT, &[("host", HOST), proof]).await;
        assert_eq!(got.status, 200, "{proof:?}: {}", got.text);
    }
    assert_eq!(script.asked().len(), 3);
    let page =
        ask(&script, PHONE, Method::GET, &format!("/?token={TOKEN}"), &[("host", HOST)]).await;
    assert_eq!((page.status.as_u16(), page.header("location")), (303, "/"));
    assert!(page.header("set-cookie").starts_with(&format!("{cookie}; Path=/; HttpOnly;")));
    let here = ask(&script, "127.0.0.1:40000", Method::GET, "/state", &[]).await;
    assert_eq!(here.status, 200, "{}", here.text);
}

#[tokio::test]
async fn the_network_addresses_the_node_by_its_address_or_name() {
    let script = Script::new(hello);
    for (host, status) in [
        (HOST, 200),
        ("kitchen.local:52415", 200),
        ("bedroom.local:52415", 403),
        ("evil.example:52415", 403),
    ] {
        // The token does not help a page that was made to look like this node's.
        let got =
            ask(&script, PHONE, Method::GET, "/state", &[("host", host), ("x-api-key", TOKEN)])
                .await;
        assert_eq!(got.status.as_u16(), status, "{host}: {}", got.text);
        if status == 403 {
            assert_eq!(got.error(403)["code"], "forbidden_host");
        }
    }
    let by_name = [("host", "kitchen.local:52415")];
    let here = ask(&script, "127.0.0.1:40000", Method::GET, "/state", &by_name).await;
    assert_eq!(here.error(401)["code"], "token_missing", "a name can be made to lead anywhere");
}

#[tokio::test]
async fn a_site_that_was_named_may_ask_with_the_token() {
    let script = Script::new(hello);
    // From this device too: the page is another site's.
    for (peer, host) in [(PHONE, HOST), ("127.0.0.1:40000", "127.0.0.1:52415")] {
        let site = [("host", host), ("origin", SITE), ("sec-fetch-site", "cross-site")];
        let mut preflight = site.to_vec();
        preflight.push(("access-control-request-method", "POST"));
        let leave = ask(&script, peer, Method::OPTIONS, CHAT, &preflight).await;
        assert_eq!(leave.status, 204, "{}", leave.text);
        assert!(leave.header("access-control-allow-methods").contains("DELETE"));
        assert!(leave.header("access-control-allow-headers").contains("authorization"));
        let missing = ask(&script, peer, Method::POST, CHAT, &site).await;
        assert_eq!(missing.error(401)["code"], "token_missing", "{peer}");
        let mut with_token = site.to_vec();
        with_token.push(("x-api-key", TOKEN));
        let answer = ask(&script, peer, Method::POST, CHAT, &with_token).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        // The page may read what it is told, refusals too.
        for got in [leave, missing, answer] {
            assert_eq!(got.header("access-control-allow-origin"), SITE);
            assert_eq!(got.header("vary"), "origin");
            assert_eq!(got.header("cross-origin-resource-policy"), "cross-origin");
        }
    }
    assert_eq!(script.asked().len(), 2);
}

#[tokio::test]
async fn a_site_that_was_not_named_gets_no_leave() {
    let script = Script::new(hello);
    for origin in
        ["https://evil.example", "http://chat.example", "https://chat.example:8443", "null"]
    {
        for method in [Method::OPTIONS, Method::POST] {
            let headers = [("host", HOST), ("origin", origin), ("x-api-key", TOKEN)];
            let got = ask(&script, PHONE, method, CHAT, &headers).await;
            assert_eq!(got.error(403)["code"], "forbidden_origin", "{origin}");
            assert!(got.headers.get("access-control-allow-origin").is_none());
        }
    }
    assert!(script.asked().is_empty());
}
