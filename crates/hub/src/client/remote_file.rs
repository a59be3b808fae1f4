//! A file on a server, read in ranges.
//!
//! The hub answers a request for a large file by a redirect to its CDN, with a signature that holds for some time. The signed
//! URL is kept and shared by all clones, since asking the hub each time counts against its limit of requests:
//!
//! ```text
//! Unknown ── one asks the hub, the others wait ──► Signed ── CDN says 403, or time is up ──► Unknown
//!        └── no redirect to another server ──► Direct
//! ```

use std::{
    fmt,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use reqwest::{
    Method, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, HeaderMap},
};
use shoal_proto::model::{Digest, FileId, FileOrigin};
use tokio::{sync::Semaphore, time::Instant};
use url::Url;

use super::{
    Inner,
    body::RangeBody,
    error::{HubError, host_of, shown},
    exchange::{Answer, Subject},
    name::{check_file_path, check_repo, check_revision, parse_url, url_below},
    probe::{origin_digest, strong_etag},
    retry::Attempts,
};

/// How long before its end a signature is no longer used: a request takes a moment to arrive.
const SIGNATURE_MARGIN: Duration = Duration::from_secs(5);

/// A file that ranges can be read of. Clones share what was learnt of where its bytes are.
#[derive(Clone)]
pub struct RemoteFile {
    shared: Arc<Shared>,
}

struct Shared {
    client: Arc<Inner>,
    origin: FileOrigin,
    id: FileId,
    location: Mutex<Location>,
    /// One permit: held while the location is being found.
    finding: Semaphore,
}

/// Where the file's bytes are.
#[derive(Debug, Clone, PartialEq)]
enum Location {
    Unknown,
    /// Where the origin says.
    Direct,
    /// On another server.
    Signed {
        url: Url,
        until: Option<Instant>,
    },
}

/// What is asked for.
#[derive(Debug, Clone)]
struct Wanted {
    range: Range<u64>,
    /// Whether the whole file is as good, with the beginning thrown away.
    may_skip: bool,
}

impl RemoteFile {
    pub(super) fn new(client: Arc<Inner>, origin: FileOrigin, id: FileId) -> Self {
        let (location, finding) = (Mutex::new(Location::Unknown), Semaphore::new(1));
        Self { shared: Arc::new(Shared { client, origin, id, location, finding }) }
    }

    /// Asks for a range, until its body begins or asking again does not help.
    ///
    /// # Errors
    /// [`HubError::RangesIgnored`] if the server sends the whole file instead: see [`read_from`](Self::read_from).
    /// [`HubError::Changed`] if it is not the file that was pinned.
    ///
    /// # Panics
    /// If the range is not within the file.
    pub async fn read(&self, range: Range<u64>) -> Result<RangeBody, HubError> {
        assert!(
            range.start <= range.end && range.end <= self.shared.id.n_bytes,
            "range {range:?} of a file of {} bytes",
            self.shared.id.n_bytes
        );
        self.shared.read(&Wanted { range, may_skip: false }).await
    }

    /// Reads from `start` to the end, for servers that ignore ranges: what they send before is thrown away.
    ///
    /// # Errors
    /// As [`read`](Self::read), but for ignored ranges.
    ///
    /// # Panics
    /// If `start` is beyond the end.
    pub async fn read_from(&self, start: u64) -> Result<RangeBody, HubError> {
        assert!(
            start <= self.shared.id.n_bytes,
            "start {start} of {} bytes",
            self.shared.id.n_bytes
        );
        self.shared.read(&Wanted { range: start..self.shared.id.n_bytes, may_skip: true }).await
    }
}

impl fmt::Debug for RemoteFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { origin, id, .. } = &*self.shared;
        f.debug_struct("RemoteFile").field("origin", origin).field("id", id).finish_non_exhaustive()
    }
}

impl Shared {
    async fn read(&self, wanted: &Wanted) -> Result<RangeBody, HubError> {
        if wanted.range.is_empty() {
            return Ok(RangeBody::empty());
        }
        let mut attempts = Attempts::new(&self.client.timing);
        loop {
            match self.read_once(wanted).await {
                Ok(body) => return Ok(body),
                Err(error) => attempts.pause(error).await?,
            }
        }
    }

    async fn read_once(&self, wanted: &Wanted) -> Result<RangeBody, HubError> {
        let mut location = self.location();
        let mut permit = None;
        if location == Location::Unknown {
            permit = Some(self.finding.acquire().await.expect("the semaphore is never closed"));
            location = self.location();
            if location != Location::Unknown {
                permit = None;
            }
        }
        let range = format!("bytes={}-{}", wanted.range.start, wanted.range.end - 1);
        if let Location::Signed { url, .. } = &location {
            let answer = self.client.follow(Method::GET, url, Some(&range)).await?;
            if !is_expired(answer.response.status()) {
                return self.accept(answer, wanted);
            }
            tracing::debug!(host = host_of(url), status = %answer.response.status(), "signature expired");
            self.forget(&location);
        }
        let answer = self.client.follow(Method::GET, &self.url()?, Some(&range)).await?;
        self.check_linked(&answer)?;
        if answer.response.status().is_success() {
            self.remember(&answer);
        }
        drop(permit);
        self.accept(answer, wanted)
    }

