//! The instruction sets that kernels exist for, found at run time.

use std::fmt;

use crate::arch::Scalar;
#[cfg(target_arch = "x86_64")]
use crate::arch::{Avx2, Avx512};
#[cfg(target_arch = "aarch64")]
use crate::arch::{Base, DotProd, I8mm, Neon};

/// An instruction set that this CPU has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Isa(pub(crate) Level);

/// The proof tokens behind [`Isa`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Scalar(Scalar),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "aarch64")]
    Neon(Neon<Base>),
    #[cfg(target_arch = "aarch64")]
    NeonDotProd(Neon<DotProd>),
    #[cfg(target_arch = "aarch64")]
    NeonI8mm(Neon<I8mm>),
}

impl Isa {
    /// Plain Rust, on any CPU: the specification of all results.
    pub fn scalar() -> Isa {
        Isa(Level::Scalar(Scalar))
    }

    /// The fastest one.
    pub fn detect() -> Isa {
        Isa::all_available().pop().unwrap_or_else(Isa::scalar)
    }

    /// All that this CPU has, from the slowest (scalar) to the fastest.
    pub fn all_available() -> Vec<Isa> {
        let all = [
            Some(Level::Scalar(Scalar)),
            #[cfg(target_arch = "x86_64")]
            Avx2::detect().map(Level::Avx2),
            #[cfg(target_arch = "x86_64")]
            Avx512::detect().map(Level::Avx512),
            #[cfg(target_arch = "aarch64")]
            Neon::detect().map(Level::Neon),
            #[cfg(target_arch = "aarch64")]
            Neon::detect().map(Level::NeonDotProd),
            #[cfg(target_arch = "aarch64")]
            Neon::detect().map(Level::NeonI8mm),
        ];
        all.into_iter().flatten().map(Isa).collect()
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Level::Scalar(_) => "scalar",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(_) => "avx512-vnni",
            #[cfg(target_arch = "aarch64")]
            Level::Neon(_) => "neon",
            #[cfg(target_arch = "aarch64")]
            Level::NeonDotProd(_) => "neon-dotprod",
            #[cfg(target_arch = "aarch64")]
            Level::NeonI8mm(_) => "neon-i8mm",
        })
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Isa({self})")
    }
}

/// An operation that is written once and compiled for each instruction set.
///
/// `run` must be `#[inline(always)]`, so that it ends up inside the one function that has the features enabled.
pub(crate) trait Op {
    /// Does the operation with the lanes of an instruction set.
    fn run<L: crate::arch::Lanes>(self, lanes: L);
}

impl Isa {
    /// Runs an operation compiled for this instruction set.
    pub(crate) fn run(self, op: impl Op) {
        match self.0 {
            Level::Scalar(lanes) => op.run(lanes),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(lanes) => lanes.run(op),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(lanes) => lanes.run(op),
            #[cfg(target_arch = "aarch64")]
            Level::Neon(lanes) => lanes.run(op),
            #[cfg(target_arch = "aarch64")]
            Level::NeonDotProd(lanes) => lanes.run(op),
            #[cfg(target_arch = "aarch64")]
            Level::NeonI8mm(lanes) => lanes.run(op),
        }
    }
}
