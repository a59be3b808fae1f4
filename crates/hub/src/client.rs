//! The model hub and other servers, over HTTPS: the one HTTP client of Shoal.
//!
//! ```text
//! HubClient ── repo(), search(), probe() ──► small answers, read whole with a cap
//!     └── open() ──► RemoteFile ── read(range) ──► RangeBody
//! ```
//!
//! - `http`: the constructor, where TLS, name resolution and proxies are settled
//! - `exchange`: a request and its redirects; where the token goes; what a refusal means
//! - `retry`: when to ask again
//! - `name`: names of repositories, revisions and paths, and the URLs made of them
//! - `listing`, `search`, `probe`: what is there
//! - `remote_file`, `body`: the bytes of a file
//!
//! Invariants: the token goes to the endpoint's origin and nowhere else. Every wait has a limit and every answer that is
//! parsed has a cap. A range is handed out only if the server said that it is this range of a file of the pinned size.

mod body;
mod error;
mod exchange;
mod http;
mod listing;
mod name;
mod probe;
mod remote_file;
mod retry;
mod search;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use shoal_proto::model::{FileId, FileOrigin};
use url::Url;

pub use body::RangeBody;
pub use error::{HubError, Unreachable};
pub use listing::{RepoFile, RepoListing};
pub use probe::UrlFile;
pub use remote_file::RemoteFile;
pub use search::{RepoFormat, SearchHit};

/// Where the hub is if nobody says otherwise.
const ENDPOINT: &str = "https://huggingface.co";

/// How to reach the hub.
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// Its address, `https://huggingface.co` unless a mirror is used; may have a path.
    pub endpoint: String,
    /// What proves to it who asks, for gated and private repositories.
    pub token: Option<Token>,
    /// How long to wait for it.
    pub timing: HubTiming,
}

impl Default for HubConfig {
    fn default() -> Self {
        Self { endpoint: ENDPOINT.to_owned(), token: None, timing: HubTiming::default() }
    }
}

/// An access token of the hub. Formatting does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Takes a token as the user gave it; white space around it is dropped, since files end in a line feed. `None` if nothing
    /// is left.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// How long the client waits, and how often it asks again.
#[derive(Debug, Clone)]
pub struct HubTiming {
    /// For a connection: name, TCP and TLS. Ten seconds let three lost SYNs pass, which mobile networks lose.
    pub connect: Duration,
    /// From the request to the first byte of the answer. The hub needs seconds when it is busy, and a proxy may
    /// have to wake.
    pub first_byte: Duration,
    /// Silence in a body after which the connection is taken for dead: longer than a phone's hand-over between
    /// networks, short enough that a download goes on within half a minute.
    pub stall: Duration,
    /// For the whole of an answer that is parsed, so that a server cannot hold a listing by dripping it.
    pub answer: Duration,
    /// The first pause before asking again; doubles each time, with jitter, so that a house full of nodes does
    /// not ask in step.
    pub backoff_min: Duration,
    /// The longest such pause.
    pub backoff_max: Duration,
    /// The longest pause that a server may ask for before the error is handed to the caller instead. The hub counts
    /// requests in windows of five minutes.
    pub retry_after_max: Duration,
    /// How often a request is made before its error is handed to the caller; at least 1.
    pub n_attempts: u32,
}

impl Default for HubTiming {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            first_byte: Duration::from_secs(30),
            stall: Duration::from_secs(20),
            answer: Duration::from_secs(60),
            backoff_min: Duration::from_millis(500),
            backoff_max: Duration::from_secs(30),
            retry_after_max: Duration::from_secs(310),
            n_attempts: 5,
        }
    }
}

/// The model hub. Clones share connections.
#[derive(Clone)]
pub struct HubClient {
    inner: Arc<Inner>,
}

/// What all clones and all open files share.
struct Inner {
    /// Without a slash at its end.
    endpoint: String,
    endpoint_url: Url,
    token: Option<Token>,
    timing: HubTiming,
    http: http::Http,
}

impl HubClient {
    /// Makes a client. No request is made.
    ///
    /// # Errors
    /// [`HubError::BadUrl`] if the endpoint is no `http` or `https` URL; [`HubError::Setup`] if TLS cannot be set up.
    pub fn new(config: HubConfig) -> Result<Self, HubError> {
        let endpoint = config.endpoint.trim().trim_end_matches('/').to_owned();
        let endpoint_url = name::parse_url(&endpoint)?;
        if endpoint_url.query().is_some() || endpoint_url.fragment().is_some() {
            return Err(HubError::BadUrl {
                url: endpoint,
                reason: "the hub's address has no query and no fragment".to_owned(),
            });
        }
        let http = http::Http::new(&config.timing)?;
        let HubConfig { token, timing, .. } = config;
        Ok(Self { inner: Arc::new(Inner { endpoint, endpoint_url, token, timing, http }) })
    }

    /// The hub's address, without a slash at its end.
    pub fn endpoint(&self) -> &str {
        &self.inner.endpoint
    }

    /// Opens a file to read ranges of. No request is made.
    pub fn open(&self, origin: &FileOrigin, id: FileId) -> RemoteFile {
        RemoteFile::new(self.inner.clone(), origin.clone(), id)
    }
}

impl fmt::Debug for HubClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubClient").field("endpoint", &self.inner.endpoint).finish_non_exhaustive()
    }
}
