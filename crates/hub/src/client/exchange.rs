//! A request with its redirects, and what the answer's status means.

use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use reqwest::{
    Method, Response, StatusCode,
    header::{ACCEPT_ENCODING, DATE, HeaderMap, LOCATION, RANGE, RETRY_AFTER},
};
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use url::Url;

use super::{
    Inner,
    error::{HubError, Unreachable, host_of, shortened, shown},
    http::is_loopback,
    retry::Attempts,
};

/// Most redirects that are followed: a renamed repository, the CDN, and some to spare.
const REDIRECTS_MAX: usize = 5;
/// Largest answer that is parsed. A page of a listing is a thousand files of some three hundred bytes.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// What a request is about, which decides what a refusal means.
#[derive(Debug, Clone, Copy)]
pub(super) enum Subject<'a> {
    Repo { repo: &'a str, revision: &'a str },
    File { repo: &'a str, commit: &'a str, path: &'a str },
    Search,
    Url,
}

/// The end of a chain of redirects.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) response: Response,
    /// Who gave it.
    pub(super) url: Url,
    /// What the hub said of the file on the way.
    pub(super) linked: Linked,
}

/// What the hub says of a file before it sends us to where its bytes are.
#[derive(Debug, Default)]
pub(super) struct Linked {
    pub(super) commit: Option<String>,
    pub(super) etag: Option<String>,
    pub(super) n_bytes: Option<u64>,
    /// The hub's clock, by which signatures expire.
    pub(super) date: Option<SystemTime>,
}

impl Linked {
    fn read(&mut self, headers: &HeaderMap) {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let etag = |value: &str| value.trim_start_matches("W/").trim_matches('"').to_owned();
        self.commit = self.commit.take().or_else(|| text("x-repo-commit").map(str::to_owned));
        self.etag = self.etag.take().or_else(|| text("x-linked-etag").map(etag));
        self.n_bytes = self.n_bytes.or_else(|| text("x-linked-size")?.parse().ok());
        self.date = text(DATE.as_str()).and_then(|date| httpdate::parse_http_date(date).ok());
    }

    /// The file's SHA-256, if the tag is one: of files in large-file storage.
    pub(super) fn sha256(&self) -> Option<[u8; 32]> {
        parse_sha256(self.etag.as_deref()?)
    }
}

