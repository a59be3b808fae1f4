//! How failures are shown, and the exit codes that go with them. The codes are a contract, listed in `shoal --help`.

use std::{io::Write, process::ExitCode};

use shoal_node::Error as NodeError;

/// Why the program ends, with its exit code and perhaps a hint.
#[derive(Debug)]
pub(crate) struct Failure {
    error: anyhow::Error,
    code: u8,
    hint: Option<&'static str>,
}

impl Failure {
    /// The model cannot be used.
    pub(crate) const MODEL: u8 = 3;
    /// An address cannot be bound or reached.
    pub(crate) const ADDRESS: u8 = 4;
    /// The cluster refused.
    pub(crate) const CLUSTER: u8 = 5;
    /// The prompt does not fit.
    pub(crate) const CONTEXT: u8 = 6;

    /// Returns a failure with a code of its own.
    pub(crate) fn new(error: impl Into<anyhow::Error>, code: u8) -> Self {
        Self { error: error.into(), code, hint: None }
    }

    /// Adds what the user can do.
    pub(crate) fn hint(self, hint: &'static str) -> Self {
        Self { hint: Some(hint), ..self }
    }

    /// Prints the error, its causes and the hint, and returns the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        let mut text = format!("error: {}\n", self.error);
        for cause in self.error.chain().skip(1) {
            text.push_str(&format!("  caused by: {cause}\n"));
        }
        if let Some(hint) = self.hint {
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
            _ => (1, None),
        };
        Self { error: error.into(), code, hint }
    }
}
