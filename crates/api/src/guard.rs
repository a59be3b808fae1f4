//! Which requests are let in. As long as only this device reaches the API it has no password: a browser is then a program on
//! this device that runs anybody's code. Opened to the local network, it asks everybody else for a token.
//!
//! Two attacks follow from browsers, and each has its rule:
//! - *DNS rebinding*: a page's own name is pointed at 127.0.0.1, so that the browser takes this node for the page's server.
//!   The `Host` header then still carries that name: only `localhost`, loopback addresses and the bound address pass, and the
//!   device's own name in the local network. That one any device nearby can point anywhere, so it never spares the token.
//! - *Cross-site requests*: a page asks this node in the user's name. Browsers say so in `Origin`, or in `Sec-Fetch-Site`
//!   where there is no `Origin`: only this node's own page passes, and the origins that the owner named. Only those get CORS
//!   headers.
//!
//! Without a token there are no other names and no other origins.
//!
//! The *token* comes as `Authorization: Bearer`, as `x-api-key`, in the page's cookie, or once as `/?token=`, which sets the cookie. It is
//! compared in constant time. Programs on this device that address it as such need none, and nor does the page there. The page's
//! files are given to everybody: they hold nothing secret, and ask for the token themselves.
//! Whoever guesses has ten tries a minute.

mod origin;

pub use origin::{Origin, OriginError};

use std::{
    collections::HashMap,
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    extract::{ConnectInfo, FromRequestParts, Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
        header::{self, Entry},
        request::Parts,
        uri::Authority,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::{error::ApiError, page};

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

/// The page's cookie that holds the token.
const COOKIE: &str = "shoal_token";
/// Wrong tokens of one address in a minute, after which it has to wait.
const GUESSES_MAX: u32 = 10;
const GUESSES_PERIOD: Duration = Duration::from_secs(60);
/// Addresses whose guesses are counted; beyond, all strangers share one count.
const GUESSERS_MAX: usize = 256;

/// Who may use the API.
#[derive(Debug, Clone)]
pub struct Access {
    /// Where the node listens.
    pub address: SocketAddr,
    /// What everybody who is not on this device has to know; `None` for a node that only this device reaches.
    pub token: Option<String>,
    /// This device's names in the local network, like `kitchen.local`, for those who know the token.
    pub names: Vec<String>,
    /// Origins whose pages may use the API from a browser if they know the token.
    pub origins: Vec<Origin>,
}

impl Access {
    /// Access for this device alone.
    pub fn local(address: SocketAddr) -> Self {
        Self { address, token: None, names: Vec::new(), origins: Vec::new() }
    }
}

/// Wrong tokens by the address that they came from, and since when they are counted.
type Guesses = HashMap<Option<IpAddr>, (u32, Instant)>;

/// What the guard knows.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    bound: IpAddr,
    /// A hash of the token, so that a comparison takes the same time wherever two differ.
    token: Option<blake3::Hash>,
    names: Arc<[String]>,
    origins: Arc<[Origin]>,
    guesses: Arc<Mutex<Guesses>>,
}

/// What is known of who sent a request that was let in. A handler may ask for it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// Whether it is a program on this device that addresses the node as such, or this node's own page there.
    pub(crate) is_here: bool,
    /// Whether it brought the token.
    knows_token: bool,
    peer: Option<IpAddr>,
}

impl Known {
    /// Whether the token tells nothing new, or nothing that a look at the disk would not.
    pub(crate) fn may_know_token(&self) -> bool {
        self.is_here || self.knows_token
    }

