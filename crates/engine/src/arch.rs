//! The architectures: one file each, and one line here.
//!
//! An architecture says which hyper-parameters and tensors it has, and composes its layer from the operations
//! of [`Step`]. The block that Llama and its relatives share is in [`pre_norm`].

mod llama;
mod phi3;
mod pre_norm;
mod qwen2;
mod qwen3;

use crate::hparams::Keys;
use crate::step::Step;
use crate::weights::{LayerWeights, RopeDivisors, Tensors};
use crate::{Error, Hparams};

/// How to read and to compute one kind of model.
#[derive(Debug)]
pub(crate) struct Architecture {
    /// The value of `general.architecture`.
    pub(crate) name: &'static str,
    /// Reads and checks the hyper-parameters.
    pub(crate) hparams: fn(&Keys<'_>) -> Result<Hparams, Error>,
    /// Finds the divisors of the rotation frequencies.
    pub(crate) rope_divisors: fn(&Hparams, &mut Tensors<'_>) -> Result<RopeDivisors, Error>,
    /// Finds the tensors of the layer that was entered.
    pub(crate) layer: fn(&Hparams, &mut Tensors<'_>) -> Result<LayerWeights, Error>,
    /// Adds attention to the residual stream.
    pub(crate) attention: fn(&mut Step<'_, '_>, &LayerWeights),
    /// Adds the feed-forward network to the residual stream.
    pub(crate) feed_forward: fn(&mut Step<'_, '_>, &LayerWeights),
}

const ARCHITECTURES: [&Architecture; 4] =
    [&llama::LLAMA, &qwen2::QWEN2, &qwen3::QWEN3, &phi3::PHI3];

/// The architectures that run, as `general.architecture` of a GGUF names them.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    ARCHITECTURES.into_iter().map(|architecture| architecture.name)
}

impl Architecture {
    /// Finds an architecture by name.
    pub(crate) fn named(name: &str) -> Result<&'static Self, Error> {
        let found = ARCHITECTURES.into_iter().find(|architecture| architecture.name == name);
        found.ok_or_else(|| Error::UnknownArchitecture {
            known: ARCHITECTURES.map(|architecture| architecture.name).join(", "),
            found: name.to_owned(),
        })
    }
}