    /// The URL at which every search for the bytes begins.
    fn url(&self) -> Result<Url, HubError> {
        match &self.origin {
            FileOrigin::Url(url) => parse_url(url),
            FileOrigin::Hub { repo, commit, path } => {
                check_repo(repo)?;
                check_revision(commit)?;
                check_file_path(path)?;
                let head = repo.split('/').chain(["resolve", commit.as_str()]);
                url_below(&self.client.endpoint_url, head.chain(path.split('/')))
            }
        }
    }

    /// Where the bytes are, if that is known and still holds.
    fn location(&self) -> Location {
        let location = self.location.lock().unwrap_or_else(PoisonError::into_inner);
        match &*location {
            Location::Signed { until: Some(until), .. } if *until <= Instant::now() => {
                Location::Unknown
            }
            known => known.clone(),
        }
    }

    fn remember(&self, answer: &Answer) {
        let is_elsewhere = self.url().is_ok_and(|url| url.origin() != answer.url.origin());
        let location = if is_elsewhere {
            let lifetime = signature_lifetime(&answer.url, answer.linked.date);
            let lifetime = lifetime.map(|time| time.saturating_sub(SIGNATURE_MARGIN));
            let until = lifetime.and_then(|time| Instant::now().checked_add(time));
            Location::Signed { url: answer.url.clone(), until }
        } else {
            Location::Direct
        };
        *self.location.lock().unwrap_or_else(PoisonError::into_inner) = location;
    }

    /// Forgets a location that turned out to be bad, unless somebody found a new one meanwhile.
    fn forget(&self, bad: &Location) {
        let mut location = self.location.lock().unwrap_or_else(PoisonError::into_inner);
        if *location == *bad {
            *location = Location::Unknown;
        }
    }

    /// Compares what the hub says of the file with what was pinned.
    fn check_linked(&self, answer: &Answer) -> Result<(), HubError> {
        let linked = &answer.linked;
        if let (FileOrigin::Hub { commit, .. }, Some(got)) = (&self.origin, &linked.commit)
            && got != commit
        {
            return Err(self.changed(answer, "commit", commit, got));
        }
        if let Some(got) = linked.n_bytes.filter(|got| *got != self.id.n_bytes) {
            return Err(self.changed(answer, "size", self.id.n_bytes, got));
        }
        match (self.id.digest, linked.sha256()) {
            (Digest::Sha256(pinned), Some(got)) if got != pinned => {
                Err(self.changed(answer, "digest", self.id.digest, Digest::Sha256(got)))
            }
            _ => Ok(()),
        }
    }

    /// Checks that an answer is what was asked for, of the file that was pinned.
    fn accept(&self, answer: Answer, wanted: &Wanted) -> Result<RangeBody, HubError> {
        let (n_skip, expected) = match answer.response.status() {
            StatusCode::PARTIAL_CONTENT => {
                self.check_range(&answer, wanted)?;
                (0, wanted.range.end - wanted.range.start)
            }
            StatusCode::OK => {
                self.check_whole(&answer, wanted)?;
                (wanted.range.start, self.id.n_bytes - wanted.range.start)
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                let total = content_range(answer.response.headers()).and_then(|range| range.total);
                let got = total.map_or("less".to_owned(), |total| total.to_string());
                return Err(self.changed(&answer, "size", self.id.n_bytes, got));
            }
            status => {
                let is_elsewhere = self.url()?.origin() != answer.url.origin();
                if is_elsewhere && is_expired(status) {
                    let host = host_of(&answer.url);
                    return Err(HubError::SignatureRefused { host, status });
                }
                return Err(self.client.refusal(&answer, self.subject()));
            }
        };
        self.check_tag(&answer)?;
        let encoding = answer.response.headers().get(CONTENT_ENCODING);
        if let Some(encoding) = encoding.filter(|encoding| *encoding != "identity") {
            return Err(HubError::Unexpected {
                url: shown(&answer.url),
                what: "Content-Encoding",
                reason: format!("expected identity, got {encoding:?}"),
            });
        }
        Ok(RangeBody::new(answer.response, self.client.timing.stall, n_skip, expected))
    }

    fn check_range(&self, answer: &Answer, wanted: &Wanted) -> Result<(), HubError> {
        let range = content_range(answer.response.headers());
        if let Some(got) = range.as_ref().and_then(|range| range.total)
            && got != self.id.n_bytes
        {
            return Err(self.changed(answer, "size", self.id.n_bytes, got));
        }
        // A server may send less than was asked for (RFC 9110, section 14.2); the body then ends early.
        let bytes = range.and_then(|range| range.bytes);
        let is_ours = |got: &Range<u64>| {
            got.start == wanted.range.start && got.start < got.end && got.end <= wanted.range.end
        };
        if bytes.as_ref().is_some_and(is_ours) {
            return Ok(());
        }
        Err(HubError::Unexpected {
            url: shown(&answer.url),
            what: "Content-Range",
            reason: format!("expected bytes {:?}, got {bytes:?}", wanted.range),
        })
    }