    /// Who it is, for people.
    pub(crate) fn name(&self) -> Option<String> {
        match self.is_here {
            true => Some("this device".to_owned()),
            false => self.peer.map(|peer| peer.to_canonical().to_string()),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Known {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        // Of a request that came around the guard nothing is known.
        Ok(parts.extensions.get().cloned().unwrap_or_default())
    }
}

/// What a request brings to prove that it may.
enum Proof {
    /// It needs none, or it is right.
    Good,
    /// It came with the page's address: the page should keep it as a cookie.
    GoodInAddress,
    Missing,
    Wrong,
}

impl Guard {
    pub(crate) fn new(access: &Access) -> Self {
        // Nobody from elsewhere is let in without a token, whatever else was said.
        let has_token = access.token.is_some();
        let (names, origins) = match has_token {
            true => (access.names.as_slice(), access.origins.as_slice()),
            false => Default::default(),
        };
        Self {
            bound: access.address.ip(),
            token: access.token.as_ref().map(|token| blake3::hash(token.as_bytes())),
            names: names.into(),
            origins: origins.into(),
            guesses: Arc::default(),
        }
    }

    /// Whether this is an origin that the owner named.
    fn is_allowed(&self, origin: &HeaderValue) -> bool {
        self.origins.iter().any(|allowed| allowed.is(origin))
    }

    fn check(&self, headers: &HeaderMap, target: Option<&Authority>) -> Result<(), ApiError> {
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
        let is_foreign =
            |origin: &&HeaderValue| !is_own_page(origin, host) && !self.is_allowed(origin);
        if let Some(origin) = headers.get_all(header::ORIGIN).iter().find(is_foreign) {
            return Err(ApiError::forbidden(
                "forbidden_origin",
                format!("origin {origin:?}: expected \"http://{host}\", the node's own page"),
            ));
        }
        let is_named = headers.get(header::ORIGIN).is_some_and(|origin| self.is_allowed(origin));
        if is_cross_site(headers) && !is_named {
            return Err(ApiError::forbidden(
                "forbidden_origin",
                "the page of another site asks: expected the node's own page",
            ));
        }
        Ok(())
    }

    /// Whether a request of `peer` proves that it may.
    fn proof(&self, request: &Request, peer: Option<IpAddr>) -> Proof {
        let Some(token) = &self.token else { return Proof::Good };
        let headers = request.headers();
        if is_here(headers, peer) {
            return Proof::Good;
        }
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let bearer = text("authorization").and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token)
        });
        let cookie = text("cookie").and_then(|cookies| {
            let mut cookies = cookies.split(';').filter_map(|cookie| cookie.trim().split_once('='));
            cookies.find(|(name, _)| *name == COOKIE).map(|(_, value)| value)
        });
        let given = bearer.or(text("x-api-key")).or(cookie).map(str::trim);
        let is_right = |given: &str| blake3::hash(given.as_bytes()) == *token;
        if given.is_some_and(is_right) {
            return Proof::Good;
        }
        let in_address = token_of(request);
        if request.uri().path() == "/" && in_address.is_some_and(is_right) {
            return Proof::GoodInAddress;
        }
        if given.or(in_address).is_some() { Proof::Wrong } else { Proof::Missing }
    }

    /// Counts a wrong token. Whether the address has guessed too often.
    fn has_guessed_too_often(&self, peer: Option<IpAddr>, is_wrong: bool, now: Instant) -> bool {
        let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        guesses.retain(|_, (_, since)| now.duration_since(*since) < GUESSES_PERIOD);
        let is_full = guesses.len() >= GUESSERS_MAX && !guesses.contains_key(&peer);
        let key = if is_full { None } else { peer };
        let n_before = guesses.get(&key).map_or(0, |(n, _)| *n);
        if is_wrong {
            guesses.entry(key).or_insert((0, now)).0 += 1;
        }
        n_before >= GUESSES_MAX
    }

    /// Whether a `Host` names this node in a way that no name server decides.
    fn is_own(&self, host: &str) -> bool {
        let Some(name) = name_of(host) else { return false };
        if is_loopback(&name) || self.names.iter().any(|own| own.eq_ignore_ascii_case(&name)) {
            return true;
        }
        let Ok(address) = name.parse::<IpAddr>() else { return false };
        // Bound to every address means opened to the network; a bare address is still nothing that can be rebound.
        self.bound.is_unspecified() || address.to_canonical() == self.bound.to_canonical()
    }
}

/// The name or address in a `Host`, without its port.
fn name_of(host: &str) -> Option<String> {
    let authority: Authority = host.parse().ok()?;
    (!host.contains('@')).then(|| authority.host().trim_matches(['[', ']']).to_owned())
}

/// Whether a name or address in a `Host` means this device to itself.
fn is_loopback(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// Whether an `Origin` is that of the page of the node that is addressed so.
fn is_own_page(origin: &HeaderValue, host: &str) -> bool {
    origin.as_bytes().eq_ignore_ascii_case(format!("http://{host}").as_bytes())
}

/// Whether a browser says that another site's page sent this, other than by a link that the user followed.
fn is_cross_site(headers: &HeaderMap) -> bool {
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match value("sec-fetch-site") {
        None | Some("same-origin" | "none") => false,
        Some(_) => value("sec-fetch-mode") != Some("navigate"),
    }
}

/// Whether a program on this device, or this node's own page on it, addresses the node as such.
fn is_here(headers: &HeaderMap, peer: Option<IpAddr>) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    peer.is_some_and(|peer| peer.to_canonical().is_loopback())
        && name_of(host).is_some_and(|name| is_loopback(&name))
        && headers.get_all(header::ORIGIN).iter().all(|origin| is_own_page(origin, host))
}

