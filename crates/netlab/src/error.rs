//! What can go wrong in building a network.

use std::io;

/// The result of an operation on the lab.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a network could not be built or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused something.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// Its answer.
        #[source]
        source: io::Error,
    },
    /// A command failed.
    #[error("ip {arguments}: {stderr}")]
    Ip {
        /// The command line after the program's name.
        arguments: String,
        /// What it said.
        stderr: String,
    },
    /// A host has no such interface.
    #[error("host {host}: no interface {interface}")]
    NoInterface {
        /// The host's name.
        host: String,
        /// The interface that was asked for.
        interface: String,
    },
    /// A request to a server inside a host failed.
    #[error("{method} {url}")]
    Http {
        /// The request's method.
        method: &'static str,
        /// Where it went.
        url: String,
        /// Why it failed.
        #[source]
        source: Box<ureq::Error>,
    },
}

impl Error {
    /// For `map_err`: names what was tried.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
