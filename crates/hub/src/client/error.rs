//! What can go wrong between here and a server.

use std::{fmt, io, time::Duration};

use reqwest::StatusCode;
use url::Url;

/// Why the hub, or another server, did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// A text that is no URL that can be fetched.
    #[error("url {url:?}: {reason}")]
    BadUrl {
        /// The text.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A text that cannot name a repository, a revision or a path of the hub.
    #[error("{what}: expected {expected}, got {got:?}")]
    BadName {
        /// What it should name.
        what: &'static str,
        /// What such a name looks like.
        expected: &'static str,
        /// The text, shortened.
        got: String,
    },
    /// The client could not be made.
    #[error("cannot set up the HTTPS client: {reason}")]
    Setup {
        /// What failed.
        reason: String,
    },
    /// No answer came.
    #[error("{host}: {why}")]
    Unreachable {
        /// The server's name and port.
        host: String,
        /// At which step it failed.
        why: Unreachable,
        /// What the HTTP library says; `None` if our own clock ran out.
        source: Option<reqwest::Error>,
    },
    /// The repository's owner lets nobody read it who has not accepted its licence.
    #[error("{repo} is gated: accept the licence at {endpoint}/{repo} and set HF_TOKEN ({})",
        if *token_sent { "the token that was sent has no access" } else { "no token was sent" })]
    Gated {
        /// The repository.
        repo: String,
        /// The hub.
        endpoint: String,
        /// Whether a token was sent, and so refused.
        token_sent: bool,
    },
    /// The hub does not accept the token.
    #[error("{endpoint} refused the token: set HF_TOKEN to a valid one, or unset it")]
    TokenRefused {
        /// The hub.
        endpoint: String,
    },
    /// No such repository, as far as the asker may know.
    #[error("{repo} was not found at {endpoint}: it is misspelt, or private{}",
        if *token_sent { " and not open to this token" } else { " (no token was sent)" })]
    RepoNotFound {
        /// The repository.
        repo: String,
        /// The hub.
        endpoint: String,
        /// Whether a token was sent.
        token_sent: bool,
    },
    /// The repository has no such branch, tag or commit.
    #[error("{repo} has no revision {revision:?}")]
    RevisionNotFound {
        /// The repository.
        repo: String,
        /// The revision.
        revision: String,
    },
    /// The repository has no such file at that commit.
    #[error("{repo} has no file {path:?} at commit {commit}")]
    FileNotFound {
        /// The repository.
        repo: String,
        /// The commit.
        commit: String,
        /// The path.
        path: String,
    },
    /// Too many requests, and waiting as long as is reasonable did not help.
    #[error("{host} asks for fewer requests{}", match retry_after {
        Some(wait) => format!("; it says to wait {} s", wait.as_secs()),
        None => String::new(),
    })]
    RateLimited {
        /// The server.
        host: String,
        /// How long it says to wait.
        retry_after: Option<Duration>,
    },
    /// The server failed.
    #[error("{url}: the server failed with status {status}")]
    Server {
        /// What was asked for, without its query.
        url: String,
        /// The status, 408 or 5xx.
        status: StatusCode,
        /// How long it says to wait.
        retry_after: Option<Duration>,
    },
    /// A status that means none of the above.
    #[error("{url}: expected status 200 or 206, got {status}{}", match message {
        Some(message) => format!(" ({message:?})"),
        None => String::new(),
    })]
    Status {
        /// What was asked for, without its query.
        url: String,
        /// The status.
        status: StatusCode,
        /// The hub's own words, shortened.
        message: Option<String>,
    },
    /// The server to which the hub sent us does not accept the address that the hub just gave.
    #[error("{host} refused the address that was signed for it, with status {status}")]
    SignatureRefused {
        /// The server.
        host: String,
        /// The status.
        status: StatusCode,
    },
    /// The file is not the one that was pinned.
    #[error("{url} changed: expected {what} {expected}, got {got}")]
    Changed {
        /// The file, without its query.
        url: String,
        /// Which of its properties differs.
        what: &'static str,
        /// What was pinned.
        expected: String,
        /// What the server says.
        got: String,
    },
    /// The server sends the whole file whatever is asked for.
    #[error("{url}: the server ignores ranges")]
    RangesIgnored {
        /// The file, without its query.
        url: String,
    },
    /// Nothing came for too long.
    #[error("{host}: nothing came for {} s, after {got} of {expected} bytes", after.as_secs_f32())]
    Stalled {
        /// The server.
        host: String,
        /// How long.
        after: Duration,
        /// Bytes that should have come.
        expected: u64,
        /// Bytes that came.
        got: u64,
    },
    /// A body that is shorter or longer than it should be.
    #[error("{host}: expected a body of {expected} bytes, got {got}")]
    Cut {
        /// The server.
        host: String,
        /// Bytes that should have come.
        expected: u64,
        /// Bytes that came; those beyond `expected` were thrown away.
        got: u64,
    },
    /// The connection broke within a body.
    #[error("{host}: the connection broke after {got} bytes")]
    Broken {
        /// The server.
        host: String,
        /// Bytes that came.
        got: u64,
        /// What the HTTP library says.
        source: reqwest::Error,
    },
    /// An answer that is not what such an answer looks like.
    #[error("{url}: {what}: {reason}")]
    Unexpected {
        /// What was asked for, without its query.
        url: String,
        /// Which part of the answer.
        what: &'static str,
        /// What was expected there, and what came.
        reason: String,
    },
    /// An answer larger than any that is real.
    #[error("{url}: expected at most {limit} {unit}, got more")]
    TooLarge {
        /// What was asked for, without its query.
        url: String,
        /// Most that is accepted.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
    /// A redirect that gives up encryption.
    #[error("{from} redirects to {to}, which is not encrypted")]
    InsecureRedirect {
        /// Who redirects, without its query.
        from: String,
        /// Where to, without its query.
        to: String,
    },
    /// Redirects without end.
    #[error("{url}: expected at most {limit} redirects, got more")]
    TooManyRedirects {
        /// Where it began, without its query.
        url: String,
        /// How many are followed.
        limit: usize,
    },
}