/// The token in a request's address.
fn token_of(request: &Request) -> Option<&str> {
    let query = request.uri().query()?;
    query.split('&').find_map(|pair| pair.strip_prefix("token="))
}

/// Refuses what may not, and adds the headers that every response carries.
pub(crate) async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let origin = origin.filter(|origin| guard.is_allowed(origin));
    let mut response = match guard.check(request.headers(), request.uri().authority()) {
        Err(error) => error.into_response(),
        // A browser asks whether it may before it sends anything; it never sends the token with that.
        Ok(()) if origin.is_some() && request.method() == Method::OPTIONS => {
            StatusCode::NO_CONTENT.into_response()
        }
        Ok(()) => answer(&guard, request, next).await,
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        if let Entry::Vacant(entry) = headers.entry(name) {
            entry.insert(value);
        }
    }
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        for (name, value) in CORS {
            headers.insert(name, value);
        }
    }
    response
}

/// What pages of origins that the owner named may do.
const CORS: [(HeaderName, HeaderValue); 3] = [
    (
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, POST, PATCH, DELETE, OPTIONS"),
    ),
    (
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("authorization, content-type, x-api-key"),
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("cross-origin"),
    ),
];

async fn answer(guard: &Guard, mut request: Request, next: Next) -> Response {
    if page::is_asked_for(&request) && token_of(&request).is_none() {
        return next.run(request).await;
    }
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
    let is_here = is_here(request.headers(), peer);
    let is_stranger = guard.token.is_some() && !is_here;
    let proof = guard.proof(&request, peer);
    let is_wrong = matches!(proof, Proof::Wrong);
    if is_stranger && guard.has_guessed_too_often(peer, is_wrong, Instant::now()) {
        return ApiError::too_many_guesses().into_response();
    }
    match proof {
        Proof::Good => {
            request.extensions_mut().insert(Known { is_here, knows_token: is_stranger, peer });
            next.run(request).await
        }
        Proof::GoodInAddress => keep_in_cookie(&request),
        Proof::Missing => ApiError::unauthorized("token_missing", MISSING).into_response(),
        Proof::Wrong => ApiError::unauthorized("token_wrong", "the token is wrong").into_response(),
    }
}

const MISSING: &str =
    "this node asks for its token, as `Authorization: Bearer TOKEN`: `shoal serve --lan` prints it";

