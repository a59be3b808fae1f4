//! `cargo xtask arm`: the tests of the crates without C and without a network, on emulated phones.
//!
//! Each tier of the NEON kernels has a CPU that has it and no more, so that an instruction without its check ends the test.
//! The kernels' tests are told which instruction sets they have to find: without that, those of a missing one would pass
//! without having run. An emulator says what is right, not what is fast; and memory is ordered here as the host orders it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::bail;

use crate::ci::{cargo, has_target, is_installed};

/// A target that needs no C compiler and no libraries to link: the standard library brings its own.
const TARGET: &str = "aarch64-unknown-linux-musl";

/// CPUs of the emulator and the instruction sets that `shoal-kernels` must find on them.
const TIERS: [(&str, &str); 3] = [
    ("max", "scalar,neon,neon-dotprod,neon-i8mm"),
    ("cortex-a76", "scalar,neon,neon-dotprod"),
    ("cortex-a53", "scalar,neon"),
];

/// Crates that are tested on one CPU only: no code of theirs depends on it.
const ON_ONE_CPU: [&str; 2] = ["shoal-gguf", "shoal-proto"];

/// Names of the emulator, as distributions call it.
const EMULATORS: [&str; 2] = ["qemu-aarch64-static", "qemu-aarch64"];

/// What `cargo xtask arm` is told.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The emulator: user-mode QEMU for aarch64, 7.2 or newer. Default: the one in PATH.
    #[arg(long, value_name = "FILE")]
    qemu: Option<PathBuf>,
}

/// Runs `cargo xtask arm`.
///
/// # Errors
/// If a test fails, or if nothing could be tested.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let Some(qemu) = args.qemu.clone().or_else(emulator) else {
        bail!("nothing was tested: there is no {} in PATH (--qemu FILE)", EMULATORS.join(" or "));
    };
    if !has_target(TARGET)? {
        bail!("nothing was tested: rustup target add {TARGET}");
    }
    kernels(&qemu, "--profile=dev")?;
    kernels(&qemu, "--profile=release")?;
    for name in ON_ONE_CPU {
        test(&qemu, TIERS[0], &["-p", name])?;
    }
    Ok(())
}

/// The part of `cargo xtask ci`: the kernels, if all that it takes is here, and a line that nobody overlooks if not.
pub(crate) fn run_if_at_hand() -> anyhow::Result<()> {
    match emulator() {
        Some(qemu) if is_installed(TARGET) => kernels(&qemu, "--profile=dev"),
        _ => {
            println!(
                "\n==> SKIPPED: the ARM kernels were not tested. It takes the target {TARGET}"
            );
            println!("    and {} in PATH: see `cargo xtask arm`", EMULATORS.join(" or "));
            Ok(())
        }
    }
}

/// Tests the kernels on all tiers.
fn kernels(qemu: &Path, profile: &str) -> anyhow::Result<()> {
    TIERS.iter().try_for_each(|tier| test(qemu, *tier, &["-p", "shoal-kernels", profile]))
}

fn test(qemu: &Path, (cpu, isas): (&str, &str), args: &[&str]) -> anyhow::Result<()> {
    let runner = format!("{} -cpu {cpu}", qemu.display());
    let args = [&["test", "--target", TARGET, "--lib"], args].concat();
    cargo(
        &args,
        &[
            ("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER", "rust-lld"),
            ("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_RUNNER", &runner),
            ("SHOAL_EXPECT_ISA", isas),
        ],
    )
}

/// The emulator in PATH.
fn emulator() -> Option<PathBuf> {
    let works = |name: &&str| {
        Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success())
    };
    EMULATORS.iter().find(|name| works(name)).map(PathBuf::from)
}