/// At which step reaching a server failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreachable {
    /// Its name has no address, or there is no network to ask for it.
    Dns,
    /// Nobody listens there.
    Refused,
    /// There is no way to it.
    NoRoute,
    /// Its certificate, or the way it speaks TLS, is not acceptable.
    Tls,
    /// It did not answer in time.
    Timeout,
    /// The connection broke before an answer came, or something that the HTTP library does not tell apart.
    Other,
}

impl HubError {
    /// Whether asking again later may help.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::RateLimited { .. }
            | Self::Server { .. }
            | Self::SignatureRefused { .. }
            | Self::Stalled { .. }
            | Self::Cut { .. }
            | Self::Broken { .. } => true,
            Self::Unreachable { why, .. } => *why != Unreachable::Tls,
            _ => false,
        }
    }

    /// How long the server said to wait before asking again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } | Self::Server { retry_after, .. } => {
                *retry_after
            }
            _ => None,
        }
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dns => "its name could not be resolved; is there a network?",
            Self::Refused => "the connection was refused",
            Self::NoRoute => "there is no route to it; is there a network?",
            Self::Tls => "no secure connection could be made (certificate or TLS version)",
            Self::Timeout => "no answer in time",
            Self::Other => "the connection failed",
        })
    }
}

impl Unreachable {
    /// Tells causes apart as far as the chain of sources shows them.
    pub(super) fn of(error: &reqwest::Error) -> Self {
        if error.is_dns() {
            return Self::Dns;
        }
        if is_caused_by_tls(error) {
            return Self::Tls;
        }
        match io_kind(error) {
            Some(io::ErrorKind::ConnectionRefused) => Self::Refused,
            Some(io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) => {
                Self::NoRoute
            }
            _ if error.is_timeout() => Self::Timeout,
            _ => Self::Other,
        }
    }
}

/// The kind of the innermost I/O error.
pub(super) fn io_kind(error: &reqwest::Error) -> Option<io::ErrorKind> {
    chain(error).filter_map(|error| error.downcast_ref::<io::Error>()).last().map(io::Error::kind)
}

fn is_caused_by_tls(error: &reqwest::Error) -> bool {
    chain(error).any(|error| error.is::<rustls::Error>())
}

/// An error and what caused it. An I/O error does not give the error within it as its source, but that one's source, so it is
/// looked into.
fn chain<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| {
        let within = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        within.map(|error| error as &(dyn std::error::Error + 'static)).or_else(|| error.source())
    })
}

/// A URL as it may be shown: the query of a signed URL is a secret.
pub(super) fn shown(url: &Url) -> String {
    format!("{}://{}{}", url.scheme(), host_of(url), url.path())
}

/// A server's name, and its port unless it is the usual one.
pub(super) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Text from elsewhere, made fit for one line of an error.
pub(super) fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}