/// Gives the page its cookie, and sends it to its address without the token, which nobody should see over a shoulder.
fn keep_in_cookie(request: &Request) -> Response {
    let token = token_of(request).unwrap_or_default();
    let cookie = format!("{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age=31536000");
    let Ok(cookie) = HeaderValue::from_str(&cookie) else {
        return ApiError::unauthorized("token_wrong", "the token is wrong").into_response();
    };
    let headers = [(header::SET_COOKIE, cookie), (header::LOCATION, HeaderValue::from_static("/"))];
    (StatusCode::SEE_OTHER, headers).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: &str = "127.0.0.1";

    #[track_caller]
    fn check(bound: &str, headers: &[(&'static str, &str)], expected: bool) {
        let address = SocketAddr::new(bound.parse().expect("an address"), 52415);
        let guard = Guard::new(&Access::local(address));
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
    fn the_own_name_in_the_network_passes_once_there_is_a_token() {
        let passes = |guard: &Guard, host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("host", HeaderValue::from_str(host).expect("a value"));
            guard.check(&headers, None).is_ok()
        };
        for (host, expected) in [
            ("kitchen.local:52415", true),
            ("Kitchen.Local", true),
            ("bedroom.local:52415", false),
            ("kitchen.local.evil.example", false),
            ("kitchen.example", false),
        ] {
            assert_eq!(passes(&opened(), host), expected, "{host}");
        }
        assert!(!passes(&Guard::new(&Access { token: None, ..access() }), "kitchen.local:52415"));
    }

    #[test]
    fn two_hosts_are_refused() {
        let address = SocketAddr::new(LOOPBACK.parse().expect("an address"), 52415);
        let guard = Guard::new(&Access::local(address));
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

    const TOKEN: &str = "abcdefghijklmnop";

    fn opened() -> Guard {
        Guard::new(&access())
    }

    fn access() -> Access {
        Access {
            address: "0.0.0.0:52415".parse().expect("an address"),
            token: Some(TOKEN.to_owned()),
            names: vec!["kitchen.local".to_owned()],
            origins: vec!["https://chat.example".parse().expect("an origin")],
        }
    }

    fn request(path: &str, headers: &[(&str, &str)]) -> Request {
        let mut request = Request::builder().uri(path).header("host", "192.168.1.5:52415");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(axum::body::Body::empty()).expect("a request")
    }

    #[track_caller]
    fn check_token(path: &str, headers: &[(&str, &str)], expected: &str) {
        let peer = Some(IpAddr::from([192, 168, 1, 9]));
        let got = match opened().proof(&request(path, headers), peer) {
            Proof::Good => "good",
            Proof::GoodInAddress => "address",
            Proof::Missing => "missing",
            Proof::Wrong => "wrong",
        };
        assert_eq!(got, expected, "{path} {headers:?}");
    }

    #[test]
    fn the_token_is_asked_of_everybody_else() {
        let bearer = format!("Bearer {TOKEN}");
        let cookie = format!("a=b; shoal_token={TOKEN}");
        check_token("/state", &[], "missing");
        check_token("/state", &[("authorization", &bearer)], "good");
        for scheme in ["bearer", "BEARER"] {
            let bearer = format!("{scheme} {TOKEN}");
            check_token("/state", &[("authorization", &bearer)], "good");
        }
        check_token("/state", &[("authorization", &format!("Basic {TOKEN}"))], "missing");
        check_token("/state", &[("x-api-key", TOKEN)], "good");
        check_token("/state", &[("cookie", &cookie)], "good");
        check_token("/state", &[("authorization", "Bearer abcdefghijklmno")], "wrong");
        check_token("/state", &[("authorization", TOKEN)], "missing");
        check_token("/state", &[("cookie", "shoal_token=")], "wrong");
        check_token(&format!("/?token={TOKEN}"), &[], "address");
        check_token(&format!("/state?token={TOKEN}"), &[], "wrong");
        check_token("/?token=x", &[], "wrong");
    }

    #[test]
    fn programs_on_this_device_need_no_token() {
        let here = Some(IpAddr::from([127, 0, 0, 1]));
        let is_good =
            |request: Request, peer| matches!(opened().proof(&request, peer), Proof::Good);
        let addressed = |host: &str, extra: &[(&str, &str)]| {
            let mut request = request("/state", extra);
            request.headers_mut().insert("host", HeaderValue::from_str(host).expect("a value"));
            request
        };
        assert!(is_good(addressed("127.0.0.1:52415", &[]), here));
        assert!(is_good(addressed("localhost:52415", &[]), here));
        // The network's address, another site's script, or somebody else who says that this is localhost.
        assert!(!is_good(addressed("192.168.1.5:52415", &[]), here));
        assert!(is_good(addressed("localhost", &[("origin", "http://localhost")]), here));
        assert!(!is_good(addressed("localhost", &[("origin", "https://chat.example")]), here));
        assert!(!is_good(addressed("localhost", &[]), Some(IpAddr::from([192, 168, 1, 9]))));
        assert!(!is_good(addressed("localhost", &[]), None));
        // Any device nearby can say where this name leads, and so to here.
        assert!(!is_good(addressed("kitchen.local:52415", &[]), here));
    }

    #[test]
    fn who_guesses_has_to_wait() {
        let (guard, start) = (opened(), Instant::now());
        let peer = |last| Some(IpAddr::from([192, 168, 1, last]));
        for _ in 0..GUESSES_MAX {
            assert!(!guard.has_guessed_too_often(peer(1), true, start));
        }
        assert!(guard.has_guessed_too_often(peer(1), true, start));
        assert!(!guard.has_guessed_too_often(peer(2), true, start));
        assert!(!guard.has_guessed_too_often(peer(1), true, start + GUESSES_PERIOD));
        let crowd = (0..10_000_u32).map(|ip| Some(IpAddr::from(ip.to_be_bytes())));
        crowd.for_each(|ip| {
            guard.has_guessed_too_often(ip, true, start);
        });
        assert!(guard.guesses.lock().expect("no panic").len() <= GUESSERS_MAX + 1);
    }

    #[test]
    fn only_origins_that_were_named_may_come_from_elsewhere() {
        let host = ("host", "192.168.1.5:52415");
        for (origin, expected) in [
            ("https://chat.example", true),
            ("https://CHAT.example", true),
            ("http://192.168.1.5:52415", true),
            ("http://chat.example", false),
            ("https://chat.example.evil", false),
            ("null", false),
        ] {
            let headers: HeaderMap = [host, ("origin", origin), ("sec-fetch-site", "cross-site")]
                .into_iter()
                .map(|(name, value)| {
                    (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
                })
                .collect();
            let is_own = origin.starts_with("http://192");
            // The own page is never cross-site.
            let passes = opened().check(&headers, None).is_ok();
            assert_eq!(passes, expected && !is_own, "{origin}");
            let without_token = Guard::new(&Access { token: None, ..access() });
            assert!(without_token.check(&headers, None).is_err(), "{origin}");
        }
    }
}