/// Reads 64 hexadecimal digits.
pub(super) fn parse_sha256(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in digest.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |at: usize| char::from(digits[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Some(digest)
}

impl Inner {
    /// Whether a URL is one of the hub's: only there the token goes, and only from there what is said of files is believed.
    pub(super) fn is_hub(&self, url: &Url) -> bool {
        url.origin() == self.endpoint_url.origin()
    }

    /// Makes one request and follows its redirects. The status is not looked at.
    pub(super) async fn follow(
        &self,
        method: Method,
        url: &Url,
        range: Option<&str>,
    ) -> Result<Answer, HubError> {
        let mut linked = Linked::default();
        let mut at = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let response = self.send(method.clone(), &at, range).await?;
            if self.is_hub(&at) {
                linked.read(response.headers());
            }
            let Some(to) = redirect(&at, &response)? else {
                return Ok(Answer { response, url: at, linked });
            };
            tracing::debug!(from = shown(&at), to = shown(&to), "redirected");
            at = to;
        }
        Err(HubError::TooManyRedirects { url: shown(url), limit: REDIRECTS_MAX })
    }

    async fn send(
        &self,
        method: Method,
        url: &Url,
        range: Option<&str>,
    ) -> Result<Response, HubError> {
        let mut request =
            self.http.for_url(url).request(method, url.clone()).header(ACCEPT_ENCODING, "identity");
        if let Some(range) = range {
            request = request.header(RANGE, range);
        }
        if let Some(token) = self.token.as_ref().filter(|_| self.is_hub(url)) {
            request = request.bearer_auth(token.secret());
        }
        let host = || host_of(url);
        match timeout(self.timing.connect + self.timing.first_byte, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(HubError::Unreachable {
                host: host(),
                why: Unreachable::of(&error),
                source: Some(error.without_url()),
            }),
            Err(_) => {
                Err(HubError::Unreachable { host: host(), why: Unreachable::Timeout, source: None })
            }
        }
    }

    /// What an answer without success means.
    pub(super) fn refusal(&self, answer: &Answer, subject: Subject<'_>) -> HubError {
        let (status, headers) = (answer.response.status(), answer.response.headers());
        if status == StatusCode::TOO_MANY_REQUESTS {
            let retry_after = retry_after(headers).or_else(|| window(headers));
            return HubError::RateLimited { host: host_of(&answer.url), retry_after };
        }
        if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT {
            let retry_after = retry_after(headers);
            return HubError::Server { url: shown(&answer.url), status, retry_after };
        }
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        self.known_refusal(answer, subject, text("x-error-code")).unwrap_or_else(|| {
            let message = text("x-error-message").map(shortened);
            HubError::Status { url: shown(&answer.url), status, message }
        })
    }

    /// The refusals that the hub has codes for; without a code, what the status means of a repository.
    fn known_refusal(
        &self,
        answer: &Answer,
        subject: Subject<'_>,
        code: Option<&str>,
    ) -> Option<HubError> {
        if !self.is_hub(&answer.url) {
            return None;
        }
        let (endpoint, token_sent) = (self.endpoint.clone(), self.token.is_some());
        let (repo, revision, path) = match subject {
            Subject::Repo { repo, revision } => (repo.to_owned(), revision, None),
            Subject::File { repo, commit, path } => (repo.to_owned(), commit, Some(path)),
            Subject::Search | Subject::Url => {
                let is_refused = answer.response.status() == StatusCode::UNAUTHORIZED && token_sent;
                return is_refused.then_some(HubError::TokenRefused { endpoint });
            }
        };
        let file_not_found = |path: &str| HubError::FileNotFound {
            repo: repo.clone(),
            commit: revision.to_owned(),
            path: path.to_owned(),
        };
        match (code, answer.response.status(), path) {
            (Some("GatedRepo"), ..) => Some(HubError::Gated { repo, endpoint, token_sent }),
            (Some("RevisionNotFound"), ..) => {
                Some(HubError::RevisionNotFound { repo, revision: revision.to_owned() })
            }
            (Some("EntryNotFound"), _, Some(path)) | (None, StatusCode::NOT_FOUND, Some(path)) => {
                Some(file_not_found(path))
            }
            // Without a valid token the hub does not tell a private repository from one that is not there.
            (Some("RepoNotFound"), ..) | (None, StatusCode::NOT_FOUND, None) => {
                Some(HubError::RepoNotFound { repo, endpoint, token_sent })
            }
            (None, StatusCode::UNAUTHORIZED, _) if token_sent => {
                Some(HubError::TokenRefused { endpoint })
            }
            (None, StatusCode::UNAUTHORIZED, _) => {
                Some(HubError::RepoNotFound { repo, endpoint, token_sent })
            }
            _ => None,
        }
    }

    /// Gets an answer and parses it, asking again as long as that may help.
    pub(super) async fn get_json<T: DeserializeOwned>(
        &self,
        url: &Url,
        subject: Subject<'_>,
    ) -> Result<(T, HeaderMap), HubError> {
        let mut attempts = Attempts::new(&self.timing);
        loop {
            match self.get_json_once(url, subject).await {
                Ok(parsed) => return Ok(parsed),
                Err(error) => attempts.pause(error).await?,
            }
        }
    }

    async fn get_json_once<T: DeserializeOwned>(
        &self,
        url: &Url,
        subject: Subject<'_>,
    ) -> Result<(T, HeaderMap), HubError> {
        let answer = self.follow(Method::GET, url, None).await?;
        if answer.response.status() != StatusCode::OK {
            return Err(self.refusal(&answer, subject));
        }
        let headers = answer.response.headers().clone();
        let body = self.read_whole(answer).await?;
        let mut json = serde_json::Deserializer::from_slice(&body);
        let parsed = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let (at, reason) = (error.path().to_string(), error.inner().to_string());
            HubError::Unexpected {
                url: shown(url),
                what: "JSON",
                reason: shortened(&format!("at {at}: {reason}")),
            }
        })?;
        Ok((parsed, headers))
    }

    /// Reads a body that is parsed afterwards.
    async fn read_whole(&self, answer: Answer) -> Result<BytesMut, HubError> {
        let Answer { mut response, url, .. } = answer;
        let mut body = BytesMut::new();
        let too_large = || HubError::TooLarge {
            url: shown(&url),
            limit: ANSWER_BYTES_MAX as u64,
            unit: "bytes",
        };
        let n_announced = response.content_length().unwrap_or(0);
        if n_announced > ANSWER_BYTES_MAX as u64 {
            return Err(too_large());
        }
        let reading = async {
            loop {
                let chunk = timeout(self.timing.stall, response.chunk()).await;
                let got = body.len() as u64;
                match chunk {
                    Ok(Ok(None)) => return Ok(()),
                    Ok(Ok(Some(chunk))) if body.len() + chunk.len() > ANSWER_BYTES_MAX => {
                        return Err(too_large());
                    }
                    Ok(Ok(Some(chunk))) => body.extend_from_slice(&chunk),
                    Ok(Err(source)) => {
                        let (host, source) = (host_of(&url), source.without_url());
                        return Err(HubError::Broken { host, got, source });
                    }
                    Err(_) => {
                        return Err(HubError::Stalled {
                            host: host_of(&url),
                            after: self.timing.stall,
                            expected: n_announced,
                            got,
                        });
                    }
                }
            }
        };
        match timeout(self.timing.answer, reading).await {
            Ok(read) => read.map(|()| body),
            Err(_) => Err(HubError::Unreachable {
                host: host_of(&url),
                why: Unreachable::Timeout,
                source: None,
            }),
        }
    }
}

