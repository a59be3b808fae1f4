//! What `cargo xtask` does, as a library, so that tests of other crates can make synthetic models.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the library of a command-line program"
)]

pub mod arm;
pub mod bench;
pub mod ci;
pub mod dashboard;
mod quantize;
pub mod synth;
pub mod tidy;
