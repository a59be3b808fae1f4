//! How failures are shown, and the exit codes that go with them. The codes are a contract, listed in `shoal --help`.

use std::{borrow::Cow, io::Write, process::ExitCode};

use shoal_node::{
    Error as NodeError,
    hub::{DownloadError, HubError, LibraryError, NameError, PartialError, StoreError},
};

/// Why the program ends, with its exit code and perhaps a hint.
#[derive(Debug)]
pub(crate) struct Failure {
    error: anyhow::Error,
    code: u8,
    hint: Option<Cow<'static, str>>,
    /// The code of the error that a running node answered with.
    said: Option<String>,
}

impl Failure {
    /// The model cannot be used.
    pub(crate) const MODEL: u8 = 3;
    /// An address cannot be bound or reached.
    pub(crate) const ADDRESS: u8 = 4;
    /// The cluster or its node refused.
    pub(crate) const CLUSTER: u8 = 5;
    /// The prompt does not fit.
    pub(crate) const CONTEXT: u8 = 6;
    /// The model hub or the network failed.
    pub(crate) const HUB: u8 = 7;
    /// The disk is full.
    pub(crate) const DISK: u8 = 8;
    /// The user ended it; what shells say of a program that was ended by Ctrl-C.
    pub(crate) const INTERRUPTED: u8 = 130;

    /// Returns a failure with a code of its own.
    pub(crate) fn new(error: impl Into<anyhow::Error>, code: u8) -> Self {
        Self { error: error.into(), code, hint: None, said: None }
    }

    /// Adds what the user can do.
    pub(crate) fn hint(self, hint: impl Into<Cow<'static, str>>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The exit code.
    #[cfg(test)]
    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    /// Adds the code of the error that a running node answered with.
    pub(crate) fn said(self, said: Option<&str>) -> Self {
        Self { said: said.map(str::to_owned), ..self }
    }

    /// Whether no node answered at all.
    pub(crate) fn is_no_node(&self) -> bool {
        self.code == Self::ADDRESS && self.said.is_none()
    }

    /// Whether a running node has no such model.
    pub(crate) fn is_unknown_model(&self) -> bool {
        self.said.as_deref() == Some("model_not_found")
    }

    /// Prints the error, its causes and the hint, and returns the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        let mut text = format!("error: {}\n", self.error);
        for cause in self.error.chain().skip(1) {
            text.push_str(&format!("  caused by: {cause}\n"));
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("  hint: {hint}\n"));
        }
        // Nobody is left to tell if standard error is closed.
        let _ = std::io::stderr().write_all(text.as_bytes());
        ExitCode::from(self.code)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(error, 1)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(error, 1)
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        let (code, hint) = match &error {
            NodeError::Model { .. } | NodeError::UnknownModel { .. } => (Self::MODEL, None),
            NodeError::ContextFull { .. } => {
                (Self::CONTEXT, Some("a larger --context, or a shorter prompt"))
            }
            NodeError::Place(_) | NodeError::LoadRefused { .. } => (Self::CLUSTER, None),
            NodeError::Ticket(_) | NodeError::JoinRefused { .. } => (
                Self::CLUSTER,
                Some("get a fresh ticket with `shoal invite` on a node of the cluster"),
            ),
            NodeError::Net(_) | NodeError::JoinFailed { .. } => (Self::ADDRESS, None),
            NodeError::Library(error) => of_library(error),
            NodeError::Name(error) => of_name(error),
            _ => (1, None),
        };
        Self { error: error.into(), code, hint: hint.map(Cow::Borrowed), said: None }
    }
}

impl From<LibraryError> for Failure {
    fn from(error: LibraryError) -> Self {
        NodeError::from(error).into()
    }
}

