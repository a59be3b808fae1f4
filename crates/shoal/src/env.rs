//! The environment variables that Shoal reads, all of them.

use std::path::PathBuf;

/// Where the API listens, and where the client commands look for it.
pub(crate) const LISTEN: &str = "SHOAL_LISTEN";
/// The data directory.
pub(crate) const DATA_DIR: &str = "SHOAL_DATA_DIR";
/// The device's name.
pub(crate) const NAME: &str = "SHOAL_NAME";
/// The instruction set to compute with.
pub(crate) const ISA: &str = "SHOAL_ISA";
/// What is logged, in the syntax of `tracing_subscriber::EnvFilter`.
pub(crate) const LOG: &str = "SHOAL_LOG";
/// Where models are kept.
pub(crate) const MODELS: &str = "SHOAL_MODELS";
/// A relay of the user's own.
pub(crate) const RELAY: &str = "SHOAL_RELAY";
/// The token of a node that was opened to the local network: what others on this device cannot read, unlike a command line.
pub(crate) const TOKEN: &str = "SHOAL_TOKEN";
/// Bytes per second that downloads take together.
pub(crate) const LIMIT: &str = "SHOAL_LIMIT";
/// The width of the terminal, as shells know it.
pub(crate) const COLUMNS: &str = "COLUMNS";

/// Set by Termux.
pub(crate) const TERMUX_VERSION: &str = "TERMUX_VERSION";
/// Set by Termux where Android lets its programs be started by the system's linker only: the program that really runs.
pub(crate) const TERMUX_EXE: &str = "TERMUX_EXEC__PROC_SELF_EXE";

// What the programs of Hugging Face and of Ollama read too, so that one setting serves all of them.

/// The model hub's address.
pub(crate) const HF_ENDPOINT: &str = "HF_ENDPOINT";
/// What proves to the hub who asks.
pub(crate) const HF_TOKEN: &str = "HF_TOKEN";
/// Where Hugging Face's programs keep their files.
pub(crate) const HF_HOME: &str = "HF_HOME";
/// Their cache.
pub(crate) const HF_HUB_CACHE: &str = "HF_HUB_CACHE";
/// Ollama's models.
pub(crate) const OLLAMA_MODELS: &str = "OLLAMA_MODELS";

/// What a variable says, unless it says nothing.
pub(crate) fn text(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.trim().is_empty())
}

/// The path in a variable.
pub(crate) fn path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from)
}
