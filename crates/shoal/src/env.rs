//! The environment variables that Shoal reads, all of them.

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