type CodeAndHint = (u8, Option<&'static str>);

const TRY_AGAIN: &str = "run it again to go on: what was fetched is kept";
const MAKE_SPACE: &str = "make space, with `shoal rm` for example, and run it again to go on";

fn of_name(error: &NameError) -> CodeAndHint {
    match error {
        NameError::Hub { source, .. } => of_hub(source),
        NameError::Damaged { .. } => (
            Failure::MODEL,
            Some("`shoal verify --repair` gives up what is damaged, `shoal rm` all of it"),
        ),
        NameError::Reference(_) => {
            (Failure::MODEL, Some("`shoal models` lists what is known; owner/repository works too"))
        }
        NameError::NoFile { .. } | NameError::Pick { .. } => (Failure::MODEL, None),
    }
}

fn of_library(error: &LibraryError) -> CodeAndHint {
    match error {
        LibraryError::Hub(error) => of_hub(error),
        LibraryError::Store(error) => of_store(error),
        LibraryError::Partial(error) => of_partial(error),
        LibraryError::Shared(error) => of_library(error),
        LibraryError::Download { source, .. } => match &**source {
            DownloadError::Hub { source, .. } => of_hub(source),
            DownloadError::Disk(error) => of_partial(error),
            DownloadError::NoSource { .. } | DownloadError::Corrupt { .. } => (Failure::HUB, None),
        },
        LibraryError::Header { .. } | LibraryError::Unusable { .. } => (Failure::MODEL, None),
        LibraryError::Stopped { .. } | LibraryError::NoDownload { .. } => (1, None),
    }
}

fn of_hub(error: &HubError) -> CodeAndHint {
    match error {
        HubError::Gated { .. }
        | HubError::TokenRefused { .. }
        | HubError::RepoNotFound { .. }
        | HubError::RevisionNotFound { .. }
        | HubError::FileNotFound { .. }
        | HubError::BadName { .. }
        | HubError::BadUrl { .. } => (Failure::MODEL, None),
        _ => (Failure::HUB, Some(TRY_AGAIN)),
    }
}

fn of_store(error: &StoreError) -> CodeAndHint {
    match error {
        StoreError::Full { .. } => (Failure::DISK, Some(MAKE_SPACE)),
        StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            (Failure::DISK, Some(MAKE_SPACE))
        }
        StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            (Failure::MODEL, None)
        }
        StoreError::Io { .. } => (1, None),
        StoreError::Busy { .. } => (1, Some("wait for the other one, or end it")),
        StoreError::OtherVersion { .. } => {
            (Failure::MODEL, Some("`shoal pull --update` replaces it, `shoal rm` removes it"))
        }
        StoreError::Partial(error) => of_partial(error),
        StoreError::Unknown { .. } => (Failure::MODEL, Some("`shoal list` shows the names")),
        _ => (Failure::MODEL, None),
    }
}

fn of_partial(error: &PartialError) -> CodeAndHint {
    match error {
        PartialError::Full { .. } => (Failure::DISK, Some(MAKE_SPACE)),
        PartialError::Busy { .. } => (1, Some("wait for the other one, or end it")),
        PartialError::Io { .. } => (1, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(error: impl Into<LibraryError>, code: u8) {
        let failure = Failure::from(error.into());
        assert_eq!(failure.code, code, "{failure:?}");
    }

    #[test]
    fn each_way_to_fail_has_its_code() {
        let repo = || "owner/name".to_owned();
        let endpoint = || "https://hub.example".to_owned();
        check(HubError::Gated { repo: repo(), endpoint: endpoint(), token_sent: false }, 3);
        check(HubError::RepoNotFound { repo: repo(), endpoint: endpoint(), token_sent: true }, 3);
        check(HubError::RateLimited { host: "hub.example".into(), retry_after: None }, 7);
        check(StoreError::Unknown { name: "x".into() }, 3);
        check(PartialError::Full { path: "x".into() }, 8);
        check(StoreError::Full { needed: 2, free: 1, reserve: 0, dir: "x".into() }, 8);
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        check(StoreError::Io { path: "x".into(), source: full }, 8);
        let source = DownloadError::Disk(PartialError::Full { path: "x".into() });
        check(LibraryError::Download { name: "x".into(), source: source.into() }, 8);
        check(LibraryError::Unusable { name: "x".into(), message: "no".into() }, 3);
    }
}