    fn check_whole(&self, answer: &Answer, wanted: &Wanted) -> Result<(), HubError> {
        let length = answer.response.headers().get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if let Some(got) = length.filter(|got| *got != self.id.n_bytes) {
            return Err(self.changed(answer, "size", self.id.n_bytes, got));
        }
        if !wanted.may_skip && wanted.range != (0..self.id.n_bytes) {
            return Err(HubError::RangesIgnored { url: shown(&answer.url) });
        }
        Ok(())
    }

    /// A file without a known hash is the version that its server's tag names.
    fn check_tag(&self, answer: &Answer) -> Result<(), HubError> {
        let (FileOrigin::Url(url), Digest::Origin(_)) = (&self.origin, self.id.digest) else {
            return Ok(());
        };
        let got = origin_digest(url, strong_etag(answer.response.headers()));
        if got == self.id.digest {
            return Ok(());
        }
        Err(self.changed(answer, "version", self.id.digest, got))
    }

    fn changed(
        &self,
        answer: &Answer,
        what: &'static str,
        expected: impl fmt::Display,
        got: impl fmt::Display,
    ) -> HubError {
        // The signed URL may be the one that is wrong: what it leads to is not asked for again.
        *self.location.lock().unwrap_or_else(PoisonError::into_inner) = Location::Unknown;
        let url = self.url().as_ref().map_or_else(|_| shown(&answer.url), shown);
        HubError::Changed { url, what, expected: expected.to_string(), got: got.to_string() }
    }

    fn subject(&self) -> Subject<'_> {
        match &self.origin {
            FileOrigin::Hub { repo, commit, path } => Subject::File { repo, commit, path },
            FileOrigin::Url(_) => Subject::Url,
        }
    }
}

/// Whether a status from a CDN may mean that the signature's time is up.
fn is_expired(status: StatusCode) -> bool {
    matches!(status.as_u16(), 400 | 401 | 403 | 404 | 410)
}

/// How long a signed URL holds, as far as it says so: `X-Amz-Expires` is that time, `Expires` a time in seconds since 1970, by
/// the hub's clock. Ours may be wrong by days on a phone, so without the hub's this is unknown.
fn signature_lifetime(url: &Url, now: Option<SystemTime>) -> Option<Duration> {
    let value = |name: &str| {
        let (_, value) = url.query_pairs().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        value.parse().ok().map(Duration::from_secs)
    };
    let until = || {
        let until = SystemTime::UNIX_EPOCH.checked_add(value("Expires")?)?;
        Some(until.duration_since(now?).unwrap_or_default())
    };
    [value("X-Amz-Expires"), until()].into_iter().flatten().min()
}

/// A `Content-Range` header.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ContentRange {
    /// `None` in an answer that refuses the range.
    pub(super) bytes: Option<Range<u64>>,
    /// Size of the file, if the server knows it.
    pub(super) total: Option<u64>,
}

/// Reads `bytes 0-99/1234`, where each side of the slash may be `*` (RFC 9110, section 14.4).
pub(super) fn content_range(headers: &HeaderMap) -> Option<ContentRange> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (bytes, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let bytes = match bytes.trim() {
        "*" => None,
        bytes => {
            let (first, last) = bytes.split_once('-')?;
            Some(first.trim().parse().ok()?..last.trim().parse::<u64>().ok()?.checked_add(1)?)
        }
    };
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    Some(ContentRange { bytes, total })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read_or_refused() {
        let read = |text: &str| {
            content_range(&[(CONTENT_RANGE, text.parse().expect("a value"))].into_iter().collect())
        };
        let range = |bytes, total| Some(ContentRange { bytes, total });
        assert_eq!(read("bytes 0-99/1234"), range(Some(0..100), Some(1234)));
        assert_eq!(read("bytes 5-5/*"), range(Some(5..6), None));
        assert_eq!(read("bytes */7"), range(None, Some(7)));
        for bad in [
            "",
            "bytes",
            "bytes 1/2",
            "items 0-1/2",
            "bytes 0-x/2",
            "bytes 0-18446744073709551615/*",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn signatures_expire_by_the_hubs_clock() {
        let now = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1000));
        let lifetime = |query: &str, now| {
            signature_lifetime(
                &format!("https://cdn.example/x?{query}").parse().expect("a URL"),
                now,
            )
        };
        let seconds = |n| Some(Duration::from_secs(n));
        assert_eq!(lifetime("Expires=1060&Signature=x", now), seconds(60));
        assert_eq!(lifetime("Expires=900", now), seconds(0));
        assert_eq!(lifetime("Expires=1060", None), None);
        assert_eq!(lifetime("X-Amz-Expires=30&Expires=1060", now), seconds(30));
        assert_eq!(lifetime("Expires=soon", now), None);
    }
}
