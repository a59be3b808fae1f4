//! Which requests are let in. The API has no password: what protects it is that only programs on this device reach it, and
//! a browser is a program on this device that runs anybody's code.
//!
//! Two attacks follow, and each has its rule:
//! - *DNS rebinding*: a page's own name is pointed at 127.0.0.1, so that the browser takes this node for the page's server.
//!   The `Host` header then still carries that name: only `localhost`, loopback addresses and the bound address pass.
//! - *Cross-site requests*: a page asks this node in the user's name. Browsers say so in `Origin`, or in `Sec-Fetch-Site`
//!   where there is no `Origin`: only this node's own page passes. No CORS header is ever sent.

use std::net::IpAddr;

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue,
        header::{self, Entry},
        uri::Authority,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::error::ApiError;

/// Headers of every response; a handler may set its own instead.
const HEADERS: [(HeaderName, HeaderValue); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
    ),
];

/// What the guard knows: where the node listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guard {
    bound: IpAddr,
}

impl Guard {
    pub(crate) fn new(bound: IpAddr) -> Self {
        Self { bound }
    }

    fn check(self, headers: &HeaderMap, target: Option<&Authority>) -> Result<(), ApiError> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let host = hosts.next().and_then(|host| host.to_str().ok()).unwrap_or_default();
        let target_passes = target.is_none_or(|target| self.is_own(target.as_str()));
        if hosts.next().is_some() || !self.is_own(host) || !target_passes {
            return Err(ApiError::forbidden(
                "forbidden_host",
                format!(
                    "host {host:?}: expected localhost or the address that the node listens on"
                ),
            ));
        }
        let own = format!("http://{host}");
        let is_foreign =
            |origin: &&HeaderValue| !origin.as_bytes().eq_ignore_ascii_case(own.as_bytes());
        if let Some(origin) = headers.get_all(header::ORIGIN).iter().find(is_foreign) {
            return Err(ApiError::forbidden(
                "forbidden_origin",
                format!("origin {origin:?}: expected {own:?}, the node's own page"),
            ));
        }
        if is_cross_site(headers) {
            return Err(ApiError::forbidden(
                "forbidden_origin",
                "the page of another site asks: expected the node's own page",
            ));
        }
        Ok(())
    }

    /// Whether a `Host` names this node in a way that no name server decides.
    fn is_own(self, host: &str) -> bool {
        let Ok(authority) = host.parse::<Authority>() else { return false };
        if host.contains('@') {
            return false;
        }
        let name = authority.host();
        if name.eq_ignore_ascii_case("localhost") {
            return true;
        }
        let Ok(address) = name.trim_matches(['[', ']']).parse::<IpAddr>() else { return false };
        let address = address.to_canonical();
        // Bound to every address means opened to the network; a bare address is still nothing that can be rebound.
        address.is_loopback() || self.bound.is_unspecified() || address == self.bound.to_canonical()
    }
}

/// Whether a browser says that another site's page sent this, other than by a link that the user followed.
fn is_cross_site(headers: &HeaderMap) -> bool {
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match value("sec-fetch-site") {
        None | Some("same-origin" | "none") => false,
        Some(_) => value("sec-fetch-mode") != Some("navigate"),
    }
}

/// Refuses what does not come from here, and adds the headers that every response carries.
pub(crate) async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let mut response = match guard.check(request.headers(), request.uri().authority()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    for (name, value) in HEADERS {
        if let Entry::Vacant(entry) = response.headers_mut().entry(name) {
            entry.insert(value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: &str = "127.0.0.1";

    #[track_caller]
    fn check(bound: &str, headers: &[(&'static str, &str)], expected: bool) {
        let guard = Guard::new(bound.parse().expect("an address"));
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| {
                (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
            })
            .collect();
        assert_eq!(guard.check(&headers, None).is_ok(), expected, "{bound} {headers:?}");
    }

    #[test]
    fn the_node_is_addressed_by_localhost_or_an_address() {
        for host in ["localhost", "LOCALHOST:52415", "127.0.0.1:52415", "127.9.9.9", "[::1]:80"] {
            check(LOOPBACK, &[("host", host)], true);
        }
        check("192.168.1.5", &[("host", "192.168.1.5:52415")], true);
        check("0.0.0.0", &[("host", "192.168.1.5:52415")], true);
        check("::", &[("host", "192.168.1.5:52415")], true);
    }

    #[test]
    fn a_name_that_was_rebound_is_refused() {
        for host in [
            "evil.example",
            "evil.example:52415",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "localhost@evil.example",
            "evil.example@localhost",
            "192.168.1.5",
            "[::ffff:10.0.0.1]",
            "",
            "local host",
        ] {
            check(LOOPBACK, &[("host", host)], false);
        }
        check("0.0.0.0", &[("host", "evil.example")], false);
        check(LOOPBACK, &[], false);
    }

    #[test]
    fn two_hosts_are_refused() {
        let guard = Guard::new(LOOPBACK.parse().expect("an address"));
        let mut headers = HeaderMap::new();
        headers.append(header::HOST, HeaderValue::from_static("localhost"));
        headers.append(header::HOST, HeaderValue::from_static("evil.example"));
        assert!(guard.check(&headers, None).is_err());
        let mut headers = HeaderMap::new();
        headers.append(header::HOST, HeaderValue::from_static("localhost"));
        let target = Authority::from_static("evil.example");
        assert!(guard.check(&headers, Some(&target)).is_err(), "the request line counts too");
    }

    #[test]
    fn only_the_own_page_may_ask() {
        let host = ("host", "127.0.0.1:52415");
        check(LOOPBACK, &[host, ("origin", "http://127.0.0.1:52415")], true);
        for origin in [
            "http://127.0.0.1:8080",
            "https://127.0.0.1:52415",
            "http://localhost:52415",
            "http://evil.example",
            "null",
            "",
        ] {
            check(LOOPBACK, &[host, ("origin", origin)], false);
        }
    }

    #[test]
    fn a_request_of_another_site_without_an_origin_is_refused() {
        let host = ("host", "localhost:52415");
        for site in ["same-origin", "none"] {
            check(LOOPBACK, &[host, ("sec-fetch-site", site)], true);
        }
        for site in ["cross-site", "same-site"] {
            check(LOOPBACK, &[host, ("sec-fetch-site", site)], false);
            let image = [host, ("sec-fetch-site", site), ("sec-fetch-mode", "no-cors")];
            check(LOOPBACK, &image, false);
            let link = [host, ("sec-fetch-site", site), ("sec-fetch-mode", "navigate")];
            check(LOOPBACK, &link, true);
        }
    }
}