/// Where an answer sends us, if it does.
fn redirect(from: &Url, response: &Response) -> Result<Option<Url>, HubError> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    target(from, location).map(Some)
}

fn target(from: &Url, location: Option<&str>) -> Result<Url, HubError> {
    let to = location.and_then(|location| from.join(location).ok());
    let Some(to) = to.filter(|to| matches!(to.scheme(), "http" | "https")) else {
        return Err(HubError::Unexpected {
            url: shown(from),
            what: "Location",
            reason: "expected an http or https URL to be redirected to".to_owned(),
        });
    };
    if from.scheme() == "https" && to.scheme() == "http" && !is_loopback(&to) {
        return Err(HubError::InsecureRedirect { from: shown(from), to: shown(&to) });
    }
    Ok(to)
}

/// How long the server says to wait: seconds, or a date by its own clock.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(text).ok()?;
    let date = headers.get(DATE).and_then(|date| date.to_str().ok());
    let now = date.and_then(|date| httpdate::parse_http_date(date).ok());
    Some(at.duration_since(now.unwrap_or_else(SystemTime::now)).unwrap_or_default())
}

/// When the hub's window of requests ends: `RateLimit: "api";r=0;t=244`, with `t` in seconds
/// (draft-ietf-httpapi-ratelimit-headers).
fn window(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("ratelimit")?.to_str().ok()?;
    let seconds = text.split([';', ',']).find_map(|part| part.trim().strip_prefix("t="))?;
    seconds.parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let parse = |(name, value): &(&'static str, &'static str)| {
            (
                name.parse::<reqwest::header::HeaderName>().expect("a name"),
                value.parse().expect("a value"),
            )
        };
        pairs.iter().map(parse).collect()
    }

    #[test]
    fn waits_are_seconds_or_dates_by_the_servers_clock() {
        let wait = |pairs: &[(&'static str, &'static str)]| retry_after(&headers(pairs));
        let date = "Mon, 01 Jun 2026 10:00:30 GMT";
        assert_eq!(wait(&[("retry-after", "7")]), Some(Duration::from_secs(7)));
        assert_eq!(
            wait(&[("retry-after", date), ("date", "Mon, 01 Jun 2026 10:00:00 GMT")]),
            Some(Duration::from_secs(30))
        );
        assert_eq!(
            wait(&[("retry-after", date), ("date", "Mon, 01 Jun 2026 11:00:00 GMT")]),
            Some(Duration::ZERO)
        );
        assert_eq!(wait(&[("retry-after", "soon")]), None);
        let limit = |text| window(&headers(&[("ratelimit", text)]));
        assert_eq!(limit("\"api\";r=0;t=244"), Some(Duration::from_secs(244)));
        assert_eq!(limit("\"api\";r=0;t=x"), None);
    }

    #[test]
    fn redirects_do_not_give_up_encryption() {
        let to = |from: &str, to| target(&from.parse().expect("a URL"), Some(to));
        let hub = "https://hub.example/a/b";
        for good in ["https://cdn.example/x", "/c", "http://127.0.0.1:80/x", "http://[::1]/x"] {
            assert!(to(hub, good).is_ok(), "{good}");
        }
        assert!(to("http://hub.lan/", "http://cdn.lan/").is_ok());
        let error = to(hub, "http://cdn.example/x?secret").expect_err("no encryption");
        assert!(matches!(error, HubError::InsecureRedirect { .. }), "{error}");
        assert!(!error.to_string().contains("secret"));
    }

    #[test]
    fn a_sha256_is_64_hexadecimal_digits() {
        assert_eq!(parse_sha256(&"aB".repeat(32)), Some([0xab; 32]));
        for bad in ["", "ab", &"g".repeat(64), &"é".repeat(32), &"a".repeat(65), &"+f".repeat(32)]
        {
            assert_eq!(parse_sha256(bad), None, "{bad}");
        }
    }
}
